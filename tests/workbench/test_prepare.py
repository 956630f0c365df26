"""`cyclegan prepare` as a user sees it: options, messages, files; one clear line per mistake."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
import zarr

from cyclegan.data import DatasetSpec, open_dataset
from cyclegan.data.fingerprint import file_hashes
from cyclegan.prepare import streaming
from viz.console import Console
from workbench import cli, data
from workbench.data import PrepareRequest, prepare_volumes
from workbench.session import run

SHAPE = (20, 24, 30)


@pytest.fixture
def call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Any:
    """Run the command in this process: (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)

    def run_it(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["cyclegan", "prepare", *arguments])
        code = run(cli.app)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_it


@pytest.fixture(autouse=True)
def unseen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable drawing, which takes longer than all the rest, except in tests of the picture."""
    if "picture" not in request.node.name:
        monkeypatch.setattr(data, "write_check_picture", lambda *arguments: None)


def volume(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).integers(20_000, 30_000, shape).astype(np.uint16)


def stored(path: Path | str) -> tuple[np.ndarray, dict[str, Any]]:
    with h5py.File(path) as handle:
        return handle["data"][:], dict(handle["data"].attrs)


def written(name: str) -> dict[str, str]:
    """Return the entry of a whole volume in the dataset JSON beside it."""
    path = Path(name)
    return {"path": path.name, "dset": "data", "hash": file_hashes([path])[name]}


def standardised(array: np.ndarray) -> np.ndarray:
    return (array - array.mean()) / array.std()


def slices(folder: Path, array: np.ndarray) -> list[str]:
    folder.mkdir()
    for i, plane in enumerate(array):
        tifffile.imwrite(folder / f"s{i}.tif", plane)
    return sorted(str(p) for p in folder.iterdir())


def test_a_volume_becomes_a_file_a_picture_and_a_dataset(call: Any, tmp_path: Path) -> None:
    np.save("a.npy", volume())
    arguments = ("a.npy", "--output", "out/a.h5", "--roi", "2:,:20,3:30", "--voxel-size", "0.8")
    code, out, err = call(*arguments, "--dtype", "float32")
    assert code == 0
    found, attributes = stored("out/a.h5")
    np.testing.assert_allclose(found, standardised(volume()[2:, :20, 3:30]), atol=2e-6)
    assert attributes["voxel_size_um"].tolist() == [0.8, 0.8, 0.8]
    assert "18 x 20 x 27" in out and "0.8 um" in out
    for name in ("a.h5", "a.png", "a.json"):
        assert f"written  out/{name}" in out
    assert "planes 15:18 of 18 are held out for validation" in err
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"a.h5", "a.png", "a.json"}
    spec = DatasetSpec.load(tmp_path / "out" / "a.json")
    assert [e.roi[0] for e in (*spec.train, *spec.validate)] == [(0, 15), (15, 18)]
    assert open_dataset(spec.train[0].path, spec.train[0].dset).shape == (18, 20, 27)


def test_json_is_one_document_that_says_everything(call: Any) -> None:
    np.save("a.npy", volume())
    code, out, _ = call("a.npy", "--output", "a.h5", "--validate", "5:9", "--json")
    assert code == 0
    data = json.loads(out)
    (one,) = data["volumes"]
    assert (data["dataset"], one["output"], one["picture"]) == ("a.json", "a.h5", "a.png")
    assert one["shape"] == list(SHAPE) and one["dtype"] == "float16"
    assert one["mean"] == pytest.approx(volume().mean()) and one["std"] > 0
    assert one["percentiles"]["50"] == pytest.approx(np.median(volume()), rel=0.01)
    assert one["train"] == [[0, 5], [9, 20]] and one["validate"] == [[5, 9]]
    assert one["voxel_size_um"] is None and one["non_finite"] == 0


def test_a_shell_glob_of_slices_is_one_volume_as_its_folder_is(call: Any, tmp_path: Path) -> None:
    paths = slices(tmp_path / "scan", volume())
    assert call(*paths, "--output", "glob.h5", "--quiet")[0] == 0
    assert call("scan", "--output", "folder.h5", "--quiet")[0] == 0
    np.testing.assert_array_equal(stored("glob.h5")[0], stored("folder.h5")[0])
    np.testing.assert_allclose(stored("glob.h5")[0], standardised(volume()), atol=2e-3)


def test_several_volumes_go_into_a_folder_with_one_dataset(call: Any, tmp_path: Path) -> None:
    for i in range(3):
        np.save(f"v{i}.npy", volume(i))
    inputs = ("v0.npy", "v1.npy", "--validate-file", "v2.npy")
    assert call(*inputs, "--output", "all")[0] == 0
    for i in range(3):
        found, attributes = stored(f"all/v{i}.h5")
        np.testing.assert_allclose(found, standardised(volume(i)), atol=2e-3)
        assert attributes["mean"] == pytest.approx(volume(i).mean())
    parts = [written(f"all/v{i}.h5") for i in range(3)]
    assert json.loads(Path("all/dataset.json").read_text()) == {
        "train": parts[:2],
        "validate": parts[2:],
    }
    assert call("v0.npy", "v1.npy", "--output", "split")[0] == 0
    spec = DatasetSpec.load(tmp_path / "split" / "dataset.json")
    assert [e.path.name for e in spec.validate] == ["v0.h5", "v1.h5"]


def test_a_separate_file_is_for_validation(call: Any) -> None:
    np.save("a.npy", volume())
    np.save("b.npy", volume(1))
    assert call("a.npy", "--output", "a.h5", "--validate-file", "b.npy")[0] == 0
    np.testing.assert_allclose(stored("a_validate.h5")[0], standardised(volume(1)), atol=2e-3)
    assert json.loads(Path("a.json").read_text()) == {
        "train": [written("a.h5")],
        "validate": [written("a_validate.h5")],
    }


def test_what_it_wrote_can_be_prepared_again_and_keeps_its_voxel_size(call: Any) -> None:
    np.save("a.npy", volume())
    assert call("a.npy", "--output", "a.h5", "--voxel-size", "1.6,0.8,0.8")[0] == 0
    assert call("a.h5", "--output", "b.h5", "--roi", "5:15,:,:", "--no-standardise")[0] == 0
    np.testing.assert_array_equal(stored("b.h5")[0], stored("a.h5")[0][5:15])
    assert stored("b.h5")[1]["voxel_size_um"].tolist() == [1.6, 0.8, 0.8]


def test_replaced_and_clipped_voxels_are_said(call: Any) -> None:
    array = volume().astype(np.float32)
    array[0, 0, 0] = np.nan
    array[0, 0, 1] = 1e6
    np.save("a.npy", array)
    code, _, err = call("a.npy", "--output", "a.h5", "--no-standardise")
    assert code == 0
    assert "are NaN or infinite; they are replaced by the mean" in err
    assert "extremely" not in err
    assert "1 voxels exceed the range of float16" in err
    assert np.isfinite(stored("a.h5")[0]).all()
    assert (
        call("a.npy", "--output", "b.h5", "--no-standardise", "--dtype", "float32")[2].count(
            "beyond"
        )
        == 0
    )


def test_the_picture_is_written_beside_the_file(call: Any) -> None:
    np.save("a.npy", volume())
    assert call("a.npy", "--output", "a.h5")[0] == 0
    assert Path("a.png").read_bytes().startswith(b"\x89PNG")


# -- mistakes ---------------------------------------------------------------------------------


def one_line(err: str) -> str:
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in err
    assert err.splitlines()[-1] == lines[0]
    return lines[0]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("gone.npy",), 1, "gone.npy: no such file"),
        (("a.txt",), 1, "a.txt: neither HDF5"),
        (("empty",), 1, "empty: a folder with neither TIFF"),
        (("a.npy", "a.npy"), 2, "named twice"),
        (("a.npy", "b.npy"), 2, "2 volumes need a folder"),
        (("a.npy", "--output", "x"), 2, "name an HDF5 file"),
        (("a.npy", "--roi", "1:2"), 2, "--roi 1:2: give three ranges"),
        (("a.npy", "--roi", "0:21,:,:"), 1, "a.npy: --roi 0:21 along Z"),
        (("a.npy", "--dtype", "int8"), 2, "--dtype int8"),
        (("a.npy", "--compression", "gzp"), 2, "did you mean 'gzip'?"),
        (("a.npy", "--voxel-size", "big"), 2, "--voxel-size big"),
        (("a.npy", "--validate", "1-2"), 2, "--validate: '1-2' is not a range"),
        (("a.npy", "--validate", "15:21"), 2, "ends beyond the 20 planes"),
        (("a.npy", "--validate", ":"), 2, "leaves none of the 20 planes"),
        (("a.npy", "--validate", "1:2", "--validate-file", "b.npy"), 2, "exclude each other"),
        (("a.npy", "b.npy", "--output", "x", "--validate", "1:2"), 2, "is for one volume"),
        (("a.npy", "--validate-file", "gone.npy"), 1, "gone.npy: no such file"),
        (("a.npy", "--channel", "-1"), 2, "--channel"),
        (("two.h5",), 1, "name one with --dataset: u, v"),
        (("two.h5", "--dataset", "w"), 1, "no dataset 'w'; datasets found: u, v"),
        (("channels.npy",), 1, "2 channels; choose one with --channel"),
        (("colour.tif",), 1, "colour.tif: a colour image"),
        (("cut.tif",), 1, "cut.tif"),
        (("constant.npy",), 1, "all voxels are 3"),
        (("flat.npy",), 1, "one plane along Z"),
        (("a.npy", "--output", "kept.h5"), 1, "kept.h5 already exists"),
        (("a.npy", "--output", "pictured.h5"), 1, "pictured.png already exists"),
        (("a.npy", "--output", "listed.h5"), 1, "listed.json already exists"),
        (
            ("two.h5", "--dataset", "u", "--output", "two.h5", "--overwrite"),
            1,
            "would replace this input",
        ),
        (("a.npy", "--output", "a.txt/a.h5"), 1, "a.txt is a file, not a folder"),
    ],
)
def test_every_mistake_is_one_line_and_writes_nothing(
    call: Any, tmp_path: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    for name, array in (("a", volume()), ("b", volume(1)), ("flat", volume()[:1])):
        np.save(f"{name}.npy", array)
    np.save("channels.npy", np.stack([volume(), volume()]))
    np.save("constant.npy", np.full(SHAPE, 3))
    for name in ("a.txt", "kept.h5", "pictured.png", "listed.json"):
        Path(name).write_text("mine")
    Path("empty").mkdir()
    with h5py.File("two.h5", "w") as handle:
        handle["u"], handle["v"] = volume(), volume()
    tifffile.imwrite("colour.tif", np.zeros((24, 30, 3), np.uint8), photometric="rgb")
    tifffile.imwrite("cut.tif", volume(), photometric="minisblack")
    Path("cut.tif").write_bytes(Path("cut.tif").read_bytes()[:9000])
    before = {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")}
    output = () if "--output" in arguments else ("--output", "out.h5")
    found, out, err = call(*arguments, *output)
    assert said in one_line(err)
    assert (found, out) == (code, "")
    after = {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")}
    assert after == before


def test_overwrite_replaces(call: Any) -> None:
    np.save("a.npy", volume())
    for name in ("a.h5", "a.png", "a.json"):
        Path(name).write_text("old")
    assert call("a.npy", "--output", "a.h5", "--overwrite")[0] == 0
    assert stored("a.h5")[0].shape == SHAPE
    DatasetSpec.load(Path("a.json"))


def test_a_failed_preparation_leaves_what_was_there(call: Any) -> None:
    np.save("a.npy", np.full(SHAPE, np.nan))
    Path("a.h5").write_text("old")
    assert call("a.npy", "--output", "a.h5", "--overwrite")[0] == 1
    assert Path("a.h5").read_text() == "old"


def test_killed_between_two_volumes_the_same_command_goes_on(call: Any, tmp_path: Path) -> None:
    """A real process is killed after the first volume, which is not made again."""
    shape = (200, 200, 200)
    for i in range(2):
        np.save(f"v{i}.npy", volume(i, shape))
    command = [
        "-m",
        "workbench.cli",
        "prepare",
        "v0.npy",
        "v1.npy",
        "--output",
        str(tmp_path / "o"),
    ]
    command[3:5] = [str(tmp_path / "v0.npy"), str(tmp_path / "v1.npy")]
    root = Path(cli.__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, *command], cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "o" / "v0.h5").exists() and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    made = (tmp_path / "o" / "v0.h5").stat().st_mtime_ns
    assert not (tmp_path / "o" / "dataset.json").exists()
    code, out, _ = call(*command[3:], "--json")
    assert code == 0
    first, second = json.loads(out)["volumes"]
    assert first["slabs_written"] == 0 and second["slabs_written"] > 0
    assert (tmp_path / "o" / "v0.h5").stat().st_mtime_ns == made
    for i in range(2):
        expected = standardised(volume(i, shape))
        np.testing.assert_allclose(stored(f"o/v{i}.h5")[0], expected, atol=2e-3)
    left = {p.name for p in (tmp_path / "o").iterdir()} - {"v0.png", "v1.png"}
    assert left == {"v0.h5", "v1.h5", "dataset.json"}


def test_a_hole_in_the_input_is_refused_until_the_fill_value_is_asked_for(call: Any) -> None:
    with h5py.File("a.h5", "w") as handle:
        made = handle.create_dataset("data", SHAPE, "u2", chunks=(5, 24, 30))
        made[:10] = volume()[:10]
    arguments = ("a.h5", "--output", "out.h5")
    code, _, err = call(*arguments)
    assert code == 1 and "2 of 4 chunks (50 %) were never written" in err
    assert not Path("out.h5").exists()
    code, _, err = call(*arguments, "--fill-missing")
    assert code == 0 and "warning: a.h5:data: 2 of 4 chunks" in err


@pytest.mark.parametrize("kind", ["npy", "tif", "hdf5", "prepared", "zarr", "stack"])
@pytest.mark.parametrize(("start", "overlaps"), [(5, True), (10, False)])
def test_regions_of_one_raw_scan_overlap_in_two_prepared_files(
    call: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    kind: str, start: int, overlaps: bool,
) -> None:  # fmt: skip
    if kind == "stack":  # each is cropped by its list of files
        slices(tmp_path / "scan", volume())
        paths = [str(tmp_path / "scan" / f"s{i}.tif") for i in range(SHAPE[0])]
        calls: list[list[str]] = [paths[:10], paths[start:]]
    else:
        scan = raw(tmp_path, kind)
        calls = [[scan, "--roi", f"{limits},:,:"] for limits in ("0:10", f"{start}:")]
    for name, arguments in zip("ab", calls, strict=True):
        assert call(*arguments, "--output", f"{name}.h5", "--quiet")[0] == 0
    parts: dict[str, Any] = {"train": [{"path": "a.h5"}], "validate": [{"path": "b.h5"}]}
    Path("both.json").write_text(json.dumps(parts))
    DatasetSpec.load(tmp_path / "both.json")
    said = capsys.readouterr().err
    assert ("train and validate overlap in" in said) == overlaps
    assert ("both hold voxels of" in said) == overlaps
    if kind == "hdf5":  # the raw scan itself against a region of it
        for end in (start, start + 1):
            parts["train"] = [{"path": "scan.h5", "ROI0": [0, end]}]
            Path("raw.json").write_text(json.dumps(parts))
            DatasetSpec.load(tmp_path / "raw.json")
            assert ("overlap" in capsys.readouterr().err) == (end > start)


def raw(folder: Path, kind: str) -> str:
    """Write a raw scan in a format, and return its name."""
    name = {"hdf5": "scan.h5", "prepared": "scan.h5"}.get(kind, f"scan.{kind}")
    if kind == "npy":
        np.save(name, volume())
    elif kind == "tif":
        tifffile.imwrite(name, volume(), photometric="minisblack")
    elif kind == "zarr":
        zarr.save_array(str(folder / name), volume())
    elif kind in ("hdf5", "prepared"):
        with h5py.File(name, "w") as handle:
            handle["data"] = volume()
    if kind == "prepared":
        request = PrepareRequest(inputs=[Path(name)], output=Path("whole.h5"))
        prepare_volumes(request, console=Console(quiet=True))
        name = "whole.h5"
    return name


def test_the_same_command_again_has_nothing_left_to_do(call: Any) -> None:
    np.save("a.npy", volume())
    arguments = ("a.npy", "--output", "a.h5", "--validate", "5:9")
    assert call(*arguments)[0] == 0
    before = {p: p.stat().st_mtime_ns for p in Path().iterdir()}
    code, out, err = call(*arguments)
    assert (code, err) == (0, "")
    assert out == "nothing left to do: these inputs and settings already gave a.h5, a.json\n"
    assert {p: p.stat().st_mtime_ns for p in Path().iterdir()} == before
    code, out, _ = call(*arguments, "--json")
    assert code == 0 and json.loads(out)["reused"] is True
    text = Path("a.json").read_text()
    Path("a.json").unlink()
    assert call(*arguments)[0] == 0
    assert Path("a.json").read_text() == text


@pytest.mark.parametrize("change", ["settings", "planes", "input", "dataset JSON"])
def test_anything_else_than_the_same_command_is_refused(call: Any, change: str) -> None:
    np.save("a.npy", volume())
    arguments = ["a.npy", "--output", "a.h5"]
    assert call(*arguments)[0] == 0
    if change == "settings":
        arguments += ["--dtype", "float32"]
    elif change == "planes":
        arguments += ["--validate", "0:4"]
    elif change == "input":
        np.save("a.npy", volume(1))
    else:
        Path("a.json").write_text("{}")
    before = Path("a.h5").read_bytes(), Path("a.json").read_bytes()
    code, _, err = call(*arguments)
    assert code == 1 and "already exists; name another file or add --overwrite" in err
    assert (Path("a.h5").read_bytes(), Path("a.json").read_bytes()) == before


def test_a_volume_that_has_changed_since_is_no_result_of_the_same_command(call: Any) -> None:
    np.save("a.npy", volume())
    assert call("a.npy", "--output", "a.h5")[0] == 0
    with h5py.File("a.h5", "r+") as handle:
        handle["data"][0, 0, 0] += 1
    code, _, err = call("a.npy", "--output", "a.h5")
    assert code == 1
    assert "a.h5 has changed since it was prepared: sha256:" in err and "--overwrite" in err
    assert call("a.npy", "--output", "a.h5", "--overwrite")[0] == 0
    assert call("a.npy", "--output", "a.h5")[1].startswith("nothing left to do")


def test_a_dataset_json_of_an_earlier_version_without_hashes_still_counts(call: Any) -> None:
    np.save("a.npy", volume())
    assert call("a.npy", "--output", "a.h5")[0] == 0
    text = re.sub(r', "hash": "\S+"', "", Path("a.json").read_text())
    assert "hash" not in text
    Path("a.json").write_text(text)
    assert call("a.npy", "--output", "a.h5")[1].startswith("nothing left to do")
    assert Path("a.json").read_text() == text


def test_overwriting_with_the_same_voxels_gives_the_same_numbers(call: Any) -> None:
    np.save("a.npy", volume())
    first = call("a.npy", "--output", "a.h5")[1]
    content = Path("a.h5").read_bytes()
    code, out, _ = call("a.npy", "--output", "a.h5", "--overwrite")
    assert code == 0 and out == first
    assert Path("a.h5").read_bytes() == content


@pytest.mark.parametrize("option", ["--quiet", "--json"])
def test_warnings_outlive_quiet_and_stay_out_of_the_json_document(call: Any, option: str) -> None:
    array = volume().astype(np.float32)
    array[0, 0, 0], array[0, 0, 1], array[:, 3, :5] = np.nan, 1e9, -1e7
    with h5py.File("a.h5", "w") as handle:
        shape, chunks = (20, *SHAPE[1:]), (5, 24, 30)
        made = handle.create_dataset("data", shape, "f4", chunks=chunks, fillvalue=25_000)
        made[:10] = array[:10]
    code, out, err = call("a.h5", "--output", "b.h5", "--fill-missing", option)
    assert code == 0
    said = [line.removeprefix("warning: ") for line in err.splitlines() if "warning: " in line]
    for oddity in (
        "never written",
        "NaN or infinite",
        "taken for no data",
        "are clipped there",
    ):
        assert sum(oddity in line for line in said) == 1, oddity
    if option == "--quiet":
        assert len(err.splitlines()) == len(said)  # and nothing else is said
    else:
        assert json.loads(out)["volumes"][0]["warnings"] == said


@pytest.mark.parametrize(
    ("name", "options", "levels"),
    [
        ("offset", ("--no-standardise",), "1 grey value"),
        ("offset", ("--no-standardise", "--dtype", "float32"), None),
        ("offset", (), None),
        ("metal", (), "only 1 grey value"),
        ("metal", ("--dtype", "float32"), None),
        ("metal", ("--no-data", "1e6"), None),
        ("mask", (), None),
        ("mask", ("--no-standardise",), None),
        ("8 bits", ("--compression", "gzip"), None),
    ],
)
def test_stored_volumes_that_lost_their_grey_levels_are_warned_of(
    call: Any, name: str, options: tuple[str, ...], levels: str | None
) -> None:
    random = np.random.default_rng(0)
    noise, metal = random.normal(size=SHAPE), random.random(SHAPE) < 0.02
    arrays = {
        "offset": np.round(30_000 + noise).astype("u2"),
        "metal": np.where(metal, 1e6, noise),
        "mask": (noise > 1).astype("u1"),
        "8 bits": np.clip(np.round(120 + 2 * noise), 0, 255).astype("u1"),
    }
    np.save("a.npy", arrays[name])
    code, out, err = call("a.npy", "--output", "a.h5", "--json", *options)
    assert code == 0
    warnings = json.loads(out)["volumes"][0]["warnings"]
    lost = [text for text in warnings if "grey levels" in text]
    assert [line for line in err.splitlines() if "grey levels" in line] == [
        f"warning: {text}" for text in lost
    ]
    if levels is None:
        assert lost == []
        return
    (text,) = lost
    assert text.startswith("a.h5: only") and levels in text
    assert all(way in text for way in ("--dtype float32", "--no-data"))


def test_many_extreme_voxels_are_warned_of_with_values_and_share_also_after_a_kill(
    call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = volume().astype(np.float32)
    array[:, :2, :2] = np.linspace(1e6, 2e6, 4 * SHAPE[0]).reshape(-1, 2, 2)
    np.save("a.npy", array)
    with monkeypatch.context() as patch:
        patch.setattr(streaming.Transform, "apply", lambda *_: 1 / 0)
        assert call("a.npy", "--output", "a.h5")[0] == 1  # between the two passes
    code, out, err = call("a.npy", "--output", "a.h5", "--json")
    assert code == 0
    (text,) = (line for line in err.splitlines() if "extremely far" in line)
    count = 4 * SHAPE[0]
    assert f"{count} of {array.size} voxels ({count / array.size:.2g} of them)" in text
    assert "(up to 2e+06)" in text and "--no-data" in text and "--roi" in text
    assert json.loads(out)["volumes"][0]["outliers"] == count
