"""What the run of an enhancement says in words: its description, and where the volume is."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from tracking.provenance import machine_tags
from workbench.enhance.record import Facts


def model_note(facts: Facts) -> str:
    """Which generator, with a link to the run that trained it. Markdown."""
    model, origin = facts.model, facts.origin
    parts = [model.run.link() if model.run else _code(model.address)]
    parts += [model.label] if model.label else []
    if "trial" in origin and "study" in origin:
        parts.append(f"trial {origin['trial']} of study {origin['study']}")
    parts += [f"step {model.generator.step}", _code(_short(facts.model_hash))]
    return ", ".join(parts)


def input_note(facts: Facts) -> str:
    """Which volumes. Markdown."""
    parts = []
    for file in facts.inputs:
        role = "" if file.role == "input" else f"{file.role} "
        parts.append(f"{role}{_code(file.path)}, {_code(_short(file.hash))}")
    return "; ".join(parts)


def volume_note(volume: Mapping[str, Any], viewer: bool) -> str:
    """Where the result is. Markdown."""
    where = f"{size_text(volume['bytes'])} in {_code(volume['path'])}"
    if volume["artifact"]:
        where += f", with a copy among the artifacts, {_code(volume['artifact'])}"
    else:
        where += ", not copied"
    look = "; look into it: `viewer.html` among the artifacts" if viewer else ""
    return f"{where}{look}"


def volume_text(facts: Facts, volume: Mapping[str, Any], run_id: str) -> str:
    """The artifact `volume.txt`: where the volume is, which it is, and how to open it."""
    path = volume["path"]
    shell = shlex.quote(path)
    host = machine_tags(facts.device)["host"]
    shape = " x ".join(map(str, volume["shape"]))
    maps = "".join(f"  {name}\n" for name in facts.settings["trust"])
    if volume["artifact"]:
        place = f"A copy of the enhanced volume is {volume['artifact']} among these artifacts; it"
    else:
        place = "The enhanced volume is not among these artifacts; it"
    copy = (
        "Put it here afterwards\n"
        f"  mlflow artifacts log-artifact --run-id {run_id} --artifact-path volume \\\n"
        f"    --local-file {shell}\n"
    )
    return (
        f"{place} was written on the host {host} to\n\n"
        f"  {path}\n\n"
        f"{size_text(volume['bytes'])}, {shape} voxels, float32\n"
        f"{volume['hash']}\n\n"
        "A hash that begins with `sha256:` is that of `sha256sum`; `sampled-sha256:` is made of\n"
        "the size and 256 pieces of a file above 1 GiB.\n\n"
        "In the file\n"
        "  data\n"
        f"{maps}\n"
        "Open it\n"
        f"  silx view {shell}\n"
        f"  cyclegan viewer {shell}\n"
        f'  h5py.File({path!r})["data"][...]    in Python\n'
        + ("" if volume["artifact"] else f"\n{copy}")
    )


def size_text(size: int) -> str:
    """`1.23 GB`, `45.6 MB`, `789 kB`."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:.3g} {unit}"
    return f"{size / 1e3:.3g} kB"


def _short(found: str) -> str:
    """The beginning of a hash; the tags have all of it."""
    kind, _, digits = found.partition(":")
    return f"{kind}:{digits[:12]}" if digits else found


def _code(value: object) -> str:
    """As Markdown's code, in which nothing else is special."""
    return f"`{str(value).replace('`', '')}`"
