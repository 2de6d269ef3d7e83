"""What a study will cost before anything runs: members, shards, floating-point work and disk."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from math import prod

from rich.console import Console
from rich.table import Table

from .groups import get_group
from .study import Arm, Study

#: Metrics kept for every member subset, each with a double and a single for its error (docs/layout.md).
METRICS, METRIC_BYTES = 14, 12

#: Members whose predictions are kept in the ensemble store as examples.
EXAMPLES = 8

#: Sustained float32 rate of one CPU core in training, by architecture (measured on one AVX-512 core; an estimate
#: elsewhere). Used for the time column of `emeq plan` alone.
GFLOPS_PER_CORE = {"mlp": 60.0, "cnn": 12.0}


@dataclass(frozen=True)
class Cost:
    """Estimated cost of one arm.

    Attributes:
      members, shards: counts.
      flops: floating-point operations of training (3 × forward: forward, and two products backward).
      shard_bytes: raw predictions of all members, before compression (random numbers hardly compress).
      ensemble_bytes: the ensemble store and the arm's part of metrics.nc.
    """

    members: int
    shards: int
    flops: float
    shard_bytes: int
    ensemble_bytes: int


def estimate(study: Study, arm: Arm) -> Cost | None:
    """Cost of an arm, or None where only the data of a custom task tells its shapes."""
    s = arm.settings
    shape, outputs = s.task.input_shape(), s.task.outputs()
    if shape is None or outputs is None:
        return None
    order = get_group(s.group).order
    evaluated = sum(min(s.evaluate.samples, s.task.train if split == "train" else s.task.test) for split in s.splits())
    values = len(s.training.recorded) * evaluated * order * outputs
    rows = s.task.train * s.augmentation.rows(order) * s.training.last
    forward = s.network.forward_flops(shape, outputs)
    weights = len(s.training.store_weights) * 4 * s.network.parameters(shape, outputs)
    members = s.ensemble.members
    counts = members.bit_length() if s.evaluate.member_counts == "powers_of_two" else len(s.evaluate.member_counts)
    subsets = 2 * members  # of all sizes, in powers of two
    metrics = subsets * len(s.training.recorded) * len(s.splits()) * METRICS * METRIC_BYTES
    kept = 16 + 4 * (s.evaluate.stored_subsets * counts + EXAMPLES)
    return Cost(
        members=members,
        shards=len(study.shards(arm)),
        flops=members * (3.0 * rows * forward + values / outputs * forward),
        shard_bytes=members * (4 * values + weights),
        ensemble_bytes=values * kept + metrics,
    )


def data_bytes(study: Study) -> int:
    """Size of all data and theory stores of a study, before compression."""
    stores: dict[str, int] = {}
    for arm in study.arms:
        s = arm.settings
        shape, outputs = s.task.input_shape(), s.task.outputs()
        if shape is None or outputs is None:
            continue
        samples = s.task.train + s.task.test * (1 + len(s.task.ood))
        stores[arm.data_key] = 8 * samples * (prod(shape) + outputs)
        if s.has_mean:
            order, records = get_group(s.group).order, len(s.training.recorded)
            evaluated = min(samples, s.evaluate.samples * len(s.splits()))
            stores[arm.theory_key] = 8 * records * evaluated * order * (outputs + order * s.has_covariance)
    return sum(stores.values())


def size(count: float) -> str:
    """Bytes for people: 1 kB = 1000 B."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def render(study: Study, keys: bool, console: Console | None = None) -> None:
    """Print the plan of a study as a table."""
    console = console or Console(width=None if sys.stdout.isatty() else 160)
    table = Table(title=f"{study.file}: study {study.name!r}, {len(study.arms)} arm(s)", title_justify="left")
    columns = ["arm", "members", "shards", "to train", "work / GFLOP", "core-hours", "predictions"]
    for column in columns + (["data key", "theory key"] if keys else []):
        left = column in ("arm", "data key", "theory key")
        table.add_column(column, justify="left" if left else "right", no_wrap=True)
    known = []
    for arm in study.arms:
        cost = estimate(study, arm)
        missing = sum(not study.shard_path(arm, first, last).exists() for first, last in study.shards(arm))
        cells = [arm.path, str(arm.settings.ensemble.members), str(len(study.shards(arm))), str(missing)]
        if cost is None:
            cells += ["?", "?", "?"]
        else:
            known.append(cost)
            hours = cost.flops / 1e9 / GFLOPS_PER_CORE[arm.settings.network.name] / 3600
            cells += [f"{cost.flops / 1e9:.3g}", f"{hours:.2g}", size(cost.shard_bytes)]
        table.add_row(*cells, *([arm.data_key, arm.theory_key] if keys else []))
    console.print(table)
    disk = sum(cost.shard_bytes + cost.ensemble_bytes for cost in known) + data_bytes(study)
    members = sum(arm.settings.ensemble.members for arm in study.arms)
    console.print(
        f"in all: {members} members in {sum(len(study.shards(arm)) for arm in study.arms)} shards, "
        f"{len({arm.theory_key for arm in study.arms if arm.settings.has_mean})} analytic solution(s), "
        f"{size(disk)} under {study.root}"
    )
    if len(known) < len(study.arms):
        console.print("work and disk of a custom task (?) are known once its data is made")
