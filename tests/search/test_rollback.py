"""The rollback optimizer: saves what can be saved, leaves healthy runs alone, never loops."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cyclegan import Callback, Config, Trainer, parse_config
from cyclegan.checkpoints import CHECKPOINT_NAME
from cyclegan.config import HPOptimizer
from cyclegan.hparams import HParams
from search import rollback
from search.faults import Fault
from search.rollback import LAMBDA_RANGE, RATE_RANGE, RollbackOptimizer, move

SETTINGS = HPOptimizer(
    enabled=True, snapshot_every=2, check_every=2, warmup=0, fall_back=4, keep=4, max_rollbacks=5
)
# Two generators a few steps old are flat; only what is not finite counts as a fault then.
YOUNG = SETTINGS.model_copy(update={"warmup": 1000})
FAULT = Fault(kind="exploding", reason="x", severity=2.0, networks=("C_A",))


def initial() -> HParams:
    return HParams.from_config(parse_config({"data_A": "a", "data_B": "b"}))


def test_move_keeps_the_sum_of_lambdas_and_switched_off_terms_off() -> None:
    first = initial()
    changes = move(first, first, FAULT, 1, torch.Generator().manual_seed(0))
    lambdas = {k: v for k, v in changes.items() if k.startswith("lambdas.")}
    assert sum(lambdas.values()) == pytest.approx(222.0)
    assert "lambdas.I_A" not in changes


def test_move_is_directed_and_lowers_both_rates() -> None:
    first = initial()
    ratios = []
    for seed in range(200):
        changes = move(first, first, FAULT, 1, torch.Generator().manual_seed(seed))
        ratios.append(changes["lambdas.C_A"] / changes["lambdas.C_B"])
        assert changes["lr_g"] < first.lr_g / 2
        assert changes["lr_d"] < first.lr_d / 2
    # 1.5 times, and the random part averages out.
    assert sum(ratios) / len(ratios) == pytest.approx(1.5, rel=0.05)


def test_moves_stay_bounded_however_often_they_are_made() -> None:
    first = current = initial()
    random = torch.Generator().manual_seed(0)
    for attempt in range(1, 60):
        current = current.changed(move(current, first, FAULT, attempt, random))
    before, after = first.flat(), current.flat()
    assert sum(v for k, v in after.items() if k.startswith("l") and "lr" not in k) == pytest.approx(
        222.0
    )
    for name in ("lr_g", "lr_d"):
        assert before[name] / RATE_RANGE <= after[name] <= before[name] * RATE_RANGE
    assert after["lambdas.C_A"] <= before["lambdas.C_A"] * LAMBDA_RANGE


def test_the_same_seed_gives_the_same_move_and_another_attempt_a_larger_one() -> None:
    first = initial()

    def spread(attempt: int) -> float:
        draws = [
            move(first, first, FAULT, attempt, torch.Generator().manual_seed(s))["lr_g"]
            for s in range(100)
        ]
        return max(draws) / min(draws)

    assert spread(1) == spread(1)
    assert spread(3) > spread(1)


class BreakAt(Callback):
    """Puts NaN into a generator at one iteration, as an overflow would."""

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
    # Without it the same training ends in NaN.
    lost = Trainer(config, [BreakAt(7)])
    lost.fit()
    assert not torch.isfinite(next(lost.model.G_A.parameters())).any()


def test_it_never_falls_back_into_the_fault(config: Config) -> None:
    """Steps 5 and 6 are broken already when step 6 is judged: their snapshots must not be used."""
    targets: list[int] = []

    class Watch(Callback):
        def on_rollback(self, trainer: Trainer, event: Any) -> None:
            targets.append(event.to_step)
            assert torch.isfinite(next(trainer.model.G_A.parameters())).all()

    Trainer(config, [BreakAt(5), RollbackOptimizer(YOUNG), Watch()]).fit()
    assert targets == [2]


def test_a_detector_that_always_fires_ends_the_training(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollback, "judge", lambda *_, **__: FAULT)
    optimizer = RollbackOptimizer(SETTINGS)
    trainer = Trainer(with_settings(config, steps=10_000), [optimizer])
    result = trainer.fit()
    assert result.outcome == "stopped"
    assert "5 rollbacks did not help" in result.reason
    assert optimizer.rollbacks == 5
    assert result.iteration <= 2 * 6  # one check interval an attempt


def test_repeated_failures_fall_back_further(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails_at_ten(history: Any, images: Any, *, window: int) -> Fault | None:
        return FAULT if history._steps[-1] == 10 else None

    monkeypatch.setattr(rollback, "judge", fails_at_ten)
    targets: list[int] = []

    class Watch(Callback):
        def on_rollback(self, trainer: Trainer, event: Any) -> None:
            targets.append(event.to_step)

    settings = SETTINGS.model_copy(update={"max_rollbacks": 3})
    Trainer(config, [RollbackOptimizer(settings), Watch()]).fit()
    assert targets[:3] == [6, 4, 2]


def test_a_healthy_training_is_left_alone(config: Config) -> None:
    # Wide and fast enough to be neither flat nor inverted when it is judged first.
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
            if trainer.iteration == 7:
                trainer.request_stop("SIGTERM", outcome="interrupted")

    Trainer(config, [BreakAt(7), RollbackOptimizer(YOUNG), StopAt()], tmp_path).fit()
    again = Trainer(config, [RollbackOptimizer(YOUNG)])
    again.fit(resume=tmp_path / CHECKPOINT_NAME)
    assert again.iteration == whole.iteration
    assert again.hparams == whole.hparams
    rows = zip(again.history.rows()[7:], whole.history.rows()[7:], strict=True)
    # Iteration 8 is NaN in both; everything after the rollback is equal.
    assert all(a.values == b.values for a, b in rows if a.iteration > 8)
