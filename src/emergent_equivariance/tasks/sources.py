"""Data sets that come as files: finding, verifying and reading them.

Looked for in this order: the directory named in the study file, the one in $EMEQ_DATA_DIR, the system's data
sets (Debian package dataset-fashion-mnist), a download from the official address (kept in the user's cache).
Whatever the source and however compressed, the md5 of the *decompressed* bytes must be the official one; a
download is also held against the md5 of the official file. The first source that has all files of a set serves
it, and is named in the provenance. A place that has no official set but a known substitute for it, a part of the
set, serves that, and the provenance says so.

The checksums of the IDX files' .gz are those of torchvision. Those of the decompressed files: Debian's FashionMNIST
files are the official ones without name and time in the gzip header; with both put back, the md5 of all four
is that of torchvision (time stamps 1504176606 for train, 1504176627 for t10k). Address and checksum of PathMNIST
are those of the package medmnist (3.0, 28×28).
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import DataError

#: Environment variable with a directory of data sets.
DATA_DIR = "EMEQ_DATA_DIR"

#: Where Linux distributions put packaged data sets.
SYSTEM = Path("/usr/share/datasets")

#: Seconds to wait for the server of a download.
TIMEOUT = 30


@dataclass(frozen=True)
class Substitute:
    """A part of a data set that serves where the set itself is not at hand.

    Attributes:
      folders: subfolders of a data directory that hold it.
      md5: file name → md5.
      words: what it is, for the provenance and for messages.
    """

    folders: tuple[str, ...]
    md5: dict[str, str]
    words: str


@dataclass(frozen=True)
class DataSet:
    """A data set of one or more files.

    Attributes:
      title: name in messages.
      folders: subfolders of a data directory that hold it, "." for the directory itself.
      system: folder below the system's data sets, or None; package: the Debian package that puts it there.
      url: official address, to which the official file's name is appended.
      md5: file name without ``suffix`` → (md5 of the official file, md5 of the decompressed bytes).
      suffix: of the official files, ".gz" or ""; files found in a directory may lack it.
      substitute: a part of the set that is accepted in its place.
    """

    title: str
    folders: tuple[str, ...]
    system: str | None
    package: str | None
    url: str
    md5: dict[str, tuple[str, str]]
    suffix: str = ".gz"
    substitute: Substitute | None = None


SETS = {
    "fashion_mnist": DataSet(
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
    "mnist": DataSet(
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
    "path_mnist": DataSet(
        title="PathMNIST",
        folders=("pathmnist", "path_mnist", "medmnist", "."),
        system="pathmnist",
        package=None,
        url="https://zenodo.org/records/10519652/files/",
        md5={"pathmnist.npz": ("a8b06965200029087d5bd730944a56c1", "a8b06965200029087d5bd730944a56c1")},
        suffix="",
        substitute=Substitute(
            folders=("pathmnist_samples",),
            md5={"pathmnist_test718.npz": "c7b881c6cbeecd536603a695b8f7fdad"},
            words="718 of the 7,180 test images, in place of the full set of 107,180",
        ),
    ),
}


class Found(NamedTuple):
    """Where a data set, or its substitute, was found.

    Attributes:
      kind: "data directory", "$EMEQ_DATA_DIR", "system package" or "download".
      paths: file name → path.
      md5: file name → md5 of the decompressed bytes.
      substitute: the substitute that is served, None for the set itself.
    """

    kind: str
    paths: dict[str, Path]
    md5: dict[str, str]
    substitute: Substitute | None = None

    def provenance(self, title: str) -> dict[str, str]:
        """``source``, the md5 of each file and, of a substitute, ``substitute``: what it is."""
        said = {"source": f"{title}, {self.kind}"} | {f"source_md5_{file}": self.md5[file] for file in self.paths}
        return said | ({"substitute": self.substitute.words} if self.substitute else {})


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
    found = _locate(name, files, data_dir)
    arrays = {file: read_idx(path, found.md5[file]) for file, path in found.paths.items()}
    return arrays, found.provenance(SETS[name].title)


def load_npz(name: str, data_dir: str | None = None) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays of a set that is one .npz file, or of its substitute, and where they came from.

    Args:
      name: a key of ``SETS``.
      data_dir: directory to look in first, relative to the working directory.

    Returns:
      Name in the file → array; and the provenance as from ``load_idx``, with ``substitute`` where one served.

    Raises DataError if the set is nowhere to be had, or a file found is damaged.
    """
    found = _locate(name, tuple(SETS[name].md5), data_dir)
    ((file, path),) = found.paths.items()
    with np.load(io.BytesIO(_verified(path, found.md5[file]))) as archive:
        return dict(archive), found.provenance(SETS[name].title)


def read_idx(path: Path, md5: str) -> np.ndarray:
    """The uint8 array in an IDX file, gzipped or not.

    Args:
      path: the file; gzipped if its name ends in .gz.
      md5: expected md5 of the decompressed bytes.

    Raises DataError naming the file and the checksum if it cannot be read, is truncated or altered.
    """
    return parse_idx(_verified(path, md5), str(path))


def _verified(path: Path, md5: str) -> bytes:
    """Content of a file, decompressed if its name ends in .gz; raises DataError as read_idx does."""
    remedy = "Replace the file by the official one, or remove it and let another source serve the set."
    packed = path.name.endswith(".gz")
    expected = f"expected md5{' of the decompressed bytes' if packed else ''}: {md5}"
    try:
        content = path.read_bytes()
        if packed:
            content = gzip.decompress(content)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: is truncated or altered ({error}; {expected}).", remedy=remedy) from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}).", remedy="Make it readable.") from None
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != md5:
        raise DataError(f"{path}: is truncated or altered ({expected}; found: {found}).", remedy=remedy)
    return content


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


def _locate(name: str, files: Sequence[str], data_dir: str | None) -> Found:
    """The first source that has all files of the set, or its substitute."""
    wanted = SETS[name]
    partial = []
    for kind, places, substitutes in _places(wanted, data_dir):
        for folder in places:
            found = {
                file: path
                for file in files
                for path in (folder / f"{file}{wanted.suffix}", folder / file)
                if path.is_file()
            }
            if len(found) == len(files):
                return Found(kind, found, {file: wanted.md5[file][1] for file in files})
            partial += [f"{folder} lacks {file}{wanted.suffix}" for file in files if found and file not in found]
        for folder in substitutes:
            assert wanted.substitute is not None
            parts = {file: folder / file for file in wanted.substitute.md5}
            if all(path.is_file() for path in parts.values()):
                return Found(kind, parts, wanted.substitute.md5, wanted.substitute)
    try:
        paths = {file: _download(name, file) for file in files}
    except (OSError, ValueError) as error:
        raise DataError(
            f"task: the data set {wanted.title} was not found"
            + (f" ({'; '.join(partial)})" if partial else "")
            + f", and {wanted.url} could not be reached or delivered a wrong file ({_brief(error)}).",
            remedy=three_ways(name),
        ) from None
    return Found("download", paths, {file: wanted.md5[file][1] for file in files})


def _places(wanted: DataSet, data_dir: str | None) -> list[tuple[str, list[Path], list[Path]]]:
    """Kind of the source, folders that may hold the set, folders that may hold its substitute; first one first."""
    result = []
    for key, kind, directory in (
        ("task.data_dir", "data directory", data_dir),
        (f"${DATA_DIR}", f"${DATA_DIR}", os.environ.get(DATA_DIR)),
    ):
        if directory:
            root = Path(directory).expanduser()
            if not root.is_dir():
                raise DataError(f"{key}: {directory!r} is no directory.", remedy="Name the directory of the data sets.")
            substitutes = wanted.substitute.folders if wanted.substitute else ()
            result.append((kind, [root / f for f in wanted.folders], [root / f for f in substitutes]))
    if wanted.system:
        result.append(("system package", [SYSTEM / wanted.system], []))
    return result


def _download(name: str, file: str) -> Path:
    """Path in the user's cache; raises OSError (network, disk) or ValueError (checksum)."""
    import pooch

    wanted = SETS[name]
    return Path(
        pooch.retrieve(
            wanted.url + f"{file}{wanted.suffix}",
            known_hash=f"md5:{wanted.md5[file][0]}",
            fname=f"{file}{wanted.suffix}",
            path=Path(pooch.os_cache("emergent-equivariance")) / name,
            downloader=pooch.HTTPDownloader(timeout=TIMEOUT),
        )
    )


def three_ways(name: str) -> str:
    """How a set can be provided, as a remedy."""
    wanted = SETS[name]
    names = "the official .gz files" if wanted.suffix else f"the official {', '.join(wanted.md5)}"
    ways = [
        f"put {names} into a folder {wanted.folders[0]}/ and name its parent in task.data_dir or ${DATA_DIR}",
        f"install {'them' if wanted.suffix else 'it'} under {SYSTEM / (wanted.system or '')}"
        + (f" (on Debian: apt-get install {wanted.package})" if wanted.package else ""),
        "or run once with a network connection",
    ]
    return f"Provide {wanted.title} in one of three ways: " + "; ".join(ways) + "."


def _brief(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:240]}{'…' if len(text) > 240 else ''}"
