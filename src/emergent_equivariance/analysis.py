"""Ensembles of one's own predictions on group orbits: the metrics of an arm without a study.

``ensemble_metrics`` takes an array f_i(gx) of any networks and gives what metrics.nc holds of one arm: orbit variance
and the other metrics against ensemble size, with standard errors, the prediction where μ_t and Σ_t are known, and the
fitted slope. It works in memory; ``ensemble.aggregate`` does the same for members that do not fit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from xarray import DataArray, Dataset

from . import metrics
from .comparison import Reference
from .errors import DataError
from .groups import Action, get_group, invariant_action
from .summary import summarise

__all__ = ["ensemble_metrics", "expected_metrics"]

_PREDICTION = ("step", "sample", "element", "output")
_COVARIANCE = ("step", "sample", "element", "element_")


def ensemble_metrics(
    prediction: DataArray,
    *,
    member_counts: Sequence[int] | None = None,
    split: Sequence[str] | None = None,
    target: np.ndarray | None = None,
    label: np.ndarray | None = None,
    readout: np.ndarray | None = None,
    action: Action | None = None,
    mean: DataArray | None = None,
    covariance: DataArray | None = None,
) -> Dataset:
    """Metrics of the ensembles that the members of an array form.

    Of every size m the members are cut into disjoint consecutive subsets, as in a study (docs/layout.md).

    Args:
      prediction: (member, sample, element, output), and ``step`` if there is one, in any order: f_i(gx), the identity
        the first element. Without ``output`` there is one.
      member_counts: sizes m; default 1, 2, 4, … and all members.
      split: (sample,) the split of every sample, each evaluated by itself; default: all are "test".
      target: (sample, output) for ``loss``, ½·mean of the squared error.
      label: (sample,) class of every sample, −1 where there is none, for accuracy, same predictions, KL divergence and
        ``loss``, the cross-entropy: then outputs are logits.
      readout: (observable, output) matrix of the observable that is to be invariant; default: every output.
      action: how the group acts on the outputs; default: not at all, they are to be invariant.
      mean: (sample, element, output), and step as above: the analytic mean μ_t, for the distance to it and for what
        is expected of finite ensembles, which needs ``covariance`` too.
      covariance: (sample, element, element_), and step: the analytic covariance Σ_t per output.

    Returns:
      METRIC(split, member_count) and METRIC_se, one standard error: over subsets where there are at least 8, carried on
      from those sizes otherwise; predicted_orbit_variance and predicted_orbit_mse; orbit_slope, the exponent p of
      orbit deviation ∝ m^p, and orbit_variance_ratio, measured over predicted, both (split,) with _se, NaN below 16
      members (slope: 32); member_METRIC(split, member). All with ``step`` where the prediction has it.

    Raises DataError where dimensions or sizes do not fit or a prediction is not finite.
    """
    timed = "step" in prediction.dims
    members = _ordered("prediction", prediction, ("member", *_PREDICTION)).astype(np.float64)
    if not np.isfinite(members.values).all():
        raise DataError("prediction: holds values that are not finite.", remedy="Leave out members that diverged.")
    reference = _reference(members, split, target, label, readout, action, mean, covariance)
    sizes = _sizes(members.sizes["member"], member_counts)
    spread = metrics.orbit_variances(metrics.read_out(members, reference.readout))
    parts = []
    for size in sizes:
        number = members.sizes["member"] // size
        firsts = size * np.arange(number)
        evaluated = metrics.evaluate(_means(members, size), reference, size, _means(spread, size))
        counts = {"member_count": size * np.ones_like(firsts), "first": firsts, "stop": firsts + size}
        parts.append(evaluated.assign_coords({name: ("subset", values) for name, values in counts.items()}))
    together = xr.concat(parts, "subset", data_vars="minimal", coords="minimal", compat="override")
    together = together.merge(metrics.predict(reference, DataArray(sizes, dims="ensemble_size")))
    single = parts[0].rename(subset="member")
    for name in single.data_vars:
        if f"{name}_se" in single and name != "orbit_variance_unbiased":
            together[f"member_{name}"] = single[name].drop_vars(["member_count", "first", "stop"])
    found = summarise(together.assign_coords(member=members["member"]))
    return found if timed else found.isel(step=0, drop=True)


def expected_metrics(
    mean: DataArray,
    covariance: DataArray,
    member_counts: Sequence[int],
    *,
    readout: np.ndarray | None = None,
    action: Action | None = None,
) -> Dataset:
    """What is expected of the means of m members from μ_t and Σ_t, without any members.

    Args:
      mean: (sample, element, output), and ``step`` if there is one: μ_t(gx), the identity the first element.
      covariance: (sample, element, element_), and step: Σ_t(gx, hx) per output.
      member_counts: sizes m, at least 1.
      readout, action: as for ``ensemble_metrics``.

    Returns:
      predicted_orbit_variance and predicted_orbit_mse (member_count), and step, means over all samples; with _se, the
      jackknife over samples. The formulas are those of ``metrics``.

    Raises DataError where dimensions or sizes do not fit.
    """
    one = _ordered("mean", mean, _PREDICTION).expand_dims("member")
    reference = _reference(one, None, None, None, readout, action, mean, covariance)
    sizes = np.asarray(member_counts)
    if sizes.ndim != 1 or not (sizes >= 1).all():
        raise DataError(f"member_counts: {sizes.tolist()}.", remedy="Give a list of sizes, at least 1.")
    found = metrics.predict(reference, DataArray(sizes, dims="ensemble_size"))
    found = found.rename(ensemble_size="member_count").isel(split=0, drop=True)
    return found if "step" in mean.dims else found.isel(step=0, drop=True)


def _means(array: DataArray, size: int) -> DataArray:
    """Means over disjoint consecutive subsets of members: (member, …) → (subset, …)."""
    number = array.sizes["member"] // size
    values = array.values[: number * size].reshape(number, size, *array.shape[1:]).mean(axis=1)
    coords = {"step": array["step"]} if "step" in array.coords else {}
    return DataArray(values, coords, ("subset", *array.dims[1:]))


def _sizes(members: int, wanted: Sequence[int] | None) -> list[int]:
    sizes = sorted({1, *([2**k for k in range(members.bit_length())] if wanted is None else wanted), members})
    wrong = [size for size in sizes if not 1 <= size <= members or size != int(size)]
    if wrong:
        raise DataError(
            f"member_counts: {wrong}, but there are {members} members.", remedy="Give whole numbers from 1 to that."
        )
    return sizes


def _ordered(name: str, array: DataArray, dims: Sequence[str]) -> DataArray:
    """The array with these dimensions in this order; ``step`` (labelled 1, for the end) and ``output`` may be new."""
    for dim in ("step", "output"):
        if dim in dims and dim not in array.dims:
            array = array.expand_dims({dim: [1] if dim == "step" else 1})
    if set(array.dims) != set(dims):
        raise DataError(
            f"{name}: has the dimensions {', '.join(map(str, array.dims))}.",
            remedy=f"Give it {', '.join(dims)} (step and output may be left out where there is one).",
        )
    if np.iscomplexobj(array) or not array.size:
        raise DataError(
            f"{name}: holds {'complex' if array.size else 'no'} numbers ({dict(array.sizes)}).",
            remedy="Give real numbers, at least one along each dimension (complex outputs as two real ones).",
        )
    array = array.transpose(*dims)
    plain = array.drop_vars([label for label in array.coords if label not in ("step", "member")])
    return plain if "step" in plain.coords else plain.assign_coords(step=np.arange(plain.sizes["step"]))


def _reference(
    members: DataArray,
    split: Sequence[str] | None,
    target: np.ndarray | None,
    label: np.ndarray | None,
    readout: np.ndarray | None,
    action: Action | None,
    mean: DataArray | None,
    covariance: DataArray | None,
) -> Reference:
    """What the members are judged on; raises DataError where sizes differ."""
    samples, elements, outputs = (members.sizes[dim] for dim in ("sample", "element", "output"))
    if action is None:
        if elements > 64:
            raise DataError(f"prediction: has {elements} elements.", remedy="Give action: of a group of more than 64.")
        action = invariant_action(get_group(f"c{elements}"), (outputs,))
    splits = np.array(["test"] * samples if split is None else split)
    targets = np.full((samples, outputs), np.nan) if target is None else np.asarray(target, np.float64)
    labels = None if label is None else np.asarray(label)
    matrix = np.eye(outputs) if readout is None else np.atleast_2d(np.asarray(readout, np.float64))
    for name, array, shape in (
        ("split", splits, (samples,)),
        ("target", targets, (samples, outputs)),
        ("label", labels, (samples,)),
        ("readout", matrix, (len(matrix), outputs)),
        ("action", action.source, (elements, outputs)),
    ):
        if array is not None:
            _check_shape(name, array.shape, shape)
    if labels is not None and not np.isin(labels, np.arange(-1, outputs)).all():
        raise DataError(
            "label: holds values that are no class.",
            remedy=f"Give classes 0 to {outputs - 1}, or −1 where there is none.",
        )
    if covariance is not None and mean is None:
        raise DataError("covariance: is given without mean.", remedy="Give both.")
    sample = {"sample": np.arange(samples)}
    return Reference(
        split=DataArray(splits, sample, "sample"),
        target=DataArray(targets, sample, ("sample", "output")),
        label=None if labels is None else DataArray(labels, sample, "sample"),
        readout=DataArray(matrix, dims=("observable", "output")),
        observable="output" if readout is None else "observable",
        output_name="output" if label is None else "logits",
        output_action=action,
        loss="mse" if label is None else "cross_entropy",
        mean=None if mean is None else _analytic("mean", mean, _PREDICTION, members),
        covariance=None if covariance is None else _analytic("covariance", covariance, _COVARIANCE, members),
    )


def _analytic(name: str, given: DataArray, dims: Sequence[str], members: DataArray) -> DataArray:
    """μ_t or Σ_t, its steps those of the members; raises DataError where sizes differ."""
    found = _ordered(name, given, dims).astype(np.float64)
    _check_shape(name, found.shape, tuple(members.sizes["element" if dim == "element_" else dim] for dim in dims))
    if not np.isfinite(found.values).all():
        raise DataError(f"{name}: holds values that are not finite.", remedy="Leave out steps that have none.")
    return found.assign_coords(step=members["step"].values)


def _check_shape(name: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if shape != expected:
        raise DataError(f"{name}: has the shape {shape}.", remedy=f"Give it the shape {expected}.")
