"""The command `ndsnn report`: its options, and what it prints."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_report(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `report`."""
    parser.add_argument(
        "runs", type=Path, nargs="+", metavar="RUNS", help="run directories, or folders that contain some"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="where the report goes")
    parser.add_argument("--title", help="title of the report")
    parser.add_argument(
        "--reference", metavar="METHOD", help="method that all others are compared with (default: ndsnn)"
    )
    parser.add_argument("--date", default="", metavar="TEXT", help="a date to print; there is none otherwise")
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    parser.set_defaults(command=report)


def report(options: argparse.Namespace) -> int:
    """Write a report and say what is in it."""
    from ndsnn.evaluation.report.directory import require_free
    from ndsnn.evaluation.report.report import DEFAULT_TITLE, PAGE, build_report, to_json, write_report

    require_free(options.output)
    title = DEFAULT_TITLE if options.title is None else options.title
    made = build_report(options.runs, title, options.reference, options.date)
    files = write_report(made, options.output)
    for problem in made.study.problems:
        print(f"ndsnn: warning: {problem.run}: {problem.reason}", file=sys.stderr)
    if options.json:
        print(to_json(made, options.output, files))
        return 0
    for part in made.left_out:
        print(f"left out: {part.title}: {part.reason}")
    print(f"{made.overview}\n{len(made.tables)} tables, {len(made.figures)} figures: {options.output / PAGE}")
    return 0
