"""Encode the chunks of HDF5 datasets outside of the HDF5 library, which does one thing at a time.

HDF5 holds one lock for the whole process, also while it compresses. The functions here do what its
filters do, in any number of threads: they hold neither that lock nor Python's. The bytes of a chunk
depend on its voxels alone. Every reader of HDF5 decodes them, as chunks of the filters `FILTERS`.

**gzip** is a zlib stream, in which an encoder is free to choose its blocks. Byte-shuffled floats
are four planes of bytes. The two low ones are noise: they are stored as they are. The two high ones
have few values and hardly any repetition but runs, so they are searched for runs only. That takes a
fraction of the time of zlib's level 1 and gives slightly fewer bytes.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import struct
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import hdf5plugin
import numpy as np
from numpy.typing import NDArray

from cyclegan.errors import CycleGANError

Compression = Literal["gzip", "lz4", "none"]
COMPRESSIONS = ("gzip", "lz4", "none")
FILTERS: dict[str, dict[str, Any]] = {
    "gzip": {"compression": "gzip", "compression_opts": 1, "shuffle": True},
    # gzip has a checksum of its own.
    "lz4": {**hdf5plugin.LZ4(), "shuffle": True, "fletcher32": True},
    "none": {"fletcher32": True},
}
"""Arguments of h5py's `create_dataset`, by compression."""

Bytes = NDArray[np.uint8]
_SECOND_FILTER = 0b10
"""Filter mask of a chunk whose second filter, the compression, was left out."""
_MOST_BITS = 7.9
"""Entropy in bits per byte from which a plane is stored as it is."""
_SAMPLED = 4
"""Every 4th byte counts for that entropy."""
_STORED = 65535
"""Most bytes of a stored block in a deflate stream."""


def blocks_of(
    array: NDArray[Any], chunks: Sequence[int]
) -> Iterator[tuple[tuple[int, ...], NDArray[Any]]]:
    """Yield each block of an array that is one chunk, with its first voxel; the last are smaller.

    They are views of `array`.
    """
    starts = (range(0, length, n) for length, n in zip(array.shape, chunks, strict=True))
    for first in itertools.product(*starts):
        yield first, array[tuple(slice(f, f + n) for f, n in zip(first, chunks, strict=True))]


def encode(
    block: NDArray[np.float32], chunks: Sequence[int], compression: Compression
) -> tuple[int, bytes]:
    """Return filter mask and bytes of the chunk that holds `block`; a smaller block ends in 0."""
    if block.shape != tuple(chunks):
        whole = np.zeros(chunks, np.float32)
        whole[tuple(slice(n) for n in block.shape)] = block
        block = whole
    data = np.ascontiguousarray(block, dtype="<f4").reshape(-1).view(np.uint8)
    if compression == "none":
        return 0, data.tobytes() + _fletcher32(data)
    planes = np.ascontiguousarray(data.reshape(-1, 4).T)
    if compression == "gzip":
        packed = _deflated(planes)
        return (0, packed) if len(packed) < data.size else (_SECOND_FILTER, planes.tobytes())
    packed = _lz4(planes.reshape(-1))
    return 0, packed + _fletcher32(np.frombuffer(packed, np.uint8))


def _deflated(planes: Bytes) -> bytes:
    """Return a zlib stream of all planes, one after the other."""
    parts = [b"\x78\x01"]  # deflate with a window of 32 kB, the fastest level
    for plane in planes:
        parts += _stored(plane) if _is_noise(plane) else _searched_for_runs(plane)
    # An empty last block, and the checksum of everything.
    parts += [b"\x03\x00", struct.pack(">I", zlib.adler32(planes.data))]
    return b"".join(parts)


def _is_noise(plane: Bytes) -> bool:
    counts = np.bincount(plane[::_SAMPLED], minlength=256)
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum()) > _MOST_BITS


def _searched_for_runs(plane: Bytes) -> list[bytes]:
    deflate = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS, 9, zlib.Z_RLE)
    return [deflate.compress(plane.data), deflate.flush(zlib.Z_FULL_FLUSH)]


def _stored(plane: Bytes) -> list[bytes]:
    parts = []
    for first in range(0, plane.size, _STORED):
        block = plane[first : first + _STORED].tobytes()
        parts += [struct.pack("<BHH", 0, len(block), len(block) ^ 0xFFFF), block]
    return parts


def _lz4(data: Bytes) -> bytes:
    """Return `data` in the format of the HDF5 filter 32004, as one block.

    https://github.com/nexusformat/HDF5-External-Filter-Plugins/tree/master/LZ4
    """
    library = _lz4_library()
    room = ctypes.create_string_buffer(library.LZ4_compressBound(data.size))
    size = library.LZ4_compress_default(data.ctypes.data, room, data.size, len(room))
    packed = room.raw[:size] if 0 < size < data.size else data.tobytes()
    return struct.pack(">QII", data.size, data.size, len(packed)) + packed


@functools.cache
def _lz4_library() -> ctypes.CDLL:
    """Return the LZ4 library inside of the filter that hdf5plugin brings.

    Errors: `CycleGANError` if this build of hdf5plugin has none.
    """
    suffix = {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")
    path = Path(hdf5plugin.PLUGIN_PATH) / f"libh5lz4{suffix}"
    try:
        library = ctypes.CDLL(str(path))
        library.LZ4_compress_default.argtypes = [
            *(ctypes.c_void_p, ctypes.c_char_p),
            *(ctypes.c_int, ctypes.c_int),
        ]
    except (OSError, AttributeError) as error:
        raise CycleGANError(
            f"--compression lz4: {path} has no LZ4 ({error}); use --compression gzip"
        ) from error
    return library


def _fletcher32(data: Bytes) -> bytes:
    """Return the checksum of HDF5's filter: sums of big-endian words of 16 bits, modulo 65535."""
    if data.size % 2:
        data = np.append(data, np.uint8(0))
    words = data.view(">u2")
    first = second = 0
    for start in range(0, words.size, _STORED):
        part = words[start : start + _STORED].astype(np.uint64)
        weights = np.arange(part.size, 0, -1, dtype=np.uint64)
        second += part.size * first + int(part @ weights)
        first += int(part.sum())
    return struct.pack("<HH", _folded(first), _folded(second))


def _folded(total: int) -> int:
    """Return a sum modulo 65535 as HDF5 does: only nothing at all is 0."""
    return (total - 1) % 65535 + 1 if total else 0
