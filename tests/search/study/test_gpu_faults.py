"""A trial whose GPU fails harms no other: real processes, in which a loss raises GPU errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import FrozenTrial, TrialState

from cyclegan.errors import ConfigError, CycleGANError
from search.study import processes, run_study, runner
from search.study.definition import StudyDefinition
from search.study.gpu_faults import KIND, require_hope
from search.study.processes import apart
from tracking import Store
from viz.console import Console

LOSS = '''
from pathlib import Path
import torch

class Loss(torch.nn.Module):
    """L1, which raises an error of a GPU in its fifth step for every file of that kind, and in a
    trial that always fails in its second, before there is a checkpoint."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x, y):
        self.calls += x.requires_grad
        newest = max(Path("results/small").glob("trial-*"), default=Path("none")).name
        if self.calls == 2 and Path(f"always-{newest}").exists():
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
        for path in sorted(Path().glob("fault-*")) if self.calls == 5 else []:
            path.unlink()
            if "memory" in path.name:
                raise torch.OutOfMemoryError(MEMORY)
            raise RuntimeError("CUDA error: device-side assert triggered\\nCompile with ...")
        return (x - y).abs().mean()

MEMORY = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8.00 GiB of "
    "which 1.00 GiB is free. Including non-PyTorch memory, this process has 5.00 GiB memory in "
    "use. Of the allocated memory 4.50 GiB is allocated by PyTorch, and 0.50 GiB is reserved by "
    "PyTorch but unallocated."
)
'''


@pytest.fixture
def faulty(study_project: Any, small: dict[str, Any]) -> Callable[..., Any]:
    """A study of short trials whose loss raises the given errors."""

    def make(*files: str) -> Any:
        (study_project.folder / "breaking.py").write_text(LOSS)
        for name in files:
            (study_project.folder / name).touch()
        losses = small["config"]["lossFuncs"] | {"C_A": "breaking:Loss"}
        changes = {"lossFuncs": losses, "batch_size": 2}
        study_project.define(
            small
            | {"config": small["config"] | changes, "pruner": {"name": "none"}}
            | {"trials": 3, "steps": 12}
        )
        return study_project

    return make


def states(result: dict[str, Any]) -> list[str]:
    assert [t["number"] for t in result["trials"]] == list(range(len(result["trials"])))
    return [t["state"] for t in result["trials"]]


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize("kind", ["sticky", "memory"])
def test_a_fresh_process_continues_a_trial_whose_gpu_failed(
    faulty: Callable[..., Any], workers: str, kind: str
) -> None:
    project = faulty(f"fault-{kind}")
    result = project.run("study", "run", "studies/small.yaml", "--workers", workers)
    assert states(result) == ["complete"] * 3
    project.check(result)
    assert not list(project.folder.glob("fault-*"))
    assert sum(t["interruptions"] for t in result["trials"]) == 1
    assert sum(t["deaths"] for t in result["trials"]) <= 1
    assert {t["step"] for t in result["trials"]} == {12}


@pytest.mark.slow
def test_a_trial_that_runs_out_of_memory_twice_fails_and_says_what_may_fit(
    faulty: Callable[..., Any],
) -> None:
    project = faulty("fault-1-memory", "fault-2-memory")
    result = project.run("study", "run", "studies/small.yaml")
    assert states(result) == ["failed", "complete", "complete"]
    assert result["trials"][0]["reason"].startswith(
        "GPU 0 ran out of memory twice: at least 7 GB were needed and 6.4 GB were there; "
        "batch_size = 1 may fit (now batch_size = 2, imsize_A = [8, 8, 8])"
    )


@pytest.mark.slow
def test_a_trial_that_always_loses_its_gpu_fails_and_the_others_go_on(
    faulty: Callable[..., Any],
) -> None:
    project = faulty("always-trial-001")
    done = project.call("study", "run", "studies/small.yaml")
    assert done.returncode == 0, done.stderr
    result = project.run("study", "show", "small")
    assert states(result) == ["complete", "failed", "complete"]
    reason = result["trials"][1]["reason"]
    assert reason.startswith("it lost its GPU 5 times at iteration ")
    assert "illegal memory access" in reason
    assert "Traceback" not in done.stderr
    assert "died" not in done.stderr  # they leave in order


def test_a_study_stops_in_one_line_if_the_gpu_does_not_answer_a_fresh_process(
    define: Callable[..., StudyDefinition], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers are real processes, which look for a GPU that this machine does not have."""

    def gpu(name: str) -> torch.device:
        return torch.device("cuda")

    monkeypatch.setattr(runner, "choose_device", gpu)
    monkeypatch.setattr(processes, "choose_device", gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **options: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-8f3a")
    with pytest.raises(CycleGANError) as caught:
        run_study(define(trials=2), store=Store.open(), console=Console(quiet=True))
    assert str(caught.value) == "GPU-8f3a can't be used: PyTorch sees no GPU any more"


def ended(kinds: Sequence[str | None], reason: str = "why") -> list[FrozenTrial]:
    """Return trials that failed by an error of the GPU, or (None) that are complete."""
    trials = []
    for number, kind in enumerate(kinds):
        trial = optuna.trial.create_trial(
            state=TrialState.FAIL if kind else TrialState.COMPLETE,
            value=None if kind else 1.0,
            user_attrs={"reason": reason} | ({} if kind in (None, "other") else {KIND: kind}),
        )
        trial.datetime_complete = datetime(2026, 1, 1) + timedelta(hours=number)
        trials.append(trial)
    return trials


@pytest.mark.parametrize(
    ("kinds", "text"),
    [
        (("sticky", "sticky"), None),
        ((None, "sticky", "sticky", "sticky"), "study s: 3 trials in a row lost the GPU: why"),
        (("sticky", "sticky", None, "sticky"), None),
        (("sticky", "other", "sticky", "sticky"), None),
        ((None, *["out_of_memory"] * 5), None),  # smaller trials fit
        (("out_of_memory",) * 2, None),
        (("out_of_memory",) * 3, "study s: none of its 3 trials fits into the memory of the GPU"),
        (("sticky", "out_of_memory", "out_of_memory"), "3 trials in a row lost the GPU"),
    ],
)
def test_a_study_stops_once_its_trials_only_fail_by_the_gpu(
    kinds: Sequence[str | None], text: str | None
) -> None:
    trials = ended(kinds)
    if text is None:
        require_hope(reversed(trials), "s")
        return
    with pytest.raises(CycleGANError, match=text):
        require_hope(reversed(trials), "s")


def refuse(what: str) -> None:
    raise ConfigError(f"imsize_A = {what}: too large")


def break_down(what: str) -> None:
    raise ValueError(what)


def accept(path: str) -> None:
    Path(path).touch()


def test_what_runs_apart_raises_its_own_errors_here(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^imsize_A = 8: too large$"):
        apart(refuse, "8")
    with pytest.raises(CycleGANError, match="ValueError: x"):
        apart(break_down, "x")
    apart(accept, str(tmp_path / "called"))
    assert (tmp_path / "called").exists()


def test_a_script_without_a_guard_is_not_run_again_by_the_processes_it_starts(
    tmp_path: Path,
) -> None:
    import subprocess
    import sys

    script = tmp_path / "script.py"
    script.write_text(
        "from search.study.processes import apart\n"
        "from cyclegan.files import write_text\n"
        "from pathlib import Path\n"
        "apart(write_text, Path('a.txt'), 'x')\n"
        "print('once')\n"
    )
    done = subprocess.run(
        [sys.executable, script.name], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "once\n"
    assert (tmp_path / "a.txt").read_text() == "x"
