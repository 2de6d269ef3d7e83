"""Metrics of equivariance, of distance to the NTK mean, and of performance: functions of labelled arrays.

Predictions have the named dimensions (…, step, sample, element, output): entry g of ``element`` is f(ρ(g)x),
the identity first; leading dimensions (``member``, ``subset``) are free. Every metric has the form
φ(mean_x a_x, mean_x b_x, …): its function returns the per-sample ingredients a, b, … and φ as a
``Statistic``, from which the value and its jackknife over samples follow:

  SE² = (N−1)/N Σ_i (φ_(i) − φ_(·))²,  φ_(i) with sample i left out, φ_(·) the mean over i.

Definitions: docs/layout.md (orbit metrics: Gerken & Kessel, ICML 2024; predictions of finite ensembles:
derived there from μ_t and Σ_t). With f̄ = μ + ε/√m, E ε_a(gx) ε_b(hx) = δ_ab Σ(gx, hx) and h̄ = R f̄,

  E Var_g h̄_k(gx)  =  Var_g (Rμ)_k(gx) + (RRᵀ)_kk/m [mean_g Σ(gx,gx) − mean_{g,h} Σ(gx,hx)]
  E|ρ(g)⁻¹f̄(gx) − f̄(x)|²/n  =  |ρ(g)⁻¹μ(gx) − μ(x)|²/n + [Σ(gx,gx) + Σ(x,x) − 2 Σ(gx,x) χ(g⁻¹)/n]/m

with n outputs and χ the character of ρ_Y: the cross term is Σ_ab ρ(g⁻¹)_ba E ε_a(gx) ε_b(x).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import xarray as xr
from xarray import DataArray, Dataset

from .comparison import Reference
from .groups import Action

#: Metrics that are NaN at step 0, where the mean they are relative to vanishes.
UNDEFINED_AT_START = ("normalized_orbit_std", "difference_to_ntk", "relative_difference_to_ntk")

#: Variances below this fraction of the largest one are round-off: no z-score is formed with them.
NEGLIGIBLE_VARIANCE = 1e-12


# ------------------------------------------------------------------------------------------- statistics


class Statistic(NamedTuple):
    """A metric in terms of per-sample ingredients: ``combine`` of their means over samples.

    Attributes:
      combine: φ, a function of as many arrays as there are ingredients.
      ingredients: arrays (…, step, sample); dimensions may be missing in all but the first.
    """

    combine: Callable[..., np.ndarray]
    ingredients: tuple[DataArray, ...]

    def summary(self, splits: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Value and jackknife standard error over samples, both (…, step, split); SE NaN for one sample."""
        arrays = [np.asarray(a.transpose(..., "sample").values, np.float64) for a in self.ingredients]
        values, errors = [], []
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            for positions in splits.values():
                parts, n = [a[..., positions] for a in arrays], len(positions)
                values.append(self.combine(*(p.mean(axis=-1) for p in parts)))
                without = self.combine(*((p.sum(axis=-1, keepdims=True) - p) / (n - 1) for p in parts))
                errors.append(np.sqrt((n - 1) * without.var(axis=-1)))
        return np.stack(values, axis=-1), np.stack(errors, axis=-1)


def _plain(a: np.ndarray) -> np.ndarray:
    return a


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a / b


def _root_ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(a, 0.0) / np.maximum(b, 0.0))


def _mean(array: DataArray, *dims: str) -> DataArray:
    return array.mean(dims, skipna=False)


def _identity(array: DataArray) -> DataArray:
    return array.isel(element=0, drop=True)


# ------------------------------------------------------------------------------- equivariance on orbits


def read_out(prediction: DataArray, readout: DataArray) -> DataArray:
    """The observable h = R f: (…, output) → (…, observable)."""
    return xr.dot(prediction, readout, dim="output")


def orbit_variances(observable: DataArray) -> DataArray:
    """Population variance over the orbit, mean over components: (…, element, observable) → (…)."""
    return _mean(observable.var("element", skipna=False), "observable")


def orbit_variance(observable: DataArray) -> Statistic:
    """Mean over samples of Var_g h̄(gx)."""
    return Statistic(_plain, (orbit_variances(observable),))


def orbit_variance_unbiased(
    variance: DataArray, member_orbit_variance: DataArray | None, member_count: int
) -> Statistic:
    """U-statistic (m·V(f̄) − mean_i V(f_i))/(m−1): its expectation is the value of the infinite ensemble.

    Args:
      variance: (…, step, sample) orbit variances of the mean of ``member_count`` members.
      member_orbit_variance: (…, step, sample) mean of the orbit variances of these members. NaN results at m = 1.
    """
    if member_count == 1 or member_orbit_variance is None:
        return Statistic(_plain, (xr.full_like(variance, np.nan),))
    return Statistic(_plain, ((member_count * variance - member_orbit_variance) / (member_count - 1),))


def normalized_orbit_std(observable: DataArray) -> Statistic:
    """√(orbit variance) over the root mean square over samples of the orbit mean."""
    centre = _mean(observable, "element")
    return Statistic(_root_ratio, (orbit_variances(observable), _mean(centre**2, "observable")))


def relative_orbit_std(observable: DataArray) -> Statistic:
    """The papers' RSD: mean over samples of std_g/|mean_g|."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = observable.std("element", skipna=False) / abs(_mean(observable, "element"))
    return Statistic(_plain, (_mean(ratio, "observable"),))


def pull_back(prediction: DataArray, action: Action) -> DataArray:
    """ρ_Y(g)⁻¹ f(gx), which does not depend on g for an equivariant f. Dimensions as they come."""
    if action.is_invariant:
        return prediction
    ordered = prediction.transpose(..., "element", "output")
    return ordered.copy(data=action.pull_back(ordered.values)).transpose(*prediction.dims)


def orbit_mse(prediction: DataArray, action: Action) -> Statistic:
    """Mean over samples, elements and outputs of |ρ_Y(g)⁻¹ f̄(gx) − f̄(x)|²."""
    deviation = pull_back(prediction, action) - _identity(prediction)
    return Statistic(_plain, (_mean(deviation**2, "element", "output"),))


def orbit_same_predictions(prediction: DataArray) -> Statistic:
    """Σ_g [argmax f̄(gx) = argmax f̄(x)], identity included: 1…|G|."""
    top = prediction.argmax("output", skipna=False)
    return Statistic(_plain, ((top == _identity(top)).sum("element"),))


def log_probabilities(prediction: DataArray, averaged: str) -> DataArray:
    """log p of the ensemble: log-softmax of mean logits, or the logarithm of the mean softmax."""
    if averaged == "softmax":
        return xr.ufuncs.log(prediction.clip(min=float(np.finfo(np.float64).tiny)))
    shifted = prediction - prediction.max("output", skipna=False)
    return shifted - xr.ufuncs.log(xr.ufuncs.exp(shifted).sum("output", skipna=False))


def orbit_kl(log_p: DataArray) -> Statistic:
    """Mean over samples and elements of ½[KL(p(x)‖p(gx)) + KL(p(gx)‖p(x))], in nats."""
    start = _identity(log_p)
    difference = xr.ufuncs.exp(log_p) - xr.ufuncs.exp(start)
    symmetric = (difference * (log_p - start)).sum("output", skipna=False) / 2
    return Statistic(_plain, (_mean(symmetric, "element"),))


# ------------------------------------------------------------------------------------------- the theory


def difference_to_ntk(prediction: DataArray, mean: DataArray) -> Statistic:
    """rms(f̄ − μ_t)/rms(μ_t) over samples, elements and outputs."""
    axes = ("element", "output")
    return Statistic(_root_ratio, (_mean((prediction - mean) ** 2, *axes), _mean(mean**2, *axes)))


def relative_difference_to_ntk(prediction: DataArray, mean: DataArray) -> Statistic:
    """The papers' mean of |f̄ − μ_t|/|μ_t| over samples, elements and outputs."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return Statistic(_plain, (_mean(abs(prediction - mean) / abs(mean), "element", "output"),))


def zscore_to_ntk(prediction: DataArray, mean: DataArray, variance: DataArray, member_count: int) -> Statistic:
    """Root mean square of (f̄ − μ_t)/√(Σ_t/m), leaving out points whose Σ_t is zero up to round-off."""
    known = variance > NEGLIGIBLE_VARIANCE * float(variance.max())
    weight = xr.where(known, member_count / variance.where(known, 1.0), 0.0)
    square = _mean((prediction - mean) ** 2, "output") * weight
    return Statistic(_root_ratio, (_mean(square, "element"), _mean(known.astype(float), "element")))


def predicted_orbit_variance(
    mean: DataArray, covariance: DataArray, readout: DataArray, member_count: int | DataArray
) -> Statistic:
    """Expected orbit variance of the mean of m members; control arms included, by their Var_g Rμ_t.

    Args:
      mean: (step, sample, element, output) μ_t.
      covariance: (step, sample, element, element_) Σ_t per output.
      readout: (observable, output) R; components are averaged, so ‖R‖² = Σ_kj R_kj²/(number of components).
      member_count: m, or an array of them with a dimension of its own.
    """
    diagonal = np.diagonal(covariance.values, axis1=-2, axis2=-1).mean(axis=-1)
    noise = covariance.isel(element=0, element_=0, drop=True).copy(data=diagonal) - _mean(
        covariance, "element", "element_"
    )
    norm = float((readout**2).sum("output").mean("observable"))
    return Statistic(_plain, (orbit_variances(read_out(mean, readout)) + norm * noise / member_count,))


def predicted_orbit_mse(
    mean: DataArray, covariance: DataArray, action: Action, member_count: int | DataArray
) -> Statistic:
    """Expected orbit MSE of the mean of m members; arguments as predicted_orbit_variance."""
    bias = orbit_mse(mean, action).ingredients[0]
    diagonal = np.diagonal(covariance.values, axis1=-2, axis2=-1)  # (step, sample, element): Σ(gx, gx)
    cross = covariance.values[..., :, 0]  # Σ(gx, x)
    share = action.character[action.group.inverse] / action.source.shape[1]  # χ(g⁻¹)/n
    noise = (diagonal + diagonal[..., :1] - 2 * cross * share).mean(axis=-1)
    return Statistic(_plain, (bias + bias.copy(data=noise) / member_count,))


# --------------------------------------------------------------------------------------- performance


def accuracy(prediction: DataArray, label: DataArray) -> Statistic:
    """Fraction of labelled samples whose untransformed input is classified correctly."""
    known = label >= 0
    right = (_identity(prediction).argmax("output", skipna=False) == label) & known
    return Statistic(_ratio, (right, known))


def mse_loss(prediction: DataArray, target: DataArray) -> Statistic:
    """½·mean over samples (those with a target) and outputs of the squared error at the untransformed inputs."""
    known = target.notnull().all("output")
    error = _mean((_identity(prediction) - target.fillna(0.0)) ** 2, "output") / 2
    return Statistic(_ratio, (xr.where(known, error, 0.0), known))


def cross_entropy_loss(log_p: DataArray, label: DataArray) -> Statistic:
    """Mean over labelled samples of −log p(label) at the untransformed inputs, in nats."""
    known = label >= 0
    hit = label == DataArray(np.arange(log_p.sizes["output"]), dims="output")
    return Statistic(_ratio, (-xr.where(hit, _identity(log_p), 0.0).sum("output"), known))


# ------------------------------------------------------------------------------------------ everything


_ATTRIBUTES = {  # name: (long name, units, observable), with {h} the observable and {f} the outputs
    "orbit_variance": ("variance over the orbit, mean over samples", "({h})²", "{h}"),
    "orbit_variance_unbiased": ("orbit variance of the infinite ensemble, U-statistic", "({h})²", "{h}"),
    "predicted_orbit_variance": ("orbit variance expected from the NTK", "({h})²", "{h}"),
    "normalized_orbit_std": ("orbit standard deviation over rms orbit mean", "1", "{h}"),
    "relative_orbit_std": ("mean of std over |mean| on the orbit", "1", "{h}"),
    "orbit_mse": ("squared deviation from equivariance, mean over the orbit", "({f})²", "{f}"),
    "predicted_orbit_mse": ("orbit MSE expected from the NTK", "({f})²", "{f}"),
    "orbit_same_predictions": ("orbit elements with the prediction of the identity", "elements", "predicted class"),
    "orbit_kl": ("symmetric KL divergence along the orbit", "nat", "class probabilities"),
    "difference_to_ntk": ("rms difference to the NTK mean over its rms", "1", "{f}"),
    "relative_difference_to_ntk": ("mean of |difference to the NTK mean| over |NTK mean|", "1", "{f}"),
    "zscore_to_ntk": ("rms difference to the NTK mean in its standard deviations", "1", "{f}"),
    "accuracy": ("fraction of untransformed inputs classified correctly", "1", "predicted class"),
    "loss": ("loss at the untransformed inputs", "{l}", "{f}"),
}


def _dataset(statistics: Mapping[str, Statistic], reference: Reference, step: DataArray | None) -> Dataset:
    words = {
        "h": reference.observable,
        "f": reference.output_name,
        "l": "nat" if reference.loss == "cross_entropy" else f"({reference.output_name})²",
    }
    result: dict[str, xr.Variable] = {}
    for name, statistic in statistics.items():
        value, error = statistic.summary(reference.splits)
        dims = (*(d for d in statistic.ingredients[0].dims if d != "sample"), "split")
        if name in UNDEFINED_AT_START and step is not None:
            start = np.expand_dims(step.values == 0, tuple(range(1, value.ndim - dims.index("step"))))
            value, error = np.where(start, np.nan, value), np.where(start, np.nan, error)
        long_name, units, observable = (text.format(**words) for text in _ATTRIBUTES[name])
        attributes = {"long_name": long_name, "units": units, "observable": observable}
        result[name] = xr.Variable(dims, value, attributes)
        result[f"{name}_se"] = xr.Variable(dims, error, {**attributes, "long_name": f"standard error of: {long_name}"})
    coords = {"split": list(reference.splits)} | ({} if step is None else {"step": step.variable})
    return Dataset(result, coords)


def evaluate(
    prediction: DataArray,
    reference: Reference,
    member_count: int = 1,
    member_orbit_variance: DataArray | None = None,
) -> Dataset:
    """All metrics that apply to means over ``member_count`` members.

    Args:
      prediction: (…, step, sample, element, output), ``step`` with its coordinate, samples and elements in the
        order of the reference.
      member_orbit_variance: (…, step, sample) mean of ``orbit_variances`` of the members of each mean, for
        orbit_variance_unbiased (NaN without it).

    Returns:
      METRIC(…, step, split) and METRIC_se, the jackknife over the samples of the split. Classification
      metrics need labels, comparisons with the NTK need μ_t (and Σ_t); the others are left out. There is no
      loss where probabilities are averaged but training used mse: the two are not comparable.
    """
    prediction = prediction.drop_vars(["sample", "element", "output"], errors="ignore")
    bare = ("step", "sample", "element", "output", "split")
    observable = read_out(prediction, reference.readout)
    variance = orbit_variance(observable)
    statistics = {
        "orbit_variance": variance,
        "orbit_variance_unbiased": orbit_variance_unbiased(
            variance.ingredients[0], member_orbit_variance, member_count
        ),
        "normalized_orbit_std": normalized_orbit_std(observable),
        "relative_orbit_std": relative_orbit_std(observable),
        "orbit_mse": orbit_mse(prediction, reference.output_action),
    }
    if reference.label is not None:
        label = reference.label.drop_vars(bare, errors="ignore")
        log_p = log_probabilities(prediction, reference.averaged)
        statistics["orbit_same_predictions"] = orbit_same_predictions(prediction)
        statistics["orbit_kl"] = orbit_kl(log_p)
        statistics["accuracy"] = accuracy(prediction, label)
        if reference.loss == "cross_entropy":
            statistics["loss"] = cross_entropy_loss(log_p, label)
    if reference.mean is not None:
        mean = reference.mean.drop_vars(bare, errors="ignore")
        statistics["difference_to_ntk"] = difference_to_ntk(prediction, mean)
        statistics["relative_difference_to_ntk"] = relative_difference_to_ntk(prediction, mean)
        if reference.variance is not None:
            spread = reference.variance.drop_vars(bare, errors="ignore")
            statistics["zscore_to_ntk"] = zscore_to_ntk(prediction, mean, spread, member_count)
    if reference.loss == "mse" and reference.averaged == "logits":
        statistics["loss"] = mse_loss(prediction, reference.target.drop_vars(bare, errors="ignore"))
    return _dataset(statistics, reference, prediction["step"] if "step" in prediction.coords else None)


def predict(reference: Reference, member_count: DataArray) -> Dataset:
    """Expectations of orbit_variance and orbit_mse for ensembles of m members.

    Args:
      member_count: (ensemble_size,) values of m.

    Returns:
      predicted_orbit_variance, predicted_orbit_mse (ensemble_size, step, split) with _se, the jackknife over
      samples; an empty Dataset without Σ_t.
    """
    if reference.mean is None or reference.covariance is None:
        return Dataset()
    mean, covariance = reference.mean, reference.covariance
    statistics = {
        "predicted_orbit_variance": predicted_orbit_variance(mean, covariance, reference.readout, member_count),
        "predicted_orbit_mse": predicted_orbit_mse(mean, covariance, reference.output_action, member_count),
    }
    result = _dataset(statistics, reference, mean["step"])
    return result.transpose("ensemble_size", "step", "split").assign_coords(ensemble_size=member_count)
