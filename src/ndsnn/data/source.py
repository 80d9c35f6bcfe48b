"""What a data set has to offer, and the registry of those that there are."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from ndsnn.data.images import ImageSet, Statistics
from ndsnn.errors import DataError, NdsnnError
from ndsnn.registry import Registry

Progress = Callable[[str, int, int | None], None]
"""Called with what is being done, how much is done (bytes or images) and how much there is, if known."""


class Description(NamedTuple):
    """What is known of a data set without reading it; None where the files decide."""

    train_images: int | None
    test_images: int | None
    classes: int | None
    channels: int | None
    size: tuple[int, int] | None


class DataSource(ABC):
    """One data set, of images or of events: where it is looked for and how it is got.

    Attributes:
        name: Name in `SOURCES`.
        how_to_get: One sentence for somebody who does not have the files.
        downloadable: Whether `prepare` can fetch it.
        needs_root: Whether the user has to say where the data is.
        default_size: Size that `load` resizes to unless told otherwise; None keeps that of the files.
        statistics: Normalisation constants; None computes them from the training part.
    """

    name: str
    how_to_get: ClassVar[str]
    downloadable: ClassVar[bool] = False
    needs_root: ClassVar[bool] = False
    default_size: ClassVar[tuple[int, int] | None] = None
    statistics: Statistics | None = None

    @abstractmethod
    def describe(self) -> Description:
        """Say how many images, classes, channels and pixels the data set has."""

    @abstractmethod
    def where(self, root: Path) -> tuple[str, ...]:
        """List the places looked in, in order."""

    @abstractmethod
    def missing(self, root: Path) -> tuple[str, ...]:
        """List what is not there; empty when the data set can be loaded. Looks at names only."""

    @abstractmethod
    def prepare(self, root: Path, progress: Progress) -> Any:
        """Download what is missing where that is possible, verify it, and decode it if it has to be.

        Raises:
            DataError: A file is missing, corrupt or mislabelled, or a download failed.
        """

    @abstractmethod
    def class_names(self, root: Path) -> tuple[str, ...]:
        """Name the classes in the order of the labels."""

    def found(self, root: Path) -> str:
        """Say which of the places is used; called only when nothing is missing."""
        return self.where(root)[0]

    def can_prepare(self, root: Path) -> bool:
        """Say whether what is there only has to be decoded by `prepare`."""
        return False

    def missing_error(self, root: Path) -> NdsnnError:
        """Build the error for what is missing: what, where it was looked for, and how to get it."""
        absent = self.missing(root)
        listed = ", ".join(absent[:4]) + (f" and {len(absent) - 4} more" if len(absent) > 4 else "")
        return DataError(
            f"data set {self.name!r} is not complete: {listed} not found; "
            f"looked in {', '.join(self.where(root))}; run `ndsnn data prepare {self.name}`. {self.how_to_get}"
        )


class Source(DataSource):
    """One data set of images: also how it is read."""

    @abstractmethod
    def load_train(self, root: Path, size: tuple[int, int] | None, channels: int | None) -> ImageSet:
        """Read the official training images.

        Args:
            root: Folder of the data.
            size: (H, W) asked for; needed only where the files differ in size, otherwise the caller resizes.
            channels: Channels asked for; needed only where the files decide.

        Raises:
            DataError: A file is missing, truncated, corrupt or mislabelled.
        """

    @abstractmethod
    def load_test(self, root: Path, size: tuple[int, int] | None, channels: int | None) -> ImageSet:
        """Read the official test images; arguments and errors as for `load_train`."""


SOURCES: Registry[DataSource] = Registry("data set")
"""All data sets by name."""


def data_root(root: str | Path | None = None) -> Path:
    """Folder of the data: `root` if given, else `$NDSNN_DATA`, else `~/.cache/ndsnn/data`."""
    chosen = root or os.environ.get("NDSNN_DATA") or Path("~/.cache/ndsnn/data")
    return Path(chosen).expanduser()
