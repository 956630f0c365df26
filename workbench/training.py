"""The command `cyclegan train`, and how a finished training is reported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclegan.checkpoints import newest_checkpoint
from cyclegan.config import Config
from cyclegan.errors import DataError
from cyclegan.ranks import Ranks
from search.catch_up import caught_up
from search.launch import SAVE_FOLDER, Job, LaunchResult, check_training, run_training
from tracking import project_root
from viz.console import Console
from workbench.output import Output

if TYPE_CHECKING:
    from tracking import Store

INTERRUPTED = 130
"""Exit code of a training that was interrupted."""


def train(
    config: Config,
    *,
    store: Store | Callable[[], Store],
    console: Console,
    resume: bool = False,
    processes: int = 1,
) -> LaunchResult:
    """Train `config` in `results/<run_name>/`, tracked in `store` (or what opens it).

    With `resume` the training continues from its newest checkpoint, if there is one. If it has
    ended, MLflow gets what it lacks of it. Several `processes`, each with its own GPU, share each
    batch (see `cyclegan.ranks`).

    Errors: `DataError` if that folder holds a training and `resume` is off.
    """
    folder = _folder_for(config, resume=resume)
    if (
        resume and newest_checkpoint(folder / SAVE_FOLDER) is None
    ):  # killed before its first one, or never begun
        console.warn(f"{folder} holds no checkpoint yet; starting at step 0")
    job = Job(
        config=config,
        folder=folder,
        experiment="train",
        kind="train",
        tags={},
        processes=processes,
    )
    finished = run_training(job, store=store, console=console)
    if not Ranks.of_environment().is_first:
        return finished
    return caught_up(finished, job, store() if callable(store) else store, console)


def check_beginning(config: Config, *, resume: bool, processes: int = 1) -> None:
    """Refuse a training that can't begin on another machine either; nothing is written.

    Errors: those of `train`, but for this machine's device and memory.
    """
    _folder_for(config, resume=resume)
    Ranks(size=processes).check(config)
    check_training(config, here=False)


def _folder_for(config: Config, *, resume: bool) -> Path:
    folder = project_root() / "results" / config.run_name
    if not resume and newest_checkpoint(folder / SAVE_FOLDER) is not None:
        raise DataError(
            f"{folder} already holds a training; continue it with --resume, or choose another name "
            "with --set run_name=..."
        )
    return folder


def output_of(config: Config, finished: LaunchResult) -> Output:
    """Return how a training ended, for the command line."""
    data = finished_data(config.run_name, finished)
    interrupted = finished.result.outcome == "interrupted"
    return Output(data=data, text=finished_text(data), exit_code=INTERRUPTED if interrupted else 0)


def finished_data(run_name: str, finished: LaunchResult) -> dict[str, Any]:
    """A finished training as plain values."""
    return {
        "run_name": run_name,
        "run_id": finished.run_id,
        "folder": str(finished.folder),
        "reused": finished.reused,
        "rollbacks": finished.rollbacks,
        "best_step": finished.best_step,
        "best_score": finished.best_score,
        "best_gain_db": finished.best_gain_db,
        **vars(finished.result),
    }


def finished_text(data: dict[str, Any]) -> str:
    """The same for people."""
    reason = f": {data['reason']}" if data["reason"] else ""
    best = "none usable" if data["best_score"] is None else f"{data['best_score']:.2f}"
    score = "none" if data["score"] is None else f"{data['score']:.2f}"
    return (
        f"run        {data['run_name']} ({data['run_id']})\n"
        f"outcome    {data['outcome']}{reason}\n"
        f"steps      {data['step']} ({data['iteration']} iterations, "
        f"{data['rollbacks']} rollbacks)\n"
        f"score      {best} at step {data['best_step']} (kept), {score} at the end\n"
        f"folder     {data['folder']}"
    )
