"""How far the images of several runs agree."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cyclegan.data.voxel_size import VoxelSize
from cyclegan.metrics.agreement import (
    HALF,
    Blocks,
    Curve,
    Difference,
    Differences,
    mean_power,
    shell_agreement,
)
from cyclegan.metrics.correlation import ShellCorrelation
from viz.pictures import Picture
from viz.viewer import Layer

Pair = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class PairAgreement:
    """Of two runs' images."""

    difference: Difference
    """Of the second less the first."""
    curve: ShellCorrelation | None
    """None where the images are too small for shells."""

    @property
    def voxels(self) -> float | None:
        """The finest period at which they agree, in voxels: 2 up to Nyquist, infinite at none."""
        return None if self.curve is None else self.curve.resolution(HALF).voxels


@dataclass(frozen=True, kw_only=True)
class Shown:
    """Central slices of a run's images, by name: `real_A`, `fake_B`, ... or `enhanced`."""

    slices: Mapping[str, Picture]
    caption: str
    whole: Picture | None = None
    """All of them as one picture, with titles."""
    same_input: bool = True
    """Whether it starts from the same image as the first that is shown."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """The images of the runs; runs by their numbers."""

    what: str
    """`fake_B` or `enhanced`."""
    runs: tuple[int, ...] = ()
    """Those whose images are of the same region and resolution, and were measured."""
    iterations: Mapping[int, int] = field(default_factory=dict)
    """Of the validations that the images are from; not of enhancements."""
    pairs: Mapping[Pair, PairAgreement] = field(default_factory=dict)
    spectra: Mapping[int, Curve] = field(default_factory=dict)
    references: Mapping[str, Curve] = field(default_factory=dict)
    """Spectra that the runs' should be like (`real_B`), or were made of (`real_A`)."""
    shown: Mapping[int, Shown] = field(default_factory=dict)
    differences: Mapping[Pair, Picture] = field(default_factory=dict)
    """Central slices of second less first, red where it is brighter, blue where darker."""
    layers: tuple[Layer, ...] = ()
    """For the viewer."""
    limit: float = 0.0
    """Grey values that the strongest red and blue stand for."""
    voxel_um: float | None = None
    """Of cubic voxels, where it is known."""
    region: str = ""
    """What was measured, in words."""
    remarks: tuple[str, ...] = ()
    """What is missing, and why."""


def agreements(
    numbers: Sequence[int], blocks: Mapping[int, Blocks], found: Differences
) -> dict[Pair, PairAgreement]:
    """Of every pair of runs, from blocks that lie at the same places and whole-image sums.

    Errors: `DataError` if no voxel is finite in all.
    """
    return {
        (numbers[i], numbers[j]): PairAgreement(
            difference=found.of(i, j),
            curve=shell_agreement(blocks[numbers[i]], blocks[numbers[j]]),
        )
        for i, j in found.pairs
    }


def largest_shown(found: Iterable[PairAgreement]) -> float:
    """What full colour stands for in pictures of differences: of all pairs the same."""
    return 4 * max((pair.difference.rms for pair in found), default=0.0)


def spectra(blocks: Mapping[int, Blocks]) -> dict[int, Curve]:
    """Mean power of each run's blocks, of those large enough."""
    curves = {number: mean_power(given) for number, given in blocks.items()}
    return {number: curve for number, curve in curves.items() if curve is not None}


def cubic(size: VoxelSize | None) -> float | None:
    """The edge of a cubic voxel in micrometres; None if it is no cube, or not known."""
    if size is None or max(size) > 1.01 * min(size):
        return None
    return size[0]


def listed(numbers: Sequence[int]) -> str:
    """`1, 2 and 5`."""
    *before, last = map(str, numbers)
    return f"{', '.join(before)} and {last}" if before else last


def names_of_runs(numbers: Sequence[int]) -> str:
    """`run 3`, `runs 1 and 2`."""
    return f"run{'s' if len(numbers) > 1 else ''} {listed(numbers)}"


def groups(keys: Mapping[int, object]) -> Iterator[list[int]]:
    """Numbers with one key each, the largest group first, of equal ones that with the first run."""
    found: dict[object, list[int]] = {}
    for number, key in keys.items():
        found.setdefault(key, []).append(number)
    yield from sorted(found.values(), key=lambda group: -len(group))
