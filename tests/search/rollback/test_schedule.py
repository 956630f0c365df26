"""A schedule leads another training along the final path of the first one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from torch import Tensor

from cyclegan import Callback, Config, Trainer, parse_config
from cyclegan.config import HPOptimizer
from cyclegan.errors import ConfigError, DataError
from cyclegan.events import RollbackEvent
from search.rollback import Fault, RollbackOptimizer
from search.rollback.guard import Guard
from search.rollback.schedule import Replay, read_schedule, to_yaml

SETTINGS = HPOptimizer(enabled=True, snapshot_every=2, check_every=2, warmup=0, fall_back=4, keep=4)


class Values(Callback):
    """The values in force at each step of the accepted path, and whether kickstart acts."""

    def __init__(self) -> None:
        self.values: dict[int, tuple[dict[str, float], bool]] = {}

    def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
        kickstarted = trainer.kickstarted(trainer.step - 1)
        self.values[trainer.step] = (trainer.model.hparams.flat(), kickstarted)

    def on_rollback(self, trainer: Trainer, event: RollbackEvent) -> None:
        self.values = {step: v for step, v in self.values.items() if step <= trainer.step}


class Finds(Guard):
    """Find faults at some iterations."""

    def judge(self, trainer: Trainer, *, young: bool) -> Fault | None:
        if trainer.iteration not in (4, 12, 16):
            return None
        return Fault(kind="inverted", reason="x: y #", severity=2.0, networks=("C_A",))


def eventful(config: Config) -> tuple[Trainer, Values]:
    path = Values()
    # The path comes first: it sees the values used for the step.
    trainer = Trainer(config, [path, RollbackOptimizer(SETTINGS, policy=Finds(SETTINGS))])
    trainer.fit()
    assert len(trainer.rollbacks) == 3
    return trainer, path


def test_a_replay_has_the_same_values_at_every_step(config: Config, tmp_path: Path) -> None:
    first, path = eventful(config)
    file = tmp_path / "schedule.yaml"
    file.write_text(to_yaml(first))
    # Its own lambdas are different at the start: those of the schedule count.
    other = parse_config(config.to_dict() | {"lr_g": 7e-3, "seed": 5})
    replayed = Values()
    again = Trainer(other, [replayed, Replay(read_schedule(file, other))])
    result = again.fit()
    assert result.iteration == config.steps  # no step was discarded
    assert again.rollbacks == []
    assert replayed.values == path.values
    assert any(on for _, on in replayed.values.values())


def test_the_file_of_a_calm_training_has_its_first_values(config: Config) -> None:
    trainer = Trainer(config)
    trainer.fit()
    content = yaml.safe_load(to_yaml(trainer))
    (only,) = content["changes"]
    assert (only["step"], only["reason"]) == (0, "start")
    assert only["values"]["lr_g"] == config.lr_g


def test_a_replay_that_is_killed_goes_on_where_it_was(config: Config, tmp_path: Path) -> None:
    first, path = eventful(config)
    file = tmp_path / "schedule.yaml"
    file.write_text(to_yaml(first))
    schedule = read_schedule(file, config)

    class StopAt(Callback):
        def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
            if trainer.iteration == 5:
                trainer.request_stop("SIGTERM", outcome="interrupted")

    Trainer(config, [Replay(schedule), StopAt()], tmp_path / "save").fit()
    replayed = Values()
    again = Trainer(config, [replayed, Replay(schedule)])
    again.fit(resume=tmp_path / "save" / "checkpoint.pt")
    assert replayed.values == {s: v for s, v in path.values.items() if s > 5}


def good(**changes: Any) -> dict[str, Any]:
    change = {"step": 4, "reason": "r", "kickstart": 0, "values": {"lr_g": 1e-4}} | changes
    return {"format": "cyclegan-schedule-1", "changes": [change]}


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        ("[", DataError, "not valid YAML"),
        ({"a": 1}, DataError, "not a schedule"),
        ({"format": "cyclegan-schedule-1"}, DataError, "changes need"),
        (good(step="x"), DataError, "changes need"),
        (good(step=-1), DataError, "negative"),
        (good(values={"lr_g": "nan"}), DataError, "finite"),
        (good(values={"lr_x": 1e-4}), ConfigError, "did you mean 'lr_"),
        ("!!python/object/apply:os.system [ls]", DataError, "not valid YAML"),
    ],
)
def test_a_wrong_file_is_refused_before_the_training(
    config: Config, tmp_path: Path, content: Any, error: type[Exception], words: str
) -> None:
    file = tmp_path / "schedule.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    with pytest.raises(error, match=words) as caught:
        read_schedule(file, config)
    assert str(file) in str(caught.value)


def test_a_missing_file_is_named(config: Config, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"hp_optimizer.schedule = .*nowhere.yaml"):
        read_schedule(tmp_path / "nowhere.yaml", config)


def test_a_term_that_the_training_does_not_have_is_refused(config: Config, tmp_path: Path) -> None:
    file = tmp_path / "schedule.yaml"
    file.write_text(yaml.safe_dump(good(values={"lambdas.I_A": 3.0})))
    read_schedule(file, config)
    lambdas = config.to_dict()["lambdas"] | {"I_A": 0, "I_B": 0}
    with pytest.raises(ConfigError, match=r"lambdas.I_A = 3.*above 0"):
        read_schedule(file, parse_config(config.to_dict() | {"lambdas": lambdas}))


def test_replay_needs_a_schedule() -> None:
    values = {"data_A": "a", "data_B": "b", "hp_optimizer": {"enabled": True, "policy": "replay"}}
    with pytest.raises(ConfigError, match=r"hp_optimizer.schedule"):
        parse_config(values)
