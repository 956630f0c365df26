"""TIFF readers: multi-page files (BigTIFF, ImageJ, OME), stacks of single pages, metadata."""

from __future__ import annotations

import contextlib
import itertools
import logging
import lzma
import math
import os
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from cyclegan.data.blocks import Size, Window
from cyclegan.data.voxel_size import VoxelSize, as_voxel_size, micrometres
from cyclegan.errors import DataError
from cyclegan.numbers import ceil_div
from cyclegan.prepare.arrays import RawSource
from cyclegan.prepare.source import Source, check_real

_BROKEN = (
    tifffile.TiffFileError,
    *(OSError, ValueError, IndexError, KeyError, TypeError, RuntimeError, EOFError),
    *(struct.error, zlib.error, lzma.LZMAError, AttributeError, ArithmeticError, MemoryError),
)
"""Errors that tifffile and the decompressors raise for damaged files."""
_SHOWN = 4
_LARGE, _HIGHEST_COMPRESSION = 1 << 30, 10_000
"""A page of more bytes than the first must be stored in one byte for so many or fewer."""
_NO_PLANE = 1 | 4
"""Bits of NewSubfileType: a smaller copy of another page, and a mask."""


class _TiffPages(Source):
    """A file of several pages; those in `pages` are one Z plane each."""

    def __init__(self, path: Path, tiff: tifffile.TiffFile, pages: Sequence[int]) -> None:
        self.name, self.files = str(path), (path,)
        height, width = tiff.pages.get(pages[0]).shape
        self.shape, self.grain = (len(pages), height, width), (1, height)
        self.dtype = _dtype(tiff, tiff.pages.get(pages[0]))
        self._path, self._tiff, self._pages = path, tiff, pages

    def read(self, window: Window) -> NDArray[Any]:
        z, y, x = window
        block = np.empty((z.stop - z.start, y.stop - y.start, x.stop - x.start), self.dtype)
        for i, number in enumerate(self._pages[z]):
            with _explained(self._path, f"page {number + 1}"):
                block[i] = _pixels(self._tiff.pages.get(number))[y, x]
        return block

    def close(self) -> None:
        self._tiff.close()


class _TiffStack(Source):
    """Files of one page each, one per Z plane."""

    def __init__(self, files: Sequence[Path]) -> None:
        first, last = files[0], files[-1]
        self.files = tuple(files)
        self.name = f"{first.parent} ({len(files)} files, {first.name} to {last.name})"
        with _open(first) as tiff:
            plane = _first_plane(first, tiff)
            self.dtype = _dtype(tiff, plane)
            self.voxel_size_um = voxel_size(tiff)
        self.shape, self.grain = (len(files), *plane.shape), (1, plane.shape[0])
        for path in files[1:]:
            with _open(path) as tiff:
                pages = plane_pages(path, tiff)
                if len(pages) > 1:
                    raise DataError(
                        f"{path}: it has {len(pages)} pages, {first.name} has one; a stack "
                        "consists of single pages"
                    )
                _check_alike(path, tiff.pages.get(pages[0]), plane, first.name)
        gaps = _gaps(files)
        self.notes = (f"{self.name}: {gaps}",) if gaps else ()

    @property
    def origin(self) -> tuple[Path, str, int]:
        first = Path(os.path.realpath(self.files[0]))
        kind = _kind(first)
        slices = sorted((p.name for p in first.parent.iterdir() if _kind(p) == kind), key=natural)
        return first.parent / kind, "", slices.index(first.name)

    def read(self, window: Window) -> NDArray[Any]:
        z, y, x = window
        block = np.empty((z.stop - z.start, y.stop - y.start, x.stop - x.start), self.dtype)
        for i, number in enumerate(range(z.start, z.stop)):
            path = self.files[number]
            with _open(path) as tiff, _explained(path, "its page"):
                block[i] = _pixels(_first_plane(path, tiff))[y, x]
        return block


class _Inverted(Source):
    """A volume whose files say that 0 is white: `top` minus the values stored."""

    def __init__(self, source: Source, top: int) -> None:
        self.name, self.files, self.shape = source.name, source.files, source.shape
        self.dtype, self.grain, self.notes = source.dtype, source.grain, source.notes
        self.voxel_size_um = source.voxel_size_um
        self._source, self._top = source, self.dtype.type(top)

    @property
    def origin(self) -> tuple[Path, str, int]:
        return self._source.origin

    def read(self, window: Window) -> NDArray[Any]:
        inverted: NDArray[Any] = self._top - self._source.read(window)
        return inverted

    def close(self) -> None:
        self._source.close()


def is_tiff(path: Path) -> bool:
    """Return True if a file begins as TIFF files do."""
    with path.open("rb") as handle:
        return handle.read(4) in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def single_page(path: Path) -> bool:
    """Return True if a TIFF file holds one image. Errors: `DataError` if it can't be read."""
    with _open(path) as tiff, _explained(path, "its description"):
        return planes_of(path, tiff, len(plane_pages(path, tiff))) == 1


def open_tiff(files: Sequence[Path]) -> Source:
    """Open one file of several pages, or a stack of files of one page each, in the order given.

    Errors: `DataError` for colour images, pages of different shapes, a truncated file, and a
    compression that can't be read.
    """
    with contextlib.ExitStack() as stack, _explained(files[0], "its description"):
        tiff = stack.enter_context(_open(files[0]))
        pages = source = _TiffStack(files) if len(files) > 1 else _one_file(files[0], tiff)
        plane = _first_plane(files[0], tiff)
        if plane.photometric == tifffile.PHOTOMETRIC.MINISWHITE:
            source = _with_black_zero(pages, plane)
        if isinstance(pages, _TiffPages):
            stack.pop_all()  # it stays open
    return source


def _with_black_zero(source: Source, plane: Any) -> Source:
    """Return the volume with 0 as black; its pages say that 0 is white (WhiteIsZero)."""
    if source.dtype.kind != "u":
        note = f"its pages say that 0 is white, which means nothing for {source.dtype}: ignored"
        source.notes = (*source.notes, f"{source.name}: {note}")
        return source
    top = 2 ** int(plane.bitspersample) - 1
    note = f"its pages say that 0 is white (WhiteIsZero), so {top} - value is read"
    source.notes = (*source.notes, f"{source.name}: {note}")
    return _Inverted(source, top)


def _one_file(path: Path, tiff: tifffile.TiffFile) -> Source:
    _check_images(path, tiff)
    pages = plane_pages(path, tiff)
    planes = planes_of(path, tiff, len(pages))
    first = tiff.pages.get(pages[0])
    for number in pages[1:]:
        where = f"{path}, page {number + 1}"
        page = tiff.pages.get(number)
        _check_alike(where, page, first, f"page {pages[0] + 1}")
        _check_complete(where, page, tiff.filehandle.size)
    source: Source = _TiffPages(path, tiff, pages)
    if planes != len(pages):
        shape: Size = (planes, first.shape[0], first.shape[1])
        offset = first.dataoffsets[0]
        source = RawSource(path, shape=shape, dtype=source.dtype, offset=offset)
    source.voxel_size_um = voxel_size(tiff)
    source.notes = tuple(f"{path}: {note}" for note in _notes(tiff, len(pages)))
    return source


def _notes(tiff: tifffile.TiffFile, planes: int) -> Iterator[str]:
    sizes = axes_of(tiff)
    if sizes.get("channels", 1) > 1:
        yield "it calls its pages channels; they are read as Z planes"
    others = len(tiff.pages) - planes
    if others:
        yield f"{others} of its {len(tiff.pages)} pages are previews or masks; they are left out"
    stated = math.prod(sizes.values())
    if tiff.is_ome and sizes and stated != planes:
        yield f"its OME-XML states {stated} planes, but it has {planes}; those are read"


def tiffs_in(folder: Path) -> list[Path]:
    """Return the TIFF files of a folder in natural order (slice2 before slice10).

    Errors: `DataError` if there are none, or if they belong to several volumes by their names.
    """
    files = [p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")]
    tiffs = sorted((p for p in files if p.suffix.lower() in (".tif", ".tiff")), key=natural)
    if not tiffs:
        raise DataError(f"{folder}: a folder with neither TIFF files nor a Zarr array")
    kinds = sorted({_kind(p) for p in tiffs})
    if len(kinds) > 1 and len(tiffs) > 1:
        shown = ", ".join(kinds[:_SHOWN]) + (", ..." if len(kinds) > _SHOWN else "")
        raise DataError(
            f"{folder}: TIFF files of {len(kinds)} kinds ({shown}); name those of one volume, "
            "e.g. folder/slice*.tif"
        )
    return tiffs


def _kind(path: Path) -> str:
    """Return the file's name without its numbers: that of all slices of a stack."""
    return re.sub(r"\d+", "#", path.name)


def natural(path: Path | str) -> list[tuple[int, int, str]]:
    """Return a sort key in which numbers in names count as numbers."""
    parts = re.findall(r"\d+|\D+", str(path))
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts]


# -- files and pages --------------------------------------------------------------------------
def _open(path: Path) -> tifffile.TiffFile:
    """Open a TIFF file; check that its chain of pages is complete and page 1 can be a plane."""
    log = _Complaints()
    with _explained(path, "the file"), contextlib.ExitStack() as stack:
        with _listening(log):
            tiff = stack.enter_context(tifffile.TiffFile(path))
            pages = len(tiff.pages)
        if log.lines or not pages:
            raise DataError(f"{path}: truncated or damaged: its list of pages breaks off")
        first = _first_plane(path, tiff)
        _check_plane(path, first)
        _check_complete(str(path), first, tiff.filehandle.size)
        stack.pop_all()  # it stays open
    return tiff


class _Complaints(logging.Handler):
    """Log handler for the warnings with which tifffile goes on with fewer pages."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.ERROR or "invalid offset" in text or "no pages" in text:
            self.lines.append(text)


@contextlib.contextmanager
def _listening(handler: logging.Handler) -> Iterator[None]:
    logger = logging.getLogger("tifffile")
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


@contextlib.contextmanager
def _explained(path: Path, what: str) -> Iterator[None]:
    try:
        with _listening(_Complaints()):  # a user need not read what tifffile says besides
            yield
    except _BROKEN as error:
        if "imagecodecs" in str(error):
            raise DataError(
                f"{path}: its compression needs a package that is not installed: "
                f"pip install imagecodecs ({error})"
            ) from error
        raise DataError(f"{path}: {what} can't be read, truncated or damaged: {error}") from error


def _first_plane(path: Path, tiff: tifffile.TiffFile) -> Any:
    return tiff.pages.get(next(_plane_pages(path, tiff), 0))


def _pixels(page: Any) -> NDArray[Any]:
    pixels: NDArray[Any] = page.asarray(maxworkers=1)
    return pixels


def _dtype(tiff: tifffile.TiffFile, page: Any) -> np.dtype[Any]:
    # The dtype as stored: a page's own dtype lacks the byte order.
    stored: np.dtype[Any] = np.dtype(page.dtype).newbyteorder(tiff.byteorder)
    return stored


def _check_plane(path: Path, page: Any) -> None:
    kind = _kind_of(page)
    if page.samplesperpixel > 1 or kind in ("RGB", "PALETTE", "YCBCR", "CFA"):
        raise DataError(
            f"{path}: a colour image ({kind}, {page.samplesperpixel} samples a pixel); "
            "convert it to grey values first"
        )
    if len(page.shape) != 2 or page.dtype is None:
        raise DataError(f"{path}: expected a plane of grey values, this has shape {page.shape}")
    check_real(str(path), np.dtype(page.dtype))


def _check_alike(where: Path | str, page: Any, first: Any, name: str) -> None:
    """Raise `DataError` unless `page` can be a plane beside the page `first`, called `name`."""
    alike = "all planes of a volume must be alike"
    if page.samplesperpixel > 1 or page.shape != first.shape:
        raise DataError(
            f"{where}: its shape is {list(page.shape)}, that of {name} is {list(first.shape)}; "
            f"{alike}"
        )
    if page.dtype != first.dtype:
        raise DataError(f"{where}: it holds {page.dtype}, {name} {first.dtype}; {alike}")
    if page.photometric != first.photometric:
        kinds = _kind_of(page), _kind_of(first)
        raise DataError(f"{where}: its kind is {kinds[0]}, that of {name} {kinds[1]}; {alike}")


def _kind_of(page: Any) -> str:
    """Return the name of the page's PhotometricInterpretation, or its number if it has no name."""
    return str(getattr(page.photometric, "name", page.photometric))


def _check_complete(where: str, page: Any, size: int) -> None:
    stored, needed = sum(page.databytecounts), _bytes_of(page)
    if stored < needed and page.compression == tifffile.COMPRESSION.NONE:
        raise DataError(f"{where}: damaged: its {needed} bytes of pixels are stored in {stored}")
    if needed > max(_LARGE, _HIGHEST_COMPRESSION * stored):
        raise DataError(f"{where}: damaged: {needed} bytes of pixels can't be stored in {stored}")
    ends = [a + n for a, n in zip(page.dataoffsets, page.databytecounts, strict=False)]
    if not ends or max(ends) > size:
        raise DataError(
            f"{where}: truncated: its pixels end at byte {max(ends, default=0)}, the file at {size}"
        )


def _bytes_of(page: Any) -> int:
    height, width = page.shape[:2]
    return int(height) * ceil_div(int(width) * int(page.bitspersample), 8)


def _gaps(files: Sequence[Path]) -> str:
    """Describe jumps of the last numbers in the files' names; empty if they are evenly spaced."""
    found = [re.findall(r"\d+", path.stem) for path in files]
    numbers = [int(digits[-1]) for digits in found if digits]
    steps = [b - a for a, b in itertools.pairwise(numbers)]
    if len(numbers) < len(files) or len(set(steps)) < 2:
        return ""
    usual = max(set(steps), key=steps.count)
    odd = [i for i, step in enumerate(steps) if step != usual]
    places = ", ".join(f"{files[i].name} and {files[i + 1].name}" for i in odd[:_SHOWN])
    return f"the numbering jumps between {places}{', ...' if len(odd) > _SHOWN else ''}"


# -- Metadata of TIFF files, as ImageJ, OME, tifffile and plain tags store it ------------------

_DPI = {50, 72, 75, 90, 96, 100, 120, 150, 200, 300, 400, 600, 1200, 2400}
"""Resolutions of screens and printers, which programs write when they don't know the real one."""


_COARSEST_DPI = 25.4
"""Lowest credible resolution: voxels of over a millimetre are not microCT; the unit is missing."""


def planes_of(path: Path, tiff: tifffile.TiffFile, pages: int) -> int:
    """Return the number of Z planes in the file, of whose pages `pages` are planes.

    Beyond 4 GB ImageJ writes one page, followed by the other planes without pages of their own.
    Errors: `DataError` if the file has several channels or frames of several planes.
    """
    _check_axes(path, tiff)
    if pages > 1:
        return pages
    stated = _whole((tiff.imagej_metadata or {}).get("images", 1)) if tiff.is_imagej else 1
    if tiff.is_shaped:
        stated = int(np.prod((tiff.shaped_metadata or ({},))[0].get("shape", [1])[:-2]))
    return max(1, stated)


def plane_pages(path: Path, tiff: tifffile.TiffFile) -> list[int]:
    """Return the numbers of the pages that are planes: neither a smaller copy nor a mask.

    Errors: `DataError` for a page whose description can't be read.
    """
    return list(_plane_pages(path, tiff)) or list(range(len(tiff.pages)))


def _plane_pages(path: Path, tiff: tifffile.TiffFile) -> Iterator[int]:
    log = _Complaints()
    for number in range(len(tiff.pages)):
        with _explained(path, f"page {number + 1}"), _listening(log):
            page: Any = tiff.pages.get(number)
        if log.lines:
            raise DataError(f"{path}: page {number + 1} is damaged: {log.lines[0]}")
        if not page.subfiletype & _NO_PLANE and page.photometric != tifffile.PHOTOMETRIC.MASK:
            yield number


def _check_images(path: Path, tiff: tifffile.TiffFile) -> None:
    """Raise `DataError` if the OME-XML says that the file holds several images."""
    images = [image for image in _ome_images(tiff) if _is_in(image, path)]
    if len(images) > 1:
        names = ", ".join(str(image.get("Name", image.get("ID"))) for image in images[:_SHOWN])
        raise DataError(
            f"{path}: it holds {len(images)} images ({names}{', ...' * (len(images) > _SHOWN)}), "
            "not one volume; save one by itself, e.g. the array tifffile.imread(path, series=0)"
        )


def _is_in(image: dict[str, Any], path: Path) -> bool:
    """Return True if the planes of an image lie in the file `path`, not in others of its set."""
    try:
        parts = image["Pixels"]["TiffData"]
        parts = parts if isinstance(parts, list) else [parts]
        names = [part["UUID"]["FileName"] for part in parts]
    except (KeyError, TypeError):
        return True
    return path.name in names


def axes_of(tiff: tifffile.TiffFile) -> dict[str, int]:
    """Return the lengths of the axes other than rows and columns, as ImageJ and OME state them."""
    if tiff.is_imagej:
        known = tiff.imagej_metadata or {}
        return {key: _whole(known.get(key, 1)) for key in ("channels", "frames", "slices")}
    if tiff.is_ome:
        pixels = _ome_pixels(tiff)
        names = {"SizeC": "channels", "SizeT": "frames", "SizeZ": "slices"}
        return {name: _whole(pixels.get(key, 1)) for key, name in names.items()}
    return {}


def _whole(value: Any) -> int:
    """Return a number of planes that a description states; 1 if it is none."""
    try:
        return max(1, int(value))
    except (TypeError, ValueError, OverflowError):
        return 1


def _check_axes(path: Path, tiff: tifffile.TiffFile) -> None:
    sizes = axes_of(tiff)
    if sum(n > 1 for n in sizes.values()) > 1:
        text = ", ".join(f"{n} {name}" for name, n in sizes.items())
        raise DataError(f"{path}: expected one grey volume, this has {text}; save one by itself")


def voxel_size(tiff: tifffile.TiffFile) -> VoxelSize | None:
    """Return the voxel size from OME-XML, ImageJ's description or the resolution tags.

    None if they say nothing credible. Plain TIFF has no third axis: its planes are assumed to be
    as far apart as its rows.
    """
    if tiff.is_ome:
        pixels = _ome_pixels(tiff)
        sizes = []
        for axis in "ZYX":
            unit = micrometres(pixels.get(f"PhysicalSize{axis}Unit", "um"))
            size = pixels.get(f"PhysicalSize{axis}")
            sizes.append(size * unit if isinstance(size, int | float) and unit else None)
        return as_voxel_size([sizes[0] or sizes[1], *sizes[1:]])
    per_y, per_x = (_per_unit(tiff, f"{axis}Resolution") for axis in "YX")
    if not per_x or not per_y:
        return None
    if tiff.is_imagej:
        known = tiff.imagej_metadata or {}
        unit = micrometres(known.get("unit", ""))
        sizes = [known.get("spacing", 1 / per_y), 1 / per_y, 1 / per_x]
        return as_voxel_size(sizes, unit) if unit else None
    tag = _first_plane(Path(tiff.filehandle.path), tiff).tags.get("ResolutionUnit")
    per_tag = {2: 25400.0, 3: 10000.0}.get(int(tag.value) if tag else 2)
    if per_tag is None:
        return None
    dpi = per_x * 25400 / per_tag
    if dpi < _COARSEST_DPI or round(dpi, 2) in _DPI:
        return None
    return as_voxel_size([1 / per_y, 1 / per_y, 1 / per_x], per_tag)


def _per_unit(tiff: tifffile.TiffFile, name: str) -> float:
    tag = _first_plane(Path(tiff.filehandle.path), tiff).tags.get(name)
    if tag is None or not isinstance(tag.value, tuple) or len(tag.value) != 2:
        return 0.0
    above, below = tag.value
    return float(above) / float(below) if below else 0.0


def _ome_pixels(tiff: tifffile.TiffFile) -> dict[str, Any]:
    """Return the attributes of the first image's `Pixels` in the OME-XML."""
    try:
        pixels: dict[str, Any] = _ome_images(tiff)[0]["Pixels"]
    except (KeyError, TypeError, IndexError):
        return {}
    return pixels


def _ome_images(tiff: tifffile.TiffFile) -> list[dict[str, Any]]:
    """Return the images that the OME-XML describes; none if there is no OME-XML."""
    try:
        found = tifffile.xml2dict(tiff.ome_metadata or "")["OME"]["Image"]
    except (KeyError, TypeError, SyntaxError):
        return []
    return found if isinstance(found, list) else [found]
