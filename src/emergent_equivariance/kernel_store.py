"""Kernels of an arm on disk: tiles computed job by job, assembled into one store.

Under results/STUDY/kernels/, for every kernel key: while a job runs KEY/tile-INDEX.zarr.zip, one per finished tile; for
every finished job KEY/tiles-FIRST-LAST.zarr.zip; in the end KEY.zarr.zip with κ_ij(u) for all samples i and training
samples j (``kernels.tiles``). Every file carries the key, the tiling and a checksum; one that does not fit is not
used. Neither packing nor assembly holds more than one tile in memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from . import store
from .canonicalisation import seen_inputs
from .errors import DataError, StoreError, StudyError
from .groups import Action
from .kernels import cross_kernels
from .kernels.orbits import INVARIANT, Kappa, computed, noninvariance
from .kernels.tiles import mirrored, tile_kernels
from .networks import build_network
from .settings import Settings
from .study import Arm, Study
from .study.tiling import Tiling, planned_tiling
from .tasks.base import TaskData
from .theory import kernel_samples

__all__ = ["assemble", "compute", "read"]

NAMES = ("nngp", "ntk")


def compute(
    study: Study,
    arm: Arm,
    data: TaskData,
    first: int,
    last: int,
    *,
    say: Callable[[str], None],
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Compute the tiles first…last, those that an earlier run finished excepted, and pack them into one file.

    Args:
      study: the study.
      arm: an arm whose kernels are planned in tiles.
      data: its task.
      first: index of the first tile.
      last: of the last, included.
      say: told of every left-over tile that is not used, and why.
      progress: called with (kernels finished, kernels in all).

    Returns:
      Number of tiles that were computed.

    Raises StudyError if the arm has no such tiles or its kernel is not invariant, DataError if the task has not as many
    samples as the study file says, UserError where a kernel is not finite, StoreError where a file cannot be written.
    """
    tiling = _tiling(study, arm)
    if not first <= last < tiling.count:
        raise StudyError(
            f"--first {first} --last {last}: the kernels {arm.kernel_key} have the tiles 0 to {tiling.count - 1}.",
            remedy="Give a range of them.",
        )
    samples, kappa, inverse = _samples(arm, data, tiling), _kappa(arm, data), _inverse(arm, data)
    attributes = _attributes(study, arm, tiling)
    chosen = range(first, last + 1)
    total = sum(tiling.tiles[index].pairs for index in chosen)
    done = made = 0
    for index in chosen:
        tile, path = tiling.tiles[index], _tile_path(study, arm, index)
        if not _usable(path, attributes | {"tile": index}, say):
            kernels = tile_kernels(kappa, samples, tiling.train, tile, inverse)
            named = {name: (("row", "column", "element"), k) for name, k in zip(NAMES, kernels, strict=True)}
            store.write(xr.Dataset(named), path, attributes | {"tile": index})
            made += 1
        done += tile.pairs
        if progress is not None:
            progress(done * tiling.elements, total * tiling.elements)
    _pack(study, arm, tiling, first, last)
    return made


def assemble(study: Study, arm: Arm, data: TaskData) -> None:
    """Put the packed tiles of an arm together into its kernel store, and remove what interrupted jobs left over.

    Raises StoreError naming a file that is missing, damaged or of another version of the study.
    """
    tiling = _tiling(study, arm)
    samples = _samples(arm, data, tiling)
    jobs = tiling.jobs(arm.settings.execution.tiles_per_job)
    sides = min(tiling.side, tiling.rows), min(tiling.side, tiling.train)
    everything = xr.Dataset(
        coords={
            "sample": samples,
            "split": ("sample", data.split[samples].astype(str)),
            "train": samples[: tiling.train],
            "element": list(data.input_action.group.elements[: tiling.elements]),
        },
        attrs={
            "convention": "entry (i, j, u) is the kernel of x_i and u x_j",
            "network": _network(arm, data).description,
        },
    )
    dims, shape = ("sample", "train", "element"), (tiling.rows, tiling.train, tiling.elements)
    shapes = {name: (dims, shape) for name in NAMES}
    chunks = _chunks(study, arm, tiling, jobs, _inverse(arm, data))
    attributes = store.provenance(study) | study.made_from(study.data_path(arm)) | {"config_hash": arm.kernel_key}
    store.write_chunks(everything, shapes, (*sides, tiling.elements), chunks, study.kernel_path(arm), attributes)
    packed = {study.tiles_path(arm, *job) for job in jobs}
    for path in _folder(study, arm).iterdir():
        if path not in packed and re.fullmatch(r"\.?tiles?-\d{6}.*", path.name):
            path.unlink()


def read(study: Study, arm: Arm) -> xr.Dataset | None:
    """The assembled kernels of an arm, opened but not loaded; None where none are planned.

    Raises StoreError if the store is missing, damaged or of another version of the study.
    """
    tiling = planned_tiling(arm.settings)
    if tiling is None:
        return None
    path = study.kernel_path(arm)
    if not path.is_file():
        raise StoreError(
            f"{path}: does not exist.",
            remedy=f"Run the study with snakemake, or by hand {_by_hand(study, arm, tiling)}.",
        )
    return store.read(path, config_hash=arm.kernel_key)


def _by_hand(study: Study, arm: Arm, tiling: Tiling) -> str:
    """The commands that make a store of kernels, in words."""
    jobs = tiling.jobs(arm.settings.execution.tiles_per_job)
    first, last = jobs[0]
    more = ""
    if len(jobs) > 1:
        more = f" (and so on, {len(jobs)} ranges of {last - first + 1} tiles up to tile {jobs[-1][1]})"
    where = f"{study.file} --key {arm.kernel_key}"
    return f"`emeq kernel-tiles {where} --first {first} --last {last}`{more}, then `emeq assemble-kernels {where}`"


# ------------------------------------------------------------------------------------------ what is computed


def _tiling(study: Study, arm: Arm) -> Tiling:
    tiling = planned_tiling(arm.settings)
    if tiling is None:
        raise StudyError(
            f"{study.file}: the kernels {arm.kernel_key} are not computed in tiles.",
            remedy="Lower execution.tiles_above; `emeq plan` prints what is planned.",
        )
    return tiling


def _samples(arm: Arm, data: TaskData, tiling: Tiling) -> np.ndarray:
    """(sample,) indices of the samples along the rows, the training samples first."""
    train = np.flatnonzero(data.split == "train")
    if isinstance(arm.settings, Settings):
        samples = kernel_samples(arm.settings, data)
    else:
        samples = np.concatenate([train, np.flatnonzero(data.split == "test")])
    if (len(samples), len(train)) != (tiling.rows, tiling.train):
        raise DataError(
            f"task: it gives {len(train)} training samples and {len(samples) - len(train)} others to be evaluated, the "
            f"study file says {tiling.train} and {tiling.rows - tiling.train}: its kernels cannot be cut into tiles.",
            remedy="Set task.train and task.test to the numbers that the task gives, or raise execution.tiles_above.",
        )
    return samples


def _network(arm: Arm, data: TaskData) -> Any:
    shape, group = data.input_action.shape, data.input_action.group
    arm.settings.network.check_input(shape, group.name)
    return build_network(arm.settings.network, shape, data.output_action.shape[0])


def _kappa(arm: Arm, data: TaskData) -> Kappa:
    """κ of the arm; of the identity alone for kernel regression."""
    network, execution = _network(arm, data), arm.settings.execution
    memory, threads = execution.block_memory, execution.kernel_threads
    if not isinstance(arm.settings, Settings):

        def identity(rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            x1, x2 = (seen_inputs(arm.settings.network, data, part) for part in (rows, columns))
            nngp, ntk = cross_kernels(network, x1, x2, memory=memory, threads=threads)
            return nngp[..., None], ntk[..., None]

        return identity
    if not isinstance(data.input_action, Action):
        raise StudyError(
            f"group: the action of {data.input_action.group.name} is not exact, so that tiles of the kernels between "
            "samples do not give those between their transforms.",
            remedy="Raise execution.tiles_above: the kernels are then computed on the augmented samples.",
        )
    deviation = noninvariance(network, data.input_action)
    if not deviation < INVARIANT:
        raise StudyError(
            f"network: its kernel changes by up to {deviation:.1g} under {data.input_action.group.name}, so that tiles "
            "of the kernels between samples do not give those between their transforms.",
            remedy="Raise execution.tiles_above: the kernels are then computed on the augmented samples.",
        )
    return computed(network, data.input_action, data.input, memory=memory, threads=threads)


def _inverse(arm: Arm, data: TaskData) -> np.ndarray:
    return data.input_action.group.inverse if isinstance(arm.settings, Settings) else np.zeros(1, dtype=np.int64)


# -------------------------------------------------------------------------------------------------- files


def _folder(study: Study, arm: Arm) -> Path:
    return study.place("kernels", arm.kernel_key)


def _tile_path(study: Study, arm: Arm, index: int) -> Path:
    return _folder(study, arm) / f"tile-{index:06d}.zarr.zip"


def _attributes(study: Study, arm: Arm, tiling: Tiling) -> dict[str, Any]:
    cut = [tiling.rows, tiling.train, tiling.side, tiling.elements]
    return store.provenance(study) | {"config_hash": arm.kernel_key, "tiling": cut}


def _open(path: Path, attributes: dict[str, Any]) -> xr.Dataset:
    """A file of tiles, verified; raises StoreError if it is missing, damaged, of another study or cut otherwise."""
    found = store.read(path, config_hash=attributes["config_hash"])
    for name in ("tiling", "tile"):
        if found.attrs.get(name) != attributes.get(name):
            raise StoreError(
                f"{path}: holds {name} {found.attrs.get(name)}, the study file now gives {attributes.get(name)}.",
                remedy="Delete this file and run the study again.",
            )
    return found


def _usable(path: Path, attributes: dict[str, Any], say: Callable[[str], None]) -> bool:
    """Whether a tile that an earlier run left over can be used."""
    if not path.exists():
        return False
    try:
        _open(path, attributes).close()
    except StoreError as error:
        say(f"warning: {error} The tile is computed again.")
        return False
    return True


def _pack(study: Study, arm: Arm, tiling: Tiling, first: int, last: int) -> None:
    """Move the tiles first…last into one file; tiles at the edges are padded with NaN."""
    attributes = _attributes(study, arm, tiling)
    height, width = min(tiling.side, tiling.rows), min(tiling.side, tiling.train)
    paths = [_tile_path(study, arm, index) for index in range(first, last + 1)]

    def chunks() -> Iterator[tuple[str, tuple[int, ...], np.ndarray]]:
        for k, path in enumerate(paths):
            with _open(path, attributes | {"tile": first + k}) as tile:
                for name in NAMES:
                    padded = np.full((1, height, width, tiling.elements), np.nan)
                    rows, columns, _ = tile[name].shape
                    padded[0, :rows, :columns] = tile[name].values
                    yield name, (k, 0, 0, 0), padded

    dims, shape = ("tile", "row", "column", "element"), (len(paths), height, width, tiling.elements)
    index = xr.Dataset(coords={"tile": np.arange(first, last + 1)})
    target = study.tiles_path(arm, first, last)
    store.write_chunks(index, {name: (dims, shape) for name in NAMES}, (1, *shape[1:]), chunks(), target, attributes)
    for path in paths:
        path.unlink()


def _chunks(
    study: Study, arm: Arm, tiling: Tiling, jobs: list[tuple[int, int]], inverse: np.ndarray
) -> Iterator[tuple[str, tuple[int, ...], np.ndarray]]:
    """Chunks of the assembled store: the tiles of all jobs and their mirror images."""
    attributes = _attributes(study, arm, tiling)
    for first, last in jobs:
        with _open(study.tiles_path(arm, first, last), attributes) as packed:
            for index in range(first, last + 1):
                tile = tiling.tiles[index]
                height, width = tile.rows.stop - tile.rows.start, tile.columns.stop - tile.columns.start
                for name in NAMES:
                    kernel = packed[name][index - first, :height, :width].values
                    yield name, (tile.block_row, tile.block_column, 0), kernel
                    if tile.block_column < tile.block_row < tiling.column_blocks:
                        inside = min(tile.rows.stop, tiling.train) - tile.rows.start
                        yield name, (tile.block_column, tile.block_row, 0), mirrored(kernel[:inside], inverse)
