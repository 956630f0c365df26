"""The command `cyclegan runs show`: show everything about one run on one screen."""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclegan.addresses import without_secrets
from tracking import RunInfo, project_root
from tracking.artifacts import Artifact, local_path, walk
from tracking.deletion import FREED, survey
from tracking.retention import StoredRuns, guard, kind_of, trial_state
from tracking.views import run_link
from viz import units
from viz.text import line_width
from workbench.output import Output
from workbench.runs.listing import described

if TYPE_CHECKING:
    from tracking import Store


_RECORD = "run.json"
"""File in a training's folder that holds the id of its run; see `search.launch`."""
_WIDTH = 100
"""Line width in characters if standard output is no terminal."""


def show_run(store: Store, text: str) -> Output:
    """Return all about the run that `text` means."""
    run = store.find_run(text)
    stored = survey(store)
    files = store.artifacts(run).files()
    data = _data(run, stored, store, files)
    return Output(data=data, text=page(run, data, line_width(sys.stdout) or _WIDTH))


def _data(
    run: RunInfo, stored: StoredRuns, store: Store, files: Sequence[Artifact] | None
) -> dict[str, Any]:
    parent = stored.by_id.get(run.parent or "")
    children = stored.children.get(run.id, ())
    folder = training_folder(run)
    return described(run, stored) | {
        "reason": run.tags.get("reason", ""),
        "study": run.tags.get("study"),
        "trial": run.tags.get("trial"),
        "trial_state": trial_state(run) if kind_of(run) == "trial" else None,
        "place": stored.places.get(run.id),
        "parent": _link(parent) if parent else None,
        "children": [_link(child) | {"kind": kind_of(child)} for child in children],
        "promoted_from": _named(run.tags.get("promoted_from"), stored),
        "promoted_to": _named(run.tags.get("promoted_to"), stored),
        "model": stored.registered.get(run.id),
        "stays": guard(run, stored),
        "metrics": dict(run.metrics),
        "params": dict(run.params),
        "tags": dict(run.tags),
        "artifacts": None if files is None else [{"path": f.path, "bytes": f.bytes} for f in files],
        "bytes": None if files is None else sum(file.bytes for file in files),
        "artifact_uri": without_secrets(run.artifact_uri),
        "folder": None if folder is None else str(folder),
        "folder_bytes": None if folder is None else sum(f.bytes for f in walk(folder)),
        "url": store.run_url(run.id),
    }


def _link(run: RunInfo) -> dict[str, str]:
    return {"id": run.id, "name": run.name}


def _named(run_id: str | None, stored: StoredRuns) -> dict[str, str] | None:
    if not run_id:
        return None
    found = stored.by_id.get(run_id)
    return _link(found) if found else {"id": run_id, "name": "(not in this store)"}


def training_folder(run: RunInfo) -> Path | None:
    """Return the folder in this project's `results` where the run was trained, or None."""
    results = project_root() / "results"
    for pattern in ("*", "*/*", "*/*/*"):  # a training, a trial, another seed of a trial
        for path in sorted(results.glob(f"{pattern}/{_RECORD}")):
            try:
                record = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):  # half-written, or not ours
                continue
            if isinstance(record, dict) and record.get("run_id") == run.id:
                return path.parent
    return None


# -- One run as text, on one screen ------------------------------------------------------------

_PARTS = (
    *("contrast", "lowpass_correlation", "spectrum_distance_db", "sliced_wasserstein"),
    *("pseudo_pair_gain_db", "pseudo_pair_fitted_gain_db", "shell_gain", "checkerboard"),
    "noise_in_cycle_db",
)


_VALUES = (
    *("steps", "seed", "batch_size", "imsize_A", "super_resolution", "precision"),
    *("lr_g", "lr_d", "lr_schedule.kind", "net_A", "net_B", "filters", "filters_D", "kickstart"),
)
_FILES_SHOWN = 4
"""Most files of a folder to list one by one; more are only counted."""
_CHILDREN_SHOWN = 4
_INDENT = 9
_SERVER = "http://127.0.0.1:5000"
"""Default address of `cyclegan ui`."""


def page(run: RunInfo, data: Mapping[str, Any], width: int) -> str:
    """Return `data` from `_data` as lines no wider than `width`, addresses excepted."""
    sections: Mapping[str, Iterable[str]] = {
        "": [_what(data), *([data["reason"]] if data["reason"] else [])],
        "origin": _origin(run, data),
        "became": _became(data),
        "score": _scores(run),
        "values": _values(run),
        "data": _inputs(run),
        "made by": _made_by(run),
        "files": _files(run, data),
        "folder": _folder(data),
        "runs gc": [f"keeps it: {data['stays']}"] if data["stays"] else [],
        "page": _address(run, data),
    }
    lines = [f"{run.name}  {run.id}"]
    for title, content in sections.items():
        wrapped = [part for line in content for part in _wrap(line, width - _INDENT)]
        lines += [f"{title if i == 0 else '':{_INDENT}}{part}" for i, part in enumerate(wrapped)]
    return "\n".join(lines)


def _wrap(line: str, width: int) -> list[str]:
    """Wrap a line between its items, which two spaces separate."""
    if line.startswith(" ") or len(line) <= width:  # a table's line stays as it is
        return [line]
    glued = (
        "  ".join(item.replace(" ", "\0") for item in line.split("  ")) if "  " in line else line
    )
    parts = textwrap.wrap(
        glued, width, break_long_words=False, break_on_hyphens=False, subsequent_indent="  "
    )
    return [part.replace("\0", " ") for part in parts]


def _folder(data: Mapping[str, Any]) -> list[str]:
    if not data["folder"]:
        return []
    size = units.size(data["folder_bytes"])
    return [f"{data['folder']}", f"{size}; checkpoints, which runs gc leaves alone"]


def _address(run: RunInfo, data: Mapping[str, Any]) -> list[str]:
    if data["url"]:
        return [str(data["url"])]
    return ["while cyclegan ui runs:", run_link(_SERVER, run.experiment_id, run.id)]


def _what(data: Mapping[str, Any]) -> str:
    parts = [data["kind"] or "run of another program", data["state"]]
    if data["steps"] is not None:
        parts.append(f"{data['steps']} steps")
    if data["end_ms"]:
        parts.append(units.took(data["end_ms"] - data["start_ms"]))
    parts.append(f"started {units.moment(data['start_ms'])}")
    return ", ".join(parts)


def _origin(run: RunInfo, data: Mapping[str, Any]) -> list[str]:
    lines = []
    if data["study"]:
        trial = f"trial {data['trial']} of " if data["trial"] is not None else ""
        place = f", place {data['place']}" if data["place"] else ""
        lines.append(f"{trial}study {data['study']}{place}")
    elif data["experiment"]:
        lines.append(f"experiment {data['experiment']}")
    if data["promoted_from"]:
        how = {"continue": "continued from", "scratch": "from scratch, as"}
        begin = how.get(data["tags"].get("start", ""), "from")
        lines.append(f"{begin} {_short(data['promoted_from'])}")
    if data["parent"]:
        lines.append(f"parent {_short(data['parent'])}")
    if kind_of(run) == "enhance":
        model = next(
            filter(None, map(run.tags.get, ("model_version", "model_run", "model_file"))), ""
        )
        lines.append(f"model {model}")
    return lines


def _became(data: Mapping[str, Any]) -> list[str]:
    lines = []
    if data["promoted_to"]:
        lines.append(f"promoted to {_short(data['promoted_to'])}")
    if data["model"]:
        lines.append(f"model {data['model']}")
    children = data["children"]
    if children:
        shown = ", ".join(_short(child) for child in children[:_CHILDREN_SHOWN])
        more = len(children) - _CHILDREN_SHOWN
        lines.append(f"children {shown}" + (f" and {more} more" if more > 0 else ""))
    return lines


def _short(link: Mapping[str, str]) -> str:
    return f"{link['name']} ({link['id'][:8]})"


def _scores(run: RunInfo) -> list[str]:
    metrics = run.metrics
    own = [("score/value", "in its study"), ("score/best", "best"), ("score", "at the end")]
    first = ", ".join(f"{metrics[n]:.2f} {what}" for n, what in own if n in metrics)
    if "best_step" in run.tags and first:
        first += f"; best generator: step {run.tags['best_step']}"
    if run.tags.get("gate", "passed") != "passed":
        first += f"; unusable: {run.tags['gate']}"
    parts = [f"{n} {metrics[f'score/{n}']:.3g}" for n in _PARTS if f"score/{n}" in metrics]
    for begin in ("loss/", "psnr/", "ssim/"):
        there = [(n, v) for n, v in metrics.items() if n.startswith(begin)]
        parts += [f"{n.removeprefix('loss/')} {v:.4g}" for n, v in there]
    return [line for line in (first, "  ".join(parts)) if line]


def _values(run: RunInfo) -> list[str]:
    params, changed = run.params, "changed."
    if kind_of(run) == "enhance":
        return [f"{name} {value}" for name, value in params.items() if value not in ("", "[]")]
    groups = {n.removeprefix("lambdas."): v for n, v in params.items() if n.startswith("lambdas.")}
    terms = [f"{g} {_number(v)} {params.get(f'lossFuncs.{g}', '')}" for g, v in groups.items()]
    lines = ["  ".join(f"{n} {_number(params[n])}" for n in _VALUES if n in params)]
    lines.append("  ".join(["lambdas", *terms]) if terms else "")
    if params.get("hp_optimizer.enabled") == "True":
        lines.append(f"rollback optimizer: {params.get('hp_optimizer.policy', '')}")
    lines += [
        f"{n.removeprefix(changed)} {v}" for n, v in run.tags.items() if n.startswith(changed)
    ]
    return [line for line in lines if line]


def _number(text: str) -> str:
    """Return a real number with four digits, and any other text as it is."""
    try:
        return text if text.isdigit() else f"{float(text):.4g}"
    except ValueError:
        return text


def _inputs(run: RunInfo) -> list[str]:
    tags = run.tags
    return [
        f"{domain}  {tags[f'data_{domain}']}  {tags.get(f'data_hash.{domain}', 'without a hash')}"
        for domain in "AB"
        if f"data_{domain}" in tags
    ]


def _made_by(run: RunInfo) -> list[str]:
    tags = run.tags
    where = [tags.get("mlflow.user", ""), tags.get("host", ""), tags.get("device", "")]
    commit = tags.get("mlflow.source.git.commit", "")[:8]
    modified = ", with changes" if tags.get("git.modified") == "yes" else ""
    versions = [
        f"{n.removeprefix('version.')} {v}" for n, v in tags.items() if n.startswith("version.")
    ]
    lines = [", ".join(filter(None, where)), "  ".join(versions)]
    lines.append(f"commit {commit}{modified}" if commit else "")
    return [line for line in lines if line]


def _files(run: RunInfo, data: Mapping[str, Any]) -> list[str]:
    place = local_path(run.artifact_uri) or without_secrets(run.artifact_uri)
    if data["artifacts"] is None:
        return [f"too many to list, in {place}"]
    files = data["artifacts"]
    lines = [f"{place}", f"{units.count(len(files), 'file')}, {units.size(data['bytes'])}"]
    if FREED in run.tags:
        lines.append(f"the large files were removed on {run.tags[FREED]}")
    folders: dict[str, list[Mapping[str, Any]]] = {}
    for file in files:
        folders.setdefault(file["path"].rpartition("/")[0], []).append(file)
    for folder, inside in sorted(folders.items()):
        lines += _branch(folder, inside)
    return lines


def _branch(folder: str, inside: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines of one folder; only count many files, and pictures with long names."""
    counted = len(inside) > _FILES_SHOWN or any("+step+" in file["path"] for file in inside)
    if folder or counted:
        size = units.size(sum(file["bytes"] for file in inside))
        count = f"  {units.count(len(inside), 'file')}" if counted else ""
        yield f" {size:>7}  {folder}/{count}"
    if not counted:
        indent = "  " if folder else ""
        for file in inside:
            yield f" {units.size(file['bytes']):>7}  {indent}{Path(file['path']).name}"
