"""Half scans of the phantom's validation volume: the same scan from every other projection."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from cyclegan.files import replacing, write_text
from cyclegan.simulate import FAST, scan
from cyclegan.simulate.domains import Description, write_volume
from cyclegan.simulate.phantom import FIBRE_DIAMETER, fibre_composite

SHAPE = (64, 176, 176)
"""Shape (Z, Y, X) of the validation phantom at 1x."""


def write_halves(data: Path) -> Path:
    """Write `fast_even.h5`, `fast_odd.h5` and `fast_halves.json`, `fast.json` with halves.

    `data` is the folder of `cyclegan simulate --phantom` with seed 0 at 1x. The same random streams
    are drawn again, so that these are halves of the very scan used for validation.
    """
    path = data / "fast_halves.json"
    if path.exists():
        return path
    seeds = np.random.SeedSequence(0).spawn(7)
    sample = fibre_composite(SHAPE, seeds[4], fibre_diameter=FIBRE_DIAMETER)
    for half in ("even", "odd"):
        about = Description(
            title=f"half of the fast scan, {half} angles",
            source="simulated fibre composite for validate, scanned numerically",
            settings=FAST[1],
            voxel_size_um=None,
            binning=1,
            arguments={"half": half},
        )
        stream = np.random.SeedSequence(0).spawn(7)[5]
        with replacing(data / f"fast_{half}.h5") as temporary:
            write_volume(temporary, scan(sample, FAST[1], stream, half=half), about)
    content = json.loads((data / "fast.json").read_text(encoding="utf-8"))
    content["validate"][0]["halves"] = ["fast_even.h5", "fast_odd.h5"]
    write_text(path, json.dumps(content, indent=2) + "\n")
    return path
