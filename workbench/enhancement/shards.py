"""Enhance with several GPUs of this host: a process for each, which computes a shard of the tiles.

The processes are calls of the same command with `--shard K/N` and a GPU of their own. The last one
to end puts all together and writes the report.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from cyclegan.errors import CycleGANError, UsageError
from cyclegan.precision import choose_device
from cyclegan.signals import handled, held_back


def share_out(words: Sequence[str], count: int, device: str) -> None:
    """Run the command line `words` as `count` processes, and wait for all of them.

    Args:
        device: device that the user asked for: each process gets another GPU, or the CPU.

    Errors: `UsageError` if there are fewer GPUs; `CycleGANError` with the message of the first
    process that failed; `KeyboardInterrupt` if they were asked to stop. What is finished then
    stays, and the same call goes on from there.
    """
    is_gpu = choose_device(device).type == "cuda"
    if is_gpu and count > torch.cuda.device_count():
        raise UsageError(f"--gpus {count}: PyTorch sees {torch.cuda.device_count()} GPUs here")
    with tempfile.TemporaryDirectory(prefix="cyclegan-shards-") as folder:
        logs = [Path(folder) / str(number) for number in range(count)]
        processes = [
            _started(words, number, count, f"cuda:{number}" if is_gpu else device, logs[number])
            for number in range(count)
        ]
        asked: list[int] = []

        def stop(number: int, frame: object) -> None:
            asked.append(number)
            for process in processes:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()

        with handled(stop):
            codes = [process.wait() for process in processes]
        if asked:
            raise KeyboardInterrupt
        for code, log in zip(codes, logs, strict=True):
            if code:
                lines = [line for line in log.read_text(errors="replace").split("\n") if line]
                said = lines[-1].removeprefix("error: ") if lines else f"exit code {code}"
                raise CycleGANError(said)


def _started(
    words: Sequence[str], number: int, count: int, device: str, log: Path
) -> subprocess.Popen[bytes]:
    line = [sys.executable, "-P", "-m", "workbench", *words, "--device", device]
    line += ["--shard", f"{number + 1}/{count}"]
    with log.open("wb") as messages, held_back():
        # The first one shows its progress, which is about that of all.
        return subprocess.Popen(
            line,
            stdout=subprocess.DEVNULL,
            stderr=None if number == 0 else messages,
            start_new_session=True,  # Ctrl-C comes from here
        )
