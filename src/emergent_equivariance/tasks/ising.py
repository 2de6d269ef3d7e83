"""Energies of the two-dimensional Ising model with periodic boundaries (Gerken & Kessel 2024, section 5).

Site energies E_i = Σ_{j∈N(i)} s_i s_j over the four nearest neighbours; total energy −(J/n) Σ_i E_i with J = 1
and n sites (every bond counts twice, as in the paper). Rotations and reflections of the lattice permute the
site energies and leave the total energy alone.
"""

from __future__ import annotations

import numpy as np

from ..groups import Action, Group, grid_action, invariant_action
from ..settings import IsingTask
from .base import Readout, TaskData
from .splits import OOD_GAUSSIAN, TEST, TRAIN, join, stream

#: Coupling constant.
J = 1.0


def site_energies(spins: np.ndarray) -> np.ndarray:
    """Σ_{j∈N(i)} s_i s_j: (sample, row, column, 1) → (sample, site), sites in C order."""
    lattice = spins[..., 0]
    neighbours = sum(np.roll(lattice, shift, axis) for axis in (1, 2) for shift in (1, -1))
    return (lattice * neighbours).reshape(len(spins), -1)


def total_energy(spins: np.ndarray) -> np.ndarray:
    """−(J/n) Σ_i E_i: (sample, row, column, 1) → (sample, 1)."""
    return -J * site_energies(spins).mean(axis=1, keepdims=True)


def build(task: IsingTask, group: Group) -> TaskData:
    """Spin lattices (sample, row, column, 1), unnormalised, with their energies as targets, also off the data.

    Training and test spins are iid ±1; ``ood-gaussian`` spins are iid N(0, 1), of the same unit variance.
    Raises StudyError if the group does not act on the lattice.
    """
    rows, columns = task.sides
    sites = rows * columns
    parts = {
        "train": _spins(task, TRAIN, task.train),
        "test": _spins(task, TEST, task.test),
    }
    if "gaussian" in task.ood:
        parts["ood-gaussian"] = stream(task.seed, OOD_GAUSSIAN).standard_normal((task.test, rows, columns, 1))
    spins, split = join(parts)
    if task.target == "local":
        sites_action = grid_action(group, rows, columns)
        output_action = Action(group, (sites,), sites_action.source, sites_action.sign)
        target, output_name = site_energies(spins), "site energies"
        readout = Readout("total energy", np.full((1, sites), -J / sites))
    else:
        output_action = invariant_action(group, (1,))
        target, output_name = total_energy(spins), "total energy"
        readout = Readout("total energy", np.eye(1))
    return TaskData(
        input=spins,
        target=target,
        split=split,
        input_action=grid_action(group, rows, columns, channels=1),
        output_action=output_action,
        output_name=output_name,
        readout=readout,
        provenance={
            "source": "generated: two-dimensional Ising model, periodic boundaries, spins iid ±1",
            "coupling": J,
            "input_normalisation": "none (spins have zero mean and unit variance)",
            "target_normalisation": "none",
        },
    )


def _spins(task: IsingTask, purpose: int, samples: int) -> np.ndarray:
    draw = stream(task.seed, purpose).random((samples, *task.sides, 1))
    return np.where(draw < 0.5, -1.0, 1.0)
