"""Preparation of one volume in two passes: measure its values, then standardise and write them.

Both passes go block by block, so that memory depends on the block and not on the volume. After a
kill the next call resumes both (see `cyclegan/prepare/partial.py`).
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from cyclegan.data.grey_levels import SAMPLED_VOXELS, GreyLevels, LevelSample
from cyclegan.data.origin import (
    EXTREME,
    PREPARED_FROM,
    SOURCE_DATASET,
    SOURCE_PATH,
    SOURCE_PLANE,
    STANDARDISED,
)
from cyclegan.data.statistics import (
    Moments,
    Outliers,
    ValidRange,
    find_valid_range,
    lost_digits,
    moments,
    outliers_of,
    statistics_of,
)
from cyclegan.errors import DataError
from cyclegan.files import refuse_overwrite, replacing
from cyclegan.hdf5 import writing_hdf5
from cyclegan.numbers import round_up
from cyclegan.prepare.partial import (
    DATASET,
    Layout,
    Part,
    Record,
    check_space,
    disk_errors,
    exclusive,
    is_made,
    part_path,
)
from cyclegan.prepare.region import Block, Region, blocks, chunk_shape, size_of, spots
from cyclegan.prepare.settings import PrepareResult, Settings, fingerprint
from cyclegan.prepare.source import Source
from cyclegan.prepare.transform import Histogram, Transform

logger = logging.getLogger(__name__)

Reporter = Callable[[str, int, int], AbstractContextManager[Callable[[int], None]]]
"""Function of label, number of slabs and slabs done before; its context yields a function that
takes the number of slabs done."""
Draw = Callable[[Path, str, Histogram, Histogram | None], None]
"""Function of output, title, and histograms before and after standardisation that draws a picture
to check the output by, beside the output with the ending `.png`."""
PERCENTILES = (1, 50, 99)
_RECORD_SECONDS = 2.0
"""Seconds between two records of the first pass."""
_SAMPLED_PLANES, _SAMPLED_VOXELS = 9, 200_000
"""Planes and voxels, about, by which it is judged which values are extreme."""


@contextmanager
def silent(label: str, total: int, start: int) -> Iterator[Callable[[int], None]]:
    """Report nothing."""
    yield lambda done: None


def is_done(source: Source, output: Path, settings: Settings) -> bool:
    """Return True if an earlier call with this input and these settings left nothing to do."""
    record = Record(output, fingerprint(source, settings))
    return not record.found and is_made(output, record.fingerprint)


def check_output(source: Source, output: Path, settings: Settings, *, overwrite: bool) -> bool:
    """Return True if an earlier call with this input and these settings can go on at its end.

    Errors: `DataError` if something else made `output` or its picture and they may not be
    replaced, or if `output` is one of the source's own files.
    """
    if os.path.realpath(output) in {os.path.realpath(path) for path in source.files}:
        raise DataError(f"{output} is also an input; name another output")
    record = Record(output, fingerprint(source, settings))
    if "written" in record.content and is_made(output, record.fingerprint):
        return True
    for path in (output, output.with_suffix(".png")):
        refuse_overwrite(path, overwrite)
    return False


def prepare_volume(
    source: Source,
    output: Path,
    settings: Settings,
    *,
    overwrite: bool = False,
    report: Reporter = silent,
    draw: Draw | None = None,
) -> PrepareResult:
    """Write the region of `source` as the HDF5 file `output`, and call `draw` for its picture.

    The values are `(x - mean) / std` over the region's voxels that count. Voxels that are not
    finite or of the no-data value become 0, the mean; extreme ones are clipped. After a kill the
    same call continues after the last slab that was written.

    Errors: `DataError` for a source that can't be read or standardised, `CycleGANError` for a full
    disk, `BusyError` if another process prepares the same output.
    """
    began = time.monotonic()
    with exclusive(output):
        check_output(source, output, settings, overwrite=overwrite)
        work = _Work(source, output, settings, report)
        written = work.run()
        histogram, after = work.histograms()
        if draw:
            draw(output, work.title, histogram, after if settings.standardise else None)
        lost_levels = work.lost_levels()
    statistics = work.statistics
    return PrepareResult(
        source=source.name,
        output=output,
        picture=output.with_suffix(".png") if draw else None,
        shape=size_of(work.region),
        dtype=settings.dtype,
        voxel_size_um=work.voxel_size_um,
        statistics=statistics_of(statistics, work.valid, work.outliers),
        minimum=statistics.minimum,
        maximum=statistics.maximum,
        percentiles={p: histogram.percentile(p) for p in PERCENTILES},
        clipped=work.clipped,
        lost_levels=lost_levels,
        slabs=len(work.blocks),
        slabs_written=written,
        seconds=time.monotonic() - began,
    )


def forget(output: Path, source: Source, settings: Settings) -> None:
    """Remove the record of a finished output; later calls treat it like any other file."""
    Record(output, fingerprint(source, settings)).clear()


class _Work:
    """The two passes over one volume."""

    def __init__(self, source: Source, output: Path, settings: Settings, report: Reporter) -> None:
        self._source, self._output, self._settings = source, output, settings
        self._report = report
        self._fingerprint = fingerprint(source, settings)
        self.region: Region = source.region(settings.roi)
        size = size_of(self.region)
        if not is_made(output, self._fingerprint):
            padded = (round_up(n, c) for n, c in zip(size, chunk_shape(size), strict=True))
            check_space(output, math.prod(padded) * np.dtype(settings.dtype).itemsize)
        self.blocks = blocks(self.region, source.grain, settings.slab_voxels)
        self.voxel_size_um = settings.voxel_size_um or source.voxel_size_um
        self.title = f"{source.name}, {' x '.join(map(str, size))} voxels"
        self._record = Record(output, self._fingerprint)
        self._is_made = self._record.content.get("written") == len(self.blocks) and is_made(
            output, self._fingerprint
        )
        self.statistics = Moments()
        self.valid = ValidRange()
        self._extremes: tuple[Moments, ValidRange] | None = None
        """First measurement, if it found so many extreme voxels that they are part of the image."""
        self._transform: Transform | None = None

    @property
    def clipped(self) -> int:
        """Voxels beyond the range of the output's dtype."""
        assert self._transform is not None
        return self._transform.clipped

    @property
    def outliers(self) -> Outliers | None:
        """Extreme voxels that count, if there are any."""
        return outliers_of(*self._extremes, self.statistics) if self._extremes else None

    def lost_levels(self) -> GreyLevels | None:
        """Compare some voxels of the finished output with the input: their grey levels, if lost."""
        chosen = spots(self.region, _SAMPLED_PLANES, SAMPLED_VOXELS)
        sample = LevelSample(len(chosen))
        (z, _), (y, _), _ = self.region
        with h5py.File(self._output, "r") as handle:
            for block in chosen:
                raw = self._read(block)
                values = raw.astype(np.float64)
                without_data = self.valid.has_no_data(raw)
                if without_data is not None:
                    values[without_data] = np.nan
                planes = slice(block.z[0] - z, block.z[1] - z)
                rows = slice(block.y[0] - y, block.y[1] - y)
                sample.add(values, handle[DATASET][planes, rows])
        return sample.lost()

    def histograms(self) -> tuple[Histogram, Histogram]:
        """Return the histograms before and after standardisation."""
        assert self._transform is not None
        return self._transform.before, self._transform.after

    def run(self) -> int:
        """Measure and write what is missing, and return the number of slabs written."""
        if self._record.found and not self._record.content:
            logger.info(
                "%s: its part comes from other inputs or settings; starting over", self._output
            )
        self._measure()
        self._transform = self._fresh_transform()
        if "written" in self._record.content:
            self._transform.load_state(self._record.content)
        if self._is_made:
            # A kill after the rename of the repacked file may have left the part.
            part_path(self._output).unlink(missing_ok=True)
            return 0
        part = Part(self._output, self._layout())
        try:
            written = self._write(part)
        finally:
            part.close()
        self._check_unchanged()
        self._finish()
        return written

    def _fresh_transform(self) -> Transform:
        settings = self._settings
        return Transform(
            self.statistics, settings.dtype, self.valid if settings.standardise else None
        )

    def _measure(self) -> None:
        content = self._record.content
        done = int(content.get("measured", 0))
        if done:
            self.statistics = Moments(**content["statistics"])
            self.valid = ValidRange(**content["valid"])
            if content.get("extremes"):
                extremes, valid = content["extremes"]
                self._extremes = Moments(**extremes), ValidRange(**valid)
        else:
            self.valid = self._find_valid_range()
            self.statistics = Moments()
        saved = time.monotonic()
        with self._report("measure", len(self.blocks), done) as update:
            for i, block in enumerate(self.blocks[done:], start=done + 1):
                self.statistics += moments(self._read(block), self.valid)
                update(i)
                if i == len(self.blocks) or time.monotonic() - saved > _RECORD_SECONDS:
                    self._record.update(
                        measured=i, statistics=asdict(self.statistics), valid=asdict(self.valid)
                    )
                    saved = time.monotonic()
        if not self.statistics.extremes_are_faults:
            self._extremes = self.statistics, self.valid
            extremes = [asdict(self.statistics), asdict(self.valid)]
            self._record.update(measured=0, extremes=extremes)  # once more, and now they count
            self._measure()
            return
        try:
            self._check_statistics()
        except DataError:
            self._record.clear()  # the same input would fail again: there is nothing to resume
            raise

    def _find_valid_range(self) -> ValidRange:
        """Return which values count, judged by planes from all over the region."""
        (z, end), y, x = self.region
        count = min(_SAMPLED_PLANES, end - z)
        parts = []
        for plane in np.linspace(z, end - 1, count).round().astype(int).tolist():
            part = self._source.read((slice(plane, plane + 1), slice(*y), slice(*x))).ravel()
            parts.append(part[:: max(part.size * count // _SAMPLED_VOXELS, 1)])
        found = find_valid_range(np.concatenate(parts), self._settings.no_data)
        return found.without_extremes() if self._extremes else found

    def _check_statistics(self) -> None:
        name, std = self._source.name, self.statistics.std
        if not self.statistics.count:
            raise DataError(f"{name}: none of its {self.statistics.non_finite} voxels is finite")
        if not math.isfinite(std):
            raise DataError(f"{name}: its values are too large to standardise (std is {std})")
        lost = lost_digits(self._source.dtype, self.statistics.mean, std)
        if lost:
            raise DataError(f"{name}: {lost}")
        if self._settings.standardise and std == 0:
            raise DataError(
                f"{name}: all voxels are {self.statistics.mean:.6g}, nothing to standardise; "
                "check --roi and --dataset, or use --no-standardise"
            )

    def _layout(self) -> Layout:
        size, statistics = size_of(self.region), self.statistics
        path, dataset, plane = self._source.origin
        attributes: dict[str, Any] = {
            "mean": statistics.mean,
            "std": statistics.std,
            STANDARDISED: self._settings.standardise,
            "non_finite": statistics.non_finite,
            EXTREME: statistics.extreme,
            "without_data": statistics.without_data,
            "source": self._source.name,
            SOURCE_PATH: os.path.realpath(path),
            SOURCE_DATASET: dataset,
            SOURCE_PLANE: plane,
            "roi": np.array(self.region, np.int64),
            "axis_order": "Z,Y,X",
            PREPARED_FROM: self._fingerprint,
        }
        if self._source.units is not None:
            key = "units_before" if self._settings.standardise else "units"
            attributes[key] = self._source.units
        return Layout(
            shape=size,
            chunks=chunk_shape(size),
            dtype=np.dtype(self._settings.dtype),
            voxel_size_um=self.voxel_size_um,
            title=self.title,
            attributes=attributes,
        )

    def _write(self, part: Part) -> int:
        assert self._transform is not None
        done = self._record.content.get("written")
        if done is None or not part.reopen():
            done = 0
            part.create()
            self._transform = self._fresh_transform()
            self._record.update(written=0, **self._transform.state())
        if done:
            logger.info("%s: resuming after slab %d of %d", self._output, done, len(self.blocks))
        (z, _), (y, _), _ = self.region
        with self._report("write", len(self.blocks), done) as update:
            for i, block in enumerate(self.blocks[done:], start=done + 1):
                values = self._transform.apply(self._read(block))
                part.write((block.z[0] - z, block.y[0] - y), values)
                self._record.update(written=i, **self._transform.state())
                update(i)
        return len(self.blocks) - done

    def _read(self, block: Block) -> NDArray[Any]:
        return self._source.read((slice(*block.z), slice(*block.y), slice(*self.region[2])))

    def _check_unchanged(self) -> None:
        if fingerprint(self._source, self._settings) != self._fingerprint:
            self._record.clear()
            part_path(self._output).unlink(missing_ok=True)
            raise DataError(
                f"{self._source.name} changed while it was being read; run again when it is "
                "complete"
            )

    def _finish(self) -> None:
        """Give the part its final name, or repack it compressed under that name."""
        part = part_path(self._output)
        if self._settings.compression == "none":
            # Not with `replacing`, which would remove the part if the rename fails.
            with disk_errors(self._output):
                part.replace(self._output)
            return
        layout = self._layout()
        with (
            replacing(self._output) as temporary,
            writing_hdf5(temporary) as (handle, check),
            h5py.File(part, "r") as uncompressed,
        ):
            source = uncompressed[DATASET]
            target = layout.declare(handle, self._settings.compression)
            chunks = list(target.iter_chunks())
            with self._report("compress", len(chunks), 0) as update:
                for i, window in enumerate(chunks, start=1):
                    target[window] = source[window]
                    check()
                    update(i)
        part.unlink()
