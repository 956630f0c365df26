"""Studies: their definition (`definition`), their state on disk (`study`), and running them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from search.study.study import StudyHandle, definition_of, known_studies, open_study
from search.study.trials import Trial

if TYPE_CHECKING:
    from search.study.runner import run_study

__all__ = [
    "StudyHandle",
    "Trial",
    "definition_of",
    "known_studies",
    "open_study",
    "run_study",
]


def __getattr__(name: str) -> Any:
    """Import what trains only when it is asked for: torch, which a look at a study does without."""
    if name == "run_study":
        from search.study.runner import run_study

        return run_study
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
