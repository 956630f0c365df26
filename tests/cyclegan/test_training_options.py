"""Pool, schedule, spectral normalisation and pre-trained start: their effects, and resuming."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cyclegan import Callback, Trainer, parse_config
from cyclegan.checkpoints import CHECKPOINT_NAME, to_host
from cyclegan.config import LRSchedule
from cyclegan.errors import CheckpointError
from cyclegan.generator import save_generators


class StopAt(Callback):
    """Stop a training as Ctrl-C does."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
        if trainer.iteration == self.iteration:
            trainer.request_stop("test", outcome="interrupted")


def assert_same_state(one: Any, other: Any, where: str = "state") -> None:
    assert type(one) is type(other), where
    if isinstance(one, Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, Mapping):
        assert list(one) == list(other), where
        for key in one:
            assert_same_state(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for i, pair in enumerate(zip(one, other, strict=True)):
            assert_same_state(*pair, f"{where}[{i}]")
    else:
        assert one == other, where


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (LRSchedule(), {0: 1.0, 999: 1.0}),
        (LRSchedule(kind="linear"), {0: 1.0, 500: 1.0, 750: 0.5, 1000: 0.0}),
        (LRSchedule(kind="linear", start=0, final=0.2), {0: 1.0, 500: 0.6, 1000: 0.2}),
        (LRSchedule(kind="linear", start=1000), {999: 1.0, 1000: 1.0}),
        (LRSchedule(kind="step"), {0: 1.0, 1: 0.99998, 1000: 0.99998**1000}),
        (LRSchedule(kind="step", gamma=0.1, every=300), {299: 1.0, 300: 0.1, 900: 0.001}),
    ],
)
def test_schedules(schedule: LRSchedule, expected: dict[int, float]) -> None:
    assert {s: schedule.factor(s, 1000) for s in expected} == pytest.approx(expected)


EVERYTHING = {
    "pool_size": 3,
    "kickstart": True,
    "kickstart_steps": 9,
    "lr_schedule": {"kind": "linear", "start": 2, "final": 0.1},
    "spectral_norm_D": True,
    "rotations": True,
    "upsampling": "resize",
    "steps": 12,
}


def test_resumed_with_everything_on_equals_uninterrupted(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    config = parse_config(tiny | EVERYTHING)
    whole = Trainer(config)
    whole.fit()
    first = Trainer(config, [StopAt(7)], tmp_path)
    first.fit()
    again = Trainer(config, folder=tmp_path)
    again.fit(resume=tmp_path / CHECKPOINT_NAME)
    one, other = to_host(again.state_dict()), to_host(whole.state_dict())
    assert_same_state(one, other)


def test_the_schedule_reaches_the_optimizers_and_survives_a_change_and_a_rollback(
    tiny: dict[str, Any],
) -> None:
    seen: dict[int, tuple[float, float]] = {}

    class Watch(Callback):
        def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
            model = trainer.model
            optimizers = (model.optimizer_G, model.optimizer_D)
            seen[trainer.iteration] = tuple(o.param_groups[0]["lr"] for o in optimizers)
            assert seen[trainer.iteration] == tuple(trainer.rates.values())
            if trainer.iteration == 4:
                self.snapshot = trainer.snapshot()
            if trainer.iteration == 6:
                trainer.set_hparams({"lr_g": 0.02})
            if trainer.iteration == 7:
                trainer.request_rollback(self.snapshot, reason="test")

    schedule = {"kind": "step", "gamma": 0.5, "every": 2}
    values = {"lr_g": 0.01, "lr_d": 0.001, "lr_schedule": schedule, "steps": 8}
    Trainer(parse_config(tiny | values), [Watch()]).fit()
    factors = [1, 1, 0.5, 0.5, 0.25, 0.25, 0.125]
    expected = [(0.01 * f, 0.001 * f) for f in factors]
    expected[6] = (0.02 * 0.125, 0.001 * 0.125)  # changed after iteration 6
    # The rollback of iteration 7 goes back to step 4 and to the rates in force there.
    expected += [(0.01 * f, 0.001 * f) for f in (0.25, 0.25, 0.125, 0.125)]
    found = [seen[i] for i in sorted(seen)]
    assert [r for pair in found for r in pair] == pytest.approx([r for p in expected for r in p])


@pytest.mark.parametrize("source", ["generator", "checkpoint"])
def test_a_pretrained_start_has_the_given_networks(
    tiny: dict[str, Any], tmp_path: Path, source: str
) -> None:
    teacher = Trainer(parse_config(tiny), folder=tmp_path)
    teacher.fit()
    path = tmp_path / CHECKPOINT_NAME
    if source == "generator":
        path = tmp_path / "generator.pt"
        save_generators(teacher.model, path, step=12)
    fresh = Trainer(parse_config(tiny | {"pretrained": str(path), "seed": 5}))
    fresh.load_pretrained()
    given = teacher.model.G_A if source == "checkpoint" else teacher.model.mean_G_A
    assert_same_state(fresh.model.G_A.state_dict(), given.state_dict())
    assert_same_state(fresh.model.mean_G_A.state_dict(), teacher.model.mean_G_A.state_dict())
    same_judge = source == "checkpoint"
    weights = [
        dict(m.D_A.named_parameters())["layers.0.weight"] for m in (fresh.model, teacher.model)
    ]
    assert torch.equal(*weights) == same_judge
    assert fresh.step == 0


def test_a_pretrained_start_from_other_networks_is_refused(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    Trainer(parse_config(tiny), [StopAt(1)], tmp_path).fit()
    values = tiny | {"pretrained": str(tmp_path / CHECKPOINT_NAME), "filters": 3}
    with pytest.raises(CheckpointError, match="differs from this configuration's"):
        Trainer(parse_config(values)).fit()


@pytest.mark.slow
def test_a_resumed_training_no_longer_needs_the_file_it_started_from(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    first = tmp_path / "first.pt"
    teacher = Trainer(parse_config(tiny))
    teacher.fit()
    save_generators(teacher.model, first, step=12)
    config = parse_config(tiny | {"pretrained": str(first), "seed": 5})
    whole = Trainer(config)
    whole.fit()
    plain = Trainer(parse_config(tiny | {"seed": 5}))
    plain.fit()
    assert whole.history.rows() != plain.history.rows()
    Trainer(config, [StopAt(5)], tmp_path).fit()
    first.unlink()
    again = Trainer(config, folder=tmp_path)
    again.fit(resume=tmp_path / CHECKPOINT_NAME)
    assert_same_state(to_host(again.state_dict()), to_host(whole.state_dict()))
