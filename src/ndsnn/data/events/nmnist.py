"""N-MNIST: MNIST's digits seen by a moving event camera (Orchard et al., 2015)."""

from __future__ import annotations

import re
from pathlib import Path

from ndsnn.config import EventConfig
from ndsnn.data.arrays import Part
from ndsnn.data.events import trees
from ndsnn.data.events.formats import read_aer40
from ndsnn.data.events.recording import Sensor
from ndsnn.data.events.source import EventSource, Recordings
from ndsnn.data.source import SOURCES
from ndsnn.data.trees import Tree
from ndsnn.errors import DataError

_TOPS = {"train": "Train", "test": "Test"}
_FILE = re.compile(r"([0-9])/[^/]+\.bin")
_FILE_LIMIT = 4 << 20


class NMnist(EventSource):
    """60,000 and 10,000 recordings of 0.3 s, 34×34 pixels; `Train/<digit>/*.bin` and `Test/<digit>/*.bin`."""

    name = "nmnist"
    how_to_get = (
        "Get Train.zip and Test.zip from https://www.garrickorchard.com/datasets/n-mnist and put them, or the "
        "folders Train and Test that they hold, into the folder nmnist below the data root."
    )
    sensor = Sensor(34, 34, 2)
    usual = EventConfig(frames=10, split_by="count")
    classes = tuple("0123456789")
    recordings = (60_000, 10_000)
    no_flip = "a mirrored digit is not that digit"

    def files_missing(self, root: Path) -> tuple[str, ...]:
        """List which of the two folders or archives are not there."""
        folder = self.folder(root)
        return tuple(f"{top}.zip" for top in _TOPS.values() if not trees.is_there(folder, top))

    def listing(self, root: Path) -> str:
        """Hash names and sizes."""
        return trees.listing(self.folder(root), _TOPS.values())

    def open(self, root: Path, settings: EventConfig) -> Recordings:
        """List the recordings; a file at another place than <digit>/*.bin is an error."""
        opened = {top: trees.folder_or_zip(self.folder(root), top, _FILE_LIMIT) for top in _TOPS.values()}
        names = {top: _names(tree) for top, tree in opened.items()}
        parts = {
            part: Part([f"{top}/{name}" for name in names[top]], [int(name[0]) for name in names[top]])
            for part, top in _TOPS.items()
        }
        return trees.recordings(opened, names, parts, self.classes, read_aer40)


def _names(tree: Tree) -> list[str]:
    names = trees.visible(tree)
    for name in names:
        if not _FILE.fullmatch(name):
            raise DataError(f"{tree.locate(name)} is not labelled: recordings lie at DIGIT/NAME.bin; remove it")
    return trees.require_some(names, tree.locate(""), "recordings (DIGIT/NAME.bin)")


SOURCES.register("nmnist")(NMnist())
