"""The key numbers of a study of kind kernel_regression in words; every number comes from its metrics."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from ..figures.words import number, substitutes, times_words
from ..pages import page, provenance

if TYPE_CHECKING:
    import xarray as xr

    from ..study import Study

#: Metric → (in words, whether more of it is better).
WORDS = {"accuracy": ("accuracy", True), "mse": ("mean squared error", False)}

_NOTE = (
    "± one standard error, of a mean over the repeats (random choices of training samples, the same for all kernels) "
    "and over the test samples. Both choices are in it: the spread between training sets (an upper bound where these "
    "overlap: where repeats times n is more than task.train) and between test samples; tables/learning_curves.csv has "
    "them apart. "
    "Differences are taken on the same training sets and test samples, so that their errors are smaller. "
    "0.0134(10) means 0.0134 ± 0.0010."
)


def summary_html(study: Study, metrics: xr.Dataset) -> str:
    """The key numbers in words, as one self-contained HTML page. The same input gives the same text."""
    metric = "accuracy" if "accuracy" in metrics else "mse"
    time, said = metrics["time"].values.max(), metrics.attrs
    parts = [
        f"<h1>{html.escape(study.name)}: learning curves {times_words(time)}</h1>",
        *(f"<p><b>Substitute data</b>: {html.escape(text)}.</p>" for text in substitutes(said["data_provenance"])),
        *_claims(metrics, metric, time),
        *(_table(metrics, name, t) for name in WORDS if name in metrics for t in metrics["time"].values[::-1]),
        f"<p class='note'>{_NOTE}</p>",
        *_published(metrics),
        *_conditioning(metrics),
        *provenance((name, said.get(name)) for name in ("data_provenance", "versions", "git_commit")),
    ]
    return page(f"{study.name}: learning curves", parts)


def _claims(metrics: xr.Dataset, metric: str, time: float) -> list[str]:
    """Every kernel against the first one of the study, at the least and the greatest number of training samples."""
    words, more = WORDS[metric]
    first, *others = (str(arm) for arm in metrics["arm"].values)
    label = {
        str(a): html.escape(str(name))
        for a, name in zip(metrics["arm"].values, metrics["arm_label"].values, strict=True)
    }
    lines = []
    for size in dict.fromkeys([metrics["size"].values.max(), metrics["size"].values.min()]):
        at = {"size": size, "time": time}
        said = [f"{label[arm]} {_of(metrics, metric, arm=arm, **at)}" for arm in (first, *others)]
        line = f"<b>With {size} training samples</b> the {words} is: {', '.join(said)}."
        pairs = [f"{label[arm]} {text}" for arm in others if (text := _against(metrics, metric, more, arm, first, at))]
        lines.append(
            line + (f" On the same training sets, against {label[first]}: {'; '.join(pairs)}." if pairs else "")
        )
    return ["<ul>\n" + "\n".join(f"<li>{line}</li>" for line in lines) + "\n</ul>"]


def _against(metrics: xr.Dataset, metric: str, more: bool, arm: str, first: str, at: dict[str, Any]) -> str:
    """One kernel against another in words; empty where they do not share their training sets."""
    pair = {"arm": arm, "arm_": first, **at}
    value = float(metrics[f"{metric}_difference"].sel(pair))
    error = float(metrics[f"{metric}_difference_se"].sel(pair))
    if not np.isfinite(value):
        return ""
    if not abs(value) > 2 * error:
        return f"no clear difference ({number(round(value, 12), error)})"
    return f"{'better' if (value > 0) == more else 'worse'} by {number(abs(value), error)}"


def _of(metrics: xr.Dataset, name: str, compact: bool = False, **at: Any) -> str:
    return number(float(metrics[name].sel(at)), float(metrics[f"{name}_se"].sel(at)), compact=compact)


def _rows(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """An HTML table; the first column is text."""
    lines = ["<tr>" + "".join(f"<th{' class=text' * (i == 0)}>{h}</th>" for i, h in enumerate(heads)) + "</tr>"]
    for row in rows:
        lines.append("<tr>" + "".join(f"<td{' class=text' * (i == 0)}>{c}</td>" for i, c in enumerate(row)) + "</tr>")
    return "<div class='scroll'><table>\n" + "\n".join(lines) + "\n</table></div>"


def _table(metrics: xr.Dataset, name: str, time: float) -> str:
    """One row per kernel, one column per number of training samples."""
    sizes = metrics["size"].values
    rows = [
        [html.escape(str(label)), *(_of(metrics, name, compact=True, arm=arm, size=n, time=time) for n in sizes)]
        for arm, label in zip(metrics["arm"].values, metrics["arm_label"].values, strict=True)
    ]
    title = f"<h2>{WORDS[name][0].capitalize()} {times_words(time)}</h2>"
    return f"{title}\n{_rows(['training samples', *map(str, sizes)], rows)}"


def _published(metrics: xr.Dataset) -> list[str]:
    """Published values beside those of the arm of that name at that size, at the last time."""
    if "published_value" not in metrics:
        return []
    labels = metrics["arm_label"].values.astype(str)
    rows = []
    for p in range(metrics.sizes["published"]):
        one = metrics.isel(published=p)
        metric, label, size = (one[f"published_{key}"].item() for key in ("metric", "label", "size"))
        ours = "–"
        if metric in metrics and label in labels and size in metrics["size"].values:
            arm = metrics["arm"].values[list(labels).index(label)]
            ours = _of(metrics, metric, arm=arm, size=size, time=metrics["time"].values.max())
        texts = (
            label,
            WORDS[metric][0],
            size,
            f"{one['published_value'].item():g}",
            ours,
            one["published_source"].item(),
        )
        rows.append([html.escape(str(text)) for text in texts])
    heads = ["kernel", "value of", "training samples", "published", "here", "source"]
    return [f"<h2>Beside published values</h2>\n{_rows(heads, rows)}"]


def _conditioning(metrics: xr.Dataset) -> list[str]:
    """Modes kept and lost, per kernel at the greatest number of training samples it has."""
    rows = []
    for arm, label in zip(metrics["arm"].values, metrics["arm_label"].values, strict=True):
        one = metrics.sel(arm=arm)
        size = one["size"].values[np.isfinite(one["rank"].values).any(axis=1)].max()
        at = one.sel(size=size)
        ratio = float(at["largest_eigenvalue"].max() / at["smallest_kept_eigenvalue"].min())
        counts = (size, int(at["rank"].min()), int(at["negative_eigenvalues"].max()))
        texts = (str(label), *counts, f"{at['smallest_kept_eigenvalue'].min().item():.3g}", f"{ratio:.3g}")
        rows.append([html.escape(str(text)) for text in texts])
    heads = ["kernel", "training samples", "least rank", "most negative eigenvalues", "smallest kept eigenvalue"]
    text = "No ridge is added. At t = ∞ only the modes above round-off are fitted; the rank is their number."
    return [f"<h2>Conditioning</h2>\n<p>{text}</p>\n{_rows([*heads, 'largest over smallest'], rows)}"]
