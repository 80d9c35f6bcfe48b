"""Fuzz readers and native code for some time: `make fuzz MINUTES=20`, or `python tests/fuzz/fuzz.py --help`.

Where atheris is installed (extra "fuzz"), inputs go by coverage of the Python code, and of the native code if
Clang has built it for that; elsewhere good files are changed at random. Each target runs in a process of its own.
What ends one is a finding: its input is put into tests/fuzz/corpus/, where the tests replay it.
"""

import argparse
import hashlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from itertools import count
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(HERE.parent / "data")]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help="which targets (default: all)")
    parser.add_argument("--minutes", type=float, default=10.0, help="in all (default: 10)")
    parser.add_argument(
        "--native-share", type=float, default=0.4, help="of the time for native code (default: 0.4)"
    )
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "fuzz-work", help="folder for what is found")
    parser.add_argument(
        "--native-module", type=Path, help="the extension with sanitizers; without, none of it is run"
    )
    parser.add_argument("--native-preload", default="", help="libraries that it needs before Python")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    options = arguments()
    if options.one:
        return run_one(options.one, options.seconds, options.work)
    from fuzz_readers import TARGETS

    known = [*TARGETS, *(["native"] if options.native_module else [])]
    chosen = options.targets or known
    if unknown := [name for name in chosen if name not in known]:
        print(f"there is no target {unknown[0]}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    share = 0.0 if "native" not in chosen else 1.0 if len(chosen) == 1 else options.native_share
    readers = len(chosen) - ("native" in chosen)
    rows = []
    for name in chosen:
        part = share if name == "native" else (1 - share) / readers
        rows.append(fuzz(name, 60 * options.minutes * part, options))
        print(row_text(rows[-1]), flush=True)
    executions, findings = (sum(row[key] for row in rows) for key in ("executions", "findings"))
    print(f"{executions:,} executions of {len(rows)} targets, {findings} findings")
    (options.work / "results.json").write_text(json.dumps(rows, indent=1) + "\n")
    return 1 if findings else 0


def fuzz(name: str, seconds: float, options: argparse.Namespace) -> dict:
    """Run a target until its time is over, again after each finding; return what came of it."""
    work = options.work / name
    shutil.rmtree(work, ignore_errors=True)
    (work / "inputs").mkdir(parents=True)
    (work / "found").mkdir()
    row = {"target": name, "executions": 0, "findings": 0, "coverage": None, "seconds": 0.0}
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 1 and row["findings"] < 5:
        command = [
            sys.executable,
            __file__,
            "--one",
            name,
            "--seconds",
            f"{left:.0f}",
            "--work",
            str(options.work),
        ]
        began = time.monotonic()
        with open(work / "log", "ab") as log:
            code = subprocess.run(
                command, env=environment(name, options), stdout=log, stderr=log, check=False
            ).returncode
        row["seconds"] = round(row["seconds"] + time.monotonic() - began, 1)
        text = (work / "log").read_text(errors="replace")
        row["executions"] = sum(map(int, re.findall(r"(?:executed_units:|executions) +(\d+)", text)))
        found = re.findall(r" cov: (\d+)", text)
        row["coverage"] = int(found[-1]) if found else None
        if code == 0:
            break
        row["findings"] += 1
        keep(name, work)
    return row


def environment(name: str, options: argparse.Namespace) -> dict[str, str]:
    extra = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
    if name == "native":
        extra |= {
            "OMP_NUM_THREADS": "2",
            "NDSNN_NATIVE_MODULE": str(options.native_module),
            "LD_PRELOAD": options.native_preload,
            "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:max_allocation_size_mb=4096",
            "UBSAN_OPTIONS": "print_stacktrace=1",
        }
    return os.environ | extra


def keep(name: str, work: Path) -> None:
    """Put the input that ended a process into the corpus."""
    folder = HERE / "corpus" / name
    folder.mkdir(parents=True, exist_ok=True)
    for path in [*(work / "found").glob("crash-*"), *(work / "found").glob("timeout-*"), work / "current"]:
        if path.is_file():
            data = path.read_bytes()
            target = folder / f"found-{hashlib.sha256(data).hexdigest()[:12]}"
            target.write_bytes(data)
            path.unlink()
            print(f"FINDING in {name}: {target}; see {work / 'log'}", flush=True)
            return


def run_one(name: str, seconds: float, work: Path) -> int:
    """Fuzz one target in this process."""
    # The finder of an editable install would hand modules over as they are; src is on the path.
    sys.meta_path[:] = [finder for finder in sys.meta_path if "Redirecting" not in type(finder).__name__]
    try:
        import atheris
    except ImportError:
        return run_mutants(name, seconds, work / name)
    with atheris.instrument_imports(include=["ndsnn", "fuzz_readers", "fuzz_native"]):
        target = load(name)
    from fuzz_seeds import seeds

    for number, data in enumerate(seeds(name)):
        (work / name / "inputs" / f"seed-{number}").write_bytes(data)
    atheris.Setup(
        [
            sys.argv[0],
            f"-max_total_time={seconds:.0f}",
            "-timeout=60",
            "-rss_limit_mb=6000",
            "-max_len=20000",
            "-print_final_stats=1",
            f"-artifact_prefix={work / name / 'found'}/",
            str(work / name / "inputs"),
        ],
        target,
    )
    atheris.Fuzz()
    return 0


def run_mutants(name: str, seconds: float, work: Path) -> int:
    from fuzz_mutate import mutants
    from fuzz_seeds import seeds

    target, good, end, done = load(name), seeds(name), time.monotonic() + seconds, 0
    for batch in count(int(time.time())):
        for data in mutants(good, 200, batch):
            (work / "current").write_bytes(data)
            try:
                target(data)
            finally:
                done += 1
            if time.monotonic() > end:
                (work / "current").unlink()
                print(f"executions {done}")
                return 0
    return 0


def load(name: str):
    if name == "native":
        return importlib.import_module("fuzz_native").native
    return importlib.import_module("fuzz_readers").TARGETS[name]


def row_text(row: dict) -> str:
    coverage = "" if row["coverage"] is None else f", {row['coverage']:,} edges"
    return (
        f"{row['target']}: {row['executions']:,} executions in {row['seconds']:.0f} s{coverage}, "
        f"{row['findings']} findings"
    )


if __name__ == "__main__":
    sys.exit(main())
