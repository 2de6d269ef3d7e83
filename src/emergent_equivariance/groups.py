"""Finite groups and their orthogonal actions by signed permutations.

A group is its multiplication table with the identity first. An action sends element g to the
orthogonal map (ρ(g)x)_i = sign[g, i] · x[source[g, i]] of flattened arrays: exact in floating point,
which is what the emergent-equivariance theorem needs (Gerken & Kessel 2024, section 3).

Grid actions follow the left-action convention (ρ(g)x)(p) = x(g⁻¹p) with pixels on a grid centred at 0,
so that ρ(g)ρ(h) = ρ(gh).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from .errors import StudyError


@dataclass(frozen=True, eq=False)
class Group:
    """A finite group.

    Attributes:
      name: as in the study file.
      elements: (element,) labels, identity first.
      product: (element, element) table, ``product[g, h]`` is the index of gh.
      planar: (element, 2, 2) integer matrices acting on (row, column) coordinates of a centred grid.
      linear: (element,) signs acting on the real line, or None if no such action is defined.
    """

    name: str
    elements: tuple[str, ...]
    product: np.ndarray
    planar: np.ndarray
    linear: np.ndarray | None

    @property
    def order(self) -> int:
        """Number of elements, |G|."""
        return len(self.elements)

    @property
    def inverse(self) -> np.ndarray:
        """(element,) index of g⁻¹."""
        return np.argmax(self.product == 0, axis=1)

    def check(self) -> None:
        """Raise AssertionError unless the table is that of a group with the identity first."""
        table, everything = self.product, np.arange(self.order)
        assert (table[0] == everything).all() and (table[:, 0] == everything).all(), "identity first"
        assert (np.sort(table, axis=1) == everything).all(), "rows are permutations"
        assert (table[table] == table[:, table]).all(), "associativity"
        assert (table[everything, self.inverse] == 0).all(), "inverses"


def _planar_group(name: str, elements: Sequence[str], matrices: np.ndarray, linear: Sequence[int] | None) -> Group:
    index = {matrix.tobytes(): g for g, matrix in enumerate(matrices)}
    table = np.array([[index[(a @ b).tobytes()] for b in matrices] for a in matrices])
    return Group(name, tuple(elements), table, matrices, None if linear is None else np.array(linear))


def _build_groups() -> dict[str, Group]:
    rotation = np.array([[0, -1], [1, 0]])  # counter-clockwise when rows are drawn downwards
    mirror = np.array([[1, 0], [0, -1]])  # left-right flip
    powers = np.stack([np.linalg.matrix_power(rotation, k) for k in range(4)])
    return {
        group.name: group
        for group in (
            _planar_group("trivial", ["e"], powers[:1], [1]),
            _planar_group("c2", ["e", "r2"], powers[::2], [1, -1]),
            _planar_group("c4", ["e", "r", "r2", "r3"], powers, None),
            _planar_group(
                "d4",
                ["e", "r", "r2", "r3", "m", "rm", "r2m", "r3m"],
                np.concatenate([powers, powers @ mirror]),
                None,
            ),
        )
    }


GROUPS = _build_groups()


@dataclass(frozen=True, eq=False)
class Action:
    """An orthogonal representation of ``group`` by signed permutations of arrays of ``shape``.

    Attributes:
      group: the acting group.
      shape: shape of one array acted upon; coordinates are its C-order flattening.
      source: (element, coordinate) index the value is taken from.
      sign: (element, coordinate) ±1.
    """

    group: Group
    shape: tuple[int, ...]
    source: np.ndarray
    sign: np.ndarray

    @property
    def is_invariant(self) -> bool:
        """Whether every element acts as the identity."""
        return bool((self.source == self.source[0]).all() and (self.sign == 1).all())

    @property
    def character(self) -> np.ndarray:
        """(element,) trace of ρ(g)."""
        fixed = self.source == np.arange(self.source.shape[1])
        return np.where(fixed, self.sign, 0).sum(axis=1)

    def orbit(self, array: np.ndarray) -> np.ndarray:
        """All transforms of a batch: (sample, *shape) → (sample, element, *shape)."""
        flat = array.reshape(len(array), -1)
        moved = flat[:, self.source] * self.sign.astype(array.dtype)
        return moved.reshape(len(array), self.group.order, *self.shape)

    def pull_back(self, orbit: np.ndarray) -> np.ndarray:
        """Apply ρ(g)⁻¹ along an orbit: (..., element, coordinate) → the same shape.

        An equivariant f has ``pull_back(f(gx))`` independent of the element.
        """
        back = self.group.inverse
        result = np.empty_like(orbit)
        for g in range(self.group.order):
            result[..., g, :] = orbit[..., g, self.source[back[g]]] * self.sign[back[g]].astype(orbit.dtype)
        return result

    def check(self) -> None:
        """Raise AssertionError unless ρ(e) = 1 and ρ(g)ρ(h) = ρ(gh) (orthogonality is built in)."""
        size = self.source.shape[1]
        basis = np.eye(size).reshape(size, *self.shape)
        matrices = self.orbit(basis).reshape(size, self.group.order, size).transpose(1, 2, 0)
        assert (matrices[0] == np.eye(size)).all(), "ρ(e) is the identity"
        for g in range(self.group.order):
            assert (matrices[g] @ matrices[g].T == np.eye(size)).all(), f"ρ({g}) is orthogonal"
            for h in range(self.group.order):
                assert (matrices[g] @ matrices[h] == matrices[self.group.product[g, h]]).all(), f"ρ({g})ρ({h})"
        pulled = self.pull_back(self.orbit(basis).reshape(size, self.group.order, size))
        assert (pulled == basis.reshape(size, 1, size)).all(), "ρ(g)⁻¹ρ(g) is the identity"


def get_group(name: str) -> Group:
    """The group called ``name``; raises StudyError naming the known ones."""
    if name not in GROUPS:
        raise StudyError(f"group: {name!r} is not a known group.", remedy=f"Use one of {', '.join(GROUPS)}.")
    return GROUPS[name]


def invariant_action(group: Group, shape: Sequence[int]) -> Action:
    """Every element acts as the identity on arrays of ``shape``."""
    size = prod(shape)
    return Action(
        group,
        tuple(shape),
        np.tile(np.arange(size), (group.order, 1)),
        np.ones((group.order, size), dtype=np.int8),
    )


def grid_action(group: Group, height: int, width: int, channels: int | None = None) -> Action:
    """Rotations and reflections of a pixel grid; channels, if given, are the last axis and stay put.

    Returns an action on arrays of shape (height, width) or (height, width, channels).
    Raises StudyError if an element does not map the grid to itself.
    """
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    centred = np.stack([2 * rows - (height - 1), 2 * columns - (width - 1)], axis=-1).reshape(-1, 2)
    index = {tuple(point): i for i, point in enumerate(centred)}
    source = np.empty((group.order, height * width), dtype=np.int64)
    for g in range(group.order):
        preimages = centred @ group.planar[group.inverse[g]].T
        try:
            source[g] = [index[tuple(point)] for point in preimages]
        except KeyError:
            raise StudyError(
                f"group: {group.name} does not act on a {height}×{width} grid (element "
                f"{group.elements[g]} maps it to {width}×{height}).",
                remedy="Use a square grid, or one of the groups trivial and c2.",
            ) from None
    if channels is None:
        shape: tuple[int, ...] = (height, width)
    else:
        shape = (height, width, channels)
        source = (source[:, :, None] * channels + np.arange(channels)).reshape(group.order, -1)
    return Action(group, shape, source, np.ones(source.shape, dtype=np.int8))


def line_action(group: Group) -> Action:
    """x ↦ ±x on the real line, on arrays of shape (1,). Raises StudyError for groups without it."""
    if group.linear is None:
        allowed = ", ".join(name for name, g in GROUPS.items() if g.linear is not None)
        raise StudyError(
            f"group: {group.name} does not act on one-dimensional inputs.", remedy=f"Use one of {allowed}."
        )
    return Action(group, (1,), np.zeros((group.order, 1), dtype=np.int64), group.linear.astype(np.int8)[:, None])
