"""What can go, as text: the rules with what each frees, the runs, and what stays all the same."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from tracking.retention import kind_of, score_of
from viz import units
from viz.terminal import line_width
from viz.text import table
from workbench.runs.listing import fitted

if TYPE_CHECKING:
    from workbench.runs.gc import Offer

_RUNS_SHOWN, _KEPT_SHOWN, _FOLDERS_SHOWN = 30, 8, 5
_COLUMNS = ("id", "run", "experiment", "kind", "rule", "state", "score", "size")


def plan_text(offer: Offer) -> str:
    """Rules, runs, what stays."""
    parts = [_menu(offer)]
    if offer.plan.free:
        parts.append(_runs(offer))
    if offer.plan.kept:
        parts.append(_kept(offer))
    if offer.lost:
        parts.append(_folders(offer))
    if offer.scope:
        parts.append(offer.scope)
    return "\n\n".join(parts)


def _menu(offer: Offer) -> str:
    rows = [
        [
            "yes" if entry["chosen"] else "",
            entry["what"],
            str(entry["runs"]),
            units.size(entry["bytes"]) if entry["runs"] else "",
            entry["option"],
        ]
        for entry in offer.menu
    ]
    return table(
        ["goes", "what can go", "runs", "frees", "option"],
        rows,
        words={"goes", "what can go", "option"},
    )


def _runs(offer: Offer) -> str:
    largest = sorted(offer.plan.free, key=lambda item: -(offer.sizes.get(item[0].id) or 0))
    cells = [
        {
            "id": run.id[:8],
            "run": run.name,
            "experiment": run.experiment,
            "kind": kind_of(run),
            "rule": rule,
            "state": offer.stored.state(run),
            "score": units.score(score_of(run)),
            "size": units.size(offer.sizes.get(run.id)),
        }
        for run, rule in largest[:_RUNS_SHOWN]
    ]
    text = fitted(_COLUMNS, cells, line_width(sys.stdout))
    more = len(largest) - _RUNS_SHOWN
    return text + (
        f"\nand {units.count(more, 'smaller run')} (--json names all)" if more > 0 else ""
    )


def _kept(offer: Offer) -> str:
    kept = offer.plan.kept
    lines = [f"  {run.name} ({run.id[:8]}): {why}" for run, why in kept[:_KEPT_SHOWN]]
    if len(kept) > _KEPT_SHOWN:
        lines.append(f"  and {len(kept) - _KEPT_SHOWN} more")
    return "\n".join(["stays all the same:", *lines])


def _folders(offer: Offer) -> str:
    lines = [f"  {path}, {units.size(size)}" for path, size in offer.lost[:_FOLDERS_SHOWN]]
    if len(offer.lost) > _FOLDERS_SHOWN:
        lines.append(f"  and {len(offer.lost) - _FOLDERS_SHOWN} more")
    warning = "folders that no run of this database owns; another database may keep its runs there:"
    return "\n".join([warning, *lines])
