"""What the tests of the bench share: a network of a second, and a reason to skip."""

import contextlib
import io
import json

import pytest

from ndsnn.cli import main
from ndsnn.engine import library

needs_native = pytest.mark.skipif(not library.available(), reason=library.unavailable_reason())

TINY = [
    "bench", "--width", "0.1", "--batch", "2", "--rounds", "1", "--image-size", "16", "--time-steps", "2",
    "--threads", "1",
]  # fmt: skip


def bench_json(*arguments):
    """Run `ndsnn bench --json` on tiny networks; return what it prints."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main([*TINY, *arguments, "--json"]) == 0
    return json.loads(printed.getvalue())
