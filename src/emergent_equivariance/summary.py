"""All arms of a study in one dataset, metrics.nc, and as plain tables.

``join`` forms METRIC(arm, step, split, member_count) and its standard error by the rule of docs/layout.md.

``orbit_scaling`` fits the slope of log √(orbit variance) against log m and the measured over the predicted orbit
variance. The subsets at different m share their members, so the error of an ordinary regression would be wrong;
and a jackknife over members is not valid, because the orbit variance is a degenerate statistic. The members are
therefore cut into B = 8 equal blocks, only subsets inside one block are used, and the blocks, which are
independent, are left out one at a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from xarray import Dataset

from .ensemble import metric_names
from .groups import get_group
from .study import Study

#: Disjoint subsets from which the standard error over subsets is used.
ENOUGH_SUBSETS = 8
#: Blocks of members in the scaling fit.
BLOCKS = 8

# ----------------------------------------------------------------------------------------------- scaling


#: Sizes a slope needs: through two of them (16 members) it is the chance correlation of eight pairs of members.
SLOPE_SIZES = 3


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
      members and where an orbit variance is 0; the slope also with fewer than SLOPE_SIZES sizes (three take 32
      members at least), the ratio where nothing is predicted.
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
            if len(used) >= SLOPE_SIZES:
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
      members(arm) (valid ones: the size of the full ensemble), diverged(arm), missing(arm), has_mean(arm); where an
      action is not exact composition_error(arm) and composition_error_largest(arm). Arms are labelled by their folder
      (coordinate ``arm``), by every swept key (as ``swept_KEY`` where KEY is a variable or dimension here), and by
      augmentation_label, network_width (0: not given) and group_order. Labels an arm does not have are filled with NaN.
    Raises ValueError if there is not one ensemble per arm.
    """
    if len(ensembles) != len(study.arms):
        raise ValueError(f"{len(study.arms)} arms but {len(ensembles)} ensembles")
    parts = [summarise(ensemble) for ensemble in ensembles]
    indexes: dict[str, Any] = {
        "step": np.unique(np.concatenate([p["step"].values for p in parts])),
        "split": list(dict.fromkeys(str(s) for p in parts for s in p["split"].values)),
        "member_count": np.unique(np.concatenate([[1], *(p["member_count"].values for p in parts)])),
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
    diverged, absent = (
        np.array([int(e[name].sum()) if name in e else 0 for e in ensembles]) for name in ("diverged", "missing")
    )
    result["members"] = ("arm", np.array([e.sizes["member"] for e in ensembles]) - diverged - absent)
    result["members"].attrs["long_name"] = "members in the statistics: the size of the full ensemble"
    result["diverged"] = ("arm", diverged, {"long_name": "diverged members, left out of the statistics"})
    result["missing"] = ("arm", absent, {"long_name": "members that no shard holds, left out of the statistics"})
    result["has_mean"] = ("arm", np.array([arm.settings.has_mean for arm in study.arms]))
    result["has_mean"].attrs["long_name"] = "whether the analytic mean exists"
    result = result.assign_coords(swept_coordinates(study, result))
    result = result.assign_coords(
        augmentation_label=("arm", [arm.settings.augmentation.label for arm in study.arms]),
        network_width=("arm", [arm.settings.network.width or 0 for arm in study.arms]),
        group_order=("arm", [get_group(arm.settings.group).order for arm in study.arms]),
    )
    units = sorted({arm.settings.training.unit for arm in study.arms})
    result["step"].attrs["units"] = " or ".join(units)
    shared = [key for key in ensembles[0].attrs if all(e.attrs.get(key) == ensembles[0].attrs[key] for e in ensembles)]
    result.attrs |= {"study": study.name, **{key: ensembles[0].attrs[key] for key in shared if key in _SHARED}}
    result = result.assign(_composition_errors(ensembles))
    origins = list(dict.fromkeys(e.attrs["data_provenance"] for e in ensembles if "data_provenance" in e.attrs))
    if origins:
        result.attrs["data_provenance"] = origins[0] if len(origins) == 1 else f"[{', '.join(origins)}]"
    return result


def _composition_errors(ensembles: Sequence[Dataset]) -> dict[str, Any]:
    """By how much the actions on the inputs of the arms fail to be exact; empty if all are exact."""
    origins = [json.loads(e.attrs.get("data_provenance", "{}")) for e in ensembles]
    words = {
        "composition_error": "|ρ(g)ρ(h)x − ρ(gh)x|/|ρ(gh)x|, root mean square; 0: the action is exact",
        "composition_error_largest": "its maximum over pairs of elements and samples",
    }
    return {
        name: ("arm", [origin.get(name, 0.0) for origin in origins], {"units": "1", "long_name": text})
        for name, text in words.items()
        if any("composition_error" in origin for origin in origins)
    }


def swept_coordinates(study: Study, result: Dataset) -> dict[str, Any]:
    """A coordinate on ``arm`` for every swept key, called ``swept_KEY`` where KEY is a name in ``result``."""
    found: dict[str, Any] = {}
    for key in study.arms[0].coords:
        swept = [arm.coords[key] for arm in study.arms]
        numeric = all(isinstance(value, (int, float)) for value in swept)
        name = f"swept_{key}" if key in result.variables or key in result.dims else key
        found[name] = ("arm", swept if numeric else [str(value) for value in swept])
    return found


_SHARED = ("ensemble_mean", "loss", "observable", "outputs")


#: Quadratic forms of the ensemble mean: over ensembles of m members their variance is a/m + b/m².
_QUADRATIC = ("orbit_variance", "orbit_mse", "orbit_variance_unbiased")
#: Metrics that vanish with the ensemble's noise: while it dominates, their relative spread does not depend on the size.
_RELATIVE = ("orbit_variance", "orbit_mse", "orbit_kl", "relative_orbit_std")
#: Metrics whose spread need not fall with the size: in units of the noise, or discontinuous.
_CONSTANT = ("zscore_to_ntk", "orbit_same_predictions", "accuracy")
#: Sizes with enough subsets that the two-term fit needs at least, and uses at most (the largest ones).
FIT_SIZES = (3, 5)


def _over_subsets(
    name: str, values: np.ndarray, jackknife: np.ndarray, sizes: np.ndarray, squares: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard error over the disjoint subsets of each size, by the rule in docs/layout.md.

    Args:
      values, jackknife: (subset, step, split) metric and its jackknife error over samples.
      sizes: (subset,) members in each subset.
      squares: (subset, step, split) quadratic form whose spread at large sizes is also that of this metric:
        the orbit variance for the unbiased one; default: the metric itself.

    Returns (step, split, member_count) twice, sizes ascending. With at least ENOUGH_SUBSETS subsets the error is
    their standard deviation over √n; with fewer, their standard deviation is carried on from the sizes that have
    enough. The jackknife over samples, which knows nothing of the noise that all samples of one ensemble share, is
    used only where no size has enough subsets.
    """
    counts, n = np.unique(sizes, return_counts=True)
    value = _of_sizes(values, sizes, counts, np.mean)
    enough = np.flatnonzero(n >= ENOUGH_SUBSETS)
    spread = np.full_like(value, np.nan)
    spread[..., enough] = _of_sizes(values, sizes, counts[enough], _deviation)
    known = [int(i) for i in enough if np.isfinite(spread[..., i]).any()]
    few = np.flatnonzero(n < ENOUGH_SUBSETS)
    if not known:
        error = spread / np.sqrt(n)
        error[..., few] = _of_sizes(jackknife, sizes, counts[few], np.mean)
        return value, error
    spread[..., few] = _carried_on(name, value, spread[..., known[-1]], counts, known[-1])[..., few]
    if name in _QUADRATIC and len(enough) >= FIT_SIZES[0]:
        fitted = _two_terms(values if squares is None else squares, sizes)[..., few]
        spread[..., few] = np.where(np.isfinite(fitted), fitted, spread[..., few])
    return value, spread / np.sqrt(n)


def _of_sizes(
    values: np.ndarray, sizes: np.ndarray, counts: np.ndarray, statistic: Callable[..., np.ndarray]
) -> np.ndarray:
    """A statistic over the subsets of each size: (subset, step, split) → (step, split, size)."""
    found = [statistic(values[sizes == m], axis=0) for m in counts]
    return np.stack(found, axis=-1) if found else np.empty((*values.shape[1:], 0))


def _deviation(values: np.ndarray, axis: int) -> np.ndarray:
    return values.std(axis=axis, ddof=1)


def _carried_on(name: str, value: np.ndarray, spread: np.ndarray, counts: np.ndarray, base: int) -> np.ndarray:
    """Standard deviation (step, split, size) at every size from that at one, by how the metric depends on the size.

    Args:
      value: (step, split, size) of the metric.
      spread: (step, split) standard deviation at the size counts[base].
    """
    before = value[..., [base]]
    if name in _CONSTANT:
        return np.broadcast_to(spread[..., None], value.shape)
    if name in _RELATIVE:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(before > 0, spread[..., None] * value / before, spread[..., None])
    return spread[..., None] * np.sqrt(counts[base] / counts)


#: Least share of its upper bound that the plateau's term is given: fits to a few scattered variances lose it.
LEAST_SHARE = 0.25


def _two_terms(values: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Standard deviation √(a/m + b/m²) of a quadratic form |v̄|² at every size m, from those sizes with enough subsets.

    Members v_i = v + noise of covariance C give a = 4 vᵀCv and b = 2 tr C² (docs/theory.md). Both are non-negative,
    and a ≤ 4|v|²√(b/2), with |v|² from the U-statistic of the full ensemble: far from the fitted sizes nothing else
    keeps a from being the noise of the fit. Where b is lost beside a, tr C takes the place of √(b/2).

    Args:
      values: (subset, step, split), all members (size 1) and the full ensemble among them.
      sizes: (subset,).

    Returns (step, split, size); NaN where a standard deviation is not positive.
    """
    from scipy.optimize import nnls

    counts, n = np.unique(sizes, return_counts=True)
    used = np.flatnonzero(n >= ENOUGH_SUBSETS)[-FIT_SIZES[1] :]
    variance = _of_sizes(values, sizes, counts[used], _deviation) ** 2
    single, full = (values[sizes == m].mean(axis=0) for m in (counts[0], counts[-1]))
    plateau = np.maximum((counts[-1] * full - single) / (counts[-1] - 1), 0.0)
    noise = np.maximum(single - plateau, 0.0)  # tr C
    terms = 1.0 / counts[:, None] ** np.array([1.0, 2.0])
    result = np.full((*plateau.shape, len(counts)), np.nan)
    for cell in np.ndindex(plateau.shape):
        measured, expected = variance[cell], variance[cell]
        if not (measured > 0).all():
            continue
        for _ in range(4):  # the relative error of a variance is √(2/(n − 1)): weights from the fit before
            weight = np.sqrt((n[used] - 1) / 2) / expected
            matrix, target = terms[used] * weight[:, None], measured * weight
            a, b = nnls(matrix, target)[0]
            most = 4 * plateau[cell] * (np.sqrt(b / 2) if b > 0 else noise[cell])
            bounded = min(max(a, LEAST_SHARE * most), most)
            if bounded != a:
                a = bounded
                b = max(float(matrix[:, 1] @ (target - a * matrix[:, 0]) / (matrix[:, 1] @ matrix[:, 1])), 0.0)
            if a + b == 0:
                break
            expected = terms[used] @ np.array([a, b])
        result[cell] = np.sqrt(terms @ np.array([a, b]))
    return np.where(result > 0, result, np.nan)


def summarise(ensemble: Dataset) -> Dataset:
    """One arm of ``join``, from the result of ``aggregate``.

    METRIC(step, split, member_count) and METRIC_se, orbit_slope and orbit_variance_ratio (step, split) with their _se,
    member_METRIC(step, split, member).
    """
    sizes = ensemble["member_count"].values
    counts = np.unique(sizes)
    coords = {"step": ensemble["step"].values, "split": ensemble["split"].values.astype(str), "member_count": counts}
    result = Dataset(coords={**coords, "member": ensemble["member"].values})
    dims = ("step", "split", "member_count")
    variance = ensemble["orbit_variance"].transpose("subset", "step", "split").values
    for name in metric_names(ensemble):
        values = ensemble[name].transpose("subset", "step", "split").values
        jackknife = ensemble[f"{name}_se"].transpose("subset", "step", "split").values
        squares = variance if name == "orbit_variance_unbiased" else None
        value, error = _over_subsets(name, values, jackknife, sizes, squares)
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
    Columns and metrics are in the order of their names: stores list their variables in any order.
    """
    by_size, scaling, member = (
        sorted(str(n) for n, v in joined.data_vars.items() if v.dims == ("arm", "step", "split", *dims))
        for dims in (("member_count",), (), ("member",))
    )
    summaries = []
    for name in member:
        frame = joined[name].to_series().dropna().groupby(level=["arm", "step", "split"], sort=False)
        table = frame.agg(["mean", "std", "min", "max", "count"]).rename(columns={"count": "members"}).reset_index()
        table.insert(3, "metric", name.removeprefix("member_"))
        summaries.append(table)
    labels = arm_labels(joined)
    summary = pd.concat(summaries) if summaries else pd.DataFrame(columns=["arm"])
    return {
        "metrics": with_labels(_long(joined[by_size]), labels),
        "members": with_labels(summary.reset_index(drop=True), labels),
        "scaling": with_labels(_long(joined[scaling]), labels),
    }


def arm_labels(joined: Dataset) -> pd.DataFrame:
    """One row per arm: its folder and all coordinates on ``arm``."""
    names = [n for n, v in joined.coords.items() if v.dims == ("arm",) and n != "arm"]
    return pd.DataFrame({"arm": joined["arm"].values, **{n: joined[n].values for n in names}})


def with_labels(table: pd.DataFrame, labels: pd.DataFrame) -> pd.DataFrame:
    """A table with a column ``arm``, behind the labels of its arms."""
    return labels.merge(table, on="arm", how="right")


def _long(part: Dataset) -> pd.DataFrame:
    part = part.drop_vars([n for n, v in part.coords.items() if n not in part.dims])
    names = list(part.data_vars)
    order = [d for d in ("arm", "step", "split", "member_count") if d in part.dims]
    frame = part.to_dataframe(dim_order=order).dropna(how="all", subset=names)
    return frame.reset_index()
