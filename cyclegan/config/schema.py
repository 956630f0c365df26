"""The configuration of one training: frozen, checked when it is made, unknown keys refused.

Keys have the argument names of the software that this project grew from (`run_name data_A net_A
lr_g ...`). There is one form on disk (YAML) and one on the command line (`--set lambdas.C_A=100`),
and every run stores its resolved configuration. Paths are relative to the folder in which the
command is started.
"""

from __future__ import annotations

import functools
import json
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from cyclegan.config.sections import (
    Beta,
    Count,
    HPOptimizer,
    Lambdas,
    LambdaSchedule,
    LossChannels,
    LossFunctions,
    LossNames,
    LRSchedule,
    Rate,
    RunName,
    Section,
    Seed,
    Weight,
    Width,
)
from cyclegan.errors import ConfigError, nearest
from cyclegan.losses import GROUPS, Term, check_function, default_name
from cyclegan.networks import GENERATORS, Geometry, build_generator, smallest_judged_axis


class Config(Section):
    """The configuration of one training. Defaults are the original software's where it has one."""

    run_name: RunName = "train"
    """Name of the MLflow run and of its folder below `results/`."""
    data_A: str
    """Dataset JSON of domain A, the fast acquisition."""
    data_B: str
    """Dataset JSON of domain B, the slow acquisition."""
    net_A: str = "UNetSim3d"
    """Name of the network of generator A -> B."""
    net_B: str = "UNetSim3d"
    """Name of the network of generator B -> A."""
    filters: Width = 32
    """Base number of filters of the generators."""
    depth: int | None = Field(default=None, ge=1, le=6)
    """Number of poolings of a generator that keeps the resolution; generators that change it adapt.
    Each network has its own default (2; UNet113d 5). One more doubles the field of view of an
    output voxel."""
    upsampling: Literal["transposed", "resize"] = "transposed"
    """Upsampling in the generators: a transposed convolution, or (`resize`) resizing followed by a
    convolution, which leaves no checkerboard."""
    activation: Literal["relu", "leaky_relu"] = "relu"
    """Activation in the generators; `leaky_relu` suits narrow ones, whose ReLUs die easily (see
    `cyclegan/networks.py`)."""
    channels_A: Width = 1
    """Image channels of domain A; a volume with several channels has them as its first axis."""
    channels_B: Width = 1
    """Image channels of domain B."""
    filters_D: Width = 64
    """Number of filters in the first layer of the discriminators."""
    layers_D: Annotated[int, Field(ge=1, le=5)] = 3
    """Layers of stride 2 in the discriminators; each doubles the field of view of a judgement."""
    norm_D: Literal["batch", "instance", "none"] = "batch"
    """Normalisation in the discriminators; use `none` or `instance` for batches of one or two."""
    spectral_norm_D: bool = False
    """Bound the gain of the discriminators' layers by spectral normalisation (Miyato 2018)."""
    pool_size: int = Field(default=0, ge=0)
    """Number of images generated in earlier steps, for each domain, that the discriminators see
    again at times (Shrivastava 2017; CycleGAN: 50); 0 for none. 3D images are large: they take
    memory and disk space."""
    imsize_A: tuple[Count, Count, Count] = (128, 128, 128)
    """Patch size of domain A in voxels (Z, Y, X); along each axis, a patch of domain B is
    `super_resolution` times as large."""
    super_resolution: Literal[1, 2, 4] = 1
    """Resolution of domain B relative to domain A; `net_A` and `net_B` must match it."""
    batch_size: Count = 4
    """Patches of each domain per step."""
    steps: Count = 10_000
    """Number of training steps."""
    seed: Seed = 0
    """Seed of initial weights, patches and kickstart; the same seed gives the same training."""
    device: str = "auto"
    """Device to train on: `cpu`, `cuda`, `cuda:N`, or `auto`: the first GPU, else the CPU."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of the networks' arithmetic; `auto` takes `bf16` on a GPU that supports it, and on
    a CPU times both once and takes the faster."""
    deterministic: bool = True
    """On a GPU, take convolutions that repeat bit for bit, so that a seed fixes a training and a
    resumed one continues exactly. `false` is faster: cuDNN times its algorithms and takes the
    fastest."""
    threads: int | None = Field(default=None, ge=1)
    """Number of CPU threads; by default PyTorch chooses."""
    memory_budget_gb: float = Field(default=4.0, ge=0.0)
    """Memory in GB for the volumes of both domains; beyond it, patches are read from the files."""
    standardise: Literal["auto", "always", "never"] = "auto"
    """Subtract each scan's mean and divide by its standard deviation on reading; `auto` does so
    only where they are not about 0 and 1."""
    flips: bool = True
    """Flip patches at random along all axes."""
    rotations: bool = False
    """Turn patches at random by 90 degrees in planes whose two sides are equally long."""

    lossFuncs: LossFunctions = LossFunctions()
    lossNames: LossNames = LossNames()
    lossChannels: LossChannels = LossChannels()
    lambdas: Lambdas = Lambdas()
    lr_g: Rate = 2e-4
    """Learning rate of both generators (Adam)."""
    lr_d: Rate = 1e-4
    """Learning rate of both discriminators (Adam)."""
    lr_schedule: LRSchedule = LRSchedule()
    betas: tuple[Beta, Beta] = (0.5, 0.999)
    """Adam's decay rates for the running means of the gradient and of its square."""
    grad_clip: float = Field(default=1.0, ge=0.0)
    """Largest norm of the generators' gradient; 0 for no limit."""
    grad_clip_D: float = Field(default=0.0, ge=0.0)
    """Largest norm of the discriminators' gradient; 0 for no limit."""
    penalty_R1: Weight = 0.0
    """Weight of the penalty on the discriminators' squared gradient at real images, per voxel
    (Mescheder 2018)."""
    penalty_R2: Weight = 0.0
    """Weight of the same penalty at generated images."""
    penalty_every: Count = 4
    """Steps between gradient penalties; each counts this many times to make up for the steps
    without one (Karras 2020)."""
    cycle_noise: Weight = 0.0
    """Standard deviation, in standardised grey values, of the noise added to fake B before the
    cycle closes; it destroys what a generator hides there at low amplitude (Bashkirova 2019)."""
    pretrain_steps: int = Field(default=0, ge=0)
    """Number of first steps that train the generators on `P_A`, `P_B` and `H_A` alone; they are
    several times faster than steps with cycles and discriminators."""
    degradation: Literal["auto", "gaussian", "residual"] = "auto"
    """Source of the noise in the pseudo pairs of `P_A`: `gaussian` draws it from a fitted spectrum,
    `residual` is what a generator removes from real A, and `auto` takes whichever makes degraded B
    look more like A."""
    lambda_schedule: LambdaSchedule = LambdaSchedule()
    ema_decay: float = Field(default=0.999, ge=0.0, lt=1.0)
    """Decay of the running mean of the generators' weights, which scores and enhancement use; 0 for
    no mean."""
    init: Literal["normal", "xavier", "kaiming", "orthogonal"] = "normal"
    """Distribution of the initial weights; all but `normal` depend on the layers' widths."""
    init_std: float = Field(default=0.02, gt=0.0, lt=1.0)
    """Standard deviation of the generators' initial weights (`normal`); narrow networks need
    more."""
    pretrained: str | None = None
    """Generator file or checkpoint from which the networks start."""
    kickstart: bool = False
    """Close the cycle at times on the input itself, instead of its translation, in the first
    `kickstart_steps` steps; this keeps the generators from inverting the contrast."""
    kickstart_steps: int = Field(default=150, ge=0)
    """Number of first steps in which kickstart acts."""
    kickstart_probability: float = Field(default=0.7, ge=0.0, le=1.0)
    """Probability that kickstart acts in a step, for each of the two cycles separately."""

    validate_every: Count = 100
    """Steps between validations, which compute a score and pictures from fixed held-out patches."""
    validation_patches: Annotated[int, Field(ge=4)] = 8
    """Number of held-out patches of each domain, the same ones in every training."""
    log_every: Count = 10
    """Iterations averaged into one point of a run's loss charts."""
    volumes_mb: Weight = 100.0
    """Size limit in MB, uncompressed, of the six images that a run stores as volumes; 0 for no
    volumes."""
    checkpoint_every: Count = 200
    """Steps between checkpoints."""
    checkpoint_minutes: float | None = Field(default=None, gt=0.0)
    """Longest time between checkpoints in minutes; no limit by default."""
    keep_checkpoints: Count = 2
    """Number of newest checkpoints that stay on disk."""
    keep_best_checkpoint: bool = False
    """Also keep the complete state at the best score (`best.pt`); its generators are stored in any
    case."""
    hp_optimizer: HPOptimizer = HPOptimizer()

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(explain_all(type(self), error)) from error

    @field_validator("net_A", "net_B")
    @classmethod
    def _known_network(cls, name: str) -> str:
        if name not in GENERATORS:
            raise ValueError(f"network '{name}' is not known; {nearest(name, GENERATORS)}")
        return name

    @field_validator("hp_optimizer", mode="before")
    @classmethod
    def _switch(cls, value: Any) -> Any:
        return {"enabled": value} if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for group in GROUPS:
            functions = getattr(self.lossFuncs, group)
            for function in functions:
                check_function(group, function)
            weights, names = getattr(self.lambdas, group), getattr(self.lossNames, group)
            if len(weights) != len(functions):
                raise ValueError(
                    f"lambdas.{group} has {len(weights)} values and lossFuncs.{group} has "
                    f"{len(functions)}; give one lambda per loss function"
                )
            if names and len(names) != len(functions):
                raise ValueError(
                    f"lossNames.{group} has {len(names)} names and lossFuncs.{group} has "
                    f"{len(functions)}; give one name per loss function, or none"
                )
        self._check_channels()
        self._check_nets_train()
        self._check_penalties()
        names = [term.name for group in GROUPS for term in self.terms(group)]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"lossNames: '{name}' names two terms; names must be unique")
        self._check_geometry()
        return self

    def _check_channels(self) -> None:
        """Refuse channels that don't exist, and options that need equal numbers of channels."""
        for group in GROUPS:
            given, wanted = getattr(self.lossChannels, group), getattr(self.lossFuncs, group)
            if given and len(given) != len(wanted):
                raise ValueError(
                    f"lossChannels.{group} has {len(given)} entries and lossFuncs.{group} has "
                    f"{len(wanted)}; give one entry per loss function, or none"
                )
            count = self.channels_B if group in _JUDGED_IN_B else self.channels_A
            for channels in given:
                if channels is not None and (not channels or max(channels) >= count):
                    raise ValueError(
                        f"lossChannels.{group}: {list(channels)} must name some of the {count} "
                        "channels there, counted from 0"
                    )
        if self.channels_A != self.channels_B:
            for key in ("I_A", "I_B"):
                if any(getattr(self.lambdas, key)):
                    raise ValueError(
                        f"lambdas.{key}: an identity loss needs channels_A = channels_B, but they "
                        f"are {self.channels_A} and {self.channels_B}; set it to 0"
                    )
            if self.kickstart:
                raise ValueError(
                    "kickstart needs channels_A = channels_B, but they are "
                    f"{self.channels_A} and {self.channels_B}; set it to false"
                )

    def _check_nets_train(self) -> None:
        """Refuse weights that leave a network nothing to train on."""
        if not self._weighs(*GROUPS):
            raise ValueError(
                "lambdas: all are 0, so the training would learn nothing; raise those of the losses"
                " to train on"
            )
        if not self.has_cycles():
            missing = [net for net, groups in _RESTORED_BY.items() if not self._weighs(*groups)]
        else:
            missing = [net for net, groups in _TRAINED_BY.items() if not self._weighs(*groups)]
        for net in missing:
            groups = (_TRAINED_BY if self.has_cycles() else _RESTORED_BY)[net]
            keys = ", ".join(f"lambdas.{group}" for group in groups)
            raise ValueError(f"{keys}: all are 0, so {net} would train on nothing; raise one")
        for net in ("A", "B"):
            if self._weighs(f"G_{net}") and not self._weighs(f"D_{net}"):
                raise ValueError(
                    f"lambdas.D_{net} = 0: D_{net} would never learn, and lambdas.G_{net} would "
                    f"train G_{net} on its random judgements; raise it, or set lambdas.G_{net} to 0"
                )
        if self.hp_optimizer.policy == "original" and not self.has_cycles():
            raise ValueError(
                "hp_optimizer.policy = original judges cycles and discriminators, but this "
                "training has neither; take guard"
            )
        if self.pretrain_steps and not self._weighs("P_A", "H_A"):
            raise ValueError(
                f"pretrain_steps = {self.pretrain_steps}: these steps train on pseudo pairs and "
                "half scans alone; set lambdas.P_A (and lambdas.P_B), or pretrain_steps to 0"
            )

    def _check_penalties(self) -> None:
        for key in ("penalty_R1", "penalty_R2"):
            if getattr(self, key) and self.norm_D == "batch":
                raise ValueError(
                    f"{key}: with norm_D = batch, a judgement depends on the whole batch and has "
                    "no gradient of its own; set norm_D to none or instance"
                )
        for net in ("A", "B"):
            kinds = {
                group: {f == "relativistic" for f in getattr(self.lossFuncs, group)}
                for group in (f"G_{net}", f"D_{net}")
            }
            if kinds[f"G_{net}"] != kinds[f"D_{net}"] and True in set().union(*kinds.values()):
                raise ValueError(
                    f"lossFuncs.G_{net} and lossFuncs.D_{net}: a relativistic loss needs the other "
                    "to be relativistic, too; take relativistic for both, or for neither"
                )

    def _weighs(self, *groups: str) -> bool:
        return any(any(getattr(self.lambdas, group)) for group in groups)

    def has_cycles(self) -> bool:
        """Return True if a loss needs cycles, discriminators or identities."""
        return self._weighs(*(group for group in GROUPS if group[0] in "GDCI"))

    def needs_degradation(self) -> bool:
        """Return True if a loss needs the degradation model B -> A."""
        return self._weighs("P_A", "P_B", "H_A")

    def groups_at_work(self) -> tuple[str, ...]:
        """Return the groups of loss terms that are computed, in the order of reports.

        The original software's groups are always computed, unless only pseudo pairs and half scans
        have a weight. A discriminator that neither learns nor is used is left out.
        """
        return tuple(
            group
            for group in GROUPS
            if self._weighs(group)
            or (group[0] == "C" and self.has_cycles())
            or (group[0] in "GD" and self._weighs(f"G_{group[2]}", f"D_{group[2]}"))
        )

    def _check_geometry(self) -> None:
        factor_A = self.geometry("A").factor
        factor_B = self.geometry("B").factor
        if factor_A != self.super_resolution or factor_B * self.super_resolution != 1:
            raise ValueError(
                f"net_A = {self.net_A} and net_B = {self.net_B} change the resolution by "
                f"{factor_A} and {factor_B}, but super_resolution = {self.super_resolution} needs "
                f"{self.super_resolution} and 1/{self.super_resolution}"
            )
        smallest = smallest_judged_axis(self.layers_D)
        for domain, size in (("A", self.imsize_A), ("B", self.imsize_B)):
            net = self.net_A if domain == "A" else self.net_B
            alignment = self.geometry("A" if domain == "A" else "B").alignment
            if any(n % alignment for n in size):
                raise ValueError(
                    f"a patch of domain {domain} has {list(size)} voxels, but {net} needs "
                    f"multiples of {alignment}; change imsize_A"
                )
            if min(size) < smallest:
                raise ValueError(
                    f"a patch of domain {domain} has {list(size)} voxels, but discriminators with "
                    f"layers_D = {self.layers_D} need at least {smallest} along each axis"
                )

    @property
    def imsize_B(self) -> tuple[int, int, int]:
        """Patch size of domain B in voxels (Z, Y, X)."""
        z, y, x = (n * self.super_resolution for n in self.imsize_A)
        return z, y, x

    def terms(self, group: str) -> tuple[Term, ...]:
        """Return the loss terms of one of `GROUPS`."""
        functions = getattr(self.lossFuncs, group)
        names = getattr(self.lossNames, group) or tuple(default_name(group, f) for f in functions)
        channels = getattr(self.lossChannels, group) or (None,) * len(functions)
        return tuple(Term(*term) for term in zip(names, functions, channels, strict=True))

    def geometry(self, direction: Literal["A", "B"]) -> Geometry:
        """Return factor, alignment and halo of generator A -> B (`A`) or B -> A (`B`)."""
        name = self.net_A if direction == "A" else self.net_B
        return generator_geometry(name, self.depth, self.upsampling)

    def to_dict(self) -> dict[str, Any]:
        """Return all keys and values as plain types, as a run stores them."""
        result: dict[str, Any] = json.loads(self.model_dump_json())
        return result

    def to_yaml(self) -> str:
        """Return a YAML document that `load_config` reads back."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)


_JUDGED_IN_B = ("G_A", "D_A", "C_B", "I_A", "P_A")
"""Loss groups that look at images of domain B."""


_RESTORED_BY = {"G_A": ("P_A", "H_A"), "G_B": ("P_B",)}
_TRAINED_BY = {
    "G_A": ("G_A", "C_A", "C_B", "I_A", "P_A", "H_A"),
    "G_B": ("G_B", "C_A", "C_B", "I_B", "P_B"),
}
"""Loss groups that train each generator: without cycles (`_RESTORED_BY`), and with them."""


@functools.cache
def generator_geometry(
    name: str, depth: int | None = None, upsampling: str = "transposed"
) -> Geometry:
    """Return the geometry of generator `name`, which does not depend on filters and channels."""
    return build_generator(name, filters=1, depth=depth, upsampling=upsampling).geometry


def explain_all(kind: type[BaseModel], error: ValidationError) -> str:
    """Return in one line what validation found wrong with a configuration of `kind`."""
    lines = [_explain(kind, problem) for problem in error.errors()]
    return "; ".join(dict.fromkeys(lines))


def _explain(kind: type[BaseModel], problem: Any) -> str:
    location = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        model: Any = kind
        for part in problem["loc"][:-1]:
            annotation = model.model_fields[str(part)].annotation
            if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
                return f"{location} is not a known key"
            model = annotation
        hint = nearest(str(problem["loc"][-1]), model.model_fields)
        return f"{location} is not a known key; {hint}"
    if problem["type"] == "missing":
        return f"{location} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    if not location:
        return str(message)
    return f"{location} = {problem['input']!r}: {message[0].lower()}{message[1:]}"
