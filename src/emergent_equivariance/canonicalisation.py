"""Inputs as a network sees them: as they are, or the canonical member of their orbit.

A network behind a canonicalisation is invariant member by member, whatever its architecture (the baseline of Gerken &
Kessel 2024, section 5; the idea: Kaba et al. 2023). Of an input x the network sees

    c(x) = ρ(ĝ)x,  ĝ = argmax_g ⟨w, ρ(g)x⟩,  w_i = sin(1 + Σ_a a u_a(i)),

with u_a(i) the coordinate of i along axis a = 1, 2, … of an input, from −1 to 1 (0 on an axis of length 1): one plane
wave, smooth and along no axis of symmetry. Of equal maxima the array that is largest in lexicographic order is taken.
All of this depends on the set {ρ(g)x} alone, so that c(ρ(g)x) = c(x) bit by bit where the action is exact. Where it is
not, the orbits of x and ρ(g)x are different sets, and c is invariant only approximately.

Nothing here depends on the engine: training and analytic kernels are given the transformed inputs.
"""

from __future__ import annotations

from math import prod

import numpy as np

from .errors import StudyError
from .interpolation import InputAction
from .settings import NetworkSection
from .tasks.base import TaskData

#: Bytes of orbits that are held at once.
BLOCK_BYTES = 64 * 2**20


def score_weights(shape: tuple[int, ...]) -> np.ndarray:
    """(*shape) the weights w of the score."""
    axes = [np.linspace(-1, 1, n) if n > 1 else np.zeros(1) for n in shape]
    phase = sum(a * u for a, u in enumerate(np.meshgrid(*axes, indexing="ij"), start=1))
    return np.sin(1.0 + phase)


def canonical(action: InputAction, inputs: np.ndarray) -> np.ndarray:
    """c(x) of a batch: (sample, *shape) → (sample, *shape)."""
    weights = score_weights(action.shape).reshape(-1)
    result = np.empty_like(inputs)
    part = max(1, BLOCK_BYTES // (8 * action.group.order * prod(action.shape)))
    for start in range(0, len(inputs), part):
        orbits = action.orbit(inputs[start : start + part])
        flat = orbits.reshape(*orbits.shape[:2], -1)
        score = (flat * weights).sum(axis=-1)  # summed row by row: the same bits wherever an array stands in an orbit
        best = score.argmax(axis=1)
        for sample in np.flatnonzero((score == score.max(axis=1, keepdims=True)).sum(axis=1) > 1):
            tied = np.flatnonzero(score[sample] == score[sample].max())
            best[sample] = tied[np.lexsort(flat[sample, tied].T[::-1])[-1]]
        result[start : start + part] = orbits[np.arange(len(orbits)), best]
    return result


def seen_inputs(network: NetworkSection, data: TaskData, samples: np.ndarray) -> np.ndarray:
    """(sample, *input shape) inputs of the task at the indices ``samples``, as the network sees them.

    Raises StudyError where the network is made invariant and the outputs are not.
    """
    if network.canonicalisation == "none":
        return data.input[samples]
    _check(data)
    return canonical(data.input_action, data.input[samples])


def seen_orbits(network: NetworkSection, data: TaskData, samples: np.ndarray, precision: str = "float64") -> np.ndarray:
    """(sample, element, *input shape) c(ρ(g)x), or ρ(g)x without a canonicalisation; raises as seen_inputs."""
    action, inputs = data.input_action, data.input[samples]
    if network.canonicalisation == "none":
        exact = action.is_exact  # then rounding commutes with it, and the orbits need not be held in double precision
        return action.orbit(inputs.astype(precision)) if exact else action.orbit(inputs).astype(precision)
    _check(data)
    if action.is_exact:
        once = canonical(action, inputs).astype(precision)
        return np.repeat(once[:, None], action.group.order, axis=1)
    seen = canonical(action, action.orbit(inputs).reshape(-1, *action.shape))
    return seen.reshape(len(inputs), action.group.order, *action.shape).astype(precision)


def _check(data: TaskData) -> None:
    if not data.output_action.is_invariant:
        raise StudyError(
            f"network.canonicalisation: it makes every member invariant, but the {data.output_name} of this task "
            f"transform under {data.input_action.group.name}.",
            remedy="Use canonicalisation none, or a task with invariant outputs.",
        )
