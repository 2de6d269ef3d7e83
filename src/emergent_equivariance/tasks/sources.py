"""Data sets that come as IDX files: finding, verifying and reading them.

Looked for in this order: the directory named in the study file, the one in $EMEQ_DATA_DIR, the system's data
sets (Debian package dataset-fashion-mnist), a download from the official address (kept in the user's cache).
Whatever the source and however compressed, the md5 of the *decompressed* bytes must be the official one; a
download is also held against the md5 of the official .gz file. The first source that has all files of a set
serves it, and is named in the provenance.

The checksums of the .gz files are those of torchvision. Those of the decompressed files: Debian's FashionMNIST
files are the official ones without name and time in the gzip header; with both put back, the md5 of all four
is that of torchvision (time stamps 1504176606 for train, 1504176627 for t10k).
"""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DataError

#: Environment variable with a directory of data sets.
DATA_DIR = "EMEQ_DATA_DIR"

#: Where Linux distributions put packaged data sets.
SYSTEM = Path("/usr/share/datasets")

#: Seconds to wait for the server of a download.
TIMEOUT = 30


@dataclass(frozen=True)
class IdxSet:
    """A data set of IDX files.

    Attributes:
      title: name in messages.
      folders: subfolders of a data directory that hold it, "." for the directory itself.
      system: folder below the system's data sets, or None; package: the Debian package that puts it there.
      url: official address, to which NAME.gz is appended.
      md5: file name without .gz → (md5 of the official .gz file, md5 of the decompressed bytes).
    """

    title: str
    folders: tuple[str, ...]
    system: str | None
    package: str | None
    url: str
    md5: dict[str, tuple[str, str]]


SETS = {
    "fashion_mnist": IdxSet(
        title="FashionMNIST",
        folders=("fashion-mnist", "fashion_mnist", "FashionMNIST/raw", "."),
        system="fashion-mnist",
        package="dataset-fashion-mnist",
        url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        md5={
            "train-images-idx3-ubyte": ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", "f4a8712d7a061bf5bd6d2ca38dc4d50a"),
            "train-labels-idx1-ubyte": ("25c81989df183df01b3e8a0aad5dffbe", "9018921c3c673c538a1fc5bad174d6f9"),
            "t10k-images-idx3-ubyte": ("bef4ecab320f06d8554ea6380940ec79", "8181f5470baa50b63fa0f6fddb340f0a"),
            "t10k-labels-idx1-ubyte": ("bb300cfdad3c16e7a12a480ee83cd310", "15d484375f8d13e6eb1aabb0c3f46965"),
        },
    ),
    "mnist": IdxSet(
        title="MNIST",
        # not the directory itself: its files have the same names as FashionMNIST's
        folders=("mnist", "MNIST/raw"),
        system="mnist",
        package=None,
        url="https://ossci-datasets.s3.amazonaws.com/mnist/",
        md5={
            "train-images-idx3-ubyte": ("f68b3c2dcbeaaa9fbdd348bbdeb94873", "6bbc9ace898e44ae57da46a324031adb"),
            "train-labels-idx1-ubyte": ("d53e105ee54ea40749a09fcbcd1e9432", "a25bea736e30d166cdddb491f175f624"),
            "t10k-images-idx3-ubyte": ("9fb629c4189551a2d022fa330f9573f3", "2646ac647ad5339dbf082846283269ea"),
            "t10k-labels-idx1-ubyte": ("ec29112dd5afa0611ce80d1b7f02629c", "27ae3e4e09519cfbb04c329615203637"),
        },
    ),
}


def load_idx(
    name: str, files: Sequence[str], data_dir: str | None = None
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays of the files of a set, and where they came from.

    Args:
      name: a key of ``SETS``.
      files: file names without .gz.
      data_dir: directory to look in first, relative to the working directory.

    Returns:
      File name → uint8 array, (sample, row, column) for images and (sample,) for labels; and provenance
      ``source`` ("data directory", "$EMEQ_DATA_DIR", "system package", "download") with the md5 of each file.

    Raises DataError if the set is nowhere to be had, or a file found is damaged.
    """
    source, paths = _locate(name, files, data_dir)
    md5 = SETS[name].md5
    arrays = {file: read_idx(path, md5[file][1]) for file, path in paths.items()}
    title = SETS[name].title
    return arrays, {"source": f"{title}, {source}"} | {f"source_md5_{file}": md5[file][1] for file in files}


def read_idx(path: Path, md5: str) -> np.ndarray:
    """The uint8 array in an IDX file, gzipped or not.

    Args:
      path: the file; gzipped if its name ends in .gz.
      md5: expected md5 of the decompressed bytes.

    Raises DataError naming the file and the checksum if it cannot be read, is truncated or altered.
    """
    remedy = "Replace the file by the official one, or remove it and let another source serve the set."
    expected = f"expected md5 of the decompressed bytes: {md5}"
    try:
        content = path.read_bytes()
        if path.name.endswith(".gz"):
            content = gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: is truncated or altered ({error}; {expected}).", remedy=remedy) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).", remedy="Make it readable.") from None
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise DataError(f"{path}: is truncated or altered ({expected}; found: {found}).", remedy=remedy)
    return parse_idx(content, str(path))


def parse_idx(content: bytes, name: str) -> np.ndarray:
    """Decode the IDX format: 0, 0, type 8 (uint8), number of dimensions, big-endian extents, values in C order.

    Raises DataError naming ``name`` if the header or the length is wrong.
    """
    dimensions = content[3] if len(content) > 3 else 0
    start = 4 + 4 * dimensions
    if len(content) < start or content[:3] != b"\x00\x00\x08":
        raise DataError(f"{name}: is no IDX file of unsigned bytes.", remedy="Replace it by the official file.")
    shape = tuple(int(extent) for extent in np.frombuffer(content, dtype=">u4", count=dimensions, offset=4))
    values = np.frombuffer(content, dtype=np.uint8, offset=start)
    if len(values) != np.prod(shape, dtype=np.int64):
        raise DataError(
            f"{name}: holds {len(values)} values, its header promises {'×'.join(map(str, shape))}.",
            remedy="Replace it by the official file.",
        )
    return values.reshape(shape)


def _locate(name: str, files: Sequence[str], data_dir: str | None) -> tuple[str, dict[str, Path]]:
    """Kind of the source that serves the set, and the path of each file."""
    wanted = SETS[name]
    places = []
    for key, kind, directory in (
        ("task.data_dir", "data directory", data_dir),
        (f"${DATA_DIR}", f"${DATA_DIR}", os.environ.get(DATA_DIR)),
    ):
        if directory:
            root = Path(directory).expanduser()
            if not root.is_dir():
                raise DataError(f"{key}: {directory!r} is no directory.", remedy="Name the directory of the data sets.")
            places += [(kind, root / folder) for folder in wanted.folders]
    if wanted.system:
        places.append(("system package", SYSTEM / wanted.system))
    partial = []
    for kind, folder in places:
        found = {file: path for file in files for path in (folder / f"{file}.gz", folder / file) if path.is_file()}
        if len(found) == len(files):
            return kind, found
        partial += [f"{folder} lacks {file}.gz" for file in files if found and file not in found]
    try:
        return "download", {file: _download(name, file) for file in files}
    except (OSError, ValueError) as error:
        raise DataError(
            f"task: the data set {wanted.title} was not found"
            + (f" ({'; '.join(partial)})" if partial else "")
            + f", and {wanted.url} could not be reached or delivered a wrong file ({_brief(error)}).",
            remedy=_three_ways(wanted),
        ) from None


def _download(name: str, file: str) -> Path:
    """Path in the user's cache; raises OSError (network, disk) or ValueError (checksum)."""
    import pooch

    return Path(
        pooch.retrieve(
            SETS[name].url + f"{file}.gz",
            known_hash=f"md5:{SETS[name].md5[file][0]}",
            fname=f"{file}.gz",
            path=Path(pooch.os_cache("emergent-equivariance")) / name,
            downloader=pooch.HTTPDownloader(timeout=TIMEOUT),
        )
    )


def _three_ways(wanted: IdxSet) -> str:
    ways = [
        f"put the official .gz files into a folder {wanted.folders[0]}/ and name its parent in task.data_dir or "
        f"${DATA_DIR}",
        f"install them under {SYSTEM / (wanted.system or '')}"
        + (f" (on Debian: apt-get install {wanted.package})" if wanted.package else ""),
        "or run once with a network connection",
    ]
    return "Provide it in one of three ways: " + "; ".join(ways) + "."


def _brief(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:240]}{'…' if len(text) > 240 else ''}"
