"""Reading is linear in pictures: ``python benchmarks/cine.py [frames]``.

SYNTHETIC pictures of 256 x 256, 500 unless said otherwise, once as so many single files and once
in one file: DICOM in native and in run-length pixels with and without a table of offsets, enhanced
DICOM, TIFF pages and a NIfTI volume. Each way: listing the set, the audit's reading and the cache,
in processor seconds, and their ratio to the single files. The aim is at most 1.5.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import ExplicitVRLittleEndian, RLELossless, SecondaryCaptureImageStorage

from clinipress.data.audit.fingerprints import read_all
from clinipress.data.cache import build_cache
from clinipress.data.sources import read_dataset
from clinipress.records.candidate import InputSpec

SIDE = 256
SPEC = InputSpec(channels=1, height=64, width=64)
AIM = 1.5


def pictures(count: int) -> NDArray[np.uint16]:
    """``[count, 256, 256]`` of 12 bits."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 3500, (count, 16, 16))
    noise = random.integers(0, 500, (count, SIDE, SIDE))
    return (np.kron(coarse, np.ones((1, 16, 16), int)) + noise).astype(np.uint16)


def dicom(path: Path, values: NDArray[np.uint16], way: str) -> None:
    """One file of one or more frames."""
    made, meta = Dataset(), FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta = meta
    made.SOPClassUID, made.SOPInstanceUID = SecondaryCaptureImageStorage, "1.2.3"
    made.Rows = made.Columns = SIDE
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
    if len(values) > 1:
        made.NumberOfFrames = len(values)
    made.PixelData = values.tobytes()
    if way == "enhanced":
        made.PerFrameFunctionalGroupsSequence = [group(frame) for frame in range(len(values))]
    if way.startswith("run length"):
        made.compress(RLELossless, generate_instance_uid=False)
        if way.endswith("without table"):
            frames = list(generate_frames(made.PixelData, number_of_frames=len(values)))
            made.PixelData = encapsulate(frames, has_bot=False)
    pydicom.dcmwrite(path, made, enforce_file_format=True)


def group(frame: int) -> Dataset:
    """What an enhanced file says of one frame."""
    whole, window, rescale = Dataset(), Dataset(), Dataset()
    window.WindowCenter, window.WindowWidth = str(2000 + frame % 5), "4000"
    rescale.RescaleSlope, rescale.RescaleIntercept = "1", "-1024"
    whole.FrameVOILUTSequence, whole.PixelValueTransformationSequence = [window], [rescale]
    return whole


def tiff(path: Path, values: NDArray[np.uint16], way: str) -> None:
    """Pages, deflated or as they are."""
    first, *rest = (Image.fromarray(value) for value in values)
    packed = {"compression": "tiff_adobe_deflate"} if way.endswith("deflated") else {}
    first.save(path, "TIFF", save_all=True, append_images=rest, **packed)


def nifti(path: Path, values: NDArray[np.uint16], _way: str) -> None:
    """A volume; its pictures are slices."""
    image: Any = nibabel.Nifti1Image
    nibabel.save(image(values.transpose(2, 1, 0), np.eye(4)), path)


Writer = Callable[[Path, NDArray[np.uint16], str], None]
WAYS: dict[str, tuple[Writer, str]] = {
    "native": (dicom, ".dcm"),
    "run length": (dicom, ".dcm"),
    "run length without table": (dicom, ".dcm"),
    "enhanced": (dicom, ".dcm"),
    "TIFF": (tiff, ".tif"),
    "TIFF deflated": (tiff, ".tif"),
    "NIfTI": (nifti, ".nii"),
}


def seconds(root: Path, count: int) -> float:
    """Of the processor, for listing, the audit's reading and the cache."""
    start = time.process_time()
    dataset = read_dataset(root)
    assert len(dataset.items) == count + 1, f"{len(dataset.items)} of {count + 1} pictures"
    readings = read_all(dataset, threads=2)
    assert readings.readable.all(), readings.unreadable[0].reason
    build_cache(dataset.items, dataset.classes, SPEC, root / "cache", threads=2)
    return time.process_time() - start


def ratio(way: str, count: int, folder: Path) -> tuple[float, float]:
    """Seconds for single files, and for all in one."""
    write, suffix = WAYS[way]
    values = pictures(count)
    found = []
    for name in ("single", "one"):
        root = folder / way / name
        for label in ("a", "b"):  # a set has two classes
            (root / label).mkdir(parents=True)
        write(root / "b" / f"x{suffix}", values[:1], way)
        if name == "one":
            write(root / "a" / f"x{suffix}", values, way)
        else:
            for number in range(count):
                write(root / "a" / f"{number}{suffix}", values[number : number + 1], way)
        found.append(seconds(root, count))
    return found[0], found[1]


def main(frames: str = "500") -> None:
    """Measure and print; exit code 1 where a way costs more than the aim."""
    count, worst = int(frames), 0.0
    with tempfile.TemporaryDirectory() as folder:
        for way in WAYS:
            single, one = ratio(way, count, Path(folder))
            worst = max(worst, one / single)
            print(f"{way}: {count} files {single:.2f} s, one file {one:.2f} s: {one / single:.2f}")
    print(f"largest ratio {worst:.2f}, the aim is at most {AIM}")
    raise SystemExit(worst > AIM)


if __name__ == "__main__":
    main(*sys.argv[1:])
