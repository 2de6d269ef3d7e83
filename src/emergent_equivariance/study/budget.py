"""Memory and disk that jobs take, from the settings of an arm alone.

The analytic side is held against execution.memory. Of it are counted the arrays that grow as the square of the number
of samples N; with |G| elements, R samples of which N are training samples, and M = N × (rows per sample) augmented
rows, in numbers of 8 bytes:

- in blocks (full augmentation): 2 |G| R N of the blocks of both kernels, |G| N² of eigenvectors, and 4 copies of the
  largest block, d N × d N, while it is decomposed;
- on the augmented rows: 2 M² of the kernels, 2 M per point of an evaluated orbit, M² of eigenvectors and 3 M² of work;
- 2 |G| R N for κ itself, where the latter are taken from it;
- B + 2 times one kernel on the augmented rows and evaluated orbits where they are estimated in B blocks of networks.

A store of tiles is read and written tile by tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil
from typing import Literal

from ..errors import StudyError
from ..groups import get_group
from ..settings import AnySettings, ConvergenceSettings, RegressionSettings, Settings, TorchNetwork
from ..settings.engines import ENGINES
from .probes import Choice, Probe
from .tiling import Tiling, planned_tiling, whole_tiling
from .training_memory import training_memory
from .work import ensemble_sizes, joined_bytes, members_per_shard, recorded_values

__all__ = [
    "Needs",
    "aggregation_memory",
    "check_memory",
    "job_memory",
    "joining_memory",
    "needs",
    "size",
    "training_job_bytes",
    "training_job_memory",
]

#: Bytes of one process that computes kernels before anything large is there (measured: 0.33 GB).
PROGRAM = 400_000_000

#: Bytes that torch adds to it, where kernels are estimated from torch networks (measured: 0.20 GB).
TORCH = 200_000_000

#: Memory in MB that every job is given at least.
LEAST = 1000

#: What jobs that train ask for, over what is predicted, which may be a quarter off.
MARGIN = 1.25

#: Bytes of a process that has started CUDA, beside those of one that has not (an estimate).
CUDA = 3_000_000_000

#: Blocks of networks that an estimated kernel's error is found from, at most.
BLOCKS = 16

#: Bytes of the predictions that ensembles are formed of at a time, and copies of them (measured: 10; see ensemble).
CHUNK, CHUNK_COPIES = 2**25, 12

#: Copies of a tile that are alive at once: computed, made symmetric, compressed (measured: 6).
TILE_COPIES = 7


@dataclass(frozen=True)
class Needs:
    """What the analytic side of an arm takes.

    Attributes:
      whole: its kernel matrix, cut as it would be in tiles.
      tiling: its tiles, or None where it is computed within the job that needs it.
      jobs: jobs that compute them.
      pairs: kernels to evaluate.
      tile_job: memory of one such job, in bytes.
      solution: memory of the job that solves for μ_t and Σ_t, or fits, in bytes.
    """

    whole: Tiling
    tiling: Tiling | None
    jobs: int
    pairs: int
    tile_job: int
    solution: int

    @property
    def disk(self) -> int:
        """Bytes of the store of tiles, before compression."""
        return self.tiling.nbytes if self.tiling else 0


def needs(settings: AnySettings) -> Needs | None:
    """What the analytic side of an arm takes; None where it has none, or a negligible one (kernel_convergence)."""
    if isinstance(settings, ConvergenceSettings):
        return None
    if isinstance(settings, Settings) and not (settings.has_mean or settings.resolves_learning_rate):
        return None
    whole, tiling = whole_tiling(settings), planned_tiling(settings)
    if isinstance(settings, RegressionSettings):
        largest = max(settings.regression.sizes)
        numbers, pairs = 2 * whole.rows * whole.train + 6 * largest**2, whole.pairs
    else:
        numbers, pairs = _solution(settings, whole, tiling is not None)
    program = PROGRAM + (TORCH if isinstance(settings.network, TorchNetwork) else 0)
    working = program + settings.execution.block_memory
    if tiling is None:
        return Needs(whole, None, 0, pairs, 0, working + 8 * numbers)
    jobs, tiles = len(tiling.jobs(settings.execution.tiles_per_job)), TILE_COPIES * tiling.tile_bytes
    return Needs(whole, tiling, jobs, tiling.pairs, working + tiles, program + tiles + 8 * numbers)


def _solution(settings: Settings, whole: Tiling, stored: bool) -> tuple[int, int]:
    """Numbers held by the job that solves, without the stored kernels, and kernels it evaluates."""
    group, augmentation = get_group(settings.group), settings.augmentation
    order, train, rows = group.order, whole.train, whole.rows if settings.has_mean else whole.train
    full = augmentation.kind in ("full", "random")
    symmetric = settings.theory.route == "auto" and settings.theory.monte_carlo is None
    symmetric = symmetric and order > 1 and settings.has_invariant_kernel
    if symmetric and full:
        largest = max(irrep.shape[1] ** 2 * (irrep.itemsize // 8) for irrep in group.irreps)
        kernels = 1 + settings.has_covariance
        return kernels * order * rows * train + (order + 4 * largest) * train**2, whole.pairs
    augmented = train * (order if full else augmentation.rows(order))
    evaluated = settings.has_mean * order * (rows - train + min(settings.evaluate.samples, train))
    numbers = 6 * augmented**2 + 2 * evaluated * augmented
    if (networks := settings.theory.monte_carlo) is not None:
        pairs = augmented * (augmented + 1) // 2 + evaluated * augmented
        kept = (min(networks, BLOCKS) + 2) * (augmented + evaluated) * augmented
        return numbers + kept, networks * pairs
    if stored or (symmetric and augmentation.rows(order) > 1):
        return numbers + 2 * order * rows * train + augmented**2, whole.pairs
    return numbers, augmented * (augmented + 1) // 2 + evaluated * augmented


def check_memory(settings: AnySettings) -> None:
    """Raise StudyError if the analytic side of an arm needs more memory than execution.memory."""
    found = needs(settings)
    if found is None:
        return
    budget, tiling = settings.execution.memory, found.tiling
    if tiling and found.tile_job > budget * 1e9:
        raise StudyError(
            f"execution.memory: {budget:g} GB, but a job that computes tiles of {tiling.side} × {tiling.side} samples "
            f"for {tiling.elements} group elements needs about {size(found.tile_job)}.",
            remedy="Lower execution.tile_size, or raise execution.memory if the machine has as much.",
        )
    if found.solution > budget * 1e9:
        whole = found.whole
        lower = "task.train or regression.sizes" if isinstance(settings, RegressionSettings) else "task.train"
        without = ""
        if isinstance(settings, Settings):
            number = " and training.learning_rate to a number" if settings.resolves_learning_rate else ""
            without = f", or set theory.mean: false{number}"
        raise StudyError(
            f"execution.memory: {budget:g} GB, but the analytic side of {whole.train} training samples needs about "
            f"{size(found.solution)} at once. Its kernels alone are {whole.count} tiles of {whole.side} × {whole.side} "
            f"samples, {size(whole.nbytes)} on disk.",
            remedy=f"Raise execution.memory if the machine has as much, lower {lower}{without}.",
        )


def job_memory(settings: AnySettings, job: Literal["tiles", "solution"]) -> int:
    """Memory in MB (10⁶ bytes) that a job of an arm asks the scheduler for: at least LEAST.

    Args:
      settings: the arm.
      job: ``tiles``: one that computes or assembles tiles; ``solution``: one that solves, fits or measures. Studies of
        kind kernel_convergence, whose networks fill the budget they are given, ask for execution.memory.
    """
    found = needs(settings)
    if found is None:
        return max(LEAST, ceil(settings.execution.memory * 1e3))
    return max(LEAST, ceil((found.tile_job if job == "tiles" else found.solution) / 1e6))


def training_job_bytes(settings: Settings, probe: Probe | None) -> int | None:
    """About how many bytes of memory a job takes that trains a shard, or measures engines.

    Args:
      settings: the arm.
      probe: how it is trained; None: not known yet, all that may be tried fits. Members that train on a GPU do not
        count: they take its memory.

    None where it is not known: custom tasks, whose data tells the shapes, and networks of one's own.
    """
    shape, outputs = settings.task.input_shape(), settings.task.outputs()
    if shape is None or outputs is None or isinstance(settings.network, TorchNetwork):
        return None
    order = get_group(settings.group).order
    rows = settings.task.train * (
        order if settings.augmentation.kind == "random" else settings.augmentation.rows(order)
    )
    if probe is None:
        given, members = settings.execution.members_at_once, members_per_shard(settings)
        allowed = [name for name in ENGINES if settings.execution.engine in (name, "auto")]
        engines = {name: ENGINES[name] for name in allowed if settings.network.name in ENGINES[name].networks}
        most = {name: max(engine.stacks, default=1) if given == "auto" else given for name, engine in engines.items()}
        choices = [
            Choice(name, "vmap" if engine.stacks else "loop", min(members, most[name]), 1)
            for name, engine in engines.items()
        ]
    else:
        choices = [probe.choice if probe.device == "cpu" else replace(probe.choice, members_at_once=1)]
    needed = max(training_memory(settings, choice, shape, outputs, rows) for choice in choices)
    return needed if probe is None or probe.device == "cpu" else needed + CUDA


def training_job_memory(settings: Settings, probe: Probe | None) -> int:
    """Memory in MB that such a job asks the scheduler for: at least LEAST, execution.memory where it is not known."""
    found = training_job_bytes(settings, probe)
    return max(LEAST, ceil(settings.execution.memory * 1e3 if found is None else MARGIN * found / 1e6))


def aggregation_memory(settings: Settings) -> int:
    """Memory in MB that a job asks for which forms the ensembles of an arm: at least LEAST."""
    values = recorded_values(settings)
    if values is None:
        return max(LEAST, ceil(settings.execution.memory * 1e3))
    shard = 4 * values * members_per_shard(settings)
    chunk = max(8 * values, CHUNK)
    sums = len(ensemble_sizes(settings)) * (8 + 4 * settings.evaluate.stored_subsets) * values
    return max(LEAST, ceil((PROGRAM + shard + CHUNK_COPIES * chunk + 2 * sums) / 1e6))


def joining_memory(arms: Sequence[AnySettings]) -> int:
    """Memory in MB that a job asks for which joins these arms, or draws what was joined: at least LEAST.

    In the joined arrays every arm has as many entries as the largest. Measured: 0.15 GB, and half of what is counted.
    """
    return max(LEAST, ceil((PROGRAM + len(arms) * max(map(joined_bytes, arms))) / 1e6))


def size(count: float) -> str:
    """Bytes for people: 1 kB = 1000 B."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
