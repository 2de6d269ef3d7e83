"""The key numbers of a study of kind kernel_convergence in words; every number comes from its metrics."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from ..figures.words import mean_of, number
from ..fits import SEEN
from ..pages import page, provenance

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


def summary_html(study: Study, metrics: xr.Dataset) -> str:
    """The key numbers in words, as one self-contained HTML page. The same input gives the same text."""
    members = metrics["members"].values
    parts = [
        f"<h1>{html.escape(study.name)}: empirical against analytic kernels, "
        f"{mean_of(int(members.min()), int(members.max()))}</h1>",
        "<ul>\n" + "\n".join(f"<li>{claim}</li>" for claim in _claims(metrics)) + "\n</ul>",
        _table(metrics),
        f"<p class='note'>{_NOTE}</p>",
        *_published(metrics),
        *provenance(
            (name, metrics.attrs.get(name)) for name in ("network", "data_provenance", "versions", "git_commit")
        ),
    ]
    return page(f"{study.name}: convergence of kernels", parts)


def _claims(metrics: xr.Dataset) -> Iterator[str]:
    """One sentence per curve and kernel: from the narrowest to the widest network, the exponents, the bias."""
    for curve in metrics["curve"].values.astype(str):
        arms = metrics.isel(arm=np.flatnonzero(metrics["arm_curve"].values == curve)).sortby("network_width")
        for kind, words in KINDS.items():
            part = arms.sel(kind=kind)
            first, last = part.isel(arm=0), part.isel(arm=-1)
            ends = [first, last] if part.sizes["arm"] > 1 else [last]
            text = f"<b>{html.escape(curve)}, {words}</b>: one network is "
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
    return f" (∝ width<sup>x</sup>, x = {number(value, error)})" if np.isfinite(value) else ""


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


def _number(one: xr.Dataset, name: str, compact: bool = False) -> str:
    return number(one[name].item(), one[f"{name}_se"].item(), compact=compact)


def _rows(heads: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """An HTML table of texts; the first column is set as text."""
    lines = ["<tr>" + "".join(f"<th{' class=text' * (i == 0)}>{h}</th>" for i, h in enumerate(heads)) + "</tr>"]
    for row in rows:
        cells = (f"<td{' class=text' * (i == 0)}>{html.escape(str(c))}</td>" for i, c in enumerate(row))
        lines.append("<tr>" + "".join(cells) + "</tr>")
    return "<div class='scroll'><table>\n" + "\n".join(lines) + "\n</table></div>"


def _table(metrics: xr.Dataset) -> str:
    names = ("member_error", "relative_error", "noise", "squared_bias")
    rows = []
    for arm in metrics["arm"].values:
        for kind, words in KINDS.items():
            one = metrics.sel(arm=arm, kind=kind)
            cells = [number(one[n].item()) if n == "noise" else _number(one, n, compact=True) for n in names]
            rows.append([one["arm_curve"].item(), one["network_width"].item(), words, one["members"].item(), *cells])
    heads = ["curve", "width", "kernel", "networks", "one network", "mean kernel", "noise", "squared bias"]
    return f"<h2>All arms</h2>\n{_rows(heads, rows)}"


def _published(metrics: xr.Dataset) -> list[str]:
    """Published values beside those of the curve of that name at that width."""
    if "published_value" not in metrics:
        return []
    rows = []
    for p in range(metrics.sizes["published"]):
        one = metrics.isel(published=p)
        label, kind, width = (one[f"published_{name}"].item() for name in ("label", "kind", "width"))
        value = one["published_value"].item()
        alike = (metrics["arm_curve"].values == label) & (metrics["network_width"].values == width)
        ours = ["–"] * 3
        if alike.any():
            arm = metrics.isel(arm=int(np.flatnonzero(alike)[0])).sel(kind=kind)
            networks = arm["members"].item() * (arm["noise"].item() / value) ** 2
            ours = [*(_number(arm, name) for name in ("relative_error", "entrywise_error")), f"{networks:.2g}"]
        rows.append([label, KINDS[kind], width, f"{value:g}", *ours, one["published_source"].item()])
    heads = ["curve", "kernel", "width", "published", "here", "here, mean over entries", "networks", "source"]
    text = (
        "Such values depend on how many networks are averaged. Networks: the number whose noise alone would be the "
        "published value, by the scatter measured here."
    )
    return [f"<h2>Beside published values</h2>\n<p>{text}</p>\n{_rows(heads, rows)}"]
