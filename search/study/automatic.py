"""The sampler and the pruner of a study that names none.

`auto` stands for what was best for a study's kind of space, objective and budget when searches were
played on recorded trainings (docs/search_comparison.md). It is replaced when the definition is
parsed, so that a study that has begun goes on with what it took, whatever later versions prefer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from search.study.objective import is_in_db
from search.study.pruners import judged_at
from search.study.recorded import are_about
from search.study.space import FunctionSpace

if TYPE_CHECKING:
    from search.study.definition import StudyDefinition

MOST_MODELLED = 1_000
"""Most trials for which a Gaussian process decides in a fraction of a second."""


def decided(definition: StudyDefinition) -> StudyDefinition:
    """Return the definition with a sampler and a pruner in place of `auto`, and the reasons."""
    changes: dict[str, Any] = {}
    if definition.sampler.name == "auto":
        name, reason = _sampler(definition)
        changes["sampler"] = definition.sampler.model_copy(update={"name": name, "reason": reason})
    if definition.pruner.name == "auto":
        sampler = str(changes.get("sampler", definition.sampler).name)
        name, reason = _pruner(definition, sampler)
        changes["pruner"] = definition.pruner.model_copy(update={"name": name, "reason": reason})
    return definition.model_copy(update=changes) if changes else definition


def as_begun(definition: StudyDefinition, begun: StudyDefinition) -> StudyDefinition:
    """Return the definition with what the study took for `auto` when it began."""
    changes: dict[str, Any] = {}
    for key in ("sampler", "pruner"):
        mine, its = getattr(definition, key), getattr(begun, key)
        if mine.reason:
            taken = {"name": its.name, "reason": its.reason}
            changes[key] = mine.model_copy(update=taken)
    return definition.model_copy(update=changes) if changes else definition


def why(definition: StudyDefinition) -> str:
    """Return in one line what was taken for `auto` and why; empty if the study names both."""
    parts = [
        f"{kind} {chosen.name} ({chosen.reason})"
        for kind, chosen in (("sampler", definition.sampler), ("pruner", definition.pruner))
        if chosen.reason
    ]
    return f"auto: {', '.join(parts)}" if parts else ""


def _sampler(definition: StudyDefinition) -> tuple[str, str]:
    if len(definition.objective) > 1:
        return "tpe", "it searches a whole Pareto front"
    if isinstance(definition.space, FunctionSpace):
        return "tpe", "the keys of a function may change from trial to trial"
    if not is_in_db(definition.first_objective):
        return "tpe", f"forecasts are of scores in dB, not of {definition.first_objective}"
    if definition.trials > MOST_MODELLED:
        return "tpe", f"it is fast beyond {MOST_MODELLED:,} trials"
    return "noisy_gp", "it learns from pruned trials and recorded trainings, too"


def _pruner(definition: StudyDefinition, sampler: str) -> tuple[str, str]:
    pruner = definition.pruner
    if len(definition.objective) > 1:
        return "none", "a trial may be last by one objective and first by another"
    last = judged_at(pruner.prune_after, definition.report_every)
    if "prune_after" not in pruner.model_fields_set and last >= definition.steps:
        return "none", f"trials end before prune_after = {pruner.prune_after:,} or with it"
    # A prune_after that leaves nothing to judge is refused, as with any pruner that is named.
    if sampler == "noisy_gp" and last < definition.steps and _begins_with_knowledge(definition):
        return "none", "with what noisy_gp knows beforehand, whole trials found better ones"
    return "percentile", "it was ahead of random search on all recorded trainings"


def _begins_with_knowledge(definition: StudyDefinition) -> bool:
    if definition.warm_start:
        return True
    space, objective = definition.space, definition.first_objective
    return (
        definition.sampler.recorded_trials
        and not isinstance(space, FunctionSpace)
        and are_about(space, objective)
    )
