"""Rollbacks in words, one line each, for a terminal or a log."""

from __future__ import annotations

from collections.abc import Mapping

from cyclegan.events import RollbackEvent

_SHOWN = 2
_SMALLEST = 0.02


def told(event: RollbackEvent) -> str:
    """Where from, where to, why, and what was changed."""
    line = f"step {event.from_step} -> {event.to_step}, {event.reason}"
    if event.cause.attempt > 1:
        line += f" (attempt {event.cause.attempt})"
    changes = changed(event.before.flat(), event.after.flat())
    if event.kickstart:
        changes = f"{changes}, kickstart for {event.kickstart} steps".removeprefix(", ")
    return f"{line}; {changes}" if changes else line


def changed(before: Mapping[str, float], after: Mapping[str, float]) -> str:
    """Both learning rates and the lambdas that changed most, where it is worth a word."""
    ratios = {n: after[n] / before[n] for n in before if before[n] > 0 and after[n] > 0}
    factors = {n: max(r, 1 / r) for n, r in ratios.items() if max(r, 1 / r) > 1 + _SMALLEST}
    rates = [name for name in factors if name.startswith("lr_")]
    lambdas = sorted((n for n in factors if n not in rates), key=lambda n: -factors[n])
    shown = [*rates, *lambdas[:_SHOWN]]
    words = [f"{name} {before[name]:.3g} -> {after[name]:.3g}" for name in shown]
    left = len(lambdas) - _SHOWN
    return ", ".join(words) + (f" and {left} more" if left > 0 else "")
