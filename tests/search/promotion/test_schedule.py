"""The schedule of a trial's hyperparameters that survived its rollbacks, and its replay."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from torch import Tensor

from cyclegan import Callback, Config, Trainer, checkpoints, load_config
from cyclegan.checkpoints import newest_checkpoint
from cyclegan.errors import DataError
from cyclegan.events import HParamChange
from search.promotion import promote
from search.promotion.promote import schedule_of
from search.rollback import Fault
from search.rollback.guard import Guard
from search.rollback.schedule import Change, Replay, surviving_path, without
from search.study import open_study, run_study
from search.study.definition import load_definition
from tracking import Store
from viz.console import Console

QUIET = Console(quiet=True)


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ([], []),
        # Set on the way, no rollback.
        ([(4, {"lr_g": 1}), (8, {"lr_g": 2})], [(4, {"lr_g": 1}), (8, {"lr_g": 2})]),
        # From 12 back to 6: the values set at 8 and 10 are discarded, those set at 4 stay.
        (
            [(4, {"lr_g": 1}), (8, {"lr_g": 2}), (10, {"lr_d": 3}), (6, {"lr_g": 4, "lr_d": 5})],
            [(4, {"lr_g": 1}), (6, {"lr_g": 4, "lr_d": 5})],
        ),
        # Twice back to the same step: the second attempt's values, with other ones at that step.
        ([(4, {"lr_g": 1, "lr_d": 9}), (4, {"lr_g": 2})], [(4, {"lr_g": 2, "lr_d": 9})]),
        # Further back than the first time.
        ([(8, {"lr_g": 1}), (4, {"lr_g": 2}), (0, {"lr_g": 3})], [(0, {"lr_g": 3})]),
        # Back, on, and back again to a step without values.
        (
            [(4, {"lr_g": 1}), (6, {"lr_g": 2}), (5, {"lr_g": 3})],
            [(4, {"lr_g": 1}), (5, {"lr_g": 3})],
        ),
    ],
)
def test_the_path_that_survives(
    log: list[tuple[int, dict[str, float]]], expected: list[tuple[int, dict[str, float]]]
) -> None:
    entries = [
        HParamChange(iteration=i, step=step, reason="r", changes=changes)
        for i, (step, changes) in enumerate(log)
    ]
    assert [(c.step, c.values) for c in surviving_path(entries)] == expected


def test_values_that_were_asked_to_differ_leave_the_schedule() -> None:
    path = (
        Change(step=4, reason="r", values={"lr_g": 1.0}),
        Change(step=6, reason="r", values={"lr_g": 2.0, "lr_d": 3.0}),
    )
    assert without(path, {"lr_g"}) == (Change(step=6, reason="r", values={"lr_d": 3.0}),)


class Falls(Callback):
    """Fall back once, at iteration `at`, to the snapshot of step `to`."""

    def __init__(self, at: int, to: int) -> None:
        self.at, self.to, self.taken = at, to, None

    def on_train_start(self, trainer: Trainer) -> None:
        self.on_step_end(trainer, {})

    def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
        if trainer.step == self.to and self.taken is None:
            self.taken = trainer.snapshot()
        if trainer.iteration == self.at:
            trainer.request_rollback(self.taken, reason="fault", changes={"lr_d": 7e-5})


class Sees(Callback):
    """Record the generators' rate at every step."""

    def __init__(self) -> None:
        self.rates: dict[int, float] = {}

    def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
        self.rates[trainer.step] = trainer.model.optimizer_G.param_groups[0]["lr"]


SCHEDULE = (
    Change(step=0, reason="a", values={"lr_g": 1e-4}),
    Change(step=3, reason="b", values={"lr_g": 2e-4, "lambdas.C_A": 0.25}),
    Change(step=9, reason="c", values={"lr_g": 3e-4}),
)


def test_a_replay_sets_values_behind_the_step_they_were_set_at(config: Config) -> None:
    replay, sees = Replay(SCHEDULE), Sees()
    trainer = Trainer(config, [sees, replay])
    trainer.fit()
    assert [sees.rates[step] for step in (1, 3, 4, 9, 10)] == [1e-4, 1e-4, 2e-4, 2e-4, 3e-4]
    assert [(c.step, dict(c.changes)) for c in trainer.hparam_log] == [
        (c.step, c.values) for c in SCHEDULE
    ]
    assert trainer.hparam_log[0].reason == "as in the schedule: a"


@pytest.mark.parametrize("stop_at", [0, 2, 3, 4])
def test_an_interrupted_replay_goes_on_and_repeats_nothing(
    config: Config, tmp_path: Path, stop_at: int
) -> None:
    class Stops(Callback):
        def on_train_start(self, trainer: Trainer) -> None:
            self.on_step_end(trainer, {})

        def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
            if trainer.step == stop_at:
                trainer.request_stop("test", outcome="interrupted")

    first = Trainer(config, [Replay(SCHEDULE), Stops()], folder=tmp_path)
    assert first.fit().step == stop_at
    second = Trainer(config, [Replay(SCHEDULE)], folder=tmp_path)
    second.fit(newest_checkpoint(tmp_path))
    assert [c.step for c in second.hparam_log] == [0, 3, 9]


def test_the_first_rollback_of_its_own_ends_a_replay(config: Config) -> None:
    trainer = Trainer(config, [Replay(SCHEDULE), Falls(at=5, to=2)])
    trainer.fit()
    assert [c.step for c in trainer.hparam_log] == [0, 3, 2]
    assert trainer.hparams.lr_g == 1e-4  # that of step 2, from then on
    assert trainer.hparams.lr_d == 7e-5


def faults(*steps: int) -> Callable[..., Fault | None]:
    """Detectors that see a fault at the first visits of these iterations."""

    def judge(self: Guard, trainer: Trainer, *, young: bool) -> Fault | None:
        if trainer.iteration in steps:
            reason = f"at {trainer.iteration}"
            return Fault(kind="exploding", reason=reason, severity=2.0, networks=("C_A",))
        return None

    return judge


OPTIMIZER = {
    "enabled": True,
    "snapshot_every": 2,
    "check_every": 2,
    "warmup": 0,
    "fall_back": 4,
    "keep": 4,
}


@pytest.mark.slow
def test_a_promotion_from_scratch_follows_its_trial_s_surviving_path(
    store: Store, definition_file: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real study with a real optimizer, whose detectors report false faults."""
    monkeypatch.setattr(Guard, "judge", faults(4, 12))
    late = {"name": "none", "prune_after": 100}  # a generator is flat so early
    path = definition_file({"hp_optimizer": OPTIMIZER}, trials=1, pruner=late)
    handle = run_study(load_definition(path), store=store, console=QUIET).handle
    (trial,) = handle.trials()
    schedule = schedule_of(handle.trial_folder(0), store.run(trial.run_id))
    assert [c.step for c in schedule] == [0, 4]  # from 4 to 0, from 8 to 4
    monkeypatch.setattr(Guard, "judge", faults())
    promoted = promote(open_study("s"), store=store, console=QUIET, trial=0, start="scratch")
    assert promoted.replayed == 2
    checkpoint = newest_checkpoint(promoted.finished.folder / "save")
    assert checkpoint is not None
    log = checkpoints.load(checkpoint, formats=(checkpoints.CHECKPOINT_FORMAT,))["hparam_log"]
    assert [(c["step"], c["changes"]) for c in log] == [(c.step, c.values) for c in schedule]
    run = store.find_run(promoted.finished.run_id)
    assert run.metrics["hparam/lr_g"] == pytest.approx(schedule[-1].values["lr_g"])
    # The chart begins with the values set before the first step, not with the configuration's.
    history = store.client.get_metric_history(run.id, "hparam/lr_g")
    assert history[0].value == pytest.approx(schedule[0].values["lr_g"])
    assert load_config(promoted.finished.folder / "config.yaml").hp_optimizer.enabled

    # The checkpoint may have been removed to save space: the schedule and MLflow agree.
    for file in (handle.trial_folder(0) / "save").glob("checkpoint*"):
        file.unlink()
    for source in ("schedule.yaml", "rollbacks.json"):
        again = schedule_of(handle.trial_folder(0), store.run(trial.run_id))
        assert [(c.step, c.values) for c in again] == [(c.step, c.values) for c in schedule], source
        (handle.trial_folder(0) / "schedule.yaml").unlink(missing_ok=True)
    with pytest.raises(DataError, match=r"schedule of its lambdas is lost.*--trial"):
        schedule_of(handle.trial_folder(0), None)
    record = handle.trial_folder(0) / "run.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"rollbacks": 0}))
    assert schedule_of(handle.trial_folder(0), None) == ()
