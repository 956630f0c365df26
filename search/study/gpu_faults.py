"""Decide what becomes of a trial whose GPU ran out of memory or was lost, and of its study.

A process that has lost its GPU fails every later trial, and one that ran out of memory may have
kept what others needed. So the worker leaves, in order, and a fresh process continues the trial
from its last checkpoint. A trial that runs out of memory again at the same place fails with a line
that says what may fit; one that loses its GPU again and again counts as a trial whose process dies.
"""

from __future__ import annotations

from collections.abc import Iterable

import optuna
from optuna.trial import FrozenTrial, TrialState

from cyclegan.config import Config
from cyclegan.errors import CycleGANError
from cyclegan.footprint import what_fits
from cyclegan.gpu_errors import GpuError, gpu_error, gpu_name, has_lost_device
from cyclegan.precision import choose_device

FAULT = "gpu_fault"
"""User attribute: the error of the GPU for which the last process left the trial, `kind` and
`message`; empty once another one has taken it."""
KIND = "gpu_fault_kind"
"""User attribute of a trial that failed by errors of the GPU: their kind."""
_MEMORY = "out_of_memory_at"
"""User attribute: the last report (iteration) before the trial ran out of memory."""
_IN_A_ROW = 3
"""Number of trials that fail one after another by their GPU after which the study stops."""


def fault_of(error: BaseException) -> GpuError | None:
    """Return the error of a GPU behind `error`; ask the GPU if no message tells of one."""
    found = gpu_error(error)
    if found is None and has_lost_device():
        return GpuError("sticky", f"{type(error).__name__}: {error}".splitlines()[0][:500])
    return found


def may_try_again(trial: optuna.trial.Trial, fault: GpuError) -> bool:
    """Note the error with the trial; return True if a fresh process is to continue the trial."""
    study = trial.study
    frozen = study._storage.get_trial(trial._trial_id)
    progress = max(frozen.intermediate_values, default=0)
    if fault.kind == "out_of_memory":
        if frozen.user_attrs.get(_MEMORY) == progress:
            trial.set_user_attr(KIND, fault.kind)
            return False
        trial.set_user_attr(_MEMORY, progress)
    trial.set_user_attr(FAULT, {"kind": fault.kind, "message": fault.message})
    return True


def why_out_of_memory(fault: GpuError, config: Config | None) -> str:
    """Return the reason of a trial that failed for lack of memory, with what may fit, as a line."""
    needed, available = fault.needed, fault.available
    where = gpu_name(choose_device(config.device)) if config else "the GPU"
    numbers = fault.message
    if needed is not None and available is not None:
        numbers = (
            f"at least {needed / 1e9:.2g} GB were needed and {available / 1e9:.2g} GB were there"
        )
    advice = f"; {what_fits(config, needed, available)}" if config else ""
    return f"{where} ran out of memory twice: {numbers}{advice}"


def require_hope(trials: Iterable[FrozenTrial], study: str) -> None:
    """Refuse to go on after a trial that failed, if more trials would only fail like it.

    That is so if the last three trials lost their GPU, or if none of three or more fitted into the
    memory.

    Errors: `CycleGANError` with the reason.
    """
    ended = [t for t in trials if t.state.is_finished() and t.datetime_complete is not None]
    ended.sort(key=lambda t: (t.datetime_complete, t.number))
    kinds = [t.user_attrs.get(KIND) if t.state == TrialState.FAIL else None for t in ended]
    last = kinds[-_IN_A_ROW:]
    if len(last) < _IN_A_ROW or None in last:
        return
    reason = ended[-1].user_attrs.get("reason", "")
    if "sticky" in last:
        raise CycleGANError(f"study {study}: {_IN_A_ROW} trials in a row lost the GPU: {reason}")
    if None not in kinds:
        raise CycleGANError(
            f"study {study}: none of its {len(kinds)} trials fits into the memory of the GPU; the "
            f"last one: {reason}"
        )
