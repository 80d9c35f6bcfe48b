"""scikit-learn's handwritten digits: 1,797 images inside the package, for the demo and for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ndsnn.data.images import ImageSet, check_labels, split_rows
from ndsnn.data.source import SOURCES, Description, Progress, Source
from ndsnn.errors import MissingDependencyError, NdsnnError

TEST_FRACTION = 0.2
TEST_SEED = 20230709
"""digits has no official test set: this seed draws ours, whatever the seeds of a run are."""

_MAX_INK = 16


class Digits(Source):
    """8×8 grey images of ten digits, shown at 16×16; a fixed 20 % of them is the test set."""

    name = "digits"
    how_to_get = "It comes with scikit-learn: pip install 'ndsnn[demo]'."
    default_size = (16, 16)

    def describe(self) -> Description:
        """Say how many images, classes, channels and pixels the data set has."""
        return Description(train_images=1438, test_images=359, classes=10, channels=1, size=(8, 8))

    def where(self, root: Path) -> tuple[str, ...]:
        """Name the package that holds the data."""
        return ("scikit-learn (sklearn.datasets)",)

    def missing(self, root: Path) -> tuple[str, ...]:
        """List scikit-learn if it cannot be imported."""
        return () if _datasets() else ("scikit-learn",)

    def prepare(self, root: Path, progress: Progress) -> None:
        """Check that scikit-learn is there.

        Raises:
            MissingDependencyError: It is not.
        """
        if self.missing(root):
            raise self.missing_error(root)

    def load_train(self, root: Path, size: tuple[int, int] | None, channels: int | None) -> ImageSet:
        """Read the 80 % that are not the test set."""
        return self._part(0)

    def load_test(self, root: Path, size: tuple[int, int] | None, channels: int | None) -> ImageSet:
        """Read the 20 % drawn by `TEST_SEED`."""
        return self._part(1)

    def class_names(self, root: Path) -> tuple[str, ...]:
        """Name the digits."""
        return tuple("0123456789")

    def missing_error(self, root: Path) -> NdsnnError:
        """Build the error for a missing scikit-learn."""
        return MissingDependencyError("data set 'digits' needs scikit-learn; run: pip install 'ndsnn[demo]'")

    def _part(self, index: int) -> ImageSet:
        datasets = _datasets()
        if datasets is None:
            raise self.missing_error(Path())
        bunch = datasets.load_digits()
        pixels, labels = bunch.images, bunch.target
        check_labels(labels, 10, "scikit-learn's digits")
        scaled = np.round(pixels * (255 / _MAX_INK)).astype(np.uint8)[:, None]
        whole = ImageSet(torch.from_numpy(scaled), torch.from_numpy(labels.astype(np.int64)))
        return whole.take(split_rows(len(whole), TEST_FRACTION, TEST_SEED)[index])


def _datasets() -> Any:
    try:
        import sklearn.datasets
    except ImportError:
        return None
    return sklearn.datasets


SOURCES.register("digits")(Digits())
