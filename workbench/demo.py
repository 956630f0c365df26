"""The demo that `make demo` runs: real data, a study, a promoted training, an enhanced volume.

    python -m workbench.demo

Every stage is a command line that a user would type; the demo prints it, then runs it. Each
command goes on where it was interrupted, so the demo does too. Ctrl-C, SIGTERM or SIGHUP stop it:
it passes the signal on to the command, which writes its checkpoint, and ends with 130.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from cyclegan.files import write_text
from viz.console import Console
from viz.text import table
from viz.units import duration
from workbench.training import INTERRUPTED

DATA = Path("data/demo")
STUDY = Path("studies/demo.yaml")
OUTPUT = Path("results/demo/enhanced.h5")
_ENHANCEMENT = OUTPUT.with_suffix(".json")


def main() -> int:
    """Run the stages and print a summary; return 0 or the exit code of the stage that failed."""
    with _Stages().stopped_by_signals() as stages:
        return _demo(stages)


def _demo(stages: _Stages) -> int:
    console = Console()
    clock: list[tuple[str, float]] = []

    def stage(title: str, *arguments: str) -> Any:
        console.say(f"\n== {len(clock) + 1} of 4: {title}\n$ cyclegan {shlex.join(arguments)}")
        start = time.monotonic()
        result = stages.run(arguments)
        clock.append((title, time.monotonic() - start))
        console.say(f"   {title}: {duration(clock[-1][1])}")
        return result

    try:
        stage("simulate a fast and a slow scan", "simulate", str(DATA))
        study = stage("search hyperparameters", "study", "run", str(STUDY))
        promoted = stage("train the best trial in earnest", "promote", study["study"])
        enhanced = _finished_enhancement(promoted["run_id"])
        if enhanced is None:
            enhanced = stage("enhance the validation volume", *_enhancement(promoted["run_id"]))
            write_text(_ENHANCEMENT, json.dumps(enhanced, indent=1))
        else:
            console.say(f"\n== 4 of 4: this model already made {OUTPUT}, nothing to do")
    except _StageError as error:
        console.say(f"\nthe demo stopped (exit code {error.code}); run it again to continue")
        return error.code
    print(_summary(study, promoted, enhanced, clock))  # noqa: T201
    return 0


def _enhancement(model: str) -> list[str]:
    return [
        *("enhance", str(DATA / "fast_validate.h5"), "--model", model),
        *("--output", str(OUTPUT), "--reference", str(DATA / "slow_validate.h5")),
        # Replace the demo's own output if another model made it, or if its record is missing.
        *(["--overwrite"] if OUTPUT.exists() else []),
    ]


def _finished_enhancement(run_id: str) -> Any:
    if not (_ENHANCEMENT.is_file() and OUTPUT.is_file()):
        return None
    before = json.loads(_ENHANCEMENT.read_text(encoding="utf-8"))
    return before if before["model"] == run_id else None


class _StageError(Exception):
    """A stage that failed, with its exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class _Stages:
    """Runs one stage at a time, and passes signals on to it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._came: list[int] = []
        self._passed = 0
        """Number of signals that the stage has got."""

    @contextlib.contextmanager
    def stopped_by_signals(self) -> Iterator[_Stages]:
        """Pass Ctrl-C, SIGTERM and SIGHUP on while inside."""
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = [signal.signal(number, self._handle) for number in numbers]
        try:
            yield self
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)

    def run(self, arguments: Sequence[str]) -> Any:
        """Run a command to its end, however often it is told to stop, and return its JSON.

        Errors: `_StageError` if it fails, or if a signal came.
        """
        if self._came:
            raise _StageError(INTERRUPTED)
        # In a process group of its own: otherwise a Ctrl-C at the terminal would reach the stage
        # twice, once from here, and a second Ctrl-C ends a training without a checkpoint.
        with subprocess.Popen(
            _line(arguments), stdout=subprocess.PIPE, text=True, process_group=0
        ) as self._process:
            self._pass_on()  # a signal that came while the process was being started
            output, _ = self._process.communicate()
        code, self._process = self._process.returncode, None
        if self._came:
            raise _StageError(INTERRUPTED)
        if code != 0:
            raise _StageError(code if code > 0 else 1)
        return json.loads(output)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._came.append(number)
        self._pass_on()

    def _pass_on(self) -> None:
        while self._process is not None and self._passed < len(self._came):
            self._passed += 1
            self._process.send_signal(self._came[self._passed - 1])


def _line(arguments: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "workbench.cli", *arguments, "--json"]


def _other_trial(study: dict[str, Any]) -> str:
    """Return which trial is promoted, if it isn't the one with the best score."""
    first = next(t for t in study["trials"] if t["number"] == study["promotes"])
    found = f"  promoted    trial {first['number']}, score {first['score']:.2f}"
    return f"{found}: by its neighbours it is expected to be better with other seeds"


def _summary(
    study: dict[str, Any],
    promoted: dict[str, Any],
    enhanced: dict[str, Any],
    clock: Sequence[tuple[str, float]],
) -> str:
    best = study["best"]
    values = ", ".join(f"{key} = {value:.3g}" for key, value in best["values"].items())
    pruned = [t for t in study["trials"] if t["state"] == "pruned"]
    rows = [
        [q["name"], f"{q['psnr']:.2f}", f"{q['ssim']:.3f}", "+" if q["slope"] > 0 else "-"]
        for q in enhanced["quality"]
    ]
    lines = [
        "",
        f"Study {study['study']}: {study['trials_finished']} trials, {len(pruned)} pruned",
        f"  best trial  {best['number']}, score {best['score']:.2f}: {values}",
        *([] if study["promotes"] == best["number"] else [_other_trial(study)]),
        *(f"  pruned      trial {t['number']}: {t['reason']}" for t in pruned),
        "",
        f"Promoted to {promoted['run_name']}: {promoted['outcome']}, {promoted['step']} steps, "
        f"{promoted['rollbacks']} rollbacks",
        f"  kept        the generator of step {promoted['best_step']}, score "
        f"{promoted['best_score']:.2f} ({promoted['score']:.2f} at the end)",
        "",
        table(["against the slow scan", "PSNR / dB", "SSIM", "sign"], rows),
        "",
        # A file that an earlier version of the demo wrote has no verdict.
        *([enhanced["verdict"], ""] if enhanced.get("verdict") else []),
        "Written",
        f"  {DATA}/            both domains (HDF5, dataset JSON)",
        f"  {enhanced['output']}    the enhanced volume with its trust maps, for `silx view`",
        f"  {enhanced['report']}  the report: slices, the most doubtful places, spectra",
        f"  {enhanced['picture']}   slices of input, filter, enhanced, slow scan",
        f"  results/{study['study']}/         checkpoints of all trainings",
        "  mlruns/               every run, metric, picture and volume",
        "",
        "Next",
        "  make ui                                           # all of it in the browser",
        f"  .venv/bin/cyclegan study show {study['study']}              # the trials",
        f"  .venv/bin/cyclegan promote {study['study']} --steps 6000   # train on",
        "",
        "Clock: " + ", ".join(f"{title} {duration(seconds)}" for title, seconds in clock),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
