"""The two routes to μ_t and Σ_t of one arm, from kernels to numbers.

- group: with full augmentation and an invariant kernel, block by block over the irreps of the group; the augmented
  Gram matrix is never formed (``kernels.orbits``, ``orbit_solve``).
- direct: the Gram matrix of the augmented rows, one eigendecomposition (``dynamics``). Its kernels are evaluated on
  the augmented inputs, or taken from κ_ij(u) = Θ(x_i, u x_j) where the kernel is invariant.

Where the action on the inputs is not exact, or the network sees canonical inputs, kernels are evaluated on the very
inputs that members see.

Fresh random elements have, in the linearised dynamics, the mean of the full orbit, and take its route.

Where the study asks for it, kernels estimated from many networks stand for the analytic ones (``monte_carlo``), on the
direct route.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import xarray as xr

from . import dynamics, orbit_solve
from .augmentation import augmented_rows
from .canonicalisation import seen_orbits
from .groups import Action, Group
from .kernels import Progress, cross_kernels, gram, orbit_blocks
from .kernels.orbits import (
    INVARIANT,
    Kappa,
    OrbitBlocks,
    augmented,
    computed,
    irrep_blocks,
    noninvariance,
    on_samples,
    on_training,
    orbit_kernels,
    stored,
)
from .monte_carlo import Estimate, estimate, jackknife
from .networks import Network, build_network
from .settings import Settings, TorchNetwork
from .tasks.base import TaskData

__all__ = ["ArmData", "Problem", "kernel_samples", "largest_eigenvalue", "problem"]


def kernel_samples(settings: Settings, data: TaskData) -> np.ndarray:
    """Indices of the samples whose kernels with the training samples the theory needs: the training samples first."""
    train = np.flatnonzero(data.split == "train")
    evaluated = data.evaluated(settings.evaluate.samples)
    return np.concatenate([train, evaluated[data.split[evaluated] != "train"]])


@dataclass(frozen=True, eq=False)
class ArmData:
    """What both routes start from.

    Attributes:
      settings: the arm.
      data: the task.
      kernels: kernel store with nngp and ntk (sample, train, element), or None: they are computed.
      progress: called with (pairs of inputs finished, pairs in all) of the kernels.
    """

    settings: Settings
    data: TaskData
    kernels: xr.Dataset | None = None
    progress: Progress | None = None

    @property
    def group(self) -> Group:
        """The group of the task."""
        return self.data.input_action.group

    @cached_property
    def network(self) -> Network:
        """The architecture; raises StudyError if the inputs do not fit it."""
        shape = self.data.input_action.shape
        self.settings.network.check_input(shape, self.group.name)
        return build_network(self.settings.network, shape, self.data.output_action.shape[0])

    @property
    def description(self) -> str:
        """The network in words."""
        section = self.settings.network
        return f"torch ({section.factory})" if isinstance(section, TorchNetwork) else self.network.description

    @cached_property
    def train(self) -> np.ndarray:
        """(train,) indices of the training samples."""
        return np.flatnonzero(self.data.split == "train")

    @cached_property
    def evaluated(self) -> np.ndarray:
        """(sample,) indices of the samples whose orbits are wanted."""
        return self.data.evaluated(self.settings.evaluate.samples)

    @cached_property
    def samples(self) -> np.ndarray:
        """(sample,) indices of all samples that kernels are needed of, the training samples first."""
        return kernel_samples(self.settings, self.data) if self.settings.has_mean else self.train

    @cached_property
    def evaluated_rows(self) -> np.ndarray:
        """(sample,) positions in ``samples`` of the samples whose orbits are wanted."""
        wanted = self.evaluated if self.settings.has_mean else self.evaluated[:0]
        order = np.argsort(self.samples)
        return order[np.searchsorted(self.samples, wanted, sorter=order)]

    @cached_property
    def rows(self) -> np.ndarray:
        """(row, 2) the augmented training set: (position in ``train``, element)."""
        return augmented_rows(self.settings.augmentation, len(self.train), self.group.order)

    @cached_property
    def inputs(self) -> np.ndarray:
        """(row, *input shape) the augmented training inputs, as the network sees them."""
        return self.orbits(self.train)[self.rows[:, 0], self.rows[:, 1]]

    @cached_property
    def target(self) -> np.ndarray:
        """(row, output) their targets, ρ_Y(g) y."""
        return self.data.output_action.orbit(self.data.target[self.train])[self.rows[:, 0], self.rows[:, 1]]

    @property
    def memory(self) -> int:
        """Bytes that a block of kernels may take besides inputs and result."""
        return self.settings.execution.block_memory

    @property
    def threads(self) -> int:
        """Threads that evaluate kernels."""
        return self.settings.execution.kernel_threads

    @property
    def kappa(self) -> Kappa:
        """κ_ij(u), read or computed."""
        if self.kernels is not None:
            return stored(self.kernels)
        assert isinstance(self.data.input_action, Action), "κ does not give the kernels of inexact actions"
        return computed(self.network, self.data.input_action, self.data.input, memory=self.memory, threads=self.threads)

    def initial(self) -> np.ndarray:
        """(sample, element, element_) K within the orbits of the evaluated samples."""
        orbits = self.orbits(self.evaluated)
        return orbit_blocks(self.network, orbits, memory=self.memory, threads=self.threads)

    def orbits(self, samples: np.ndarray) -> np.ndarray:
        """(sample, element, *input shape) whole orbits at indices of samples, as the network sees them."""
        return seen_orbits(self.settings.network, self.data, samples)


# ------------------------------------------------------------------------------------------- which route


def _route(arm: ArmData) -> tuple[Literal["group", "kappa", "direct"], str]:
    """In blocks, directly with kernels taken from κ, or directly with kernels on the augmented inputs; and why."""
    augmentation, group, forced = arm.settings.augmentation, arm.group, arm.settings.theory.route != "auto"
    blocks = group.order > 1 and augmentation.kind in ("full", "random") and not forced
    fewer = augmentation.rows(group.order) ** 2 > group.order  # |G| N² entries of κ against (k N)²
    kappa = arm.kernels is not None or (fewer and not forced)
    if not isinstance(arm.data.input_action, Action):
        return "direct", f"the action of {group.name} is not exact"
    if arm.settings.network.canonicalisation != "none":
        return "direct", "the network sees canonical inputs"
    reason = f"augmentation is {augmentation.kind}"
    if forced:
        reason = f"theory.route is {arm.settings.theory.route}"
    elif group.order == 1:
        reason = "the group is trivial"
    if (blocks or kappa) and group.order > 1:
        deviation = noninvariance(arm.network, arm.data.input_action)
        if not deviation < INVARIANT:
            unused = "" if arm.kernels is None else "; the stored kernels do not suffice and are not used"
            return "direct", f"Θ(gx, gx′) differs from Θ(x, x′) under {group.name}, by up to {deviation:.1g}{unused}"
    if blocks:
        return "group", f"{reason} and Θ(gx, gx′) = Θ(x, x′)"
    return ("kappa" if kappa else "direct"), reason


def largest_eigenvalue(arm: ArmData) -> float:
    """λ_max of Θ on the augmented rows."""
    if arm.settings.theory.monte_carlo is not None:
        return dynamics.largest_eigenvalue(_estimate(arm, arm.evaluated[:0]).ntk.train)
    kind, _ = _route(arm)
    if kind == "group":
        blocks = irrep_blocks(arm.kappa, arm.group, [0], arm.train, len(arm.train), nngp=False, progress=arm.progress)
        trivial = dynamics.largest_eigenvalue(on_training(blocks.ntk)[0])
        return orbit_solve.largest_eigenvalue(trivial, _undecided(arm, blocks))
    if kind == "kappa":
        _, kernel = orbit_kernels(arm.kappa, arm.group, arm.train, len(arm.train), arm.progress)
        return dynamics.largest_eigenvalue(augmented(kernel, arm.group, arm.rows, arm.rows))
    _, ntk = gram(arm.network, arm.inputs, memory=arm.memory, threads=arm.threads, progress=arm.progress)
    return dynamics.largest_eigenvalue(ntk)


def problem(arm: ArmData) -> Problem:
    """The arm on the route that suits it, up to the eigendecomposition."""
    if arm.settings.theory.monte_carlo is not None:
        return _estimated(arm)
    kind, reason = _route(arm)
    if kind == "group":
        return _in_blocks(arm, reason)
    kernels = _kernels_from_kappa(arm) if kind == "kappa" else _kernels_on_rows(arm)
    source = ", with kernels of pairs (x, ux′)" if kind == "kappa" else ""
    return _directly(arm, f"direct on the augmented set{source}, because {reason}", *kernels, arm.initial)


@dataclass(frozen=True, eq=False)
class Problem:
    """The spectrum of Θ on the augmented rows, from which follow μ_t and Σ_t for any learning rate.

    Attributes:
      route: which route was taken, and why.
      eigenvalue: (mode,) those that were computed, ascending.
      modes: which of all eigenvalues these are.
      largest: λ_max of the whole Gram matrix.
      cutoff: eigenvalues up to here are round-off.
      mean: (times, η) → (time, sample, element, output) μ_t; rate constant λ → ηλ/(N n_out), N augmented rows.
      covariance: (times, η) → (time, sample, element, element_) Σ_t per output; the same rate constant.
      mean_error: as ``mean``, the standard error of μ_t; None where the kernels are analytic.
      attributes: of estimated kernels (``monte_carlo.Estimate``), for the theory store.
      warnings: sentences.
    """

    route: str
    eigenvalue: np.ndarray
    modes: str
    largest: float
    cutoff: float
    mean: Callable[[Sequence[float], float], np.ndarray]
    covariance: Callable[[Sequence[float], float], np.ndarray]
    mean_error: Callable[[Sequence[float], float], np.ndarray] | None = None
    attributes: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


# --------------------------------------------------------------------------------------- block by block


def _in_blocks(arm: ArmData, reason: str) -> Problem:
    settings, group, train = arm.settings, arm.group, len(arm.train)
    solved = orbit_solve.representatives(group)
    if not settings.has_covariance:
        solved = orbit_solve.occurring(arm.data.output_action)
    blocks = irrep_blocks(
        arm.kappa, group, solved, arm.samples, train, nngp=settings.has_covariance, progress=arm.progress
    )
    spectrum = orbit_solve.decompose(group, on_training(blocks.ntk), len(arm.rows), _undecided(arm, blocks))
    form, outputs = settings.theory.form, arm.target.shape[1]

    def mean(times: Sequence[float], learning_rate: float) -> np.ndarray:
        target = arm.target.reshape(train, group.order, outputs)
        return orbit_solve.mean(
            spectrum, on_samples(blocks.ntk, arm.evaluated_rows), target, times, learning_rate, form
        )

    def covariance(times: Sequence[float], learning_rate: float) -> np.ndarray:
        return orbit_solve.covariance(
            spectrum,
            on_samples(blocks.ntk, arm.evaluated_rows),
            on_samples(blocks.nngp, arm.evaluated_rows),
            on_training(blocks.nngp),
            arm.initial(),
            times,
            learning_rate,
            outputs,
            form,
        )

    sizes = ", ".join(f"{spectrum.copies(i)} × {len(block.eigenvalue)}" for i, block in spectrum.blocks.items())
    modes = "all" if len(spectrum.eigenvalue) == len(arm.rows) else f"of {len(solved)} of the irreps, {sizes}"
    limit = dynamics.cutoff(len(arm.rows), spectrum.largest)
    route = f"group: irreps of {group.name} in blocks of {sizes}, because {reason}"
    return Problem(route, spectrum.eigenvalue, modes, spectrum.largest, limit, mean, covariance)


def _undecided(arm: ArmData, blocks: OrbitBlocks) -> list[np.ndarray]:
    """Blocks of the NTK that may have a larger eigenvalue than those at hand.

    If no κ_ij(u) is negative, the Gram matrix has an eigenvector of λ_max without negative entries (Perron and
    Frobenius); its average over the group is not 0 and belongs to the trivial irrep.
    """
    if 0 in blocks.ntk and blocks.smallest >= 0:
        return []
    others = [i for i in orbit_solve.representatives(arm.group) if i not in blocks.ntk]
    if not others:
        return []
    found = irrep_blocks(arm.kappa, arm.group, others, arm.train, len(arm.train), nngp=False)
    return list(on_training(found.ntk).values())


# -------------------------------------------------------------------------------- on the augmented rows


#: (nngp, ntk).
Pair = tuple[np.ndarray, np.ndarray]


def _directly(arm: ArmData, route: str, train: Pair, cross: Pair, initial: Callable[[], np.ndarray]) -> Problem:
    """From kernels between augmented rows (row, row_), with orbits (sample, element, row), and K within those."""
    (train_nngp, train_ntk), (cross_nngp, cross_ntk) = train, cross
    spectrum = dynamics.decompose(train_ntk)
    form = arm.settings.theory.form

    def mean(times: Sequence[float], learning_rate: float) -> np.ndarray:
        return dynamics.mean(spectrum, cross_ntk, arm.target, times, learning_rate, form)

    def covariance(times: Sequence[float], learning_rate: float) -> np.ndarray:
        return dynamics.covariance(
            spectrum,
            cross_ntk,
            cross_nngp,
            train_nngp,
            initial(),
            times,
            learning_rate,
            arm.target.shape[1],
            form,
        )

    largest = float(spectrum.eigenvalue[-1])
    return Problem(route, spectrum.eigenvalue, "all", largest, spectrum.cutoff, mean, covariance)


def _estimate(arm: ArmData, samples: np.ndarray) -> Estimate:
    """Estimated kernels between the augmented rows, and with the orbits of samples."""
    networks = arm.settings.theory.monte_carlo
    assert networks is not None
    shape = arm.data.input_action.shape
    arm.settings.network.check_input(shape, arm.group.name)
    return estimate(
        arm.settings.network,
        arm.inputs,
        arm.orbits(samples) if len(samples) else np.zeros((0, arm.group.order, *shape)),
        arm.target.shape[1],
        networks,
        memory=arm.memory,
        threads=arm.threads,
        progress=arm.progress,
    )


def _estimated(arm: ArmData) -> Problem:
    found = _estimate(arm, arm.evaluated[: None if arm.settings.has_mean else 0])
    route = f"direct on the augmented set, with a Monte-Carlo kernel of {found.attributes['networks']} networks"
    train, cross = zip(found.nngp, found.ntk, strict=True)
    posed = _directly(arm, route, train, cross, lambda: found.initial)

    def mean_error(times: Sequence[float], learning_rate: float) -> np.ndarray:
        """The learning rate is held fixed."""
        values = [
            dynamics.mean(dynamics.decompose(ntk.train), ntk.cross, arm.target, times, learning_rate, form)
            for ntk in found.without_blocks()
        ]
        return jackknife(np.stack(values))

    form = arm.settings.theory.form
    return replace(posed, mean_error=mean_error, attributes=found.attributes, warnings=found.warnings)


def _kernels_on_rows(arm: ArmData) -> tuple[Pair, Pair]:
    """(row, row_) kernels between the augmented rows, and (sample, element, row) with the orbits of the samples."""
    inputs, order = arm.inputs, arm.group.order
    pairs = len(inputs) * (len(inputs) + 1) // 2
    points = arm.orbits(arm.evaluated[: None if arm.settings.has_mean else 0])
    total = pairs + points.shape[0] * order * len(inputs)

    def report(first: int, last: int) -> Progress | None:
        progress = arm.progress
        if progress is None:
            return None
        return lambda done, part: progress(first + round((last - first) * done / part), total)

    train = gram(arm.network, inputs, memory=arm.memory, threads=arm.threads, progress=report(0, pairs))
    flat = points.reshape(-1, *arm.data.input_action.shape)
    cross = cross_kernels(
        arm.network, flat, inputs, memory=arm.memory, threads=arm.threads, progress=report(pairs, total)
    )
    shape = len(points), order, len(inputs)
    return train, (cross[0].reshape(shape), cross[1].reshape(shape))


def _kernels_from_kappa(arm: ArmData) -> tuple[Pair, Pair]:
    """The same from Θ(g x_i, h x_j) = κ_ij(g⁻¹h)."""
    kappa = orbit_kernels(arm.kappa, arm.group, arm.samples, len(arm.train), arm.progress)
    sample, element = np.meshgrid(arm.evaluated_rows, np.arange(arm.group.order), indexing="ij")
    points = np.stack([sample, element], axis=-1)
    train, cross = (
        (augmented(kappa[0], arm.group, rows, arm.rows), augmented(kappa[1], arm.group, rows, arm.rows))
        for rows in (arm.rows, points)
    )
    return train, cross
