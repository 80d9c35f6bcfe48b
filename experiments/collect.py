"""Copy what can be told of finished runs into a folder that is small enough to keep: no checkpoints.

    python experiments/collect.py runs/fashion -o results/fashion/runs

`ndsnn report` reads such a folder like the runs themselves. Runs that are there already are compared, and an
altered one is an error: a result does not change once it is kept. Start the sweep with a relative -o: its path
stands in each run's settings.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ndsnn.atomic import replaced_directory
from ndsnn.training.run_directory import CONFIG, METRICS, ROUNDS, SUMMARY, TOPOLOGY

KEPT = (CONFIG, SUMMARY, METRICS, TOPOLOGY)


def kept_files(run: Path) -> dict[Path, bytes]:
    """Return the files of a run, and of its rounds if it has any, by their path within it.

    Runs of before files had checksums may name a folder of their machine; it is left out.
    """
    here = f"{run.parent.absolute()}/".encode()
    parts = [run, *sorted(path for path in run.glob(f"{ROUNDS}/*") if path.is_dir())]
    paths = [part / name for part in parts for name in KEPT if (part / name).is_file()]
    files = {path.relative_to(run): path.read_bytes() for path in paths}
    return {path: data if b"sha256" in data else data.replace(here, b"") for path, data in files.items()}


def collect(run: Path, target: Path) -> bool:
    """Copy one run; say whether it is new."""
    files = kept_files(run)
    if target.exists():
        if kept_files(target) != files:
            raise SystemExit(f"{target} is not what {run} says; move one of them away")
        return False
    with replaced_directory(target) as new:
        for path, content in files.items():
            (new / path).parent.mkdir(parents=True, exist_ok=True)
            (new / path).write_bytes(content)
    return True


def main() -> None:
    """Read the command line and collect."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="directory of a sweep")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder to keep them in")
    options = parser.parse_args()
    finished = sorted(path.parent for path in options.sweep.glob(f"*/{SUMMARY}"))
    if not finished:
        sys.exit(f"there is no finished run in {options.sweep}")
    options.output.mkdir(parents=True, exist_ok=True)
    new = sum(collect(run, options.output / run.name) for run in finished)
    print(f"{new} new, {len(finished) - new} there already, in {options.output}")


if __name__ == "__main__":
    main()
