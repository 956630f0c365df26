"""Hints how to bring in volumes of formats that are not read."""

from __future__ import annotations

from pathlib import Path

READ = "neither HDF5 (NeXus), TIFF, NPY nor a Zarr folder"

_RAW = (
    "raw voxels don't say their shape; take shape and number type from the scanner's log and save "
    "an NPY file: {numpy}; np.save('{stem}.npy', np.memmap('{name}', '<u2', 'r', shape=(Z, Y, X)))"
)
_ITK = (
    "save an NPY file with SimpleITK: {numpy}, SimpleITK as s; "
    "np.save('{stem}.npy', s.GetArrayFromImage(s.ReadImage('{name}')))"
)
_NIFTI = (
    "save an NPY file with nibabel: {numpy}, nibabel; "
    "np.save('{stem}.npy', np.asarray(nibabel.load('{name}').dataobj).T)"
)
_MRC = (
    "save an NPY file with mrcfile: {numpy}, mrcfile; "
    "np.save('{stem}.npy', mrcfile.mmap('{name}').data)"
)
_NPZ = "save its array alone: {numpy}; a = np.load('{name}'); np.save('{stem}.npy', a[a.files[0]])"
_DICOM = "open the series in Fiji (ImageJ) and save it as a TIFF stack"
_OTHER = "open it in Fiji (ImageJ) or the scanner's program and save it as a TIFF stack"

_HINTS = {
    **dict.fromkeys((".raw", ".vol", ".bin", ".dat"), _RAW),
    **dict.fromkeys((".mha", ".mhd", ".nrrd", ".nhdr"), _ITK),
    **dict.fromkeys((".nii", ".nii.gz"), _NIFTI),
    **dict.fromkeys((".mrc", ".rec", ".map"), _MRC),
    **dict.fromkeys((".dcm", ".ima"), _DICOM),
    **dict.fromkeys((".txrm", ".txm", ".czi", ".lif", ".mat", ".png", ".jpg", ".jp2"), _OTHER),
    ".npz": _NPZ,
}


def how_to_bring_in(path: Path) -> str:
    """Return how to convert a file, judged by its name; empty if the name says nothing."""
    name = path.name.lower()
    suffix = next((s for s in sorted(_HINTS, key=len, reverse=True) if name.endswith(s)), "")
    stem = path.name[: len(path.name) - len(suffix)]
    hint = _HINTS.get(suffix, "")
    return hint.format(name=path.name, stem=stem, numpy="import numpy as np")
