"""A task of one's own: the ground-state energy of a quantum particle in a random one-dimensional potential.

The input is the potential V on a grid of points between two hard walls at x = ±L (ħ = m = 1, L = 4), the target
the lowest eigenvalue of H = −½ d²/dx² + V by finite differences. Mirroring the potential, V(x) ↦ V(−x), leaves the
energy alone: the group is parity, C2. The out-of-distribution potentials are deeper than those trained on.

    task: {name: custom, factory: "examples.parity_task:ground_state", train: 32, test: 32, ood: [deep]}
"""

from __future__ import annotations

import numpy as np

from emergent_equivariance.augmentation import stream
from emergent_equivariance.groups import Group, grid_action, invariant_action
from emergent_equivariance.settings import CustomTask
from emergent_equivariance.tasks import Readout, TaskData

#: Half-width of the box, and the number of Fourier modes of the potential.
L, MODES = 4.0, 3

#: Purposes of the random streams; numbers from 1000 on are free for tasks of one's own.
TRAIN, TEST, DEEP = 1000, 1001, 1002


def ground_state(settings: CustomTask, group: Group) -> TaskData:
    """Potentials (sample, 1, point) of unit variance and their ground-state energies (sample, 1).

    Options: ``points`` (default 16), ``depth`` (factor of the potentials in ood-deep, default 2).
    """
    points = settings.options.get("points", 16)
    depth = settings.options.get("depth", 2.0)
    x = L * (2 * np.arange(1, points + 1) / (points + 1) - 1)
    parts = {
        "train": potentials(x, settings.seed, TRAIN, settings.train),
        "test": potentials(x, settings.seed, TEST, settings.test),
        "ood-deep": depth * potentials(x, settings.seed, DEEP, settings.test),
    }
    potential = np.concatenate(list(parts.values()))
    return TaskData(
        input=potential[:, None, :],
        target=energies(x, potential),
        split=np.repeat(list(parts), [len(part) for part in parts.values()]),
        # half a turn maps a grid of one row to its mirror image
        input_action=grid_action(group, 1, points),
        output_action=invariant_action(group, (1,)),
        output_name="ground-state energy",
        readout=Readout("ground-state energy", np.eye(1)),
        provenance={
            "source": f"generated: random potentials of {MODES} Fourier modes, finite differences",
            "input_normalisation": f"potentials of unit variance (ood-deep: times {depth})",
            "target_normalisation": "none (ħ = m = 1)",
        },
    )


def potentials(x: np.ndarray, seed: int, purpose: int, samples: int) -> np.ndarray:
    """Smooth random potentials of zero mean and unit variance, (sample, point)."""
    phase = np.arange(1, MODES + 1)[:, None] * np.pi * x / L
    waves = np.concatenate([np.cos(phase), np.sin(phase)])
    return stream(seed, purpose).standard_normal((samples, 2 * MODES)) @ waves / np.sqrt(MODES)


def energies(x: np.ndarray, potential: np.ndarray) -> np.ndarray:
    """Lowest eigenvalue of −½ d²/dx² + V between the walls, (sample, 1)."""
    points, step = len(x), x[1] - x[0]
    kinetic = (np.eye(points) - 0.5 * (np.eye(points, k=1) + np.eye(points, k=-1))) / step**2
    hamiltonian = kinetic + potential[:, :, None] * np.eye(points)
    return np.linalg.eigvalsh(hamiltonian)[:, :1]
