"""Workers get their GPUs by name and in turn, and share the CPU's threads."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import pytest

from cyclegan.errors import UsageError
from search.study import run_study
from search.study.definition import StudyDefinition
from search.study.places import Host, how_shared, places, refuse_ranks, visible_gpus
from search.study.study import studies_folder
from tracking import Store
from viz.console import Console

TWO = Host(gpus=("0", "1"), cores=16)


def gpus_of(count: int, device: str, host: Host) -> list[str | None]:
    return [place.get("CUDA_VISIBLE_DEVICES") for place in places(count, device, host)]


@pytest.mark.parametrize(
    ("given", "count", "names"),
    [
        (None, 0, []),
        (None, 2, ["0", "1"]),
        ("", 0, []),
        ("3, 5", 2, ["3", "5"]),
        ("3,99,5", 1, ["3"]),  # CUDA stops at a name that it does not know
        ("GPU-8f3a,GPU-77b1", 2, ["GPU-8f3a", "GPU-77b1"]),
        ("MIG-a1,MIG-b2,MIG-c3", 1, ["MIG-a1", "MIG-b2", "MIG-c3"]),
        ("MIG-GPU-8f3a/1/0", 1, ["MIG-GPU-8f3a/1/0"]),
        ("-1", 0, []),
    ],
)
def test_names_of_gpus_survive(given: str | None, count: int, names: Sequence[str]) -> None:
    assert visible_gpus(given, count) == names


@pytest.mark.parametrize(
    ("count", "device", "host", "gpus"),
    [
        (2, "auto", TWO, ["0", "1"]),
        (3, "cuda", TWO, ["0", "1", "0"]),
        (1, "cuda", TWO, ["0"]),
        (3, "cuda:1", TWO, [None] * 3),  # the configuration says it
        (2, "cpu", TWO, [None] * 2),
        (2, "auto", Host(cores=4), [None] * 2),
        (2, "cuda", Host(gpus=("MIG-a1", "GPU-8f3a")), ["MIG-a1", "GPU-8f3a"]),
    ],
)
def test_gpus_are_given_out_in_turn(
    count: int, device: str, host: Host, gpus: Sequence[str | None]
) -> None:
    assert gpus_of(count, device, host) == gpus


@pytest.mark.parametrize("device", ["auto", "cuda:1", "cpu"])
def test_workers_on_any_device_share_the_threads(device: str) -> None:
    def threads(count: int, host: Host) -> set[str]:
        return {place["OMP_NUM_THREADS"] for place in places(count, device, host)}

    assert threads(4, TWO) == {"4"}
    assert threads(3, TWO) == {"5"}
    assert threads(20, TWO) == {"1"}
    assert threads(4, Host(gpus=("0",), cores=16, threads="3")) == {"3"}
    assert {place["CYCLEGAN_WORKERS"] for place in places(4, device, TWO)} == {"4"}


def test_a_slurm_job_shares_out_its_own_cores() -> None:
    job = {"SLURM_JOB_ID": "1", "SLURM_CPUS_PER_TASK": "1"}
    assert Host.here(job).cores == 1
    assert Host.here({}).cores == len(os.sched_getaffinity(0))
    assert Host.here({"OMP_NUM_THREADS": "7"}).threads == "7"


@pytest.mark.parametrize(
    ("count", "device", "host", "line"),
    [
        (2, "auto", TWO, None),
        (1, "cuda:1", TWO, None),
        (4, "cpu", TWO, None),
        (4, "auto", Host(cores=4), None),
        (3, "auto", TWO, "3 workers share 2 GPUs (0, 1) in turn"),
        (2, "cuda", Host(gpus=("MIG-a1",)), "2 workers share one GPU (MIG-a1)"),
        (2, "cuda:1", TWO, "2 workers share one GPU, device = cuda:1; device = cuda would use all"),
    ],
)
def test_workers_that_share_a_gpu_are_told_so(
    count: int, device: str, host: Host, line: str | None
) -> None:
    assert how_shared(count, device, host) == line


def test_a_study_under_torchrun_is_refused_before_it_begins(
    define: Callable[..., StudyDefinition], monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_ranks({})
    refuse_ranks({"WORLD_SIZE": "1"})
    monkeypatch.setenv("WORLD_SIZE", "4")
    definition = define(trials=1)
    with pytest.raises(UsageError, match=r"^WORLD_SIZE = 4: .* without torchrun, with --workers 4"):
        run_study(definition, store=Store.open(), console=Console(quiet=True))
    assert not (studies_folder() / definition.name / "study.yaml").exists()
