"""Studies as text: best first, within the terminal's width, with comparable curves."""

from __future__ import annotations

import json
from typing import Any

import optuna
import pytest

from cyclegan.errors import DataError
from search.promotion.confirm import best_trials
from search.study.trials import best_first
from viz.text import short_names, short_text, sparklines
from workbench.study_tables import best_data, best_text, one_line, study_data, study_table

WIDE = {
    f"lambdas.{group}": {"type": "float", "low": 0.1, "high": 10.0, "log": True}
    for group in ("G_A", "G_B", "D_A", "D_B", "C_A", "C_B", "I_A", "I_B")
}


def test_trials_stand_best_first_with_state_cost_and_reason(make_study: Any) -> None:
    lines = study_table(make_study(8), width=200, blocks=True).splitlines()
    assert lines[0].startswith("made: 8 of 8 trials, best score ")
    assert lines[0].endswith("; 4 complete, 4 pruned; 2080 iterations, 8.3 min")
    rows = [line.split() for line in lines[3:11]]
    assert [row[1] for row in rows] == ["complete"] * 4 + ["pruned"] * 4
    for part in (rows[:4], rows[4:]):
        scores = [float(row[2]) for row in part]
        assert scores == sorted(scores, reverse=True)
    assert {tuple(row[3:5]) for row in rows[:4]} == {("400", "410")}  # steps, iterations
    assert lines[2].split()[:8][-1] == "expected"
    assert "  trial 7 pruned: gate at step 100: flat" in lines


def test_of_thousands_of_trials_the_table_has_the_best_and_the_unfinished(make_study: Any) -> None:
    handle = make_study(260)
    handle.study.ask()
    lines = study_table(handle, width=200).splitlines()
    assert "260 of 260 trials" in lines[0]
    (end,) = [at for at, line in enumerate(lines) if line.startswith("and 60 more: ")]
    assert lines[end].endswith("cyclegan study export made --output trials.csv")
    shown = [line.split()[:2] for line in lines[3:end]]
    best = best_first(handle.trials())[:200]
    assert shown == [*([str(t.number), t.state] for t in best), ["260", "interrupted"]]
    assert len(study_data(handle)["trials"]) == 261


def test_it_is_said_why_another_trial_than_the_luckiest_is_promoted(make_study: Any) -> None:
    handle = make_study(40, {"lr_g": {"type": "float", "low": 1e-5, "high": 1e-1, "log": True}})
    worst = handle.recommended()[-1]
    frozen = handle.study.get_trials()[worst.number]
    lucky = optuna.trial.create_trial(
        value=(handle.best().score or 0.0) + 0.05,
        params={"lr_g": 1.1 * frozen.params["lr_g"]},
        distributions=frozen.distributions,
        intermediate_values=frozen.intermediate_values,
        user_attrs=frozen.user_attrs,
    )
    handle.study.add_trial(lucky)
    assert handle.best().number == 40
    first = handle.to_promote()
    assert first.number != 40
    assert f"promote takes trial {first.number}, of which {first.expected:.2f} is expected" in (
        study_table(handle)
    )
    assert f"promote takes trial {first.number}" in best_text(handle)
    data = study_data(handle)
    assert (data["best"]["number"], data["promotes"]) == (40, first.number)
    # A complete trial without a usable generator changes nothing.
    handle.study.add_trial(
        optuna.trial.create_trial(
            value=-100.0,
            params={"lr_g": 1e-4},
            distributions=frozen.distributions,
            user_attrs=frozen.user_attrs,
        )
    )
    assert handle.to_promote().number == first.number
    assert handle.recommended()[-1].number == 41
    racing = [trial.number for trial in best_trials(handle, 3)]
    assert racing[0] == first.number
    assert 40 not in racing


@pytest.mark.parametrize("width", [72, 80, 100, 140])
def test_a_wide_space_keeps_to_the_terminal_and_shows_every_value(
    make_study: Any, width: int
) -> None:
    handle = make_study(8, WIDE)
    text = study_table(handle, width=width, blocks=True)
    assert max(map(len, text.splitlines()[1:])) <= width
    for trial in handle.trials():
        for value in trial.values.values():
            assert short_text(value) in text
    assert "lambdas." not in text
    assert "lambdas.G_A" in json.dumps(study_data(handle))


def test_columns_are_the_union_of_what_the_trials_searched(make_study: Any) -> None:
    handle = make_study(2)
    other = optuna.trial.create_trial(
        value=9.0,
        params={"lambdas.I_A": 0.125},
        distributions={"lambdas.I_A": optuna.distributions.FloatDistribution(0.1, 1)},
    )
    handle.study.add_trial(other)
    header, *rows = study_table(handle, width=300).splitlines()[2:6]
    assert header.split()[-5:] == ["lr_g", "C_A", "batch_size", "norm_D", "I_A"]
    assert rows[0].split()[-1] == "0.125"
    assert study_data(handle)["keys"][-1] == "lambdas.I_A"
    assert best_text(handle).endswith("\n  lambdas.I_A = 0.125")


def test_plain_values_are_strict_json_with_curves_and_what_a_trial_bears(make_study: Any) -> None:
    handle = make_study(3)
    attrs = {
        "verdict": {"rung": 0, "margin": 1.5},
        "origin": {"commit": "abc"},
        "seeds": [{"seed": 1, "run_id": "x", "score": 1.0, "iteration": 5}],
        "deaths": 2,
    }
    handle.study.add_trial(
        optuna.trial.create_trial(
            state=optuna.trial.TrialState.PRUNED,
            intermediate_values={50: 1.0, 100: float("nan")},
            user_attrs=attrs | {"deaths": {"at": 50, "count": 2}},
        )
    )
    data = json.loads(json.dumps(study_data(handle), allow_nan=False))
    assert data["trials"][3] | attrs == data["trials"][3]
    assert data["trials"][3]["curve"] == [[50, 1.0]]
    assert [len(t["curve"]) for t in data["trials"]] == [8, 2, 8, 1]
    assert data["states"] == {"complete": 2, "pruned": 2}
    assert best_data(handle) == data["best"]


def test_nothing_done_yet(make_study: Any) -> None:
    handle = make_study(0)
    assert one_line(handle) == "made: 0 of 1 trials, no result yet"
    assert study_table(handle, width=80).splitlines()[2].split()[:2] == ["trial", "state"]
    with pytest.raises(DataError, match="no complete trial yet"):
        best_data(handle)


def test_a_higher_character_is_a_better_score_whatever_the_gates() -> None:
    curves = [[(10, -100.0), (40, 5.0)], [(10, 4.9), (20, 5.1)], [], [(40, -3e6)]]
    gated, short, empty, worst = sparklines(curves, width=4, blocks=False)
    levels = "_.:-=+*#"
    height = [levels.index(c) for c in (worst[3], gated[0], short[0], gated[3], short[1])]
    assert height == sorted(height)
    assert len(set(height)) == 5
    assert (gated[1:], short[2:], empty) == (3 * gated[3], "  ", "    ")
    assert sparklines(curves, width=4)[0] != gated  # block characters
    assert sparklines([[(1, 2.0)]], width=3) == ["▅▅▅"]


def test_short_names_tell_keys_apart() -> None:
    keys = ["lr_g", "lambdas.C_A", "lossNames.C_A", "lambdas.G_A.0", "lambdas.G_A.1", "lambdas.D_B"]
    assert list(short_names(keys).values()) == [
        *("lr_g", "lambdas.C_A", "lossNames.C_A", "G_A.0", "G_A.1", "D_B")
    ]
