"""Write docs/config.md from the configuration's own docstrings:

python docs/make_config.py
"""

from __future__ import annotations

import ast
import inspect
import itertools
from pathlib import Path
from typing import Any

from cyclegan.config import (
    Config,
    HPOptimizer,
    Lambdas,
    LambdaSchedule,
    LossFunctions,
    LRSchedule,
    schema,
    sections,
)
from cyclegan.losses import GROUPS, functions_for

GROUPED = (
    *("lambdas", "lossFuncs", "lossNames", "lossChannels"),
    *("lr_schedule", "lambda_schedule", "hp_optimizer"),
)
MEANINGS = {
    "G_A": "generator A -> B fools D_A",
    "G_B": "generator B -> A fools D_B",
    "D_A": "judges images of domain B",
    "D_B": "judges images of domain A",
    "C_A": "cycle A -> B -> A",
    "C_B": "cycle B -> A -> B",
    "I_A": "G_A leaves real B (on A's grid) as it is",
    "I_B": "G_B leaves real A (on B's grid) as it is",
    "P_A": "G_A restores real B that was degraded to look like A",
    "P_B": "G_B degrades real B as the fitted model does, without noise",
    "H_A": "G_A makes one half scan of A predict the other",
}


def field_docs(name: str) -> dict[str, str]:
    """The string below each field of the configuration class `name`."""
    trees = [ast.parse(inspect.getsource(module)) for module in (schema, sections)]
    nodes = [node for tree in trees for node in tree.body]
    (body,) = (n.body for n in nodes if isinstance(n, ast.ClassDef) and n.name == name)
    docs = {}
    for field, below in itertools.pairwise(body):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            value = below.value if isinstance(below, ast.Expr) else None
            if isinstance(value, ast.Constant) and isinstance(value.value, str):
                docs[field.target.id] = " ".join(value.value.split())
    return docs


def shown(default: Any) -> str:
    """A default as YAML would have it."""
    if default is None or isinstance(default, bool):
        return {None: "null", True: "true", False: "false"}[default]
    return str(list(default) if isinstance(default, tuple) else default)


def rows(kind: Any, prefix: str = "") -> list[str]:
    """Table rows of the plain fields of a configuration class."""
    docs = field_docs(kind.__name__)
    return [
        f"| `{prefix}{name}` | "
        + ("required" if field.is_required() else f"`{shown(field.default)}`")
        + f" | {docs[name]} |"
        for name, field in kind.model_fields.items()
        if name not in GROUPED
    ]


def page() -> str:
    """The whole page."""
    groups = [
        f"| `{g}` | {MEANINGS[g]} | {getattr(Lambdas(), g)[0]:g} | "
        f"`{getattr(LossFunctions(), g)[0]}` | {', '.join(f'`{f}`' for f in functions_for(g))} |"
        for g in GROUPS
    ]
    lines = [
        "# The configuration of a training",
        "",
        "One YAML file; `--set a.b=c` on the command line changes any key. Unknown keys are",
        "refused with the nearest known name. Paths are relative to the folder the command is",
        "started in.",
        "Made by `docs/make_config.py` from the docstrings in `cyclegan/config/`.",
        "",
        *("| key | default | |", "|---|---|---|", *rows(Config)),
        "",
        "`lambdas`, `lossFuncs` and `lossNames` have an entry a group, each a value or a list:",
        "",
        "| group | what | default lambda | default function | functions |",
        "|---|---|---|---|---|",
        *groups,
        "",
        "A group whose lambdas are all 0 at the start (`I_A`, `I_B`, `P_A`, `P_B` and `H_A` by",
        "default) is left out of the whole training. If nothing but `P_A`, `P_B` and `H_A` has a",
        "weight, so are cycles and discriminators: a step then takes a fraction of the time.",
        "",
        "`lossChannels` has a list a group too: for each term the channels it looks at, or `null`",
        "for all. `lr_schedule` lets both learning rates fall:",
        "",
        *("| key | default | |", "|---|---|---|", *rows(LRSchedule, "lr_schedule.")),
        "",
        "`lambda_schedule` lets the lambdas of some groups fade:",
        "",
        *("| key | default | |", "|---|---|---|", *rows(LambdaSchedule, "lambda_schedule.")),
        "",
        "`hp_optimizer` (also just `true` or `false`) is the dynamic rollback optimizer:",
        "",
        *("| key | default | |", "|---|---|---|", *rows(HPOptimizer, "hp_optimizer.")),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("config.md").write_text(page(), encoding="utf-8")
