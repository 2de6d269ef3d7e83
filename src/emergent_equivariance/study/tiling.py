"""Kernel matrices cut into tiles: how many, which, in which jobs. Counting only; numbers are computed elsewhere.

The matrix holds κ_ij(u) = Θ(x_i, u x_j) between samples i (training samples first) and training samples j, for the
elements u of the group. Both axes are cut every ``side`` samples. Since κ_ij(u) = κ_ji(u⁻¹), one triangle is
evaluated: tile (r, c) of the row block r and the column block c exists for c ≤ r, the others are its mirror images.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import NamedTuple

from ..groups import get_group
from ..settings import AnySettings, RegressionSettings, Settings

#: Bytes of the NNGP kernel and the NTK of one pair.
PAIR_BYTES = 16


class Tile(NamedTuple):
    """A block of the matrix.

    Attributes:
      block_row, block_column: which block of rows and of columns.
      rows, columns: positions of its samples and training samples.
    """

    block_row: int
    block_column: int
    rows: slice
    columns: slice

    @property
    def pairs(self) -> int:
        """Pairs of samples in the tile."""
        return (self.rows.stop - self.rows.start) * (self.columns.stop - self.columns.start)


@dataclass(frozen=True)
class Tiling:
    """Tiles of a kernel matrix.

    Attributes:
      rows: samples, the training samples first.
      train: training samples: columns.
      side: samples along the side of a tile.
      elements: group elements u per pair.
    """

    rows: int
    train: int
    side: int
    elements: int

    @cached_property
    def tiles(self) -> list[Tile]:
        """All tiles, in the order of their index."""
        return [
            Tile(r, c, self._block(r, self.rows), self._block(c, self.train))
            for r in range(ceil(self.rows / self.side))
            for c in range(min(r + 1, self.column_blocks))
        ]

    @property
    def column_blocks(self) -> int:
        """Blocks of columns."""
        return ceil(self.train / self.side)

    @property
    def count(self) -> int:
        """Number of tiles."""
        columns = self.column_blocks
        return columns * (columns + 1) // 2 + (ceil(self.rows / self.side) - columns) * columns

    @property
    def pairs(self) -> int:
        """Kernels evaluated: pairs of samples in the tiles, times the elements."""
        return self.elements * sum(tile.pairs for tile in self.tiles)

    @property
    def nbytes(self) -> int:
        """Size of the assembled store before compression."""
        return PAIR_BYTES * self.elements * self.rows * self.train

    @property
    def tile_bytes(self) -> int:
        """Size of one tile."""
        return PAIR_BYTES * self.elements * min(self.side, self.rows) * min(self.side, self.train)

    def jobs(self, per_job: int) -> list[tuple[int, int]]:
        """Ranges (first, last) of the tiles that one job computes, both included."""
        return [(first, min(first + per_job, self.count) - 1) for first in range(0, self.count, per_job)]

    def _block(self, k: int, stop: int) -> slice:
        return slice(k * self.side, min((k + 1) * self.side, stop))


def whole_tiling(settings: AnySettings) -> Tiling:
    """The kernel matrix of an arm cut into tiles, whether or not it is large enough for them to be used.

    Rows are the training samples and, of the other splits, the samples that are evaluated; in a study of kind
    kernel_regression all samples of the split test and of no other, with the identity element alone.
    """
    task, execution = settings.task, settings.execution
    if isinstance(settings, Settings):
        evaluated = min(settings.evaluate.samples, task.test) * (len(settings.splits()) - 1)
        return Tiling(task.train + evaluated, task.train, execution.tile_size, get_group(settings.group).order)
    return Tiling(task.train + task.test, task.train, execution.tile_size, 1)


def planned_tiling(settings: AnySettings) -> Tiling | None:
    """The tiles that an arm's kernels are computed in, or None where they are computed within the job that needs them.

    Tiles are used above ``execution.tiles_above`` rows, where the kernel is known to be invariant under the group
    before any data is there (``Settings.has_invariant_kernel``).
    """
    if isinstance(settings, Settings):
        wanted = settings.theory.route == "auto" and settings.theory.monte_carlo is None
        wanted = wanted and (settings.has_mean or settings.resolves_learning_rate)
        wanted = wanted and settings.has_invariant_kernel
    else:
        wanted = isinstance(settings, RegressionSettings)
    tiling = whole_tiling(settings)
    return tiling if wanted and tiling.rows > settings.execution.tiles_above else None
