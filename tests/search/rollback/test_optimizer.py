"""The rollback optimizer saves what it can, leaves healthy runs alone, and never loops."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cyclegan import Callback, Config, Trainer, parse_config
from cyclegan.checkpoints import CHECKPOINT_NAME
from cyclegan.config import HPOptimizer
from cyclegan.errors import ConfigError, DivergedError
from cyclegan.events import RollbackEvent
from cyclegan.footprint import state_bytes
from search.rollback import Fault, RollbackOptimizer
from search.rollback.guard import Guard
from search.rollback.optimizer import check_memory

SETTINGS = HPOptimizer(
    enabled=True, snapshot_every=2, check_every=2, warmup=0, fall_back=4, keep=4, max_rollbacks=5
)
# Generators a few steps old are flat; here only values that are not finite count as a fault.
YOUNG = SETTINGS.model_copy(update={"warmup": 1000})
FAULT = Fault(kind="exploding", reason="x", severity=2.0, networks=("C_A",))


class Finds(Guard):
    """A guard that finds faults at given places."""

    def __init__(self, when: Callable[[Trainer], bool], settings: HPOptimizer = SETTINGS) -> None:
        super().__init__(settings)
        self.when = when

    def judge(self, trainer: Trainer, *, young: bool) -> Fault | None:
        return FAULT if self.when(trainer) else None


class Watch(Callback):
    """Record every rollback."""

    def __init__(self) -> None:
        self.events: list[RollbackEvent] = []

    @property
    def targets(self) -> list[int]:
        return [event.to_step for event in self.events]

    def on_rollback(self, trainer: Trainer, event: RollbackEvent) -> None:
        self.events.append(event)


class BreakAt(Callback):
    """Put NaN into a generator at one iteration, as an overflow would."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration

    def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
        if trainer.iteration == self.iteration:
            with torch.no_grad():
                next(trainer.model.G_A.parameters()).fill_(float("nan"))


def with_settings(config: Config, **changes: Any) -> Config:
    return parse_config(config.to_dict() | changes)


def test_a_training_broken_by_nan_is_saved(config: Config) -> None:
    optimizer = RollbackOptimizer(YOUNG)
    trainer = Trainer(config, [BreakAt(7), optimizer])
    result = trainer.fit()
    assert result.outcome == "completed"
    assert optimizer.rollbacks == 1
    assert result.iteration == 12 + 4  # found at step 8, back to step 4
    assert trainer.hparams.lr_g < config.lr_g
    weights = torch.cat([p.flatten() for p in trainer.model.G_A.parameters()])
    assert torch.isfinite(weights).all()
    # Without the optimizer the same training ends in NaN and fails.
    lost = Trainer(config, [BreakAt(7)])
    with pytest.raises(DivergedError, match="at step 8 loss/"):
        lost.fit()
    assert not torch.isfinite(next(lost.model.G_A.parameters())).any()


def test_it_never_falls_back_into_the_fault(config: Config) -> None:
    """Steps 5 and 6 are already broken when step 6 is judged: their snapshots must not be used."""
    watch = Watch()
    Trainer(config, [BreakAt(5), RollbackOptimizer(YOUNG), watch]).fit()
    assert watch.targets == [2]


def test_a_detector_that_always_fires_ends_the_training(config: Config) -> None:
    optimizer = RollbackOptimizer(SETTINGS, policy=Finds(lambda trainer: True))
    trainer = Trainer(with_settings(config, steps=10_000), [optimizer])
    result = trainer.fit()
    assert result.outcome == "stopped"
    assert "5 rollbacks did not help" in result.reason
    assert optimizer.rollbacks == 5
    assert result.iteration <= 2 * 6  # one check interval per attempt
    assert [event.outcome for event in trainer.rollbacks] == ["failed again"] * 5 + ["gave up"]


@pytest.mark.parametrize("period", [3, 5, 7])
def test_a_fault_that_comes_and_goes_ends_the_training_too(config: Config, period: int) -> None:
    """The original loops for ever: it fails at s, passes at s - 100, and counts from 0 again.

    Here the training gains no new ground, whatever judgements pass in between.
    """
    settings = SETTINGS.model_copy(update={"window": 10})
    calls = 0

    def sometimes(trainer: Trainer) -> bool:
        nonlocal calls
        calls += 1
        return calls % period != 0

    optimizer = RollbackOptimizer(settings, policy=Finds(sometimes))
    result = Trainer(with_settings(config, steps=60), [optimizer]).fit()
    assert optimizer.rollbacks <= 5 * (1 + 60 / 10)
    assert result.outcome == "stopped"


def test_rollbacks_long_ago_are_forgiven(config: Config) -> None:
    """One accident every 20 steps of new ground; there are more than a window allows."""
    seen: set[int] = set()

    def once_each(trainer: Trainer) -> bool:
        place = trainer.step
        new = place % 20 == 0 and place not in seen
        seen.add(place)
        return new

    settings = SETTINGS.model_copy(update={"window": 16, "max_rollbacks": 2})
    optimizer = RollbackOptimizer(settings, policy=Finds(once_each))
    trainer = Trainer(with_settings(config, steps=119), [optimizer])
    assert trainer.fit().outcome == "completed"
    assert optimizer.rollbacks == 5
    assert {event.outcome for event in trainer.rollbacks} == {"recovered"}


def test_repeated_failures_fall_back_further_and_end_with_the_first_values(config: Config) -> None:
    settings = SETTINGS.model_copy(update={"max_rollbacks": 3})
    watch = Watch()
    optimizer = RollbackOptimizer(settings, policy=Finds(lambda trainer: trainer.step == 10))
    trainer = Trainer(config, [optimizer, watch])
    result = trainer.fit()
    assert watch.targets[:3] == [6, 4, 2]
    assert [event.cause.attempt for event in watch.events] == [1, 2, 3, 4]
    assert watch.events[0].after.lr_g != config.lr_g
    assert watch.events[2].after.lr_g == config.lr_g
    assert result.outcome == "stopped"


def test_a_retry_that_fails_sooner_falls_back_from_there(config: Config) -> None:
    """Not a step less than `fall_back`, though the first failure was later."""
    settings = SETTINGS.model_copy(update={"fall_back": 6, "keep": 10})
    watch = Watch()
    faulty = {12: 12, 14: 8}  # back to 6, then at step 8
    finds = Finds(lambda t: faulty.get(t.iteration) == t.step, settings)
    Trainer(config, [RollbackOptimizer(settings, policy=finds), watch]).fit()
    assert [(e.from_step, e.to_step) for e in watch.events] == [(12, 6), (8, 2)]


def test_a_retry_moves_from_what_was_in_force_at_its_snapshot(config: Config) -> None:
    """A retry does not begin with the raised learning rate that broke the training."""

    class Raise(Callback):
        def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
            if trainer.iteration == 9:
                trainer.set_hparams({"lr_g": 1.0})

    optimizer = RollbackOptimizer(SETTINGS, policy=Finds(lambda trainer: trainer.iteration == 10))
    trainer = Trainer(config, [Raise(), optimizer])
    trainer.fit()
    assert trainer.rollbacks[0].before.lr_g == 1.0
    assert trainer.hparams.lr_g == pytest.approx(config.lr_g, rel=0.5)


def test_it_stops_at_the_best_known_state(config: Config) -> None:
    """Validations occur more often than snapshots, but the best state is stored nevertheless."""
    scores = {3: -2.0, 6: -1.0, 9: -4.0}
    wanted = with_settings(config, steps=100, validate_every=3)
    optimizer = RollbackOptimizer(SETTINGS, policy=Finds(lambda trainer: trainer.step == 12))
    trainer = Trainer(wanted, [optimizer])
    measured = trainer.validator

    def scored(model: Any, *, step: int, iteration: int, **more: Any) -> Any:
        report = measured(model, step=step, iteration=iteration, **more)
        return replace(report, score=scores.get(step, -9.0), gate=None)

    trainer.validator = scored  # type: ignore[assignment]
    result = trainer.fit()
    assert (result.outcome, trainer.step) == ("stopped", 6)
    assert trainer.rollbacks[-1].outcome == "gave up"


def test_a_faulty_state_is_never_the_best_known(config: Config) -> None:
    optimizer = RollbackOptimizer(SETTINGS, policy=Finds(lambda trainer: trainer.iteration == 6))
    trainer = Trainer(with_settings(config, validate_every=6, steps=6), [optimizer])
    measured = trainer.validator
    trainer.validator = lambda *a, **k: replace(measured(*a, **k), score=1.0, gate=None)  # type: ignore
    trainer.fit()
    best = optimizer.ring.best
    assert best is not None
    assert best.iteration > 6


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_compact_snapshots_save_a_training_as_well(config: Config, precision: str) -> None:
    compact = YOUNG.model_copy(update={"precision": precision})
    optimizer, plain = RollbackOptimizer(compact), RollbackOptimizer(YOUNG)
    trainer = Trainer(config, [BreakAt(7), optimizer])
    assert trainer.fit().outcome == "completed"
    Trainer(config, [plain]).fit()
    assert optimizer.rollbacks == 1
    assert optimizer.ring.nbytes() < 0.6 * plain.ring.nbytes()
    assert torch.isfinite(torch.cat([p.flatten() for p in trainer.model.parameters()])).all()


def test_a_training_with_its_ring_on_disk_is_the_same_one(config: Config, tmp_path: Path) -> None:
    spilled = YOUNG.model_copy(update={"memory_gb": 1e-9, "spill": True})
    here = Trainer(config, [BreakAt(7), RollbackOptimizer(YOUNG)])
    there = Trainer(config, [BreakAt(7), RollbackOptimizer(spilled)], tmp_path)
    here.fit()
    there.fit()
    assert list((tmp_path / "ring").glob("*.pt"))
    after = [[r.values for r in t.history.rows() if r.iteration > 8] for t in (here, there)]
    assert after[0] == after[1]


def test_a_budget_too_small_to_fall_back_is_refused_with_the_ways_out(config: Config) -> None:
    small = {"enabled": True, "memory_gb": 1e-5}
    with pytest.raises(ConfigError, match=r"memory_gb = 1e-05: .* 5 are needed .*bf16.*spill"):
        check_memory(with_settings(config, hp_optimizer=small))
    check_memory(with_settings(config, hp_optimizer=small | {"spill": True}))
    # The stated size of a snapshot is its real size.
    optimizer = RollbackOptimizer(YOUNG)
    Trainer(config, [optimizer]).fit()
    real = optimizer.ring.recent[-1].nbytes
    assert 0.8 * real < state_bytes(config) < 3 * real


def test_an_inverted_contrast_falls_back_before_it_and_kickstarts(config: Config) -> None:
    """Snapshots that show the inversion are left out, although nobody judged them at the time."""
    turned = 5

    class Turn(Callback):
        def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
            # From this iteration on, both generators return the negative.
            sign = -1 if turned <= trainer.iteration <= 16 else 1
            trainer.images["fake_B"] = sign * trainer.images["real_A"]
            trainer.images["fake_A"] = sign * trainer.images["real_B"]

    settings = SETTINGS.model_copy(update={"warmup": 15, "keep": 10})
    wanted = with_settings(config, steps=24)
    trainer = Trainer(wanted, [Turn(), RollbackOptimizer(settings)])
    assert trainer.fit().outcome == "completed"
    (event,) = trainer.rollbacks
    assert (event.from_step, event.to_step, event.cause.kind) == (16, 4, "inverted")
    assert event.kickstart == config.kickstart_steps
    assert trainer.kickstarted(5)


def test_a_healthy_training_is_left_alone(config: Config) -> None:
    # Wide and fast enough to be neither flat nor inverted at the first judgement.
    healthy = with_settings(config, filters=4, batch_size=2, lr_g=5e-3, steps=24)
    settings = SETTINGS.model_copy(
        update={"warmup": 8, "check_every": 4, "snapshot_every": 4, "fall_back": 8}
    )
    plain, watched = Trainer(healthy), Trainer(healthy, [RollbackOptimizer(settings)])
    plain.fit()
    watched.fit()
    assert watched.hparam_log == []
    assert [r.values for r in watched.history.rows()] == [r.values for r in plain.history.rows()]


def test_a_killed_training_resumes_with_its_ring(config: Config, tmp_path: Path) -> None:
    whole_optimizer = RollbackOptimizer(YOUNG)
    whole = Trainer(config, [BreakAt(7), whole_optimizer])
    whole.fit()

    class StopAt(Callback):
        def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
            if trainer.iteration == 6:
                trainer.request_stop("SIGTERM", outcome="interrupted")

    # From before the fault: no checkpoint is written of a state that is not finite.
    Trainer(config, [BreakAt(7), RollbackOptimizer(YOUNG), StopAt()], tmp_path).fit()
    again = Trainer(config, [BreakAt(7), RollbackOptimizer(YOUNG)])
    again.fit(resume=tmp_path / CHECKPOINT_NAME)
    assert [event.to_step for event in again.rollbacks] == [4]  # a snapshot from before the kill
    assert again.iteration == whole.iteration
    assert again.hparams == whole.hparams
    rows = zip(again.history.rows()[7:], whole.history.rows()[7:], strict=True)
    # Iteration 8 is NaN in both; everything after the rollback is equal.
    assert all(a.values == b.values for a, b in rows if a.iteration > 8)
