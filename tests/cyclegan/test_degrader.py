"""Pseudo pairs in training: the fit, the noise, and trainings without cycles or discriminators."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from cyclegan import Config, Trainer, parse_config
from cyclegan.config import override
from cyclegan.degrader import Degrader
from cyclegan.errors import ConfigError, DataError
from cyclegan.metrics.spectrum import cylindrical_share, gaussian_low_pass
from cyclegan.score.degrade import Degradation

SIZE = 24
RESTORING = {f"lambdas.{g}": 0 for g in ("G_A", "G_B", "D_A", "D_B", "C_A", "C_B", "I_A", "I_B")}
PSEUDO = {"lambdas.P_A": 10, "lambdas.P_B": 1}


def structures(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    volumes = gaussian_low_pass(torch.randn(count, 1, SIZE, SIZE, SIZE, generator=generator), 1.5)
    return torch.tanh(2 * volumes / volumes.std())


def white(power: float) -> Degradation:
    shape = (SIZE, SIZE, SIZE)
    bins = torch.from_numpy(cylindrical_share(shape))
    return Degradation(0.7, 0.6, 1, shape, torch.full_like(bins, power))


def standardised(volumes: torch.Tensor) -> torch.Tensor:
    return (volumes - volumes.mean()) / volumes.std()


def changed(config: Config, **changes: Any) -> Config:
    return parse_config(override(config.to_dict(), changes))


def pair(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    B = standardised(structures(64, seed))
    other = standardised(structures(64, seed + 1))
    return standardised(white(0.3).apply(other, seed)), B


def test_the_fit_finds_the_noise_and_says_how_sure_it_is() -> None:
    A, B = pair()
    report = Degrader.fit(A, B, 1).report
    assert report is not None
    true_noise = (0.3 / float(white(0.3).apply(B, 0).var())) ** 0.5
    assert report.noise_std == pytest.approx(true_noise, rel=0.1)
    assert 0 < report.gain_spread < 0.1
    assert report.doubts() == ""


def test_a_model_that_does_not_match_is_said() -> None:
    A, B = pair()
    streaks = torch.randn(64, 1, SIZE, SIZE, 1, generator=torch.Generator().manual_seed(3))
    report = Degrader.fit(standardised(A + 4 * streaks.pow(3)), B, 1).report
    assert report is not None
    assert "off real A's" in report.doubts()


def test_domains_without_a_common_structure_are_refused() -> None:
    noise = torch.randn(16, 1, SIZE, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with pytest.raises(DataError, match=r"lambdas\.P_A.*data_A and data_B"):
        Degrader.fit(noise, structures(16, 0), 1)


def test_noise_depends_on_the_seed_alone() -> None:
    A, B = pair()
    degrader = Degrader.fit(A, B, 1)
    assert torch.equal(degrader(B[:2], 5), degrader(B[:2], 5))
    assert not torch.equal(degrader(B[:2], 5), degrader(B[:2], 6))


def test_a_restored_state_degrades_the_same() -> None:
    A, B = pair()
    first, other = Degrader.fit(A, B, 1), Degrader.fit(A[:32], B[32:], 1)
    other.load_state_dict(first.state_dict())
    assert torch.equal(first(B[:2], 1), other(B[:2], 1))


def test_streaks_make_the_residual_the_better_noise_and_white_noise_does_not() -> None:
    A, B = pair()
    degrader = Degrader.fit(A, B, 1)
    assert not degrader.prefers_residual(lambda a: gaussian_low_pass(a, 0.8))
    truth = standardised(structures(64, 9))
    # Sparse lines: no stationary Gaussian noise looks like them.
    generator = torch.Generator().manual_seed(4)
    lines = (torch.rand(64, 1, SIZE, SIZE, 1, generator=generator) > 0.97).float() * 5
    streaked = 0.7 * truth + (lines - lines.mean())
    scale = float(streaked.std())
    degrader = Degrader.fit(streaked / scale, B, 1)
    known = iter(truth)
    # A generator that knows the truth leaves exactly the lines.
    model = degrader.models[0]
    exact = [dataclasses.replace(model, gain=0.7 / scale, sigma=0.0)]
    degrader.models = tuple(exact)
    assert degrader.prefers_residual(lambda a: next(known)[None])


@pytest.mark.parametrize("restoring", [True, False])
def test_resumed_equals_uninterrupted(config: Config, tmp_path: Path, restoring: bool) -> None:
    changes = PSEUDO | (RESTORING if restoring else {"pretrain_steps": 2}) | {"steps": 4}
    changes |= {"checkpoint_every": 1, "validate_every": 1, "penalty_R1": 0.1, "cycle_noise": 0.1}
    changes |= {"norm_D": "none", "penalty_every": 2, "grad_clip_D": 1.0}
    whole = Trainer(changed(config, **changes))
    whole.fit()
    first = Trainer(changed(config, **(changes | {"steps": 3})), folder=tmp_path)
    first.fit()
    resumed = Trainer(changed(config, **changes))
    resumed.fit(resume=tmp_path / "checkpoint.pt")
    assert resumed.history.rows() == whole.history.rows()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_pseudo_pairs_alone_have_neither_cycles_nor_discriminators(config: Config) -> None:
    trainer = Trainer(changed(config, **(PSEUDO | RESTORING | {"steps": 2})))
    before = [p.clone() for p in trainer.model.discriminators]
    generators = [p.clone() for p in trainer.model.generators]
    trainer.fit()
    assert trainer.images == {}
    assert {n for n in trainer.history.names if n.startswith("loss/")} == {
        *("loss/P_A_l1", "loss/P_B_l1", "loss/G_total")
    }
    assert all(map(torch.equal, before, trainer.model.discriminators))
    pairs = zip(generators, trainer.model.generators, strict=True)
    assert not any(torch.equal(old, new) for old, new in pairs)


def test_pretraining_is_a_training_on_pseudo_pairs(config: Config) -> None:
    alone = Trainer(changed(config, **(PSEUDO | RESTORING | {"steps": 3})))
    alone.fit()
    ahead = Trainer(changed(config, **(PSEUDO | {"pretrain_steps": 3, "steps": 3})))
    ahead.fit()
    for name in ("mean_G_A", "mean_G_B"):
        one, other = (getattr(t.model, name).state_dict() for t in (alone, ahead))
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_half_scan_must_be_there(config: Config) -> None:
    with pytest.raises(DataError, match=r"lambdas\.H_A.*halves"):
        Trainer(changed(config, **{"lambdas.H_A": 1}))


def test_half_scans_are_drawn_at_the_same_places(config: Config, tmp_path: Path) -> None:
    content = json.loads(Path(config.data_A).read_text())
    folder = Path(config.data_A).parent
    for entries in content.values():
        for entry in entries:
            entry["path"] = str(folder / entry["path"])
    twin = tmp_path / "twin.h5"
    shutil.copy(content["train"][0]["path"], twin)
    content["train"][0]["halves"] = [content["train"][0]["path"], str(twin)]
    data = tmp_path / "fast.json"
    data.write_text(json.dumps(content))
    halved = changed(config, **{"data_A": str(data), "lambdas.H_A": 1, "steps": 2})
    trainer = Trainer(halved)
    halves = trainer.data.next_halves()
    assert halves is not None
    assert torch.equal(*halves)
    trainer.fit()
    assert "loss/H_A_mse" in trainer.history.names


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (RESTORING, "so the training would learn nothing"),
        (RESTORING | {"lambdas.P_A": 1}, "G_B would train on nothing"),
        ({"lambdas.D_A": 0}, "D_A would never learn"),
        ({"pretrain_steps": 5}, "pseudo pairs"),
        ({"penalty_R1": 1, "norm_D": "batch"}, "norm_D = batch"),
        ({"lossFuncs.G_A": "relativistic"}, "relativistic for both"),
        ({"lambda_schedule.groups": ["G_C"]}, "not a group of losses"),
        (
            RESTORING | PSEUDO | {"hp_optimizer.policy": "original"},
            "judges cycles and discriminators",
        ),
    ],
)
def test_what_cannot_train_is_refused(config: Config, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        changed(config, **changes)


def test_lambdas_fade(config: Config) -> None:
    fading = {"lambda_schedule": {"groups": ["C_A"], "start": 1, "final": 0.5}, "steps": 3}
    trainer = Trainer(changed(config, **fading))
    trainer.fit()
    assert trainer.model.lambda_factors == {"C_A": 0.75}
    assert trainer.hparams.lambdas["C_A"] == config.lambdas.C_A
