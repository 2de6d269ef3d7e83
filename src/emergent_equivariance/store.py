"""Labelled datasets on disk: the only reader and writer of zarr.

A store is one zip file with a zarr v3 hierarchy in it. It is written beside its final place, flushed and
renamed, so that a file under its final name is complete; it carries a SHA-256 over its arrays, so that a
damaged one is refused by name. Missing data is NaN, never 0. What does not fit into memory is written chunk by chunk.
"""

from __future__ import annotations

import functools
import glob
import importlib.metadata
import json
import os
import platform
import subprocess
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from pydantic import ValidationError

from .archive import (
    BLOCK_BYTES,
    CHUNK,
    LARGEST_TEXT,
    Damage,
    Inspect,
    check,
    checksum,
    chunk_digest,
    chunks_of,
    combined,
    region_of,
)
from .errors import StoreError, write_error
from .groups import Action, get_group
from .interpolation import InputAction, InterpolatedAction
from .study import FORMAT, Arm, Study
from .tasks.base import Readout, TaskData

#: Packages whose versions the bits of a trained member depend on.
NUMERICAL = ("emergent-equivariance", "jax", "jaxlib", "numba", "numpy", "optax", "torch")

#: Packages whose versions every store says, beside that of Python.
VERSIONED = (*NUMERICAL, "neural-tangents", "scipy", "xarray", "zarr")

#: Bytes of an array that are compressed to see whether it is worth it, and the size after it below which it is.
SAMPLE_BYTES, WORTHWHILE = 2**20, 0.85

#: What to do about a store that cannot be used.
AGAIN = "Delete this file and run the study again: only it is made again."


@functools.cache
def git_commit() -> str:
    """Commit of the checkout this package runs from, or "unknown" outside one."""
    try:
        command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Installed version of every package."""
    found = {}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def provenance(study: Study, arm: Arm | None = None) -> dict[str, Any]:
    """Attributes every store carries: study, arm, its settings without places on this machine, versions, commit."""
    attributes: dict[str, Any] = {
        "study": study.name,
        "format": FORMAT,
        "versions": json.dumps({"python": platform.python_version(), **versions(VERSIONED)}),
        "git_commit": git_commit(),
    }
    if arm is not None:
        attributes["arm"] = arm.path
        attributes["settings"] = arm.settings.model_dump_json(exclude={"task": arm.settings.task.LOCATION})
    return attributes


@contextmanager
def atomic_path(path: Path, confirm: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success flush it to disk and rename it, else remove it.

    Args:
      path: where the file is to be.
      confirm: raises if this process may not write it any more; called between flushing and renaming (see lease).

    Raises StoreError where the file system refuses (full, read-only, no permission).
    """
    temporary = path.with_name(f".{path.name}.{os.urandom(6).hex()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        confirm()
        os.replace(temporary, path)
    except OSError as error:
        confirm()
        raise write_error(path, error) from None
    finally:
        if temporary.exists():
            temporary.unlink()


def remove_unfinished(path: Path) -> None:
    """Remove what killed writers of ``path`` left beside it; only for the one process that may write it (see lease)."""
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        temporary.unlink(missing_ok=True)


def write(
    dataset: xr.Dataset,
    path: Path,
    attributes: Mapping[str, Any],
    confirm: Callable[[], None] = lambda: None,
) -> None:
    """Write a dataset as one zip file, atomically, with its checksum among the attributes.

    ``confirm``: see atomic_path. Raises StoreError if the disk is full or not writable.
    """
    import zarr

    dataset = dataset.assign_attrs({**dataset.attrs, **attributes})
    dataset = dataset.assign_attrs(checksum=checksum(dataset))
    dataset = _cast_text(dataset, object)  # variable-length UTF-8 is the text type zarr v3 specifies
    encoding: dict[Any, dict[str, Any]] = {}
    for name, variable in dataset.variables.items():
        dataset[name].encoding = {}
        if variable.ndim and variable.dtype.kind == "f" and variable.size:
            most = max(1, BLOCK_BYTES // 2 // max(1, variable.nbytes // len(variable)))
            rows = -(-len(variable) // -(-len(variable) // most))  # the last chunk is written in full: alike in size
            encoding[name] = {"chunks": (rows, *variable.shape[1:]), "_FillValue": np.nan}
            if not _compresses(variable):
                encoding[name]["compressors"] = None
    entries: dict[str, Any] = {}
    memory = zarr.storage.MemoryStore(store_dict=entries)
    dataset.to_zarr(memory, mode="w", consolidated=False, zarr_format=3, encoding=encoding)
    with atomic_path(path, confirm) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        _move(entries, archive)


def _compresses(variable: xr.Variable) -> bool:
    """Whether zstd saves enough to be worth decoding: the mantissas of most results are noise to it."""
    from numcodecs.zstd import Zstd

    sample = np.asarray(variable[: -(-SAMPLE_BYTES * len(variable) // variable.nbytes)]).tobytes()[:SAMPLE_BYTES]
    return len(Zstd().encode(sample)) < WORTHWHILE * len(sample)


def _move(entries: dict[str, Any], archive: zipfile.ZipFile, kept: Collection[str] = ()) -> None:
    for key in sorted(set(entries) - set(kept)):
        archive.writestr(zipfile.ZipInfo(key, date_time=(1980, 1, 1, 0, 0, 0)), entries.pop(key).to_bytes())


def write_chunks(
    dataset: xr.Dataset,
    shapes: Mapping[str, tuple[tuple[str, ...], tuple[int, ...]]],
    chunk: tuple[int, ...],
    chunks: Iterable[tuple[str, tuple[int, ...], np.ndarray]],
    path: Path,
    attributes: Mapping[str, Any],
) -> None:
    """Write a store whose largest variables, all of one shape, never are in memory as a whole; otherwise like write.

    Args:
      dataset: everything else.
      shapes: name → (dimensions, shape) of the large variables, float64.
      chunk: shape of their chunks.
      chunks: (name, index of the chunk, values) of every chunk, each once, in any order.
      path: the file.
      attributes: of the store.

    Raises ValueError if a chunk is missing, comes twice or has another shape, StoreError like write.
    """
    import dask.array
    import zarr

    large = {
        name: (dims, dask.array.full(shape, np.nan, chunks=chunk), {CHUNK: list(chunk)})
        for name, (dims, shape) in shapes.items()
    }
    template = dataset.assign(large).assign_attrs({**dataset.attrs, **attributes})
    entries: dict[str, Any] = {}
    memory = zarr.storage.MemoryStore(store_dict=entries)
    digests: dict[str, dict[tuple[int, ...], bytes]] = {name: {} for name in shapes}
    encoding = {name: {"chunks": chunk, "_FillValue": np.nan} for name in shapes}
    text = _cast_text(template, object)
    text.to_zarr(memory, mode="w", consolidated=False, zarr_format=3, encoding=encoding, compute=False)
    arrays = {name: zarr.open_array(memory, path=name, mode="r+") for name in shapes}
    kept = set(entries)
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name, index, values in chunks:
            region = region_of(index, arrays[name].shape, chunk)
            if index in digests[name] or values.shape != tuple(part.stop - part.start for part in region):
                raise ValueError(f"{path}: chunk {index} of {name} comes twice or has the shape {values.shape}")
            arrays[name][region] = values
            digests[name][index] = chunk_digest(values)
            _move(entries, archive, kept)
        for name, (_, shape) in shapes.items():
            missing = [index for index, _ in chunks_of(shape, chunk) if index not in digests[name]]
            if missing:
                raise ValueError(f"{path}: {len(missing)} chunks of {name} are missing, the first is {missing[0]}")
        zarr.open_group(memory, mode="r+").attrs["checksum"] = combined(template, digests)
        _move(entries, archive)


def read(path: Path, *, config_hash: str | None = None, whole: bool = True) -> xr.Dataset:
    """Open a store lazily after verifying its checksum (and the config hash it must carry, if given).

    Without ``whole`` only its structure is verified, and what is read of it as it is read (CRC-32).
    Raises StoreError naming the file if it is missing, torn, altered, or made by other settings.
    """
    dataset = verified(path, whole=whole)
    found = dataset.attrs.get("config_hash")
    if config_hash is not None and found != config_hash:
        raise StoreError(
            f"{path}: was written by another version of the study (config hash {found}, expected {config_hash}).",
            remedy=f"{AGAIN} Or rename the study to keep both.",
        )
    return dataset


def verified(path: Path, inspect: Inspect | None = None, *, whole: bool = True) -> xr.Dataset:
    """Open a store lazily after reading it once, checksum and format verified.

    The file stays open, and the same if another one takes its name, until the dataset is closed or dropped.

    Args:
      path: the file.
      inspect: shown the blocks of every numeric array that is not written chunk by chunk, in the order of their rows;
        a block is valid during the call only.
      whole: verify the checksum, for which all of it is read.

    Raises StoreError naming the file if it is missing, torn or altered, or no store of this program.
    """
    if not path.is_file():
        raise StoreError(f"{path}: does not exist.", remedy="Run the study again: only what is missing is made.")
    with ExitStack() as on_failure:
        try:
            check(path)
            opened = _open(path)
            on_failure.callback(opened.close)
            intact = not whole or opened.attrs.get("checksum") == checksum(opened, inspect)
        except Damage as error:
            raise StoreError(f"{path}: is damaged and cannot be read ({_reason(error)}).", remedy=AGAIN) from None
        if not intact:
            raise StoreError(f"{path}: is damaged: its checksum does not match its arrays.", remedy=AGAIN)
        if (found := opened.attrs.get("format")) != FORMAT:
            raise StoreError(f"{path}: has format {found}, this version reads {FORMAT}.", remedy=AGAIN)
        on_failure.pop_all()
    return opened


def _open(path: Path) -> xr.Dataset:
    """Open a store that was checked, lazily. Raises one of ``Damage``."""
    import zarr

    archive = zarr.storage.ZipStore(path, mode="r")
    opened = xr.open_zarr(archive, chunks=None, consolidated=False, mask_and_scale=False, decode_times=False)
    for variable in opened.variables.values():
        variable.attrs.pop("_FillValue", None)
        if variable.dtype.kind in "OUST":
            texts = np.asarray(variable)
            if (needed := 4 * texts.size * max(map(len, texts.flat), default=0)) > LARGEST_TEXT:
                raise ValueError(f"an array of texts takes {needed} bytes")
        variable.encoding = {key: variable.encoding[key] for key in ("chunks", "preferred_chunks")}
    opened = _cast_text(opened, str)
    opened.encoding = {"file": str(path)}
    opened.set_close(archive.close)
    return opened


def _reason(error: Exception) -> str:
    """The first problem, in a line."""
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return (str(error).splitlines() or [type(error).__name__])[0]


def _cast_text(dataset: xr.Dataset, kind: type) -> xr.Dataset:
    text = {
        name: xr.Variable(v.dims, np.asarray(v).astype(object).astype(kind), v.attrs)
        for name, v in dataset.variables.items()
        if v.dtype.kind in "OUST"
    }
    coords = {name: v for name, v in text.items() if name in dataset.coords}
    return dataset.assign({name: v for name, v in text.items() if name not in coords}).assign_coords(coords)


def write_netcdf(dataset: xr.Dataset, path: Path, attributes: Mapping[str, Any]) -> None:
    """Write a dataset as netCDF-4, atomically, with its checksum; raises StoreError like write."""
    compressed = {name: {"zlib": True} for name, v in dataset.data_vars.items() if v.ndim > 1 and v.dtype.kind == "f"}
    with atomic_path(path) as temporary:
        described = dataset.assign_attrs({**attributes, "checksum": checksum(dataset)})
        described.to_netcdf(temporary, engine="h5netcdf", encoding=compressed)


def read_netcdf(path: Path) -> xr.Dataset:
    """Read a netCDF file into memory and verify its checksum, if it has one (those of earlier versions do not).

    Raises StoreError if it is missing or damaged.
    """
    remedy = "Delete it, if it is there, and run the study again."
    try:
        with xr.open_dataset(path, engine="h5netcdf", decode_times=False) as dataset:
            found = dataset.load()
    except (OSError, LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise StoreError(f"{path}: cannot be read ({_reason(error)}).", remedy=remedy) from None
    if found.attrs.get("checksum") not in (None, checksum(found)):
        raise StoreError(f"{path}: is damaged: its checksum does not match its arrays.", remedy=remedy)
    return found


def write_text(text: str, path: Path) -> None:
    """Write a text file atomically; raises StoreError like write."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


# ------------------------------------------------------------------------------------------------ tasks


def task_to_dataset(data: TaskData) -> xr.Dataset:
    """A task as a labelled dataset; see docs/layout.md for the variables."""
    axes = [f"axis_{k}" for k in range(data.input.ndim - 1)]
    group = data.input_action.group
    variables: dict[str, Any] = {
        "input": (("sample", *axes), data.input),
        "target": (("sample", "output"), data.target),
        "readout": (("observable", "output"), data.readout.matrix),
        "group_product": (("element", "element_"), group.product),
        "group_planar": (("element", "row", "column"), group.planar),
        **_input_tables(data.input_action),
        "output_source": (("element", "output"), data.output_action.source),
        "output_sign": (("element", "output"), data.output_action.sign),
    }
    if data.label is not None:
        variables["label"] = ("sample", data.label)
    if group.linear is not None:
        variables["group_linear"] = ("element", group.linear)
    if group.shift is not None:
        variables["group_shift"] = (("element", "axis"), group.shift)
    coords = {
        "sample": np.arange(len(data.input)),
        "split": ("sample", np.asarray(data.split, dtype=str)),
        "element": np.asarray(group.elements, dtype=str),
    }
    attributes: dict[str, Any] = {
        "group": group.name,
        "output_name": data.output_name,
        "observable_name": data.readout.name,
        "data_provenance": json.dumps(data.provenance),
    }
    if isinstance(data.input_action, InterpolatedAction):
        attributes |= {"interpolation": data.input_action.interpolation, "fill": data.input_action.fill}
    return xr.Dataset(variables, coords, attributes)


def _input_tables(action: InputAction) -> dict[str, Any]:
    if isinstance(action, InterpolatedAction):
        taps = ("element", "pixel", "tap")
        return {"input_tap": (taps, action.source), "input_weight": (taps, action.weight)}
    coordinates = ("element", "coordinate")
    return {"input_source": (coordinates, action.source), "input_sign": (coordinates, action.sign)}


def _input_action(ds: xr.Dataset) -> InputAction:
    group, shape = get_group(ds.attrs["group"]), ds["input"].shape[1:]
    if "interpolation" in ds.attrs:
        tables = ds["input_tap"].values, ds["input_weight"].values
        return InterpolatedAction(group, shape, ds.attrs["interpolation"], float(ds.attrs["fill"]), *tables)
    return Action(group, shape, ds["input_source"].values, ds["input_sign"].values)


def task_from_dataset(dataset: xr.Dataset) -> TaskData:
    """The inverse of task_to_dataset."""
    ds = dataset.load()
    group = get_group(ds.attrs["group"])
    return TaskData(
        input=ds["input"].values,
        target=ds["target"].values,
        split=ds["split"].values.astype(str),
        input_action=_input_action(ds),
        output_action=Action(group, ds["target"].shape[1:], ds["output_source"].values, ds["output_sign"].values),
        output_name=ds.attrs["output_name"],
        readout=Readout(ds.attrs["observable_name"], ds["readout"].values),
        label=ds["label"].values if "label" in ds else None,
        provenance=json.loads(ds.attrs["data_provenance"]),
    )
