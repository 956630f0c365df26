"""The benchmark against alternatives: it is fair and complete, and repeats no finished work."""

from __future__ import annotations

import importlib
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def module() -> Iterator[Callable[[str], ModuleType]]:
    """Import a benchmark's module by name, with its neighbours on the path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module


@pytest.fixture
def noisy(make_blobs: Callable[..., np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """A noisy volume and its truth."""
    shape = (24, 28, 32)
    truth = make_blobs(3, 0.0, shape)
    noise = np.random.default_rng(4).normal(size=shape)
    return (truth + 0.8 * noise).astype(np.float32), truth


@pytest.fixture
def tiny_set(module: Callable[[str], ModuleType]) -> Any:
    """A phantom that takes a second to make."""
    sets = module("alternatives_sets")
    sample = sets.Phantom(
        fibre_diameter=9.0,
        packing=0.4,
        size=48,
        depth={"fast_train": 24, "slow_train": 24, "validate": 24},
    )
    fast = replace(sets.SETS["phantom_1x"].fast, angles=20, photons=3000)
    return replace(
        sets.SETS["phantom_1x"], sample=sample, fast=fast, slow=replace(sets.SLOW, angles=90),
        window=(24, 32, 32),
    )  # fmt: skip


@pytest.fixture
def recipe(tiny: dict[str, Any], tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(tiny | {"steps": 8, "validate_every": 2}))
    return path


def test_the_parameter_of_a_filter_is_the_best_of_those_tried(
    module: Callable[[str], ModuleType], noisy: tuple[np.ndarray, np.ndarray]
) -> None:
    filters, judge = module("alternatives_filters"), module("alternatives_judge").Judge(noisy[1])
    for name in ("Gaussian", "median", "total variation"):
        candidates = filters.candidates(name, 1)
        choice = filters.choose(candidates, noisy[0], judge)
        quality = {c.label: judge.psnr(c.apply(noisy[0])) for c in candidates}
        assert choice.tried == pytest.approx(quality)
        assert quality[choice.label] == max(quality.values())
        assert judge.psnr(choice.image) == pytest.approx(max(quality.values()))
        # The best lies somewhere in between: the range of candidates is wide enough.
        assert min(quality.values()) < judge.psnr(choice.image)
        assert choice.label not in (candidates[0].label, candidates[-1].label)


def test_at_2x_every_parameter_is_tried_in_both_orders(
    module: Callable[[str], ModuleType], noisy: tuple[np.ndarray, np.ndarray]
) -> None:
    filters = module("alternatives_filters")
    plain, double = (filters.candidates("Gaussian", scale) for scale in (1, 2))
    assert len(double) == 2 * len(plain)
    coarse = noisy[0][::2, ::2, ::2]
    assert {c.apply(coarse).shape for c in double[:: len(plain)]} == {noisy[0].shape}


def test_interpolation_shifts_nothing(module: Callable[[str], ModuleType]) -> None:
    fine = np.zeros((16, 16, 16), np.float32)
    fine[6:10, 6:10, 6:10] = 1
    coarse = fine.reshape(8, 2, 8, 2, 8, 2).mean(axis=(1, 3, 5))
    made = module("alternatives_filters").interpolated(coarse, 2)
    assert made == pytest.approx(np.flip(made), abs=1e-5)


@pytest.mark.parametrize("wavelet", ["haar", "db2"])
def test_wavelets_are_orthonormal_and_take_noise_off(
    wavelet: str,
    module: Callable[[str], ModuleType],
    noisy: tuple[np.ndarray, np.ndarray],
) -> None:
    wavelets = module("alternatives_wavelets")
    image, truth = noisy
    bands = wavelets.analyse(image, wavelet)
    assert len(bands) == 8
    assert sum(float((b**2).sum()) for b in bands.values()) == pytest.approx(
        float((image**2).sum()), rel=1e-5
    )
    assert wavelets.synthesise(bands, wavelet) == pytest.approx(image, abs=1e-5)
    untouched = wavelets.bayes_shrink(image, wavelet, 2, 0.0, False)
    assert untouched == pytest.approx(image, abs=1e-5)
    for by_level in (False, True):
        shrunk = wavelets.bayes_shrink(image, wavelet, 2, 1.0, by_level)
        assert np.square(shrunk - truth).mean() < 0.4 * np.square(image - truth).mean()


def test_an_inverted_image_is_worth_no_more_than_a_constant(
    module: Callable[[str], ModuleType], noisy: tuple[np.ndarray, np.ndarray]
) -> None:
    judge = module("alternatives_judge").Judge(noisy[1])
    constant = judge(np.ones_like(noisy[1]))
    inverted = judge(-noisy[1])
    assert inverted.slope == pytest.approx(-1)
    assert inverted.psnr == pytest.approx(constant.psnr)
    assert judge(2 * noisy[0] + 5).psnr == pytest.approx(judge(noisy[0]).psnr)
    assert judge(noisy[0]).psnr > constant.psnr


def test_scans_are_aligned_where_they_must_be_and_only_there(
    module: Callable[[str], ModuleType], tiny_set: Any, tmp_path: Path
) -> None:
    sets = module("alternatives_sets")
    said: list[str] = []
    scans = sets.make(tiny_set, tmp_path, said.append)

    def correlation(one: str, other: str) -> float:
        pair = (sets.read(tmp_path / f"{name}.h5").ravel() for name in (one, other))
        return float(np.corrcoef(*pair)[0, 1])

    assert correlation("fast_train", "aligned_train") > 0.3
    assert correlation("fast_validate", "validate_truth") > 0.3
    assert abs(correlation("fast_train", "slow_train")) < 0.1
    assert abs(correlation("aligned_train", "slow_validate")) < 0.1
    assert scans.source.shape == scans.reference.shape == (24, 32, 32)
    made = (tmp_path / "fast_train.h5").stat().st_mtime_ns
    sets.make(tiny_set, tmp_path, said.append)
    assert (tmp_path / "fast_train.h5").stat().st_mtime_ns == made
    assert len(said) == 1
    sets.make(replace(tiny_set, seed=5), tmp_path, said.append)
    assert len(said) == 2


def test_no_part_of_a_real_volume_shares_a_slice_with_another(
    module: Callable[[str], ModuleType],
) -> None:
    sets = module("alternatives_sets")
    for data in sets.SETS.values():
        if not data.sample.truth:
            spans = sorted(data.sample.parts.values())
            assert all(end < start for (_, end), (start, _) in itertools.pairwise(spans))


def test_a_finished_row_is_not_computed_again_unless_its_settings_change(
    module: Callable[[str], ModuleType],
    tiny_set: Any,
    noisy: tuple[np.ndarray, np.ndarray],
    tmp_path: Path,
) -> None:
    rows, results = module("alternatives_rows"), module("alternatives_results")
    scans = module("alternatives_sets").Scans(
        data=tiny_set, folder=tmp_path, seconds=0.0, source=noisy[0], reference=noisy[1]
    )
    store = results.Store(tmp_path / "results")
    calls: list[int] = []
    settings = {"steps": 1}

    def run(job: Any) -> Any:
        calls.append(job.seed)
        return results.Result(image=job.scans.source, enhance_seconds=1.0)

    row = rows.Row(
        name="input", about="", run=run, settings=lambda job: dict(settings), seeded=True
    )

    def compute(seed: int) -> Any:
        judge = module("alternatives_judge").Judge(noisy[1])
        job = rows.Job(scans=scans, judge=judge, options=None, store=store, seed=seed)
        return rows.compute(row, job)

    first = compute(0)
    assert compute(0) == first
    compute(1)
    assert calls == [0, 1]
    settings["steps"] = 2
    assert compute(0)["settings"] != first["settings"]
    assert calls == [0, 1, 0]
    assert sorted(r["seed"] for r in store.records(tiny_set.name)) == [0, 1]


def test_one_run_has_every_row_and_a_second_computes_nothing(
    module: Callable[[str], ModuleType],
    tiny_set: Any,
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script, filters = module("alternatives"), module("alternatives_filters")
    monkeypatch.setitem(module("alternatives_sets").SETS, "phantom_1x", tiny_set)
    for name in ("wavelets", "non-local means"):  # the slow ones, with two parameters each
        some = dict(itertools.islice(filters.FILTERS[name]().items(), 2))
        monkeypatch.setitem(filters.FILTERS, name, lambda some=some: some)
    line = ["--data", str(tmp_path / "data"), "--results", str(tmp_path / "results")]
    line += ["--sets", "phantom_1x", "--steps", "4", "--json"]
    line += [f"--{name}={recipe}" for name in ("recipe", "seed-recipe", "pseudo-recipe")]
    line += ["--bm4d", sys.executable]
    assert script.main(line) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)["phantom_1x"]
    assert out.count("\n") == 1
    assert list(found) == [name for name in script.ROWS if name not in ("BM4D", "Noise2Void")]
    for name, row in found.items():
        seeds = [entry["seed"] for entry in row["seeds"]]
        assert seeds == ([0, 1] if script.ROWS[name].seeded else [None]), name
    told = [text for text in err.splitlines() if "left out" in text]
    assert len(told) == 3  # Noise2Void with both seeds
    assert "can't import bm4d" in told[0]
    assert "give --n2v PYTHON" in told[1]

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(filters, "choose", never)
    for name in ("train", "supervised", "enhanced"):
        monkeypatch.setattr(module("alternatives_training"), name, never)
    page, pictures = tmp_path / "page.md", tmp_path / "images"
    assert script.main([*line, "--table", str(page), "--pictures", str(pictures)]) == 0
    assert json.loads(capsys.readouterr().out)["phantom_1x"] == found
    text = page.read_text(encoding="utf-8")
    table = text.split("## Phantom, 1x")[1]
    for name in found:
        assert f"\n| {name} | {found[name]['psnr']:.2f}" in table
    assert "Not run here: BM4D, Noise2Void." in text
    assert "](images/alternatives_phantom_1x.png)" in table
    assert str(tmp_path) not in text
    assert 0 < (pictures / "alternatives_phantom_1x.png").stat().st_size < 150_000


def test_an_environment_of_its_own_gets_the_volume_and_the_best_sigma_is_taken(
    module: Callable[[str], ModuleType], noisy: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    elsewhere, judge = (
        module("alternatives_elsewhere"),
        module("alternatives_judge").Judge(noisy[1]),
    )
    (tmp_path / "bm4d.py").write_text(
        "from scipy.ndimage import gaussian_filter\n"
        "def bm4d(image, sigma):\n    return gaussian_filter(image, sigma)\n"
    )
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    result = elsewhere.bm4d(python, noisy[0], 1, judge, noisy[1])
    tried = result.details["tried"]
    assert len(tried) == len(elsewhere.SHARES_OF_NOISE)
    assert judge.psnr(result.image) == pytest.approx(max(tried.values()))
    assert elsewhere.true_noise(noisy[0], noisy[1], 1) == pytest.approx(0.8, rel=0.02)
    (tmp_path / "bm4d.py").write_text("def bm4d(image, sigma):\n    raise MemoryError('full')\n")
    with pytest.raises(module("alternatives_results").LeftOut, match="MemoryError: full"):
        elsewhere.bm4d(python, noisy[0], 1, judge, noisy[1])
