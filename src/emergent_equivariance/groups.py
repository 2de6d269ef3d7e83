"""Finite groups by family, and their orthogonal actions by signed permutations.

A group is its multiplication table with the identity first, and its irreducible unitary representations
(irreps). An action sends element g to the orthogonal map (ρ(g)x)_i = sign[g, i] · x[source[g, i]] of flattened
arrays: exact in floating point, which is what the emergent-equivariance theorem needs (Gerken & Kessel 2024,
section 3). Rotations that do not map the pixels to each other act by interpolation (``interpolation``).

Irreps ρ of dimension d obey Schur's orthogonality Σ_g ρ_ab(g) ρ′_cd(g)* = δ_ρρ′ δ_ac δ_bd |G|/d, so that the
functions √(d/|G|) ρ_ab(g) are an orthonormal basis of functions on the group (Peter–Weyl; Serre 1977, chapters 2, 5).

Grid actions follow the left-action convention (ρ(g)x)(p) = x(g⁻¹p) with pixels on a grid centred at 0,
so that ρ(g)ρ(h) = ρ(gh).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from math import cos, pi, prod, sin, sqrt
from typing import ClassVar

import numpy as np

from .errors import StudyError

#: Largest k of the families: rotations and reflections, shifts.
LARGEST_TURN, LARGEST_SHIFT = 64, 32

#: Names of all groups, as a regular expression.
NAMES = r"^(trivial|[cd]([1-9]|[1-5][0-9]|6[0-4])|t([1-9]|[12][0-9]|3[0-2]))$"

#: The families in words.
FAMILIES = (
    f"trivial; c1 to c{LARGEST_TURN} (ck: rotations by multiples of 360°/k); d1 to d{LARGEST_TURN} (dk: those and k "
    f"reflections); t1 to t{LARGEST_SHIFT} (tk: periodic shifts by multiples of 1/k of the sides)"
)


@dataclass(frozen=True, eq=False)
class Group:
    """A finite group.

    Attributes:
      name: as in the study file.
      elements: (element,) labels, identity first.
      product: (element, element) table, ``product[g, h]`` is the index of gh.
      planar: (element, 2, 2) matrices acting on (row, column) coordinates of a centred grid; integer where exact.
      linear: (element,) signs acting on the real line, or None if no such action is defined.
      irreps: one of each class of irreducible unitary representations, (element, d, d) each, the trivial one first;
        float64 where real, else complex128 (then its complex conjugate is in the list too).
      shift: (element, 2) periodic shifts along (row, column), in units of the sides divided by ``parts``; None: none.
      parts: k of the shifts.
    """

    name: str
    elements: tuple[str, ...]
    product: np.ndarray
    planar: np.ndarray
    linear: np.ndarray | None
    irreps: tuple[np.ndarray, ...]
    shift: np.ndarray | None = None
    parts: int = 1

    @property
    def order(self) -> int:
        """Number of elements, |G|."""
        return len(self.elements)

    @cached_property
    def inverse(self) -> np.ndarray:
        """(element,) index of g⁻¹."""
        return np.argmax(self.product == 0, axis=1)

    @cached_property
    def conjugate(self) -> tuple[int, ...]:
        """(irrep,) index of the complex conjugate ρ* of each irrep; its own index where ρ is real."""
        characters = np.stack([np.trace(irrep, axis1=1, axis2=2) for irrep in self.irreps])
        return tuple(int(i) for i in (np.abs(characters @ characters.T) > self.order / 2).argmax(axis=1))

    def acts_on_grid(self, height: int, width: int) -> bool:
        """Whether every element maps a height × width grid of pixels to itself."""
        if self.shift is not None and (self.shift * (height, width) % self.parts).any():
            return False
        return bool((np.abs(self.planar) @ (height, width) == (height, width)).all())

    def check(self) -> None:
        """Raise AssertionError unless this is a group with the identity first, with all its irreps.

        Products of irreps are exact where their entries are 0, ±1 and ±i, elsewhere up to round-off.
        """
        table, everything = self.product, np.arange(self.order)
        assert (table[0] == everything).all() and (table[:, 0] == everything).all(), "identity first"
        assert (np.sort(table, axis=1) == everything).all(), "rows are permutations"
        assert (table[table] == table[:, table]).all(), "associativity"
        assert (table[everything, self.inverse] == 0).all(), "inverses"
        for irrep in self.irreps:
            tolerance = 0.0 if np.isin(irrep, (0, 1, -1, 1j, -1j)).all() else 1e-15
            products = np.einsum("gab,hbc->ghac", irrep, irrep)
            assert np.abs(products - irrep[table]).max() <= tolerance, "ρ(g)ρ(h) = ρ(gh)"
            assert (irrep[self.inverse] == irrep.conj().swapaxes(1, 2)).all(), "ρ(g⁻¹) = ρ(g)†"
        assert (self.irreps[0] == 1).all(), "the trivial irrep first"
        basis = np.concatenate(
            [np.sqrt(irrep.shape[1] / self.order) * irrep.reshape(self.order, -1) for irrep in self.irreps], axis=1
        )
        assert basis.shape[1] == self.order, "Σ d² = |G|"
        assert np.abs(basis.T @ basis.conj() - np.eye(self.order)).max() < 1e-15 * self.order, "Schur orthogonality"
        for irrep, partner in zip(self.irreps, self.conjugate, strict=True):
            assert (self.irreps[partner] == irrep.conj()).all(), "complex-conjugate pairs"


# ------------------------------------------------------------------------------------- the families


def _turn(part: int, whole: int) -> tuple[float, float]:
    """cos and sin of 2π part/whole, reduced to an eighth of a turn: symmetric bit by bit, exact at quarter turns."""
    part %= whole
    if 2 * part > whole:
        x, y = _turn(whole - part, whole)
        return x, -y
    if 4 * part > whole:
        x, y = _turn(whole - 2 * part, 2 * whole)
        return -x, y
    if 8 * part > whole:
        x, y = _turn(whole - 4 * part, 4 * whole)
        return y, x
    if 8 * part == whole:
        return sqrt(0.5), sqrt(0.5)
    return cos(2 * pi * part / whole), sin(2 * pi * part / whole)


def _rotations(count: int, speed: int) -> np.ndarray:
    """(count, 2, 2) rotations by 2π speed a/count, counter-clockwise when rows are drawn downwards."""
    turns = [_turn(speed * a, count) for a in range(count)]
    return np.array([[[x, -y], [y, x]] for x, y in turns]) + 0.0  # no −0


def _roots(count: int, speed: int) -> np.ndarray:
    """(count,) e^{2πi speed a/count}."""
    return np.array([complex(*_turn(speed * a, count)) for a in range(count)])


def _turning_group(name: str, count: int, *, mirrored: bool) -> Group:
    """C_k, elements r^a, or D_k, with m r m = r⁻¹ and the elements r^a m after those; m flips left and right."""
    mirror = np.array([[1, 0], [0, -1]])
    matrices = _rotations(count, 1)
    if count in (1, 2, 4):
        matrices = matrices.astype(np.int64)
    if mirrored:
        matrices = np.concatenate([matrices, matrices @ mirror])
    a = np.tile(np.arange(count), 1 + mirrored)
    s = np.repeat([0, 1], count)[: len(a)]
    power = (a[:, None] + (1 - 2 * s[:, None]) * a) % count
    labels = ["", "r", *(f"r{k}" for k in range(2, count))]
    if count == 2:
        labels[1] = "r2"  # named by quarter turns
    linear = {"c1": [1], "c2": [1, -1], "trivial": [1]}.get(name)
    return Group(
        name,
        tuple((labels[k] + "m" * mirror) or "e" for k, mirror in zip(a, s, strict=True)),
        power + count * (s[:, None] ^ s),
        matrices,
        None if linear is None else np.array(linear),
        _turning_irreps(count, s, mirrored),
    )


def _turning_irreps(count: int, s: np.ndarray, mirrored: bool) -> tuple[np.ndarray, ...]:
    """Characters r^a m^s → z^a b^s with z = ±1, b = ±1, then those of higher frequency j < k/2.

    A frequency is a pair of complex conjugate characters of C_k, and an irrep of dimension 2 of D_k: the plane, turned
    j times as fast.
    """
    signs = [np.tile(z ** np.arange(count), 1 + mirrored) for z in ((1.0, -1.0) if count % 2 == 0 else (1.0,))]
    if not mirrored:
        pairs = [_roots(count, sign * j) for j in range(1, (count + 1) // 2) for sign in (1, -1)]
        return tuple(character[:, None, None] for character in [*signs, *pairs])
    characters = [z * b for z in signs for b in (1.0, np.where(s == 1, -1.0, 1.0))]
    planes = [_rotations(count, j) for j in range(1, (count + 1) // 2)]
    planes = [np.concatenate([plane, plane @ np.diag([1.0, -1.0])]) + 0.0 for plane in planes]
    return tuple([character[:, None, None] for character in characters] + planes)


def _shift_group(name: str, count: int) -> Group:
    """Z_k × Z_k: u^a v^b shifts a/k of the height down and b/k of the width to the right, periodically."""
    a, b = (part.reshape(-1) for part in np.divmod(np.arange(count**2), count))
    power = [[f"{letter}{k}" if k > 1 else letter * k for k in range(count)] for letter in "uv"]
    characters = np.array([_roots(count, 1)[(i * a + j * b) % count] for i, j in zip(a, b, strict=True)])
    return Group(
        name,
        tuple((power[0][i] + power[1][j]) or "e" for i, j in zip(a, b, strict=True)),
        (a[:, None] + a) % count * count + (b[:, None] + b) % count,
        np.tile(np.eye(2, dtype=np.int64), (count**2, 1, 1)),
        None,
        tuple(_real_where_possible(character)[:, None, None] for character in characters),
        np.stack([a, b], axis=1),
        count,
    )


def _real_where_possible(character: np.ndarray) -> np.ndarray:
    return character.real.copy() if (character.imag == 0).all() else character


@cache
def _group(name: str) -> Group:
    family, k = ("c", 1) if name == "trivial" else (name[0], int(name[1:]))
    return _shift_group(name, k) if family == "t" else _turning_group(name, k, mirrored=family == "d")


def get_group(name: str) -> Group:
    """The group called ``name``, the same object each time; raises StudyError naming the families."""
    if not re.fullmatch(NAMES, name):
        raise StudyError(f"group: {name!r} is not a known group.", remedy=f"Use one of: {FAMILIES}.")
    return _group(name)


#: The groups of rotations and reflections that map a square grid of pixels to itself.
GROUPS = {name: get_group(name) for name in ("trivial", "c2", "c4", "d2", "d4")}


# ------------------------------------------------------------------------------------- exact actions


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

    #: Whether ρ(g)ρ(h) = ρ(gh).
    is_exact: ClassVar[bool] = True

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
    """Rotations, reflections and periodic shifts of a pixel grid; channels, if given, are the last axis and stay put.

    Returns an action on arrays of shape (height, width) or (height, width, channels).
    Raises StudyError if an element does not map the grid to itself.
    """
    if not group.acts_on_grid(height, width):
        raise _inexact(group, height, width)
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    if group.shift is not None:
        down, right = (group.shift * (height, width) // group.parts).T
        moved = (rows - down[:, None, None]) % height, (columns - right[:, None, None]) % width
    else:
        centred = np.stack([2 * rows - (height - 1), 2 * columns - (width - 1)], axis=-1).reshape(-1, 2)
        preimages = centred @ group.planar[group.inverse].swapaxes(1, 2)
        moved = (preimages[..., 0] + height - 1) // 2, (preimages[..., 1] + width - 1) // 2
    source = (moved[0] * width + moved[1]).reshape(group.order, height * width)
    if channels is None:
        shape: tuple[int, ...] = (height, width)
    else:
        shape = (height, width, channels)
        source = (source[:, :, None] * channels + np.arange(channels)).reshape(group.order, -1)
    return Action(group, shape, source, np.ones(source.shape, dtype=np.int8))


def _inexact(group: Group, height: int, width: int) -> StudyError:
    grid = f"{height}×{width} grid"
    if group.shift is not None:
        parts = [k for k in range(1, LARGEST_SHIFT + 1) if height % k == 0 and width % k == 0]
        return StudyError(
            f"group: {group.name} shifts by 1/{group.parts} of a side, which on a {grid} is no whole number of pixels.",
            remedy=f"Use one of {', '.join(f't{k}' for k in parts)}.",
        )
    integer = np.issubdtype(group.planar.dtype, np.integer)
    why = f"it maps it to {width}×{height}" if integer else "it moves pixels between pixels"
    exact = ", ".join(name for name, known in GROUPS.items() if known.acts_on_grid(height, width))
    return StudyError(
        f"group: {group.name} does not act on a {grid} ({why}).",
        remedy=f"Use {'a square grid, or ' if integer else ''}one of the groups that act exactly on this one: {exact}.",
    )


def line_action(group: Group) -> Action:
    """x ↦ ±x on the real line, on arrays of shape (1,). Raises StudyError for groups without it."""
    if group.linear is None:
        allowed = ", ".join(name for name, g in GROUPS.items() if g.linear is not None)
        raise StudyError(
            f"group: {group.name} does not act on one-dimensional inputs.", remedy=f"Use one of {allowed}."
        )
    return Action(group, (1,), np.zeros((group.order, 1), dtype=np.int64), group.linear.astype(np.int8)[:, None])
