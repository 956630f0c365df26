"""Studies: their definition (`definition`), their state on disk (`study`), and running them."""

from search.study.runner import run_study
from search.study.study import StudyHandle, definition_of, known_studies, open_study
from search.study.trials import Trial

__all__ = [
    "StudyHandle",
    "Trial",
    "definition_of",
    "known_studies",
    "open_study",
    "run_study",
]
