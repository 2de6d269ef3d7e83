"""The key numbers of a study of kind kernel_convergence in words; every number comes from its metrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ..figures.words import mean_of, number
from ..fits import SEEN
from ..report.content import Block, Cell, Points, Report, Section, Table, Text, cell

if TYPE_CHECKING:
    import xarray as xr

    from ..study import Study

#: Kernel → in words.
KINDS = {"ntk": "NTK", "nngp": "NNGP"}

_NOTE = (
    "Relative errors in the Frobenius norm over all pairs of inputs, at initialisation, per output; the NNGP is "
    "averaged exactly over the readout's weights. One network: mean over networks. Mean kernel: error of the mean over "
    "all networks. Noise: what that error would be by their number alone. Squared bias: the square of the mean "
    "kernel's error without the noise, a U-statistic that may be negative; it estimates that of infinitely many "
    "networks of this width. ± one standard error, bootstrap over networks; 0.0134(10) means 0.0134 ± 0.0010."
)


_THEORY = (
    "Infinitely wide networks at initialisation have the analytic NNGP kernel as covariance of their outputs and the "
    "analytic NTK. The kernels of finite networks scatter about their mean, and their mean differs from the analytic "
    "kernel by a bias that vanishes with increasing width."
)


def content(study: Study, metrics: xr.Dataset) -> Report:
    """What the page of the study says."""
    members = metrics["members"].values
    network = metrics.attrs.get("network")
    return Report(
        title=f"empirical against analytic kernels, {mean_of(int(members.min()), int(members.max()))}",
        claim=_claim(metrics),
        remarks=[],
        key_figure="kernel_convergence",
        sections=[
            Section(
                "theory",
                "Theory",
                [
                    Text(_THEORY),
                    *([Text(f"**Network**: {network}")] if network else []),
                ],
            ),
            Section(
                "ensembles", "Ensembles", [Points(list(_by_curve(metrics))), _table(metrics), Text(_NOTE, note=True)]
            ),
            Section("controls", "Controls", _controls(metrics)),
            Section("failures", "Failures", [_failures(study, metrics)]),
        ],
    )


def _claim(metrics: xr.Dataset) -> str:
    """The result in one sentence: the mean NTK of the widest networks of the first curve."""
    curve = str(metrics["curve"].values[0])
    arms = metrics.isel(arm=np.flatnonzero(metrics["arm_curve"].values == curve)).sortby("network_width")
    one = arms.sel(kind="ntk").isel(arm=-1)
    which = f" ({curve})" if metrics.sizes["curve"] > 1 else ""
    return (
        f"The mean NTK of {one['members'].item()} networks of width {one['network_width'].item()}{which} is "
        f"**{_number(one, 'relative_error')}** away from that of infinitely wide ones, relative to its norm, where "
        f"their number alone gives {number(one['noise'].item())}; one network is {_number(one, 'member_error')} away."
    )


def _by_curve(metrics: xr.Dataset) -> Iterator[str]:
    """One sentence per curve and kernel: from the narrowest to the widest network, the exponents, the bias."""
    for curve in metrics["curve"].values.astype(str):
        arms = metrics.isel(arm=np.flatnonzero(metrics["arm_curve"].values == curve)).sortby("network_width")
        for kind, words in KINDS.items():
            part = arms.sel(kind=kind)
            first, last = part.isel(arm=0), part.isel(arm=-1)
            ends = [first, last] if part.sizes["arm"] > 1 else [last]
            text = f"**{curve}, {words}**: one network is "
            text += " and ".join(
                f"{_number(one, 'member_error')} at width {one['network_width'].item()}" for one in ends
            )
            text += " away from the infinitely wide one" + _power(part, curve, "member_error")
            text += "; the mean kernel " + " and ".join(
                f"{_number(one, 'relative_error')} (noise alone: {number(one['noise'].item())})" for one in ends
            )
            yield text + _power(part, curve, "relative_error") + f". {_bias(part, curve)}."


def _power(part: xr.Dataset, curve: str, name: str) -> str:
    value, error = (part[f"{name}_exponent{suffix}"].sel(curve=curve).item() for suffix in ("", "_se"))
    return f" (∝ widthˣ, x = {number(value, error)})" if np.isfinite(value) else ""


def _bias(part: xr.Dataset, curve: str) -> str:
    """At which widths a bias is seen, or below what it must be."""
    square, error = part["squared_bias"].values, part["squared_bias_se"].values
    seen = square > SEEN * error
    widths = part["network_width"].values
    if seen.any():
        found = ", ".join(f"{number(np.sqrt(s))} at width {w}" for s, w in zip(square[seen], widths[seen], strict=True))
        return f"A bias of finite width is seen: {found}" + _power(part, curve, "bias")
    limit = np.sqrt(np.maximum(square, 0.0) + 2 * error)
    said = ", ".join(f"{number(bound)} at width {w}" for bound, w in zip(limit, widths, strict=True))
    return f"No bias of finite width is seen beyond the noise; at two standard errors it is below {said}"


def _number(one: xr.Dataset, name: str) -> str:
    return number(one[name].item(), one[f"{name}_se"].item())


def _table(metrics: xr.Dataset) -> Table:
    import pandas as pd

    names = ("member_error", "relative_error", "noise", "squared_bias")
    rows: list[list[Cell | str | int]] = []
    data = []
    for arm in metrics["arm"].values:
        for kind, words in KINDS.items():
            one = metrics.sel(arm=arm, kind=kind)
            known = [one["arm_curve"].item(), int(one["network_width"].item()), words, int(one["members"].item())]
            values = {
                f"{name}{suffix}": one[f"{name}{suffix}"].item()
                for name in names
                for suffix in ("", "_se")
                if f"{name}{suffix}" in one
            }
            rows.append([*known, *(cell(values[name], values.get(f"{name}_se", np.nan)) for name in names)])
            data.append(dict(zip(("curve", "width", "kernel", "networks"), known, strict=True)) | values)
    heads = ["curve", "width", "kernel", "networks", "one network", "mean kernel", "noise", "squared bias"]
    return Table("key_numbers", "All arms: distance from the analytic kernels", heads, rows, pd.DataFrame(data))


def _controls(metrics: xr.Dataset) -> list[Block]:
    """Published values beside those of the curve of that name at that width."""
    import pandas as pd

    if "published_value" not in metrics:
        return [Text("The study quotes no published values to compare with.")]
    rows: list[list[Cell | str | int]] = []
    for p in range(metrics.sizes["published"]):
        one = metrics.isel(published=p)
        label, kind, width = (one[f"published_{name}"].item() for name in ("label", "kind", "width"))
        value = one["published_value"].item()
        alike = (metrics["arm_curve"].values == label) & (metrics["network_width"].values == width)
        ours = [cell(np.nan)] * 3
        if alike.any():
            arm = metrics.isel(arm=int(np.flatnonzero(alike)[0])).sel(kind=kind)
            networks = arm["members"].item() * (arm["noise"].item() / value) ** 2
            measured = (Cell(_number(arm, name), arm[name].item()) for name in ("relative_error", "entrywise_error"))
            ours = [*measured, Cell(f"{networks:.2g}", networks)]
        source = str(one["published_source"].item())
        rows.append([str(label), KINDS[kind], int(width), Cell(f"{value:g}", value), *ours, source])
    heads = ["curve", "kernel", "width", "published", "here", "here, mean over entries", "networks", "source"]
    data = pd.DataFrame([[c.text if isinstance(c, Cell) else c for c in row] for row in rows], columns=heads)
    text = (
        "Such values depend on how many networks are averaged. Networks: the number whose noise alone would be the "
        "published value, by the scatter measured here."
    )
    return [Text(text), Table("published", "Beside published values", heads, rows, data)]


def _failures(study: Study, metrics: xr.Dataset) -> Text:
    there = set(metrics["arm"].values.astype(str))
    lacking = [arm.path for arm in study.arms if arm.path not in there]
    return Text(f"Nothing is trained, so nothing can diverge. Arms not computed yet: {', '.join(lacking) or 'none'}.")
