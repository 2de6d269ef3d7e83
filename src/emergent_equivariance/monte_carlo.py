"""Kernels estimated from many networks at initialisation, for networks without analytic ones.

    Θ̄(x, x′) = mean over K networks of (1/n_out) Σ_o ∇_θ f_o(x) · ∇_θ f_o(x′),   K̄ likewise of f_o(x) f_o(x′)

in double precision, in evaluation mode, of networks drawn from a stream of their own: none is a member of the ensemble.
They take the place of the analytic kernels in μ_t and Σ_t (``dynamics``). That assumes what holds for readouts with iid
weights of mean 0: the mean kernel is a multiple of the identity over outputs, and the mean output at initialisation is
0. How far it is not is measured and kept. Θ̄ is the mean kernel of networks of this width, not its limit.

The error of a function of the kernels is the delete-one-block jackknife over B ≤ BLOCKS blocks of networks (Efron &
Stein 1981): se² = (B − 1)/B Σ_b (v_b − v̄)², v_b the value without block b.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from .augmentation import stream
from .empirical import empirical_ntk, torch_empirical_ntk
from .kernels import Progress
from .networks import build_network
from .settings import NetworkSection, TorchNetwork
from .study.budget import BLOCKS

__all__ = ["Estimate", "estimate", "jackknife"]

#: Purpose of the Philox streams of the networks, whose seed is 0 (see augmentation.stream).
STREAM_KERNELS = 18

#: Rows on which the kernel between different outputs is formed.
OUTPUT_ROWS = 6

#: Inputs evaluated at once.
EVALUATION_BATCH = 256

#: Standard errors from which on a mean output at initialisation is not taken for 0, and multiple of its noise from
#: which on the kernel between different outputs is not.
SUSPICIOUS = 3.0


class Kernels(NamedTuple):
    """Kernels between the training rows (row, row_), and between the points and these (point, row)."""

    train: np.ndarray
    cross: np.ndarray


@dataclass(frozen=True, eq=False)
class Estimate:
    """Mean empirical kernels.

    Attributes:
      nngp, ntk: K̄ and Θ̄.
      initial: (sample, element, element_) K̄ within orbits.
      blocks: number of networks of every block and the sum of their Θ.
      attributes: of the theory store: ``networks`` K; ``output_deviation``, the norm of what the mean kernel has
        besides Θ̄ times the identity over outputs, relative to the latter, on a few rows, and
        ``output_deviation_noise``, what it would be from a finite K alone; ``initial_mean``, the root mean square of
        the mean output at initialisation in standard errors, 1 on average if it is 0.
      warnings: sentences on assumptions that do not hold.
    """

    nngp: Kernels
    ntk: Kernels
    initial: np.ndarray
    blocks: list[tuple[int, Kernels]]
    attributes: dict[str, float]
    warnings: list[str]

    def without_blocks(self) -> Iterator[Kernels]:
        """Θ̄ without each of the blocks in turn."""
        networks = sum(number for number, _ in self.blocks)
        for number, part in self.blocks:
            kept = networks - number
            yield Kernels(*((networks * a - b) / kept for a, b in zip(self.ntk, part, strict=True)))


def jackknife(values: np.ndarray) -> np.ndarray:
    """(block, …) values without each block → (…) standard error of the value with all of them."""
    blocks = len(values)
    return np.sqrt((blocks - 1) / blocks * ((values - values.mean(axis=0)) ** 2).sum(axis=0))


def estimate(
    section: NetworkSection,
    inputs: np.ndarray,
    orbits: np.ndarray,
    outputs: int,
    networks: int,
    *,
    memory: int,
    threads: int = 1,
    progress: Progress | None = None,
) -> Estimate:
    """Mean kernels of K networks between training rows, and with the orbits of samples.

    Args:
      section: the network, of either library; for the JAX ones 64-bit jax must be on.
      inputs: (row, *input shape) augmented training inputs.
      orbits: (sample, element, *input shape).
      outputs: number of outputs.
      networks: K, at least 2.
      memory: bytes the Jacobians of a pair of blocks of inputs may take.
      threads: CPU threads of torch.
      progress: called with (networks finished, K).

    Raises StudyError for a factory that does not keep its contract (``networks.factories``).
    """
    draw, warnings = _drawing(section, inputs.shape[1:], outputs, memory, threads)
    points = orbits.reshape(-1, *inputs.shape[1:])
    running = _Running(len(inputs), orbits.shape[:2], outputs)
    edges = np.linspace(0, networks, min(networks, BLOCKS) + 1).round().astype(int)
    for first, last in pairwise(edges):
        block = Kernels(np.zeros((len(inputs),) * 2), np.zeros((len(points), len(inputs))))
        for number in range(first, last):
            network = draw(number)
            block.train[:] += network.ntk(inputs, None, False)
            block.cross[:] += network.ntk(points, inputs, False) if len(points) else 0.0
            between = network.ntk(inputs[:OUTPUT_ROWS], None, True)
            running.add(network.outputs(inputs), network.outputs(points), between)
            if progress is not None:
                progress(number + 1, networks)
        running.blocks.append((int(last - first), block))
    return running.estimate(warnings)


# ------------------------------------------------------------------------------------------- the networks


class _Drawn(NamedTuple):
    """One network: inputs → (input, output); and its empirical NTK, arguments (x1, x2, full) as of empirical_ntk."""

    outputs: Callable[[np.ndarray], np.ndarray]
    ntk: Callable[[np.ndarray, np.ndarray | None, bool], np.ndarray]


#: Number of a network → the network.
_Draw = Callable[[int], _Drawn]


def _drawing(
    section: NetworkSection, shape: tuple[int, ...], outputs: int, memory: int, threads: int
) -> tuple[_Draw, list[str]]:
    if isinstance(section, TorchNetwork):
        return _torch_drawing(section, shape, outputs, memory, threads)
    return _jax_drawing(section, shape, outputs, memory), []


def _jax_drawing(section: NetworkSection, shape: tuple[int, ...], outputs: int, memory: int) -> _Draw:
    import jax

    network = build_network(section, shape, outputs)

    def draw(number: int) -> _Drawn:
        leaves = (stream(0, STREAM_KERNELS, number, k).standard_normal(s) for k, s in enumerate(network.shapes))
        parameters = jax.tree.unflatten(network.structure, list(leaves))
        return _Drawn(
            lambda x: _in_batches(lambda part: np.asarray(network.apply(parameters, part)), x, outputs),
            lambda x1, x2, full: empirical_ntk(network.apply, parameters, x1, x2, full=full, memory=memory),
        )

    return draw


def _torch_drawing(
    section: TorchNetwork, shape: tuple[int, ...], outputs: int, memory: int, threads: int
) -> tuple[_Draw, list[str]]:
    import torch

    from .networks.factories import member_module, mode_dependent, trained_parameters

    torch.set_num_threads(threads)

    def draw(number: int) -> _Drawn:
        module = member_module(section, shape, outputs, 0, number, purpose=STREAM_KERNELS).double().eval()
        chosen = trained_parameters(module)

        def forward(x: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                return _in_batches(lambda part: module(torch.as_tensor(part)).numpy(), x, outputs)

        def ntk(x1: np.ndarray, x2: np.ndarray | None, full: bool) -> np.ndarray:
            tensors = [None if x is None else torch.as_tensor(x) for x in (x1, x2)]
            return torch_empirical_ntk(module, *tensors, parameters=chosen, full=full, memory=memory)

        return _Drawn(forward, ntk)

    found = mode_dependent(member_module(section, shape, outputs, 0, 0))
    if not found:
        return draw, []
    return draw, [
        f"The network has {', '.join(found)}: its kernel is that of evaluation mode, while members take their steps in "
        "training mode. They need not follow μ_t."
    ]


def _in_batches(forward: Callable[[np.ndarray], np.ndarray], x: np.ndarray, outputs: int) -> np.ndarray:
    parts = [forward(x[start : start + EVALUATION_BATCH]) for start in range(0, len(x), EVALUATION_BATCH)]
    return np.concatenate([np.zeros((0, outputs)), *parts])


# --------------------------------------------------------------------------------------------- the means


class _Running:
    """Sums over the networks so far."""

    def __init__(self, rows: int, orbits: tuple[int, ...], outputs: int) -> None:
        self.samples, self.elements, self.networks, self.outputs = *orbits, 0, outputs
        points, few = self.samples * self.elements, min(rows, OUTPUT_ROWS)
        self.nngp = Kernels(np.zeros((rows, rows)), np.zeros((points, rows)))
        self.initial = np.zeros((self.samples, self.elements, self.elements))
        self.output, self.square = np.zeros((rows + points, outputs)), 0.0
        self.between = np.zeros((2, few, few, outputs, outputs))  # first and second moment
        self.blocks: list[tuple[int, Kernels]] = []

    def add(self, rows: np.ndarray, points: np.ndarray, between: np.ndarray) -> None:
        """Take the outputs (row, output), (point, output) and the kernel (row, row_, output, output_) of a network."""
        self.networks += 1
        self.nngp.train[:] += rows @ rows.T / self.outputs
        self.nngp.cross[:] += points @ rows.T / self.outputs
        orbits = points.reshape(self.samples, self.elements, self.outputs)
        self.initial += orbits @ orbits.swapaxes(1, 2) / self.outputs
        self.output += np.concatenate([rows, points])
        self.square += float((rows**2).sum() + (points**2).sum())
        self.between += between, between**2

    def estimate(self, warnings: list[str]) -> Estimate:
        ntk = Kernels(*(sum(block[i] for _, block in self.blocks) / self.networks for i in (0, 1)))  # type: ignore[arg-type]
        nngp = Kernels(*(kernel / self.networks for kernel in self.nngp))
        attributes = {"networks": self.networks, **self._outputs(), "initial_mean": self._initial_mean()}
        return Estimate(
            self._shaped(nngp),
            self._shaped(ntk),
            self.initial / self.networks,
            [(number, self._shaped(block)) for number, block in self.blocks],
            attributes,
            [*warnings, *_said(attributes)],
        )

    def _shaped(self, kernels: Kernels) -> Kernels:
        """The same with (sample, element, row), and exactly symmetric."""
        train = (kernels.train + kernels.train.T) / 2
        return Kernels(train, kernels.cross.reshape(self.samples, self.elements, len(train)))

    def _outputs(self) -> dict[str, float]:
        first, second = self.between / self.networks
        alike = np.einsum("ijoo->ij", first)[..., None, None] / self.outputs * np.eye(self.outputs)
        noise = np.maximum(second - first**2, 0).sum() / (self.networks - 1)
        scale = float(np.linalg.norm(alike))
        return {
            "output_deviation": float(np.linalg.norm(first - alike)) / scale,
            "output_deviation_noise": float(np.sqrt(noise)) / scale,
        }

    def _initial_mean(self) -> float:
        mean, square = self.output / self.networks, self.square / self.networks
        spread = (square - float((mean**2).sum())) / (self.networks - 1)
        return float(np.sqrt((mean**2).sum() / spread)) if spread > 0 else 0.0


def _said(found: dict[str, float]) -> list[str]:
    result = []
    if found["output_deviation"] > SUSPICIOUS * found["output_deviation_noise"] + 1e-12:
        result.append(
            "The mean kernel is not a multiple of the identity over outputs: it differs from one by "
            f"{found['output_deviation']:.2g} of its norm, of which noise explains "
            f"{found['output_deviation_noise']:.2g}. μ_t takes it for one."
        )
    if found["initial_mean"] > SUSPICIOUS:
        result.append(
            f"The mean output at initialisation is not 0, but {found['initial_mean']:.2g} standard errors from it. μ_t "
            "takes it for 0."
        )
    return result
