"""The command `cyclegan promote`: confirm and promote trials, and print a verdict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cyclegan.errors import UsageError
from cyclegan.ranks import Ranks
from search.promotion.confirm import Confirmation, best_trials, confirm, parse_confirm
from search.promotion.promote import PromotionResult, Start, plan_promotion, promote
from search.promotion.screening import AT_LEAST, summary
from search.study import StudyHandle, open_study
from search.study.study import check_store
from search.study.trials import front_of
from viz.console import Console
from workbench.output import Output
from workbench.training import INTERRUPTED, finished_data, finished_text

if TYPE_CHECKING:
    from tracking import Store


@dataclass(frozen=True, kw_only=True)
class PromoteRequest:
    """The trials to promote, and how."""

    trial: int | None = None
    top: int | None = None
    confirm: str | None = None
    steps: int | None = None
    start: Start | None = None
    hp_optimizer: bool | None = None
    gpus: int = 1
    """Number of processes that share each batch of a training, each on a GPU of its own."""


def promote_trials(
    study: str, request: PromoteRequest, *, store: Store, console: Console
) -> Output:
    """Confirm trials if that is asked for, promote one or several, and return what came of it."""
    handle, numbers = check_promotion(study, request, store=store, console=console)
    confirmation = None
    if request.confirm is not None:
        top, seeds = parse_confirm(request.confirm)
        confirmation = confirm(handle, top=top, seeds=seeds, store=store, console=console)
        numbers = [confirmation.trials[0].trial] if confirmation.complete else []
        if confirmation.complete:
            console.say(f"confirm: {confirmation.verdict()}")
    promoted = list(_promotions(handle, request, numbers, store, console))
    data, text = _result(handle, request, confirmation, promoted, store)
    unfinished = (confirmation is not None and not confirmation.complete) or any(
        p.interrupted for p in promoted
    )
    return Output(data=data, text=text, exit_code=INTERRUPTED if unfinished else 0)


def check_promotion(
    study: str, request: PromoteRequest, *, store: Store, console: Console
) -> tuple[StudyHandle, list[int]]:
    """Return the study and the trials to promote; nothing is written.

    Errors: `UsageError`, `DataError` and `ConfigError` for what can't be promoted.
    """
    given = {"--trial": request.trial, "--top": request.top, "--confirm": request.confirm}
    options = [name for name, value in given.items() if value is not None]
    if len(options) > 1:
        raise UsageError(f"{options[0]} and {options[1]} both choose trials; give one of them")
    handle = open_study(study)
    check_store(handle.study, store)
    numbers = _candidates(handle, request)
    front = [trial.number for trial in front_of(handle.trials())]
    if request.trial is None and front:
        console.say(
            f"chosen by {handle.definition.first_objective} alone; the Pareto front has trials "
            f"{', '.join(map(str, front))}: take another of them with --trial"
        )
    for number in numbers:  # refuse now, not after hours of training the others
        plan = plan_promotion(handle, store=store, trial=number, **_options(request))
        Ranks(size=request.gpus).check(plan.config)
    return handle, numbers


def _candidates(handle: StudyHandle, request: PromoteRequest) -> list[int]:
    """Return the trials that are, or could be, promoted, the best first."""
    if request.trial is not None:
        return [request.trial]
    if request.confirm is not None:
        return [t.number for t in best_trials(handle, parse_confirm(request.confirm)[0])]
    if request.top is not None:
        return [t.number for t in best_trials(handle, request.top)]
    return [handle.to_promote().number]


def _options(request: PromoteRequest) -> dict[str, Any]:
    return {
        "steps": request.steps,
        "start": request.start,
        "hp_optimizer": request.hp_optimizer,
    }


def _promotions(
    handle: StudyHandle,
    request: PromoteRequest,
    numbers: list[int],
    store: Store,
    console: Console,
) -> Iterator[PromotionResult]:
    """Promote one trial after another, until one is interrupted."""
    for number in numbers:
        promoted = promote(
            handle,
            store=store,
            console=console,
            trial=number,
            processes=request.gpus,
            **_options(request),
        )
        yield promoted
        if promoted.interrupted:
            return


def _result(
    handle: StudyHandle,
    request: PromoteRequest,
    confirmation: Confirmation | None,
    promoted: list[PromotionResult],
    store: Store,
) -> tuple[Any, str]:
    """Return the result as plain values and as text; with `--top` the screening is added."""
    parts = [_data(handle, p) for p in promoted]
    data: dict[str, Any] = {"promoted": parts}
    if len(parts) == 1 and request.top is None:
        (data,) = parts
    texts = [_text(handle, p) for p in promoted]
    if confirmation is not None:
        data["confirmation"] = confirmation.data()
        texts.insert(0, confirmation.text())
    if request.top is not None:
        found = summary(handle, store)
        data["screening"] = found.data()
        if len(found.pairs) >= AT_LEAST:
            texts.append(found.text())
    return data, "\n\n".join(texts)


def _data(handle: StudyHandle, promoted: PromotionResult) -> dict[str, Any]:
    data = {
        "trial": promoted.trial,
        "start": promoted.start,
        "replayed": promoted.replayed,
        **finished_data(promoted.run_name, promoted.finished),
        "model": None,
        **_judgement(handle, promoted),
    }
    registered = promoted.registered
    if registered is not None:
        data["model"] = {
            "version": registered.version.label,
            "score": registered.version.score,
            "champion": registered.challenge.won,
            "champion_before": None
            if registered.challenge.before is None
            else registered.challenge.before.label,
        }
    return data


def _judgement(handle: StudyHandle, promoted: PromotionResult) -> dict[str, Any]:
    """Return the verdicts on the promoted generator; None if the promotion was interrupted."""
    if promoted.interrupted:
        return {"verdict": None, "better_trial": None}
    name, trial, finished = handle.definition.name, promoted.trial, promoted.finished
    text = better_trial(name, trial, promoted.trial_score, finished.best_score)
    better = {
        "score": promoted.trial_score,
        "command": trial_command(name, trial),
        "verdict": text,
    }
    return {
        "verdict": gain_in_words(finished.best_gain_db),
        "better_trial": better if text else None,
    }


def _text(handle: StudyHandle, promoted: PromotionResult) -> str:
    data = _data(handle, promoted)
    lines = [
        f"trial {promoted.trial} of {handle.definition.name} promoted",
        finished_text(data),
    ]
    if promoted.registered is not None:
        lines.append(f"model      {promoted.registered.text}")
    elif not promoted.interrupted:
        lines.append("model      none registered: no validation was usable")
    lines += [data["verdict"]] if data["verdict"] else []
    lines += [data["better_trial"]["verdict"]] if data["better_trial"] else []
    return "\n".join(lines)


# -- Verdicts on a promotion: against a plain filter, and against its own trial ---------------


def gain_in_words(gain_db: float | None) -> str | None:
    """Return a sentence on a generator's gain on pseudo pairs; None if the gain is not known.

    The gain is rounded before it is judged, so that one that reads 0.0 dB counts as none.
    """
    if gain_db is None:
        return None
    gain = round(gain_db, 1)
    if gain > 0:
        return f"On pseudo pairs its error is {gain:.1f} dB below that of the best Gaussian filter."
    if gain < 0:
        return (
            f"On pseudo pairs its error is {-gain:.1f} dB above that of the best Gaussian filter: "
            "a filter does better; look at this generator's images before you use it."
        )
    return (
        "On pseudo pairs its error is that of the best Gaussian filter, to 0.1 dB: a filter does "
        "as well."
    )


def trial_command(study: str, trial: int) -> str:
    """Return the command that enhances with the generator of a trial."""
    return f"cyclegan enhance VOLUME --model {study}:{trial} --output OUTPUT"


def better_trial(study: str, trial: int, own: float | None, promoted: float | None) -> str | None:
    """Return a sentence if the trial's own generator is better than the promoted one, else None.

    Scores are rounded before they are compared, so that two that read the same count as equal.
    """
    if own is None or (promoted is not None and round(promoted, 2) >= round(own, 2)):
        return None
    other = "none" if promoted is None else f"{promoted:.2f}"
    return (
        f"The generator of trial {trial} itself is better: it has a score of {own:.2f}, the "
        f"promoted training has {other}. To use it: {trial_command(study, trial)}"
    )
