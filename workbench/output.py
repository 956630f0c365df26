"""The result of a command, as plain values and as text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tracking import Store

OpenStore = Callable[[], "Store"]
"""A function that opens the MLflow store, for work that may do without it."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """A result as the command line prints it."""

    data: Any
    """Plain values: one JSON document."""
    text: str
    """The same for people."""
    exit_code: int = 0
