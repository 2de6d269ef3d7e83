"""The kind kernel_convergence: empirical kernels of finite networks at initialisation against the analytic ones.

In the limit of infinite width E Θ̂ = Θ and E K̂ = K (Jacot et al. 2018; of group-convolutional networks Misof et al.
2025). The distance of the mean over M networks from that limit has two parts: the bias of finite width, and the noise
of a finite mean, ∝ 1/√(width · M). ``kernel_errors`` tells them apart.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np
import pandas as pd
from xarray import Dataset

from ..augmentation import stream
from ..canonicalisation import seen_inputs
from ..empirical import MemberKernels, member_kernels
from ..errors import StudyError
from ..fits import Series, power_law, root_power_law
from ..kernels import Progress, gram
from ..networks import build_network, initial_parameters
from ..settings import AnalyticNetwork, Convergence, ConvergenceSettings
from ..summary import arm_labels, swept_coordinates, with_labels
from ..tasks.base import TaskData
from .convergence_words import content
from .kernel_errors import NAMES, kernel_errors
from .published import with_published

if TYPE_CHECKING:
    from ..study import Arm, Study

__all__ = ["content", "join", "measure", "tables"]

#: Philox stream of the bootstrap; see augmentation.stream.
STREAM_BOOTSTRAP = 64

KINDS = list(MemberKernels._fields)

#: Fitted power of the width → of which quantity.
EXPONENTS = {
    "relative_error": "relative error of the mean kernel",
    "member_error": "relative error of the kernel of one network",
    "bias": "root of the squared bias",
}

# ----------------------------------------------------------------------------------------------- one arm


def measure(
    settings: ConvergenceSettings,
    data: TaskData,
    *,
    kernels: Dataset | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """The store of one arm (docs/layout.md).

    Args:
      settings: the arm.
      data: the task; the first ``convergence.inputs`` inputs of the split test are used.
      kernels: not used, the analytic kernels between so few inputs are computed here.
      progress: called with (pairs of inputs finished, pairs in all).

    Returns:
      kernel(member, kind, input, input_), analytic(kind, input, input_); kind is nngp (averaged exactly over the
      readout's weights) or ntk, input the index of the input in the data store.

    Raises StudyError if there are too few inputs, UserError where an analytic kernel is not finite, RuntimeError
    without 64-bit jax.
    """
    if jax.numpy.result_type(float) != np.float64:
        raise RuntimeError("Empirical kernels are averaged in 64 bits: set jax_enable_x64 in the process that does so.")
    section = settings.convergence
    chosen = np.flatnonzero(data.split == "test")[: section.inputs]
    if len(chosen) < section.inputs:
        raise StudyError(
            f"convergence.inputs: {section.inputs} inputs, but the split test has {len(chosen)}.",
            remedy="Lower it, or make the task larger.",
        )
    settings.network.check_input(data.input_action.shape, data.input_action.group.name)
    network = build_network(settings.network, data.input_action.shape, data.target.shape[1])
    x, memory = seen_inputs(settings.network, data, chosen), settings.execution.block_memory
    analytic = np.stack(gram(network, x, memory=memory, threads=settings.execution.kernel_threads))
    samples = np.empty((section.members, *analytic.shape))
    pairs = len(x) * (len(x) + 1) // 2
    for member in range(section.members):
        parameters = initial_parameters(network, section.seed, member)
        samples[member] = np.stack(member_kernels(network, parameters, x, memory=memory))
        if progress is not None:
            progress((member + 1) * pairs, section.members * pairs)
    dims = ("kind", "input", "input_")
    return Dataset(
        {
            "kernel": (
                ("member", *dims),
                samples,
                {"long_name": "kernel of one network at initialisation, per output"},
            ),
            "analytic": (dims, analytic, {"long_name": "kernel of the infinitely wide network, per output"}),
        },
        {"member": np.arange(section.members), "kind": KINDS, "input": chosen, "input_": chosen},
        {
            "network": network.description,
            "parameters": network.parameters,
            "outputs": network.outputs,
            "data_provenance": json.dumps(data.provenance),
        },
    )


# -------------------------------------------------------------------------------------------------- join


def join(study: Study, datasets: Sequence[Dataset]) -> Dataset:
    """metrics.nc: all arms of a study in one dataset.

    Args:
      datasets: results of ``measure``, one per arm, in the order of ``study.arms``.

    Returns:
      Of ``kernel_errors.NAMES`` each NAME(arm, kind) with NAME_se, noise(arm, kind), members(arm); of EXPONENTS each
      NAME_exponent(curve, kind) with NAME_exponent_se, fitted over the widths of a curve. Arms are labelled by their
      folder, by every swept key (see ``summary.swept_coordinates``), by network_width and by arm_curve: arms that
      differ in width alone are one curve. Where the study gives published values, published_value(published) with
      coordinates published_label, …_kind, …_width, …_source.

    Raises ValueError if there is not one dataset per arm.
    """
    if len(datasets) != len(study.arms):
        raise ValueError(f"{len(study.arms)} arms but {len(datasets)} datasets")
    found = [_of_arm(arm, dataset) for arm, dataset in zip(study.arms, datasets, strict=True)]
    result = Dataset(coords={"arm": [arm.path for arm in study.arms], "kind": KINDS})
    for name, words in {**NAMES, "noise": "relative error of the mean kernel by the number of networks alone"}.items():
        values = np.array([[kind[name] for kind in arm] for arm in found])  # (arm, kind, value or error)
        result[name] = (("arm", "kind"), values[..., 0], {"long_name": words, "units": "1"})
        if name in NAMES:
            attributes = {"long_name": f"standard error of: {words}", "units": "1"}
            result[f"{name}_se"] = (("arm", "kind"), values[..., 1], attributes)
    result["members"] = ("arm", [dataset.sizes["member"] for dataset in datasets], {"long_name": "networks averaged"})
    result = result.assign_coords(
        arm_curve=("arm", [_curve(arm) for arm in study.arms]),
        network_width=("arm", [arm.settings.network.width for arm in study.arms]),
    )
    result = result.assign_coords(swept_coordinates(study, result)).merge(_exponents(result))
    result.attrs = {"study": study.name}
    for name in ("network", "data_provenance"):
        said = list(dict.fromkeys(str(dataset.attrs[name]) for dataset in datasets))
        result.attrs[name] = said[0] if len(said) == 1 else f"[{', '.join(said)}]"
    published = [value for arm in study.arms for value in _section(arm).published]
    return with_published(result, published, "relative error of the mean kernel, from the literature")


def _section(arm: Arm) -> Convergence:
    assert isinstance(arm.settings, ConvergenceSettings)
    return arm.settings.convergence


def _of_arm(arm: Arm, dataset: Dataset) -> list[dict[str, tuple[float, float]]]:
    """Statistics of one arm, per kind."""
    section = _section(arm)
    kernel = dataset["kernel"].transpose("kind", "member", "input", "input_").sel(kind=KINDS).values
    analytic = dataset["analytic"].transpose("kind", "input", "input_").sel(kind=KINDS).values
    return [
        kernel_errors(kernel[k], analytic[k], section.resamples, stream(section.seed, STREAM_BOOTSTRAP, k))
        for k in range(len(KINDS))
    ]


def _curve(arm: Arm) -> str:
    """What an arm shares with the arms that differ from it in width alone, in a few words."""
    others = {key: value for key, value in arm.coords.items() if key not in ("width", "network.width")}
    if len(others) == 1:
        return str(*others.values())
    assert isinstance(arm.settings.network, AnalyticNetwork)
    return ", ".join(f"{key} {value}" for key, value in others.items()) or arm.settings.network.activation


def _exponents(metrics: Dataset) -> Dataset:
    curves = list(dict.fromkeys(metrics["arm_curve"].values.tolist()))
    found = np.full((len(EXPONENTS), 2, len(curves), len(KINDS)), np.nan)
    for i, curve in enumerate(curves):
        arms = metrics.isel(arm=np.flatnonzero(metrics["arm_curve"].values == curve)).sortby("network_width")
        width = arms["network_width"].values.astype(float)
        for k, kind in enumerate(KINDS):
            for e, name in enumerate(EXPONENTS):
                source = "squared_bias" if name == "bias" else name
                series = Series(width, *(arms[n].sel(kind=kind).values for n in (source, f"{source}_se")))
                found[e, :, i, k] = root_power_law(series) if name == "bias" else power_law(series)
    result = Dataset(coords={"curve": curves, "kind": KINDS})
    for e, (name, words) in enumerate(EXPONENTS.items()):
        for suffix, values, what in zip(("", "_se"), found[e], ("", "standard error of: "), strict=True):
            said = {"long_name": f"{what}power of the width that fits: {words}", "units": "1"}
            result[f"{name}_exponent{suffix}"] = (("curve", "kind"), values, said)
    return result


def tables(study: Study, metrics: Dataset) -> dict[str, pd.DataFrame]:
    """Plain tables of the result of ``join``: name → table, for tables/NAME.csv.

    kernel_errors: one row per arm and kind. exponents: one per curve and kind. published: the published values.
    """
    by_arm = [name for name, variable in metrics.data_vars.items() if variable.dims == ("arm", "kind")]
    part = metrics[[*by_arm, "members"]]
    part = part.drop_vars([name for name, v in part.coords.items() if name not in v.dims])
    frame = part.to_dataframe(dim_order=["arm", "kind"]).reset_index()
    by_curve = [name for name, variable in metrics.data_vars.items() if variable.dims == ("curve", "kind")]
    result = {
        "kernel_errors": with_labels(frame, arm_labels(metrics)),
        "exponents": metrics[by_curve]
        .to_dataframe(dim_order=["curve", "kind"])
        .reset_index()[["curve", "kind", *by_curve]],
    }
    if "published_value" in metrics:
        columns = [f"published_{name}" for name in ("label", "kind", "width", "value", "source")]
        table = metrics[columns].to_dataframe()[columns]
        result["published"] = table.rename(columns=lambda name: name.removeprefix("published_"))
    return result
