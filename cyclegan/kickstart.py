"""Kickstart: spans of steps in which a cycle may be closed on the input itself.

See `CycleGAN.cycle`. A training may begin with one, and each rollback may ask for another.
"""

from __future__ import annotations

from collections.abc import Sequence

Span = tuple[int, int]
"""First step, and the step after the last."""


class Kickstarts:
    """The spans of a training.

    Args:
        steps: length of the span with which the training begins; 0 for none.
    """

    def __init__(self, steps: int) -> None:
        self._own = 1 if steps else 0
        self._spans: list[Span] = [(0, steps)] if steps else []

    def add(self, step: int, steps: int) -> None:
        """Begin a span at `step`."""
        self._spans.append((step, step + steps))

    def are_active(self, step: int) -> bool:
        """Return True if kickstart was, or will be, active in the step that follows `step`."""
        return any(start <= step < stop for start, stop in self._spans)

    def rewind(self, step: int) -> None:
        """Forget the spans that a rollback to `step` undoes.

        The one with which the training begins stays, however far the rollback goes.
        """
        later = [span for span in self._spans[self._own :] if span[0] < step]
        self._spans = self._spans[: self._own] + later

    def state_dict(self) -> list[list[int]]:
        """Return the spans for a checkpoint."""
        return [list(span) for span in self._spans]

    def load_state_dict(self, spans: Sequence[Sequence[int]]) -> None:
        """Restore what `state_dict` returned."""
        self._spans = [(start, stop) for start, stop in spans]
