"""From the members of an arm to ensembles of every size.

``aggregate`` streams once over the shards of an arm. Let v be the number of valid (not diverged) members in the
order of their index. For each ensemble size m the valid members are cut into consecutive disjoint subsets
[0, m), [m, 2m), …; each subset's mean is evaluated as soon as it is complete, so that memory does not depend
on the number of members (the metrics themselves apart: a few kilobytes per member).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from xarray import DataArray, Dataset

from . import metrics
from .errors import StoreError
from .metrics import Reference, file_of
from .settings import Settings
from .tasks.base import TaskData

#: Bytes of predictions (as float64) that one chunk of members may take.
CHUNK_BYTES = 32 * 2**20
#: Members in one chunk at most.
CHUNK_MEMBERS = 64
#: Valid members whose own predictions are kept beside the means, as examples.
EXAMPLES = 8

_PREDICTION = ("step", "sample", "element", "output")
_AGAIN = "Delete this file and run again: only it is made anew."


def member_counts(settings: Settings, members: int) -> list[int]:
    """Ensemble sizes m ≤ ``members`` to evaluate, ascending: 1 (the members) and those the study asks for."""
    wanted = settings.evaluate.member_counts
    if wanted == "powers_of_two":
        wanted = [2**k for k in range(members.bit_length())]
    return sorted({1, *(m for m in wanted if m <= members)})


def reference(settings: Settings, data: TaskData, theory: Dataset | None) -> Reference:
    """What the predictions of an arm are judged on: its task and its theory store (None without theory).

    Raises StoreError if the theory is of other samples, elements or outputs.
    """
    return Reference.of(
        data,
        samples=settings.evaluate.samples,
        loss=settings.training.loss,
        averaged=settings.evaluate.ensemble_mean,
        theory=theory if settings.has_mean else None,
    )


# ------------------------------------------------------------------------------------------ aggregation


@dataclass
class _Subsets:
    """Running sums over disjoint consecutive subsets of ``size`` members, for several arrays side by side."""

    size: int
    filled: int = 0
    complete: int = 0
    partial: list[np.ndarray] = field(default_factory=list)

    def add(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray] | None:
        """Take (member, …) arrays; return the (subset, …) sums of the subsets completed by them, if any."""
        members = len(arrays[0])
        cuts = [0, *range(self.size - self.filled, members, self.size), members]
        bounds = list(itertools.pairwise(cuts))
        done = (self.filled + members) // self.size
        sums = []
        for i, array in enumerate(arrays):
            pieces = array if self.size == 1 else np.stack([array[a:b].sum(axis=0) for a, b in bounds])
            if self.filled:
                pieces[0] += self.partial[i]
            sums.append(pieces)
        self.filled = (self.filled + members) % self.size
        self.partial = [pieces[-1].copy() for pieces in sums] if self.filled else []
        self.complete += done
        return [pieces[:done] for pieces in sums] if done else None


def aggregate(
    shards: Iterable[Dataset],
    reference: Reference,
    settings: Settings,
    members: int,
    *,
    chunk_members: int | None = None,
) -> Dataset:
    """The ensembles of one arm, in one pass over its shards.

    Args:
      shards: in the order of their members, together covering 0…members−1 (more are ignored): prediction(member,
        step, sample, element, output), loss(member, step), done(member), diverged(member). Lazily opened
        datasets are read in chunks of members; a generator may close each when it is asked for the next.
      reference: labels, targets and theory.
      settings: of the arm: recorded steps, ensemble sizes, what is averaged.
      members: number of members M.
      chunk_members: members read at a time; default: as many as fit CHUNK_BYTES, at most CHUNK_MEMBERS. The
        result does not depend on it beyond round-off.

    Returns:
      mean and second_moment (step, sample, element, output) of the valid members, float64;
      METRIC and METRIC_se (subset, step, split) with coordinates member_count, first, stop (subset) that count
      valid members; subset_mean(stored_subset, step, sample, element, output) float32 with coordinates
      stored_member_count, stored_first, stored_stop: the first ``evaluate.stored_subsets`` of each size > 1;
      example_prediction(example, step, sample, element, output) float32 of the first valid members (their index is
      the coordinate); observable_second_moment(step, sample, element, observable) float64, the mean of (R f)²;
      predicted_orbit_variance, predicted_orbit_mse (ensemble_size, step, split) with _se where Σ_t exists;
      member_METRIC(member, step, split) and member_loss_train(member, step) float32, NaN for diverged members;
      diverged(member). Without valid members the dimension ``subset`` is empty and mean is NaN.

    Raises StoreError, naming the shard, where labels disagree, members are missing or not done, or
    predictions of a member that is not marked as diverged are not finite.
    """
    steps = np.asarray(settings.training.recorded)
    labels = {
        "step": steps,
        "sample": reference.split["sample"].values,
        "element": np.asarray(reference.output_action.group.elements),
    }
    if reference.mean is not None and not np.array_equal(reference.mean["step"], steps):
        raise StoreError(
            f"The theory is of the steps {reference.mean['step'].values.tolist()}, the study records {steps.tolist()}.",
            remedy="Delete the theory store and run again.",
        )
    shape = (len(steps), len(labels["sample"]), len(labels["element"]), reference.target.sizes["output"])
    if chunk_members is None:
        chunk_members = int(np.clip(CHUNK_BYTES // (8 * int(np.prod(shape))), 1, CHUNK_MEMBERS))

    sizes = [_Subsets(m) for m in member_counts(settings, members)]
    everything = _Subsets(members + 1)  # never complete: the full ensemble, whose size is known at the end only
    stored: list[tuple[int, int, np.ndarray]] = []
    examples: list[np.ndarray] = []
    rows = _Rows()
    loss = np.full((members, len(steps)), np.nan, np.float32)
    diverged = np.zeros(members, bool)
    expected = 0

    for shard in shards:
        if expected == members:
            break
        _check_labels(shard, labels, shape[-1], expected)
        taken = shard.isel(member=slice(0, members - expected))
        marks = _check_done(taken, file_of(shard))
        diverged[expected : expected + len(marks)] = marks
        loss[expected : expected + len(marks)] = np.where(marks[:, None], np.nan, taken["loss"].values)
        predictions = taken["prediction"].transpose("member", *_PREDICTION)
        for start in range(0, len(marks), chunk_members):
            part = slice(start, start + chunk_members)
            values = predictions.isel(member=part).values[~marks[part]].astype(np.float64)
            if not np.isfinite(values).all():
                raise StoreError(
                    f"{file_of(shard)}: predictions of members {expected + start}… are missing or not finite, "
                    "but no divergence is marked.",
                    remedy=_AGAIN,
                )
            if not len(values):
                continue
            if reference.averaged == "softmax":
                values = np.exp(values - values.max(axis=-1, keepdims=True))
                values /= values.sum(axis=-1, keepdims=True)
            observable = metrics.read_out(DataArray(values, dims=("member", *_PREDICTION)), reference.readout)
            observable = observable.transpose("member", ..., "observable")
            spread = metrics.orbit_variances(observable).values
            everything.add([values, values**2, observable.values**2, spread])
            examples += list(values[: EXAMPLES - len(examples)].astype(np.float32))
            for running in sizes:
                first = running.complete * running.size
                sums = running.add([values, spread])
                if sums is not None:
                    means, spreads = (total / running.size for total in sums)
                    rows.add(running.size, first, _evaluate(means, spreads, running.size, reference, steps))
                    keep = settings.evaluate.stored_subsets - first // running.size
                    if running.size > 1 and keep > 0:
                        stored += [
                            (running.size, first + i * running.size, mean.astype(np.float32))
                            for i, mean in enumerate(means[:keep])
                        ]
        expected += len(marks)
    if expected != members:
        raise StoreError(
            f"The shards hold {expected} members, the study asks for {members}.", remedy="Train the missing shards."
        )

    valid = everything.filled
    if valid:
        mean, second, second_observable, spread = (total / valid for total in everything.partial)
        if not any(running.size == valid for running in sizes):
            rows.add(valid, 0, _evaluate(mean[None], spread[None], valid, reference, steps))
    else:
        mean = second = np.full(shape, np.nan)
        second_observable = np.full((*shape[:-1], reference.readout.sizes["observable"]), np.nan)
        nothing = np.empty((0, *shape))
        rows.add(1, 0, _evaluate(nothing, np.empty(nothing.shape[:3]), 1, reference, steps))
    result = rows.dataset().assign_coords(labels)
    result["mean"] = (_PREDICTION, mean)
    result["second_moment"] = (_PREDICTION, second)
    result["observable_second_moment"] = ((*_PREDICTION[:-1], "observable"), second_observable)
    if examples:
        result["example_prediction"] = (("example", *_PREDICTION), np.stack(examples))
        result = result.assign_coords(example=np.flatnonzero(~diverged)[: len(examples)])
    if stored:
        stored.sort(key=lambda entry: entry[:2])
        result["subset_mean"] = (("stored_subset", *_PREDICTION), np.stack([entry[2] for entry in stored]))
        stored_size, stored_first = (np.array([entry[i] for entry in stored]) for i in (0, 1))
        result = result.assign_coords(
            stored_member_count=("stored_subset", stored_size),
            stored_first=("stored_subset", stored_first),
            stored_stop=("stored_subset", stored_first + stored_size),
        )
    result = result.merge(_member_metrics(result, diverged))
    result["member_loss_train"] = (("member", "step"), loss, {"long_name": "training loss of each member"})
    result["diverged"] = ("member", diverged)
    sizes_done = np.unique(result["member_count"].values)
    if valid:
        result = result.merge(metrics.predict(reference, DataArray(sizes_done, dims="ensemble_size")))
    result = result.assign_coords({"split_of_sample": ("sample", reference.split.values.astype(str))})
    result["step"].attrs["units"] = settings.training.unit
    for name, text, what in (
        ("mean", "mean of the members", reference.output_name),
        ("second_moment", "mean of the members' squares", reference.output_name),
        ("observable_second_moment", "mean of the members' squared observable", reference.observable),
    ):
        result[name].attrs |= {"long_name": text, "observable": what}
    result.attrs |= {
        "ensemble_mean": reference.averaged,
        "loss": reference.loss,
        "observable": reference.observable,
        "outputs": reference.output_name,
        "members": valid,
        "diverged": int(diverged.sum()),
    }
    return result


def _check_labels(shard: Dataset, labels: dict[str, np.ndarray], outputs: int, first: int) -> None:
    """Raise StoreError unless the shard has these labels and its members follow on ``first``."""
    name = file_of(shard)
    for dim, expected in labels.items():
        found = shard[dim].values
        if not np.array_equal(found, expected):
            raise StoreError(
                f"{name}: has {dim}s {_short(found)}, expected {_short(expected)}.",
                remedy=_AGAIN,
            )
    if shard.sizes["output"] != outputs:
        raise StoreError(f"{name}: has {shard.sizes['output']} outputs, expected {outputs}.", remedy=_AGAIN)
    found = shard["member"].values
    if not np.array_equal(found, np.arange(first, first + len(found))):
        raise StoreError(
            f"{name}: has members {_short(found)}, expected consecutive ones from {first}.",
            remedy="Give the shards in order and without gaps; train the missing ones.",
        )


def _short(values: np.ndarray) -> str:
    listed = values.tolist()
    return str(listed) if len(listed) <= 8 else f"{listed[0]} … {listed[-1]} ({len(listed)} of them)"


def _check_done(shard: Dataset, name: str) -> np.ndarray:
    """(member,) diverged flags; raises StoreError unless every member is done."""
    done = np.asarray(shard["done"].values).astype(bool)
    if not done.all():
        raise StoreError(f"{name}: members {_short(shard['member'].values[~done])} are not done.", remedy=_AGAIN)
    return np.asarray(shard["diverged"].values).astype(bool)


def _evaluate(means: np.ndarray, spreads: np.ndarray, size: int, reference: Reference, steps: np.ndarray) -> Dataset:
    prediction = DataArray(means, {"step": steps}, ("subset", *_PREDICTION))
    spread = DataArray(spreads, dims=("subset", "step", "sample"))
    return metrics.evaluate(prediction, reference, size, spread)


class _Rows:
    """Metrics of subsets, gathered as bare arrays: small datasets would weigh more than their numbers."""

    def __init__(self) -> None:
        self.template = Dataset()
        self.places: list[tuple[int, int, int]] = []  # ensemble size, first member, number of subsets
        self.values: dict[str, list[np.ndarray]] = {}

    def add(self, size: int, first: int, evaluated: Dataset) -> None:
        """Take METRIC(subset, step, split) of consecutive subsets of ``size`` members from ``first`` on."""
        if not self.places:
            self.template = evaluated
        self.places.append((size, first, evaluated.sizes["subset"]))
        for name, variable in evaluated.data_vars.items():
            dtype = np.float32 if str(name).endswith("_se") else np.float64
            values = variable.transpose("subset", "step", "split").values.astype(dtype)
            self.values.setdefault(str(name), []).append(values)

    def dataset(self) -> Dataset:
        """All rows over ``subset``, ordered by ensemble size and first member; empties itself."""
        size = np.concatenate([np.full(n, m) for m, _, n in self.places])
        first = np.concatenate([start + m * np.arange(n) for m, start, n in self.places])
        order = np.lexsort((first, size))
        variables = {}
        for name in list(self.values):
            values = np.concatenate(self.values.pop(name))[order]
            variables[name] = (("subset", "step", "split"), values, self.template[name].attrs)
        counts = {"member_count": size, "first": first, "stop": first + size}
        coords = {name: ("subset", values[order]) for name, values in counts.items()}
        return Dataset(variables, {**self.template.coords, **coords})


def _member_metrics(result: Dataset, diverged: np.ndarray) -> Dataset:
    """The m = 1 rows as member_METRIC(member, step, split), NaN for diverged members."""
    single = result["member_count"].values == 1
    members = {}
    for name in metric_names(result):
        if name != "orbit_variance_unbiased":
            values = np.full((len(diverged), result.sizes["step"], result.sizes["split"]), np.nan, np.float32)
            values[~diverged] = result[name].values[single]
            members[f"member_{name}"] = (("member", "step", "split"), values, result[name].attrs)
    return Dataset(members, coords={"member": np.arange(len(diverged))})


def metric_names(ensemble: Dataset) -> list[str]:
    """Names of the metrics over ``subset`` in the result of ``aggregate``."""
    return [str(n) for n, v in ensemble.data_vars.items() if v.dims[:1] == ("subset",) and f"{n}_se" in ensemble]
