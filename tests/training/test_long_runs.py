"""Short versions of benchmarks/kill_runs.py and benchmarks/soak.py; docs/reliability.md has the whole counts."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(script, *arguments):
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / script), *arguments], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="forks after its imports")
def test_killed_runs_end_with_the_bits_of_one_left_alone():
    said = run("kill_runs.py", "--kills", "3", "--epochs", "2", "--seed", "3")
    assert "3 kills of" in said
    runs, equal, of = re.search(r"(\d+) runs, [\s\S]*?(\d+) of (\d+) runs ended bit-equal", said).groups()
    assert runs == equal == of
    assert "LOST" not in said


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_run_with_frequent_rewiring_does_not_grow():
    said = run("soak.py", "--seconds", "15", "--every", "0.2")
    updates = int(re.search(r"(\d+) topology updates", said).group(1))
    assert updates > 20
    assert "connections: 0 deviations" in said
    assert said.endswith("PASS\n")
