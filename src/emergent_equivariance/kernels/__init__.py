"""Analytic NNGP and NTK between batches of inputs, in float64 and in blocks of bounded memory.

K(x, x′) = E[f(x) f(x′)] at initialisation and Θ(x, x′) = E[∇f(x)·∇f(x′)], in the limit of infinite width, per
output (Jacot et al. 2018; recursions: Novak et al. 2019, Arora et al. 2019). Convolutional networks
(``Network.stack``) are evaluated by a compiled engine, ``convolutional`` and ``fused``, all others by the kernel of
the network's own definition, ``Network.kernel_fn``.

The latter needs 64-bit jax (``jax.config.update("jax_enable_x64", True)``, done by the process that computes
theory, never here) and raises RuntimeError without it. All functions raise UserError where a kernel is not finite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, isqrt
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import UserError
from ..networks import Network
from . import convolutional

__all__ = ["COPIES", "MEMORY", "cross_kernels", "gram", "orbit_blocks"]

#: Default budget in bytes for the covariances of one block.
MEMORY = 512 * 2**20

#: Arrays of the largest covariance that are alive at once (measured: 10 pooled, 6 flattened).
COPIES = 10

#: Largest side of a block: beyond it nothing is gained, and its arrays leave the cache.
LARGEST_BLOCK = 256

#: Called with (pairs finished, pairs in all).
Progress = Callable[[int, int], None]

#: Rows and columns.
Block = tuple[slice, slice]


@dataclass(frozen=True)
class _Job:
    """Kernels to be computed.

    Attributes:
      network, x1, x2, threads, progress: see cross_kernels.
      blocks: those of the matrix that are evaluated.
      symmetric: x1 is x2, and blocks with row == column become symmetric.
    """

    network: Network
    x1: np.ndarray
    x2: np.ndarray
    blocks: list[Block]
    symmetric: bool
    threads: int
    progress: Progress | None

    def report(self, done: int, pairs: int) -> None:
        if self.progress is not None:
            self.progress(done, pairs)


def cross_kernels(
    network: Network,
    x1: np.ndarray,
    x2: np.ndarray,
    *,
    memory: int = MEMORY,
    threads: int = 1,
    progress: Progress | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """NNGP and NTK between two batches.

    Args:
      network: the architecture.
      x1: (row, *input shape).
      x2: (column, *input shape).
      memory: bytes that what is kept besides inputs and result may take.
      threads: threads of the compiled engine; the result does not depend on it. ``Network.kernel_fn`` has its own.
      progress: called as blocks finish.

    Returns:
      (nngp, ntk), each (row, column) float64.
    """
    rows, columns = _blocks(network, len(x1), memory), _blocks(network, len(x2), memory)
    return _fill(_Job(network, x1, x2, [(r, c) for r in rows for c in columns], False, threads, progress))


def gram(
    network: Network,
    x: np.ndarray,
    *,
    memory: int = MEMORY,
    threads: int = 1,
    progress: Progress | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """NNGP and NTK of a batch (row, *input shape) with itself, exactly symmetric; see cross_kernels."""
    blocks = _blocks(network, len(x), memory)
    upper = [(r, c) for i, r in enumerate(blocks) for c in blocks[i:]]
    kernels = _fill(_Job(network, x, x, upper, True, threads, progress))
    for kernel in kernels:
        for row, column in upper:
            kernel[column, row] = kernel[row, column].T
    return kernels


def orbit_blocks(
    network: Network,
    orbits: np.ndarray,
    *,
    memory: int = MEMORY,
    threads: int = 1,
    progress: Progress | None = None,
) -> np.ndarray:
    """NNGP within each orbit: (sample, element, *input shape) → (sample, element, element_), symmetric."""
    samples, order = orbits.shape[:2]
    result = np.empty((samples, order, order))
    bytes_per_orbit = (
        _bytes_per_pair(network) * order**2 if network.stack is None else _bytes_per_image(network) * order
    )
    size = max(1, min(samples, memory // bytes_per_orbit, LARGEST_BLOCK))
    for block in _slices(samples, size):
        if network.stack is not None:
            x = orbits[block].reshape(-1, *network.input_shape)
            first, second = np.triu_indices(order)
            starts = order * np.arange(block.stop - block.start)[:, None]
            nngp, _ = convolutional.pair_kernels(
                network.stack, x, x, (starts + first).ravel(), (starts + second).ravel(), threads=threads
            )
            result[block, first, second] = result[block, second, first] = nngp.reshape(len(starts), -1)
        else:
            _require_float64()
            nngp = np.asarray(_compiled_orbits(network)(_padded(orbits, block, size)))[: block.stop - block.start]
            result[block] = (nngp + nngp.swapaxes(1, 2)) / 2
        if progress is not None:
            progress(block.stop * order**2, samples * order**2)
    _check_finite(network, "NNGP", result, lambda at: (orbits[at[0], at[1]], orbits[at[0], at[2]]))
    return result


def _fill(job: _Job) -> tuple[np.ndarray, np.ndarray]:
    """NNGP and NTK (row, column), zero outside the blocks."""
    shape = len(job.x1), len(job.x2)
    nngp, ntk = np.zeros(shape), np.zeros(shape)
    evaluate = _by_kernel_fn if job.network.stack is None else _by_stack
    for (row, column), (block_nngp, block_ntk) in evaluate(job):
        nngp[row, column], ntk[row, column] = block_nngp, block_ntk
    for name, kernel in (("NNGP", nngp), ("NTK", ntk)):
        _check_finite(job.network, name, kernel, lambda at: (job.x1[at[0]], job.x2[at[1]]))
    return nngp, ntk


def _by_kernel_fn(job: _Job) -> Iterator[tuple[Block, list[np.ndarray]]]:
    _require_float64()
    compiled = _compiled(job.network)
    height = max((row.stop - row.start for row, _ in job.blocks), default=0)
    width = max((column.stop - column.start for _, column in job.blocks), default=0)
    pairs = sum((row.stop - row.start) * (column.stop - column.start) for row, column in job.blocks)
    done = 0
    for row, column in job.blocks:
        padded = compiled(_padded(job.x1, row, height), _padded(job.x2, column, width))
        within = slice(row.stop - row.start), slice(column.stop - column.start)
        kernels = [np.asarray(kernel)[within] for kernel in (padded.nngp, padded.ntk)]
        if job.symmetric and row == column:
            kernels = [(kernel + kernel.T) / 2 for kernel in kernels]
        yield (row, column), kernels
        done += within[0].stop * within[1].stop
        job.report(done, pairs)


def _by_stack(job: _Job) -> Iterator[tuple[Block, list[np.ndarray]]]:
    network = job.network
    assert network.stack is not None
    pairs = len(job.x1) * (len(job.x1) + 1) // 2 if job.symmetric else len(job.x1) * len(job.x2)
    done = 0

    def report(finished: int) -> None:
        nonlocal done
        done += finished
        job.report(done, pairs)

    for row, column in job.blocks:
        a, b = (x[part].reshape(-1, *network.input_shape) for x, part in ((job.x1, row), (job.x2, column)))
        shape = len(a), len(b)
        triangle = job.symmetric and row == column
        first, second = np.triu_indices(len(a)) if triangle else np.unravel_index(np.arange(len(a) * len(b)), shape)
        values = convolutional.pair_kernels(network.stack, a, b, first, second, threads=job.threads, progress=report)
        kernels = [np.empty(shape), np.empty(shape)]
        for kernel, value in zip(kernels, values, strict=True):
            kernel[first, second] = value
            if triangle:
                kernel[second, first] = value
        yield (row, column), kernels


@lru_cache(maxsize=8)
def _compiled(network: Network) -> Callable[..., Any]:
    return jax.jit(lambda x1, x2: network.kernel_fn(x1, x2, ("nngp", "ntk")))


@lru_cache(maxsize=8)
def _compiled_orbits(network: Network) -> Callable[..., Any]:
    return jax.jit(jax.vmap(lambda orbit: network.kernel_fn(orbit, orbit, ("nngp",)).nngp))


def _bytes_per_pair(network: Network) -> int:
    return COPIES * np.dtype(np.float64).itemsize * network.entries_per_pair


def _bytes_per_image(network: Network) -> int:
    assert network.stack is not None
    return convolutional.bytes_per_image(network.stack, network.input_shape)


def _blocks(network: Network, rows: int, memory: int) -> list[slice]:
    if network.stack is not None:
        side = memory // (2 * _bytes_per_image(network))
    else:
        side = isqrt(memory // _bytes_per_pair(network))
    return _slices(rows, max(1, min(side, LARGEST_BLOCK)))


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


def _check_finite(network: Network, name: str, kernel: np.ndarray, pair: Callable[[Any], Any]) -> None:
    """Raise UserError unless the kernel is finite; ``pair`` gives the inputs of an entry."""
    bad = np.argwhere(~np.isfinite(kernel))
    if len(bad):
        first = tuple(int(i) for i in bad[0])
        raise UserError(
            f"network: the {name} of {network.description} is not finite for {len(bad)} of {kernel.size} pairs of "
            f"inputs (first at {first}, from its layer {_first_not_finite(network, *pair(first))!r} on).",
            remedy="Check that the inputs are finite and of order one, and lower network.W_std or network.b_std.",
        )


def _first_not_finite(network: Network, x1: np.ndarray, x2: np.ndarray) -> str:
    """Name of the first layer with a kernel of two inputs that is not finite."""
    x = np.stack([x1, x2]).reshape(2, *network.input_shape)
    if network.stack is None:
        for name, kernel_fn in network.prefixes():
            if not all(np.isfinite(kernel).all() for kernel in kernel_fn(x, x, ("nngp", "ntk"))):
                return name
        return network.layers[-1]
    affine = [name for name in network.layers if name not in ("pool", "flatten") and "activation" not in name]
    for name, stack in zip(affine, convolutional.cut(network.stack), strict=True):
        if not np.isfinite(convolutional.pair_kernels(stack, x, x, *np.triu_indices(2))).all():
            return name
    return affine[-1]
