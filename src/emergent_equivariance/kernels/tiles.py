"""Kernel matrices tile by tile: what is in a tile, and what its mirror image is.

A tile holds κ_ij(u) = Θ(x_i, u x_j), and the same of the NNGP kernel, for a block of samples i, a block of training
samples j and the elements u of the group (``study.tiling``). Where the kernel is invariant, Θ(gx, gx′) = Θ(x, x′),

    κ_ji(u) = Θ(x_j, u x_i) = κ_ij(u⁻¹),

so that the tiles of one triangle give the other, and a tile on the diagonal is made exactly symmetric.
"""

from __future__ import annotations

import numpy as np

from ..study.tiling import Tile
from .orbits import Kappa

__all__ = ["mirrored", "tile_kernels"]


def tile_kernels(
    kappa: Kappa, samples: np.ndarray, train: int, tile: Tile, inverse: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """NNGP and NTK of one tile.

    Args:
      kappa: the kernels.
      samples: (sample,) indices, the training samples first.
      train: number of training samples.
      tile: rows and columns, positions in ``samples``.
      inverse: (element,) index of u⁻¹.

    Returns:
      (nngp, ntk), each (row, column, element); exactly κ_ij(u) = κ_ji(u⁻¹) within a tile on the diagonal.

    Raises UserError where a kernel is not finite.
    """
    kernels = kappa(samples[tile.rows], samples[tile.columns])
    if tile.block_row == tile.block_column:
        square = slice(0, min(tile.rows.stop, train) - tile.rows.start)
        for kernel in kernels:
            kernel[square] = (kernel[square] + mirrored(kernel[square], inverse)) / 2
    return kernels


def mirrored(kernel: np.ndarray, inverse: np.ndarray) -> np.ndarray:
    """κ_ji(u) from κ_ij(u): (row, column, element) → (column, row, element)."""
    return kernel.swapaxes(0, 1)[..., inverse]
