"""The kind kernel_regression: learning curves of infinitely wide ensembles.

The mean of an infinite ensemble that is trained for a time t on n samples is μ_t(x) = Θ(x,X) Θ(X,X)⁻¹ T_t Y (Jacot et
al. 2018; ``dynamics``); at t = ∞ regression with the kernel Θ, without a ridge, on the modes above round-off. The
kernel is computed once per arm, between all samples; the training sets are random choices from the training samples
(``repeats``), the same for all arms, so that kernels can be compared on the same sets.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from xarray import Dataset

from .. import dynamics
from ..canonicalisation import seen_inputs
from ..errors import DataError, StudyError
from ..kernels import Progress, cross_kernels, gram
from ..networks import build_network
from ..settings import CriticalFraction, Regression, RegressionSettings
from ..summary import arm_labels, swept_coordinates, with_labels
from ..tasks.base import TaskData
from .published import with_published
from .regression_words import content
from .repeats import estimate, training_sets

if TYPE_CHECKING:
    from ..study import Arm, Study

__all__ = ["content", "join", "measure", "tables"]

#: Metric → what it is the mean of.
METRICS = {"accuracy": "correct", "mse": "squared_error"}

#: Variables (size, repeat) of a store that metrics.nc holds for every arm.
CONDITIONING = {
    "rank": "eigenvalues of the NTK above round-off: the modes fitted at t = ∞",
    "smallest_kept_eigenvalue": "smallest eigenvalue of the NTK above round-off",
    "largest_eigenvalue": "largest eigenvalue of the NTK",
    "negative_eigenvalues": "eigenvalues of the NTK that round-off has made negative",
    "learning_rate": "step size that finite times count in",
}

# ----------------------------------------------------------------------------------------------- one arm


def measure(
    settings: RegressionSettings,
    data: TaskData,
    *,
    kernels: Dataset | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """The store of one arm (docs/layout.md).

    Args:
      settings: the arm.
      data: the task; samples of the splits train and test are used.
      kernels: ``ntk(sample, train, element)`` where it was computed in tiles; None: it is computed here.
      progress: called with (pairs of inputs finished, pairs in all).

    Returns:
      Dataset with ``squared_error`` and, for classification, ``correct`` (size, repeat, time, sample) at the test
      samples, ``correct`` being whether the largest output is that of the label; and the variables of CONDITIONING
      (size, repeat). Time is in gradient steps with the rate constant λ → ηλ/(n n_out); inf: the limit.

    Raises DataError if a test sample has no target, StudyError for gradient descent above the critical learning rate,
    UserError where a kernel is not finite, RuntimeError without 64-bit jax.
    """
    section = settings.regression
    train, test = (np.flatnonzero(data.split == split) for split in ("train", "test"))
    if not np.isfinite(data.target[test]).all():
        raise DataError(
            f"task: {int((~np.isfinite(data.target[test])).any(axis=1).sum())} of {len(test)} test samples have no "
            "target, without which there is no test error.",
            remedy="Give every sample of the split 'test' a target.",
        )
    train_ntk, test_ntk = _ntk(settings, data, train, test, kernels, progress)
    sizes, times = sorted(section.sizes), sorted(float(time) for time in section.times)
    shape = (len(sizes), section.repeats)
    errors = np.empty((*shape, len(times), len(test)))
    correct = np.empty(errors.shape, dtype=bool)
    spectra = {name: np.empty(shape) for name in CONDITIONING}
    for i, size in enumerate(sizes):
        for repeat, rows in enumerate(training_sets(section.seed, section.repeats, len(train), size)):
            spectrum = dynamics.decompose(train_ntk[np.ix_(rows, rows)])
            targets = data.target[train[rows]]
            rate = _learning_rate(settings, spectrum, targets.shape)
            mean = dynamics.mean(spectrum, test_ntk[:, rows], targets, times, rate, section.form)
            errors[i, repeat] = ((mean - data.target[test]) ** 2).mean(axis=-1)
            if data.label is not None:
                correct[i, repeat] = mean.argmax(axis=-1) == data.label[test]
            for name, value in _conditioning(spectrum, rate).items():
                spectra[name][i, repeat] = value
    coords = {
        "size": ("size", sizes, {"long_name": "number of training samples n"}),
        "repeat": np.arange(section.repeats),
        "time": ("time", times, {"units": "step", "long_name": "training time t; inf: the limit"}),
        "sample": test,
    }
    attributes = {
        "pool": len(train),
        "form": section.form,
        "network": build_network(settings.network, data.input_action.shape, data.target.shape[1]).description,
        "outputs": data.output_name,
        "ridge": "none: at t = inf only modes above round-off (rank of size) are fitted",
        "data_provenance": json.dumps(data.provenance),
    }
    return Dataset(_variables(data, errors, correct, spectra), coords, attributes)


def _variables(
    data: TaskData, errors: np.ndarray, correct: np.ndarray, spectra: dict[str, np.ndarray]
) -> dict[str, Any]:
    dims = ("size", "repeat", "time", "sample")
    variables: dict[str, Any] = {
        "squared_error": (dims, errors, {"long_name": f"mean over outputs of (μ_t − y)²: {data.output_name}"})
    }
    if data.label is not None:
        variables["correct"] = (dims, correct, {"long_name": "whether the largest output is that of the label"})
    for name, values in spectra.items():
        counted = name in ("rank", "negative_eigenvalues")
        variables[name] = (dims[:2], values.astype(np.int64) if counted else values, {"long_name": CONDITIONING[name]})
    return variables


def _ntk(
    settings: RegressionSettings,
    data: TaskData,
    train: np.ndarray,
    test: np.ndarray,
    kernels: Dataset | None,
    progress: Progress | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Θ between the training samples (train, train) and between test and training samples (test, train)."""
    if kernels is not None:
        ntk = kernels["ntk"].isel(element=0).sel(train=train).transpose("sample", "train")
        return ntk.sel(sample=train).values, ntk.sel(sample=test).values
    settings.network.check_input(data.input_action.shape, data.input_action.group.name)
    network = build_network(settings.network, data.input_action.shape, data.target.shape[1])
    execution = settings.execution
    memory = execution.block_memory
    options: dict[str, Any] = {"memory": memory, "threads": execution.kernel_threads}
    pairs = len(train) * (len(train) + 1) // 2
    total = pairs + len(test) * len(train)

    def report(first: int, last: int) -> Progress | None:
        if progress is None:
            return None
        return lambda done, of: progress(first + round((last - first) * done / of), total)

    x_train, x_test = (seen_inputs(settings.network, data, samples) for samples in (train, test))
    _, train_ntk = gram(network, x_train, progress=report(0, pairs), **options)
    _, test_ntk = cross_kernels(network, x_test, x_train, progress=report(pairs, total), **options)
    return train_ntk, test_ntk


def _learning_rate(settings: RegressionSettings, spectrum: dynamics.Spectrum, shape: tuple[int, ...]) -> float:
    """η, of a training set with targets of ``shape`` (row, output)."""
    rate = settings.regression.learning_rate
    critical = dynamics.critical_learning_rate(float(spectrum.eigenvalue[-1]), *shape)
    eta = rate.critical_fraction * critical if isinstance(rate, CriticalFraction) else rate
    if settings.regression.form == "descent" and eta > critical:
        raise StudyError(
            f"regression.learning_rate: {eta:.6g} is above the critical learning rate {critical:.6g} of a training set "
            f"of {shape[0]} samples: gradient descent diverges.",
            remedy="Lower it, give {critical_fraction: 0.5}, or use regression.form: flow.",
        )
    return eta


def _conditioning(spectrum: dynamics.Spectrum, rate: float) -> dict[str, float]:
    kept = spectrum.eigenvalue[spectrum.kept]
    return {
        "rank": len(kept),
        "smallest_kept_eigenvalue": kept[0],
        "largest_eigenvalue": spectrum.eigenvalue[-1],
        "negative_eigenvalues": int((spectrum.eigenvalue < 0).sum()),
        "learning_rate": rate,
    }


# ---------------------------------------------------------------------------------------------- all arms


def join(study: Study, datasets: Sequence[Dataset]) -> Dataset:
    """metrics.nc: all arms of a study in one dataset.

    Args:
      datasets: results of ``measure``, one per arm, in the order of ``study.arms``.

    Returns:
      For ``mse`` and, for classification, ``accuracy``: METRIC(arm, size, time), the mean over repeats and test
      samples; its standard errors METRIC_se_repeats (choice of training samples), METRIC_se_test (choice of test
      samples) and METRIC_se (both; see ``repeats``); repeat_METRIC(arm, size, repeat, time); METRIC_difference(arm,
      arm_, size, time), arm minus arm_ on the same training sets and test samples, with METRIC_difference_se. Of
      CONDITIONING each (arm, size, repeat). Where the study gives published values, published_value(published) with
      coordinates published_label, …_size, …_metric, …_source. Arms are labelled by their folder, by ``arm_label`` and
      by every swept key (see ``summary.swept_coordinates``). What an arm does not have is NaN.

    Raises ValueError if there is not one dataset per arm.
    """
    if len(datasets) != len(study.arms):
        raise ValueError(f"{len(study.arms)} arms but {len(datasets)} datasets")
    arms = [arm.path for arm in study.arms]
    indexes = {
        name: np.unique(np.concatenate([d[name].values for d in datasets])) for name in ("size", "repeat", "time")
    }
    metrics = [metric for metric, name in METRICS.items() if any(name in d for d in datasets)]
    result = Dataset(coords={"arm": arms, "arm_": arms, **indexes})
    for name in ("size", "time"):
        result[name].attrs = datasets[0][name].attrs
    for metric in metrics:
        parts = [_of_arm(d, metric) for d in datasets]
        for name in dict.fromkeys(str(n) for part in parts for n in part):
            result[name] = _stacked([part.get(name) for part in parts], indexes)
        result = result.merge(_differences(study, datasets, metric, indexes))
    for name in CONDITIONING:
        result[name] = _stacked([d[name] for d in datasets], indexes)
    result = result.assign_coords(arm_label=("arm", [_label(arm) for arm in study.arms]))
    result = result.assign_coords(swept_coordinates(study, result))
    result.attrs = {"study": study.name}
    for name in ("form", "outputs", "ridge", "data_provenance"):
        said = list(dict.fromkeys(str(d.attrs[name]) for d in datasets))
        result.attrs[name] = said[0] if len(said) == 1 else f"[{', '.join(said)}]"
    published = [value for arm in study.arms for value in _section(arm).published]
    return with_published(result, published, "value from the literature")


def _section(arm: Arm) -> Regression:
    assert isinstance(arm.settings, RegressionSettings)
    return arm.settings.regression


def _of_arm(dataset: Dataset, metric: str) -> Dataset:
    """One metric of one arm with its errors; empty if it has none."""
    name = METRICS[metric]
    if name not in dataset:
        return Dataset()
    values = dataset[name].transpose("size", "repeat", "time", "sample").astype(float)
    found = estimate(values.values, values["size"].values, dataset.attrs["pool"])
    long_name = {
        "accuracy": "share of test samples whose largest output is that of their label",
        "mse": "mean square error",
    }
    part = Dataset(coords={name: dataset[name] for name in ("size", "repeat", "time")})
    dims = ("size", "time")
    part[metric] = (dims, found.value, {"long_name": long_name[metric]})
    for suffix, error, what in (
        ("_se", found.total, "choice of training and of test samples"),
        ("_se_repeats", found.repeats, "choice of training samples"),
        ("_se_test", found.test, "choice of test samples"),
    ):
        part[metric + suffix] = (dims, error, {"long_name": f"standard error of the {metric} by the {what}"})
    part[f"repeat_{metric}"] = values.mean("sample").assign_attrs(long_name=f"{metric} of one training set")
    return part


def _stacked(
    parts: Sequence[Any], indexes: dict[str, np.ndarray]
) -> tuple[tuple[str, ...], np.ndarray, dict[str, Any]]:
    """Variables of all arms, on the labels of the whole study; NaN where an arm has none."""
    having = [part for part in parts if part is not None]
    dims = [str(dim) for dim in having[0].dims]
    values = np.full((len(parts), *(len(indexes[dim]) for dim in dims)), np.nan)
    for i, part in enumerate(parts):
        if part is not None:
            values[i] = part.reindex({dim: indexes[dim] for dim in dims}).values
    return ("arm", *dims), values, having[0].attrs


def _differences(study: Study, datasets: Sequence[Dataset], metric: str, indexes: dict[str, np.ndarray]) -> Dataset:
    """Paired differences between arms with the same data and the same choices of training samples."""
    arms = [arm.path for arm in study.arms]
    shape = (len(arms), len(arms), len(indexes["size"]), len(indexes["time"]))
    value, error = np.full(shape, np.nan), np.full(shape, np.nan)
    for (i, first), (j, second) in combinations(enumerate(study.arms), 2):
        if not _paired(first, second) or METRICS[metric] not in datasets[i]:
            continue
        a, b = (datasets[k][METRICS[metric]].astype(float) for k in (i, j))
        shared = (a - b).transpose("size", "repeat", "time", "sample")  # of what both have
        found = estimate(shared.values, shared["size"].values, datasets[i].attrs["pool"])
        at = np.ix_(*(np.searchsorted(indexes[dim], shared[dim].values) for dim in ("size", "time")))
        value[i, j][at], error[i, j][at] = found.value, found.total
        value[j, i][at], error[j, i][at] = -found.value, found.total
    dims = ("arm", "arm_", "size", "time")
    what = f"{metric} of arm minus that of arm_, on the same training and test samples"
    return Dataset(
        {
            f"{metric}_difference": (dims, value, {"long_name": what}),
            f"{metric}_difference_se": (dims, error, {"long_name": f"standard error of: {what}"}),
        }
    )


def _paired(first: Arm, second: Arm) -> bool:
    """Whether two arms share task, test samples and the choices of training samples."""
    a, b = _section(first), _section(second)
    return first.settings.task == second.settings.task and (a.seed, a.repeats) == (b.seed, b.repeats)


def _label(arm: Arm) -> str:
    """An arm in a few words: its swept value, or all of them with their keys."""
    values = list(arm.coords.items())
    if len(values) == 1:
        return str(values[0][1])
    return ", ".join(f"{key} {value}" for key, value in values) or arm.settings.network.name


def tables(study: Study, metrics: Dataset) -> dict[str, pd.DataFrame]:
    """Plain tables of the result of ``join``: name → table, for tables/NAME.csv.

    learning_curves: one row per arm, size and time. repeats: one per arm, size, repeat and time, with the
    conditioning. differences: one per pair of arms, size and time. published: the published values.
    """
    labels = arm_labels(metrics)
    by_dims: dict[tuple[str, ...], list[str]] = {}
    for name, variable in metrics.data_vars.items():
        by_dims.setdefault(tuple(str(dim) for dim in variable.dims), []).append(str(name))

    def table(*kinds: tuple[str, ...]) -> pd.DataFrame:
        names = [name for dims in kinds for name in by_dims.get(dims, [])]
        part = metrics[names].reset_coords(drop=True)
        order = [dim for dim in ("arm", "arm_", "size", "repeat", "time") if dim in part.dims]
        return with_labels(part.to_dataframe(dim_order=order).dropna(how="all").reset_index(), labels)

    result = {
        "learning_curves": table(("arm", "size", "time")),
        "repeats": table(("arm", "size", "repeat", "time"), ("arm", "size", "repeat")),
        "differences": table(("arm", "arm_", "size", "time")),
    }
    if "published_value" in metrics:
        columns = ["published_label", "published_metric", "published_size", "published_value", "published_source"]
        frame = metrics[columns].to_dataframe()[columns]
        result["published"] = frame.rename(columns=lambda name: name.removeprefix("published_"))
    return result
