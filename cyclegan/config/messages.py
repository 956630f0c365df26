"""Messages about what is wrong with a configuration."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ValidationError

from cyclegan.errors import nearest


def explain_all(kind: type[BaseModel], error: ValidationError) -> str:
    """Return in one line what validation found wrong with a configuration of `kind`."""
    lines = [_explain(kind, problem) for problem in error.errors()]
    return "; ".join(dict.fromkeys(lines))


def _explain(kind: type[BaseModel], problem: Any) -> str:
    location = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        model: Any = kind
        for part in problem["loc"][:-1]:
            annotation = model.model_fields[str(part)].annotation
            if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
                return f"{location} is not a known key"
            model = annotation
        hint = nearest(str(problem["loc"][-1]), model.model_fields)
        return f"{location} is not a known key; {hint}"
    if problem["type"] == "missing":
        return f"{location} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    if not location:
        return str(message)
    return f"{location} = {problem['input']!r}: {message[0].lower()}{message[1:]}"
