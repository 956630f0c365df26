"""Batch scripts and refusals of `--slurm`, where there is no cluster."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from cyclegan.errors import CycleGANError
from search.study import open_study
from search.study.definition import load_definition
from search.study.storage import StudyStorage
from search.study.study import StudyHandle, optuna_study, studies_folder
from search.study.trials import Trial
from workbench.cluster.jobs import cancel, interruptions_text, jobs_of, jobs_text
from workbench.cluster.submission import _READY


@pytest.fixture
def a_study(project: Path, small: dict[str, Any]) -> str:
    path = project / "studies" / "small.yaml"
    path.write_text(yaml.safe_dump(small))
    return str(path)


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """There is no SLURM in the path."""
    bash = shutil.which("bash")
    assert bash
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "bash").symlink_to(bash)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


@pytest.mark.usefixtures("nowhere")
def test_without_slurm_the_way_out_is_named(a_study: str, command_line: Any, project: Path) -> None:
    code, _, said = command_line("study", "run", a_study, "--slurm")
    assert code == 2
    assert "there is no SLURM here" in said and "login node" in said
    assert not (project / "studies" / "local").exists()


@pytest.mark.usefixtures("nowhere")
def test_a_dry_run_prints_a_script_that_bash_reads_and_begins_nothing(
    a_study: str, command_line: Any, project: Path
) -> None:
    options = ("--time", "1-00:00:00", "--gpus", "2", "--cpus", "8", "--mem", "64G", "--account")
    more = ("beam", "--qos", "long", "--partition", "gpu", "--setup", "module load cuda")
    code, found, _ = command_line("study", "run", a_study, "--slurm", *options, *more, "--dry-run")
    assert code == 0
    script = found["script"]
    for line in (
        *("--time=1440", "--gpus-per-node=2", "--cpus-per-task=8", "--mem=64G", "--account=beam"),
        *("--qos=long", "--partition=gpu", "--requeue", "--signal=USR2@120", "--job-name=small"),
    ):
        assert f"#SBATCH {line}\n" in script
    assert "\nmodule load cuda\n" in script and "--cpus-per-task=8 bash" in script
    assert "# runs: cyclegan study run small --workers 2\n" in script
    assert "wckey" not in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert not (project / "studies" / "local").exists()


def test_the_start_of_a_job_is_ready_for_signals_from_its_first_moment(tmp_path: Path) -> None:
    """Signals that come before Python has a handler are held back until it has one."""
    code = "import signal; print(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())))"
    line = ["bash", "-c", _READY, "bash", "python3", "-c", code]
    held = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    assert "SIGUSR1" in held and "SIGUSR2" in held and "SIGTERM" in held


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "several hosts can't share .*journal.log safely"),
        (
            ("--storage", "sqlite:///study.db"),
            "several hosts can't share sqlite:///study.db safely",
        ),
        (
            ("--storage", "postgresql://me@db/x"),
            "several hosts can't share the MLflow store sqlite.* --tracking-uri http://ADDRESS",
        ),
    ],
)
def test_files_that_several_hosts_would_write_are_refused(
    a_study: str, command_line: Any, options: tuple[str, ...], said: str
) -> None:
    line = ("study", "run", a_study, "--slurm", "--jobs", "2", "--dry-run", *options)
    code, _, told = command_line(*line)
    assert code == 2 and re.search(said, told)


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize(
    "options",
    [
        ("--storage", "postgresql://me:secret@db/x"),
        ("--tracking-uri", "postgresql://me:secret@db/x"),
    ],
)
def test_a_password_never_gets_into_the_files_of_jobs(
    a_study: str, command_line: Any, options: tuple[str, ...]
) -> None:
    code, _, said = command_line("study", "run", a_study, "--slurm", "--dry-run", *options)
    assert code == 2 and "password" in said and "secret" not in said


@pytest.mark.usefixtures("nowhere")
def test_a_training_that_can_not_begin_is_refused_before_it_waits_in_a_queue(
    project: Path, tiny: dict[str, Any], command_line: Any
) -> None:
    (project / "t.yaml").write_text(yaml.safe_dump(tiny | {"imsize_A": [64, 64, 64]}))
    code, _, said = command_line("train", "t.yaml", "--slurm", "--dry-run")
    assert code == 1 and "64" in said
    (project / "t.yaml").write_text(yaml.safe_dump(tiny | {"device": "cuda"}))  # its nodes have one
    code, found, _ = command_line("train", "t.yaml", "--slurm", "--dry-run")
    assert code == 0
    assert "# runs: cyclegan train t.yaml --json --quiet --resume\n" in found["script"]


def test_a_study_without_jobs_shows_none(a_study: str, command_line: Any) -> None:
    command_line("study", "run", a_study)
    handle = open_study("small")
    assert jobs_of(handle) == [] and jobs_text([]) == ""


@pytest.mark.usefixtures("nowhere")
def test_cancelling_without_slurm_is_an_error(a_study: str) -> None:
    definition = load_definition(Path(a_study))
    place = StudyStorage(studies_folder() / "small")
    handle = StudyHandle(definition, optuna_study(definition, place), place.folder, place)
    assert cancel(handle) == []  # it has no jobs
    submission = handle.folder / "slurm" / "2026-01-01T00-00-00"
    submission.mkdir(parents=True)
    (submission / "submission.json").write_text('{"jobs": ["7_0"], "name": "small"}')
    with pytest.raises(CycleGANError, match="squeue does not answer here"):
        cancel(handle)
    (job,) = jobs_of(handle)
    assert job.state == "ended"


def test_whether_all_interrupted_trials_went_on() -> None:
    assert interruptions_text([Trial(number=0, state="complete", score=1.0)]) == ""
    whole = Trial(number=0, state="complete", score=1.0, interruptions=2)
    going = Trial(number=1, state="running", score=None, interruptions=1)
    left = Trial(number=2, state="interrupted", score=None)
    assert interruptions_text([whole]) == (
        "interrupted trials: 1 (1 complete); all of them went on and ended"
    )
    assert interruptions_text([whole, going]).endswith("all of them went on")
    assert interruptions_text([whole, going, left]).endswith("not yet continued: trial 2")
