"""`cyclegan compare` reports what differs or is missing, but not what is the same."""

from __future__ import annotations

from typing import Any

import pytest

from tracking import Store
from workbench.compare.cycles import chosen
from workbench.compare.runs import differing, judged_iteration


def test_a_run_compared_with_itself_differs_in_nothing(make_run: Any, compare: Any) -> None:
    make_run("one")
    found = compare("one", "one")
    assert found["parameters"]["differ"] == {}
    assert found["parameters"]["same"] == 3
    assert found["warnings"] == []
    assert found["comparable"]
    (pair,) = found["images"]["pairs"]
    assert (pair["rms"], pair["largest"]) == (0, 0)
    assert pair["correlation"] == pytest.approx(1)
    assert min(pair["fsc"]["value"]) == pytest.approx(1, rel=1e-4)
    assert pair["agree_to_voxels"] == 2
    assert all(row["best"] == [] for row in found["metrics"]["judged"].values())


def test_the_parameters_that_differ_are_exactly_those(make_run: Any, compare: Any) -> None:
    make_run("one", params={"filters": 8, "betas": "[0.5, 0.999]"})
    make_run("two", params={"lr_g": 2e-3, "filters": "8.0", "depth": "4"})
    found = compare("one", "two")["parameters"]
    assert found["differ"] == {
        "lr_g": ["0.001", "0.002"],
        "betas": ["[0.5, 0.999]", "default"],
        "depth": ["default", "4"],
    }
    assert found["same"] == 3  # lambdas.C_A, steps, filters


def test_a_parameter_that_a_resumed_training_changed_has_both_values() -> None:
    changed = {"lr_g": "0.001 -> 0.002"}
    assert differing([{"lr_g": "0.001"}, changed]).values == {"lr_g": ("0.001", "0.001 -> 0.002")}
    assert differing([{"a": "1"}, {"a": "1e0"}, {"a": "1.0"}]).values == {}


def test_the_best_is_marked_where_it_was_judged(make_run: Any, compare: Any, call: Any) -> None:
    make_run("one", scores=(-3.0, -1.0, -2.0))
    make_run("two", scores=(-100.0, -4.0, -5.0))
    rows = compare("one", "two")["metrics"]
    assert rows["judged"]["score"] == {"values": [-1.0, -4.0], "best": [1]}
    assert rows["judged"]["at iteration"]["values"] == [20, 20]
    assert rows["judged"]["score/shell_gain"]["values"] == [-0.1, -0.4]
    assert rows["last"]["score"]["values"] == [-2.0, -5.0]
    assert rows["last"]["loss/C_A_l1"]["best"] == []
    _, out, _ = call("one", "two")
    assert "-1*" in out


def test_other_data_are_warned_of_and_nothing_is_best(
    make_run: Any, compare: Any, call: Any
) -> None:
    make_run("one")
    make_run("two", data={"A": "aaaa1111bbbb2222", "B": "eeee"}, scores=(-9.0,))
    found = compare("one", "two")
    assert found["data"]["A"]["equal"] is True
    assert found["data"]["B"]["equal"] is False
    assert not found["comparable"]
    assert all(row["best"] == [] for row in found["metrics"]["judged"].values())
    (warning,) = found["warnings"]
    assert "different data" in warning
    assert "2 eeee" in warning
    assert "warning: judged on different data" in call("one", "two")[1]
    make_run("old", data={})
    (unknown,) = compare("one", "old")["warnings"]
    assert "run 2: the data is not recorded" in unknown


def test_another_validation_is_warned_of(make_run: Any, compare: Any) -> None:
    make_run("one", params={"imsize_A": "[32, 32, 32]"})
    make_run("two", params={"imsize_A": "[64, 64, 64]"})
    assert "imsize_A" in "".join(compare("one", "two")["warnings"])


def test_two_trainings_agree_where_they_share_and_not_beyond(make_run: Any, compare: Any) -> None:
    make_run("one", 1)
    make_run("two", 2)
    found = compare("one", "two")["images"]
    (pair,) = found["pairs"]
    assert pair["fsc"]["value"][0] > 0.9
    assert pair["fsc"]["value"][-1] < 0.5
    assert 2 < pair["agree_to_voxels"] < 16
    assert pair["rms"] == pytest.approx(0.2 * 2**0.5, rel=0.05)
    assert found["missing"] == []
    assert set(found["spectra"]) == {"1", "2", "real_A", "real_B"}


def test_only_translations_of_the_same_input_are_measured(make_run: Any, compare: Any) -> None:
    make_run("one", 1)
    make_run("two", 2, input_seed=9)
    make_run("three", 3)
    make_run("fine", 4, scale=2)
    found = compare("one", "two", "three", "fine")["images"]
    assert found["measured"] == [1, 3]
    assert [pair["runs"] for pair in found["pairs"]] == [[1, 3]]
    (line,) = found["missing"]
    assert "real_A" in line
    assert "runs 1 and 3; run 2; run 4" in line


def test_runs_without_volumes_are_still_compared(make_run: Any, compare: Any, call: Any) -> None:
    make_run("one", 1)
    make_run("none", None, scores=())
    found = compare("one", "none")
    assert found["images"]["pairs"] == []
    assert found["images"]["missing"] == ["run 2: its images are not stored as volumes"]
    assert found["runs"][1]["score"] is None
    code, out, _ = call("none", "none")
    assert code == 0
    assert "no metrics to compare" in out
    assert out.count("missing: run") == 2


def test_the_volumes_are_those_of_the_best_or_last_validation(make_run: Any, compare: Any) -> None:
    make_run("one", 1)
    make_run("old", 1, file="cycle_{}.h5")  # as names once were
    best, last = compare("one", "old"), compare("one", "old", "--at", "last")
    assert [run["images_of"] for run in best["runs"]] == [20, 20]
    assert [run["images_of"] for run in last["runs"]] == [30, 30]
    assert best["images"]["pairs"][0]["rms"] == 0
    assert chosen([10, 20], {10: -100.0, 20: -7.0}, "best") == 20
    assert chosen([10, 20], {}, "best") == 20


def test_the_judged_validation_is_the_one_that_counted() -> None:
    curve = {10: -100.0, 20: -3.0, 30: -2.0, 40: -3.0}
    assert judged_iteration(curve) == 30
    assert judged_iteration(curve, -3.0) == 40
    assert judged_iteration({10: -100.0}) == 10
    assert judged_iteration({}) is None


def test_runs_are_found_by_id_and_by_trial(make_run: Any, compare: Any) -> None:
    one = make_run("one")
    trial = Store.open().create_run(
        "demo", "demo-003", kind="trial", params={}, tags={"study": "demo", "trial": "3"}
    )
    found = compare(one.id[:10], "demo:3")
    assert [run["id"] for run in found["runs"]] == [one.id, trial.id]
    assert [run["number"] for run in found["runs"]] == [1, 2]


def test_too_few_and_too_many_runs_are_refused(make_run: Any, call: Any) -> None:
    make_run("one", None)
    for count in (1, 9):
        code, out, err = call(*["one"] * count)
        assert (code, out) == (2, "")
        assert f"2 to 8 runs, not {count}" in err
    code, _, err = call("one", "onne")
    assert code == 1
    assert "did you mean 'one'" in err


def test_a_damaged_volume_is_one_line(make_run: Any, compare: Any) -> None:
    run = make_run("one", 1)
    make_run("two", 2)
    for name in ("cycle_00000020.h5", "cycle_00000030.h5"):
        run.log_text("no HDF5", f"volumes/{name}")
    found = compare("one", "two")["images"]
    assert found["measured"] == [2]
    assert "can't be read" in found["missing"][0]


def test_enhanced_volumes_are_compared_in_blocks(make_enhancement: Any, compare: Any) -> None:
    make_enhancement("a", 1)
    make_enhancement("b", 2)
    make_enhancement("other", 3, volume="other.h5")
    make_enhancement("gone", None)
    found = compare("a", "b", "other", "gone")
    images = found["images"]
    assert images["what"] == "enhanced"
    (pair,) = images["pairs"]
    assert pair["rms"] == pytest.approx(0.2 * 2**0.5, rel=0.05)
    assert pair["fsc"]["value"][0] > 0.9
    assert "run 4: its volume is gone, gone.h5" in images["missing"]
    assert any("inputs, regions" in line for line in images["missing"])
    assert not found["comparable"]  # other.h5
    same = compare("a", "a")
    assert same["images"]["pairs"][0]["largest"] == 0
    assert same["comparable"]
