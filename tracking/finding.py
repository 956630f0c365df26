"""What a person means by the name of a run.

In this order: its id; its name; `demo:3`, trial 3 of the study `demo`; the beginning of its id, of
at least six characters.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from tracking.run_lookup import RunInfo

SHORTEST = 6
"""Characters of an id that are taken for its beginning."""
_ID = re.compile(rf"[0-9a-f]{{{SHORTEST},32}}")
_TRIAL = re.compile(r"(?P<study>.+):(?P<trial>\d{1,9})")


def matching(text: str, search: Callable[[str], list[RunInfo]]) -> list[RunInfo]:
    """The runs that `text` can mean, the newest first; `search` takes MLflow's search syntax.

    Several runs may have one name, or one study several runs of one trial after its first was lost.
    """
    filters = [f"attributes.run_name = {quoted(text)}"]
    trial = _TRIAL.fullmatch(text)
    if trial:
        study, number = quoted(trial["study"]), int(trial["trial"])
        filters.append(f"tags.study = {study} and tags.trial = '{number}' and tags.kind = 'trial'")
    if _ID.fullmatch(text):
        if len(text) == 32:
            filters.insert(0, f"attributes.run_id = '{text}'")
        else:
            filters.append(f"attributes.run_id LIKE '{text}%'")
    return next((found for found in map(search, filters) if found), [])


def newest(found: list[RunInfo]) -> RunInfo:
    """Of runs of one name the newest finished one, else the newest."""
    return max(found, key=lambda run: (run.status == "FINISHED", run.start_ms))


def several_ids(text: str, found: list[RunInfo]) -> bool:
    """Whether `text` is the beginning of several ids, rather than one name of several runs."""
    return len(found) > 1 and all(run.id.startswith(text) and run.name != text for run in found)


def quoted(text: str) -> str:
    """`text` as a value in MLflow's search syntax, which has no escape."""
    return f'"{text}"' if "'" in text else f"'{text}'"
