"""The command `cyclegan train`, and how a finished training is reported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cyclegan.checkpoints import newest_checkpoint
from cyclegan.config import Config, load_config
from cyclegan.errors import DataError
from search.launch import SAVE_FOLDER, Finished, Job, run_training
from tracking import project_root
from workbench.session import Session


def train_one(session: Session, path: Path, overrides: Sequence[str], *, resume: bool) -> Finished:
    """Train what the YAML file and the overrides say, and print how it ended."""
    config = load_config(path, overrides)
    finished = train_config(session, config, resume=resume)
    data = finished_data(config.run_name, finished)
    session.result(data, finished_text(data))
    return finished


def train_config(session: Session, config: Config, *, resume: bool) -> Finished:
    """Train `config` in `results/<run_name>/`.

    With `resume` it goes on from the newest checkpoint, if there is one.

    Errors: `DataError` if that folder holds a training and `resume` is off.
    """
    folder = project_root() / "results" / config.run_name
    there = newest_checkpoint(folder / SAVE_FOLDER) is not None
    if there and not resume:
        raise DataError(
            f"{folder} holds a training already; continue it with --resume, or choose another name "
            "with --set run_name=..."
        )
    if resume and not there:  # killed before its first one, or never begun
        session.say(f"{folder} holds no checkpoint yet; starting at step 0")
    job = Job(config=config, folder=folder, experiment="train", kind="train", tags={})
    return run_training(job, store=session.store, console=session.console)


def finished_data(run_name: str, finished: Finished) -> dict[str, Any]:
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
