"""From the members of an arm to ensembles of every size, and from all arms to one dataset of metrics.

``aggregate`` streams once over the shards of an arm. Let v be the number of valid (not diverged) members in the
order of their index. For each ensemble size m the valid members are cut into consecutive disjoint subsets
[0, m), [m, 2m), …; each subset's mean is evaluated as soon as it is complete, so that memory does not depend
on the number of members (the metrics themselves apart: a few kilobytes per member).

``join`` forms METRIC(arm, step, split, member_count) and its standard error by the rule of docs/layout.md.

``orbit_scaling`` fits the slope of log √(orbit variance) against log m and the measured over the predicted orbit
variance. The subsets at different m share their members, so the error of an ordinary regression would be wrong;
and a jackknife over members is not valid, because the orbit variance is a degenerate statistic. The members are
therefore cut into B = 8 equal blocks, only subsets inside one block are used, and the blocks, which are
independent, are left out one at a time.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from xarray import DataArray, Dataset

from . import metrics
from .errors import StoreError
from .metrics import Reference, file_of
from .settings import Settings
from .study import Arm, Study
from .tasks.base import TaskData

#: Bytes of predictions (as float64) that one chunk of members may take.
CHUNK_BYTES = 32 * 2**20
#: Members in one chunk at most.
CHUNK_MEMBERS = 64
#: Disjoint subsets from which the standard error over subsets is used.
ENOUGH_SUBSETS = 8
#: Blocks of members in the scaling fit.
BLOCKS = 8
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


# ----------------------------------------------------------------------------------------------- scaling


def orbit_scaling(ensemble: Dataset) -> Dataset:
    """How the orbit variance falls with the number of members, in the result of ``aggregate``.

    Uses the subsets that lie inside one of 8 equal blocks of v//8 valid members, of those sizes m that every
    block contains. The slope is that of a weighted least-squares line through log √V(m) against log m, with V(m)
    the mean over the subsets of size m and their number as weight (the relative variance of V(m) falls with it).
    The ratio is the mean over all those subsets, of every size, of measured over predicted orbit variance: the
    sizes are weighted by their numbers of subsets, so m = 1, whose error is smallest, weighs most. Standard
    errors are delete-one-block jackknives.

    Returns:
      orbit_slope, orbit_slope_se, orbit_variance_ratio, orbit_variance_ratio_se (step, split). NaN below 16 valid
      members and where an orbit variance is 0; the ratio also where nothing is predicted.
    """
    variance = ensemble["orbit_variance"].transpose("subset", "step", "split").values
    size, first = ensemble["member_count"].values, ensemble["first"].values
    block_size = int(ensemble["stop"].values.max(initial=0)) // BLOCKS
    shape = variance.shape[1:]
    estimates = np.full((2, BLOCKS + 1, *shape), np.nan)  # slope and ratio; all blocks, then each left out
    if block_size >= 2:
        block = first // block_size
        inside = (block < BLOCKS) & ((first + size - 1) // block_size == block)
        counts, sums, used = [], [], []
        for m in np.unique(size[inside]):
            rows = [np.flatnonzero(inside & (size == m) & (block == b)) for b in range(BLOCKS)]
            if all(len(r) for r in rows):
                used.append(m)
                counts.append([len(r) for r in rows])
                sums.append([variance[r].sum(axis=0) for r in rows])
        predicted = np.full((len(used), *shape), np.nan)
        if "predicted_orbit_variance" in ensemble:
            table = ensemble["predicted_orbit_variance"].sel(ensemble_size=used)
            predicted = table.transpose("ensemble_size", "step", "split").values
        keep = ~np.eye(BLOCKS + 1, BLOCKS, k=-1, dtype=bool)  # row 0 keeps all blocks, row b + 1 leaves out b
        number = np.einsum("kb,mb->km", keep, counts)  # (left out, m)
        total = np.einsum("kb,mb...->km...", keep, np.array(sums))
        with np.errstate(divide="ignore", invalid="ignore"):
            mean = total / number[..., None, None]
            mean[~(mean > 0)] = np.nan
            predicted[~(predicted > 0)] = np.nan
            ratio = np.einsum("km,km...->k...", number, mean / predicted)
            estimates[1] = ratio / number.sum(axis=1)[:, None, None]
            if len(used) > 1:
                x = np.log(used)
                centred = x - (number @ x / number.sum(axis=1))[:, None]
                weight = number * centred
                weight /= (weight * centred).sum(axis=1, keepdims=True)
                estimates[0] = np.einsum("km,km...->k...", weight, np.log(mean) / 2)
    errors = np.sqrt((BLOCKS - 1) * estimates[:, 1:].var(axis=1))
    dims = ("step", "split")
    words = {
        "orbit_slope": "slope of log √(orbit variance) against log(member count)",
        "orbit_variance_ratio": "measured over predicted orbit variance, mean over member subsets of every size",
    }
    result = Dataset(coords={"step": ensemble["step"], "split": ensemble["split"]})
    for i, (name, text) in enumerate(words.items()):
        attributes = {"units": "1", "observable": ensemble["orbit_variance"].attrs.get("observable", "")}
        result[name] = (dims, estimates[i, 0], {"long_name": text, **attributes})
        result[f"{name}_se"] = (dims, errors[i], {"long_name": f"standard error of: {text}", **attributes})
    return result


# -------------------------------------------------------------------------------------------------- join


def join(study: Study, ensembles: Sequence[Dataset]) -> Dataset:
    """metrics.nc: all arms of a study in one dataset.

    Args:
      ensembles: results of ``aggregate``, one per arm, in the order of ``study.arms``.

    Returns:
      METRIC, METRIC_se, predicted_… (arm, step, split, member_count), orbit_slope, orbit_variance_ratio and their
      _se (arm, step, split), member_METRIC(arm, step, split, member), member_loss_train(arm, step, member),
      members(arm) (valid ones: the size of the full ensemble), diverged(arm), has_mean(arm). Arms are labelled by
      their folder (coordinate ``arm``), by every swept key (as ``swept_KEY`` where KEY is a variable or dimension
      here), and by augmentation_label and network_width. Labels an arm does not have are filled with NaN.
    Raises ValueError if there is not one ensemble per arm.
    """
    if len(ensembles) != len(study.arms):
        raise ValueError(f"{len(study.arms)} arms but {len(ensembles)} ensembles")
    parts = [_summarise(ensemble) for ensemble in ensembles]
    indexes: dict[str, Any] = {
        "step": np.unique(np.concatenate([p["step"].values for p in parts])),
        "split": list(dict.fromkeys(str(s) for p in parts for s in p["split"].values)),
        "member_count": np.unique(np.concatenate([p["member_count"].values for p in parts])),
        "member": np.arange(max(p.sizes["member"] for p in parts)),
    }
    arms = [arm.path for arm in study.arms]
    result = Dataset(coords={"arm": arms, **indexes})
    for name in dict.fromkeys(str(n) for p in parts for n in p.data_vars):
        having = [p[name] for p in parts if name in p]
        dims = having[0].dims
        shape = tuple(len(indexes[str(d)]) for d in dims)
        dtype = having[0].dtype
        values = np.full((len(parts), *shape), np.nan, dtype)
        for i, part in enumerate(parts):
            if name in part:
                values[i] = part[name].reindex({d: indexes[str(d)] for d in dims}).values
        result[name] = (("arm", *dims), values, having[0].attrs)
    diverged = np.array([int(e["diverged"].sum()) for e in ensembles])
    result["members"] = ("arm", np.array([e.sizes["member"] for e in ensembles]) - diverged)
    result["members"].attrs["long_name"] = "members in the statistics: the size of the full ensemble"
    result["diverged"] = ("arm", diverged, {"long_name": "diverged members, left out of the statistics"})
    result["has_mean"] = ("arm", np.array([arm.settings.has_mean for arm in study.arms]))
    result["has_mean"].attrs["long_name"] = "whether the analytic mean exists"
    for key in study.arms[0].coords:
        swept = [arm.coords[key] for arm in study.arms]
        numeric = all(isinstance(value, (int, float)) for value in swept)
        name = f"swept_{key}" if key in result.variables or key in result.dims else key
        result = result.assign_coords({name: ("arm", swept if numeric else [str(value) for value in swept])})
    result = result.assign_coords(
        augmentation_label=("arm", [augmentation_label(arm) for arm in study.arms]),
        network_width=("arm", [arm.settings.network.width for arm in study.arms]),
    )
    units = sorted({arm.settings.training.unit for arm in study.arms})
    result["step"].attrs["units"] = " or ".join(units)
    shared = [key for key in ensembles[0].attrs if all(e.attrs.get(key) == ensembles[0].attrs[key] for e in ensembles)]
    result.attrs |= {"study": study.name, **{key: ensembles[0].attrs[key] for key in shared if key in _SHARED}}
    return result


_SHARED = ("ensemble_mean", "loss", "observable", "outputs")


def augmentation_label(arm: Arm) -> str:
    """none, full, random, or subset-k."""
    augmentation = arm.settings.augmentation
    return f"subset-{augmentation.subset}" if augmentation.kind == "subset" else augmentation.kind


#: Metrics that vanish with the ensemble's noise: their relative spread over subsets does not depend on the size.
_RELATIVE = ("orbit_variance", "orbit_mse", "orbit_kl", "normalized_orbit_std", "relative_orbit_std")


def _over_subsets(
    name: str, values: np.ndarray, jackknife: np.ndarray, sizes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard error over the disjoint subsets of each size, by the rule in docs/layout.md.

    Args:
      values, jackknife: (subset, step, split) metric and its jackknife error over samples.
      sizes: (subset,) members in each subset.

    Returns (step, split, member_count) twice, sizes ascending. With at least ENOUGH_SUBSETS subsets the error is
    their standard deviation over √n. With fewer, that of the largest size m₀ which has enough is carried on: in
    proportion to the value where the metric vanishes with the noise (exact there, too large on a plateau), as
    √(m₀/m) elsewhere (too large, if anything: no smooth statistic's spread falls more slowly). The jackknife over
    samples, which knows nothing of the noise that all samples of one ensemble share, is used only where no size has
    enough subsets.
    """
    counts = np.unique(sizes)
    value = np.full((*values.shape[1:], len(counts)), np.nan)
    error = value.copy()
    reference: tuple[int, np.ndarray, np.ndarray] | None = None
    for i, m in enumerate(counts):
        rows = sizes == m
        n = rows.sum()
        value[..., i] = values[rows].mean(axis=0)
        if n >= ENOUGH_SUBSETS:
            spread = values[rows].std(axis=0, ddof=1)
            if np.isfinite(spread).any():
                reference = int(m), value[..., i], spread
        elif reference is None:
            error[..., i] = jackknife[rows].mean(axis=0)
            continue
        else:
            base, base_value, spread = reference
            if name in _RELATIVE:
                with np.errstate(invalid="ignore", divide="ignore"):
                    spread = np.where(base_value > 0, spread * value[..., i] / base_value, spread)
            else:
                spread = spread * np.sqrt(base / m)
        error[..., i] = spread / np.sqrt(n)
    return value, error


def _summarise(ensemble: Dataset) -> Dataset:
    """One arm of ``join``: over (step, split, member_count) and (step, split, member)."""
    sizes = ensemble["member_count"].values
    counts = np.unique(sizes)
    coords = {"step": ensemble["step"].values, "split": ensemble["split"].values.astype(str), "member_count": counts}
    result = Dataset(coords={**coords, "member": ensemble["member"].values})
    dims = ("step", "split", "member_count")
    for name in metric_names(ensemble):
        values = ensemble[name].transpose("subset", "step", "split").values
        jackknife = ensemble[f"{name}_se"].transpose("subset", "step", "split").values
        value, error = _over_subsets(name, values, jackknife, sizes)
        result[name] = (dims, value, ensemble[name].attrs)
        result[f"{name}_se"] = (dims, error, ensemble[f"{name}_se"].attrs)
    for key, variable in ensemble.data_vars.items():
        if str(key).startswith("predicted_"):
            ordered = variable.transpose("step", "split", "ensemble_size")
            result[key] = (dims, ordered.sel(ensemble_size=counts).values, variable.attrs)
        elif str(key).startswith("member_"):
            last = [d for d in ("step", "split", "member") if d in variable.dims]
            result[key] = (last, variable.transpose(*last).values, variable.attrs)
    return result.merge(orbit_scaling(ensemble).drop_vars(["step", "split"]))


# ------------------------------------------------------------------------------------------------ tables


def tables(joined: Dataset) -> dict[str, pd.DataFrame]:
    """Plain tables of the result of ``join``: name → table, for tables/NAME.csv.

    metrics: one row per arm, step, split and member_count. members: mean, standard deviation (ddof 1), least and
    greatest member value per arm, step, split and metric. scaling: slopes and ratios per arm, step and split.
    key_numbers: per arm and split, the full ensemble at the last step of the arm.
    """
    by_size = [n for n, v in joined.data_vars.items() if v.dims == ("arm", "step", "split", "member_count")]
    scaling = [n for n, v in joined.data_vars.items() if v.dims == ("arm", "step", "split")]
    member = [str(n) for n, v in joined.data_vars.items() if v.dims == ("arm", "step", "split", "member")]
    summaries = []
    for name in member:
        frame = joined[name].to_series().dropna().groupby(level=["arm", "step", "split"], sort=False)
        table = frame.agg(["mean", "std", "min", "max", "count"]).rename(columns={"count": "members"}).reset_index()
        table.insert(3, "metric", name.removeprefix("member_"))
        summaries.append(table)
    labels = _arm_labels(joined)
    summary = pd.concat(summaries) if summaries else pd.DataFrame(columns=["arm"])
    return {
        "metrics": _with_labels(_long(joined[by_size]), labels),
        "members": _with_labels(summary.reset_index(drop=True), labels),
        "scaling": _with_labels(_long(joined[scaling]), labels),
        "key_numbers": _with_labels(_key_numbers(joined), labels),
    }


def _arm_labels(joined: Dataset) -> pd.DataFrame:
    names = [n for n, v in joined.coords.items() if v.dims == ("arm",) and n != "arm"]
    return pd.DataFrame({"arm": joined["arm"].values, **{n: joined[n].values for n in names}})


def _with_labels(table: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    return labels.merge(table, on="arm", how="right")


def _long(part: Dataset) -> pd.DataFrame:
    part = part.drop_vars([n for n, v in part.coords.items() if n not in part.dims])
    names = list(part.data_vars)
    order = [d for d in ("arm", "step", "split", "member_count") if d in part.dims]
    frame = part.to_dataframe(dim_order=order).dropna(how="all", subset=names)
    return frame.reset_index()


def _key_numbers(joined: Dataset) -> pd.DataFrame:
    rows = []
    for i, arm in enumerate(joined["arm"].values):
        of_arm = joined.isel(arm=i)
        there = of_arm["orbit_variance"].notnull().any(["split", "member_count"]).values
        counts = {"arm": arm, "members": int(of_arm["members"]), "diverged": int(of_arm["diverged"])}
        if not there.any():
            rows.append(counts)
            continue
        last = of_arm.isel(step=int(np.flatnonzero(there)[-1]))
        for split in joined["split"].values:
            here = last.sel(split=split)
            full = here.sel(member_count=counts["members"])
            if not np.isfinite(full["orbit_variance"]):
                continue
            row = {**counts, "step": last["step"].item(), "split": split}
            row["member_orbit_std"] = float(np.sqrt(here["orbit_variance"].sel(member_count=1)))
            row["ensemble_orbit_std"], row["ensemble_orbit_std_se"] = _root(full, "orbit_variance")
            if "predicted_orbit_variance" in full:
                row["predicted_orbit_std"], _ = _root(full, "predicted_orbit_variance")
                row["measured_over_predicted"] = _quotient(row["ensemble_orbit_std"], row["predicted_orbit_std"])
            shown = ("difference_to_ntk", "orbit_mse", "accuracy", "loss", "orbit_same_predictions", "orbit_kl")
            for name in ("orbit_variance_ratio", "orbit_slope", *shown):
                if name in full:
                    row |= {name: full[name].item(), f"{name}_se": full[f"{name}_se"].item()}
            if "orbit_same_predictions" in full:
                row["member_orbit_same_predictions"] = here["orbit_same_predictions"].sel(member_count=1).item()
            rows.append(row)
    return pd.DataFrame(rows)


def _quotient(a: float, b: float) -> float:
    return a / b if b else np.nan


def _root(full: Dataset, name: str) -> tuple[float, float]:
    """Square root of a variance and its error by propagation."""
    value, error = full[name].item(), full[f"{name}_se"].item()
    std = float(np.sqrt(value))
    return std, _quotient(error, 2 * std)
