"""Snapshots are exact and restorable more than once, or half as large and still safe for Adam."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from cyclegan import Callback, Config, Trainer, parse_config
from cyclegan.errors import ConfigError
from cyclegan.hparams import HParams
from cyclegan.model import CycleGAN
from cyclegan.pinned import bytes_taken
from cyclegan.snapshot import Precision, Snapshot, copied, take_snapshot, tensors_of

HPARAMS = HParams.from_config(parse_config({"data_A": "a", "data_B": "b"}))


def tensors(value: Any) -> list[Tensor]:
    return list(tensors_of(value))


def taken(training: Mapping[str, Any], precision: Precision = "full") -> Snapshot:
    return take_snapshot(training, step=1, iteration=1, hparams=HPARAMS, precision=precision)


class Each(Callback):
    """Call a function after every step."""

    def __init__(self, function: Callable[[Trainer], None], name: str = "each") -> None:
        self.function, self._name = function, name

    @property
    def name(self) -> str:
        return self._name

    def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
        self.function(trainer)


def trained(config: Config) -> Trainer:
    trainer = Trainer(config)
    trainer.fit()
    return trainer


def test_a_snapshot_is_independent_of_what_comes_after(config: Config) -> None:
    trainer = trained(config)
    snapshot = trainer.snapshot()
    before = [t.clone() for t in tensors(snapshot.state())]
    for parameter in trainer.model.parameters():
        parameter.data.zero_()
    assert all(map(torch.equal, before, tensors(snapshot.state())))


def test_a_snapshot_can_be_restored_more_than_once(config: Config) -> None:
    """Adam keeps the tensors that it receives: they must not be the snapshot's own."""
    kept: list[Snapshot] = []
    restored: list[list[Tensor]] = []

    def act(trainer: Trainer) -> None:
        if trainer.iteration == 4:
            kept.append(trainer.snapshot())
        if trainer.iteration in (8, 12):
            trainer.request_rollback(kept[0], reason="test")

    class Restored(Callback):
        def on_rollback(self, trainer: Trainer, event: object) -> None:
            restored.append([t.clone() for t in tensors(trainer.model.training_state())])

    Trainer(config, [Each(act), Restored()]).fit()
    first, second = restored
    assert len(first) == len(second) > 0
    assert all(map(torch.equal, first, second))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_compact_snapshot_is_half_as_large_and_close(
    config: Config, precision: Precision
) -> None:
    trainer = trained(config)
    training = trainer.model.training_state()
    full, compact = taken(training), taken(training, precision)
    assert compact.nbytes() < 0.55 * full.nbytes()
    for one, other in zip(tensors(full.state()), tensors(compact.state()), strict=True):
        torch.testing.assert_close(other.to(one.dtype), one, rtol=2**-8, atol=1e-7)
    trainer.model.load_training_state(compact.state())
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters())
    for group in (trainer.model.optimizer_G, trainer.model.optimizer_D):
        floats = [t for t in tensors(group.state_dict()["state"]) if t.is_floating_point()]
        assert all(t.dtype == torch.float32 for t in floats)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_moments_below_the_range_of_fp16_survive(precision: Precision) -> None:
    """A second moment of 0 makes Adam's next step thousands of times too large."""
    training = {
        "networks": {"w": torch.ones(8), "running_var": torch.full((8,), 1e6)},
        "optimizer_G": {
            "state": {0: {"step": torch.tensor(7001.0), "exp_avg_sq": 1e-12 * torch.ones(8)}}
        },
    }
    state = taken(training, precision).state()
    moments = state["optimizer_G"]["state"][0]
    assert (moments["exp_avg_sq"] > 0.9e-12).all()
    assert moments["step"] == 7001.0
    assert torch.equal(state["networks"]["running_var"], training["networks"]["running_var"])


def test_a_snapshot_tells_whether_it_is_finite() -> None:
    good = {"networks": {"w": torch.ones(4)}}
    assert taken(good).is_finite()
    assert not taken({"networks": {"w": torch.tensor([1.0, float("nan")])}}).is_finite()


def test_a_snapshot_survives_a_checkpoint(config: Config) -> None:
    snapshot = trained(config).snapshot()
    file = io.BytesIO()
    torch.save(snapshot.to_plain(), file)
    file.seek(0)
    again = Snapshot.from_plain(torch.load(file, weights_only=True))
    assert (again.step, again.iteration, again.hparams) == (
        snapshot.step,
        snapshot.iteration,
        snapshot.hparams,
    )
    assert all(map(torch.equal, tensors(again.state()), tensors(snapshot.state())))


def test_pickling_apart_stores_what_lies_in_one_block_once() -> None:
    """Other ranks get a snapshot by `pickle`, which takes a whole block along for each tensor."""
    block = torch.randn(100_000)
    snapshot = taken({"networks": {}})
    shared = replace(snapshot, training={"networks": dict(enumerate(block.split(1000)))})
    apart = pickle.dumps(shared.to_plain(apart=True))
    assert len(apart) < 2 * block.nbytes < len(pickle.dumps(shared.to_plain()))
    again = Snapshot.from_plain(pickle.loads(apart))  # noqa: S301
    assert all(map(torch.equal, tensors(again.state()), tensors(shared.state())))
    assert bytes_taken(tensors(shared.to_plain()["training"])) == block.nbytes


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_moments_laid_out_otherwise_give_the_same_next_step(
    tiny: dict[str, Any], precision: str
) -> None:
    """A snapshot, or a checkpoint of a training in the other precision, has other strides."""
    config = parse_config(tiny | {"precision": precision, "imsize_A": [16, 16, 16]})
    patches = [torch.randn(1, 1, 16, 16, 16) for _ in range(2)]
    model = CycleGAN(config, torch.device("cpu"))
    model.training_step(*patches)
    state = copied(model.training_state())
    other = torch.channels_last_3d if precision == "fp32" else torch.contiguous_format
    moved = 0
    for optimizer in (state["optimizer_G"], state["optimizer_D"]):
        for moments in optimizer["state"].values():
            for key, moment in moments.items():
                if moment.ndim == 5:
                    moments[key] = moment.contiguous(memory_format=other)
                    moved += moments[key].stride() != moment.stride()
    assert moved

    def after(training: Mapping[str, Any]) -> list[Tensor]:
        again = CycleGAN(config, torch.device("cpu"))
        again.load_training_state(training)
        again.training_step(*patches)
        return [parameter.detach() for parameter in again.parameters()]

    assert all(map(torch.equal, after(state), after(model.training_state())))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_a_snapshot_arrives_in_pinned_memory() -> None:
    weights = torch.arange(1 << 20, dtype=torch.float32, device="cuda")
    snapshot = taken({"networks": {"w": weights}})
    weights.zero_()  # the training goes on while the copy is in progress
    arrived = snapshot.state()["networks"]["w"]
    assert arrived.is_pinned()
    assert torch.equal(arrived, torch.arange(1 << 20, dtype=torch.float32))


def test_kickstart_may_follow_a_rollback_and_is_left_behind_with_its_path(config: Config) -> None:
    kept: list[Snapshot] = []
    acting: dict[int, bool] = {}

    def act(trainer: Trainer) -> None:
        acting[trainer.iteration + 1] = trainer.kickstarted(trainer.step)
        if trainer.iteration == 2:
            kept.append(trainer.snapshot())
        if trainer.iteration == 4:
            trainer.request_rollback(kept[0], reason="a", kickstart=3)
        if trainer.iteration == 6:
            trainer.request_rollback(kept[0], reason="b")

    class After(Callback):
        def on_rollback(self, trainer: Trainer, event: object) -> None:
            acting[trainer.iteration + 1] = trainer.kickstarted(trainer.step)

    trainer = Trainer(config, [Each(act), After()])
    trainer.fit()
    # Steps 2-4 after the first rollback; the second goes back to step 2 without it.
    assert [i for i, on in acting.items() if on] == [5, 6]
    again = Trainer(config)
    again.load_state_dict(trainer.state_dict())
    assert again.rollbacks == trainer.rollbacks
    assert [e.kickstart for e in again.rollbacks] == [3, 0]


def test_kickstart_changes_what_the_cycle_is_closed_on(config: Config) -> None:
    def start(trainer: Trainer) -> None:
        if trainer.iteration == 4:
            trainer.set_hparams({}, kickstart=20)

    with_it = Trainer(
        parse_config(config.to_dict() | {"kickstart_probability": 1.0}), [Each(start)]
    )
    with_it.fit()
    without = trained(config)
    one, other = with_it.history.column("loss/C_A_l1"), without.history.column("loss/C_A_l1")
    assert (one[:4] == other[:4]).all()
    assert one[4] != other[4]


def test_kickstart_needs_domains_with_the_same_channels(config: Config) -> None:
    trainer = Trainer(config)
    trainer.config = config.model_copy(update={"channels_B": 2})
    with pytest.raises(ConfigError, match="channels_A = channels_B"):
        trainer.set_hparams({}, kickstart=10)
    with pytest.raises(ConfigError, match="channels_A = channels_B"):
        trainer.request_rollback(trainer.snapshot(), reason="x", kickstart=10)
