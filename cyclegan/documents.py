"""YAML and JSON that users write: read as plain values, and refused where it would mislead.

A key that is there twice, references that multiply to gigabytes, a named pipe, and a file that is
too large or nested too deeply are errors. A byte order mark, which some editors write, is not.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from cyclegan.errors import CycleGANError

MOST_BYTES = 10_000_000
"""Size of the largest document; those of ours have some kilobytes."""
MOST_VALUES = 200_000
"""Most values of a YAML document, each counted as often as references repeat it."""


def read_text(path: Path, kind: type[CycleGANError], source: str = "") -> str:
    """Return the text of a file, which messages call `source` or else by its path.

    Errors: `kind` if it is missing, not a regular file, too large, or not UTF-8 text.
    """
    source = source or str(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            what = "a folder" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            raise kind(f"{source}: this is {what}; give the path of a text file")
        if status.st_size > MOST_BYTES:
            raise kind(
                f"{source}: {status.st_size / 1e6:.0f} MB are too large for a text file; the limit "
                f"is {MOST_BYTES / 1e6:.0f} MB"
            )
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        # A relative path in a file is read from the folder where the command was called.
        looked = "" if path.is_absolute() else f"; looked for {path.absolute()}"
        raise kind(f"{source}: no such file{looked}") from None
    except UnicodeDecodeError as error:
        raise kind(
            f"{source}: not UTF-8 text (byte {error.start}: {error.reason}); save it as UTF-8"
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        reason = getattr(error, "strerror", None) or error
        raise kind(f"{source!r}: can't be read: {reason}") from error


def parse_yaml(text: str, source: str, kind: type[CycleGANError]) -> Any:
    """Return the plain values of a YAML text. Errors: `kind`, naming `source`, line and column."""
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            if _size(node, {}) > MOST_VALUES:
                raise kind(f"{source}: references (&, *) multiply to over {MOST_VALUES} values")
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = str(getattr(error, "problem", None) or error).splitlines()[0]
        raise kind(f"{source}{where}: not valid YAML: {problem}") from error
    except RecursionError as error:
        raise kind(f"{source}: nested too deeply") from error
    except (ValueError, OverflowError) as error:  # a date or number that Python can't hold
        raise kind(f"{source}: not valid YAML: {str(error).splitlines()[0]}") from error


def parse_json(text: str, source: str, kind: type[CycleGANError]) -> Any:
    """Return the plain values of a JSON text. Errors: `kind`, naming `source`, line and column."""
    try:
        return json.loads(text, object_pairs_hook=_without_repetition)
    except _RepeatedKeyError as error:
        raise kind(f"{source}: the key {error} is there twice in one object; keep one") from error
    except json.JSONDecodeError as error:
        raise kind(
            f"{source}, line {error.lineno}, column {error.colno}: not valid JSON: {error.msg}"
        ) from error
    except RecursionError as error:
        raise kind(f"{source}: nested too deeply") from error
    except ValueError as error:  # a number that Python can't hold
        raise kind(f"{source}: not valid JSON: {str(error).splitlines()[0]}") from error


class _RepeatedKeyError(ValueError):
    """A key that is there twice."""


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _RepeatedKeyError(repr(key))
        found[key] = value
    return found


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which takes the last of several equal keys without a word."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        """Return the mapping. Errors: `ConstructorError` for a key that is there twice."""
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag.endswith(":merge"):
                continue
            key = (key_node.tag, key_node.value)
            if not key_node.tag.endswith(":str"):
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"the key {key_node.value} is not text; put it in quotes",
                    key_node.start_mark,
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"the key {key_node.value!r} is there twice; keep one",
                    key_node.start_mark,
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def _size(node: yaml.Node, known: dict[int, int]) -> int:
    """Return the number of values below a node, repeated ones counted every time."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = 1  # a node that holds itself
    size = 1
    if isinstance(node, yaml.SequenceNode):
        size += sum(_size(item, known) for item in node.value)
    elif isinstance(node, yaml.MappingNode):
        size += sum(_size(part, known) for pair in node.value for part in pair)
    known[id(node)] = size
    return size
