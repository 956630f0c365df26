"""The errors this project raises on purpose.

```
CycleGANError          exit code 1   something failed; the message names it and suggests a remedy
├── DataError          exit code 1   a file, a dataset or an array is missing, damaged or unsuitable
├── CheckpointError    exit code 1   a checkpoint or a model file can't be used
├── DivergedError      exit code 1   a training's weights or losses are no longer finite
├── BusyError          exit code 1   another process holds the study, the run or the file
└── UsageError         exit code 2   an argument is wrong
    └── ConfigError    exit code 2   a configuration is wrong
```

The command line prints the message as one line; `--debug` adds the traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LISTED = 20


class CycleGANError(Exception):
    """Base class of all errors raised on purpose; the message is one line for the user."""

    exit_code = 1


class DataError(CycleGANError):
    """A file, a dataset in it or an array is missing, damaged or of the wrong kind."""


class CheckpointError(CycleGANError):
    """A checkpoint or model file is missing, damaged or from other software."""


class DivergedError(CycleGANError):
    """A training's weights or losses are NaN or infinite; it can't recover."""


class BusyError(CycleGANError):
    """Another process holds the study, the run or the file."""


class UsageError(CycleGANError):
    """The request itself is wrong: a bad argument or a bad combination of them."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration is wrong: unknown key, bad value, or values that don't fit together."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return a hint for the end of an error message: the nearest known name, else all or some."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean '{close[0]}'?"
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return "known: " + ", ".join(names[:_LISTED]) + more
