"""One task of a SLURM job: run a command of ours, and go on when the time is up.

submitit starts `ClusterTask` on the node. The command runs in a child process, so that whatever
happens to it, the task is there to requeue the job:

```
SIGUSR2, or the limit is near --> SIGTERM to the command --> checkpoints, exit code 130 --> requeue
SIGTERM, preempted            --> the same
SIGTERM, scancel              --> SIGTERM to the command --> checkpoints, exit code 130 --> leave
SIGUSR1, cyclegan study cancel --> the same
```

SLURM itself requeues a job whose node dies, and one that it preempts if it still runs at the end of
the time that it gets to leave. One that has left by then counts as done, so it requeues itself.

submitit's own handler of SIGUSR2 would requeue in the middle of a training step, so it is called
only after the command has left. A cluster that does not let its nodes requeue gets a new job
instead.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from cyclegan import slurm
from cyclegan.files import write_text
from cyclegan.signals import ENDING, held_back
from search.study.lease import REQUEUES

CANCELLED = "cancelled"
"""File in the folder of a submission: its jobs are to leave, and not to be requeued."""
_LOOK_SECONDS = 0.5
_MOST_GRACE = 3600.0
"""Most seconds that a cluster gives to a job that it preempts."""
_LEFT = {130, *(-number for number in (signal.SIGINT, *ENDING))}
"""Exit codes of a command that left because it was asked to.

It is ready for signals from its first moment to its last but one: Python gives up its handlers
shortly before it ends, so that a second signal can still kill it when all is written. And it ends
by SIGINT instead of 130 if the signal came while it was importing.
"""


class TaskError(Exception):
    """A command that failed on its node; the job fails with it."""


@dataclass(frozen=True)
class ClusterTask:
    """A command to run on a node.

    Args:
        arguments: what follows `cyclegan`.
        directory: working directory of the command.
        record: folder of the submission.
        seconds: time limit of the job.
        grace: seconds before the limit at which the command is asked to leave.
    """

    arguments: tuple[str, ...]
    directory: str
    record: str
    seconds: int
    grace: int

    def __call__(self) -> str:
        """Run the command and return how it ended. A requeue does not return.

        Errors: `TaskError` if the command failed, or if its time is up and no job can follow.
        """
        started = time.monotonic()
        by_submitit = signal.getsignal(signal.SIGUSR2)
        came: list[int] = []

        def note(number: int, frame: FrameType | None) -> None:
            came.append(number)

        for number in ENDING:
            signal.signal(number, note)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        status = TaskStatus.of_this_job(Path(self.record))
        if self._is_cancelled():
            status.note("cancelled")
            return "cancelled"
        self._check_folder(status)
        status.note("")
        code = self._run(came, started + self.seconds - self.grace)
        if code == 0:
            status.note("done")
            return "done"
        if not came or code not in _LEFT:
            status.note(f"failed with exit code {code}")
            raise TaskError(
                f"the command {self.arguments[0]} ended with exit code {code}; see above"
            )
        if self._is_cancelled() or signal.SIGUSR1 in came:
            status.note("cancelled")
            return "cancelled"
        if signal.SIGUSR2 not in came and not _is_preempted(status.job):
            status.note("interrupted")
            return "interrupted"
        status.note("requeued")
        self._again(by_submitit, status)
        return "time limit"

    def checkpoint(self) -> Any:
        """Return what submitit is to run when the job is requeued: the same command goes on."""
        import submitit

        return submitit.helpers.DelayedSubmission(self)

    def _run(self, came: list[int], until: float) -> int:
        """Run the command, ask it to leave if this task is asked or at time `until`."""
        line = [sys.executable, "-P", "-m", "workbench", *self.arguments]
        environment = os.environ | {REQUEUES: "1"}
        with held_back():
            process = subprocess.Popen(line, cwd=self.directory, env=environment)
        with process as command:
            asked = False
            while (code := _code_of(command)) is None:
                if time.monotonic() > until and not came:
                    came.append(signal.SIGUSR2)
                if came and not asked:
                    asked = True
                    command.send_signal(signal.SIGTERM)
        return code

    def _again(self, requeue: object, status: TaskStatus) -> None:
        """Requeue the job, or submit another one in its place."""
        for number in ENDING:  # `scontrol requeue` ends this job by SIGTERM
            signal.signal(number, signal.SIG_IGN)
        try:
            assert callable(requeue)
            requeue(signal.SIGUSR2, None)  # ends this process
        except Exception as error:  # noqa: BLE001  (no scontrol here, or it refuses)
            print(f"the job can't be requeued ({error}); submitting another", flush=True)  # noqa: T201
        self._resubmit(status)

    def _resubmit(self, status: TaskStatus) -> None:
        from workbench.cluster.submission import submit_again

        try:
            (job,) = submit_again(Path(self.record))
        except Exception as error:
            status.note("time limit")
            raise TaskError(
                f"the time is up, and from this node no job can follow ({error}); run the same "
                "command with --slurm again to go on"
            ) from error
        status.note(f"followed by job {job}")

    def _is_cancelled(self) -> bool:
        return (Path(self.record) / CANCELLED).exists()

    def _check_folder(self, status: TaskStatus) -> None:
        if not Path(self.directory).is_dir():
            status.note("failed: folder not shared")
            raise TaskError(
                f"{self.directory} is not there on {socket.gethostname()}: the project must lie "
                "in a folder that all nodes share"
            )


def _is_preempted(job: str) -> bool:
    """Return True if a job that got SIGTERM still counts as running, so nobody has cancelled it.

    Where SLURM does not answer, wait for what it does: it kills a cancelled job, and it kills and
    requeues a preempted one.
    """
    known = slurm.states([job])
    if known is None:
        time.sleep(_MOST_GRACE)
        return False
    return any(state.id == job and state.state == "RUNNING" for state in known)


def _code_of(command: subprocess.Popen[bytes]) -> int | None:
    """Return the exit code of a command, or None if it still runs after a moment."""
    try:
        return command.wait(_LOOK_SECONDS)
    except subprocess.TimeoutExpired:
        return None


@dataclass(frozen=True)
class TaskStatus:
    """The state of one task as the task itself noted it: clusters forget jobs that have ended."""

    job: str
    """Number of the job, as in its environment."""
    name: str
    """Its number for people, `12_3` in an array."""
    path: Path

    @classmethod
    def of_this_job(cls, folder: Path) -> TaskStatus:
        """Return the status of this process's job, to be written into `folder`."""
        job, array = slurm.job_id() or "none", os.environ.get("SLURM_ARRAY_JOB_ID")
        name = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else job
        return cls(job, name, folder / f"job-{name}.json")

    def note(self, ended: str) -> None:
        """Write the state; `ended` is empty while the task runs."""
        content = {
            "job": self.job,
            "name": self.name,
            "host": socket.gethostname(),
            "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
            "restarts": int(os.environ.get("SLURM_RESTART_COUNT", "0")),
            "ended": ended,
            "at": round(time.time()),
        }
        write_text(self.path, json.dumps(content))
