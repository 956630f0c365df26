"""The command `cyclegan export`: a trained generator as one file for use without this project."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cyclegan.files import shell_word
from cyclegan.generator import Direction
from cyclegan.portable import ExportResult, export_generator
from search.models import find_model, origin_of
from workbench.output import OpenStore, Output


def export_model(
    name: str,
    output: Path,
    *,
    open_store: OpenStore,
    direction: Direction = "A",
    overwrite: bool = False,
) -> ExportResult:
    """Export the model that `name` means as one file for use without this project."""
    model = find_model(name, open_store)
    return export_generator(
        model.file,
        output,
        direction=direction,
        origin=origin_of(model.run_id, model.version),
        overwrite=overwrite,
    )


def output_of(exported: ExportResult) -> Output:
    """Return what one must know to use an exported file."""
    data = {"output": str(exported.path), "seconds": exported.seconds, "about": exported.about}
    return Output(data=data, text=_text(exported))


def _text(exported: ExportResult) -> str:
    about = exported.about
    source, target = about["input"], about["output"]
    megabytes = exported.path.stat().st_size / 1e6
    file = shell_word(exported.path)
    return "\n".join(
        [
            f"written    {exported.path}, {megabytes:.3g} MB, {exported.seconds:.1f} s",
            f"from       domain {source['domain']}, {_shape(source)}",
            f"to         domain {target['domain']}, {_shape(target)}, scale {about['scale']:g}",
            f"sizes      Z, Y and X multiples of {about['alignment']}; halo of a tile "
            f"{about['halo_left']} before, {about['halo_right']} after",
            f"use it     unzip -p {file} '*/recipe.py' > recipe.py; "
            f"python recipe.py {file} IN.h5 OUT.h5",
        ]
    )


def _shape(image: dict[str, Any]) -> str:
    sizes = zip(image["axes"], image["shape"], strict=True)
    return f"({', '.join(axis if n < 0 else str(n) for axis, n in sizes)}) {image['dtype']}"
