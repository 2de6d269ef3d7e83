"""The key numbers of a study of kind kernel_regression in words; every number comes from its metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..figures.words import number, times_words
from ..report.content import Block, Cell, Points, Report, Section, Table, Text, cell

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


_THEORY = (
    "The mean of an ensemble of infinitely many, infinitely wide networks is kernel regression with their neural "
    "tangent kernel (NTK)."
)


def content(study: Study, metrics: xr.Dataset) -> Report:
    """What the page of the study says."""
    metric = "accuracy" if "accuracy" in metrics else "mse"
    time = metrics["time"].values.max()
    tables = [_table(metrics, name, t) for name in WORDS if name in metrics for t in metrics["time"].values[::-1]]
    return Report(
        title=f"learning curves {times_words(time)}",
        claim=_claim(metrics, metric, time),
        remarks=[],
        key_figure="learning_curves",
        sections=[
            Section(
                "theory",
                "Theory",
                [
                    Text(_THEORY),
                    *_conditioning(metrics),
                ],
            ),
            Section("ensembles", "Ensembles", [*_by_size(metrics, metric, time), *tables, Text(_NOTE, note=True)]),
            Section("controls", "Controls", _controls(metrics)),
            Section("failures", "Failures", [_failures(study, metrics)]),
        ],
    )


def _labels(metrics: xr.Dataset) -> dict[str, str]:
    """Arm → its name in words."""
    return dict(zip(metrics["arm"].values.astype(str), metrics["arm_label"].values.astype(str), strict=True))


def _claim(metrics: xr.Dataset, metric: str, time: float) -> str:
    """The result in one sentence: the best kernel at the greatest number of training samples, against the first."""
    words, more = WORDS[metric]
    label, at = _labels(metrics), {"size": metrics["size"].values.max(), "time": time}
    first = next(iter(label))
    values = {arm: float(metrics[metric].sel(arm=arm, **at)) for arm in label}
    known = {arm: value for arm, value in values.items() if np.isfinite(value)}
    if not known:
        return f"With {at['size']} training samples no kernel was measured."
    best = (max if more else min)(known, key=lambda arm: known[arm])
    start, found = f"With {at['size']} training samples", _of(metrics, metric, arm=best, **at)
    if len(known) == 1:
        return f"{start} the {words} of {label[best]} is **{found}**."
    rival = first if first != best and first in known else next(arm for arm in known if arm != best)
    start += f" {label[best]} has the best {words} of {len(known)} kernels, **{found}**"
    other = f"{label[rival]} ({_of(metrics, metric, arm=rival, **at)})"
    against = _against(metrics, metric, more, best, rival, at)
    if not against:
        return f"{start}; the other is {other}." if len(known) == 2 else f"{start}; {other} is the first of the study."
    return f"{start}: {against} {'than' if against.startswith('better') else 'to'} {other} on the same training sets."


def _by_size(metrics: xr.Dataset, metric: str, time: float) -> list[Block]:
    """Every kernel against the first one of the study, at the least and the greatest number of training samples."""
    words, more = WORDS[metric]
    label = _labels(metrics)
    first, *others = label
    lines = []
    for size in dict.fromkeys([metrics["size"].values.max(), metrics["size"].values.min()]):
        at = {"size": size, "time": time}
        said = [f"{label[arm]} {_of(metrics, metric, arm=arm, **at)}" for arm in (first, *others)]
        line = f"**With {size} training samples** the {words} is: {', '.join(said)}."
        pairs = [f"{label[arm]} {text}" for arm in others if (text := _against(metrics, metric, more, arm, first, at))]
        lines.append(
            line + (f" On the same training sets, against {label[first]}: {'; '.join(pairs)}." if pairs else "")
        )
    return [Points(lines)]


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


def _of(metrics: xr.Dataset, name: str, **at: Any) -> str:
    return number(float(metrics[name].sel(at)), float(metrics[f"{name}_se"].sel(at)))


def _table(metrics: xr.Dataset, name: str, time: float) -> Table:
    """One row per kernel, one column per number of training samples."""
    import pandas as pd

    sizes = metrics["size"].values
    rows: list[list[Cell | str | int]] = []
    data = []
    for arm, label in _labels(metrics).items():
        found = [[float(metrics[f"{name}{s}"].sel(arm=arm, size=n, time=time)) for s in ("", "_se")] for n in sizes]
        rows.append([label, *(cell(*pair) for pair in found)])
        data += [[label, int(n), *pair] for n, pair in zip(sizes, found, strict=True)]
    title = f"{WORDS[name][0].capitalize()} {times_words(time)}, by number of training samples"
    table = pd.DataFrame(data, columns=["kernel", "training_samples", name, f"{name}_se"])
    return Table(f"{name}_{time:g}", title, ["kernel", *(f"n = {n}" for n in sizes)], rows, table)


def _controls(metrics: xr.Dataset) -> list[Block]:
    """Published values beside those of the arm of that name at that size, at the last time."""
    import pandas as pd

    if "published_value" not in metrics:
        return [Text("The study quotes no published values to compare with.")]
    labels = metrics["arm_label"].values.astype(str)
    rows: list[list[Cell | str | int]] = []
    for p in range(metrics.sizes["published"]):
        one = metrics.isel(published=p)
        metric, label, size = (one[f"published_{key}"].item() for key in ("metric", "label", "size"))
        ours = cell(np.nan)
        if metric in metrics and label in labels and size in metrics["size"].values:
            at = {"arm": metrics["arm"].values[list(labels).index(label)], "size": size}
            at["time"] = metrics["time"].values.max()
            ours = Cell(_of(metrics, metric, **at), float(metrics[metric].sel(at)))
        value, source = one["published_value"].item(), str(one["published_source"].item())
        rows.append([str(label), WORDS[metric][0], int(size), Cell(f"{value:g}", value), ours, source])
    heads = ["kernel", "value of", "training samples", "published", "here", "source"]
    data = pd.DataFrame([[c.text if isinstance(c, Cell) else c for c in row] for row in rows], columns=heads)
    return [Table("published", "Beside published values", heads, rows, data)]


def _conditioning(metrics: xr.Dataset) -> list[Block]:
    """Modes kept and lost, per kernel at the greatest number of training samples it has."""
    import pandas as pd

    rows: list[list[Cell | str | int]] = []
    for arm, label in _labels(metrics).items():
        one = metrics.sel(arm=arm)
        size = one["size"].values[np.isfinite(one["rank"].values).any(axis=1)].max()
        at = one.sel(size=size)
        kept = at["smallest_kept_eigenvalue"].min().item()
        ratio = float(at["largest_eigenvalue"].max() / kept)
        counts = (int(size), int(at["rank"].min()), int(at["negative_eigenvalues"].max()))
        rows.append([label, *counts, Cell(f"{kept:.3g}", kept), Cell(f"{ratio:.3g}", ratio)])
    heads = ["kernel", "training samples", "least rank", "most negative eigenvalues", "smallest kept eigenvalue"]
    heads.append("largest over smallest")
    data = pd.DataFrame([[c.value if isinstance(c, Cell) else c for c in row] for row in rows], columns=heads)
    text = "No ridge is added. At t = ∞ only the modes above round-off are fitted; the rank is their number."
    return [Text(text), Table("conditioning", "Conditioning", heads, rows, data)]


def _failures(study: Study, metrics: xr.Dataset) -> Text:
    there = set(metrics["arm"].values.astype(str))
    lacking = [arm.path for arm in study.arms if arm.path not in there]
    return Text(f"Nothing is trained, so nothing can diverge. Arms not computed yet: {', '.join(lacking) or 'none'}.")
