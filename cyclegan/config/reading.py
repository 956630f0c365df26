"""Read configurations from YAML files and the command line's `--set lambdas.C_A=100`."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from cyclegan.config.schema import Config, explain_all
from cyclegan.config.sections import Section
from cyclegan.documents import parse_yaml, read_text
from cyclegan.errors import ConfigError


def parse_config(values: Mapping[str, Any], *, source: str = "configuration") -> Config:
    """Return a `Config` made from plain values.

    Errors: `ConfigError` in one line that names the key, the value and what to do.
    """
    _check_mapping(values, source)
    try:
        return Config(**values)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error


_S = TypeVar("_S", bound=Section)


def parse_section(kind: type[_S], values: Mapping[str, Any], *, source: str) -> _S:
    """Return an instance of the configuration model `kind`. Errors: `ConfigError` in one line."""
    _check_mapping(values, source)
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError(f"{source}: {explain_all(kind, error)}") from error


def load_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file. Errors: `ConfigError` naming file, line and column."""
    values = parse_yaml(read_text(path, ConfigError), str(path), ConfigError)
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must be a mapping of keys to values")
    return values


def load_config(path: Path | str, overrides: Iterable[str] = ()) -> Config:
    """Return a `Config` made from a YAML file and overrides of the form `a.b=c`."""
    values = override(load_yaml(Path(path)), parse_overrides(overrides))
    return parse_config(values, source=str(path))


def parse_overrides(texts: Iterable[str]) -> dict[str, Any]:
    """Return `["lambdas.C_A=100"]` as `{"lambdas.C_A": 100}`; values are read as YAML."""
    result: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {text}: must be key=value, e.g. lambdas.C_A=100")
        result[key.strip()] = parse_yaml(value, f"--set {text}", ConfigError)
    return result


def override(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of nested `values` with dotted keys replaced; an index picks from a list."""
    result: dict[str, Any] = copy.deepcopy(dict(values))
    for key, value in changes.items():
        if not isinstance(key, str):
            raise ConfigError(f"{key!r} is not the name of a key, such as lambdas.C_A")
        *parents, last = key.split(".")
        node: Any = result
        for part in parents:
            if isinstance(node, dict):
                child = node.setdefault(part, {})
                if isinstance(child, bool):  # a section's switch: `hp_optimizer: true`
                    child = {"enabled": child}
                elif not isinstance(child, dict | list):
                    child = [child] if last.isdigit() else {}
                node[part] = child
                node = child
            else:
                node = _item(node, part, key)
        if isinstance(node, list):
            _item(node, last, key)
            node[int(last)] = value
        elif last.isdigit():
            raise ConfigError(f"{key}: there is no list here with an item {last}")
        else:
            node[last] = value
    return result


def _item(node: list[Any], part: str, key: str) -> Any:
    if not part.isdigit() or int(part) >= len(node):
        raise ConfigError(f"{key}: '{part}' is not an index of a list of {len(node)}")
    return node[int(part)]


def _check_mapping(values: Any, source: str) -> None:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{source}: must be a mapping of keys to values, not {values!r}")
