"""The SLURM job in which this process runs: its number, its share of the machine; and other jobs.

SLURM tells a job by environment variables what it may use. Where the cluster confines jobs by
control groups, the operating system says so, too; where it does not, only these variables do.

The state of other jobs comes from `squeue`, which may be missing on nodes: then nothing is known.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Mapping
from typing import NamedTuple

WORKERS = "CYCLEGAN_WORKERS"
"""Environment variable: the number of worker processes that share the job's memory on this host."""
_MEGABYTE = 1024**2
_QUERY_SECONDS = 15
LIVING = frozenset({"RUNNING", "COMPLETING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT"})
"""States of a job in which its processes may still be there."""


def job_id(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return the number of this process's job (of an array, that of its task); None outside."""
    return environment.get("SLURM_JOB_ID") or None


def cpus(environment: Mapping[str, str] = os.environ) -> int | None:
    """Return the CPUs that this task of a job has on this node; None outside of jobs."""
    if job_id(environment) is None:
        return None
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        count = environment.get(name, "")
        if count.isdecimal() and int(count):
            return int(count)
    return None


def threads(environment: Mapping[str, str] = os.environ) -> int | None:
    """Return the number of threads for PyTorch in a job; None to let PyTorch choose.

    Without it a task would take all CPUs of a node whose cluster does not bind tasks to theirs.
    """
    count = None if environment.get("OMP_NUM_THREADS") else cpus(environment)
    return None if count is None else max(count // _workers(environment), 1)


def memory_bytes(environment: Mapping[str, str] = os.environ) -> int | None:
    """Return the memory on this node that a worker of the job may use; None without a limit."""
    if job_id(environment) is None:
        return None
    whole = environment.get("SLURM_MEM_PER_NODE", "")
    each = environment.get("SLURM_MEM_PER_CPU", "")
    count = environment.get("SLURM_CPUS_ON_NODE", "1")
    if whole.isdecimal():
        megabytes = int(whole)  # 0 means all of the node
    elif each.isdecimal() and count.isdecimal():
        megabytes = int(each) * int(count)
    else:
        return None
    return megabytes * _MEGABYTE // _workers(environment) if megabytes else None


def _workers(environment: Mapping[str, str]) -> int:
    count = environment.get(WORKERS, "1")
    return max(int(count), 1) if count.isdecimal() else 1


def limited_bytes(wanted: float) -> float:
    """Return the bytes that something may take which wants `wanted`: half of the job's memory.

    The other half is for PyTorch, MLflow and what the training itself needs.
    """
    most = memory_bytes()
    return wanted if most is None else min(wanted, most / 2)


_COLUMNS = (
    *("JobID", "JobArrayID", "State", "TimeUsed", "TimeLeft", "ReasonList"),
    *("tres-per-node", "RestartCnt"),
)


def ranks(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return what `torchrun` would tell this task, if `srun` started several tasks of one training.

    Empty if it did not, or if torchrun told it already.
    """
    count = environment.get("SLURM_STEP_NUM_TASKS", "1")
    if "WORLD_SIZE" in environment or count == "1" or job_id(environment) is None:
        return {}
    nodes = environment.get("SLURM_STEP_NODELIST", "")
    first = "127.0.0.1"
    if environment.get("SLURM_STEP_NUM_NODES", "1") != "1":
        line = ["scontrol", "show", "hostnames", nodes]
        found = subprocess.run(line, check=True, capture_output=True, text=True)
        first = found.stdout.split()[0]
    port = 20_000 + int(environment["SLURM_JOB_ID"]) % 40_000
    return {
        "WORLD_SIZE": count,
        "RANK": environment["SLURM_PROCID"],
        "LOCAL_RANK": environment["SLURM_LOCALID"],
        "MASTER_ADDR": first,
        "MASTER_PORT": str(port),
    }


class JobState(NamedTuple):
    """A job that SLURM knows."""

    id: str
    """Its number, as in its processes' environment."""
    name: str
    """Its number for people: `12_3` is task 3 of the array 12."""
    state: str
    """SLURM's word, such as RUNNING."""
    elapsed: str
    left: str
    """Time until its limit, as SLURM writes it."""
    where: str
    """Its nodes; while it waits, the reason in brackets."""
    gpus: str
    restarts: int
    """Number of times that it was requeued."""


def states(ids: Iterable[str]) -> list[JobState] | None:
    """Return the jobs among `ids` that wait or run, as `squeue` knows them; None without `squeue`.

    A job that has ended, or one that never was, is not among them. The number of an array stands
    for all of its tasks.
    """
    wanted = ",".join(sorted(set(ids)))
    if not wanted:
        return []
    columns = ",".join(f"{name}:|" for name in _COLUMNS)
    # Without -r an array's waiting tasks would be one row.
    line = ["squeue", "-h", "-r", "-a", "-O", columns, "-j", wanted]
    try:
        found = subprocess.run(
            line, check=False, capture_output=True, text=True, timeout=_QUERY_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if found.returncode and "Invalid job id" in found.stderr:
        return []  # all of them are forgotten
    if found.returncode:
        return None
    rows = [row.split("|") for row in found.stdout.splitlines()]
    known = [[cell.strip() for cell in row] for row in rows if len(row) > len(_COLUMNS)]
    return [
        JobState(id, name, state, elapsed, left, where, "" if gpus == "N/A" else gpus, int(starts))
        for id, name, state, elapsed, left, where, gpus, starts, *_ in known
        if starts.isdecimal()
    ]


def is_gone(job: str, starts: int) -> bool | None:
    """Return True if the processes are gone that a job had after its `starts`th restart.

    None if nobody knows.
    """
    known = states([job])
    if known is None:
        return None
    # The last task of an array has the array's own number, which `squeue` takes for all tasks.
    own = [one for one in known if one.id == job]
    return not any(one.state in LIVING and one.restarts <= starts for one in own)
