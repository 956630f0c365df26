"""The provenance of a trial: code, packages, data and seed, so that it can be reproduced.

Together with the resolved configuration, which a trial also stores, its result depends on nothing
else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cyclegan.config import Config
from cyclegan.data.fingerprint import shortened
from cyclegan.errors import DataError
from tracking.provenance import data_hashes, git_state, lock_sha256, versions


def origin(config: Config) -> dict[str, Any]:
    """Return the provenance of a training as plain values.

    They are `git_commit`, `git_modified` (both None outside of a git checkout), `lock_sha256` (None
    without a lock file), `data` (hash of every file, by path), `seed` and `versions` of Python and
    packages.

    Errors: `DataError` for missing or damaged data.
    """
    commit, modified = git_state() or (None, None)
    return {
        "git_commit": commit,
        "git_modified": modified,
        "lock_sha256": lock_sha256(),
        "data": _files(config),
        "seed": config.seed,
        "versions": versions(),
    }


def check_data(known: Mapping[str, str], config: Config) -> dict[str, str]:
    """Return the hash of every data file of the configuration, and check them against `known`.

    Args:
        known: the result of this function when the study began; empty at that time.
        config: any configuration of the study.

    Errors: `DataError` with both hashes for the first file that changed.
    """
    found = _files(config)
    if not known:
        return found
    changes = [
        text
        for path in dict.fromkeys((*known, *found))
        if (text := _change(path, known.get(path), found.get(path)))
    ]
    if changes:
        more = f" (and {len(changes) - 1} more changes)" if len(changes) > 1 else ""
        raise DataError(f"{changes[0]}{more}; restore the file or start a study under another name")
    return found


def _files(config: Config) -> dict[str, str]:
    by_domain = data_hashes(config)
    return by_domain["A"] | by_domain["B"]


def _change(path: str, before: str | None, now: str | None) -> str:
    if before == now:
        return ""
    if before is None:
        return f"{path} ({shortened(str(now))}) was not in the data when the study began"
    if now is None:
        return f"{path} ({shortened(before)}) was in the data when the study began, but is not now"
    change = f"{shortened(before)} then, {shortened(now)} now"
    return f"{path} changed since the study began: {change}"
