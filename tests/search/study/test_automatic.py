"""The sampler and the pruner that a study takes when it names none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cyclegan.errors import ConfigError
from search.study import open_study, run_study
from search.study.automatic import MOST_MODELLED, why
from search.study.definition import load_definition
from tracking import Store
from viz.console import Console
from workbench.study_preview import preview_text

LONG: dict[str, Any] = {"pruner": "auto", "steps": 2000, "report_every": 100}


def test_a_study_that_names_neither_takes_what_was_best_on_recorded_trainings(
    define: Any,
) -> None:
    definition = define(**LONG)
    assert (definition.sampler.name, definition.pruner.name) == ("noisy_gp", "none")
    assert why(definition) == (
        "auto: sampler noisy_gp (it learns from pruned trials and recorded trainings, too), "
        "pruner none (with what noisy_gp knows beforehand, whole trials found better ones)"
    )
    text = preview_text(definition, None)
    assert "taken by auto: it learns from pruned trials and recorded trainings, too" in text
    assert "taken by auto: with what noisy_gp knows beforehand, whole trials" in text
    assert "begins where trainings on other data were good" in text
    alone = define(**LONG, sampler={"name": "noisy_gp", "recorded_trials": False})
    assert "the first 10 trials from a Sobol sequence" in preview_text(alone, None)


@pytest.mark.parametrize(
    ("changes", "sampler", "pruner"),
    [
        ({"steps": 1000}, "noisy_gp", "none"),
        ({"objective": "score/lowpass_correlation"}, "tpe", "percentile"),
        ({"objective": "score/pseudo_pair_gain_db"}, "noisy_gp", "percentile"),
        ({"objective": ["score", "seconds"]}, "tpe", "none"),
        ({"trials": MOST_MODELLED + 1}, "tpe", "percentile"),
        ({"sampler": "random"}, "random", "percentile"),
        ({"pruner": {"name": "median"}}, "noisy_gp", "median"),
        ({"sampler": {"recorded_trials": False}}, "noisy_gp", "percentile"),
        ({"sampler": {"recorded_trials": False}, "warm_start": ["before"]}, "noisy_gp", "none"),
        ({"sampler": {"recorded_trials": False}, "steps": 1000}, "noisy_gp", "none"),
        ({"sampler": "tpe", "pruner": {"prune_after": 300}, "steps": 400}, "tpe", "percentile"),
    ],
)
def test_what_is_taken_fits_the_study(
    define: Any, changes: dict[str, Any], sampler: str, pruner: str
) -> None:
    definition = define(**LONG | changes)
    assert (definition.sampler.name, definition.pruner.name) == (sampler, pruner)


def test_what_a_study_names_has_no_reason(define: Any) -> None:
    named = define(sampler="tpe", pruner={"name": "median"}, steps=2000, report_every=100)
    assert why(named) == ""
    assert "taken by auto" not in preview_text(named, None)


def test_a_function_space_gets_a_sampler_whose_keys_may_change(project: Path, tiny: Any) -> None:
    (project / "space.py").write_text(
        'def space(trial):\n    return {"lr_g": trial.suggest_float("lr_g", 1e-4, 1e-2)}\n'
    )
    content = {"name": "s", "config": tiny, "space": "space.py:space", "steps": 2000}
    (project / "s.yaml").write_text(yaml.safe_dump(content))
    definition = load_definition(project / "s.yaml")
    assert (definition.sampler.name, definition.pruner.name) == ("tpe", "percentile")


def test_a_study_goes_on_with_what_it_took_when_it_began(
    project: Path, tiny: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {
        "name": "s",
        "config": tiny,
        "space": {"lr_g": {"type": "float", "low": 1e-4, "high": 1e-2, "log": True}},
        "trials": 1,
        "steps": 4,
        "report_every": 4,
    }
    path = project / "studies" / "s.yaml"
    path.write_text(yaml.safe_dump(content))
    store, console = Store.open(), Console()
    run_study(load_definition(path), store=store, console=console)
    assert "study s: auto: sampler noisy_gp (" in capsys.readouterr().err
    # A later version may prefer another one.
    monkeypatch.setattr("search.study.automatic._sampler", lambda definition: ("tpe", "better"))
    later = load_definition(path).with_trials(2)
    assert later.sampler.name == "tpe"
    run_study(later, store=store, console=console)
    assert len(open_study("s").trials()) == 2
    assert open_study("s").definition.sampler.name == "noisy_gp"
    assert "auto:" not in capsys.readouterr().err
    # What the file does name must still be the same.
    path.write_text(yaml.safe_dump(content | {"sampler": {"seed": 1}, "trials": 3}))
    with pytest.raises(ConfigError, match="started with another 'sampler'"):
        run_study(load_definition(path), store=store, console=console)


@pytest.mark.parametrize("key", ["sampler", "pruner"])
def test_settings_of_a_kind_that_is_not_named_are_refused(define: Any, key: str) -> None:
    assert define(**{key: "random" if key == "sampler" else "none"})
    if key == "pruner":
        with pytest.raises(ConfigError, match="reduction_factor is for successive_halving"):
            define(pruner={"reduction_factor": 3})
    with pytest.raises(ConfigError, match=f"{key}.name = 'best'"):
        define(**{key: "best"})
