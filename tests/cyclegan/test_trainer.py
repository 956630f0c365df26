"""The trainer's contracts: determinism, exact resume, requests, rollback, hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cyclegan import Callback, Config, Trainer, parse_config
from cyclegan.checkpoints import CHECKPOINT_NAME
from cyclegan.errors import CheckpointError, ConfigError
from cyclegan.events import RollbackEvent, TrainResult
from cyclegan.snapshot import Snapshot


class Recorder(Callback):
    """Record every event."""

    def __init__(self, name: str = "recorder") -> None:
        self.given_name = name
        self.events: list[str] = []

    @property
    def name(self) -> str:
        return self.given_name

    def on_train_start(self, trainer: Trainer) -> None:
        self.events.append("start")

    def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
        self.events.append(f"step {trainer.step}")

    def on_validation_end(self, trainer: Trainer, report: Any) -> None:
        self.events.append(f"validation {report.step}")

    def on_rollback(self, trainer: Trainer, event: RollbackEvent) -> None:
        self.events.append(f"rollback {event.from_step}->{event.to_step}")

    def on_train_end(self, trainer: Trainer, result: TrainResult) -> None:
        self.events.append(f"end {result.outcome}")

    def on_exception(self, trainer: Trainer, error: BaseException) -> None:
        self.events.append(f"exception {type(error).__name__}")

    def close(self) -> None:
        self.events.append("close")


class At(Callback):
    """Do something at one iteration, once."""

    def __init__(self, iteration: int, action: Any, name: str = "at") -> None:
        self.iteration, self.action, self.given_name = iteration, action, name

    @property
    def name(self) -> str:
        return self.given_name

    def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
        if trainer.iteration == self.iteration:
            self.action(trainer)


class KeepSnapshot(Callback):
    """Take a snapshot at one iteration."""

    def __init__(self, iteration: int) -> None:
        self.iteration = iteration
        self.taken: Snapshot | None = None

    def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
        if trainer.iteration == self.iteration:
            self.taken = trainer.snapshot()


def losses(trainer: Trainer) -> list[dict[str, float]]:
    return [row.values for row in trainer.history.rows()]


def same_networks(one: Trainer, other: Trainer) -> bool:
    pairs = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def fitted(config: Config, *callbacks: Callback, folder: Path | None = None) -> Trainer:
    trainer = Trainer(config, callbacks, folder)
    trainer.fit()
    return trainer


def test_a_seed_fixes_a_training_and_another_one_changes_it(config: Config) -> None:
    one, other = fitted(config), fitted(config)
    assert losses(one) == losses(other)
    assert same_networks(one, other)
    different = fitted(parse_config(config.to_dict() | {"seed": 1}))
    assert losses(different) != losses(one)


def test_global_random_numbers_of_the_caller_do_not_matter(config: Config) -> None:
    one = fitted(config)
    torch.manual_seed(12345)
    torch.rand(7)
    noisy = At(3, lambda trainer: torch.rand(5))
    assert losses(fitted(config, noisy)) == losses(one)


def test_events_come_in_the_documented_order(config: Config) -> None:
    recorder = Recorder()
    fitted(parse_config(config.to_dict() | {"steps": 5}), recorder)
    assert recorder.events == [
        *("start", "step 1", "step 2", "step 3", "step 4", "validation 4", "step 5"),
        *("validation 5", "end completed", "close"),
    ]


@pytest.mark.parametrize(
    ("cut", "precision"), [(4, "fp32"), (7, "fp32"), (12, "fp32"), (7, "bf16")]
)
def test_a_resumed_training_equals_an_uninterrupted_one(
    config: Config, tmp_path: Path, cut: int, precision: str
) -> None:
    changes: dict[str, Any] = {"kickstart": True, "precision": precision}
    if precision == "bf16":
        changes["imsize_A"] = [16, 16, 16]
    config = parse_config(config.to_dict() | changes)
    whole = fitted(config)
    stop = At(cut, lambda t: t.request_stop("SIGTERM", outcome="interrupted"))
    first = Trainer(config, [stop], tmp_path)
    first.fit()
    second = Trainer(config, folder=tmp_path)
    result = second.fit(resume=tmp_path / CHECKPOINT_NAME)
    assert result.outcome == "completed"
    assert losses(second) == losses(whole)
    assert same_networks(second, whole)
    a, b = whole.state_dict(), second.state_dict()
    assert a["samplers"] == b["samplers"]
    assert a["hparams"] == b["hparams"]


def test_resuming_from_an_older_checkpoint_repeats_the_same_steps(
    config: Config, tmp_path: Path
) -> None:
    """After a kill the newest checkpoint is some steps old."""

    def keep_a_copy(trainer: Trainer) -> None:
        (tmp_path / "old.pt").write_bytes((tmp_path / CHECKPOINT_NAME).read_bytes())

    whole = fitted(config, At(7, keep_a_copy), folder=tmp_path)  # holds step 4
    again = Trainer(config)
    again.fit(resume=tmp_path / "old.pt")
    assert losses(again) == losses(whole)


def test_rollback_restores_the_training_but_not_the_random_state(config: Config) -> None:
    keeper = KeepSnapshot(4)

    def back(trainer: Trainer) -> None:
        assert keeper.taken is not None
        trainer.request_rollback(keeper.taken, reason="test", changes={"lr_g": 5e-4})

    recorder = Recorder()
    seen: list[float] = []

    def look(trainer: Trainer) -> None:
        seen.append(trainer.model.optimizer_G.param_groups[0]["lr"])

    trainer = Trainer(config, [keeper, At(6, back), At(7, look, "look"), recorder])
    result = trainer.fit()
    assert "rollback 6->4" in recorder.events
    assert (result.step, result.iteration) == (12, 14)
    # Adam's state remembers its old rate; the new one must be in force nevertheless.
    assert seen == [5e-4]
    assert trainer.model.optimizer_G.param_groups[0]["lr"] == 5e-4
    rows = trainer.history.rows()
    assert [row.iteration for row in rows] == list(range(1, 15))
    assert [row.step for row in rows] == [1, 2, 3, 4, 5, 6, 5, 6, 7, 8, 9, 10, 11, 12]
    assert len(trainer.history.column("loss/G_total")) == 12  # the accepted path
    # Iterations 5 and 7 are both step 5, but see other patches.
    assert rows[4].values != rows[6].values


def test_rollback_puts_back_exactly_what_the_snapshot_took(config: Config) -> None:
    keeper = KeepSnapshot(4)
    before: dict[str, Tensor] = {}
    after: dict[str, Tensor] = {}

    class Compare(Callback):
        def on_rollback(self, trainer: Trainer, event: RollbackEvent) -> None:
            after.update({k: v.clone() for k, v in trainer.model.state_dict().items()})

    def remember(trainer: Trainer) -> None:
        before.update({k: v.clone() for k, v in trainer.model.state_dict().items()})

    def back(trainer: Trainer) -> None:
        trainer.request_rollback(keeper.taken, reason="test")  # type: ignore[arg-type]

    fitted(config, keeper, At(4, remember), At(6, back, "back"), Compare())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[k], after[k]) for k in before)


def test_a_rollback_is_concluded_once_and_its_record_survives_a_resume(
    config: Config, tmp_path: Path
) -> None:
    keeper = KeepSnapshot(4)
    trainer = fitted(
        config,
        keeper,
        At(5, lambda t: t.conclude_rollback("there is none"), "early"),
        At(6, lambda t: t.request_rollback(keeper.taken, reason="test"), "back"),
        At(8, lambda t: t.conclude_rollback("recovered"), "known"),
        At(9, lambda t: t.conclude_rollback("too late"), "late"),
        folder=tmp_path,
    )
    (event,) = trainer.rollbacks
    assert (event.iteration, event.outcome, event.concluded) == (6, "recovered", 8)
    again = Trainer(config)
    again.load_checkpoint(tmp_path / CHECKPOINT_NAME)
    assert again.rollbacks == [event]


def test_a_stop_beats_a_rollback(config: Config) -> None:
    keeper = KeepSnapshot(2)

    def both(trainer: Trainer) -> None:
        trainer.request_rollback(keeper.taken, reason="fault")  # type: ignore[arg-type]
        trainer.request_stop("enough")

    recorder = Recorder()
    trainer = fitted(config, keeper, At(4, both), recorder)
    assert trainer.step == 4
    assert not any(event.startswith("rollback") for event in recorder.events)
    # Every callback saw the step and its validation before the trainer acted.
    assert recorder.events[-4:] == ["step 4", "validation 4", "end stopped", "close"]


def test_the_order_of_callbacks_changes_nothing(config: Config, tmp_path: Path) -> None:
    def run(backwards: bool) -> tuple[TrainResult, list[dict[str, float]]]:
        keeper, older = KeepSnapshot(3), KeepSnapshot(2)
        older.iteration = 2
        type(older)
        callbacks: list[Callback] = [
            keeper,
            At(5, lambda t: t.request_rollback(keeper.taken, reason="b"), "one"),
            At(5, lambda t: t.request_rollback(first[0], reason="a"), "two"),
            At(2, lambda t: first.append(t.snapshot()), "three"),
            At(9, lambda t: t.request_stop("z", outcome="stopped"), "four"),
            At(9, lambda t: t.request_stop("gate", outcome="pruned"), "five"),
        ]
        first: list[Snapshot] = []
        trainer = Trainer(config, callbacks[::-1] if backwards else callbacks)
        result = trainer.fit()
        return result, losses(trainer)

    forward, backward = run(False), run(True)
    assert forward == backward
    assert (forward[0].outcome, forward[0].reason) == ("pruned", "gate")
    assert forward[0].step == 6  # nine iterations, one rollback from 5 to 2


def test_an_error_is_reported_raised_and_everything_closed(config: Config) -> None:
    def fail(trainer: Trainer) -> None:
        raise ValueError("broken callback")

    recorder = Recorder()
    with pytest.raises(ValueError, match="broken callback"):
        fitted(config, recorder, At(2, fail))
    assert recorder.events[-2:] == ["exception ValueError", "close"]


def test_set_hparams_reaches_losses_and_optimizers_and_is_logged(config: Config) -> None:
    trainer = fitted(
        config, At(3, lambda t: t.set_hparams({"lr_d": 3e-4, "lambdas.C_A": 7}, reason="why"))
    )
    assert trainer.model.optimizer_D.param_groups[0]["lr"] == 3e-4
    assert trainer.hparams.lambdas["C_A"] == (7.0,)
    (change,) = trainer.hparam_log
    assert (change.iteration, change.reason) == (3, "why")
    assert dict(change.changes) == {"lr_d": 3e-4, "lambdas.C_A": 7}
    untouched = fitted(config)
    assert losses(trainer)[:3] == losses(untouched)[:3]
    assert losses(trainer)[4]["loss/G_total"] != losses(untouched)[4]["loss/G_total"]


def test_changed_hparams_survive_a_resume(config: Config, tmp_path: Path) -> None:
    change = At(3, lambda t: t.set_hparams({"lr_d": 3e-4, "lambdas.C_A": 7}))
    whole = fitted(config, change)
    stop = At(6, lambda t: t.request_stop("x", outcome="interrupted"), "stop")
    fitted(config, change, stop, folder=tmp_path)
    again = Trainer(config)
    again.fit(resume=tmp_path / CHECKPOINT_NAME)
    assert losses(again) == losses(whole)
    assert again.hparam_log == whole.hparam_log


def test_a_term_that_was_left_out_cannot_be_raised_in_silence(config: Config) -> None:
    lambdas = config.to_dict()["lambdas"] | {"I_A": 0.0}
    trainer = Trainer(parse_config(config.to_dict() | {"lambdas": lambdas}))
    with pytest.raises(ConfigError, match=r"lambdas\.I_A was 0 at the start"):
        trainer.set_hparams({"lambdas.I_A": 1.0})


def test_two_callbacks_of_one_name_are_refused(config: Config) -> None:
    with pytest.raises(ConfigError, match="'recorder'"):
        Trainer(config, [Recorder(), Recorder()])


def test_callbacks_get_their_state_back(config: Config, tmp_path: Path) -> None:
    class Counter(Callback):
        count = 0

        def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
            self.count += 1

        def state_dict(self) -> dict[str, Any]:
            return {"count": self.count}

        def load_state_dict(self, state: Mapping[str, Any]) -> None:
            self.count = state["count"]

    stop = At(5, lambda t: t.request_stop("x", outcome="interrupted"))
    fitted(config, Counter(), stop, folder=tmp_path)
    counter = Counter()
    Trainer(config, [counter]).fit(resume=tmp_path / CHECKPOINT_NAME)
    assert counter.count == 12


def test_checkpoint_of_other_networks_is_refused(config: Config, tmp_path: Path) -> None:
    fitted(config, folder=tmp_path)
    other = parse_config(config.to_dict() | {"filters": 3})
    with pytest.raises(CheckpointError, match="filters"):
        Trainer(other).fit(resume=tmp_path / CHECKPOINT_NAME)


def test_metrics_are_tensors_and_nothing_is_transferred_at_a_step(config: Config) -> None:
    class Watch(Callback):
        def __init__(self) -> None:
            self.waiting: list[int] = []

        def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
            assert all(isinstance(value, Tensor) for value in metrics.values())
            self.waiting.append(len(trainer.history._waiting))

    watch = Watch()
    fitted(parse_config(config.to_dict() | {"steps": 3, "checkpoint_every": 50}), watch)
    assert watch.waiting == [1, 2, 3]


def test_mean_generator_lags_behind_and_can_be_switched_off(config: Config) -> None:
    trainer = fitted(config)
    assert not same(trainer.model.mean_G_A, trainer.model.G_A)
    off = fitted(parse_config(config.to_dict() | {"ema_decay": 0.0}))
    assert same(off.model.mean_G_A, off.model.G_A)


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_kickstart_closes_cycles_on_the_input_only_while_young(config: Config) -> None:
    def run(**changes: Any) -> list[dict[str, float]]:
        return losses(fitted(parse_config(config.to_dict() | changes)))

    plain = run()
    never = run(kickstart=True, kickstart_probability=0.0)
    always = run(kickstart=True, kickstart_probability=1.0, kickstart_steps=1)
    assert never == plain
    assert always[0]["loss/C_A_l1"] != plain[0]["loss/C_A_l1"]
    assert always[0]["loss/G_A_lsgan"] == plain[0]["loss/G_A_lsgan"]


@pytest.mark.parametrize(
    ("factor", "nets"),
    [(2, ("UNetSim3dSRx2", "UNetSim3dSRd2")), (4, ("UNetSim3dSRx4", "UNetSim3dSRd4"))],
)
def test_super_resolution_trains(
    config: Config, factor: int, nets: tuple[str, str], tmp_path: Path
) -> None:
    changes = {
        "super_resolution": factor,
        "net_A": nets[0],
        "net_B": nets[1],
        "steps": 2,
        "imsize_A": [8, 8, 8],
        "validate_every": 1,
    }
    trainer = fitted(parse_config(config.to_dict() | changes))
    assert trainer.images["fake_B"].shape[2:] == (8 * factor,) * 3
    assert trainer.images["rec_A"].shape == trainer.images["real_A"].shape


def test_loss_by_hand(config: Config) -> None:
    """The generator's total is the weighted sum of the reported metrics."""
    trainer = fitted(config)
    row = losses(trainer)[-1]
    weights = trainer.hparams.lambdas
    total = sum(
        weights[group][0] * row[f"loss/{trainer.config.terms(group)[0].name}"]
        for group in ("G_A", "G_B", "C_A", "C_B", "I_A", "I_B")
    )
    assert row["loss/G_total"] == pytest.approx(total, rel=1e-5)


def test_a_network_can_have_several_named_terms(config: Config) -> None:
    values = config.to_dict()
    values["lossFuncs"] |= {"G_A": ["lsgan", "bce"], "C_B": ["l1", "mse"]}
    values["lossNames"] |= {"G_A": ["fool", "fool_logits"]}
    values["lambdas"] |= {"G_A": [1.0, 0.5], "C_B": [5.0, 2.0]}
    trainer = Trainer(
        parse_config(values), [At(4, lambda t: t.set_hparams({"lambdas.G_A.1": 3.0}))]
    )
    trainer.fit()
    first, last = losses(trainer)[0], losses(trainer)[-1]
    for row, weight in ((first, 0.5), (last, 3.0)):
        total = (
            row["loss/fool"]
            + weight * row["loss/fool_logits"]
            + row["loss/G_B_lsgan"]
            + 0.5 * row["loss/C_A_l1"]
            + 5 * row["loss/C_B_l1"]
            + 2 * row["loss/C_B_mse"]
            + 3 * row["loss/I_A_l1"]
            + 3 * row["loss/I_B_l1"]
        )
        assert row["loss/G_total"] == pytest.approx(total, rel=1e-5)


def test_truth_tables_count_every_patch(config: Config) -> None:
    row = losses(fitted(config))[0]
    for name in ("D_A", "D_B"):
        real = row[f"truth/{name}_TP"] + row[f"truth/{name}_FN"]
        fake = row[f"truth/{name}_FP"] + row[f"truth/{name}_TN"]
        assert real == fake == 8
