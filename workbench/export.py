"""The command `cyclegan export`: a trained generator as one file for use without this project."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cyclegan.generator import Direction
from cyclegan.portable import Exported, export_generator
from search.models import find_model, origin_of
from workbench.session import Session


def run_export(
    session: Session, name: str, output: Path, *, direction: Direction, overwrite: bool
) -> None:
    """Export the model that `name` means, and print what the user of the file must know."""
    model = find_model(name, lambda: session.store)
    exported = export_generator(
        model.file,
        output,
        direction=direction,
        origin=origin_of(model.run_id, model.version),
        overwrite=overwrite,
    )
    data = {"output": str(exported.path), "seconds": exported.seconds, "about": exported.about}
    session.result(data, _text(exported))


def _text(exported: Exported) -> str:
    about = exported.about
    source, target = about["input"], about["output"]
    megabytes = exported.path.stat().st_size / 1e6
    return "\n".join(
        [
            f"written    {exported.path}, {megabytes:.3g} MB, {exported.seconds:.1f} s",
            f"from       domain {source['domain']}, {_shape(source)}",
            f"to         domain {target['domain']}, {_shape(target)}, scale {about['scale']:g}",
            f"sizes      Z, Y and X multiples of {about['alignment']}; halo of a tile "
            f"{about['halo_left']} before, {about['halo_right']} after",
            f"use it     unzip -p {exported.path} '*/recipe.py' > recipe.py; "
            f"python recipe.py {exported.path} IN.h5 OUT.h5",
        ]
    )


def _shape(image: dict[str, Any]) -> str:
    sizes = zip(image["axes"], image["shape"], strict=True)
    return f"({', '.join(axis if n < 0 else str(n) for axis, n in sizes)}) {image['dtype']}"
