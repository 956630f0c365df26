"""Agreement of the images of several runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cyclegan.data.voxel_size import VoxelSize
from cyclegan.metrics.agreement import (
    HALF,
    Blocks,
    Curve,
    Difference,
    ImageDifferences,
    mean_power,
    shell_agreement,
)
from cyclegan.metrics.correlation import ShellCorrelation
from viz.pictures import Picture
from viz.viewer import Layer

Pair = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class PairAgreement:
    """Agreement of two runs' images."""

    difference: Difference
    """Statistics of the second image less the first."""
    curve: ShellCorrelation | None
    """Fourier shell correlation; None if the images are too small for shells."""

    @property
    def voxels(self) -> float | None:
        """Finest period of agreement in voxels: 2 is Nyquist; infinite if there is none."""
        return None if self.curve is None else self.curve.resolution(HALF).voxels


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Central slices of a run's images, by name: `real_A`, `fake_B`, ... or `enhanced`."""

    slices: Mapping[str, Picture]
    caption: str
    whole: Picture | None = None
    """All slices as one picture, with titles."""
    same_input: bool = True
    """True if the run starts from the same image as the first run shown."""


@dataclass(frozen=True, kw_only=True)
class ComparedImages:
    """The compared images; runs are given by their numbers."""

    what: str
    """`fake_B` or `enhanced`."""
    runs: tuple[int, ...] = ()
    """Runs that were measured: their images have the same region and resolution."""
    iterations: Mapping[int, int] = field(default_factory=dict)
    """Iteration of the validation that made each run's images; empty for enhancements."""
    pairs: Mapping[Pair, PairAgreement] = field(default_factory=dict)
    spectra: Mapping[int, Curve] = field(default_factory=dict)
    references: Mapping[str, Curve] = field(default_factory=dict)
    """Spectra of real images: of the target (`real_B`) and of the input (`real_A`)."""
    shown: Mapping[int, Shown] = field(default_factory=dict)
    differences: Mapping[Pair, Picture] = field(default_factory=dict)
    """Central slices of second less first, red where the second is brighter, blue where darker."""
    layers: tuple[Layer, ...] = ()
    """Volumes for the viewer."""
    limit: float = 0.0
    """Grey values that the strongest red and blue stand for."""
    voxel_um: float | None = None
    """Edge of a cubic voxel in micrometres; None if it is not known."""
    region: str = ""
    """Description of the region that was measured."""
    remarks: tuple[str, ...] = ()
    """Missing parts and the reasons."""


def agreements(
    numbers: Sequence[int], blocks: Mapping[int, Blocks], found: ImageDifferences
) -> dict[Pair, PairAgreement]:
    """Return the agreement of every pair, from blocks at the same places and whole-image sums.

    Errors: `DataError` if no voxel is finite in all images.
    """
    return {
        (numbers[i], numbers[j]): PairAgreement(
            difference=found.of(i, j),
            curve=shell_agreement(blocks[numbers[i]], blocks[numbers[j]]),
        )
        for i, j in found.pairs
    }


def largest_shown(found: Iterable[PairAgreement]) -> float:
    """Return the difference shown in full colour in the pictures of all pairs."""
    return 4 * max((pair.difference.rms for pair in found), default=0.0)


def spectra(blocks: Mapping[int, Blocks]) -> dict[int, Curve]:
    """Return the mean power of each run's blocks, for those large enough."""
    curves = {number: mean_power(given) for number, given in blocks.items()}
    return {number: curve for number, curve in curves.items() if curve is not None}


def cubic(size: VoxelSize | None) -> float | None:
    """Return the edge of a cubic voxel in micrometres; None if it is no cube, or not known."""
    if size is None or max(size) > 1.01 * min(size):
        return None
    return size[0]


def listed(numbers: Sequence[int]) -> str:
    """Return numbers as text, such as `1, 2 and 5`."""
    *before, last = map(str, numbers)
    return f"{', '.join(before)} and {last}" if before else last


def names_of_runs(numbers: Sequence[int]) -> str:
    """Return runs as text, such as `run 3` or `runs 1 and 2`."""
    return f"run{'s' if len(numbers) > 1 else ''} {listed(numbers)}"


def groups(keys: Mapping[int, object]) -> Iterator[list[int]]:
    """Yield the runs with equal keys, the largest group first; on a tie that of the first run."""
    found: dict[object, list[int]] = {}
    for number, key in keys.items():
        found.setdefault(key, []).append(number)
    yield from sorted(found.values(), key=lambda group: -len(group))
