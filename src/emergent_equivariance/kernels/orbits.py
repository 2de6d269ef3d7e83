"""Kernels on orbits of samples, where the kernel is invariant under the group.

If Θ(gx, gx′) = Θ(x, x′) for all g, every entry between two orbits is one of |G| numbers,

    Θ(g x_i, h x_j) = κ_ij(g⁻¹h),   κ_ij(u) = Θ(x_i, u x_j) = κ_ji(u⁻¹),

and the Gram matrix of the whole orbits, which commutes with the group, falls into one block per irrep ρ:

    B(ρ)_(i,b),(j,c) = Σ_u κ_ij(u) ρ_bc(u)     (d N × d N, Hermitian, d times in the Gram matrix),

for the transform v̂_ac(j) = √(d/|G|) Σ_h ρ_ac(h)* v(j, h) of functions on the orbits (docs/theory.md). The block
of the trivial irrep is |G| times the orbit-averaged kernel Θ̄. The same holds for the NNGP kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from math import ceil

import numpy as np
import xarray as xr

from ..groups import Action, Group
from ..networks import Network
from . import MEMORY, Progress, cross_kernels

__all__ = [
    "INVARIANT",
    "Kappa",
    "OrbitBlocks",
    "augmented",
    "computed",
    "irrep_blocks",
    "noninvariance",
    "on_samples",
    "on_training",
    "orbit_kernels",
    "stored",
]

#: (rows, columns), both arrays of sample indices → (nngp, ntk), each κ (row, column, element).
Kappa = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

#: Relative deviation of Θ(gx, gx′) from Θ(x, x′) up to which a kernel counts as invariant.
INVARIANT = 1e-10

#: Sides of a tile in samples. TILES of them make a row of the matrix where the limits allow: what is computed
#: twice, in the tiles on the diagonal, is then at most 1/TILES.
SMALLEST_SIDE, LARGEST_SIDE, TILES = 8, 256, 16


def computed(network: Network, action: Action, inputs: np.ndarray, *, memory: int = MEMORY, threads: int = 1) -> Kappa:
    """κ from the network's kernel, for samples that are rows of ``inputs`` (sample, *input shape).

    Where every member is invariant under the action, κ_ij(u) is the same for all u and is evaluated once.
    """
    order = action.group.order
    distinct = 1 if _has_invariant_members(network, action) else order

    @lru_cache(maxsize=1)
    def orbits(columns: bytes) -> np.ndarray:
        moved = action.orbit(inputs[np.frombuffer(columns, dtype=np.intp)])
        return moved[:, :distinct].reshape(-1, *action.shape)

    def kappa(rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        moved = orbits(np.asarray(columns, dtype=np.intp).tobytes())
        nngp, ntk = cross_kernels(network, inputs[rows], moved, memory=memory, threads=threads)
        shape = len(rows), len(columns), distinct
        return np.repeat(nngp.reshape(shape), order // distinct, -1), np.repeat(
            ntk.reshape(shape), order // distinct, -1
        )

    return kappa


def stored(kernels: xr.Dataset) -> Kappa:
    """κ from a kernel store with nngp and ntk (sample, train, element), coordinates ``sample`` and ``train``.

    Only the entries asked for are read.
    """
    positions = [{int(index): row for row, index in enumerate(kernels[name].values)} for name in ("sample", "train")]

    def kappa(rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sample, train = ([at[int(i)] for i in part] for at, part in zip(positions, (rows, columns), strict=True))
        part = kernels[["nngp", "ntk"]].isel(sample=sample, train=train)
        return part["nngp"].values, part["ntk"].values

    return kappa


def _has_invariant_members(network: Network, action: Action) -> bool:
    """Whether the network averages over a group of maps that contains all those of the action."""
    average = None if network.stack is None else network.stack.average
    if average is None:
        return False
    maps = {(tuple(source), tuple(sign)) for source, sign in zip(average.source, average.sign, strict=True)}
    return all((tuple(source), tuple(sign)) in maps for source, sign in zip(action.source, action.sign, strict=True))


def noninvariance(network: Network, action: Action) -> float:
    """Largest relative deviation of K and Θ(gx, gx′) from Θ(x, x′), for Gaussian x, x′ and all g."""
    probes = np.random.default_rng(0).standard_normal((2, *action.shape))
    probes[1] += probes[0]
    first, second = action.orbit(probes)
    kernels = np.array([cross_kernels(network, first[[g]], second[[g]]) for g in range(action.group.order)])
    return float((np.abs(kernels - kernels[0]) / np.abs(kernels[0])).max())


# ------------------------------------------------------------------------------------------------ blocks


@dataclass(frozen=True, eq=False)
class OrbitBlocks:
    """Blocks B(ρ) of the kernels between the orbits of samples and of training samples.

    Attributes:
      nngp: irrep → (sample, d, train, d); empty unless asked for. The first samples are the training samples.
      ntk: irrep → (sample, d, train, d).
      smallest: smallest entry κ_ij(u) of the NTK between training samples.
    """

    nngp: dict[int, np.ndarray]
    ntk: dict[int, np.ndarray]
    smallest: float


def on_training(blocks: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
    """irrep → (row, row_) Hermitian block between training samples, from blocks (sample, d, train, d)."""
    return {i: block[: block.shape[2]].reshape(-1, block.shape[2] * block.shape[3]) for i, block in blocks.items()}


def on_samples(blocks: dict[int, np.ndarray], samples: np.ndarray) -> dict[int, np.ndarray]:
    """irrep → (sample, d, row) between chosen samples and the training samples, from blocks (sample, d, train, d)."""
    return {i: block[samples].reshape(len(samples), block.shape[1], -1) for i, block in blocks.items()}


def irrep_blocks(
    kappa: Kappa,
    group: Group,
    irreps: Sequence[int],
    samples: np.ndarray,
    train: int,
    *,
    nngp: bool,
    progress: Progress | None = None,
) -> OrbitBlocks:
    """B(ρ) for some irreps, tile by tile: κ as a whole is never held.

    Args:
      kappa: the kernels; must be invariant under the group.
      group: the group.
      irreps: indices of irreps of the group.
      samples: (sample,) indices, the training samples first.
      train: number of training samples.
      nngp: whether the blocks of the NNGP kernel are wanted too.
      progress: called with (pairs of inputs finished, pairs in all).

    Returns:
      The blocks; those between training samples are exactly Hermitian.
    """
    names = ("nngp", "ntk") if nngp else ("ntk",)
    blocks: dict[str, dict[int, np.ndarray]] = {"nngp": {}, "ntk": {}}
    for i in irreps:
        d, dtype = group.irreps[i].shape[1], group.irreps[i].dtype
        for name in names:
            blocks[name][i] = np.empty((len(samples), d, train, d), dtype)
    smallest = np.inf
    for row, column, tiles in _tiles(kappa, group, samples, train, progress):
        symmetric = row.stop <= train
        if symmetric:
            smallest = min(smallest, float(tiles["ntk"].min()))
        for name in names:
            for i, block in blocks[name].items():
                part = _transformed(tiles[name], group.irreps[i])
                if row == column:
                    part = (part + part.conj().transpose(2, 3, 0, 1)) / 2
                block[row, :, column] = part
                if symmetric:
                    block[column, :, row] = part.conj().transpose(2, 3, 0, 1)
    return OrbitBlocks(blocks["nngp"], blocks["ntk"], smallest)


def orbit_kernels(
    kappa: Kappa, group: Group, samples: np.ndarray, train: int, progress: Progress | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """κ itself: (nngp, ntk), each (sample, train, element); arguments as for irrep_blocks."""
    result = {name: np.empty((len(samples), train, group.order)) for name in ("nngp", "ntk")}
    for row, column, tiles in _tiles(kappa, group, samples, train, progress):
        for name, kernel in result.items():
            kernel[row, column] = tiles[name]
            if row.stop <= train:
                kernel[column, row] = tiles[name].swapaxes(0, 1)[..., group.inverse]
    return result["nngp"], result["ntk"]


def augmented(kernel: np.ndarray, group: Group, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Kernel between transformed samples from κ: Θ(g x_i, h x_j) = κ_ij(g⁻¹h).

    Args:
      kernel: (sample, train, element) κ.
      group: the group.
      rows: (..., 2) pairs (position of the sample i, element g).
      columns: (column, 2) pairs (position of the training sample j, element h).

    Returns:
      (..., column).
    """
    difference = group.product[group.inverse]
    i, g = rows[..., 0, None], rows[..., 1, None]
    return kernel[i, columns[:, 0], difference[g, columns[:, 1]]]


def _transformed(tile: np.ndarray, irrep: np.ndarray) -> np.ndarray:
    """Σ_u κ_ij(u) ρ_bc(u): (row, column, element) → (row, d, column, d).

    Summed element by element, so that a block has the same bits whichever others are asked for.
    """
    rows, columns, order = tile.shape
    d = irrep.shape[1]
    result = np.zeros((rows, d, columns, d), dtype=irrep.dtype)
    for b in range(d):
        for c in range(d):
            for u in range(order):
                if irrep[u, b, c] != 0:
                    result[:, b, :, c] += tile[..., u] * irrep[u, b, c]
    return result


def _tiles(
    kappa: Kappa, group: Group, samples: np.ndarray, train: int, progress: Progress | None
) -> Iterator[tuple[slice, slice, dict[str, np.ndarray]]]:
    """Tiles of κ: the upper triangle between training samples, everything between the others and these.

    Yields the rows, the columns and {"nngp", "ntk"}: κ (row, column, element) with κ_ij(u) = κ_ji(u⁻¹) exactly.
    """
    upper, others = _slices(0, train), _slices(train, len(samples))
    pairs = [(r, c) for k, c in enumerate(upper) for r in (*upper[: k + 1], *others)]  # columns change last
    total, done = sum(_size(r) * _size(c) for r, c in pairs) * group.order, 0
    width = max(map(_size, upper))
    for row, column in pairs:
        height = max(map(_size, others)) if row.start >= train else width
        tiles = kappa(samples[_padded(row, height)], samples[_padded(column, width)])
        named = dict(zip(("nngp", "ntk"), (tile[: _size(row), : _size(column)] for tile in tiles), strict=True))
        if row == column:
            named = {k: (tile + tile.swapaxes(0, 1)[..., group.inverse]) / 2 for k, tile in named.items()}
        yield row, column, named
        done += _size(row) * _size(column) * group.order
        if progress is not None:
            progress(done, total)


def _slices(start: int, stop: int) -> list[slice]:
    """Slices of a range, of lengths that differ by at most one."""
    rows = stop - start
    count = ceil(rows / min(LARGEST_SIDE, max(SMALLEST_SIDE, ceil(rows / TILES))))
    edges = [start + rows * k // count for k in range(count + 1)] if count else [start]
    return [slice(a, b) for a, b in pairwise(edges)]


def _size(part: slice) -> int:
    return part.stop - part.start


def _padded(part: slice, size: int) -> np.ndarray:
    """Indices of a slice, the last one repeated up to ``size``: equal shapes are compiled once."""
    return np.minimum(np.arange(part.start, part.start + size), part.stop - 1)
