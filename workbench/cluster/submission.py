"""Submit a command of ours to SLURM, through submitit.

Every submission has a folder of its own with the batch script, the logs, what the jobs note about
themselves, and `submission.json`. It lies below the study's folder, or below `results/slurm/`.
"""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cyclegan.errors import CycleGANError, UsageError
from cyclegan.files import write_text
from workbench.cluster.options import SlurmOptions
from workbench.cluster.task import ClusterTask

RECORD = "submission.json"
_REQUEUES = 100_000
"""Most requeues after a time limit; submitit allows three."""
_HINTS = {
    "artition": "sinfo lists the partitions (--partition)",
    "node configuration": "no node has that much: ask for less (--gpus, --cpus, --mem), or for "
    "another --partition; sinfo -o '%P %c %m %G' shows what there is",
    "time limit": "give a shorter --time; sinfo -o '%P %l' shows the limits",
    "ccount": "give another --account, --qos or --partition",
}
"""Ways out, by what SLURM's reasons contain."""
_READY = (
    # A signal may come before Python has a handler for it. It is ignored by the shell, then held
    # back by `env`, where that can do so, until the task is ready.
    "trap '' USR1 USR2 TERM; "
    "if env --block-signal=TERM true 2>/dev/null; "
    'then set -- env --block-signal=USR1,USR2,TERM "$@"; fi; '
    'exec "$@"'
)


def check_cluster(options: SlurmOptions) -> None:
    """Refuse to submit where that can't work.

    Errors: `UsageError` without SLURM, and without submitit.
    """
    try:
        import submitit  # noqa: F401
    except ImportError as error:
        raise UsageError("--slurm needs submitit: pip install 'cyclegan3d[slurm]'") from error
    if not options.dry_run and (shutil.which("sbatch") is None or shutil.which("srun") is None):
        raise UsageError(
            "--slurm: there is no SLURM here (no sbatch in PATH); run this on a login node of the "
            "cluster, or leave --slurm out"
        )


def script(arguments: Sequence[str], options: SlurmOptions, *, folder: Path, name: str) -> str:
    """Return the batch script of a submission; nothing is written."""
    from submitit.slurm.slurm import _make_sbatch_string

    parameters = _parameters(options, name)
    if options.jobs > 1:
        parameters["map_count"] = options.jobs
    command = f"{_python()} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    text: str = _make_sbatch_string(command=command, folder=folder, **parameters)
    return f"{text}# runs: {shlex.join(['cyclegan', *arguments])}\n"


def submit(
    arguments: Sequence[str], options: SlurmOptions, *, folder: Path, name: str
) -> list[str]:
    """Submit jobs that run `cyclegan` with `arguments` here; return their numbers.

    Args:
        folder: gets a subfolder for this submission.
        name: name of the jobs.

    Errors: `CycleGANError` with SLURM's reason if it refuses them.
    """
    import submitit
    from submitit.core.utils import FailedJobError

    own = _new_folder(folder)
    executor = submitit.SlurmExecutor(
        folder=own / "jobs", max_num_timeout=_REQUEUES, python=_python()
    )
    executor.update_parameters(**_parameters(options, name))
    task = ClusterTask(
        arguments=tuple(arguments),
        directory=str(Path.cwd()),
        record=str(own),
        seconds=60 * options.minutes,
        grace=options.grace,
    )
    try:
        # submitit also prints what sbatch says.
        with contextlib.redirect_stderr(io.StringIO()), executor.batch():
            jobs = [executor.submit(task) for _ in range(options.jobs)]
    except FailedJobError as error:
        shutil.rmtree(own)
        for parent in own.parents:  # as far as they were made for this
            try:
                parent.rmdir()
            except OSError:
                break
        raise CycleGANError(f"SLURM refuses the jobs: {_reason(error)}") from error
    ids = [job.job_id for job in jobs]
    record = {
        "command": ["cyclegan", *arguments],
        "name": name,
        "jobs": ids,
        "at": round(time.time()),
        "options": asdict(options),
    }
    write_text(own / RECORD, json.dumps(record, indent=1))
    return ids


def submit_again(record: Path) -> list[str]:
    """Submit one more job like those of the submission in the folder `record`.

    Errors: those of `submit`.
    """
    content = json.loads((record / RECORD).read_text(encoding="utf-8"))
    values = content["options"] | {"jobs": 1}
    options = SlurmOptions(**values | {"setup": tuple(values["setup"])})
    return submit(content["command"][1:], options, folder=record.parent, name=content["name"])


def _parameters(options: SlurmOptions, name: str) -> dict[str, Any]:
    """Return submitit's parameters."""
    given = {
        "mem": options.memory,
        "partition": options.partition,
        "account": options.account,
        "qos": options.qos,
        "gpus_per_node": options.gpus or None,
        "cpus_per_task": options.cpus,
    }
    # Since SLURM 22.05 a step does not inherit the CPUs of its job.
    steps = {"srun_args": [f"--cpus-per-task={options.cpus}"]} if options.cpus else {}
    return {
        "job_name": name,
        "time": options.minutes,
        "nodes": 1,
        "ntasks_per_node": 1,
        "signal_delay_s": options.grace,
        "stderr_to_stdout": True,
        "setup": list(options.setup),
        "wckey": None,  # submitit's own word, which clusters that check it refuse
        "additional_parameters": {"requeue": True},
        **steps,
        **{key: value for key, value in given.items() if value is not None},
    }


def _python() -> str:
    """Return the start of a command line that runs Python on a node, ready for early signals."""
    return shlex.join(["bash", "-c", _READY, "bash", sys.executable])


def _new_folder(folder: Path) -> Path:
    """Make the folder of a new submission.

    Each has its own: a cluster that was set up anew counts its jobs from 1 again, and submitit
    would take an old job's files for those of a new one.
    """
    while True:
        own = folder / time.strftime("%Y-%m-%dT%H-%M-%S")
        try:
            own.mkdir(parents=True)
        except FileExistsError:
            time.sleep(0.2)
        else:
            return own.resolve()


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    said = [line.removeprefix("sbatch: error: ") for line in lines if "sbatch: error:" in line]
    reason = "; ".join(said) or lines[-1]
    hint = next((hint for text, hint in _HINTS.items() if text in reason), "")
    return f"{reason}; {hint}" if hint else reason
