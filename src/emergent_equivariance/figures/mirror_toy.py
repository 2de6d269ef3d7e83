"""The toy that explains the paper: a function of one number and its mirror image (group C2, x ↦ −x)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .panels import finish, grid, say
from .selection import Choice, choose, study_choices
from .stores import ArmStores, missing_members, theory_variance, without_theory
from .style import COLOURS, colour, styled
from .words import augmented, mean_of

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ..study import Study

_DASHED: dict[str, Any] = {"color": COLOURS["theory"], "lw": 1.0, "ls": (3, (3, 3))}


class _Line(NamedTuple):
    """Functions of one real input on a grid that is symmetric about 0; the last axis is the grid."""

    x: np.ndarray
    order: np.ndarray

    @classmethod
    def of(cls, stores: ArmStores) -> _Line:
        """The grid x ∪ −x of all evaluated inputs of a one-dimensional task."""
        inputs = stores.data["input"].sel(sample=stores.ensemble["sample"].values)
        signs = stores.data["input_sign"].values.reshape(-1)
        x = np.outer(np.asarray(inputs, dtype=float).reshape(-1), signs).reshape(-1)
        return cls(*np.unique(np.round(x, 12), return_index=True))

    def read(self, values: xr.DataArray) -> np.ndarray:
        """Values (…, sample, element) on the grid."""
        array = np.asarray(values.transpose(..., "sample", "element"), dtype=float)
        return array.reshape(*array.shape[:-2], -1)[..., self.order]


def _odd(curve: np.ndarray) -> np.ndarray:
    return curve - curve[..., ::-1]


@styled
def mirror(study: Study, stores: Mapping[str, ArmStores], *, steps: Sequence[int] | None = None) -> Figure:
    """f(x) of members, of their mean and of μ_t, with mirror images.

    Columns: without and with augmentation. Rows: an early and the last step (or ``steps``); below them
    f(x) − f(−x) at the last one, zero for a symmetric function. The vertical scales are those of targets and means:
    far outside the training interval single members leave the panels.

    Args:
      stores: stores by arm path, at least those of store_arms(study). Inputs are numbers; the second group
        element is x ↦ −x.
    """
    chosen = choose(choice for choice in study_choices(study) if choice.key in stores)
    arms = chosen.pair
    recorded = [int(s) for s in stores[chosen.main.key].ensemble["step"].values]
    positive = [s for s in recorded if s > 0]
    early = positive[(len(positive) - 1) // 2] if positive else recorded[0]
    rows = list(dict.fromkeys(steps if steps is not None else [early, recorded[-1]]))
    figure, axes = grid(len(arms), len(rows) + 1, heights=[0.85] * len(rows) + [0.62], sharex=True, sharey="row")
    notes = [without_theory(stores, arms), *missing_members(stores, arms)]
    for column, arm in zip(axes.T, arms, strict=True):
        here = stores[arm.key]
        if here.all_diverged:
            column[0].set_title(augmented(arm.augmentation))
            for ax in column:
                say(ax, here.all_diverged, centre=True)
            continue
        line = _Line.of(here)
        column[0].set_title(f"{augmented(arm.augmentation)}: {mean_of(here.members)}")
        for ax, step in zip(column, rows, strict=False):
            _function_panel(ax, here, line, step, arm)
        _asymmetry_panel(column[-1], here, line, rows[-1], arm)
        column[-1].set_xlabel("input $x$")
        if here.members == 1:
            notes.append("one member only: the mean is that member")
        if here.examples() is None:
            notes.append("no single members were kept: not drawn")
    unit = study.arm(chosen.main.key).settings.training.unit
    for ax, step in zip(axes[:, 0], rows, strict=False):
        ax.set_ylabel(f"$f(x)$ at {unit} {step}")
    axes[-1, 0].set_ylabel(f"$f(x) - f(-x)$\nat {unit} {rows[-1]}")
    drawn = [stores[arm.key] for arm in arms if not stores[arm.key].all_diverged]
    if drawn:
        _scale(axes, drawn, rows)
    return finish(figure, f"{study.name} · {chosen.main.size}", notes)


def _scale(axes: np.ndarray, stores: Sequence[ArmStores], rows: Sequence[int]) -> None:
    """Vertical scales of targets and ensemble means, not of members far outside the training interval."""
    means = [here.ensemble["mean"].sel(step=list(rows)).isel(output=0) for here in stores]
    lines = [_Line.of(here) for here in stores]
    values = [line.read(mean).ravel() for line, mean in zip(lines, means, strict=True)]
    values += [here.data["target"].values.ravel() for here in stores]
    low, high = (bound(np.concatenate(values)) for bound in (np.nanmin, np.nanmax))
    for ax in axes[:-1, 0]:
        ax.set_ylim(low - 0.3 * (high - low), high + 0.3 * (high - low))
    odd = [_odd(line.read(mean.sel(step=rows[-1]))) for line, mean in zip(lines, means, strict=True)]
    greatest = 1.3 * max(float(np.nanmax(np.abs(curve))) for curve in odd)
    if greatest > 0:
        axes[-1, 0].set_ylim(-greatest, greatest)


def _function_panel(ax: Axes, stores: ArmStores, line: _Line, step: int, arm: Choice) -> None:
    theory, examples = stores.comparable_theory, stores.examples()
    _shade_outside(ax, stores.data, line)
    if theory is not None:
        mean = line.read(theory["mean"].sel(step=step).isel(output=0))
        variance = theory_variance(theory)
        if variance is not None:
            spread = 2 * np.sqrt(line.read(variance.sel(step=step)))
            label = r"theory, $\mu_t \pm 2\sigma_t$ of a member"
            band: dict[str, Any] = {"color": COLOURS["member"], "alpha": 0.2, "lw": 0, "label": label}
            ax.fill_between(line.x, mean - spread, mean + spread, **band)
    if examples is not None:
        for curve in line.read(examples.sel(step=step).isel(output=0)):
            ax.plot(line.x, curve, color=COLOURS["member"], lw=0.7, label="single members", zorder=2)
    curve = line.read(stores.ensemble["mean"].sel(step=step).isel(output=0))
    label = f"ensemble mean, {augmented(arm.augmentation)}"
    ax.plot(line.x, curve, color=colour(arm.augmentation), lw=2.6, label=label, zorder=3, solid_capstyle="butt")
    image: dict[str, Any] = {"color": COLOURS["mirror"], "lw": 1.4, "ls": (0, (3, 3)), "zorder": 5}
    ax.plot(line.x, curve[::-1], label="its mirror image, $f(-x)$", **image)
    if theory is not None:
        ax.plot(line.x, mean, label=stores.mean_label, zorder=4, **_DASHED)
    train = stores.data["split"].values == "train"
    x, y = (stores.data[name].values.reshape(len(train), -1)[train, 0] for name in ("input", "target"))
    black: dict[str, Any] = {"marker": "o", "ls": "none", "ms": 3.6, "zorder": 6, "mec": "black", "mew": 0.7}
    ax.plot(x, y, mfc="black", label="training points", **black)
    if arm.augmentation != "none":
        ax.plot(-x, y, mfc="white", label="added by augmentation", **black)


def _asymmetry_panel(ax: Axes, stores: ArmStores, line: _Line, step: int, arm: Choice) -> None:
    theory, examples = stores.comparable_theory, stores.examples()

    def odd(values: xr.DataArray) -> np.ndarray:
        return _odd(line.read(values.sel(step=step).isel(output=0)))

    _shade_outside(ax, stores.data, line)
    if examples is not None:
        for curve in odd(examples):
            ax.plot(line.x, curve, color=COLOURS["member"], lw=0.7, zorder=2)
    if theory is not None:
        centre = odd(theory["mean"])
        if "orbit_covariance" in theory:
            block = theory["orbit_covariance"].sel(step=step).transpose("sample", "element", "element_").values
            variance = block[:, 0, 0] + block[:, 1, 1] - 2 * block[:, 0, 1]
            both = np.repeat(variance[:, None], block.shape[1], axis=1).reshape(-1)[line.order]
            spread = 2 * np.sqrt(np.maximum(both, 0) / stores.members)
            label = r"theory, $\mu_t \pm 2$ standard errors of the mean"
            band: dict[str, Any] = {"color": COLOURS["theory"], "alpha": 0.25, "lw": 0, "label": label, "zorder": 3}
            ax.fill_between(line.x, centre - spread, centre + spread, **band)
        ax.plot(line.x, centre, zorder=5, **_DASHED)
    ax.axhline(0, color=COLOURS["guide"], lw=0.6, zorder=1)
    ax.plot(line.x, odd(stores.ensemble["mean"]), color=colour(arm.augmentation), lw=1.6, zorder=4)


def _shade_outside(ax: Axes, data: xr.Dataset, line: _Line) -> None:
    """Shade the inputs beyond those of the splits train and test."""
    inside = ~np.char.startswith(data["split"].values.astype(str), "ood-")
    edge = np.abs(data["input"].values.reshape(len(inside), -1)[inside, 0]).max()
    if line.x[-1] > edge:
        for low, high in ((line.x[0], -edge), (edge, line.x[-1])):
            ax.axvspan(low, high, color=COLOURS["outside"], lw=0, zorder=0, label="out of distribution")
    ax.set_xlim(line.x[0], line.x[-1])
