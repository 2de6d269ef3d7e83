"""Finite groups and their orthogonal actions by signed permutations.

A group is its multiplication table with the identity first, and its irreducible unitary representations
(irreps). An action sends element g to the orthogonal map (ρ(g)x)_i = sign[g, i] · x[source[g, i]] of flattened
arrays: exact in floating point, which is what the emergent-equivariance theorem needs (Gerken & Kessel 2024,
section 3).

Irreps ρ of dimension d obey Schur's orthogonality Σ_g ρ_ab(g) ρ′_cd(g)* = δ_ρρ′ δ_ac δ_bd |G|/d, so that the
functions √(d/|G|) ρ_ab(g) are an orthonormal basis of functions on the group (Peter–Weyl; Serre 1977, chapter 2).

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
      irreps: one of each class of irreducible unitary representations, (element, d, d) each, the trivial one first;
        float64 where real, else complex128 (then its complex conjugate is in the list too).
    """

    name: str
    elements: tuple[str, ...]
    product: np.ndarray
    planar: np.ndarray
    linear: np.ndarray | None
    irreps: tuple[np.ndarray, ...]

    @property
    def order(self) -> int:
        """Number of elements, |G|."""
        return len(self.elements)

    @property
    def inverse(self) -> np.ndarray:
        """(element,) index of g⁻¹."""
        return np.argmax(self.product == 0, axis=1)

    @property
    def conjugate(self) -> tuple[int, ...]:
        """(irrep,) index of the complex conjugate ρ* of each irrep; its own index where ρ is real."""
        characters = np.stack([np.trace(irrep, axis1=1, axis2=2) for irrep in self.irreps])
        return tuple(int(i) for i in (np.abs(characters @ characters.T) > self.order / 2).argmax(axis=1))

    def acts_on_grid(self, height: int, width: int) -> bool:
        """Whether every element maps a height × width grid of pixels to itself."""
        return bool((np.abs(self.planar) @ (height, width) == (height, width)).all())

    def check(self) -> None:
        """Raise AssertionError unless this is a group with the identity first, with all its irreps."""
        table, everything = self.product, np.arange(self.order)
        assert (table[0] == everything).all() and (table[:, 0] == everything).all(), "identity first"
        assert (np.sort(table, axis=1) == everything).all(), "rows are permutations"
        assert (table[table] == table[:, table]).all(), "associativity"
        assert (table[everything, self.inverse] == 0).all(), "inverses"
        for irrep in self.irreps:
            products = np.einsum("gab,hbc->ghac", irrep, irrep)
            assert (products == irrep[table]).all(), "ρ(g)ρ(h) = ρ(gh)"
            assert (irrep[self.inverse] == irrep.conj().swapaxes(1, 2)).all(), "ρ(g⁻¹) = ρ(g)†"
        assert (self.irreps[0] == 1).all(), "the trivial irrep first"
        basis = np.concatenate(
            [np.sqrt(irrep.shape[1] / self.order) * irrep.reshape(self.order, -1) for irrep in self.irreps], axis=1
        )
        assert basis.shape[1] == self.order, "Σ d² = |G|"
        assert np.abs(basis.T @ basis.conj() - np.eye(self.order)).max() < 1e-15 * self.order, "Schur orthogonality"
        for irrep, partner in zip(self.irreps, self.conjugate, strict=True):
            assert (self.irreps[partner] == irrep.conj()).all(), "complex-conjugate pairs"


def _planar_group(name: str, elements: Sequence[str], matrices: np.ndarray, linear: Sequence[int] | None) -> Group:
    index = {matrix.tobytes(): g for g, matrix in enumerate(matrices)}
    table = np.array([[index[(a @ b).tobytes()] for b in matrices] for a in matrices])
    signs = None if linear is None else np.array(linear)
    return Group(name, tuple(elements), table, matrices, signs, _planar_irreps(matrices))


def _planar_irreps(matrices: np.ndarray) -> tuple[np.ndarray, ...]:
    """Irreps of n = 1, 2 or 4 rotations r^k, followed by the mirror images r^k m if there are any.

    A character sends r^k m^s to z^k b^s with z^n = 1 and b = ±1. Mirror images, m r m = r⁻¹, allow z = ±1 only;
    the plane itself is then the remaining irrep, of dimension 2, for n = 4.
    """
    mirrored = np.linalg.det(matrices) < 0
    n = int((~mirrored).sum())
    power = np.arange(len(matrices)) % n
    roots = np.array([1, 1j, -1, -1j])
    real = [1 - 2 * (j * power % 2) * np.ones(len(matrices)) for j in ((0, 1) if n > 1 else (0,))]
    if mirrored.any():
        characters = [z * sign for z in real for sign in (1, np.where(mirrored, -1.0, 1.0))]
        planes = [matrices.astype(np.float64)] if n > 2 else []
    else:
        characters = real + ([roots[power], roots[-power]] if n > 2 else [])
        planes = []
    return tuple([character[:, None, None] for character in characters] + planes)


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
                "d2",
                ["e", "r2", "m", "r2m"],
                np.concatenate([powers[::2], powers[::2] @ mirror]),
                None,
            ),
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
    if not group.acts_on_grid(height, width):
        exact = ", ".join(name for name, known in GROUPS.items() if known.acts_on_grid(height, width))
        raise StudyError(
            f"group: {group.name} does not act on a {height}×{width} grid (it maps it to {width}×{height}).",
            remedy=f"Use a square grid, or one of the groups that act exactly on this one: {exact}.",
        )
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    centred = np.stack([2 * rows - (height - 1), 2 * columns - (width - 1)], axis=-1).reshape(-1, 2)
    index = {tuple(point): i for i, point in enumerate(centred)}
    source = np.empty((group.order, height * width), dtype=np.int64)
    for g in range(group.order):
        preimages = centred @ group.planar[group.inverse[g]].T
        source[g] = [index[tuple(point)] for point in preimages]
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
