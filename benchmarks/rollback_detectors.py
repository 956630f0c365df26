"""Alarms of the rollback optimizer's detectors and of the original's tests on recorded trainings.

    python benchmarks/rollback_detectors.py results/

The script reads the newest checkpoint of every training below the folders, and its scores from
MLflow. It judges the history at every 100th step from step 300 on, as both policies would have
done, without acting. Images are not recorded, so the tests of contrast are left out on both sides.
A training "ended badly" if its last score is over `FALL` below its best. That is the truth here,
which neither policy sees.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cyclegan import checkpoints
from cyclegan.history import MetricHistory
from search.launch import recorded_run
from search.rollback.detectors import Evidence, judge
from search.rollback.original import SIX, drift_points, loss_points
from tracking import Store

FALL = 3.0
FIRST, EVERY = 300, 100
Columns = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Recorded:
    """A training of the past."""

    name: str
    columns: Columns
    """Metrics by name, (steps,), along the accepted path."""
    scores: Mapping[int, float]
    """Scores by step."""
    bad: bool
    """True if it ended badly."""

    @property
    def steps(self) -> int:
        """Number of steps."""
        return min(len(values) for values in self.columns.values())


def recorded(folders: Sequence[Path], store: Store) -> Iterator[Recorded]:
    """Yield all trainings below `folders` that are long enough to be judged."""
    for path in sorted(p for folder in folders for p in folder.rglob("save/checkpoint.pt")):
        state = checkpoints.load(path, formats=(checkpoints.CHECKPOINT_FORMAT,))
        history = MetricHistory()
        history.load_state_dict(state["history"])
        columns = {name: history.column(name) for name in history.names}
        if columns and len(next(iter(columns.values()))) >= FIRST:
            name = "/".join(path.parts[-4:-2])
            scores = store.run(recorded_run(path.parents[1])).history("score")
            yield Recorded(name=name, columns=columns, scores=scores, bad=_ended_badly(state))


def guard(columns: Columns, scores: Mapping[int, float]) -> str:
    """Return the kind of fault that the guard finds at the end of the columns, or nothing."""
    now = len(next(iter(columns.values())))
    evidence = Evidence(
        losses=_below(columns, "loss/"),
        gradient=columns.get("grad_norm_G", np.zeros(0)),
        truth=_below(columns, "truth/"),
        # The guard judges a step before its own validation.
        scores=[(now - step, score) for step, score in sorted(scores.items()) if step < now],
    )
    fault = judge(evidence)
    return fault.kind if fault else ""


def original(columns: Columns, scores: Mapping[int, float]) -> str:
    """Return the largest part of the original's points, or nothing if they are at most 1."""
    losses: dict[str, np.ndarray] = {}
    for name, values in _below(columns, "loss/").items():
        if name[:3] in SIX:
            losses[name[:3]] = losses.get(name[:3], 0) + values
    of_losses, drift = loss_points(losses), drift_points(losses)
    if not sum(of_losses.values()) + drift > 1:
        return ""
    return "drift" if drift else max(of_losses, key=lambda name: of_losses[name])


def main() -> None:
    """Judge all trainings; print one line per training with alarms, and a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--tracking-uri", help="MLflow store of their runs")
    options = parser.parse_args()
    trainings = list(recorded(options.folders, Store.open(options.tracking_uri)))
    bad = [training for training in trainings if training.bad]
    print(f"{len(trainings)} trainings, {len(bad)} ended badly: {', '.join(t.name for t in bad)}\n")
    print("| policy | checks of healthy ones | false alarms | healthy with one | bad found |")
    print("|---|---|---|---|---|")
    details = []
    for policy in (guard, original):
        alarms = {training.name: _alarms(training, policy) for training in trainings}
        healthy = [training for training in trainings if not training.bad]
        checks = sum(len(_checks(training)) for training in healthy)
        false = sum(len(alarms[training.name]) for training in healthy)
        with_one = sum(bool(alarms[training.name]) for training in healthy)
        found = sum(bool(alarms[training.name]) for training in bad)
        print(
            f"| {policy.__name__} | {checks} | {false} | {with_one} of {len(healthy)} "
            f"| {found} of {len(bad)} |"
        )
        for training in trainings:
            if alarms[training.name]:
                kinds = Counter(kind for _, kind in alarms[training.name])
                first = alarms[training.name][0][0]
                state = "bad" if training.bad else "healthy"
                details.append(
                    f"{policy.__name__:9}{training.name} ({state}, {training.steps} steps): "
                    f"first at {first}; {dict(kinds)}"
                )
    print("\n" + "\n".join(details))


def _checks(training: Recorded) -> range:
    return range(FIRST, training.steps + 1, EVERY)


def _alarms(training: Recorded, policy: Any) -> list[tuple[int, str]]:
    found = []
    for step in _checks(training):
        columns = {name: values[:step] for name, values in training.columns.items()}
        kind = policy(columns, training.scores)
        if kind:
            found.append((step, kind))
    return found


def _ended_badly(state: Mapping[str, Any]) -> bool:
    score, best = state["score"], state["best_score"]
    return score is not None and best is not None and best - score > FALL


def _below(columns: Columns, prefix: str) -> dict[str, np.ndarray]:
    return {n.removeprefix(prefix): v for n, v in columns.items() if n.startswith(prefix)}


if __name__ == "__main__":
    main()
