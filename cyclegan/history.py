"""History of the metrics of every iteration, on the device until they are read.

`append` stores a tensor and synchronises nothing; the next read transfers all waiting rows at once.
Rows of attempts that a rollback discarded stay (they record the work that was done) but are marked,
so that `column` shows the accepted path alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Row:
    """Metrics of one iteration."""

    iteration: int
    step: int
    values: dict[str, float]
    """Metrics of this iteration by name; steps without cycles have no cycle losses."""
    accepted: bool = True
    """False once a rollback has discarded the row."""


class MetricHistory:
    """Rows of metrics by iteration; float64 on the host, float32 while they wait on the device."""

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self._values: NDArray[np.float64] = np.zeros((0, 0))
        self._iterations: list[int] = []
        self._steps: list[int] = []
        self._accepted: list[bool] = []
        self._layouts: list[tuple[str, ...]] = []
        """The distinct sets of metric names in the rows."""
        self._layout_of: list[int] = []
        self._waiting: list[Tensor] = []

    def append(self, iteration: int, step: int, metrics: Mapping[str, Tensor]) -> None:
        """Add the row of an iteration; `metrics` are scalars on the device.

        A metric that an iteration does not have is NaN in that row of its column.
        """
        new = [name for name in metrics if name not in self.names]
        if new:
            self._transfer()
            gap = np.full((len(self._values), len(new)), np.nan)
            known = self._values.reshape(len(gap), len(self.names))
            self._values = np.concatenate([known, gap], axis=1)
            self.names = (*self.names, *new)
        missing = next(iter(metrics.values())).new_full((), math.nan, dtype=torch.float32)
        row = [metrics[n].detach().float() if n in metrics else missing for n in self.names]
        self._waiting.append(torch.stack(row))
        layout = tuple(metrics)
        if layout not in self._layouts:
            self._layouts.append(layout)
        self._layout_of.append(self._layouts.index(layout))
        self._iterations.append(iteration)
        self._steps.append(step)
        self._accepted.append(True)

    def rows(self, after: int = 0) -> list[Row]:
        """Return all rows of iterations later than `after`, including discarded attempts."""
        self._transfer()
        first = int(np.searchsorted(np.array(self._iterations), after, side="right"))
        return [
            Row(
                self._iterations[i],
                self._steps[i],
                self._named(i, values),
                self._accepted[i],
            )
            for i, values in enumerate(self._values[first:].tolist(), start=first)
        ]

    def _named(self, number: int, values: Sequence[float]) -> dict[str, float]:
        row = dict(zip(self.names, values, strict=True))
        return {name: row[name] for name in self._layouts[self._layout_of[number]]}

    def column(self, name: str) -> NDArray[np.float64]:
        """Return one metric along the accepted path, in the order of steps."""
        self._transfer()
        return self.columns()[name]

    def columns(self, after: int = 0) -> dict[str, NDArray[np.float64]]:
        """Return all metrics by name, along the accepted path later than step `after`."""
        self._transfer()
        chosen = np.array(self._accepted, dtype=bool) & (np.array(self._steps, dtype=int) > after)
        accepted = self._values[chosen]
        return {name: accepted[:, i] for i, name in enumerate(self.names)}

    def steps(self, after: int = 0) -> NDArray[np.int64]:
        """Return the accepted steps later than `after`, in order; they match the `columns`."""
        steps = zip(self._steps, self._accepted, strict=True)
        return np.array([s for s, accepted in steps if accepted and s > after], dtype=np.int64)

    def discard_after(self, step: int) -> None:
        """Mark the accepted rows later than `step` as discarded by a rollback."""
        for i in range(len(self._steps) - 1, -1, -1):
            if self._accepted[i]:
                if self._steps[i] <= step:
                    break
                self._accepted[i] = False

    def __len__(self) -> int:
        return len(self._iterations)

    def _transfer(self) -> None:
        if self._waiting:
            new = torch.stack(self._waiting).double().cpu().numpy()
            self._values = np.concatenate([self._values, new]) if len(self._values) else new
            self._waiting.clear()

    def state_dict(self) -> dict[str, Any]:
        """Return the history as tensors and names."""
        self._transfer()
        return {
            "names": list(self.names),
            "values": torch.from_numpy(self._values.copy()),
            "iterations": torch.tensor(self._iterations, dtype=torch.int64),
            "steps": torch.tensor(self._steps, dtype=torch.int64),
            "accepted": torch.tensor(self._accepted, dtype=torch.bool),
            "layouts": [list(layout) for layout in self._layouts],
            "layout_of": torch.tensor(self._layout_of, dtype=torch.int64),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace the history by `state`."""
        names: Sequence[str] = state["names"]
        self.names = tuple(names)
        self._values = state["values"].numpy().reshape(len(state["steps"]), len(self.names))
        self._iterations = state["iterations"].tolist()
        self._steps = state["steps"].tolist()
        self._accepted = state["accepted"].tolist()
        # Checkpoints of earlier versions have one layout: all names.
        self._layouts = [tuple(layout) for layout in state.get("layouts", [names])]
        whole = torch.zeros(len(state["steps"]), dtype=torch.int64)
        self._layout_of = state.get("layout_of", whole).tolist()
        self._waiting = []
