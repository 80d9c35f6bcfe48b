"""What `ndsnn export` is given: a run or a sparse file, opened as a network that can be folded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from ndsnn.config import TrainConfig
from ndsnn.data.events import EventSource
from ndsnn.data.events.framing import framing_of
from ndsnn.data.images import Statistics
from ndsnn.data.samples import SplitData
from ndsnn.data.source import SOURCES, Source
from ndsnn.errors import CheckpointError, DataError, ExportError, MissingDependencyError
from ndsnn.interop.export.folding import fold
from ndsnn.interop.export.network import FoldedNetwork
from ndsnn.sparse.storage import build_network, load
from ndsnn.training.build import build_model, load_data, resolve_data
from ndsnn.training.checkpoint import Checkpoint, load_checkpoint, network_tensors
from ndsnn.training.inspect import network_of, open_run
from ndsnn.training.saved_state import state_problem


@dataclass(frozen=True)
class ExportSource:
    """An opened network.

    Args:
        path: The run directory or file.
        net: The network, masked, in evaluation mode.
        epoch: The epoch it is of; None of a file.
        config: Of the run; None of a file.
        image_size: Height and width of its input, None where nothing says so.
        statistics: Mean and standard deviation by which the run normalised its images, None where not known.
        notes: What was wrong with newer checkpoints that had to be passed over.
        events: Whether the run's data are events, so that the network takes frames [T, N, C, H, W].
    """

    path: Path
    net: nn.Module
    epoch: int | None = None
    config: TrainConfig | None = None
    image_size: tuple[int, int] | None = None
    statistics: Statistics | None = None
    notes: tuple[str, ...] = ()
    events: bool = False

    @property
    def in_channels(self) -> int:
        """Channels of the input.

        Raises:
            ExportError: The network has no convolution.
        """
        architecture = getattr(self.net, "build_config", None)
        if architecture is not None:
            return int(architecture["kwargs"]["in_channels"])
        for module in self.net.modules():
            if isinstance(module, nn.Conv2d):
                return module.in_channels
        raise ExportError(f"the network of {self.path} has no convolution that takes images")

    def folded(self) -> FoldedNetwork:
        """Return the deployable network for the images or events it was trained on.

        Raises:
            ExportError: The size of the input is not known, or the network cannot be folded.
        """
        if self.image_size is None:
            raise ExportError(f"{self.path} does not say how large its images are; give --image-size H W")
        return fold(self.net, (self.in_channels, *self.image_size), events=self.events)

    def load_images(self, data_root: str | None = None) -> SplitData:
        """Load the images that the run was trained with.

        Args:
            data_root: Folder of the data, where it is not the one in the run's configuration.

        Raises:
            ExportError: This is a file, not a run, or a run on events.
            DataError: The images cannot be read.
        """
        if self.config is None:
            raise ExportError(f"{self.path} is no run, so it does not say which images go with it; name the run")
        if self.events:
            raise ExportError(f"the run in {self.path} was trained on events, not on images")
        place = self.config.data if data_root is None else replace(self.config.data, root=data_root)
        return load_data(replace(self.config, data=place))


def open_source(path: Path, which: str = "best", image_size: tuple[int, int] | None = None) -> ExportSource:
    """Open a run directory, or a file that `ndsnn.save` wrote of a network of `ndsnn.models`.

    Args:
        path: The run directory or .safetensors file.
        which: Network of a run: "best" or "last".
        image_size: Height and width of the input; None takes those of the run's images.

    Raises:
        RunError: There is nothing of that name, or the run has no best network yet.
        CheckpointError: The network cannot be read, or the file does not say how it is built.
    """
    if path.is_file():
        return ExportSource(path, load(path).eval(), image_size=image_size)
    run, config = open_run(path)
    checkpoint = load_checkpoint(run.checkpoints, state_problem)
    net, epoch = network_of(run, which, checkpoint, _built(checkpoint, config))
    events = not isinstance(SOURCES[config.data.name], Source)
    found_size, statistics = (_frame_size(config), None) if events else _images(config)
    return ExportSource(
        path, net.eval(), epoch, config, image_size or found_size, statistics, tuple(checkpoint.skipped), events
    )


def _built(checkpoint: Checkpoint, config: TrainConfig) -> nn.Module:
    """Build the network of a run; from its images' classes and channels where the checkpoint does not say how."""
    header = checkpoint.state["network"]
    if header.get("architecture") is None:
        images = load_data(config)
        return build_model(config.model, images.num_classes, images.channels, images.image_size)
    try:
        return build_network(network_tensors(checkpoint), header)
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from error


def _frame_size(config: TrainConfig) -> tuple[int, int] | None:
    """Return height and width of the frames of a run on events; None for a data set of the user's own."""
    source = SOURCES[config.data.name]
    if not isinstance(source, EventSource):
        return None
    _, _, height, width = framing_of(resolve_data(config).events).shape(source.sensor)
    return height, width


def _images(config: TrainConfig) -> tuple[tuple[int, int] | None, Statistics | None]:
    """Return size and statistics of a run's images, from the images themselves only where nothing else says so."""
    source, side = SOURCES[config.data.name], config.data.image_size
    size = (side, side) if side else source.default_size or source.describe().size
    if size is not None and source.statistics is not None:
        return size, source.statistics
    try:
        images = load_data(config)
    except (DataError, MissingDependencyError):
        return size, source.statistics
    return images.image_size, Statistics(images.mean, images.std)
