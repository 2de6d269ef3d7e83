"""Labelled datasets on disk: the only reader and writer of zarr.

A store is one zip file with a zarr v3 hierarchy in it. It is written beside its final place, flushed and
renamed, so that a file under its final name is complete; it carries a SHA-256 over its arrays, so that a
damaged one is refused by name. Missing data is NaN, never 0. What does not fit into memory is written chunk by chunk.
"""

from __future__ import annotations

import errno
import functools
import glob
import hashlib
import importlib.metadata
import itertools
import json
import os
import subprocess
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from .errors import StoreError
from .groups import Action, get_group
from .interpolation import InputAction, InterpolatedAction
from .study import FORMAT, Arm, Study
from .tasks.base import Readout, TaskData

#: Packages whose versions every store says.
VERSIONED = ("emergent-equivariance", "jax", "neural-tangents", "numpy", "scipy", "torch", "xarray", "zarr")

#: Packages whose versions the bits of a trained member depend on.
NUMERICAL = ("emergent-equivariance", "jax", "jaxlib", "numba", "numpy", "optax", "torch")

#: Largest block of a leading dimension that is read or hashed at once.
BLOCK_BYTES = 32 * 2**20


#: Attribute of a variable that was written chunk by chunk: the shape of its chunks.
CHUNK = "checksum_chunk"


def checksum(dataset: xr.Dataset) -> str:
    """SHA-256 over names, dimensions, types and values of all variables and coordinates.

    Of a variable with the attribute ``checksum_chunk`` the SHA-256 of its chunks enter, in the order of their index.
    """
    return _checksum(dataset, {})


def _checksum(dataset: xr.Dataset, chunks: Mapping[str, Mapping[tuple[int, ...], bytes]]) -> str:
    """The checksum, with the digests of the chunks of some variables known."""
    digest = hashlib.sha256()
    for name in sorted(map(str, dataset.variables)):
        variable = dataset.variables[name]
        if variable.dtype.kind in "OUST":
            values = [str(value) for value in np.asarray(variable).reshape(-1)]
            digest.update(json.dumps([name, variable.dims, variable.shape, values]).encode())
            continue
        kind = variable.dtype.newbyteorder("<").str
        digest.update(json.dumps([name, variable.dims, variable.shape, kind]).encode())
        if CHUNK in variable.attrs:
            known = chunks.get(name)
            for index, region in _chunks(variable.shape, variable.attrs[CHUNK]):
                digest.update(known[index] if known is not None else _chunk_digest(np.asarray(variable[region])))
            continue
        for block in _blocks(variable):
            digest.update(_bytes(block))
    return digest.hexdigest()


def _bytes(block: np.ndarray) -> bytes:
    """Values in C order and little-endian, with one NaN: zarr keeps no sign."""
    if block.dtype.kind == "f":
        block = np.where(np.isnan(block), np.array(np.nan, block.dtype), block)
    return np.ascontiguousarray(block, dtype=block.dtype.newbyteorder("<")).tobytes()


def _chunk_digest(block: np.ndarray) -> bytes:
    return hashlib.sha256(_bytes(block)).digest()


def _chunks(shape: Sequence[int], chunk: Sequence[int]) -> Iterator[tuple[tuple[int, ...], tuple[slice, ...]]]:
    """Index and region of every chunk of an array, in C order."""
    counts = [range(-(-length // size)) for length, size in zip(shape, chunk, strict=True)]
    for index in itertools.product(*counts):
        yield index, _region(index, shape, chunk)


def _region(index: Sequence[int], shape: Sequence[int], chunk: Sequence[int]) -> tuple[slice, ...]:
    axes = zip(index, shape, chunk, strict=True)
    return tuple(slice(k * size, min((k + 1) * size, length)) for k, length, size in axes)


def _blocks(variable: xr.Variable) -> Iterator[np.ndarray]:
    if variable.ndim == 0:
        yield np.asarray(variable)
        return
    rows = max(1, BLOCK_BYTES // max(1, variable.nbytes // max(1, len(variable))))
    for start in range(0, len(variable), rows):
        yield np.asarray(variable[start : start + rows])


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
    """Attributes every store of a study carries: study, arm, versions, commit."""
    attributes: dict[str, Any] = {
        "study": study.name,
        "format": FORMAT,
        "versions": json.dumps(versions(VERSIONED)),
        "git_commit": git_commit(),
    }
    if arm is not None:
        attributes["arm"] = arm.path
        attributes["settings"] = arm.settings.model_dump_json()
    return attributes


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success flush it to disk and rename it, else remove it.

    Raises StoreError where the file system refuses (full, read-only, no permission).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise _write_error(path, error) from None
    finally:
        if temporary.exists():
            temporary.unlink()


def remove_unfinished(path: Path) -> None:
    """Remove what killed writers of ``path`` left beside it; those still running on this machine keep theirs."""
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        process = temporary.name.split(".")[-2]
        if not (process.isdigit() and _running(int(process))):
            temporary.unlink(missing_ok=True)


def _running(process: int) -> bool:
    """Whether another process with this number runs here."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _write_error(path: Path, error: OSError) -> StoreError:
    reasons = {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "your disk quota is used up",
        errno.EROFS: "the disk is read-only",
    }
    reason = reasons.get(error.errno or 0, error.strerror or str(error))
    return StoreError(
        f"{path}: cannot be written: {reason}. Nothing already computed is lost.",
        remedy="Make room or choose another results folder, then run the same command again.",
    )


def write(dataset: xr.Dataset, path: Path, attributes: Mapping[str, Any]) -> None:
    """Write a dataset as one zip file, atomically, with its checksum among the attributes.

    Raises StoreError if the disk is full or not writable.
    """
    import zarr

    dataset = dataset.assign_attrs({**dataset.attrs, **attributes})
    dataset = dataset.assign_attrs(checksum=checksum(dataset))
    dataset = _cast_text(dataset, object)  # variable-length UTF-8 is the text type zarr v3 specifies
    encoding: dict[Any, dict[str, Any]] = {}
    for name, variable in dataset.variables.items():
        dataset[name].encoding = {}
        if variable.ndim and variable.dtype.kind == "f" and variable.size:
            rows = max(1, min(len(variable), BLOCK_BYTES // 2 // max(1, variable.nbytes // len(variable))))
            encoding[name] = {"chunks": (rows, *variable.shape[1:]), "_FillValue": np.nan}
    entries: dict[str, Any] = {}
    memory = zarr.storage.MemoryStore(store_dict=entries)
    dataset.to_zarr(memory, mode="w", consolidated=False, zarr_format=3, encoding=encoding)
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        _move(entries, archive)


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
            region = _region(index, arrays[name].shape, chunk)
            if index in digests[name] or values.shape != tuple(part.stop - part.start for part in region):
                raise ValueError(f"{path}: chunk {index} of {name} comes twice or has the shape {values.shape}")
            arrays[name][region] = values
            digests[name][index] = _chunk_digest(values)
            _move(entries, archive, kept)
        for name, (_, shape) in shapes.items():
            missing = [index for index, _ in _chunks(shape, chunk) if index not in digests[name]]
            if missing:
                raise ValueError(f"{path}: {len(missing)} chunks of {name} are missing, the first is {missing[0]}")
        zarr.open_group(memory, mode="r+").attrs["checksum"] = _checksum(template, digests)
        _move(entries, archive)


def read(path: Path, *, config_hash: str | None = None) -> xr.Dataset:
    """Open a store lazily after verifying its checksum (and the config hash it must carry, if given).

    Raises StoreError naming the file if it is missing, torn, altered, or made by other settings.
    """
    if not path.is_file():
        raise StoreError(f"{path}: does not exist.", remedy="Run the study again: only what is missing is made.")
    remedy = "Delete this file and run the study again: only it is made again."
    try:
        _check_archive(path)
        dataset = xr.open_dataset(f"zip::{path}", engine="zarr", consolidated=False, chunks=None)
        claimed = dataset.attrs.get("checksum")
        intact = claimed == checksum(dataset)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, KeyError, ValueError, RuntimeError) as error:
        raise StoreError(f"{path}: is damaged and cannot be read ({error}).", remedy=remedy) from None
    if not intact:
        raise StoreError(f"{path}: is damaged: its checksum does not match its arrays.", remedy=remedy)
    if dataset.attrs.get("format") != FORMAT:
        raise StoreError(
            f"{path}: has format {dataset.attrs.get('format')}, this version reads {FORMAT}.", remedy=remedy
        )
    found = dataset.attrs.get("config_hash")
    if config_hash is not None and found != config_hash:
        raise StoreError(
            f"{path}: was written by another version of the study (config hash {found}, expected {config_hash}).",
            remedy=remedy + " Or rename the study to keep both.",
        )
    dataset = _cast_text(dataset, str)
    dataset.encoding["file"] = str(path)
    return dataset


def _check_archive(path: Path) -> None:
    """Raise what zipfile raises for a torn or altered archive; zarr reads it in tasks that log what they raise."""
    with zipfile.ZipFile(path) as archive:
        if (name := archive.testzip()) is not None:
            raise zipfile.BadZipFile(f"bad CRC-32 of {name}")


def _cast_text(dataset: xr.Dataset, kind: type) -> xr.Dataset:
    text = {
        name: xr.Variable(v.dims, np.asarray(v).astype(object).astype(kind), v.attrs)
        for name, v in dataset.variables.items()
        if v.dtype.kind in "OUST"
    }
    coords = {name: v for name, v in text.items() if name in dataset.coords}
    return dataset.assign({name: v for name, v in text.items() if name not in coords}).assign_coords(coords)


def write_netcdf(dataset: xr.Dataset, path: Path, attributes: Mapping[str, Any]) -> None:
    """Write a dataset as netCDF-4, atomically; raises StoreError like write."""
    compressed = {name: {"zlib": True} for name, v in dataset.data_vars.items() if v.ndim > 1 and v.dtype.kind == "f"}
    with atomic_path(path) as temporary:
        dataset.assign_attrs(attributes).to_netcdf(temporary, engine="h5netcdf", encoding=compressed)


def read_netcdf(path: Path) -> xr.Dataset:
    """Read a netCDF file into memory; raises StoreError if it is missing or damaged."""
    remedy = "Delete it, if it is there, and run the study again."
    try:
        with xr.open_dataset(path, engine="h5netcdf") as dataset:
            return dataset.load()
    except (OSError, KeyError, ValueError) as error:
        raise StoreError(f"{path}: cannot be read ({error}).", remedy=remedy) from None


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
