"""The other processes of a data-parallel training on this host, started by its first one.

A follower trains the same configuration from the same checkpoint as its part of the ranks (see
`cyclegan.ranks`). It writes no files and calls no callbacks. It ends with the first process:
when that one stops, when it fails, and when it is killed.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from cyclegan import slurm
from cyclegan.config import Config, parse_config
from cyclegan.errors import CycleGANError
from cyclegan.ranks import Ranks
from cyclegan.signals import ENDING

_SECONDS = 60.0
"""Time for which the first process waits for the others to end by themselves."""


@contextlib.contextmanager
def followed(config: Config, size: int, checkpoint: Path | None) -> Iterator[Ranks]:
    """Start the other `size` - 1 processes of a training here; yield the ranks of this one.

    They end with the block.

    Args:
        config: what to train.
        checkpoint: the checkpoint from which the training goes on, if there is one.
    """
    if size == 1:
        yield Ranks()
        return
    with contextlib.ExitStack() as stack:
        stack.enter_context(_sharing(size))
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="cyclegan-ranks-"))
        meeting = f"file://{folder}/meeting"
        processes = [
            stack.enter_context(_follower(config, Ranks(n, size, n, meeting), checkpoint, folder))
            for n in range(1, size)
        ]
        ranks = Ranks(0, size, 0, meeting)
        try:
            yield ranks
        except CycleGANError as error:
            said = _said(processes, Path(folder)) if error.__cause__ is not None else ""
            if said:  # the cause is the loss of another process
                raise CycleGANError(said) from error
            raise
        finally:
            ranks.leave()  # a trainer that could not begin is still in


@contextlib.contextmanager
def _sharing(size: int) -> Iterator[None]:
    """Let each of `size` processes take its share of a SLURM job's CPUs and memory."""
    before = os.environ.get(slurm.WORKERS)
    os.environ[slurm.WORKERS] = str(size * int(before or "1"))
    try:
        yield
    finally:
        if before is None:
            del os.environ[slurm.WORKERS]
        else:
            os.environ[slurm.WORKERS] = before


@contextlib.contextmanager
def _follower(
    config: Config, ranks: Ranks, checkpoint: Path | None, folder: str
) -> Iterator[subprocess.Popen[str]]:
    task = {
        "config": config.to_dict(),
        "rank": ranks.rank,
        "size": ranks.size,
        "meeting": ranks.meeting,
        "checkpoint": None if checkpoint is None else str(checkpoint),
    }
    line = [sys.executable, "-P", "-m", "cyclegan.follower"]
    with (Path(folder) / f"{ranks.rank}.log").open("w") as messages:
        process = subprocess.Popen(
            line,
            stdin=subprocess.PIPE,
            stdout=messages,
            stderr=messages,
            text=True,
            start_new_session=True,  # the terminal's Ctrl-C is the first one's
        )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(task) + "\n")
        process.stdin.flush()  # it stays open: its end tells the follower that we are gone
    try:
        yield process
    finally:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        try:
            process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _said(processes: Sequence[subprocess.Popen[str]], folder: Path) -> str:
    """Return the last message of the first follower that failed; empty if none did."""
    for rank, process in enumerate(processes, 1):
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5.0)
        if process.returncode not in (None, 0):
            lines = (folder / f"{rank}.log").read_text(errors="replace").split("\n")
            last = next((line for line in reversed(lines) if line.strip()), "no message")
            how = f"exit code {process.returncode}"
            if process.returncode < 0:
                how = signal.Signals(-process.returncode).name
            return f"process {rank} of this training died ({how}): {last.strip()[:300]}"
    return ""


def main() -> None:
    """Follow the training that standard input describes."""
    for number in (signal.SIGINT, *ENDING):
        signal.signal(number, signal.SIG_IGN)  # the first process decides
    task = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_first, daemon=True).start()
    from cyclegan.trainer import Trainer

    ranks = Ranks(task["rank"], task["size"], task["rank"], task["meeting"])
    checkpoint = task["checkpoint"]
    try:
        trainer = Trainer(parse_config(task["config"]), ranks=ranks)
        trainer.fit(None if checkpoint is None else Path(checkpoint))
    except CycleGANError as error:
        sys.exit(str(error))


def _end_with_first() -> None:
    sys.stdin.read()
    # The training's own end comes first where there is one.
    threading.Event().wait(_SECONDS / 2)
    os._exit(1)


if __name__ == "__main__":
    main()
