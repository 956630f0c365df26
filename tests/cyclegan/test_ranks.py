"""Several processes that train one model do what one process does with the whole batch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from cyclegan import parse_config
from cyclegan.callbacks import Callback
from cyclegan.errors import ConfigError, CycleGANError
from cyclegan.follower import followed
from cyclegan.ranks import Part, Ranks
from cyclegan.trainer import Trainer
from cyclegan.validation import ValidationReport

Weights = dict[str, Tensor]


@pytest.fixture
def shared(tiny: dict[str, Any]) -> dict[str, Any]:
    """A configuration with all kinds of random numbers, two patches a step."""
    lambdas = tiny["lambdas"] | {"P_A": 2.0, "P_B": 1.0}
    changes = {"lambdas": lambdas, "batch_size": 2, "steps": 6, "cycle_noise": 0.05}
    return tiny | changes | {"penalty_R1": 1.0, "checkpoint_every": 3, "validate_every": 3}


def trained(
    values: dict[str, Any],
    ranks: int,
    callbacks: tuple[Callback, ...] = (),
    folder: Path | None = None,
    resume: Path | None = None,
) -> Trainer:
    """Train with so many processes, of which this is the first."""
    config = parse_config(values)
    with followed(config, ranks, resume) as own:
        trainer = Trainer(config, callbacks, folder, own)
        trainer.fit(resume)
    return trainer


def losses(trainer: Trainer) -> list[dict[str, float]]:
    rows = [dict(row.values) for row in trainer.history.rows(after=0)]
    return [{k: v for k, v in row.items() if not k.startswith("truth/")} for row in rows]


def weights(trainer: Trainer) -> Weights:
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def same(one: Weights, other: Weights) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_two_processes_with_a_patch_each_equal_one_with_two(shared: dict[str, Any]) -> None:
    alone, together = trained(shared, 1), trained(shared, 2)
    assert together.step == alone.step == 6
    # The first step differs by the order of additions; Adam then magnifies that.
    for step, tolerance in ((0, 2e-6), (1, 1e-5), (5, 1e-2)):
        one, two = losses(alone)[step], losses(together)[step]
        assert one.keys() == two.keys()
        assert two == pytest.approx(one, rel=tolerance, abs=1e-6)
    counted = [
        {k: v for k, v in dict(run.history.rows(after=0)[0].values).items() if "truth/" in k}
        for run in (alone, together)
    ]
    assert counted[0] == counted[1] and counted[0]


def test_a_resumed_training_goes_on_bit_for_bit_on_as_many_processes(
    shared: dict[str, Any], tmp_path: Path
) -> None:
    values = shared | {"pool_size": 3}  # each process has images of its own
    whole = trained(values, 2, folder=tmp_path / "whole")
    trained(values | {"steps": 3}, 2, folder=tmp_path / "half")
    checkpoint = next((tmp_path / "half").glob("checkpoint*.pt"))
    again = trained(values, 2, folder=tmp_path / "half", resume=checkpoint)
    assert again.step == 6 and same(weights(whole), weights(again))
    other = trained(values | {"pool_size": 0}, 1, resume=checkpoint)  # another number
    assert other.step == 6


class _Judged(Callback):
    """Judges the same weights again without the other processes, and counts patches of G_A."""

    def __init__(self) -> None:
        self.pairs: list[tuple[ValidationReport, ValidationReport]] = []
        self.patches: list[int] = [0]

    def on_train_start(self, trainer: Trainer) -> None:
        trainer.model.mean_G_A.register_forward_hook(self._count)

    def on_validation_end(self, trainer: Trainer, report: ValidationReport) -> None:
        self.patches.append(0)
        alone = trainer.validator(trainer.model, step=report.step, iteration=report.iteration)
        self.patches.append(0)
        self.pairs.append((report, alone))

    def _count(self, network: Any, given: tuple[Tensor], image: Tensor) -> None:
        self.patches[-1] += len(given[0])


def test_a_validation_is_shared_out_and_says_what_one_process_says(shared: dict[str, Any]) -> None:
    changes = {"validate_every": 1, "validation_patches": 5, "degradation": "gaussian"}
    judged = _Judged()
    trained(shared | changes | {"steps": 2}, 2, (judged,))
    together, alone = judged.patches[0::2], judged.patches[1::2]
    assert len(judged.pairs) == 2
    for shared_out, whole in zip(together[:2], alone, strict=True):
        assert 0 < shared_out < 0.7 * whole
    for two, one in judged.pairs:
        assert two.gate == one.gate
        assert two.metrics == pytest.approx(one.metrics, rel=1e-5, abs=1e-6)
        for name, image in one.images.items():
            assert torch.allclose(two.images[name], image, rtol=1e-5, atol=1e-6)


class _Rollback(Callback):
    """Changes a rate at step 2, and falls back from step 4 to step 2 with another lambda."""

    def __init__(self) -> None:
        self.done = False

    def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
        if trainer.step == 2 and not self.done:
            trainer.set_hparams({"lr_g": 5e-4}, reason="test")
            self.kept = trainer.snapshot()
        if trainer.step == 4 and not self.done:
            self.done = True
            changes = {"lambdas.C_A": 2.0}
            trainer.request_rollback(self.kept, reason="test", changes=changes)


def test_rollbacks_and_changed_hyperparameters_reach_all_processes(shared: dict[str, Any]) -> None:
    """If they did not, the processes would average gradients of different networks."""
    alone, together = (trained(shared, ranks, (_Rollback(),)) for ranks in (1, 2))
    assert [e.to_step for e in together.rollbacks] == [e.to_step for e in alone.rollbacks] == [2]
    assert together.iteration == alone.iteration == 8
    assert together.hparams.flat() == alone.hparams.flat()
    for one, two in zip(losses(alone), losses(together), strict=True):
        assert two == pytest.approx(one, rel=1e-2, abs=1e-6)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch_size": 3}, "batch_size = 3: 2 processes can't share it; give a multiple of 2"),
        ({"norm_D": "batch", "penalty_R1": 0.0}, "set norm_D to instance or none"),
    ],
)
def test_what_can_not_be_shared_out_is_refused(
    shared: dict[str, Any], changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        Ranks(size=2).check(parse_config(shared | changes))


def test_processes_that_differ_are_refused(shared: dict[str, Any]) -> None:
    other = parse_config(shared | {"lr_g": 5e-3})
    said = "differ in the configuration: .* on rank 0, .* on rank 1; give all of them the same"
    with followed(other, 2, None) as ranks, pytest.raises(ConfigError, match=said):
        Trainer(parse_config(shared), ranks=ranks)


def test_more_gpus_than_there_are_is_refused(
    shared: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match="--gpus 2: PyTorch sees 1 GPUs on this host"):
        Ranks(size=2).check(parse_config(shared), torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert Ranks(0, 2, 0).device("auto") == "cuda:0"
    with pytest.raises(ConfigError, match="PyTorch sees 1; start fewer"):
        Ranks(1, 2, 1).device("cuda")


def test_a_part_of_a_batch() -> None:
    assert [Part(rank, 3).of(list(range(7))) for rank in range(3)] == [[0, 3, 6], [1, 4], [2, 5]]
    assert Part().of("all") == "all"


class _KillFollower(Callback):
    def on_step_end(self, trainer: Trainer, metrics: Mapping[str, Tensor]) -> None:
        if trainer.step == 3:
            line = ["pgrep", "-P", str(os.getpid()), "-f", "cyclegan.follower"]
            found = subprocess.run(line, capture_output=True, text=True, check=True).stdout
            os.kill(int(found.split()[0]), signal.SIGKILL)


@pytest.mark.slow
def test_the_death_of_a_process_ends_the_training_with_one_line(shared: dict[str, Any]) -> None:
    with pytest.raises(CycleGANError, match=r"process 1 of this training died \(SIGKILL\)"):
        trained(shared | {"steps": 1000}, 2, (_KillFollower(),))


@pytest.fixture
def project_with_training(project: Path, shared: dict[str, Any]) -> Path:
    values = shared | {"run_name": "long", "steps": 100_000, "checkpoint_every": 20}
    (project / "long.yaml").write_text(yaml.safe_dump(values | {"validate_every": 100}))
    return project


LINE = [sys.executable, "-P", "-m", "workbench"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_processes_end_together_and_the_training_goes_on(
    project_with_training: Path, number: signal.Signals, wait: Callable[..., Any]
) -> None:
    project = project_with_training
    line = [*LINE, "train", "long.yaml", "--gpus", "2"]
    with subprocess.Popen([*line, "--quiet"], stdout=subprocess.DEVNULL) as first:
        save = project / "results" / "long" / "save"
        wait(lambda: list(save.glob("checkpoint*.pt")))
        found = subprocess.run(
            ["pgrep", "-P", str(first.pid), "-f", "cyclegan.follower"],
            capture_output=True,
            text=True,
            check=True,
        )
        follower = int(found.stdout)
        first.send_signal(number)
    assert first.returncode == (130 if number == signal.SIGTERM else -number)
    wait(lambda: not Path(f"/proc/{follower}").exists(), 60)
    step = int(torch.load(next(save.glob("checkpoint*.pt")), weights_only=True)["step"])
    steps = ("--set", f"steps={step + 10}")
    again = subprocess.run(
        [*line, "--resume", "--json", *steps], capture_output=True, text=True, check=False
    )
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["outcome"] == "completed"
    assert "continuing at step" in again.stderr


@pytest.mark.slow
def test_torchrun_starts_the_same_training(project_with_training: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    line = [*torchrun, "--nproc-per-node", "2", "-m", "workbench", "train", "long.yaml", "--json"]
    started = time.monotonic()
    done = subprocess.run([*line, "--set", "steps=20"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["step"] == 20  # from the first one alone
    assert time.monotonic() - started < 300
