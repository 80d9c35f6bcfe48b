"""File systems that are small or read-only, for tests of several rooms; skipped where nothing can be mounted."""

import contextlib
import os
import shutil
import subprocess

import pytest


class SmallDisk:
    """A file system in memory.

    Args:
        path: Where it is mounted.
    """

    def __init__(self, path):
        self.path = path
        self._filler = path / "filler"

    def fill(self):
        """Write until there is no room left."""
        with contextlib.suppress(OSError), open(self._filler, "ab", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def free(self):
        """Give the room back."""
        self._filler.unlink()


@pytest.fixture
def mounted(tmp_path):
    """Return a function that calls mount(8) for a directory that it makes if need be; unmounted at the end."""
    places = []

    def mount(*options, place):
        if shutil.which("mount") is None:
            pytest.skip("there is no mount here")
        place.mkdir(exist_ok=True)
        done = subprocess.run(["mount", *options, str(place)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"nothing can be mounted here (needs root): {done.stderr.strip()}")
        places.append(place)
        return place

    yield mount
    for place in reversed(places):
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def small_disk(mounted, tmp_path):
    """Return a function that makes a file system of so many KiB."""
    return lambda kib: SmallDisk(mounted("-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", place=tmp_path / "disk"))


@pytest.fixture
def read_only(mounted):
    """Return a function from here on which a directory and all in it cannot be written any more."""

    def close(path):
        if os.geteuid():
            path.chmod(0o500)
            for each in path.rglob("*"):
                each.chmod(0o500 if each.is_dir() else 0o400)
            return
        mounted("--bind", str(path), place=path)
        subprocess.run(["mount", "-o", "remount,ro,bind", str(path)], check=True)

    return close
