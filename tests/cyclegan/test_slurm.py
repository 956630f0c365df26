"""SLURM's answers about this process's job, and about others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cyclegan import parse_config, slurm
from cyclegan.data.training_data import TrainingData
from cyclegan.enhance.memory import available_bytes
from cyclegan.errors import ConfigError
from search.rollback.optimizer import RollbackOptimizer, check_memory

JOB = {"SLURM_JOB_ID": "7"}
MEGABYTE = 1024**2


@pytest.mark.parametrize(
    ("environment", "megabytes"),
    [
        ({}, None),
        ({"SLURM_MEM_PER_NODE": "500"}, None),  # left over in a shell: no job
        (JOB, None),
        (JOB | {"SLURM_MEM_PER_NODE": "500"}, 500),
        (JOB | {"SLURM_MEM_PER_NODE": "0"}, None),  # all of the node
        (JOB | {"SLURM_MEM_PER_CPU": "1000", "SLURM_CPUS_ON_NODE": "4"}, 4000),
        (JOB | {"SLURM_MEM_PER_NODE": "500", slurm.WORKERS: "2"}, 250),
    ],
)
def test_memory_of_a_job(environment: dict[str, str], megabytes: int | None) -> None:
    expected = None if megabytes is None else megabytes * MEGABYTE
    assert slurm.memory_bytes(environment) == expected


@pytest.mark.parametrize(
    ("environment", "threads"),
    [
        ({}, None),
        ({"SLURM_CPUS_ON_NODE": "8"}, None),
        (JOB, None),
        (JOB | {"SLURM_CPUS_ON_NODE": "8"}, 8),
        (JOB | {"SLURM_CPUS_ON_NODE": "8", "SLURM_CPUS_PER_TASK": "4"}, 4),
        (JOB | {"SLURM_CPUS_ON_NODE": "8", slurm.WORKERS: "2"}, 4),
        (JOB | {"SLURM_CPUS_ON_NODE": "1", slurm.WORKERS: "2"}, 1),
        (JOB | {"SLURM_CPUS_ON_NODE": "8", "OMP_NUM_THREADS": "1"}, None),  # the user's choice
    ],
)
def test_threads_of_a_job(environment: dict[str, str], threads: int | None) -> None:
    assert slurm.threads(environment) == threads


@pytest.fixture
def in_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is in a job with 64 megabytes."""
    for name, value in (JOB | {"SLURM_MEM_PER_NODE": "64"}).items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("in_job")
def test_a_training_takes_what_its_job_has(tiny: dict[str, Any]) -> None:
    assert available_bytes(torch.device("cpu")) == 0  # this process is larger than the job
    data = TrainingData(parse_config(tiny), torch.device("cpu"), loads=False)
    assert data.budget.nbytes == 32 * MEGABYTE
    data.close()
    settings = parse_config(tiny | {"hp_optimizer": {"enabled": True}}).hp_optimizer
    assert RollbackOptimizer(settings).ring.memory == 32 * MEGABYTE


@pytest.mark.usefixtures("in_job")
def test_snapshots_that_the_job_has_no_memory_for_are_refused(tiny: dict[str, Any]) -> None:
    config = parse_config(tiny | {"filters": 32, "hp_optimizer": {"enabled": True}})
    with pytest.raises(
        ConfigError, match=r"of which this SLURM job's memory allows 0\.0336: .*--mem"
    ):
        check_memory(config)


def squeue(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a program `squeue` that runs `script` in front of the path."""
    program = folder / "squeue"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")


def test_jobs_that_squeue_knows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "8|7_0|RUNNING|1:02|2:58|n2|gres:gpu:1|1|\\n7|7_1|PENDING|0:00|4:00|(Priority)|N/A|0|"
    squeue(tmp_path, monkeypatch, f"printf '{rows}\\n'")
    first, second = slurm.states(["7"]) or []
    assert first == ("8", "7_0", "RUNNING", "1:02", "2:58", "n2", "gres:gpu:1", 1)
    assert second.where == "(Priority)" and second.gpus == ""
    assert slurm.is_gone("8", 1) is False
    assert slurm.is_gone("8", 0) is True  # it was requeued since
    assert slurm.is_gone("7", 0) is True  # it waits, and has no processes
    assert slurm.is_gone("9", 0) is True  # forgotten


def test_what_squeue_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squeue(
        tmp_path, monkeypatch, "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"
    )
    assert slurm.states(["9"]) == []
    assert slurm.is_gone("9", 0) is True
    squeue(tmp_path, monkeypatch, "echo 'Unable to contact slurm controller' >&2; exit 1")
    assert slurm.states(["9"]) is None
    assert slurm.is_gone("9", 0) is None
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert slurm.states(["9"]) is None
    assert slurm.states([]) == []


def test_tasks_of_one_step_are_ranks() -> None:
    step = JOB | {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1"}
    step |= {"SLURM_PROCID": "1", "SLURM_LOCALID": "1"}
    found = slurm.ranks(step)
    assert (found["RANK"], found["WORLD_SIZE"], found["LOCAL_RANK"]) == ("1", "2", "1")
    assert found["MASTER_ADDR"] == "127.0.0.1" and found["MASTER_PORT"] == "20007"
    assert slurm.ranks(JOB | {"SLURM_STEP_NUM_TASKS": "1"}) == {}
    assert slurm.ranks(step | {"WORLD_SIZE": "2"}) == {}
    assert slurm.ranks({}) == {}
