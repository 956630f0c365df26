"""Short names for dotted configuration keys, where room is scarce."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """For each key its last components, as many as tell it from the others.

    `lambdas.C_A` becomes `C_A`, but `lambdas.G_A.0` and `lambdas.G_A.1` become `G_A.0`, `G_A.1`.
    """
    parts = {key: key.split(".") for key in keys}
    taken = {key: 2 if p[-1].isdigit() and len(p) > 1 else 1 for key, p in parts.items()}
    while True:
        names = {key: ".".join(p[-taken[key] :]) for key, p in parts.items()}
        counts = Counter(names.values())
        longer = [k for k, name in names.items() if counts[name] > 1 and taken[k] < len(parts[k])]
        if not longer:
            return names
        for key in longer:
            taken[key] += 1


def short_text(value: object, length: int = 14) -> str:
    """A value in few characters: three digits of a real number, the beginning of a long word."""
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    return text if len(text) <= length else text[: length - 1] + "~"
