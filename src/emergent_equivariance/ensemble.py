"""From the members of an arm to ensembles of every size.

``aggregate`` streams once over the shards of an arm. Let v be the number of valid members (those that are there and
have not diverged) in the order of their index. For each ensemble size m the valid members are cut into consecutive
disjoint subsets [0, m), [m, 2m), …; each subset's mean is evaluated as soon as it is complete, so that memory does not
depend on the number of members (the metrics themselves apart: a few kilobytes per member).
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from xarray import DataArray, Dataset

from . import metrics
from .comparison import Reference, file_of
from .errors import StoreError
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
    missing: Collection[int] = (),
    chunk_members: int | None = None,
) -> Dataset:
    """The ensembles of one arm, in one pass over its shards.

    Args:
      shards: in the order of their members, together covering 0…members−1 (more are ignored) but for the missing
        ones: prediction(member, step, sample, element, output), loss(member, step), done(member), diverged(member).
        Lazily opened datasets are read in chunks of members; a generator may close each when it is asked for the next.
      reference: labels, targets and theory.
      settings: of the arm: recorded steps, ensemble sizes, what is averaged.
      members: number of members M, the missing ones included.
      missing: indices of members that no shard holds: left out like diverged ones, and marked apart.
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
      member_METRIC(member, step, split) and member_loss_train(member, step) float32, NaN for members that are not
      valid; diverged(member), missing(member). Without valid members the dimension ``subset`` is empty and mean is NaN.

    Raises StoreError, naming the shard, where labels disagree, other members than the missing ones are not there or
    not done, or predictions of a member that is not marked as diverged are not finite; ValueError if a shard holds a
    member that is said to be missing.
    """
    labels, shape = _labels(reference, settings)
    if chunk_members is None:
        chunk_members = int(np.clip(CHUNK_BYTES // (8 * int(np.prod(shape))), 1, CHUNK_MEMBERS))
    absent = np.isin(np.arange(members), list(missing))
    marks = _Marks(np.full((members, shape[0]), np.nan, np.float32), np.zeros(members, bool), absent)
    ensembles = _Ensembles(reference, settings, members, shape)
    for values in _valid_predictions(shards, labels, shape[-1], marks, chunk_members):
        ensembles.add(values)
    return _labelled(ensembles.result(), labels, marks, reference, settings)


def _labels(reference: Reference, settings: Settings) -> tuple[dict[str, np.ndarray], tuple[int, ...]]:
    """Labels of step, sample and element, and the shape (step, sample, element, output) of one prediction.

    Raises StoreError if the theory is of other steps.
    """
    steps = np.asarray(settings.training.recorded)
    if reference.mean is not None and not np.array_equal(reference.mean["step"], steps):
        raise StoreError(
            f"{file_of(reference.mean)}: the theory is of the steps {reference.mean['step'].values.tolist()}, "
            f"the study records {steps.tolist()}.",
            remedy="Delete the file and run again.",
        )
    labels = {
        "step": steps,
        "sample": reference.split["sample"].values,
        "element": np.asarray(reference.output_action.group.elements),
    }
    return labels, (*(len(values) for values in labels.values()), reference.target.sizes["output"])


@dataclass
class _Marks:
    """What is known of every member: training loss (member, step), NaN if not valid; diverged, missing (member,)."""

    loss: np.ndarray
    diverged: np.ndarray
    missing: np.ndarray

    @property
    def valid(self) -> np.ndarray:
        """(member,) whether a member enters the statistics."""
        return ~(self.diverged | self.missing)

    def next_present(self, index: int) -> int:
        """The first member from ``index`` on that is not missing; their number if there is none."""
        present = np.flatnonzero(~self.missing[index:])
        return index + int(present[0]) if len(present) else len(self.missing)


def _valid_predictions(
    shards: Iterable[Dataset], labels: dict[str, np.ndarray], outputs: int, marks: _Marks, chunk_members: int
) -> Iterator[np.ndarray]:
    """Predictions (member, step, sample, element, output) of the valid members in order, float64, in chunks.

    Fills ``marks``, whose length says how many members are wanted. Raises StoreError as ``aggregate`` says.
    """
    expected, members, last = marks.next_present(0), len(marks.diverged), ""
    for shard in shards:
        if expected == members:
            break
        _check_labels(shard, labels, outputs, expected)
        taken = shard.isel(member=slice(0, members - expected))
        diverged = _check_done(taken, file_of(shard))
        here = slice(expected, expected + len(diverged))
        if marks.missing[here].any():
            raise ValueError(f"{file_of(shard)} holds members that are said to be missing")
        marks.diverged[here] = diverged
        marks.loss[here] = np.where(diverged[:, None], np.nan, taken["loss"].values)
        predictions = taken["prediction"].transpose("member", *_PREDICTION)
        for start in range(0, len(diverged), chunk_members):
            part = slice(start, start + chunk_members)
            values = predictions.isel(member=part).values[~diverged[part]].astype(np.float64)
            if not np.isfinite(values).all():
                raise StoreError(
                    f"{file_of(shard)}: predictions of members {expected + start}… are missing or not finite, "
                    "but no divergence is marked.",
                    remedy=_AGAIN,
                )
            if len(values):
                yield values
        expected, last = marks.next_present(expected + len(diverged)), f" up to {file_of(shard)}"
    if expected != members:
        raise StoreError(
            f"The shards{last} hold {expected - marks.missing[:expected].sum()} members, the study asks for "
            f"{members - marks.missing.sum()}.",
            remedy="Train the missing shards.",
        )


class _Ensembles:
    """Ensembles of every size, formed and evaluated while members arrive.

    Args:
      members: number of members that may arrive at most.
      shape: (step, sample, element, output) of one prediction.
    """

    def __init__(self, reference: Reference, settings: Settings, members: int, shape: tuple[int, ...]) -> None:
        self.reference, self.shape = reference, shape
        self.steps = np.asarray(settings.training.recorded)
        self.stored_subsets = settings.evaluate.stored_subsets
        self.sizes = [_Subsets(m) for m in member_counts(settings, members)]
        self.everything = _Subsets(members + 1)  # never complete: the full ensemble, whose size is known at the end
        self.rows = _Rows([running.size for running in self.sizes], members)
        self.stored: list[tuple[int, int, np.ndarray]] = []  # ensemble size, first member, mean
        self.examples: list[np.ndarray] = []

    def add(self, values: np.ndarray) -> None:
        """Take the predictions (member, step, sample, element, output) of further valid members."""
        if self.reference.averaged == "softmax":
            values = np.exp(values - values.max(axis=-1, keepdims=True))
            values /= values.sum(axis=-1, keepdims=True)
        observable = metrics.read_out(DataArray(values, dims=("member", *_PREDICTION)), self.reference.readout)
        observable = observable.transpose("member", ..., "observable")
        spread = metrics.orbit_variances(observable).values
        self.everything.add([values, values**2, observable.values**2, spread])
        self.examples += list(values[: EXAMPLES - len(self.examples)].astype(np.float32))
        for running in self.sizes:
            first = running.complete * running.size
            sums = running.add([values, spread])
            if sums is not None:
                means, spreads = (total / running.size for total in sums)
                self.rows.add(running.size, first, self._evaluate(means, spreads, running.size))
                self._store(running.size, first, means)

    def _store(self, size: int, first: int, means: np.ndarray) -> None:
        """Keep the means (subset, …) of those subsets from ``first`` on that are to be stored."""
        keep = self.stored_subsets - first // size
        if size > 1 and keep > 0:
            self.stored += [(size, first + i * size, mean.astype(np.float32)) for i, mean in enumerate(means[:keep])]

    def _evaluate(self, means: np.ndarray, spreads: np.ndarray, size: int) -> Dataset:
        prediction = DataArray(means, {"step": self.steps}, ("subset", *_PREDICTION))
        spread = DataArray(spreads, dims=("subset", "step", "sample"))
        return metrics.evaluate(prediction, self.reference, size, spread)

    def result(self) -> Dataset:
        """All that ``aggregate`` returns, without the labels of single members and of samples."""
        valid, shape = self.everything.filled, self.shape
        if valid:
            mean, second, second_observable, spread = (total / valid for total in self.everything.partial)
            if not any(running.size == valid for running in self.sizes):
                self.rows.add(valid, 0, self._evaluate(mean[None], spread[None], valid))
        else:
            mean = second = np.full(shape, np.nan)
            second_observable = np.full((*shape[:-1], self.reference.readout.sizes["observable"]), np.nan)
            nothing = np.empty((0, *shape))
            self.rows.add(1, 0, self._evaluate(nothing, np.empty(nothing.shape[:3]), 1))
        result = self.rows.dataset()
        result["mean"] = (_PREDICTION, mean)
        result["second_moment"] = (_PREDICTION, second)
        result["observable_second_moment"] = ((*_PREDICTION[:-1], "observable"), second_observable)
        if self.examples:
            result["example_prediction"] = (("example", *_PREDICTION), np.stack(self.examples))
        if self.stored:
            self.stored.sort(key=lambda entry: entry[:2])
            result["subset_mean"] = (("stored_subset", *_PREDICTION), np.stack([entry[2] for entry in self.stored]))
            stored_size, stored_first = (np.array([entry[i] for entry in self.stored]) for i in (0, 1))
            result = result.assign_coords(
                stored_member_count=("stored_subset", stored_size),
                stored_first=("stored_subset", stored_first),
                stored_stop=("stored_subset", stored_first + stored_size),
            )
        result.attrs["members"] = valid
        return result


def _labelled(
    result: Dataset, labels: dict[str, np.ndarray], marks: _Marks, reference: Reference, settings: Settings
) -> Dataset:
    """Add labels, single members, what is predicted, and attributes to the ensembles of an arm."""
    valid = result.attrs.pop("members")
    result = result.assign_coords(labels)
    if "example_prediction" in result:
        result = result.assign_coords(example=np.flatnonzero(marks.valid)[: result.sizes["example"]])
    result = result.merge(_member_metrics(result, marks.valid))
    result["member_loss_train"] = (("member", "step"), marks.loss, {"long_name": "training loss of each member"})
    result["diverged"] = ("member", marks.diverged)
    result["missing"] = ("member", marks.missing, {"long_name": "no shard holds the member"})
    sizes = np.unique(result["member_count"].values)
    if valid:
        result = result.merge(metrics.predict(reference, DataArray(sizes, dims="ensemble_size")))
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
        "diverged": int(marks.diverged.sum()),
        "missing": int(marks.missing.sum()),
    }
    if reference.provenance:
        result.attrs["data_provenance"] = reference.provenance
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


class _Rows:
    """Metrics of subsets, ordered by ensemble size and first member, in arrays allocated once.

    Args:
      sizes: ensemble sizes, ascending; one larger size may follow with a single subset.
      members: number of members at most.
    """

    def __init__(self, sizes: Sequence[int], members: int) -> None:
        starts = np.cumsum([0, *(members // m for m in sizes)])
        self.start = dict(zip(sizes, starts[:-1].tolist(), strict=True))
        self.size, self.first = (np.zeros(starts[-1] + 1, np.int64) for _ in range(2))  # size 0: not filled
        self.values: dict[str, np.ndarray] = {}
        self.template = Dataset()

    def add(self, size: int, first: int, evaluated: Dataset) -> None:
        """Take METRIC(subset, step, split) of consecutive subsets of ``size`` members from ``first`` on."""
        subsets = evaluated.sizes["subset"]
        start = self.start.get(size, len(self.size) - 1) + first // size
        here = slice(start, start + subsets)
        self.size[here], self.first[here] = size, first + size * np.arange(subsets)
        if not self.values:
            self.template = evaluated.isel(subset=slice(0))
        for key, variable in evaluated.data_vars.items():
            name, values = str(key), variable.transpose("subset", "step", "split").values
            if name not in self.values:
                dtype = np.float32 if name.endswith("_se") else np.float64
                self.values[name] = np.empty((len(self.size), *values.shape[1:]), dtype)
            self.values[name][here] = values

    def dataset(self) -> Dataset:
        """All rows over ``subset``; empties itself."""
        filled = self.size > 0
        variables = {}
        for name in list(self.values):
            values = self.values.pop(name)
            kept = values[:-1] if filled[:-1].all() and not filled[-1] else values[filled]
            variables[name] = (("subset", "step", "split"), kept, self.template[name].attrs)
        size, first = self.size[filled], self.first[filled]
        counts = {"member_count": size, "first": first, "stop": first + size}
        coords = {name: ("subset", values) for name, values in counts.items()}
        return Dataset(variables, {**self.template.coords, **coords})


def _member_metrics(result: Dataset, valid: np.ndarray) -> Dataset:
    """The m = 1 rows as member_METRIC(member, step, split), NaN for members that are not valid (member,)."""
    single = result["member_count"].values == 1
    members = {}
    for name in metric_names(result):
        if name != "orbit_variance_unbiased":
            values = np.full((len(valid), result.sizes["step"], result.sizes["split"]), np.nan, np.float32)
            values[valid] = result[name].values[single]
            members[f"member_{name}"] = (("member", "step", "split"), values, result[name].attrs)
    return Dataset(members, coords={"member": np.arange(len(valid))})


def metric_names(ensemble: Dataset) -> list[str]:
    """Names of the metrics over ``subset`` in the result of ``aggregate``."""
    return [str(n) for n, v in ensemble.data_vars.items() if v.dims[:1] == ("subset",) and f"{n}_se" in ensemble]
