"""The sections of a configuration: lambdas, loss functions, schedules, the rollback optimizer.

Each field's docstring explains a key to its user, with units; `docs/make_config.py` makes
docs/config.md of them.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from cyclegan.errors import nearest
from cyclegan.losses import GROUPS


def _as_tuple(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value,)


Weight = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Weights = Annotated[tuple[Weight, ...], BeforeValidator(_as_tuple), Field(min_length=1)]
Names = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]
Channels = tuple[tuple[Annotated[int, Field(ge=0)], ...] | None, ...]
Rate = Annotated[float, Field(gt=0.0, lt=1.0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1, lt=2**63)]
"""A number of steps or voxels; MLflow and PyTorch hold 64 bits."""
Seed = Annotated[int, Field(ge=0, lt=2**64)]
Beta = Annotated[float, Field(ge=0.0, lt=1.0)]
Width = Annotated[int, Field(ge=1, le=65_536)]
RunName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
"""Name of a run and of its folder, so it has no slashes and no leading dot."""


class Section(BaseModel):
    """Base class of all configuration models."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class Lambdas(Section):
    """Weights of the loss terms, dimensionless; a list where a group has several terms."""

    G_A: Weights = (10.0,)
    G_B: Weights = (10.0,)
    D_A: Weights = (1.0,)
    D_B: Weights = (1.0,)
    C_A: Weights = (100.0,)
    C_B: Weights = (100.0,)
    I_A: Weights = (0.0,)
    I_B: Weights = (0.0,)
    P_A: Weights = (0.0,)
    P_B: Weights = (0.0,)
    H_A: Weights = (0.0,)


class LossFunctions(Section):
    """Names of the loss functions of each group, one for each of its lambdas."""

    G_A: Names = ("bce",)
    G_B: Names = ("bce",)
    D_A: Names = ("bce",)
    D_B: Names = ("bce",)
    C_A: Names = ("l1",)
    C_B: Names = ("l1",)
    I_A: Names = ("l1",)
    I_B: Names = ("l1",)
    P_A: Names = ("l1",)
    P_B: Names = ("l1",)
    H_A: Names = ("mse",)


class LossNames(Section):
    """Names of the loss terms in metrics; by default group and function, e.g. `G_A_bce`."""

    G_A: Names = ()
    G_B: Names = ()
    D_A: Names = ()
    D_B: Names = ()
    C_A: Names = ()
    C_B: Names = ()
    I_A: Names = ()
    I_B: Names = ()
    P_A: Names = ()
    P_B: Names = ()
    H_A: Names = ()


class LossChannels(Section):
    """Image channels that each loss term looks at, e.g. `[[0], [0, 1]]`; empty for all."""

    G_A: Channels = ()
    G_B: Channels = ()
    D_A: Channels = ()
    D_B: Channels = ()
    C_A: Channels = ()
    C_B: Channels = ()
    I_A: Channels = ()
    I_B: Channels = ()
    P_A: Channels = ()
    P_B: Channels = ()
    H_A: Channels = ()


class LRSchedule(Section):
    """Schedule of both learning rates: a factor that changes with the step multiplies them."""

    kind: Literal["constant", "linear", "step"] = "constant"
    """`constant`: no change; `linear`: constant until `start`, then a linear decay to `final` (Zhu
    2017); `step`: multiplied by `gamma` every `every` steps, by default the decay of the original
    software."""
    start: int | None = Field(default=None, ge=0)
    """Last step at the full rate (`linear`); by default half of the steps."""
    final: float = Field(default=0.0, ge=0.0, le=1.0)
    """Factor at the last step (`linear`), within [0, 1]."""
    gamma: float = Field(default=0.99998, gt=0.0, le=1.0)
    """Factor of one decay (`step`), within (0, 1]."""
    every: Count = 1
    """Steps between decays (`step`)."""

    def factor(self, step: int, steps: int) -> float:
        """Return the factor on the rates in the step after `step` of `steps`; dimensionless."""
        if self.kind == "step":
            return float(self.gamma ** (step // self.every))
        if self.kind == "linear":
            start = steps // 2 if self.start is None else self.start
            share = min(max((step - start) / max(steps - start, 1), 0.0), 1.0)
            return 1.0 + share * (self.final - 1.0)
        return 1.0


class LambdaSchedule(Section):
    """Schedule of some groups' lambdas: a factor that changes with the step multiplies them."""

    groups: Annotated[tuple[str, ...], BeforeValidator(_as_tuple)] = ()
    """Loss groups whose lambdas fade, e.g. `[G_A, G_B, D_A, D_B]`; none by default."""
    start: int | None = Field(default=None, ge=0)
    """Last step at the full lambdas; by default half of the steps."""
    final: float = Field(default=0.0, ge=0.0, le=1.0)
    """Factor at the last step, within [0, 1]; the decay from `start` on is linear."""

    @field_validator("groups")
    @classmethod
    def _known_groups(cls, groups: tuple[str, ...]) -> tuple[str, ...]:
        for group in groups:
            if group not in GROUPS:
                raise ValueError(f"'{group}' is not a group of losses; {nearest(group, GROUPS)}")
        return groups

    def factor(self, group: str, step: int, steps: int) -> float:
        """Return the factor on the lambdas of `group` in the step after `step` of `steps`."""
        if group not in self.groups:
            return 1.0
        start = steps // 2 if self.start is None else self.start
        share = min(max((step - start) / max(steps - start, 1), 0.0), 1.0)
        return 1.0 + share * (self.final - 1.0)


class HPOptimizer(Section):
    """The dynamic rollback optimizer: when it judges, how far it falls back, when it gives up."""

    enabled: bool = False
    """Turn the optimizer on."""
    policy: Literal["guard", "original", "replay"] = "guard"
    """`guard` looks for faults and leaves healthy trainings alone; `original` is the algorithm of
    the software that this project follows; `replay` sets the values in `schedule` and judges
    nothing."""
    schedule: str | None = None
    """YAML file that `replay` follows; every training with an optimizer writes one, `schedule.yaml`
    in its folder."""
    snapshot_every: Count = 100
    """Steps between snapshots of the training."""
    check_every: Count = 100
    """Steps between judgements of the training."""
    warmup: int = Field(default=250, ge=0)
    """Steps before the first judgement, counted after `pretrain_steps`; until then only non-finite
    values count as faults."""
    fall_back: Count = 200
    """Least number of steps that a rollback goes back (fewer only if the training is younger)."""
    keep: Annotated[int, Field(ge=2)] = 5
    """Number of recent snapshots to keep, besides the first one and the best one so far."""
    precision: Literal["full", "bf16", "fp16"] = "full"
    """Precision of the snapshots; `bf16` and `fp16` halve their memory, but are not exact."""
    memory_gb: float = Field(default=8.0, gt=0.0)
    """Host memory in GB for the snapshots; if they need more, older ones are dropped."""
    spill: bool = False
    """Write snapshots that exceed `memory_gb` to the training's folder instead of dropping them."""
    max_rollbacks: Count = 8
    """Most rollbacks in a row, or within `window` steps of progress; at the next fault the training
    stops at its best snapshot so far."""
    window: Count = 1000
    """Steps of progress, i.e. healthy steps that the training reaches for the first time, after
    which a rollback no longer counts towards `max_rollbacks`."""
    score: bool = True
    """Treat a validation score that collapses as a fault, too (`guard`)."""
    corrections: bool = False
    """Let healthy judgements correct the learning rates a little (`guard`)."""
    seed: Seed = 0
    """Seed of the random part of the changes to lambdas and learning rates."""

    @model_validator(mode="after")
    def _has_what_it_follows(self) -> Self:
        if self.policy == "replay" and self.schedule is None:
            raise ValueError(
                "hp_optimizer.policy = replay needs hp_optimizer.schedule, the YAML file of a "
                "training that had an optimizer (schedule.yaml in its folder)"
            )
        return self
