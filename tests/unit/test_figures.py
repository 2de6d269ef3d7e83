"""Pictures and key numbers follow the data they are given: drawn artists and words against the datasets."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.text import Text
from report_pages import words as report_words
from synthetic_results import (
    classification_study,
    cosine_study,
    diverge,
    make_metrics,
    make_stores,
    make_study,
    make_whole,
)

from emergent_equivariance import figures, report
from emergent_equivariance.figures import FIGURES, figure_data, gallery, selection
from emergent_equivariance.figures.panels import italic, legend_entries
from emergent_equivariance.figures.selection import (
    Choice,
    choose,
    full_ensemble,
    metrics_choices,
    read_series,
)
from emergent_equivariance.figures.style import COLUMN, PAGE, ensemble_look, theory_look
from emergent_equivariance.figures.words import element_text, number
from emergent_equivariance.fits import Series, power_law
from emergent_equivariance.pages import source_of
from emergent_equivariance.predictions import ArmStores, with_stores
from emergent_equivariance.study import load_study
from emergent_equivariance.study.choice import store_arms
from emergent_equivariance.study.products import PICTURES

ROOT = Path(__file__).parents[2]
PREDICTIONS = ("mirror", "orbit_profile")  # the pictures of predictions
FULL, NONE = "width~256/augmentation~full", "width~256/augmentation~none"


@pytest.fixture(scope="module")
def study():
    return make_study()


@pytest.fixture
def metrics(study):
    return make_metrics(study)


def labelled(ax, start):
    """Lines (those of error-bar plots too) whose legend entry starts with ``start``."""
    found = [line for line in ax.lines if str(line.get_label()).startswith(start)]
    return found + [bar.lines[0] for bar in ax.containers if str(bar.get_label()).startswith(start)]


def bars(ax, start):
    """Half lengths of the error bars whose legend entry starts with ``start``."""
    (container,) = [c for c in ax.containers if str(c.get_label()).startswith(start)]
    (segments,) = container.lines[2]
    return np.array([(s[1, 1] - s[0, 1]) / 2 for s in segments.get_segments()])


def words(figure):
    """All text of a figure: titles, notes, legends, panel texts."""
    texts = [text.get_text() for ax in figure.axes for text in (*ax.texts, ax.title)]
    legends = [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return "\n".join([figure.get_suptitle(), *texts, *legends])


# ------------------------------------------------------------------------------------- choice of pictures


def test_figure_names_of_the_ising_study():
    names = figures.figure_names(load_study(ROOT / "config" / "ising.yaml"))
    assert names == ["orbit_scaling", "orbit_in_time", "measured_over_predicted", "distance_to_ntk", "orbit_profile"]


def test_figure_names_follow_loss_task_and_theory():
    assert figures.figure_names(classification_study()) == [
        "orbit_scaling",
        "orbit_in_time",
        "same_predictions",
        "orbit_profile",
    ]
    assert "mirror" in figures.figure_names(cosine_study())
    fresh = figures.figure_names(make_study(augmentation="random", sweep={"network.width": [8, 16]}))
    assert "distance_to_ntk" in fresh and "measured_over_predicted" not in fresh
    without = figures.figure_names(make_study(theory={"mean": False}))
    assert without == ["orbit_scaling", "orbit_in_time", "orbit_profile"]


def test_planning_imports_nothing_heavy():
    code = (
        "import sys; from emergent_equivariance import figures; from emergent_equivariance.study import load_study;"
        f"figures.figure_names(load_study({str(ROOT / 'config' / 'ising.yaml')!r}));"
        "print([m for m in ('matplotlib', 'xarray', 'jax', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_choice_takes_the_widest_fully_augmented_arm_and_its_control():
    arms = [Choice(f"{w}-{a}", w, a) for w in (64, 128) for a in ("none", "subset-2", "full")]
    others = [Choice("other network", 256, "full", ("GCNN",)), Choice("second seed", 128, "full")]
    chosen = choose([*arms, *others])
    assert (chosen.main.key, chosen.control.key) == ("128-full", "128-none")
    assert [a.key for a in chosen.others] == ["128-subset-2"]
    assert [a.width for a in chosen.widths] == [64, 128]
    alone = choose(arms[:1])
    assert alone.main.key == "64-none" and alone.control is None
    with pytest.raises(ValueError, match="no arm"):
        choose([])


def test_stores_of_main_and_control_enter_the_metrics(study):
    assert [arm.path for arm in store_arms(study)] == [NONE, FULL]


# -------------------------------------------------------------------------------------------- orbit_scaling


def test_orbit_scaling_draws_data_prediction_and_errors(study, metrics):
    figure = figures.orbit_scaling(metrics)
    names = ["training inputs", "test inputs", "out-of-distribution inputs (gaussian)"]
    for ax, name in zip(figure.axes, names, strict=True):
        assert ax.get_title().replace("\n", " ").startswith(f"{name} slope")
    last = metrics.isel(step=-1)
    for ax, split in zip(figure.axes, metrics["split"].values, strict=True):
        assert ax.get_xscale() == ax.get_yscale() == "log"
        here = last.sel(split=split)
        predicted = {tuple(line.get_ydata()) for line in labelled(ax, "predicted")}
        assert predicted == {tuple(np.sqrt(here["predicted_orbit_variance"].sel(arm=a).values)) for a in (FULL, NONE)}
        for start, arm in (("ensemble mean, full", FULL), ("ensemble mean, no", NONE)):
            value, error = (here[k].sel(arm=arm).values for k in ("orbit_variance", "orbit_variance_se"))
            (points,) = labelled(ax, start)
            np.testing.assert_allclose(points.get_xdata(), metrics["member_count"])
            np.testing.assert_allclose(points.get_ydata(), np.sqrt(value))
            np.testing.assert_allclose(bars(ax, start), error / (2 * np.sqrt(value)))
        (guide,) = labelled(ax, "slope")
        x, y = guide.get_data()
        assert np.log(y[1] / y[0]) / np.log(x[1] / x[0]) == pytest.approx(-0.5)
        member = np.sqrt(here["member_orbit_variance"].sel(arm=FULL).values)
        (band,) = [c for c in ax.collections if str(c.get_label()).startswith("single members")]
        heights = band.get_paths()[0].vertices[:, 1]
        assert heights.max() == pytest.approx(member.mean() + member.std())
        assert heights.min() == pytest.approx(max(member.mean() - member.std(), member.min()))


def test_drawing_logs_nothing(metrics, caplog):
    for name in ("orbit_scaling", "distance_to_ntk"):
        FIGURES[name].draw(metrics).canvas.draw()
    assert caplog.records == []


def test_orbit_scaling_says_slope_and_ratio(metrics):
    at = {"arm": FULL, "split": "test", "step": 300}
    metrics["orbit_slope"].loc[at], metrics["orbit_slope_se"].loc[at] = -0.4567, 0.0123
    metrics["orbit_variance_ratio"].loc[at], metrics["orbit_variance_ratio_se"].loc[at] = 0.876, 0.034
    text = words(figures.orbit_scaling(metrics))
    assert "slope −0.457(12)" in text and "variance 0.876(34)" in text


def test_orbit_scaling_without_control_or_theory_says_so():
    study = classification_study(sweep={"augmentation": ["full"]})
    figure = figures.orbit_scaling(make_metrics(study))
    text = words(figure)
    assert "no arm without augmentation" in text and "no prediction" in text and "epoch 12" in text
    assert not labelled(figure.axes[0], "predicted") and not labelled(figure.axes[0], "ensemble mean, no")


def test_orbit_scaling_without_augmented_arm_draws_the_control():
    figure = figures.orbit_scaling(make_metrics(make_study(sweep={"network.width": [64]})))
    assert "no augmented arm" in words(figure)
    assert labelled(figure.axes[0], "ensemble mean, no augmentation")


def test_single_member_draws_a_point_and_says_so():
    metrics = make_metrics(make_study(ensemble={"members": 1}))
    figure = figures.orbit_scaling(metrics)
    assert "one member only" in words(figure) and "slope −" not in words(figure)
    (points,) = labelled(figure.axes[0], "ensemble mean, full")
    assert list(points.get_xdata()) == [1]
    assert not [c for c in figure.axes[0].collections if str(c.get_label()).startswith("single members")]


def test_other_swept_keys_are_fixed_at_their_first_value():
    study = make_study(sweep={"augmentation": ["none", "full"], "ensemble.seed": [7, 8]})
    metrics = make_metrics(study)
    figure = figures.orbit_scaling(metrics)
    assert "seed = 7 (the first of 2)" in words(figure)
    expected = np.sqrt(metrics["orbit_variance"].sel(arm="augmentation~full/seed~7", split="train", step=300))
    np.testing.assert_allclose(labelled(figure.axes[0], "ensemble mean, full")[0].get_ydata(), expected)


def test_further_augmentations_are_drawn_too():
    study = make_study(group="c4", sweep={"augmentation": ["none", "full", "random", {"subset": 2}]})
    figure = figures.orbit_scaling(make_metrics(study))
    for label in ("random augmentation", "augmentation with 2 elements"):
        assert labelled(figure.axes[0], f"ensemble mean, {label}")


@pytest.mark.parametrize("name", [n for n in PICTURES["ensemble"] if n not in PREDICTIONS])
def test_missing_values_are_left_out(name):
    """Scattered NaN, a split without any value, and infinitely many of them never raise nor reach a picture."""
    study = classification_study() if name == "same_predictions" else make_study()
    metrics = make_metrics(study)
    rng = np.random.default_rng(0)
    for key, values in metrics.data_vars.items():
        if values.dtype.kind == "f":
            holes = rng.random(values.shape) < 0.2
            metrics[key] = values.where(~holes).assign_attrs(values.attrs)
            metrics[key].loc[{"split": "train"}] = np.nan
    for data in (metrics, metrics.where(metrics["network_width"] < 0)):
        data = data.assign_attrs(metrics.attrs)
        figure = FIGURES[name].draw(data)
        figure.canvas.draw()
        if name != "same_predictions":  # there the reference of perfect symmetry is left
            assert "nothing to draw" in words(figure)
        for ax in figure.axes:
            for line in ax.lines:
                assert np.isfinite(np.asarray(line.get_ydata(), dtype=float)).all()


# ----------------------------------------------------------------------------------- the other metric figures


def test_orbit_in_time_draws_full_ensemble_members_and_two_predictions(metrics):
    figure = figures.orbit_in_time(metrics)
    ax = figure.axes[1]
    here = metrics.sel(split="test")
    (points,) = labelled(ax, "mean of 256 members, full")
    np.testing.assert_allclose(points.get_xdata(), metrics["step"])
    np.testing.assert_allclose(points.get_ydata(), np.sqrt(here["orbit_variance"].sel(arm=FULL, member_count=256)))
    drawn = [line.get_ydata() for line in labelled(ax, "predicted")]
    for arm, count in ((FULL, 1), (FULL, 256), (NONE, 256)):
        expected = np.sqrt(here["predicted_orbit_variance"].sel(arm=arm, member_count=count).values)
        assert any(np.allclose(line, expected) for line in drawn)
    assert ax.get_xscale() == "symlog" and ax.get_yscale() == "log"
    assert ax.get_xlabel() == "training time (steps)" and "total energy" in figure.axes[0].get_ylabel()


def test_full_ensemble_of_an_arm_with_diverged_members_is_what_is_left(study):
    metrics = make_metrics(study, diverged=3)
    assert full_ensemble(metrics, Choice(FULL, 256, "full")) == 253
    assert labelled(figures.orbit_in_time(metrics).axes[0], "mean of 253 members")


def test_epochs_are_linear_in_time():
    figure = figures.orbit_in_time(make_metrics(classification_study()))
    assert figure.axes[0].get_xscale() == "linear" and "epochs" in figure.axes[0].get_xlabel()


def test_measured_over_predicted_has_one_line_per_width_and_the_reference(metrics):
    figure = figures.measured_over_predicted(metrics)
    for ax, split in zip(figure.axes, metrics["split"].values, strict=True):
        for width in (64, 128, 256):
            (line,) = labelled(ax, f"width {width}")
            expected = metrics["orbit_variance_ratio"].sel(arm=f"width~{width}/augmentation~full", split=split)
            np.testing.assert_allclose(line.get_ydata(), expected)
        assert any(np.allclose(line.get_ydata(), 1) for line in ax.lines)


def test_distance_to_ntk_against_width_and_against_members(metrics):
    figure = figures.distance_to_ntk(metrics)
    assert len(figure.axes) == 6
    upper, lower = figure.axes[1], figure.axes[4]
    arms = [f"width~{w}/augmentation~full" for w in (64, 128, 256)]
    (line,) = labelled(upper, "step 300")
    np.testing.assert_allclose(line.get_xdata(), [64, 128, 256])
    values = metrics["difference_to_ntk"].sel(split="test", step=300, arm=arms)
    np.testing.assert_allclose(line.get_ydata(), values.sel(member_count=256))
    assert not labelled(upper, "step 0") and upper.get_xscale() == "log"
    (line,) = labelled(lower, "width 64")
    np.testing.assert_allclose(line.get_ydata(), values.sel(arm=arms[0]))
    exponent = re.search(r"x\$ = −(1\.\d+|0\.9\d+) ± 0.03", words(figure))
    assert exponent, words(figure)


@pytest.mark.parametrize("name", ["measured_over_predicted", "distance_to_ntk"])
def test_of_many_widths_some_have_a_line_and_all_a_point_against_width(name):
    widths = list(range(64, 64 + 40))
    study = make_study(sweep={"network.width": widths, "augmentation": ["full"]})
    figure = FIGURES[name].draw(make_metrics(study))
    assert "8 of 40 widths have a line" in words(figure)
    last = figure.axes[-1]
    drawn = [width for width in widths if labelled(last, f"width {width}")]
    assert len(drawn) == 8 and drawn[0] == 64 and drawn[-1] == 103
    if name == "distance_to_ntk":
        (line,) = labelled(figure.axes[0], "step 300")
        np.testing.assert_array_equal(line.get_xdata(), widths)


@pytest.mark.parametrize(("gone", "said"), [(2, "width 65"), (30, "at 30 of 40 widths")])
def test_missing_members_of_many_widths_are_counted(gone, said):
    study = make_study(sweep={"network.width": list(range(64, 104)), "augmentation": ["full"]})
    metrics = make_metrics(study)
    metrics["missing"] = ("arm", [3] * gone + [0] * (40 - gone))
    assert said in " ".join(figure_data("distance_to_ntk", metrics).attrs["notes"])


def choices(*augmentations):
    return [Choice(f"augmentation~{kind}", 64, kind) for kind in augmentations]


def test_subsets_that_are_drawn_together_look_different():
    chosen = choose(choices("none", "random", "full", *(f"subset-{size}" for size in range(2, 10))))
    looks = {arm.key: ensemble_look(arm.augmentation, rank=chosen.rank(arm)) for arm in chosen.drawn}
    assert len({(look.marker, look.hollow, look.colour) for look in looks.values()}) == len(chosen.drawn) == 11
    dashes = [theory_look(arm.augmentation, rank=chosen.rank(arm)).dash for arm in chosen.drawn]
    assert len(set(dashes)) == 8, "five of subsets"


def test_of_many_kinds_of_augmentation_some_have_a_line(monkeypatch):
    monkeypatch.setattr(selection, "MOST_LINES", 3)
    study = make_study(group="d4", sweep={"augmentation": ["none", "full", *({"subset": k} for k in range(2, 8))]})
    figure = figures.orbit_scaling(make_metrics(study))
    assert "3 of 6 further kinds of augmentation have a line" in words(figure)
    drawn = [label for label in legend_entries(figure.axes) if label.startswith("ensemble mean, augmentation with")]
    assert len(drawn) == 3 and "2 elements" in drawn[0] and "7 elements" in drawn[-1]


@pytest.mark.parametrize("formula", ["$x^2_{$", "costs $5", r"$\frac$ and $y$"])
def test_a_formula_that_cannot_be_read_is_drawn_as_it_is_written(metrics, formula):
    metrics["orbit_variance"].attrs["observable"] = formula
    figure = figures.orbit_scaling(metrics)
    figure.canvas.draw()
    assert formula in " ".join(figure.axes[0].get_ylabel().split())


def test_a_formula_is_not_broken_over_lines(metrics):
    formula = r"$\frac{1}{N}\sum_i \langle E_i \rangle$"
    metrics["orbit_variance"].attrs["observable"] = formula
    figure = figures.orbit_scaling(metrics, width=COLUMN)
    figure.canvas.draw()
    assert any(formula in line for line in figure.axes[0].get_ylabel().splitlines())
    assert all(text.get_parse_math() for text in figure.findobj(Text))


def test_distance_to_ntk_with_one_width_has_one_row():
    figure = figures.distance_to_ntk(make_metrics(cosine_study()))
    assert len(figure.axes) == 3 and "one width only" in words(figure)


def test_power_law_recovers_exponent_and_error():
    x = np.array([64.0, 128.0, 256.0])
    series = Series(x, 3 * x**-0.7, 0.05 * 3 * x**-0.7)
    exponent, error = power_law(series)
    assert exponent == pytest.approx(-0.7) and error == pytest.approx(0.05 / (np.log(2) * np.sqrt(2)))
    assert np.isnan(power_law(Series(x[:1], x[:1], x[:1]))[0])


def test_same_predictions_draws_range_ensemble_and_order():
    metrics = make_metrics(classification_study())
    figure = figures.same_predictions(metrics)
    for ax, split in zip(figure.axes, metrics["split"].values, strict=True):
        here = metrics.sel(split=split, arm="augmentation~full")
        (line,) = labelled(ax, "mean of 32 members, full")
        np.testing.assert_allclose(line.get_ydata(), here["orbit_same_predictions"].sel(member_count=32))
        (band,) = [c for c in ax.collections if str(c.get_label()).endswith("min…max, full augmentation")]
        heights = band.get_paths()[0].vertices[:, 1]
        assert heights.min() == pytest.approx(float(here["member_orbit_same_predictions"].min()))
        assert heights.max() == pytest.approx(float(here["member_orbit_same_predictions"].max()))
        (reference,) = labelled(ax, "perfect symmetry, |G| = 4")
        assert np.allclose(reference.get_ydata(), 4)
        assert labelled(ax, "mean of 32 members, no augmentation")


@pytest.mark.parametrize(
    ("units", "expected"),
    [
        ("1", "orbit deviation of total energy"),
        ("(total energy)²", "orbit deviation of total energy"),
        ("eV²", "orbit deviation of total energy (eV)"),
    ],
)
def test_axis_label_carries_the_unit(metrics, units, expected):
    metrics["orbit_variance"].attrs["units"] = units
    assert figures.orbit_scaling(metrics).axes[0].get_ylabel().replace("\n", " ") == expected


# --------------------------------------------------------------------------------- pictures of predictions


@pytest.fixture(scope="module")
def toy():
    study = cosine_study()
    return study, make_stores(study)


def curve_of(stores, values, line):
    """Values (sample, element) of a one-dimensional task at the inputs ``line`` has."""
    x = np.outer(stores.data["input"].values[:, 0], [1, -1])
    return np.array([values.values[tuple(np.argwhere(np.isclose(x, at))[0])] for at in line.get_xdata()])


@pytest.mark.parametrize("arm", ["none", "full"])
def test_mirror_draws_means_their_images_and_theory(toy, arm):
    study, stores = toy
    figure = figures.mirror(make_whole(study, stores))
    assert len(figure.axes) == 6  # early, late, asymmetry × unaugmented, augmented
    column = ["none", "full"].index(arm)
    here, late, bottom = stores[f"augmentation~{arm}"], figure.axes[2 + column], figure.axes[4 + column]
    (mean,) = labelled(late, "ensemble mean")
    expected = curve_of(here, here.ensemble["mean"].sel(step=1000).isel(output=0), mean)
    np.testing.assert_allclose(mean.get_ydata(), expected)
    (image,) = labelled(late, "its mirror image")
    np.testing.assert_allclose(image.get_ydata(), expected[::-1])
    (theory,) = labelled(late, "analytic mean")
    mu = curve_of(here, here.theory["mean"].sel(step=1000).isel(output=0), theory)
    np.testing.assert_allclose(theory.get_ydata(), mu)
    assert any(
        np.allclose(line.get_ydata(), expected - expected[::-1]) for line in bottom.lines if len(line.get_xdata()) > 2
    )
    assert np.allclose(mu, mu[::-1], atol=1e-6) == (arm == "full")
    assert bool(labelled(late, "added by augmentation")) == (arm == "full")
    assert len(labelled(late, "training points")[0].get_xdata()) == 12
    assert "step 1000" in figure.axes[2].get_ylabel()


def test_mirror_band_is_two_standard_deviations(toy):
    study, stores = toy
    here = stores["augmentation~full"]
    ax = figures.mirror(make_whole(study, stores)).axes[3]
    (band,) = [c for c in ax.collections if "of a member" in str(c.get_label())]
    top = band.get_paths()[0].vertices[:, 1].max()
    sigma = np.sqrt(np.einsum("sgg->sg", here.theory["orbit_covariance"].sel(step=1000).values))
    assert top == pytest.approx((here.theory["mean"].sel(step=1000).isel(output=0).values + 2 * sigma).max())


@pytest.mark.parametrize("kept", [True, False])
def test_mirror_draws_four_single_members_or_says_that_none_were_kept(kept):
    study = cosine_study()
    figure = figures.mirror(make_whole(study, make_stores(study, examples=kept)))
    grey = labelled(figure.axes[1], "single members")
    assert len(grey) == 4 * kept
    assert ("no single members were kept" in words(figure)) == (not kept)


def test_mirror_is_scaled_to_means_and_targets_not_to_members(toy):
    study, stores = toy
    late = figures.mirror(make_whole(study, stores)).axes[2]
    low, high = late.get_ylim()
    for line in labelled(late, "ensemble mean") + labelled(late, "training points"):
        assert low < line.get_ydata().min() and line.get_ydata().max() < high
    assert high - low < 4


def test_mirror_without_theory_or_control():
    study = cosine_study(theory={"mean": False}, sweep={"augmentation": ["full"]})
    figure = figures.mirror(make_whole(study))
    assert len(figure.axes) == 3 and "no analytic mean: full augmentation" in words(figure)
    assert not labelled(figure.axes[1], "analytic mean")


def test_orbit_profile_draws_means_over_orbits():
    study = make_study(sweep={"augmentation": ["none", "full"]})
    stores = make_stores(study)
    figure = figures.orbit_profile(make_whole(study, stores))
    assert len(figure.axes) == 6
    here = stores["augmentation~full"]
    ax = figure.axes[4]  # lower row, test inputs: samples 6, 7, 8
    drawn = labelled(ax, "mean of 256 members")
    assert len(drawn) == 3
    values = here.ensemble["mean"].sel(step=300, sample=6).isel(output=0).values
    np.testing.assert_allclose(drawn[0].get_ydata(), values - values.mean())
    theory = labelled(ax, "analytic mean")[0]
    mu = here.theory["mean"].sel(step=300, sample=6).isel(output=0).values
    np.testing.assert_allclose(theory.get_ydata(), mu - values.mean())
    second = here.ensemble["second_moment"].sel(step=300, sample=6).isel(output=0).values
    spread = np.sqrt((second - values**2) * 256 / 255)
    segments = next(c.lines[2][0].get_segments() for c in ax.containers if str(c.get_label()).startswith("mean of 256"))
    np.testing.assert_allclose([(s[1, 1] - s[0, 1]) / 2 for s in segments], 2 * spread / np.sqrt(256))


def test_orbit_profile_of_a_sum_of_outputs_uses_the_second_moment_of_the_sum():
    study = make_study(sweep={"augmentation": ["full"]})
    ((key, here),) = make_stores(study, mixing=True).items()
    total = here.ensemble["mean"].sum("output").expand_dims(observable=1, axis=-1)
    here.ensemble["observable_second_moment"] = total**2 + 0.25
    figure = figures.orbit_profile(make_whole(study, {key: here}))
    segments = next(c for c in figure.axes[0].containers if "measured" in c.get_label()).lines[2][0].get_segments()
    np.testing.assert_allclose([(s[1, 1] - s[0, 1]) / 2 for s in segments], 2 * 0.5 * np.sqrt(256 / 255))


# ------------------------------------------------------------------------------------------------ files


def test_names_of_elements_have_raised_powers():
    assert [element_text(name) for name in ("e", "r12m", "u3v")] == ["$e$", "$r^{12}m$", "$u^{3}v$"]


@pytest.mark.slow
def test_draw_all_writes_each_picture_in_all_formats_and_the_same_bytes_again(tmp_path):
    study = make_study(theory={"mean": False}, sweep={"augmentation": ["none", "full"]})
    metrics = make_whole(study).assign_attrs(checksum=64 * "a")
    first = figures.draw_all(study, metrics, tmp_path / "a")
    code = (
        "import sys; from pathlib import Path; import xarray as xr; from synthetic_results import make_study;"
        "from emergent_equivariance import figures; metrics = xr.load_dataset(sys.argv[1], engine='h5netcdf');"
        "study = make_study(theory={'mean': False}, sweep={'augmentation': ['none', 'full']});"
        "figures.draw_all(study, metrics, Path(sys.argv[2]))"
    )
    metrics.to_netcdf(tmp_path / "metrics.nc", engine="h5netcdf")
    command = [sys.executable, "-c", code, tmp_path / "metrics.nc", tmp_path / "b"]
    subprocess.run(command, check=True, cwd=Path(__file__).parent, env={**os.environ, "PYTHONHASHSEED": "7"})
    assert first == figures.figure_paths(study, tmp_path / "a")
    names = {f"{n}.{s}" for n in figures.figure_names(study) for s in ("svg", "png", "pdf", "csv")}
    assert {path.name for path in first} == names == {path.name for path in (tmp_path / "b").iterdir()}
    for path in first:
        content = path.read_bytes()
        assert content == (tmp_path / "b" / path.name).read_bytes() and len(content) > 1000, path.name
        assert source_of(content) == (64 * "a", None if path.suffix == ".png" else True)
        assert b"<dc:date>" not in content and b"/CreationDate" not in content
        if path.suffix == ".pdf":
            assert content.startswith(b"%PDF-") and b"/FontFile2" in content and b"/Type3" not in content
            found = int(re.search(rb"startxref\s+(\d+)\s+%%EOF\s*$", content)[1])
            assert content[found : found + 4] == b"xref"
            assert float(re.search(rb"/MediaBox \[ 0 0 ([0-9.]+)", content)[1]) <= 72 * COLUMN + 0.1
        if path.suffix == ".svg":
            assert 72 * COLUMN + 0.1 < float(re.search(rb'width="([0-9.]+)pt"', content)[1]) <= 72 * PAGE + 0.1


@pytest.mark.parametrize("make", [make_study, classification_study, cosine_study])
def test_the_table_of_a_picture_is_what_it_draws_and_its_csv(make, tmp_path):
    """Every value of the table is a point of the panel, and the CSV reads back."""
    study = make(**({} if make is cosine_study else {"sweep": {"augmentation": ["none", "full"]}}))
    metrics = make_whole(study)
    for name in figures.figure_names(study):
        figure, table = FIGURES[name].draw(metrics), figures.figure_data(name, metrics)
        assert list(table.columns) == ["panel", "series", "role", "x", "y", "low", "high"] and len(table)
        drawn = {tuple(p) for ax in figure.axes for line in ax.lines for p in np.round(line.get_xydata(), 9).tolist()}
        assert set(map(tuple, np.round(table[["x", "y"]].to_numpy(), 9).tolist())) <= drawn, name
        figures.save_table(table, tmp_path / f"{name}.csv", "metrics.nc ")
        read = pd.read_csv(tmp_path / f"{name}.csv", comment="#", keep_default_na=True)
        texts = ["panel", "series", "role"]
        assert (read[texts].to_numpy() == table[texts].to_numpy()).all()
        for column in ("x", "y", "low", "high"):
            np.testing.assert_allclose(read[column], table[column], rtol=1e-8)
        head = [line for line in (tmp_path / f"{name}.csv").read_text().splitlines() if line.startswith("#")]
        assert head[0] == f"# {table.attrs['title']}" and any(line.startswith("# low, high: ") for line in head)


def test_every_picture_has_a_caption_that_renders():
    jinja2, core = pytest.importorskip("jinja2"), pytest.importorskip("docutils.core")
    folders = ROOT / "workflow" / "report", ROOT / "src" / "emergent_equivariance" / "report" / "captions"
    files = {path.name: path for folder in folders for path in folder.iterdir()}
    assert set(files) == {"workflow.rst", "report.rst", *(picture.caption for picture in FIGURES.values())}
    for name, file in sorted(files.items()):
        context = {"config": {"study": "my_study", "training": {}}, "wildcards": {}}
        text = jinja2.Template(file.read_text(), undefined=jinja2.StrictUndefined).render(snakemake=context)
        body = core.publish_parts(text, writer="html", settings_overrides={"halt_level": 2})["body"]
        assert len(body) > 100 and ("my_study" in body) == (name == "workflow.rst")


def test_the_gallery_shows_every_picture():
    page = (ROOT / "docs" / "gallery.md").read_text(encoding="utf-8")
    shown = re.findall(r"^!\[[^\]]{40,}\]\(images/(\w+)\.png\)$", page, flags=re.MULTILINE)
    assert sorted(shown) == sorted(FIGURES) == sorted(name for names in gallery.PICTURES.values() for name in names)
    assert {path.stem for path in (ROOT / "docs" / "images").glob("*.png")} >= set(shown)


# ------------------------------------------------------------------------------------------------ words


DIVERGED = itertools.product(
    [make_study, cosine_study, classification_study], ["all", "main", "control", "other"], [1, 16]
)


@pytest.mark.parametrize(
    ("make", "which", "members"),
    [pytest.param(*case, marks=[] if k % 5 == 0 else pytest.mark.slow) for k, case in enumerate(DIVERGED)],
)
@pytest.mark.filterwarnings("error")
def test_arms_whose_members_all_diverged_are_named_in_every_picture(make, which, members):
    """Also with the overflowing theory that a learning rate above critical has."""
    widths = {} if make is cosine_study else {"network.width": [64, 128]}
    study = make(sweep={**widths, "augmentation": ["none", "full"]}, ensemble={"members": members})
    metrics = make_metrics(study)
    stores = make_stores(study)
    last = "width~128/" if widths else ""
    main, control = f"{last}augmentation~full", f"{last}augmentation~none"
    everything = [arm.path for arm in study.arms]
    other = "width~64/augmentation~full" if widths else control
    gone = {"all": everything, "main": [main], "control": [control], "other": [other]}[which]
    diverge(metrics, stores, gone)
    if which == "all":
        metrics = metrics.isel(member_count=[0])  # only size 1 is left
        for arm in stores.values():
            if arm.theory is not None:
                arm.theory["mean"][-1] = np.inf
                arm.theory["orbit_covariance"][-1] = np.nan
    chosen = choose(metrics_choices(metrics))
    metrics = with_stores(study, metrics, stores)
    said = "the only member diverged" if members == 1 else "all 16 members diverged"
    for name in figures.figure_names(study):
        figure = FIGURES[name].draw(metrics)
        figure.canvas.draw()
        text = words(figure)
        arms = chosen.widths if name in ("measured_over_predicted", "distance_to_ntk") else chosen.drawn
        assert (said in text) == any(arm.key in gone for arm in arms), (name, text)
        if which == "all":
            panels = [t.get_text() for ax in figure.axes for t in ax.texts]
            if name == "same_predictions":  # the reference of perfect symmetry is left
                continue
            assert len(panels) == len(figure.axes) and all(t.startswith("nothing to draw") for t in panels), name
        assert "mean of 0" not in text
    text = report_words(study, metrics)
    for arm in gone:
        assert f"{arm} ({members} of {members})" in text
    assert "training.learning_rate" in text and f"left out of all statistics: {len(gone) * members} (" in text
    assert report.key_numbers(study, metrics).set_index("arm").loc[gone, "ensemble_deviation"].isna().all()


@pytest.mark.filterwarnings("error")
def test_a_group_of_one_element_has_nothing_to_draw():
    study = make_study(group="trivial", sweep={"network.width": [64, 128], "augmentation": ["none", "full"]})
    metrics = make_metrics(make_study(sweep={"network.width": [64, 128], "augmentation": ["none", "full"]}))
    metrics["group_order"][:] = 1
    for name in ("orbit_variance", "orbit_variance_se", "member_orbit_variance", "predicted_orbit_variance"):
        metrics[name][:] = 0
    for name in ("orbit_slope", "orbit_variance_ratio"):
        metrics[name][:] = np.nan
    for draw in (figures.orbit_scaling, figures.orbit_in_time, figures.measured_over_predicted):
        figure = draw(metrics)
        figure.canvas.draw()
        assert {t.get_text() for ax in figure.axes for t in ax.texts} == {
            "nothing to draw: the group has one element,\nso every orbit deviation is 0"
        }
    text = report_words(study, metrics)
    assert "The group trivial has one element" in text and "times smaller" not in text
    study = make_study(sweep={"augmentation": ["none", "full"]})
    single = {
        key: ArmStores(data, theory.isel(element=[0], element_=[0]), ensemble.isel(element=[0]))
        for key, (data, theory, ensemble) in make_stores(study).items()
    }
    figure = figures.orbit_profile(make_whole(study, single))
    figure.canvas.draw()
    assert "every orbit is one point" in words(figure)


def test_an_ensemble_of_probabilities_says_why_it_has_no_theory():
    study = make_study(
        task={"name": "digits", "train": 64, "test": 64},
        evaluate={"ensemble_mean": "softmax", "samples": 16},
        sweep={"augmentation": ["none", "full"]},
    )
    text = report_words(study, make_metrics(study))
    assert "no analytic mean μt: the ensemble averages probabilities; μt is that of the logits." in text
    stores = make_stores(make_study(sweep={"augmentation": ["none", "full"]}))
    for arm in stores.values():
        arm.ensemble.attrs["ensemble_mean"] = "softmax"
    figure = figures.orbit_profile(make_whole(make_study(sweep={"augmentation": ["none", "full"]}), stores))
    assert "no analytic mean (the ensemble averages probabilities): no augmentation, full" in words(figure)
    metrics = make_metrics(study).drop_vars("predicted_orbit_variance").assign_attrs(ensemble_mean="softmax")
    assert "no prediction: the ensembles average probabilities" in words(figures.orbit_scaling(metrics))


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.01234, 0.00056, "0.01234 ± 0.00056"),
        (-0.5, 0.0123, "−0.500 ± 0.012"),
        (1.5e-6, np.nan, "1.50×10⁻⁶"),
        (1.5e-6, 2e-7, "(1.50 ± 0.20)×10⁻⁶"),
        (123456.0, 2000.0, "(1.235 ± 0.020)×10⁵"),
        (0.1, 3.0, "0.1 ± 3.0"),
        (0.0, np.nan, "0"),
        (np.nan, 1.0, "–"),
        (256.0, np.nan, "256"),
    ],
)
def test_numbers_show_two_digits_of_their_error(value, error, text):
    assert number(value, error) == text


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("f(x) of m members, a mean", "$f$($x$) of $m$ members, a mean"),
        ("width^x", "width$^{x}$"),
        ("energy $E^a$ of f", "energy $E^a$ of $f$"),
    ],
)
def test_quantities_are_italic_and_formulas_as_they_are(text, drawn):
    assert italic(text) == drawn


def test_compact_numbers_have_their_error_in_brackets():
    numbers = [(0.01234, 0.00056), (12.3, 4.5), (1.5e-6, 2e-7), (0.5, np.nan)]
    assert [number(*n, compact=True) for n in numbers] == ["0.01234(56)", "12.3(4.5)", "1.50(20)×10⁻⁶", "0.500"]


def test_series_of_a_missing_variable_is_empty(metrics):
    series = read_series(
        metrics.drop_vars("difference_to_ntk"), "difference_to_ntk", Choice(FULL, 256, "full"), "test", "step"
    )
    assert all(len(part) == 0 for part in series)
    assert isinstance(metrics, xr.Dataset)
