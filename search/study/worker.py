"""One worker: claim a trial and train it, again and again, until nothing is left to do."""

from __future__ import annotations

import json
import time
from functools import partial
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState

from cyclegan.errors import CycleGANError
from cyclegan.gpu_errors import free_memory
from search.launch import GENERATOR_NAME, SAVE_FOLDER
from search.study.gpu_faults import FAULT, KIND, require_hope
from search.study.lease import (
    LEASE,
    LEASE_SECONDS,
    ended_in_order,
    hours,
    is_doubtful,
    is_held,
    touch,
    will_be_restarted,
)
from search.study.outlook import choice_of, expected_gain, is_paused, verdicts
from search.study.pruning import VERDICT
from search.study.retention import check_disk, expected_bytes, release_checkpoints
from search.study.rules import StopRules, why_stop
from search.study.study import StudyHandle
from search.study.trial import WorkerContext, log_end, train_trial
from search.study.trials import INTERRUPTIONS, PAUSED, REVIVES, Trial, best_of
from search.study.upkeep import Paced
from tracking import Store
from tracking.outbox.records import Attachment, Metrics, Text
from tracking.outbox.writer import RunWriter

WorkEnd = Literal["done", "interrupted", "afresh"]
_FAILURES_IN_A_ROW = 3
"""Number of failures after which the study stops: the fault is then in the study, not its
trials."""
_LOOK_SECONDS = 5.0
_DEATHS = 5
"""Number of deaths of its process without progress between them after which a trial is given up."""


def work(context: WorkerContext) -> WorkEnd:
    """Train trials of the study until there are enough, or until this process is interrupted.

    It returns `afresh` if this process must not train any more, but a fresh one can: after an error
    of the GPU.

    Errors: `CycleGANError` if something is wrong with the study rather than with a trial.
    """
    with context.handle.storage.explaining():
        return _work(context)


def _work(context: WorkerContext) -> WorkEnd:
    failures = 0
    table = Paced(partial(update_study_run, context.handle, context.store, context.parent))
    release = Paced(partial(release_checkpoints, context.handle))
    size = Paced(partial(expected_bytes, context.handle))
    while True:
        try:
            trial = claim(context, size) or _left_elsewhere(context, size)
        except KeyboardInterrupt:
            return "interrupted"
        others = len(_at_work(context)) - (trial is not None)
        if trial is None:
            if not others:  # else a later one does what was put off
                table.catch_up()
                release.catch_up()
            return "done"
        ending = train_trial(trial, context)
        if ending in ("interrupted", "afresh"):
            return ending
        free_memory()  # another worker may train on the same GPU
        if ending != "paused":
            table.result(others + 1)
        release.result(others + 1)
        failures = failures + 1 if ending == "failed" else 0
        if ending == "failed":
            trials = context.handle.study.get_trials(deepcopy=False)
            require_hope(trials, context.handle.definition.name)
        if failures >= _FAILURES_IN_A_ROW:
            name = context.handle.definition.name
            raise CycleGANError(
                f"study {name}: {failures} trials in a row failed; see cyclegan study show {name}"
            )


def claim(context: WorkerContext, size: Paced[int] | None = None) -> optuna.trial.Trial | None:
    """Claim a trial for this worker alone: an interrupted one, else a new one, else None.

    With the pruner `thaw` a paused trial may be worth its next steps more than a new one its first.

    Args:
        size: finds the bytes that one more trial takes.
    """
    handle, study = context.handle, context.handle.study
    # Nothing slow under the lock, for which all workers wait: what Optuna reads here it remembers,
    # the folders' sizes are those of a moment ago, and what has been reported until now decides
    # whether the study goes on.
    each = (size or Paced(partial(expected_bytes, handle))).result(len(_at_work(context)))
    reason = _stop_reason(context)
    touch(study, context.owner)
    with handle.storage.claiming():
        trials = study.get_trials(deepcopy=False)
        for frozen in trials:
            running = frozen.state == TrialState.RUNNING and not is_paused(frozen)
            if running and not is_held(frozen, handle.folder):
                trial = _continued(frozen, context)
                if trial is not None:
                    return trial
        waiting = any(t.state == TrialState.WAITING for t in trials)
        more = waiting or _more_wanted(context, trials, reason)
        thawed = None if waiting else _thawed(context, trials, reason, more=more)
        if thawed is not None or not more:
            return thawed
        at_work = sum(t.state == TrialState.RUNNING for t in trials)
        expected = (at_work + 1) * each  # running trials may still need theirs
        _check_room(handle, expected)
        trial = study.ask() if waiting else _new_trial(study)
        context.owner.claim(study._storage, trial._trial_id)
        return trial


def _new_trial(study: optuna.Study) -> optuna.trial.Trial:
    """Return a new trial, as `ask` does, which would read all trials again for a waiting one."""
    return optuna.trial.Trial(study, study._storage.create_new_trial(study._study_id))


def _check_room(handle: StudyHandle, expected: int) -> None:
    """Refuse a trial for which there is no room; checkpoints that nobody needs go first."""
    try:
        check_disk(handle.definition, handle.results, expected)
    except CycleGANError:
        if not release_checkpoints(handle):
            raise
        check_disk(handle.definition, handle.results, expected)


def _thawed(
    context: WorkerContext, trials: list[FrozenTrial], reason: str | None, *, more: bool
) -> optuna.trial.Trial | None:
    """Claim the paused trial that is to get the next steps, or return None if none is.

    If the study begins no more trials and nobody trains one, the paused ones that are left are
    pruned.
    """
    definition, study = context.handle.definition, context.handle.study
    paused = {t.number: t for t in trials if is_paused(t)}
    if not paused:
        return None
    choice = None
    if more or reason is None:
        choice = choice_of(definition, study, more=more)
    if choice is not None and choice.number is not None:
        frozen = paused[choice.number]
        context.owner.claim(study._storage, frozen._trial_id)
        trial = optuna.trial.Trial(study, frozen._trial_id)
        trial.set_user_attr(VERDICT, {})
        trial.set_user_attr("reason", "")
        trial.set_user_attr(PAUSED, {})
        context.progress.say(f"trial {frozen.number}: is worth its next steps now, continuing")
        return trial
    busy = any(t.state == TrialState.RUNNING and t.number not in paused for t in trials)
    if not more and not busy:
        _prune_paused(context, trials)
    return None


def _prune_paused(context: WorkerContext, trials: list[FrozenTrial]) -> None:
    """Prune the paused trials: the study ends without them."""
    handle, study = context.handle, context.handle.study
    known = verdicts(handle.definition, study)
    for frozen in filter(is_paused, trials):
        trial = optuna.trial.Trial(study, frozen._trial_id)
        score = handle.definition.score_of_reports(frozen.intermediate_values)
        seeds = [
            {
                "seed": handle.config_of(frozen.number).seed,
                "run_id": frozen.user_attrs["mlflow_run_id"],
                "score": score,
                "iteration": frozen.user_attrs["iteration"],
            }
        ]
        trial.set_user_attr("seeds", seeds)
        verdict = known.get(frozen.number)
        if verdict is not None:
            trial.set_user_attr(VERDICT, verdict.as_dict())
            trial.set_user_attr("reason", verdict.in_words())
        generator = handle.trial_folder(frozen.number) / SAVE_FOLDER / GENERATOR_NAME
        if generator.is_file():
            RunWriter(context.store, seeds[0]["run_id"]).put(Attachment(generator, "checkpoints"))
        study.tell(frozen.number, state=TrialState.PRUNED)
        log_end(context.store, seeds[0]["run_id"], "pruned", score, seeds)
        reason = trial.user_attrs.get("reason", "")
        context.progress.ended(frozen.number, "pruned", reason)
    update_study_run(context.handle, context.store, context.parent)


def _left_elsewhere(
    context: WorkerContext, size: Paced[int] | None = None
) -> optuna.trial.Trial | None:
    """Claim a trial that another command's worker leaves; None when there is none to wait for.

    A worker without work stays while others train, because they may die: on another host with the
    node, here with the command. Then it continues their trials.
    """
    before: list[tuple[int, bool]] = []
    said = False
    while True:
        running = _running(context)
        watched = [trial for trial, held in running if held and _may_be_left(trial, context)]
        if not watched:
            return claim(context, size)
        if not said:
            context.progress.say(_why_stay(watched[0]))
            said = True
        now = [(trial.number, held) for trial, held in running]
        if now != before and (trial := claim(context, size)) is not None:
            return trial
        before = now
        time.sleep(_LOOK_SECONDS)


def _running(context: WorkerContext) -> list[tuple[FrozenTrial, bool]]:
    """Return the trials that workers train or have left, each with whether a worker holds it."""
    return [(t, is_held(t, context.handle.folder)) for t in _at_work(context)]


def _may_be_left(trial: FrozenTrial, context: WorkerContext) -> bool:
    """Return True if nobody else would continue a trial whose worker dies.

    A command replaces its own workers, and SLURM starts the jobs again of `--slurm`.
    """
    lease = trial.user_attrs.get(LEASE, {})
    if lease.get("command") == context.owner.command:
        return False
    return is_doubtful(trial) or not will_be_restarted(trial)


def _why_stay(trial: FrozenTrial) -> str:
    if is_doubtful(trial):
        return (
            f"trial {trial.number}: a worker on another host has claimed it; watching for up to "
            f"{LEASE_SECONDS / 60:.0f} minutes whether it still lives"
        )
    where = str(trial.user_attrs[LEASE]["host"]).partition(" ")[0]
    return (
        f"trial {trial.number}: another worker trains it on {where}; staying until it ends, to "
        "continue it if that worker dies"
    )


def _at_work(context: WorkerContext) -> list[FrozenTrial]:
    """Return the trials that have begun and not ended, paused ones left out."""
    trials = context.handle.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [trial for trial in trials if not is_paused(trial)]


def _more_wanted(context: WorkerContext, trials: list[FrozenTrial], reason: str | None) -> bool:
    handle = context.handle
    begun = [t for t in trials if t.state != TrialState.WAITING and REVIVES not in t.user_attrs]
    if len(begun) >= handle.definition.trials:
        return False
    if reason:
        context.progress.say(f"study {handle.definition.name} ends here: {reason}")
    return reason is None


def _stop_reason(context: WorkerContext) -> str | None:
    handle = context.handle
    if handle.definition.stop == StopRules():
        return None
    return why_stop(
        handle.definition.stop,
        handle.trials(),
        hours(handle.study.user_attrs),
        partial(expected_gain, handle.definition, handle.study),
    )


def _continued(frozen: FrozenTrial, context: WorkerContext) -> optuna.trial.Trial | None:
    """Return the interrupted trial, now claimed by this worker; None if it died too often."""
    study = context.handle.study
    trial = optuna.trial.Trial(study, frozen._trial_id)
    context.owner.claim(study._storage, frozen._trial_id)
    progress = max(frozen.intermediate_values, default=0)
    before = frozen.user_attrs.get("deaths", {"at": -1, "count": 0})
    fault = frozen.user_attrs.get(FAULT)
    orderly = not fault and ended_in_order(frozen, context.handle.folder)
    count = 0 if orderly else 1 + (before["count"] if before["at"] == progress else 0)
    trial.set_user_attr("deaths", {"at": progress, "count": count})
    trial.set_user_attr(INTERRUPTIONS, int(frozen.user_attrs.get(INTERRUPTIONS, 0)) + 1)
    if fault:
        trial.set_user_attr(FAULT, {})
    if count < _DEATHS:
        context.progress.say(f"trial {frozen.number}: was interrupted, continuing")
        return trial
    reason = f"its process died {count} times at iteration {progress}; out of memory?"
    if fault:
        reason = f"it lost its GPU {count} times at iteration {progress}: {fault['message']}"
        trial.set_user_attr(KIND, fault["kind"])
    trial.set_user_attr("reason", reason)
    study.tell(frozen.number, state=TrialState.FAIL)
    context.progress.ended(frozen.number, "failed", reason)
    return None


def update_study_run(handle: StudyHandle, store: Store, run_id: str) -> None:
    """Log the counts, the best score and the table of trials to the study's MLflow run."""
    trials = handle.trials()
    best = best_of(trials)
    counts = {s: sum(t.state == s for t in trials) for s in ("complete", "pruned", "failed")}
    metrics = {f"trials/{state}": float(count) for state, count in counts.items()}
    if best is not None and best.score is not None:
        metrics["score/best"] = best.score
    # The counts come last: by them the next process sees whether all of this was written.
    RunWriter(store, run_id).put(
        Text(json.dumps([_row(trial) for trial in trials], indent=1), "trials.json"),
        Metrics(metrics, sum(counts.values())),
    )


def _row(trial: Trial) -> dict[str, Any]:
    """Return a trial as the artifact `trials.json` of the study's run has it."""
    return {
        "number": trial.number,
        "state": trial.state,
        "score": trial.score,
        "step": trial.step,
        "iterations": trial.iteration,
        "values": dict(trial.values),
        "reason": trial.reason,
        "run_id": trial.run_id,
        "seconds": trial.seconds,
    }
