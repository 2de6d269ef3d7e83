"""Analytic NNGP and NTK between batches of inputs, in float64 and in blocks of bounded memory.

K(x, x′) = E[f(x) f(x′)] at initialisation and Θ(x, x′) = E[∇f(x)·∇f(x′)], in the limit of infinite width, per
output (Jacot et al. 2018; recursions: Novak et al. 2019, Arora et al. 2019), evaluated by the kernel of the
network's own neural-tangents definition.

All functions need 64-bit jax (``jax.config.update("jax_enable_x64", True)``, done by the process that computes
theory, never here) and raise RuntimeError without it; they raise UserError where a kernel is not finite.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import ceil, isqrt
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import UserError
from ..networks import Network

__all__ = ["COPIES", "MEMORY", "cross_kernels", "gram", "orbit_blocks"]

#: Default budget in bytes for the covariances of one block.
MEMORY = 512 * 2**20

#: Arrays of the largest covariance that are alive at once (measured: 10 pooled, 6 flattened).
COPIES = 10

#: Largest side of a block: beyond it nothing is gained, and its arrays leave the cache.
LARGEST_BLOCK = 256

#: Called with (pairs finished, pairs in all).
Progress = Callable[[int, int], None]


def cross_kernels(
    network: Network, x1: np.ndarray, x2: np.ndarray, *, memory: int = MEMORY, progress: Progress | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """NNGP and NTK between two batches.

    Args:
      network: the architecture.
      x1: (row, *input shape).
      x2: (column, *input shape).
      memory: bytes the intermediate covariances of a block may take.
      progress: called after each block.

    Returns:
      (nngp, ntk), each (row, column) float64.
    """
    rows, columns = _blocks(network, len(x1), memory), _blocks(network, len(x2), memory)
    return _fill(network, x1, x2, [(r, c) for r in rows for c in columns], progress)


def gram(
    network: Network, x: np.ndarray, *, memory: int = MEMORY, progress: Progress | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """NNGP and NTK of a batch (row, *input shape) with itself, exactly symmetric; see cross_kernels."""
    blocks = _blocks(network, len(x), memory)
    upper = [(r, c) for i, r in enumerate(blocks) for c in blocks[i:]]
    kernels = _fill(network, x, x, upper, progress)
    for kernel in kernels:
        for row, column in upper:
            block = kernel[row, column]
            if row == column:
                block = (block + block.T) / 2
                kernel[row, column] = block
            kernel[column, row] = block.T
    return kernels


def orbit_blocks(
    network: Network, orbits: np.ndarray, *, memory: int = MEMORY, progress: Progress | None = None
) -> np.ndarray:
    """NNGP within each orbit: (sample, element, *input shape) → (sample, element, element_), symmetric."""
    _require_float64()
    samples, order = orbits.shape[:2]
    result = np.empty((samples, order, order))
    size = max(1, min(samples, memory // (_bytes_per_pair(network) * order**2), LARGEST_BLOCK))
    for block in _slices(samples, size):
        padded = _padded(orbits, block, size)
        nngp = np.asarray(_compiled_orbits(network)(padded))[: block.stop - block.start]
        result[block] = (nngp + nngp.swapaxes(1, 2)) / 2
        if progress is not None:
            progress(block.stop * order**2, samples * order**2)
    _check_finite(network, result, "NNGP")
    return result


def _fill(
    network: Network, x1: np.ndarray, x2: np.ndarray, tiles: list[tuple[slice, slice]], progress: Progress | None
) -> tuple[np.ndarray, np.ndarray]:
    _require_float64()
    nngp, ntk = np.zeros((len(x1), len(x2))), np.zeros((len(x1), len(x2)))
    compiled = _compiled(network)
    height = max((row.stop - row.start for row, _ in tiles), default=0)
    width = max((column.stop - column.start for _, column in tiles), default=0)
    pairs = sum((row.stop - row.start) * (column.stop - column.start) for row, column in tiles)
    done = 0
    for row, column in tiles:
        kernels = compiled(_padded(x1, row, height), _padded(x2, column, width))
        within = slice(row.stop - row.start), slice(column.stop - column.start)
        nngp[row, column] = np.asarray(kernels.nngp)[within]
        ntk[row, column] = np.asarray(kernels.ntk)[within]
        done += within[0].stop * within[1].stop
        if progress is not None:
            progress(done, pairs)
    _check_finite(network, nngp, "NNGP")
    _check_finite(network, ntk, "NTK")
    return nngp, ntk


@lru_cache(maxsize=8)
def _compiled(network: Network) -> Callable[..., Any]:
    return jax.jit(lambda x1, x2: network.kernel_fn(x1, x2, ("nngp", "ntk")))


@lru_cache(maxsize=8)
def _compiled_orbits(network: Network) -> Callable[..., Any]:
    return jax.jit(jax.vmap(lambda orbit: network.kernel_fn(orbit, orbit, ("nngp",)).nngp))


def _bytes_per_pair(network: Network) -> int:
    return COPIES * np.dtype(np.float64).itemsize * network.entries_per_pair


def _blocks(network: Network, rows: int, memory: int) -> list[slice]:
    side = isqrt(max(1, memory // _bytes_per_pair(network)))
    return _slices(rows, min(side, LARGEST_BLOCK))


def _slices(rows: int, largest: int) -> list[slice]:
    """Nearly equal slices, so that padding them to one shape (one compilation) costs little."""
    if rows == 0:
        return []
    size = ceil(rows / ceil(rows / largest))
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def _padded(x: np.ndarray, block: slice, size: int) -> np.ndarray:
    """``x[block]`` in float64, padded with copies of its last entry to ``size`` entries."""
    return np.asarray(x[np.minimum(np.arange(block.start, block.start + size), block.stop - 1)], dtype=np.float64)


def _require_float64() -> None:
    if jnp.result_type(float) != np.float64:
        raise RuntimeError(
            "Analytic kernels need 64-bit jax: call jax.config.update('jax_enable_x64', True) first, "
            "in the process that computes theory."
        )


def _check_finite(network: Network, kernel: np.ndarray, name: str) -> None:
    bad = np.argwhere(~np.isfinite(kernel))
    if len(bad):
        raise UserError(
            f"network: the {name} of {network.description} is not finite for {len(bad)} of {kernel.size} pairs of "
            f"inputs (first at {tuple(int(i) for i in bad[0])}).",
            remedy="Check that the inputs are finite and of order one, and lower network.W_std or network.b_std.",
        )
