"""The dataset JSON beside prepared volumes: their parts for training and for validation."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cyclegan.errors import DataError, UsageError
from cyclegan.files import check_name
from cyclegan.prepare.partial import DATASET, HDF5_SUFFIXES
from cyclegan.prepare.region import Open, Range

SHARE = 0.15
"""Share of the planes along Z that is held out for validation by default."""


def output_paths(
    groups: Sequence[Sequence[Path]], output: Path, validate_file: Path | None
) -> tuple[list[Path], Path | None, Path]:
    """Return the files to write: one per volume, that of `validate_file`, and the dataset JSON.

    A single volume is written to `output`, the validation file beside it as `..._validate.h5`, and
    the JSON has `output`'s name. For several volumes `output` is a folder: each file has its
    input's name, and the JSON is `dataset.json`.

    Errors: `UsageError` if `output` is ambiguous, `DataError` if no file can be there.
    """
    check_name(output)
    several = len(groups) > 1
    is_file = output.suffix.lower() in HDF5_SUFFIXES
    if several and (is_file or output.is_file()):
        raise UsageError(
            f"--output {output}: {len(groups)} volumes need a folder; name one, or give the "
            "inputs one by one"
        )
    if not several and (not is_file or output.is_dir()):
        raise UsageError(f"--output {output}: name an HDF5 file, e.g. {output / 'volume.h5'}")
    if not several:
        validation = output.with_name(f"{output.stem}_validate{output.suffix}")
        return [output], validation if validate_file else None, output.with_suffix(".json")
    inputs = [group[0] for group in groups] + ([validate_file] if validate_file else [])
    paths = [output / f"{path.stem or path.name}.h5" for path in inputs]
    for i, path in enumerate(paths):
        if path in paths[:i]:
            raise UsageError(
                f"{inputs[paths.index(path)]} and {inputs[i]} would both become {path}; rename "
                "one, or prepare them one by one"
            )
    validation_path = paths.pop() if validate_file else None
    return paths, validation_path, output / "dataset.json"


def validation_ranges(wanted: Sequence[Open], length: int, name: str) -> list[Range]:
    """Return the ranges along Z for validation, sorted; by default the last `SHARE` of the planes.

    Errors: `UsageError` for ranges that overlap, end beyond the volume or leave nothing to train
    on, `DataError` for a volume of one plane.
    """
    if length < 2:
        raise DataError(
            f"{name}: one plane along Z can't be split into train and validate; give the folder of "
            "the stack or all of its files, or a --validate-file"
        )
    if not wanted:
        return [(length - max(1, round(SHARE * length)), length)]
    ranges = sorted((a or 0, length if b is None else b) for a, b in wanted)
    for start, end in ranges:
        if end > length or start >= end:
            raise UsageError(
                f"--validate {start}:{end} ends beyond the {length} planes that {name} has after "
                "cropping"
            )
    for (a, b), (c, d) in itertools.pairwise(ranges):
        if c < b:
            raise UsageError(f"--validate {a}:{b} and {c}:{d} overlap")
    if not complement(ranges, length):
        raise UsageError(f"--validate leaves none of the {length} planes of {name} to train on")
    return ranges


def complement(ranges: Sequence[Range], length: int) -> list[Range]:
    """Return the parts of [0, length) that lie in none of the sorted `ranges`."""
    cuts = [0, *(n for limits in ranges for n in limits), length]
    pairs = zip(cuts[::2], cuts[1::2], strict=True)
    return [(a, b) for a, b in pairs if a < b]


def entries(
    volume: Path, json_file: Path, ranges: Sequence[Range | None], volume_hash: str
) -> list[dict[str, Any]]:
    """Return entries of a dataset JSON for ranges of a volume along Z; None is all of it.

    `volume_hash` is that of `cyclegan.data.fingerprint`; the entries of an empty one have none.
    """
    folder = os.path.realpath(json_file.parent)
    path = Path(os.path.relpath(os.path.realpath(volume), folder)).as_posix()
    return [
        {"path": path, "dset": DATASET}
        | ({} if limits is None else {"ROI0": list(limits)})
        | ({"hash": volume_hash} if volume_hash else {})
        for limits in ranges
    ]


def dataset_text(train: Sequence[dict[str, Any]], validate: Sequence[dict[str, Any]]) -> str:
    """Return the dataset JSON, one entry per line."""
    parts = [
        f' "{name}": [\n  ' + ",\n  ".join(json.dumps(entry) for entry in part) + "\n ]"
        for name, part in (("train", train), ("validate", validate))
    ]
    return "{\n" + ",\n".join(parts) + "\n}\n"
