"""TIFF in its many forms: the same voxels, the voxel size, and one line on a broken file."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from cyclegan.errors import DataError
from cyclegan.prepare import group_inputs, open_source

SHAPE = (12, 9, 14)
DTYPES = ["u1", "<u2", ">u2", "<i2", "<f2", "<f4", ">f4", "<f8"]


def volume(dtype: str = "<u2") -> np.ndarray:
    return np.random.default_rng(0).integers(0, 120, SHAPE).astype(np.dtype(dtype))


def whole(path: Path | list[Path]) -> np.ndarray:
    source = open_source(path if isinstance(path, list) else [path])
    z, y, x = source.shape
    window = (slice(1, z), slice(2, y), slice(3, x))
    found = source.read((slice(0, z), slice(0, y), slice(0, x)))
    np.testing.assert_array_equal(source.read(window), found[window])
    source.close()
    return found


def stack(folder: Path, array: np.ndarray, name: str = "slice{}.tif", **options: Any) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / name.format(i) for i in range(len(array))]
    for path, plane in zip(paths, array, strict=True):
        tifffile.imwrite(path, plane, **options)
    return paths


@pytest.mark.parametrize("options", [{}, {"bigtiff": True}, {"byteorder": ">"}], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_multi_page_files_are_read_in_any_dtype_and_byte_order(
    tmp_path: Path, dtype: str, options: dict[str, Any]
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", volume(dtype), photometric="minisblack", **options)
    np.testing.assert_array_equal(whole(tmp_path / "a.tif"), volume(dtype))


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "zlib"},
        {"rowsperstrip": 4},
        {"tile": (16, 16)},
        {"metadata": None},
    ],
    ids=str,
)
def test_compressed_striped_and_tiled_files_are_read(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", volume(), photometric="minisblack", **options)
    np.testing.assert_array_equal(whole(tmp_path / "a.tif"), volume())


def test_a_compression_that_can_not_be_read_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, volume(), compression="zlib", photometric="minisblack")
    with tifffile.TiffFile(path, mode="r+") as opened:
        for page in opened.pages:
            page.tags["Compression"].overwrite(5)
    said = "can't be read" if importlib.util.find_spec("imagecodecs") else "pip install imagecodecs"
    with pytest.raises(DataError, match=rf"a\.tif.*{said}"):
        whole(path)


@pytest.mark.parametrize("axes", ["ZYX", "TYX"])
def test_imagej_stacks_are_read_with_their_spacing(tmp_path: Path, axes: str) -> None:
    metadata = {"spacing": 2.0, "unit": "um", "axes": axes}
    options: dict[str, Any] = {"imagej": True, "resolution": (2.0, 2.0), "metadata": metadata}
    tifffile.imwrite(tmp_path / "a.tif", volume(), **options)
    np.testing.assert_array_equal(whole(tmp_path / "a.tif"), volume())
    assert open_source([tmp_path / "a.tif"]).voxel_size_um == pytest.approx((2.0, 0.5, 0.5))


def test_pages_called_channels_are_planes_and_it_is_said(tmp_path: Path) -> None:
    """tifffile writes a volume for ImageJ in this way if it does not know the axes."""
    tifffile.imwrite(tmp_path / "a.tif", volume(), imagej=True)
    np.testing.assert_array_equal(whole(tmp_path / "a.tif"), volume())
    assert "read as Z planes" in open_source([tmp_path / "a.tif"]).notes[0]


def test_one_page_with_its_planes_behind_it_is_read_as_imagej_writes_beyond_4_gb(
    tmp_path: Path,
) -> None:
    options: dict[str, Any] = {"imagej": True, "truncate": True, "metadata": {"axes": "ZYX"}}
    with tifffile.TiffWriter(tmp_path / "a.tif", imagej=True) as writer:
        del options["imagej"]
        writer.write(volume(), **options)
    with tifffile.TiffFile(tmp_path / "a.tif") as opened:
        assert len(opened.pages) == 1
    np.testing.assert_array_equal(whole(tmp_path / "a.tif"), volume())
    content = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(content[:-500])
    with pytest.raises(DataError, match=r"a\.tif: truncated"):
        open_source([tmp_path / "a.tif"])


def test_channels_and_frames_of_planes_are_refused(tmp_path: Path) -> None:
    both = np.stack([volume(), volume()])
    for axes in ("CZYX", "TZYX"):
        array = both if axes[0] == "T" else both.swapaxes(0, 1)
        metadata = {"axes": axes if axes[0] == "T" else "ZCYX"}
        path = tmp_path / f"{axes}.tif"
        tifffile.imwrite(path, array, imagej=True, metadata=metadata)
        with pytest.raises(DataError, match="expected one grey volume"):
            open_source([path])
    tifffile.imwrite(tmp_path / "a.ome.tif", both, ome=True, metadata={"axes": "CZYX"})
    with pytest.raises(DataError, match="2 channels, 1 frames, 12 slices"):
        open_source([tmp_path / "a.ome.tif"])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}, (0.5, 0.5, 0.5)),
        ({"resolution": (50800, 25400), "resolutionunit": "INCH"}, (1.0, 1.0, 0.5)),
        ({"resolution": (72, 72), "resolutionunit": "INCH"}, None),
        ({"resolution": (300, 300), "resolutionunit": "INCH"}, None),
        ({"resolution": (1, 1), "resolutionunit": "INCH"}, None),
        ({"resolution": (1.25, 1.25), "resolutionunit": "NONE"}, None),
        ({}, None),
        ({"ome": True, "metadata": {"axes": "ZYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5,
          "PhysicalSizeZ": 2.0, "PhysicalSizeZUnit": "µm", "PhysicalSizeXUnit": "µm",
          "PhysicalSizeYUnit": "µm"}}, (2.0, 0.5, 0.5)),
        ({"imagej": True, "resolution": (2.0, 2.0), "metadata": {"unit": "pixel"}}, None),
        ({"imagej": True, "resolution": (2e3, 2e3), "metadata": {"unit": "mm"}}, (0.5, 0.5, 0.5)),
    ],
)  # fmt: skip
def test_the_voxel_size_is_read_where_it_is_credible(
    tmp_path: Path, options: dict[str, Any], expected: tuple[float, ...] | None
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", volume(), photometric="minisblack", **options)
    source = open_source([tmp_path / "a.tif"])
    assert source.voxel_size_um == (expected and pytest.approx(expected))
    source.close()


# -- what a page means ------------------------------------------------------------------------


def test_two_images_of_an_ome_tiff_are_not_one_volume(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as writer:
        for name in ("scan", "dark"):
            writer.write(volume(), photometric="minisblack", metadata={"axes": "ZYX", "Name": name})
    with pytest.raises(DataError, match=r"a\.ome\.tif: it holds 2 images \(scan, dark\)"):
        open_source([tmp_path / "a.ome.tif"])


def test_planes_that_the_ome_xml_promises_are_missed(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    tifffile.imwrite(path, volume(), photometric="minisblack", metadata={"axes": "ZYX"})
    content = path.read_bytes()
    path.write_bytes(content.replace(b'SizeZ="12"', b'SizeZ="24"'))
    source = open_source([path])
    assert source.shape == SHAPE
    assert "its OME-XML states 24 planes, but it has 12" in " ".join(source.notes)


@pytest.mark.parametrize("kind", [1, 4], ids=["preview", "mask"])
@pytest.mark.parametrize("place", [0, 5, SHAPE[0]])
@pytest.mark.parametrize("smaller", [True, False])
def test_previews_and_masks_are_no_planes(
    tmp_path: Path, kind: int, place: int, smaller: bool
) -> None:
    other = volume()[0, :5, :5] if smaller else volume()[0]
    other = other > 60 if kind == 4 else other
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for i, plane in enumerate([*volume()[:place], other, *volume()[place:]]):
            writer.write(plane, metadata=None, subfiletype=kind if i == place else 0)
    np.testing.assert_array_equal(whole(tmp_path / "a.tif"), volume())
    (note,) = open_source([tmp_path / "a.tif"]).notes
    assert "1 of its 13 pages are previews or masks; they are left out" in note


def test_a_slice_with_a_preview_is_one_plane_of_a_stack(tmp_path: Path) -> None:
    paths = [tmp_path / f"s{i}.tif" for i in range(SHAPE[0])]
    for path, plane in zip(paths, volume(), strict=True):
        with tifffile.TiffWriter(path) as writer:
            writer.write(plane[::2, ::2], metadata=None, subfiletype=1)
            writer.write(plane, metadata=None)
    (group,) = group_inputs(paths)
    np.testing.assert_array_equal(whole(group), volume())


@pytest.mark.parametrize("form", ["pages", "imagej", "raw", "stack"])
@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2"])
def test_white_is_zero_is_read_with_zero_as_black(tmp_path: Path, form: str, dtype: str) -> None:
    top = np.iinfo(dtype).max
    path = tmp_path / "a.tif"
    if form == "stack":
        path = tmp_path / "scan"
        stack(path, top - volume(dtype), photometric="miniswhite")
    elif form == "raw":  # one page; the other planes follow without pages of their own
        with tifffile.TiffWriter(path, byteorder=">" if dtype == ">u2" else "<") as writer:
            writer.write(top - volume(dtype), photometric="miniswhite", truncate=True)
    else:
        tifffile.imwrite(
            path, top - volume(dtype), photometric="miniswhite", imagej=form == "imagej"
        )
    np.testing.assert_array_equal(whole(path), volume(dtype))
    assert f"so {top} - value is read" in " ".join(open_source([path]).notes)


def test_a_page_with_white_as_zero_among_others_is_named(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for kind in ("minisblack", "miniswhite"):
            writer.write(volume()[0], metadata=None, photometric=kind)
    with pytest.raises(DataError, match="page 2: its kind is MINISWHITE, that of page 1 MINISB"):
        open_source([tmp_path / "a.tif"])


# -- stacks -----------------------------------------------------------------------------------


def test_a_folder_is_a_stack_in_natural_order(tmp_path: Path) -> None:
    stack(tmp_path / "scan", volume())
    (tmp_path / "scan" / "log.txt").write_text("a log file is no slice")
    assert sorted(p.name for p in (tmp_path / "scan").iterdir())[2] == "slice1.tif"
    np.testing.assert_array_equal(whole(tmp_path / "scan"), volume())


def test_single_pages_given_by_name_are_one_volume_in_natural_order(tmp_path: Path) -> None:
    paths = sorted(stack(tmp_path / "scan", volume(">f4")))
    (group,) = group_inputs(paths)
    np.testing.assert_array_equal(whole(group), volume(">f4"))
    assert group_inputs(paths, each=True) == [[path] for path in paths]


def test_multi_page_files_given_by_name_are_volumes_by_themselves(tmp_path: Path) -> None:
    paths = [tmp_path / "a.tif", tmp_path / "b.tif"]
    for path in paths:
        tifffile.imwrite(path, volume(), photometric="minisblack")
    assert group_inputs(paths) == [[paths[0]], [paths[1]]]


def test_gaps_in_the_numbering_are_said(tmp_path: Path) -> None:
    paths = stack(tmp_path / "scan", volume())
    assert not open_source([tmp_path / "scan"]).notes
    paths[5].unlink()
    (note,) = open_source([tmp_path / "scan"]).notes
    assert "the numbering jumps between slice4.tif and slice6.tif" in note


def test_a_folder_of_two_series_is_refused(tmp_path: Path) -> None:
    stack(tmp_path / "scan", volume())
    stack(tmp_path / "scan", volume(), name="dark{}.tif")
    with pytest.raises(DataError, match=r"2 kinds \(dark#\.tif, slice#\.tif\)"):
        open_source([tmp_path / "scan"])


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        (np.zeros((9, 15), "u2"), r"slice7\.tif: its shape is \[9, 15\]"),
        (np.zeros((9, 14), "f4"), r"slice7\.tif: it holds float32"),
        (np.zeros((3, 9, 14), "u2"), r"slice7\.tif: it has 3 pages"),
        (np.zeros((9, 14, 3), "u1"), r"slice7\.tif: a colour image"),
    ],
)
def test_an_odd_file_in_a_stack_is_named(tmp_path: Path, odd: np.ndarray, said: str) -> None:
    paths = stack(tmp_path / "scan", volume())
    kind = "rgb" if odd.shape[-1] == 3 else "minisblack"
    tifffile.imwrite(paths[7], odd, photometric=kind)
    with pytest.raises(DataError, match=said):
        open_source([tmp_path / "scan"])


def test_an_odd_page_is_named(tmp_path: Path) -> None:
    for name, odd in (("shape", volume()[0, :5]), ("dtype", volume("f4")[0])):
        with tifffile.TiffWriter(tmp_path / f"{name}.tif") as writer:
            for plane in (*volume()[:3], odd):
                writer.write(plane, metadata=None)
        with pytest.raises(DataError, match=rf"{name}\.tif, page 4: it"):
            open_source([tmp_path / f"{name}.tif"])


@pytest.mark.parametrize("photometric", ["rgb", "palette"])
def test_colour_is_refused(tmp_path: Path, photometric: str) -> None:
    path = tmp_path / "a.tif"
    if photometric == "rgb":
        tifffile.imwrite(path, np.zeros((4, 9, 14, 3), "u1"), photometric="rgb")
    else:
        colormap = np.zeros((3, 256), "u2")
        tifffile.imwrite(path, np.zeros((9, 14), "u1"), photometric="palette", colormap=colormap)
    with pytest.raises(DataError, match=r"a\.tif: a colour image"):
        open_source([path])


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"bigtiff": True}], ids=str)
@pytest.mark.parametrize("share", [0.02, 0.1, 0.3, 0.6, 0.9, 0.99])
def test_a_truncated_file_is_refused_and_never_read_as_fewer_pages(
    tmp_path: Path, options: dict[str, Any], share: float
) -> None:
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path, bigtiff=bool(options.get("bigtiff"))) as writer:
        for plane in volume():
            writer.write(plane, metadata=None, compression=options.get("compression"))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"a\.tif"):
        whole(path)


def test_pages_damaged_inside_are_named_when_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, volume(), photometric="minisblack", compression="zlib")
    with tifffile.TiffFile(path) as opened:
        start, length = opened.pages[4].dataoffsets[0], opened.pages[4].databytecounts[0]
    content = bytearray(path.read_bytes())
    content[start : start + length] = bytes(length)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.tif: page 5 can't be read"):
        whole(path)
