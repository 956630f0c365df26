"""Forecasts: the simulation prunes as Optuna does, costs add up, the probe leaves no trace."""

from __future__ import annotations

import functools
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import yaml

from cyclegan.config import parse_config
from search.study.definition import StudyDefinition, parse_definition
from search.study.forecast import Probe, _player, checkpoint_bytes, cost, disk_bytes, effort, probe
from workbench import cli
from workbench.session import run

PROBE = Probe(
    device="cpu",
    precision="fp32",
    steps=10,
    start=10.0,
    step=0.5,
    validation=2.0,
    checkpoint=1.0,
    core_share=1.0,
    checkpoint_bytes=1_000,
    generator_bytes=100,
    picture_bytes=10,
)


def definition(tiny: dict[str, Any], pruner: dict[str, Any], **changes: Any) -> StudyDefinition:
    values = {
        "name": "s",
        "config": tiny,
        "space": {"lr_g": {"type": "float", "low": 1e-4, "high": 1e-2}},
        "pruner": {"prune_after": 1000} | pruner,
        "trials": 12,
        "steps": 4000,
        "report_every": 100,
    }
    return parse_definition(values | changes, Path("study.yaml"))


@pytest.mark.parametrize(
    "pruner",
    [
        {"name": "successive_halving"},
        {"name": "successive_halving", "reduction_factor": 3},
        {"name": "successive_halving", "prune_after": 1050},
        {"name": "hyperband"},
        {"name": "median"},
        {"name": "none"},
    ],
    ids=str,
)
def test_the_play_prunes_what_optuna_prunes(tiny: dict[str, Any], pruner: dict[str, Any]) -> None:
    parsed = definition(tiny, pruner)
    for seed in range(3):
        play = _player(parsed)
        study = optuna.create_study(
            direction="maximize", pruner=parsed.pruner.build(parsed.steps), study_name="s"
        )
        for number, quality in enumerate(np.random.default_rng(seed).permutation(12)):
            trial = study.ask()
            ended = parsed.steps
            for step in range(100, 4000, 100):
                trial.report(float(quality), step)
                if trial.should_prune():
                    ended = step
                    study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                    break
            else:
                study.tell(trial, float(quality))
            failed = [i for _, _, i, passed in play(number, float(quality)) if not passed]
            assert (failed or [parsed.steps]) == [ended], (seed, number)


def test_the_effort_of_a_study_with_pauses_is_played(tiny: dict[str, Any]) -> None:
    found = effort(definition(tiny, {"name": "thaw"}))
    assert found == effort(definition(tiny, {"name": "thaw"}))
    assert found.expected is not None
    assert 12 * 1000 < found.expected < found.at_most
    assert 1.0 <= found.complete < 12.0
    twice = effort(definition(tiny, {"name": "thaw"}, seeds=2))
    assert twice.expected == pytest.approx(found.expected + 4000 * found.complete, abs=1)
    eager = effort(definition(tiny, {"name": "thaw", "least_chance": 0.4}))
    assert eager.expected is not None and eager.expected < found.expected
    many = effort(definition(tiny, {"name": "thaw"}, trials=600))
    assert many.expected is not None and many.complete > 10 * found.complete


def test_effort_of_a_study(tiny: dict[str, Any]) -> None:
    whole = effort(definition(tiny, {"name": "none"}, seeds=3))
    assert (whole.at_most, whole.expected, whole.trainings) == (144_000, 144_000, 36.0)
    halving = effort(definition(tiny, {"name": "successive_halving"}, seeds=3))
    assert halving.expected is not None
    assert 12 * 1000 < halving.expected < whole.at_most
    first, second = halving.rungs
    assert (first.iteration, second.iteration, first.arrive) == (1000, 2000, 12.0)
    assert first.go_on == second.arrive
    assert second.go_on == halving.complete
    assert halving.trainings == pytest.approx(12 + 2 * halving.complete)
    only_one = effort(definition(tiny, {"name": "successive_halving"}))
    assert only_one.expected is not None
    # With real curves Optuna needed about 55 % of the steps.
    assert 0.45 < only_one.expected / only_one.at_most < 0.7
    assert only_one.expected + 8000 * only_one.complete == pytest.approx(halving.expected, abs=1)
    assert effort(definition(tiny, {"name": "patience"})).expected is None
    brackets = {rung.bracket for rung in effort(definition(tiny, {"name": "hyperband"})).rungs}
    assert brackets == {0, 1}  # the third is never judged before the last step


def test_costs_add_up(tiny: dict[str, Any]) -> None:
    parsed = definition(
        tiny, {"name": "none"}, trials=2, steps=1000, checkpoints={"keep_trials": 1}
    )
    config = parse_config(tiny | {"checkpoint_every": 200, "keep_checkpoints": 2})
    found = cost(parsed, config, effort(parsed), PROBE)
    # Starts and last checkpoints, steps, validations, checkpoints.
    seconds = 2 * 11 + 2000 * 0.5 + 20 * 2.0 + 10 * 1.0
    assert found.hours == found.hours_at_most == pytest.approx(seconds / 3600)
    # Checkpoints of the best and the running one; generators and pictures in two places.
    assert found.disk_bytes == 2 * 2 * 1000 + 2 * (2 * 100 + 20 * 10)
    stopped = parsed.model_copy(
        update={"stop": parsed.stop.model_copy(update={"iterations": 1000})}
    )
    assert cost(stopped, config, effort(stopped), PROBE).hours < found.hours
    assert disk_bytes(parsed, config, 0, effort(parsed), PROBE) < found.disk_bytes


def test_a_checkpoint_holds_pools_and_snapshots(tiny: dict[str, Any]) -> None:
    plain = parse_config(tiny)
    assert checkpoint_bytes(plain, PROBE) == 1000
    pools = parse_config(tiny | {"pool_size": 3})
    assert checkpoint_bytes(pools, PROBE) == 1000 + 3 * 2 * 8**3 * 4
    ring = parse_config(tiny | {"hp_optimizer": {"enabled": True, "keep": 5}})
    assert checkpoint_bytes(ring, PROBE) == 8 * 1000


def test_the_probe_measures_and_leaves_nothing(
    empty_project: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = empty_project / "tmp"
    elsewhere.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(elsewhere))
    found = probe(parse_config(tiny), seconds=0.0)
    assert found.steps == 10
    assert min(found.start, found.step, found.validation, found.checkpoint) > 0
    assert found.checkpoint_bytes > found.generator_bytes > 1000
    assert found.picture_bytes > 0
    assert 0 < found.core_share <= 1
    own = ("torchinductor", "cyclegan-")  # folders of this process, which stay until it ends
    left = {path.name for path in empty_project.rglob("*") if not path.name.startswith(own)}
    assert left == {"mlruns", "studies", "tmp"}


@pytest.mark.parametrize("name", ["tpe", "grid"])
def test_validate_shows_space_rungs_and_costs(
    empty_project: Path,
    tiny: dict[str, Any],
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    content = {
        "name": "s",
        "config": tiny,
        "space": {
            "lr_g": {"type": "float", "low": 1e-3, "high": 1e-2, "log": True},
            "filters": {"type": "int", "low": 2, "high": 4},
        },
        "sampler": {"name": name, "seed": 7},
        "pruner": {"name": "successive_halving", "prune_after": 6},
        "steps": 12,
        "report_every": 4,
        "stop": {"hours": 2},
    }
    if name == "grid":
        content["space"]["lr_g"]["points"] = 3
    (empty_project / "s.yaml").write_text(yaml.safe_dump(content))

    module = "search.study.forecast.probe"
    monkeypatch.setattr(module, functools.partial(probe, seconds=0))  # ten steps, not ten seconds

    def call(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["cyclegan", "study", "validate", "s.yaml", *arguments])
        assert run(cli.app) == 0
        return capsys.readouterr().out

    text = call("--no-probe")
    assert "rung 0 at step 8" in text  # the first report from 6 on
    assert f"sampler {name}, seed 7" in text
    assert "after 2 hours" in text
    assert ("9 of 9 combinations" in text) == (name == "grid")
    assert ("one of 0.001, 0.00316228, 0.01" in text) == (name == "grid")
    data = json.loads(call("--json", "--quiet"))
    assert data["trials"] == (9 if name == "grid" else 20)
    assert data["forecast"]["rungs"][0]["iteration"] == 8
    assert data["probe"]["steps"] >= 10
    assert data["cost"]["hours"] > 0
    assert not (empty_project / "results").exists()
    assert not list((empty_project / "mlruns").iterdir())
