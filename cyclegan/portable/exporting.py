"""Export generators with `torch.export`, for any batch and any size that the network takes.

Alternatives that were tried: a TorchScript trace leaves sizes free too, but is deprecated and
silently takes sizes that are not multiples of the alignment; ONNX agrees to 1e-6 and needs six more
packages.

Z, Y and X are declared as alignment x blocks. Tracing adds guards of its own, such as that no axis
is one block long, which concern strides and not results. They are checked only if the file holds
the example input, which is also the only pickled part of the file, so it is left out.
"""

from __future__ import annotations

import io
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from cyclegan.enhance.network import weights_hash
from cyclegan.errors import CycleGANError, UsageError
from cyclegan.files import refuse_overwrite, replacing
from cyclegan.generator import Direction, TrainedGenerator, load_generator
from cyclegan.networks import UNet3d

SUFFIX = ".pt2"
ABOUT_NAME, RECIPE_NAME = "cyclegan.json", "recipe.py"
"""Names of the extra files inside."""
_TOLERANCE = 1e-5


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """An exported file."""

    path: Path
    about: dict[str, Any]
    """Its own description; see `describe`."""
    seconds: float


def export_generator(
    generator_file: Path,
    output: Path,
    *,
    direction: Direction = "A",
    origin: Mapping[str, object] | None = None,
    overwrite: bool = False,
) -> ExportResult:
    """Write the mean generator of a generator file or checkpoint to `output`, `FILE.pt2`.

    The file maps (B, C, Z, Y, X) float32, standardised, to (B, C', sZ, sY, sX); inside are
    `cyclegan.json` (see `describe`) and `recipe.py`. The same generator and `origin` give the same
    bytes. Before the file gets its name, it is read back and compared with the original.

    Args:
        direction: A for the generator from domain A to B, B for the one back.
        origin: where the generator comes from, for whoever finds the file.

    Errors: `UsageError` for another suffix, `DataError` if `output` exists, `CheckpointError` for
    the generator file, `CycleGANError` if the export fails or does not agree with the original.
    """
    if output.suffix != SUFFIX:
        raise UsageError(f"{output}: the name of an exported generator must end in {SUFFIX}")
    refuse_overwrite(output, overwrite)
    began = time.perf_counter()
    trained = load_generator(generator_file, direction)
    about = describe(trained, direction, origin)
    try:
        content = _packed(trained.network, about)
        difference = _difference(content, trained.network)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CycleGANError(f"{generator_file} can't be exported: {reason}") from error
    if not difference <= _TOLERANCE:
        raise CycleGANError(
            f"{generator_file} can't be exported: the result differs by {difference:.2g} of its "
            "largest value from the original's"
        )
    with replacing(output) as temporary:
        temporary.write_bytes(content)
    return ExportResult(path=output, about=about, seconds=time.perf_counter() - began)


def _packed(network: UNet3d, about: Mapping[str, Any]) -> bytes:
    program = _exported(network)
    # It would be a pickle, and add guards on its strides; see the top of this file.
    program.example_inputs = None
    recipe = Path(__file__).with_name(RECIPE_NAME).read_text(encoding="utf-8")
    # A buffer, not a path: PyTorch writes the file's name into the archive.
    buffer = io.BytesIO()
    extra = {ABOUT_NAME: json.dumps(about, indent=1), RECIPE_NAME: recipe}
    torch.export.save(program, buffer, extra_files=extra)
    return buffer.getvalue()


def _exported(network: UNet3d) -> ExportedProgram:
    step = network.geometry.alignment
    blocks = {
        axis: step * Dim(f"{name}_blocks") for axis, name in zip((2, 3, 4), "zyx", strict=True)
    }
    # Different lengths: equal ones could be taken for the same dimension.
    example = _example(network, batch=2, blocks=(2, 3, 4))
    return torch.export.export(network, (example,), dynamic_shapes=({0: Dim("batch")} | blocks,))


def _difference(content: bytes, network: UNet3d) -> float:
    """Return the difference of file and original, relative to the largest value of the original.

    It is measured at another size than the example's.
    """
    read = torch.export.load(io.BytesIO(content)).module()
    image = _example(network, batch=1, blocks=(1, 2, 1))
    image.normal_(generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted: Tensor = network(image)
        got: Tensor = read(image)
    return float((got - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30))


def _example(network: UNet3d, *, batch: int, blocks: tuple[int, int, int]) -> Tensor:
    step, (inputs, _) = network.geometry.alignment, channels(network)
    return torch.zeros(batch, inputs, *(step * count for count in blocks))


# -- The description of an exported generator, as plain JSON types -----------------------------

FORMAT = "cyclegan-portable-1"


AXES = ("B", "C", "Z", "Y", "X")


def describe(
    trained: TrainedGenerator, direction: Direction, origin: Mapping[str, object] | None = None
) -> dict[str, Any]:
    """Return all that is needed to apply `trained` to a volume; lengths in input voxels.

    ```
    format                    cyclegan-portable-1
    direction                 A (from A to B) or B
    input, output             name, dtype, axes, shape (-1: any), domain, and grey_scale: mean and
                              std by which training standardised this domain, None if it did not
    scale                     output voxels per input voxel; a voxel's size is divided by it
    alignment                 Z, Y and X of the input are multiples of it
    halo_left, halo_right     voxels that a tile needs before and after its core
    standardise               auto, always or never, as in the configuration
    step, score               step and score of the training
    config                    configuration of the training as YAML
    origin                    whatever the caller knows: study, trial, run, version
    weights_sha256, versions
    ```
    """
    geometry, config = trained.network.geometry, trained.config
    source, target = ("A", "B") if direction == "A" else ("B", "A")
    inputs, outputs = channels(trained.network)
    return {
        "format": FORMAT,
        "direction": direction,
        "input": _image("x", inputs, source, trained),
        "output": _image("y", outputs, target, trained),
        "scale": float(geometry.factor),
        "alignment": geometry.alignment,
        "halo_left": geometry.halo_left,
        "halo_right": geometry.halo_right,
        "standardise": config.standardise,
        "step": trained.step,
        "score": trained.score,
        "config": config.to_yaml(),
        "origin": {name: str(value) for name, value in (origin or {}).items()},
        "weights_sha256": weights_hash(trained.network),
        "versions": {"torch": str(torch.__version__), "cyclegan3d": _own_version()},
    }


def channels(network: UNet3d) -> tuple[int, int]:
    """Return the numbers of channels of the input and the output."""
    convolutions = [m for m in network.modules() if isinstance(m, torch.nn.Conv3d)]
    return convolutions[0].in_channels, convolutions[-1].out_channels


def _image(name: str, count: int, domain: str, trained: TrainedGenerator) -> dict[str, Any]:
    scale = trained.grey_scales.get(domain)
    return {
        "name": name,
        "dtype": "float32",
        "axes": list(AXES),
        "shape": [-1, count, -1, -1, -1],
        "domain": domain,
        "grey_scale": None if scale is None else {k: float(scale[k]) for k in ("mean", "std")},
    }


def _own_version() -> str:
    try:
        return version("cyclegan3d")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"
