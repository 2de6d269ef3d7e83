"""The predictions in metrics.nc: what pictures show of the control and the main arm on a few orbits.

Beside them what the theory of every arm says of itself, which the report quotes. So pictures and report are functions
of metrics.nc alone, and the stores of data, theory and ensembles may be gone. What is put there is bounded by the
number of drawn samples, whatever the number of members: stores are opened lazily and read at these samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .study.choice import choose, study_choices
from .study.products import figure_names

if TYPE_CHECKING:
    import xarray as xr

    from .study import Study

#: Orbits of each split that orbit_profile shows, and single members in all pictures of predictions.
ORBITS, MEMBERS = 3, 4


class ArmStores(NamedTuple):
    """The stores of one arm, as docs/layout.md describes them; opened, not loaded.

    Attributes:
      data: input, split, readout, input_sign (for the mirror) …
      theory: mean and orbit_covariance; None where the arm has no analytic mean.
      ensemble: mean, observable_second_moment, and single members as example_prediction.
    """

    data: xr.Dataset
    theory: xr.Dataset | None
    ensemble: xr.Dataset


def with_stores(study: Study, joined: xr.Dataset, stores: Mapping[str, ArmStores]) -> xr.Dataset:
    """The result of ``summary.join`` with the variables ``drawn_…`` and ``theory_…`` of docs/layout.md.

    Args:
      stores: by arm path, of the arms in ``choice.store_arms``.
    """
    return joined.merge(drawn(study, stores)).assign(theory_variables(study, stores))


# --------------------------------------------------------------------------------------------- predictions


class _Drawn(NamedTuple):
    """Where predictions are read: steps, samples and of each sample the observable (its index)."""

    steps: list[int]
    samples: np.ndarray
    observables: np.ndarray

    @property
    def at(self) -> dict[str, Any]:
        return {"step": self.steps, "sample": self.samples}


_DIMS = ("drawn_step", "drawn_sample", "element")
_LONG_NAMES = {
    "drawn_mean": "observable of the ensemble mean",
    "drawn_mean_se": "standard error of the observable of the ensemble mean: drawn_member_std / √members",
    "drawn_member_std": "standard deviation of the observable over members (ddof 1)",
    "drawn_single": "observable of single members",
    "drawn_theory_mean": "observable of μ_t",
    "drawn_theory_std": "standard deviation of the observable over members by Σ_t: ‖R‖ √Σ_t(gx, gx)",
    "drawn_theory_difference_std": "standard deviation over members of the observable at gx minus that at x, by Σ_t",
}


def drawn(study: Study, stores: Mapping[str, ArmStores]) -> xr.Dataset:
    """What the pictures of predictions show, of the control and the main arm.

    Args:
      stores: by arm path, at least of these two arms.

    Returns:
      drawn_mean, drawn_mean_se, drawn_member_std, and where there is a theory drawn_theory_mean, drawn_theory_std,
      drawn_theory_difference_std (drawn_arm, drawn_step, drawn_sample, element); drawn_single(drawn_arm, drawn_member,
      drawn_step, drawn_sample, element). Of several observables (logits) the one that is largest for the main arm at
      the identity and the last step. In the mirror toy also drawn_input(drawn_sample, element), and of all samples of
      the data data_input(data_sample), data_target(data_sample).
    """
    import xarray as xr

    chosen = choose(study_choices(study))
    main = stores[chosen.main.key]
    toy = "mirror" in figure_names(study)
    where, shown = _places(main, toy)
    parts = [_of_arm(stores[choice.key], where) for choice in chosen.pair]
    coords = {
        "drawn_arm": [choice.key for choice in chosen.pair],
        "drawn_step": ("drawn_step", where.steps, {"units": study.arm(chosen.main.key).settings.training.unit}),
        "drawn_sample": where.samples,
        "drawn_split": ("drawn_sample", main.data["split"].sel(sample=where.samples).values.astype(str)),
        "drawn_observable": ("drawn_sample", where.observables, {"long_name": "index of the observable that is drawn"}),
        "drawn_profile": ("drawn_sample", shown, {"long_name": "whether orbit_profile shows the orbit"}),
        "element": main.ensemble["element"].values.astype(str),
        "drawn_member": np.arange(MEMBERS),
    }
    result = xr.Dataset(coords=coords)
    observable = str(main.data.attrs.get("observable_name", "output"))
    if main.data.sizes["observable"] > 1:
        observable = f"largest {observable.removesuffix('s')}"
    for name, text in _LONG_NAMES.items():
        if not any(name in part for part in parts):
            continue
        dims = ("drawn_member", *_DIMS) if name == "drawn_single" else _DIMS
        shape = [result.sizes[d] for d in dims]
        values = np.stack([part.get(name, np.full(shape, np.nan)) for part in parts])
        result[name] = (("drawn_arm", *dims), values, {"long_name": text, "units": "1", "observable": observable})
    result["drawn_mean"].attrs["ensemble_mean"] = str(main.ensemble.attrs.get("ensemble_mean", "logits"))
    if "drawn_theory_mean" in result:
        theories = [stores[choice.key].theory for choice in chosen.pair]
        estimated = any(theory is not None and "mean_error" in theory for theory in theories)
        result["drawn_theory_mean"].attrs["kernel"] = "Monte-Carlo" if estimated else "analytic"
    return result.merge(_line(main, where)) if toy else result


def _places(main: ArmStores, toy: bool) -> tuple[_Drawn, np.ndarray]:
    """Where predictions are read, and whether orbit_profile shows each sample.

    Args:
      toy: whether the mirror toy is drawn, at an early and the last step and at all samples; else the last step and
        ORBITS samples per split are enough, spread evenly over the first half of the evaluated ones (the second half
        of a grid that is symmetric about 0 has the same orbits).
    """
    evaluated, recorded = main.ensemble["sample"].values, [int(s) for s in main.ensemble["step"].values]
    split = main.data["split"].sel(sample=evaluated).values.astype(str)
    shown = np.zeros(len(evaluated), bool)
    for name in dict.fromkeys(split.tolist()):
        inside = np.flatnonzero(split == name)
        shown[inside[:: max(len(inside) // (2 * ORBITS), 1)][:ORBITS]] = True
    positive = [s for s in recorded if s > 0]
    early = positive[(len(positive) - 1) // 2] if positive and toy else recorded[-1]
    samples = evaluated if toy else evaluated[shown]
    identity = main.ensemble["mean"].sel(step=recorded[-1], sample=samples).isel(element=0)
    observed = identity.transpose("sample", "output").values @ main.data["readout"].values.T
    places = _Drawn(sorted({early, recorded[-1]}), samples, observed.argmax(axis=1))
    return places, shown[shown] if samples is not evaluated else shown


def _of_arm(stores: ArmStores, where: _Drawn) -> dict[str, np.ndarray]:
    """The variables of one arm, (drawn_step, drawn_sample, element); of single members with drawn_member before."""
    data, theory, ensemble = stores
    members = int(ensemble.attrs["members"])
    rows = data["readout"].values[where.observables]  # (sample, output)

    def observed(values: xr.DataArray) -> np.ndarray:
        there = values.sel(where.at).transpose(..., "step", "sample", "element", "output").values.astype(float)
        return np.matmul(there, rows[:, :, None])[..., 0]

    result = {"drawn_mean": observed(ensemble["mean"])}
    moments = ensemble["observable_second_moment"].sel(where.at).transpose("step", "sample", "element", "observable")
    second = np.take_along_axis(moments.values.astype(float), where.observables[None, :, None, None], axis=-1)[..., 0]
    spread = np.full_like(second, np.nan)
    if members > 1:  # round-off below zero counts as zero
        spread = np.sqrt(np.maximum(second - result["drawn_mean"] ** 2, 0) * members / (members - 1))
    result |= {"drawn_member_std": spread, "drawn_mean_se": spread / np.sqrt(max(members, 1))}
    if "example_prediction" in ensemble:
        examples = observed(ensemble["example_prediction"].isel(example=slice(MEMBERS)).transpose("example", ...))
        padding = np.full((MEMBERS - len(examples), *examples.shape[1:]), np.nan)
        result["drawn_single"] = np.concatenate([examples, padding])
    if theory is None or ensemble.attrs.get("ensemble_mean") == "softmax":  # μ_t is that of the logits
        return result
    with np.errstate(invalid="ignore"):  # above the critical learning rate μ_t and Σ_t overflow
        result["drawn_theory_mean"] = observed(theory["mean"])
        if "orbit_covariance" in theory:
            covariance = theory["orbit_covariance"].sel(where.at).transpose("step", "sample", "element", "element_")
            block = covariance.values
            variance = np.einsum("...gg->...g", block)
            difference = variance + variance[..., :1] - 2 * block[..., 0, :]
            norm = np.linalg.norm(rows, axis=1)[:, None]
            result["drawn_theory_std"] = np.sqrt(np.maximum(variance, 0)) * norm
            result["drawn_theory_difference_std"] = np.sqrt(np.maximum(difference, 0)) * norm
    return result


def _line(main: ArmStores, where: _Drawn) -> xr.Dataset:
    """Inputs and targets of the mirror toy, whose inputs are numbers."""
    import xarray as xr

    data = main.data
    x = data["input"].values.reshape(data.sizes["sample"], -1)[:, 0].astype(float)
    orbit = np.outer(data["input"].sel(sample=where.samples).values.astype(float), data["input_sign"].values.ravel())
    words = {"input": "input x of a sample of the data", "target": "its target"}
    return xr.Dataset(
        {
            "drawn_input": (("drawn_sample", "element"), orbit, {"long_name": "transformed input ρ(g)x", "units": "1"}),
            "data_input": ("data_sample", x, {"long_name": words["input"], "units": "1"}),
            "data_target": ("data_sample", data["target"].values[:, 0], {"long_name": words["target"], "units": "1"}),
        },
        {
            "drawn_sample": where.samples,
            "data_sample": data["sample"].values,
            "data_split": ("data_sample", data["split"].values.astype(str)),
        },
    )


# -------------------------------------------------------------------------------- what theories say of themselves

#: Attributes of a theory store → what they are.
_NUMBERS = {
    "learning_rate": "learning rate η",
    "critical_learning_rate": "learning rate above which gradient descent diverges: 2 N n_out/λ_max",
    "rows": "rows of the training set, augmentation included",
    "largest_eigenvalue": "largest eigenvalue of Θ(X, X)",
    "smallest_kept_eigenvalue": "smallest eigenvalue of Θ(X, X) above round-off",
    "rank": "eigenvalues of Θ(X, X) above round-off",
    "negative_eigenvalues": "negative eigenvalues of Θ(X, X)",
    "output_deviation": "share of the norm of an estimated kernel beside a multiple of the identity over outputs",
    "output_deviation_noise": "the same share expected from noise alone",
}
_TEXTS = {
    "route": "how the solution was computed; empty: there is none",
    "modes": "which eigenvalues of Θ(X, X) were computed",
    "warning": "warnings of the theory; empty: there is none",
}


def theory_variables(study: Study, stores: Mapping[str, ArmStores]) -> dict[str, Any]:
    """theory_…(arm): what the theory stores say of themselves; NaN or empty where an arm has no theory."""
    known = {study.arm(path).theory_key: here.theory for path, here in stores.items() if here.theory is not None}
    theories = [known[arm.theory_key] if arm.settings.has_mean else None for arm in study.arms]
    sizes = {key: _sizes(theory) for key, theory in known.items()}
    said = [
        {**theory.attrs, **sizes[arm.theory_key]} if theory is not None else {}
        for arm, theory in zip(study.arms, theories, strict=True)
    ]
    result: dict[str, Any] = {}
    for name, text in {**_NUMBERS, **_SIZES}.items():
        values = np.array([float(each.get(name, np.nan)) for each in said])
        result[f"theory_{name}"] = ("arm", values, {"long_name": text, "units": "1"})
    for name, text in _TEXTS.items():
        result[f"theory_{name}"] = ("arm", [str(each.get(name, "")) for each in said], {"long_name": text})
    return result


_SIZES = {
    "modes_computed": "eigenvalues of Θ(X, X) that were computed",
    "mean_error": "standard error of μ_t of an estimated kernel at the last step, root mean square",
    "mean_size": "μ_t at the last step, root mean square; where the kernel is estimated",
}


def _sizes(theory: xr.Dataset) -> dict[str, float]:
    """The numbers that follow from the arrays of a theory store."""
    result = {"modes_computed": float(theory.sizes["mode"])} if "mode" in theory.sizes else {}
    if "mean_error" in theory:
        for name, variable in (("mean_error", "mean_error"), ("mean_size", "mean")):
            result[name] = float(np.sqrt((theory[variable].isel(step=-1) ** 2).mean()))
    return result
