"""CIFAR10-DVS: images of CIFAR-10 moved in front of an event camera (Li et al., 2017)."""

from __future__ import annotations

import re
from pathlib import Path

from ndsnn.config import EventConfig
from ndsnn.data.arrays import Part
from ndsnn.data.events import trees
from ndsnn.data.events.formats import read_aedat2_dvs128
from ndsnn.data.events.recording import Sensor
from ndsnn.data.events.source import EventSource, Recordings
from ndsnn.data.samples import drawn_order
from ndsnn.data.source import SOURCES
from ndsnn.data.trees import Tree
from ndsnn.errors import DataError

_FILE = re.compile(r"[^/]*?([0-9]+)\.aedat")
_FILE_LIMIT = 64 << 20
_TENTH = 10


class Cifar10Dvs(EventSource):
    """1,000 recordings of each class, 128×128 pixels, `<class>/cifar10_<class>_<number>.aedat`.

    There is no official test set. Divisions within each class, a tenth of which is for testing:

    - "sorted-900": the last tenth of the names in the order of the alphabet (…_98, …_980, …), as SpikingJelly's
      `split_to_train_test_set(0.9, …)` takes it and most papers with it.
    - "first-900": numbers 0–899 train, 900–999 test.
    - "last-900": numbers 100–999 train, 0–99 test, as in TEBN (Duan et al., 2022); accuracies are higher.
    - "random-900": a tenth drawn by test_seed.
    """

    name = "cifar10-dvs"
    how_to_get = (
        "Get the ten archives airplane.zip … truck.zip from https://figshare.com/articles/dataset/CIFAR10-DVS_New/"
        "4724671 and put them, or the folders that they hold, into the folder cifar10-dvs below the data root."
    )
    sensor = Sensor(128, 128, 2)
    usual = EventConfig(frames=10, split_by="count", split="sorted-900", flip=True, roll=5)
    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    recordings = (9_000, 1_000)
    splits = ("sorted-900", "first-900", "last-900", "random-900")

    def files_missing(self, root: Path) -> tuple[str, ...]:
        """List which of the ten folders or archives are not there."""
        return tuple(f"{name}.zip" for name in self.classes if not trees.is_there(self.folder(root), name))

    def listing(self, root: Path) -> str:
        """Hash names and sizes."""
        return trees.listing(self.folder(root), self.classes)

    def open(self, root: Path, settings: EventConfig) -> Recordings:
        """List the recordings, divided as `settings.split` says."""
        opened = {name: trees.folder_or_zip(self.folder(root), name, _FILE_LIMIT) for name in self.classes}
        names = {name: _numbered(tree) for name, tree in opened.items()}
        files: dict[str, list[str]] = {"train": [], "test": []}
        labels: dict[str, list[int]] = {"train": [], "test": []}
        for label, top in enumerate(self.classes):
            if len(names[top]) < 2:
                raise DataError(
                    f"{opened[top].locate('')} has one recording; a class needs one to train and one to test"
                )
            tested = held_out(names[top], str(settings.split), settings.test_seed or 0, label)
            for name in names[top]:
                part = "test" if name in tested else "train"
                files[part].append(f"{top}/{name}")
                labels[part].append(label)
        parts = {part: Part(files[part], labels[part]) for part in files}
        return trees.recordings(opened, names, parts, self.classes, read_aedat2_dvs128)


def held_out(names: list[str], split: str, seed: int, label: int) -> set[str]:
    """Choose the test recordings of a class.

    Args:
        names: Of its recordings, in the order of their numbers; at least 2.
        split: Name of the division.
        seed: Of "random-900".
        label: Of the class, so that each is drawn by itself.

    Returns:
        A tenth of them, rounded down, but one at least.
    """
    count = max(1, len(names) // _TENTH)
    if split == "sorted-900":
        return set(sorted(names)[-count:])
    if split == "first-900":
        return set(names[-count:])
    if split == "last-900":
        return set(names[:count])
    return {names[row] for row in drawn_order(len(names), [seed, label])[:count]}


def _numbered(tree: Tree) -> list[str]:
    """List the recordings of a class in the order of the numbers in their names."""
    numbers: dict[str, int] = {}
    for name in trees.visible(tree):
        found = _FILE.fullmatch(name)
        if found is None:
            raise DataError(f"{tree.locate(name)} is no recording (…NUMBER.aedat); remove it")
        numbers[name] = int(found.group(1))
    if len(set(numbers.values())) < len(numbers):
        raise DataError(f"{tree.locate('')} has two recordings of one number; the division goes by the numbers")
    return trees.require_some(
        sorted(numbers, key=lambda name: numbers[name]), tree.locate(""), "recordings (*.aedat)"
    )


SOURCES.register("cifar10-dvs")(Cifar10Dvs())
