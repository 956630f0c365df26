"""The benchmark that validates the score: its draws, its criteria and its tables."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from cyclegan.config import Lambdas
from cyclegan.errors import ConfigError
from cyclegan.metrics.spectrum import cylindrical_share, gaussian_low_pass
from cyclegan.score import Score

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
MODULES = ("pool", "degradations", "tables", "failures", "validity")


@pytest.fixture(scope="module")
def benchmark() -> Iterator[Any]:
    """The modules `score_...` of the benchmark, by their last names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        found = {name: importlib.import_module(f"score_{name}") for name in MODULES}
        yield SimpleNamespace(**found)


def test_the_first_kind_is_drawn_as_when_the_weights_were_chosen(benchmark: Any) -> None:
    first, later = benchmark.pool.members(13, 2)[0], benchmark.pool.members(13, 2)[12]
    assert (first.name, later.name) == ("c00-s0", "c12-s0")
    assert first.values["lr_g"] == pytest.approx(5.9823333980966e-4)
    assert first.values["lambdas.C_A"] == pytest.approx(0.103679273784362)
    assert later.values["lambdas.G_B"] == pytest.approx(0.735836046743865)
    assert first.values["lambdas.I_B"] == first.values["lambdas.I_A"]
    assert first.values["lambdas.G_B"] == first.values["lambdas.G_A"]


def test_recipes_are_drawn_within_their_ranges_and_every_third_without_the_new_term(
    benchmark: Any,
) -> None:
    drawn = benchmark.pool.members(12, 2, "recipe")
    assert [member.name for member in drawn[:2]] == ["r00-s0", "r01-s0"]
    assert drawn[0].values == drawn[12].values
    for key, (low, high) in benchmark.pool.SPACES["recipe"].items():
        values = np.array([member.values[key] for member in drawn[:12]])
        free = values[values > 0] if key == "lambdas.P_A" else values
        assert low <= free.min() < free.max() <= high, key
        assert (values == 0).sum() == (4 if key == "lambdas.P_A" else 0)


def test_a_recipe_becomes_a_configuration_by_the_names_of_its_keys(benchmark: Any) -> None:
    without, with_term = benchmark.pool.members(2, 1, "recipe")
    config = benchmark.pool.configuration(without, Path("data"), 8, "bf16")
    assert (config.upsampling, config.run_name) == ("resize", "pool-r00-s0")
    assert config.lr_g == without.values["lr_g"]
    assert list(config.lambdas.C_B) == [without.values["lambdas.C_B"]]
    assert config.lambdas.G_A != config.lambdas.G_B
    if "P_A" in Lambdas.model_fields:
        config = benchmark.pool.configuration(with_term, Path("data"), 8, "bf16")
        assert list(config.lambdas.P_A) == [with_term.values["lambdas.P_A"]]
    else:
        with pytest.raises(ConfigError, match=r"lambdas\.P_A is not a known key"):
            benchmark.pool.configuration(with_term, Path("data"), 8, "bf16")


@pytest.fixture(scope="module")
def patches() -> tuple[torch.Tensor, torch.Tensor]:
    """Unpaired patches of both domains, (4, 1, 24, 24, 24)."""
    random = torch.Generator().manual_seed(1)
    white = torch.randn((3, 4, 1, 24, 24, 24), generator=random)
    clean = [gaussian_low_pass(part, 1.5) for part in white[:2]]
    clean = [part / part.std() for part in clean]
    noisy = gaussian_low_pass(clean[0], 0.5) + gaussian_low_pass(white[2], 0.4)
    return noisy / noisy.std(), clean[1]


def test_other_degradations_differ_in_what_they_say(
    benchmark: Any, patches: tuple[torch.Tensor, torch.Tensor]
) -> None:
    fitted = Score(*patches).pairs.degradation
    others = benchmark.degradations.unfamiliar(fitted)
    assert next(iter(others.values())) == fitted
    assert others["more blur"].sigma == pytest.approx(fitted.sigma + 0.3)
    assert others["less blur"].sigma == pytest.approx(max(fitted.sigma - 0.3, 0))
    assert others["more noise"].noise_std == pytest.approx(1.25 * fitted.noise_std)
    assert others["less noise"].noise_std == pytest.approx(fitted.noise_std / 1.25)
    for colour in ("white noise", "coarser noise"):
        assert others[colour].noise_std == pytest.approx(fitted.noise_std)
        assert not torch.allclose(others[colour].noise_power, fitted.noise_power)
    assert float(others["white noise"].noise_power.std()) == pytest.approx(0, abs=1e-9)
    share = torch.from_numpy(cylindrical_share(fitted.shape))
    coarse = [(share * d.noise_power)[:6, :6].sum() for d in (others["coarser noise"], fitted)]
    assert coarse[0] > 1.5 * coarse[1]


def test_a_score_by_its_own_degradation_is_the_score_and_by_others_it_is_not(
    benchmark: Any, patches: tuple[torch.Tensor, torch.Tensor], tmp_path: Path
) -> None:
    def enhance(x: torch.Tensor) -> torch.Tensor:
        return 1.3 * gaussian_low_pass(x, 0.8)

    standard = Score(*patches)
    again = Score(*patches, degradation=standard.pairs.degradation)
    assert again(enhance) == standard(enhance)
    unfamiliar = benchmark.degradations.Unfamiliar(*patches, standard)
    values = unfamiliar.cached(tmp_path / "unfamiliar.json", enhance)
    assert len(set(values.values()) | {standard(enhance).value}) == len(values) + 1
    assert values["value, other noise"] == pytest.approx(standard(enhance).value, abs=0.5)
    assert unfamiliar.cached(tmp_path / "unfamiliar.json", lambda x: x) == values
    assert unfamiliar.cached(tmp_path / "unfamiliar.json", lambda x: x, again=True) != values


class World:
    """Rows of trainings of both kinds, whose score is their quality plus a bonus for P_A."""

    def __init__(self, benchmark: Any, bonus: float, lost: float) -> None:
        self.rows: list[dict[str, Any]] = []
        random = np.random.default_rng(3)
        for kind in benchmark.pool.SPACES:
            for member in benchmark.pool.members(15, 2, kind):
                psnr = float(random.normal(20, 2))
                seen = member.values.get("lambdas.P_A", 0) > 0
                parts = self.parts(psnr + bonus * seen + float(random.normal(0, 0.1)))
                losses = {"loss/C_A_l1": -psnr, "loss/C_B_l1": 0.0, "loss/G_total": psnr}
                quality = {"psnr": psnr, "ssim": psnr / 40}
                row = benchmark.validity.row_of(member, 120, quality, parts, losses)
                self.rows.append(row | {"value, more blur": row["value"] - 1.0 - lost * seen})

    @staticmethod
    def parts(gain: float) -> Mapping[str, Any]:
        names = ("spectrum_distance_db", "sliced_wasserstein", "shell_gain", "shell_gap")
        zeros = dict.fromkeys((*names, "checkerboard", "noise_in_cycle_db"), 0.0)
        return {"gate": None, "pseudo_pair_gain_db": gain, "cross_half_gain_db": gain, **zeros}


def test_a_score_that_favours_what_it_taught_is_found_out(
    benchmark: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    favour, numbers = benchmark.degradations.favour, benchmark.degradations._numbers

    def measured(column: str, bonus: float, lost: float) -> Any:
        rows = [r for r in World(benchmark, bonus, lost).rows if r["kind"] == "recipe"]
        seen = np.array([row["lambdas.P_A"] > 0 for row in rows])
        groups = np.array([row["configuration"] for row in rows])
        change = numbers(rows, column) - (numbers(rows, "value") if "," in column else 0)
        return favour(change, numbers(rows, "psnr"), seen, groups, 200)

    assert measured("value", 2.0, 0.0).value == pytest.approx(2.0, abs=0.15)
    assert measured("value", 0.0, 0.0).value == pytest.approx(0.0, abs=0.15)
    assert measured("value", 2.0, 0.0).low > 1.5
    assert measured("value, more blur", 2.0, 1.5).value == pytest.approx(-1.5, abs=1e-6)
    benchmark.degradations.print_favour("end", World(benchmark, 2.0, 1.5).rows, 50)
    printed = capsys.readouterr().out
    assert "20 trainings with lambdas.P_A, 10 without" in printed
    assert "-1.50 (-1.50 to -1.50)" in printed
    old = [row for row in World(benchmark, 2.0, 1.5).rows if row["kind"] == "random"]
    benchmark.degradations.print_favour("end", old, 50)
    assert capsys.readouterr().out == ""


@pytest.mark.filterwarnings("ignore:An input array is constant", "ignore:All-NaN slice")
def test_both_kinds_are_judged_together_and_each_alone(
    benchmark: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = World(benchmark, 0.0, 0.0).rows
    benchmark.tables.print_subsets("end", rows, rows, 20)
    titles = [line for line in capsys.readouterr().out.splitlines() if "trainings of" in line]
    assert titles == [
        "end: 60 trainings of 30 configurations",
        "  end, fresh configurations: 36 trainings of 18 configurations",
        "  end, random alone: 30 trainings of 15 configurations",
        "  end, recipe alone: 30 trainings of 15 configurations",
    ]
    pairing = benchmark.tables.Pairing(rows, rows, 20)
    assert pairing.rank("score", "psnr").value > 0.95
    assert pairing.rank("score, more blur", "psnr").value > 0.95
    assert pairing.regret("score, more blur").value < 0.5
    assert pairing.rank("cycle loss", "psnr").value == pytest.approx(1.0)


def test_the_trainings_of_a_kind_are_chosen_by_its_name(benchmark: Any) -> None:
    options = argparse.Namespace(configurations=2, seeds=1, kind="all")
    names = [member.name for member in benchmark.validity.chosen(options)]
    assert names == ["c00-s0", "c01-s0", "r00-s0", "r01-s0"]
    options.kind = "recipe"
    assert [m.name for m in benchmark.validity.chosen(options)] == names[2:]


def test_parts_that_a_cache_lacks_are_scored_anew(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "step-00040.pt"
    monkeypatch.setattr(benchmark.validity, "generator_of", lambda *_: None)
    calls = []

    def score(*_: Any) -> Any:
        calls.append(1)
        return SimpleNamespace(gate=None, parts=World.parts(1.0))

    def parts() -> dict[str, Any]:
        found: dict[str, Any] = benchmark.validity.parts_of(path, score, again=False)
        return found

    (tmp_path / "parts-00040.json").write_text('{"gate": null, "pseudo_pair_gain_db": 1.0}')
    assert parts() == parts() == {**World.parts(1.0)}
    assert len(calls) == 1
    (tmp_path / "parts-00040.json").write_text('{"gate": "the output is flat"}')
    assert parts()["gate"] == "the output is flat"
    assert len(calls) == 1


def test_faint_checkerboards_have_the_amplitude_that_they_say(benchmark: Any) -> None:
    volumes = torch.randn((2, 1, 8, 10, 12), generator=torch.Generator().manual_seed(2))
    faint = {n: f for n, f in benchmark.failures.faults(1.0).items() if n.startswith("faint")}
    assert len(faint) == 10
    for name, fault in faint.items():
        added = fault(volumes, volumes) - volumes
        amplitude = float(name.rpartition(", ")[2])
        assert float(added.abs().max()) == pytest.approx(amplitude, abs=1e-6)
        moved = added - added.roll(1, dims=2)
        assert float(moved.abs().max()) == pytest.approx(
            0 if "slices" in name else 2 * amplitude, abs=1e-6
        )


def test_a_member_says_where_it_lies(benchmark: Any, tmp_path: Path) -> None:
    member = benchmark.pool.members(1, 1, "recipe")[0]
    assert member.folder(tmp_path) == tmp_path / "r00-s0"
    assert dataclasses.replace(member, seed=1).configuration == member.configuration
