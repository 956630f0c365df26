"""The SLURM jobs of a study: their states beside its trials, and cancelling them.

`squeue` knows the jobs that wait and run. Of those that have ended, the jobs' own notes tell (see
`workbench.cluster.task`), because many clusters forget them; of those that could not note their end
`sacct` tells, where the cluster keeps accounts.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cyclegan import slurm
from cyclegan.data import read_json
from cyclegan.errors import CycleGANError
from search.study.lease import LEASE
from search.study.study import StudyHandle
from search.study.trials import FINISHED, Trial
from viz.text import table
from workbench.cluster.submission import RECORD
from workbench.cluster.task import CANCELLED

FOLDER = "slurm"
_SECONDS = 60


@dataclass(frozen=True)
class ClusterJob:
    """One SLURM job of a study."""

    name: str
    """Its number for people, `12_3` in an array."""
    state: str
    """SLURM's word for it, in small letters; or how it ended."""
    host: str
    gpus: str
    elapsed: str
    left: str
    """Time until its limit."""
    requeues: int
    trial: int | None
    """Number of the trial that it trains now."""
    log: str


def jobs_of(handle: StudyHandle) -> list[ClusterJob]:
    """Return all jobs that were submitted for a study, oldest first."""
    submissions = list(_submissions(handle.folder))
    names = [name for _, record in submissions for name in record["jobs"]]
    known = slurm.states({name.partition("_")[0] for name in names}) or []
    now = {state.name: state for state in known}
    training = _training(handle)
    found = []
    for folder, record in submissions:
        for name in record["jobs"]:
            noted = _noted(folder, name)
            log = str(folder / "jobs" / f"{name}_0_log.out")
            if name in now:
                found.append(_waiting_or_running(now[name], noted, training, log))
            else:
                found.append(_ended(name, noted, log))
    return found


def _waiting_or_running(
    state: slurm.JobState, noted: dict[str, Any], training: dict[str, int], log: str
) -> ClusterJob:
    is_running = state.state in slurm.LIVING
    return ClusterJob(
        name=state.name,
        state=state.state.lower(),
        host=state.where,
        gpus=noted.get("gpus") or state.gpus.removeprefix("gres:"),
        elapsed=state.elapsed,
        left=state.left,
        requeues=state.restarts,
        trial=training.get(state.id) if is_running else None,
        log=log,
    )


def _ended(name: str, noted: dict[str, Any], log: str) -> ClusterJob:
    state = noted.get("ended") or _accounted(name) or ("lost" if noted else "ended")
    return ClusterJob(
        name=name,
        state=state,
        host=noted.get("host", ""),
        gpus=noted.get("gpus", ""),
        elapsed="",
        left="",
        requeues=int(noted.get("restarts", 0)),
        trial=None,
        log=log,
    )


def _submissions(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted((folder / FOLDER).glob(f"*/{RECORD}")):
        yield path.parent, dict(read_json(path))


def _noted(folder: Path, name: str) -> dict[str, Any]:
    path = folder / f"job-{name}.json"
    return dict(read_json(path)) if path.is_file() else {}


def _training(handle: StudyHandle) -> dict[str, int]:
    """Return the trials that jobs train now, by the job's number."""
    held = {}
    for frozen in handle.study.get_trials(deepcopy=False):
        job = frozen.user_attrs.get(LEASE, {}).get("job")
        if job and not frozen.state.is_finished():
            held[str(job)] = frozen.number
    return held


def _accounted(name: str) -> str:
    """Return the final state of a job as the cluster's accounts have it; empty without them."""
    line = ["sacct", "-X", "-n", "-P", "-j", name, "-o", "State"]
    try:
        found = subprocess.run(line, check=False, capture_output=True, text=True, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = found.stdout.split("\n") if not found.returncode else []
    return lines[0].strip().lower().partition(" by ")[0] if lines else ""  # "CANCELLED by 1000"


def jobs_data(jobs: Sequence[ClusterJob]) -> list[dict[str, Any]]:
    """Return jobs as plain values."""
    return [asdict(job) for job in jobs]


def jobs_text(jobs: Sequence[ClusterJob]) -> str:
    """Return a table of the jobs that wait or run, and a line about those that have ended."""
    present = [job for job in jobs if job.left]
    header = ["job", "state", "trial", "host", "GPU", "elapsed", "left", "requeues"]
    rows = [
        [
            job.name,
            job.state,
            "" if job.trial is None else str(job.trial),
            job.host,
            job.gpus,
            job.elapsed,
            job.left,
            str(job.requeues),
        ]
        for job in present
    ]
    ended: dict[str, list[str]] = {}
    for job in jobs:
        if not job.left:
            ended.setdefault(job.state, []).append(job.name)
    parts = [f"{', '.join(names)} {state}" for state, names in ended.items()]
    lines = [table(header, rows, words=("state", "host", "GPU"))] if present else []
    lines += [f"jobs that have ended: {'; '.join(parts)}"] if parts else []
    return "\n".join(lines)


def interruptions_text(trials: Sequence[Trial]) -> str:
    """Return one line: whether all trials that were interrupted have gone on; empty without any."""
    cut = [trial for trial in trials if trial.interruptions or trial.state == "interrupted"]
    if not cut:
        return ""
    states: dict[str, list[int]] = {}
    for trial in cut:
        states.setdefault(trial.state, []).append(trial.number)
    parts = [f"{len(numbers)} {state}" for state, numbers in states.items()]
    waiting = states.get("interrupted", [])
    if waiting:
        verdict = f"not yet continued: trial {', '.join(map(str, waiting))}"
    elif all(trial.state in FINISHED for trial in cut):
        verdict = "all of them went on and ended"
    else:
        verdict = "all of them went on"
    return f"interrupted trials: {len(cut)} ({', '.join(parts)}); {verdict}"


def cancel(handle: StudyHandle) -> list[str]:
    """End a study's jobs in order; return those that were waiting or running.

    Those that run write checkpoints and leave; none of them is requeued.

    Errors: `CycleGANError` without SLURM.
    """
    folders = [folder for folder, _ in _submissions(handle.folder)]
    for folder in folders:
        (folder / CANCELLED).touch()
    names = {name for _, record in _submissions(handle.folder) for name in record["jobs"]}
    known = slurm.states({name.partition("_")[0] for name in names})
    if known is None:
        raise CycleGANError("squeue does not answer here; run this on a login node of the cluster")
    own = [state for state in known if state.name in names]
    running = [state.name for state in own if state.state in slurm.LIVING]
    waiting = [state.name for state in own if state.state not in slurm.LIVING]
    if waiting:
        _scancel(*waiting)
    if running:
        _scancel("--signal=USR1", *running)
    return [*running, *waiting]


def _scancel(*arguments: str) -> None:
    try:
        subprocess.run(
            ["scancel", *arguments], check=True, capture_output=True, text=True, timeout=_SECONDS
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", "") or str(error)
        raise CycleGANError(f"scancel failed: {said.strip()}") from error
