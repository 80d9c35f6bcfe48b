"""The settings of a run: frozen dataclasses, filled from YAML and the command line by the same names."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal

from ndsnn.errors import ConfigError
from ndsnn.neurons import LIFParameters

Setting = int | float | bool | str

DEFAULT_FINAL_SPARSITY = 0.95
"""θf where it is left open, for every method but dense."""

LARGEST = {"seed": 2**63 - 1, "threads": 4096, "data.image_size": 4096, "data.split_seed": 2**63 - 1}
"""Upper bounds of settings that would fail deep inside a library."""


@dataclass(frozen=True)
class EventConfig:
    """How recordings of events become frames, for data sets of events only; a null takes what is usual there.

    Args:
        frames: T, the frames of a recording; it must equal model.time_steps.
        split_by: Whether frames are cut by "time" or by the "count" of events.
        per_frame: Microseconds ("time") or events ("count") of a frame, the rest is left out; 0 divides the whole
            recording into equal frames.
        start: Whether frames of fixed duration begin with the "first" event or at time "zero".
        remainder: Whether events that fill no whole frame are put into the last one ("keep") or left out ("drop").
        downsample: Side of the squares of pixels that are added up to one.
        max_count: Counts above are cut to it; 1 makes frames of zeros and ones, 0 cuts nothing.
        sort: Whether events that are not in the order of time are sorted; otherwise they are an error.
        split: Name of the division into training and test recordings, where there is no official one.
        test_seed: Draws the test recordings of a random split.
        flip: Whether training frames are mirrored left to right with probability 1/2.
        roll: Most pixels by which they are rolled in x and in y, around the border.
        shift: Most pixels by which they are shifted in x and in y, zeros behind.
        drop: Share of the events that is dropped at random.
        cutout: Side of a square without events, at a random place.
    """

    frames: int | None = None
    split_by: Literal["time", "count"] | None = None
    per_frame: int | None = None
    start: Literal["first", "zero"] | None = None
    remainder: Literal["keep", "drop"] | None = None
    downsample: int | None = None
    max_count: int | None = None
    sort: bool | None = None
    split: str | None = None
    test_seed: int | None = None
    flip: bool | None = None
    roll: int | None = None
    shift: int | None = None
    drop: float | None = None
    cutout: int | None = None


@dataclass(frozen=True)
class DataConfig:
    """Which images.

    Args:
        name: A data set of `ndsnn data list`.
        root: Folder to look in first; None takes $NDSNN_DATA or the user's cache.
        validation_fraction: Part of the training images held out for validation.
        split_seed: Seed of that split, independent of the run's seed.
        image_size: Resize to this height and width; None keeps the data set's own.
        augment: Whether training images are augmented by the data set's recipe.
        events: How recordings become frames, for data sets of events.
    """

    name: str = "digits"
    root: str | None = None
    validation_fraction: float = 0.1
    split_seed: int = 0
    image_size: int | None = None
    augment: bool = True
    events: EventConfig = field(default_factory=EventConfig)


@dataclass(frozen=True)
class ModelConfig:
    """Which network.

    Args:
        name: "vgg" or "mlp" (by `layers`), "vgg16", "resnet19", "resnet19_tdbn" or "lenet5".
        time_steps: T, the simulation steps per image.
        width: Factor on the number of channels.
        layers: Channels of each conv layer of "vgg", "M" for a 2×2 max pool; neurons of each layer of "mlp".
        norm: "bn" or "tdbn" (threshold-dependent); null takes the network's own; "mlp" has none.
        neuron: The neuron behind every hidden layer.
    """

    name: str = "vgg"
    time_steps: int = 4
    width: float = 1.0
    layers: tuple[int | str, ...] | None = None
    norm: str | None = None
    neuron: LIFParameters = field(default_factory=LIFParameters)


@dataclass(frozen=True)
class MethodConfig:
    """How the network is made sparse; a null takes the method's own default.

    Args:
        name: "ndsnn", "ndsnn-random", "ndsnn-lamp", "set", "rigl", "static", "snip", "gmp", "online", "stdp",
            "granet", "dst-ee", "lth", "admm" or "dense", or package.module:Class.
        initial_sparsity: θi at the start; null: 0.7 for ndsnn, 0 for those that start dense (snip, gmp, online,
            stdp, granet, lth and admm), θf for the others.
        final_sparsity: θf at the end; null: 0.95, and 0 for dense.
        distribution: Spread over layers: "erk", "er" or "uniform".
        dense_layers: Glob patterns of layers that stay dense.
        update_every: ΔT, steps between two topology updates.
        start: t0, the step at which the schedule begins.
        stop_fraction: Fraction of the run after which the topology stays.
        death_ratio: d0 of Eq. 5.
        min_death_ratio: d_min of Eq. 5.
        regrow_dropped: Whether a weight may die and be born in one round.
        settings: Further settings of the method by name, such as exploration of dst-ee.
    """

    name: str = "ndsnn"
    initial_sparsity: float | None = None
    final_sparsity: float | None = None
    distribution: str = "erk"
    dense_layers: tuple[str, ...] = ()
    update_every: int | None = None
    start: int | None = None
    stop_fraction: float | None = None
    death_ratio: float | None = None
    min_death_ratio: float | None = None
    regrow_dropped: bool | None = None
    settings: dict[str, Setting] = field(default_factory=dict)


@dataclass(frozen=True)
class TrainConfig:
    """A training run.

    Args:
        data: Which images.
        model: Which network.
        method: How it is made sparse.
        epochs: Passes over the training images.
        batch_size: Images per step, of all processes together where torchrun starts several.
        optimizer: Update rule.
        lr: Learning rate at the start.
        lr_schedule: Cosine to 0 per epoch, or constant.
        momentum: Of sgd.
        weight_decay: L2 penalty (decoupled for adamw).
        loss: Mean over steps of the cross-entropy, cross-entropy of the mean logits, or "tet": the first, and all
            logits pulled towards 1.
        seed: Seed of initial weights, topology, order of images and augmentation.
        engine: What computes: "native" kernels that make every zero count, "reference" for plain PyTorch on masked
            weights, or "auto" for native where this network and machine have it.
        memory: Whether the currents of all layers are kept for the backward pass ("store": fastest) or computed
            again ("recompute": smallest, native engine only); "auto" keeps them where they fit.
        precision: How the native engine keeps currents and gradients between its kernels: in 32 bits, or in 16
            ("mixed": less memory, and each rounded to 11 bits).
        device: "cpu", or "cuda" or "cuda:1" for plain PyTorch on a GPU.
        amp: Autocast of plain PyTorch to 16 bits: "bf16", or "fp16" with a scaled loss, or "off".
        channels_last: Whether plain PyTorch keeps maps with their channels innermost.
        compile: Whether `torch.compile` fuses the neurons' loops over the steps in plain PyTorch.
        threads: CPU threads of a process; null takes PyTorch's default.
        sync_norms: Whether batch norms take the statistics of the whole batch where several processes share it; if
            not, each takes those of its own part, and the running statistics are the mean over all.
        rank_timeout: Seconds after which a process that does not answer the others counts as lost.
        output: Run directory; null makes runs/<data>-<model>-<method>-<sparsity>-seed<seed>.
        resume: Continue the run in `output`.
        overwrite: Delete the run in `output` first.
        checkpoint_every: Also save every so many steps, not only after each epoch.
        dense_run: Directory of a dense run with the same recipe, for the relative training cost.
        tensorboard: Also write TensorBoard events (extra "track").
    """

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    epochs: int = 20
    batch_size: int = 32
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = 0.1
    lr_schedule: Literal["cosine", "constant"] = "cosine"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    loss: Literal["mean_step", "mean_logits", "tet"] = "mean_step"
    seed: int = 0
    engine: Literal["auto", "reference", "native"] = "auto"
    memory: Literal["auto", "store", "recompute"] = "auto"
    precision: Literal["fp32", "mixed"] = "fp32"
    device: str = "cpu"
    amp: Literal["off", "bf16", "fp16"] = "off"
    channels_last: bool = False
    compile: bool = False
    threads: int | None = None
    sync_norms: bool = True
    rank_timeout: int = 300
    output: str | None = None
    resume: bool = False
    overwrite: bool = False
    checkpoint_every: int | None = None
    dense_run: str | None = None
    tensorboard: bool = False

    def __post_init__(self) -> None:
        check_ranges(self)


MACHINE_KEYS = frozenset(
    {
        "data.root",
        "engine",
        "memory",
        "precision",
        "device",
        "amp",
        "channels_last",
        "compile",
        "threads",
        "rank_timeout",
        "output",
        "resume",
        "overwrite",
        "checkpoint_every",
        "tensorboard",
    }
)
"""Settings that say where and how a run is computed, not what: they may change on resume."""


def check_ranges(config: TrainConfig) -> None:
    """Check all that can be checked without data or network.

    Raises:
        ConfigError: A value is out of range or two settings exclude each other.
    """
    at_least_one: dict[str, int | None] = {
        "epochs": config.epochs,
        "rank_timeout": config.rank_timeout,
        "batch_size": config.batch_size,
        "model.time_steps": config.model.time_steps,
        "threads": config.threads,
        "checkpoint_every": config.checkpoint_every,
        "data.image_size": config.data.image_size,
    }
    for key, least in at_least_one.items():
        if least is not None and least < 1:
            raise ConfigError(f"{key} is {least}; it must be at least 1")
    for key, value in {"lr": config.lr, "model.width": config.model.width}.items():
        if not 0 < value < float("inf"):
            raise ConfigError(f"{key} is {value}; it must be a positive number")
    for key, value in {"momentum": config.momentum, "weight_decay": config.weight_decay}.items():
        if not 0 <= value < 1:
            raise ConfigError(f"{key} is {value}; it must be in [0, 1)")
    if config.seed < 0:
        raise ConfigError(f"seed is {config.seed}; it must not be negative")
    flat = flatten(config)
    for key, most in LARGEST.items():
        if flat[key] is not None and flat[key] > most:
            raise ConfigError(f"{key} is {flat[key]}; it must be at most {most}")
    if config.resume and config.overwrite:
        raise ConfigError("resume and overwrite exclude each other; give one of them")
    if config.engine == "reference" and config.memory == "recompute":
        raise ConfigError(
            "memory recompute needs the native engine, not engine reference; use memory auto or store"
        )
    if config.engine == "reference" and config.precision == "mixed":
        raise ConfigError("precision mixed needs the native engine, not engine reference; use precision fp32")
    if config.momentum != TrainConfig.momentum and config.optimizer != "sgd":
        raise ConfigError(f"momentum is a setting of optimizer sgd, not of {config.optimizer}")


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return all settings of a dataclass tree by dotted name."""
    flat: dict[str, Any] = {}
    for item in fields(config):
        value = getattr(config, item.name)
        if is_dataclass(value):
            flat |= flatten(value, f"{prefix}{item.name}.")
        else:
            flat[prefix + item.name] = value
    return flat


def to_plain(config: Any) -> dict[str, Any]:
    """Return a dataclass tree as nested dicts and lists, ready for JSON or YAML."""
    plain: dict[str, Any] = {}
    for item in fields(config):
        value = getattr(config, item.name)
        if is_dataclass(value):
            value = to_plain(value)
        plain[item.name] = list(value) if isinstance(value, tuple) else value
    return plain


def from_plain(values: dict[str, Any]) -> TrainConfig:
    """Return the configuration that `to_plain` wrote down, or that a parser filled.

    Raises:
        ConfigError: A value is out of range.
    """
    for path in ("data", "model", "model.neuron", "method", "method.dense_layers", "method.settings"):
        section: Any = values
        for key in path.split("."):
            section = section[key]
        if section is None:
            raise ConfigError(f"{path} is null; leave it out or give it a value")
    parts = dict(values)
    # Runs of before there were events do not name them.
    events = EventConfig(**(parts["data"].get("events") or {}))
    parts["data"] = DataConfig(**(parts["data"] | {"events": events}))
    model = dict(parts["model"])
    model["neuron"] = LIFParameters(**model["neuron"])
    model["layers"] = None if model["layers"] is None else tuple(model["layers"])
    parts["model"] = ModelConfig(**model)
    method = dict(parts["method"])
    method["dense_layers"] = tuple(method["dense_layers"])
    method["settings"] = dict(method["settings"])
    parts["method"] = MethodConfig(**method)
    return TrainConfig(**parts)


def require_same_run(stored: TrainConfig, asked: TrainConfig) -> None:
    """Check that a resumed run is asked for with the settings it was begun with.

    Raises:
        ConfigError: A setting that decides the result differs.
    """
    before, now = flatten(stored), flatten(asked)
    for key in before:
        if key not in MACHINE_KEYS and before[key] != now[key]:
            raise ConfigError(
                f"the run to resume has {key} = {before[key]}, not {now[key]}; leave the setting out, "
                f"or start a new run"
            )


def default_output(config: TrainConfig) -> TrainConfig:
    """Return `config` with a run directory named after what is run, if none was given."""
    if config.output is not None:
        return config
    final = config.method.final_sparsity
    if final is None:
        final = 0.0 if config.method.name == "dense" else DEFAULT_FINAL_SPARSITY
    method = config.method.name.replace(":", ".")
    name = f"{config.data.name}-{config.model.name}-{method}-{final:g}-seed{config.seed}"
    return replace(config, output=f"runs/{name}")
