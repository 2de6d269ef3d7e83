"""Pictures and key numbers follow the data they are given: drawn artists and words against the datasets."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from synthetic_results import classification_study, cosine_study, diverge, make_metrics, make_stores, make_study

from emergent_equivariance import figures, report
from emergent_equivariance.errors import StudyError
from emergent_equivariance.figures import FIGURES, ArmStores
from emergent_equivariance.figures.selection import (
    Choice,
    choose,
    full_ensemble,
    metrics_choices,
    read_series,
)
from emergent_equivariance.figures.style import COLOURS
from emergent_equivariance.figures.words import element_text, number
from emergent_equivariance.fits import Series, power_law
from emergent_equivariance.study import load_study
from emergent_equivariance.study.products import PICTURES

ROOT = Path(__file__).parents[2]
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


def test_store_arms_are_main_and_control(study):
    assert [arm.path for arm in figures.store_arms(study)] == [NONE, FULL]


# -------------------------------------------------------------------------------------------- orbit_scaling


def test_orbit_scaling_draws_data_prediction_and_errors(study, metrics):
    figure = figures.orbit_scaling(metrics)
    assert [ax.get_title().replace("\n", " ") for ax in figure.axes] == [
        "training inputs",
        "test inputs",
        "out-of-distribution inputs (gaussian)",
    ]
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


def test_orbit_scaling_says_slope_and_ratio(metrics):
    at = {"arm": FULL, "split": "test", "step": 300}
    metrics["orbit_slope"].loc[at], metrics["orbit_slope_se"].loc[at] = -0.4567, 0.0123
    metrics["orbit_variance_ratio"].loc[at], metrics["orbit_variance_ratio_se"].loc[at] = 0.876, 0.034
    text = words(figures.orbit_scaling(metrics))
    assert "slope −0.457 ± 0.012" in text and "variance 0.876 ± 0.034" in text


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


@pytest.mark.parametrize("name", [n for n in PICTURES["ensemble"] if FIGURES[n].needs == "metrics"])
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
    figure = figures.mirror(study, stores)
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
    ax = figures.mirror(study, stores, steps=[1000]).axes[1]
    (band,) = [c for c in ax.collections if "of a member" in str(c.get_label())]
    top = band.get_paths()[0].vertices[:, 1].max()
    sigma = np.sqrt(np.einsum("sgg->sg", here.theory["orbit_covariance"].sel(step=1000).values))
    assert top == pytest.approx((here.theory["mean"].sel(step=1000).isel(output=0).values + 2 * sigma).max())


@pytest.mark.parametrize("kept", [True, False])
def test_mirror_draws_four_single_members_or_says_that_none_were_kept(kept):
    study = cosine_study()
    figure = figures.mirror(study, make_stores(study, examples=kept), steps=[1000])
    grey = [line for line in figure.axes[1].lines if line.get_color() == COLOURS["member"]]
    assert len(grey) == 4 * kept
    assert ("no single members were kept" in words(figure)) == (not kept)


def test_mirror_is_scaled_to_means_and_targets_not_to_members(toy):
    study, stores = toy
    late = figures.mirror(study, stores).axes[2]
    low, high = late.get_ylim()
    for line in labelled(late, "ensemble mean") + labelled(late, "training points"):
        assert low < line.get_ydata().min() and line.get_ydata().max() < high
    assert high - low < 4


def test_mirror_without_theory_or_control():
    study = cosine_study(theory={"mean": False}, sweep={"augmentation": ["full"]})
    figure = figures.mirror(study, make_stores(study))
    assert len(figure.axes) == 3 and "no analytic mean: full augmentation" in words(figure)
    assert not labelled(figure.axes[1], "analytic mean")


def test_orbit_profile_draws_means_over_orbits():
    study = make_study(sweep={"augmentation": ["none", "full"]})
    stores = make_stores(study)
    figure = figures.orbit_profile(study, stores)
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
    figure = figures.orbit_profile(study, {key: here})
    segments = figure.axes[0].containers[0].lines[2][0].get_segments()
    np.testing.assert_allclose([(s[1, 1] - s[0, 1]) / 2 for s in segments], 2 * 0.5 * np.sqrt(256 / 255))


# ------------------------------------------------------------------------------------------------ files


def test_names_of_elements_have_raised_powers():
    assert [element_text(name) for name in ("e", "r12m", "u3v")] == ["$e$", "$r^{12}m$", "$u^{3}v$"]


def test_draw_all_writes_each_picture_twice_and_the_same_bytes_again(tmp_path):
    study = make_study(sweep={"augmentation": ["none", "full"]})
    metrics, stores = make_metrics(study), make_stores(study)
    first = figures.draw_all(study, metrics, stores, tmp_path / "a")
    second = figures.draw_all(study, metrics, stores, tmp_path / "b")
    assert first == figures.figure_paths(study, tmp_path / "a")
    assert {path.name for path in first} == {f"{n}.{s}" for n in figures.figure_names(study) for s in ("svg", "png")}
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes() and one.stat().st_size > 5000
    assert b"<dc:date>" not in (tmp_path / "a" / "orbit_scaling.svg").read_bytes()


def test_metrics_of_another_study_are_refused(metrics):
    with pytest.raises(StudyError, match="no arm"):
        report.summary_html(cosine_study(), metrics)


def test_every_picture_has_a_caption_that_renders():
    jinja2, core = pytest.importorskip("jinja2"), pytest.importorskip("docutils.core")
    folder = ROOT / "workflow" / "report"
    captions = {"workflow.rst", "summary.rst", *(picture.caption for picture in FIGURES.values())}
    assert {path.name for path in folder.iterdir()} == captions
    for name in sorted(captions):
        context = {"config": {"study": "my_study", "training": {}}, "wildcards": {}}
        text = jinja2.Template((folder / name).read_text(), undefined=jinja2.StrictUndefined).render(snakemake=context)
        body = core.publish_parts(text, writer="html", settings_overrides={"halt_level": 2})["body"]
        assert len(body) > 100 and ("my_study" in body) == (name == "workflow.rst")


# ------------------------------------------------------------------------------------------------ words


def plain(text):
    return re.sub(r"<style>.*?</style>|<[^>]+>", "", text, flags=re.S)


def test_summary_says_the_claim_with_its_numbers(study, metrics):
    at = {"arm": FULL, "split": "test", "step": 300}
    metrics["orbit_variance"].loc[{**at, "member_count": 256}] = 0.0144**2
    metrics["orbit_variance_se"].loc[{**at, "member_count": 256}] = 2 * 0.0144 * 0.00037
    metrics["predicted_orbit_variance"].loc[{**at, "member_count": 256}] = 0.0151**2
    metrics["orbit_slope"].loc[at], metrics["orbit_slope_se"].loc[at] = -0.4971, 0.0042
    metrics["orbit_variance"].loc[{**at, "member_count": 1}] = 0.2304**2
    metrics["orbit_variance_se"].loc[{**at, "member_count": 1}] = 2 * 0.2304 * 0.0012
    metrics["orbit_variance"].loc[{**at, "arm": NONE, "member_count": 256}] = 0.25**2
    text = plain(report.summary_html(study, metrics))
    (line,) = [s for s in text.splitlines() if s.startswith("On test inputs")]
    assert "the orbit deviation of a single member is 0.2304 ± 0.0012" in line
    assert "that of the mean of 256 members 0.01440 ± 0.00037: 16.0 times smaller (√256 = 16.0)" in line
    assert "Predicted: 0.0151" in line and "Slope against ensemble size: −0.4971 ± 0.0042" in line
    assert "Without augmentation that of the mean is 0.250" in line
    assert "standard deviation of total energy over the orbit of an input under C4" in text
    assert "0.01440(37)" in text and "distance to NTK mean" in text
    assert "left out of all statistics: 0." in text and "spins are ±1" in text and "0123456789ab" in text


def test_summary_follows_the_data(study):
    texts = {report.summary_html(study, make_metrics(study, seed=seed)) for seed in (0, 1)}
    assert len(texts) == 2
    assert report.summary_html(study, make_metrics(study)) in texts


def test_summary_counts_diverged_members_and_missing_arms(study):
    metrics = make_metrics(study, diverged=2).isel(arm=slice(1, None))
    text = plain(report.summary_html(study, metrics))
    assert "left out of all statistics: 10 (" in text and f"{FULL}: 2" in text
    assert "Not computed yet: width~64/augmentation~none" in text


def test_summary_says_where_theory_ends():
    study = classification_study()
    text = plain(report.summary_html(study, make_metrics(study)))
    assert "Arm augmentation~full: no analytic mean μt: loss cross_entropy." in text
    assert not re.search(r"Predicted: \d", text) and "same predictions" in text and "accuracy" in text
    assert re.search(r"Of the 4 transforms of an input 3\.\d+ ± 0\.030 get the same class \(single member: ", text)
    study = make_study(sweep={"augmentation": ["full", "random"]})
    text = plain(report.summary_html(study, make_metrics(study)))
    assert "Arm augmentation~random: no analytic covariance" in text and "no analytic mean" not in text


def test_summary_tells_route_and_conditioning_of_each_analytic_solution():
    study = cosine_study()
    stores = make_stores(study)
    assert "Analytic solutions" not in report.summary_html(study, make_metrics(study), stores)
    for which, (path, arm) in enumerate(stores.items()):
        stores[path] = arm = arm._replace(theory=arm.theory.assign(eigenvalue=("mode", np.arange(16.0))))
        arm.theory.attrs |= {"route": f"route {which}", "largest_eigenvalue": 12.5, "smallest_kept_eigenvalue": 0.125}
        arm.theory.attrs |= {"rank": 15, "rows": 64, "negative_eigenvalues": which, "modes": "all"}
    text = plain(report.summary_html(study, make_metrics(study), stores))
    assert "route 1. Eigenvalues of Θ(X, X) (all): largest 12.5, smallest above round-off 0.125; 15 of 16 above" in text
    assert "round-off, 0 negative" in text and "round-off, 1 negative" in text and "No ridge" in text


def test_summary_of_one_member_claims_no_ensemble():
    study = make_study(ensemble={"members": 1})
    text = plain(report.summary_html(study, make_metrics(study)))
    assert "there is no ensemble to average" in text and "Slope against" not in text


def test_summary_of_an_arm_whose_members_all_diverged(study, metrics):
    metrics["members"].loc[{"arm": FULL}], metrics["diverged"].loc[{"arm": FULL}] = 0, 256
    for name in ("orbit_variance", "member_orbit_variance"):
        metrics[name].loc[{"arm": FULL}] = np.nan
    text = plain(report.summary_html(study, metrics))
    assert "On test inputs nothing was measured: all 256 members diverged." in text
    assert f"All members diverged: {FULL} (256 of 256): nothing was measured there. A smaller" in text


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
    stores = make_stores(study) if make is not classification_study else {}
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
    said = "the only member diverged" if members == 1 else "all 16 members diverged"
    for name in figures.figure_names(study):
        if FIGURES[name].needs == "stores" and not stores:
            continue
        figure = FIGURES[name].draw(metrics) if FIGURES[name].needs == "metrics" else FIGURES[name].draw(study, stores)
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
    text = plain(report.summary_html(study, metrics, stores))
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
    text = plain(report.summary_html(study, metrics))
    assert "The group trivial has one element" in text and "times smaller" not in text
    stores = make_stores(make_study(sweep={"augmentation": ["none", "full"]}))
    single = {
        key: ArmStores(data, theory.isel(element=[0], element_=[0]), ensemble.isel(element=[0]))
        for key, (data, theory, ensemble) in stores.items()
    }
    figure = figures.orbit_profile(make_study(group="trivial", sweep={"augmentation": ["none", "full"]}), single)
    figure.canvas.draw()
    assert "every orbit is one point" in words(figure)


def test_an_ensemble_of_probabilities_says_why_it_has_no_theory():
    study = make_study(
        task={"name": "digits", "train": 64, "test": 64},
        evaluate={"ensemble_mean": "softmax", "samples": 16},
        sweep={"augmentation": ["none", "full"]},
    )
    text = plain(report.summary_html(study, make_metrics(study)))
    assert "no analytic mean μt: the ensemble averages probabilities; μt is that of the logits." in text
    stores = make_stores(make_study(sweep={"augmentation": ["none", "full"]}))
    for arm in stores.values():
        arm.ensemble.attrs["ensemble_mean"] = "softmax"
    figure = figures.orbit_profile(make_study(sweep={"augmentation": ["none", "full"]}), stores)
    assert "no analytic mean (the ensemble averages probabilities): no augmentation, full" in words(figure)
    metrics = make_metrics(study).drop_vars("predicted_orbit_variance").assign_attrs(ensemble_mean="softmax")
    assert "no prediction: the ensembles average probabilities" in words(figures.orbit_scaling(metrics))


def test_a_warning_names_all_arms_that_share_the_theory():
    study = make_study(sweep={"augmentation": ["none", "full"], "ensemble.seed": [7, 8]})
    metrics, stores = make_metrics(study), make_stores(study)
    here = stores["augmentation~full/seed~7"]
    here.theory.attrs["warning"] = "the learning rate is above critical"
    text = plain(report.summary_html(study, metrics, {"augmentation~full/seed~7": here}))
    assert "Warning (augmentation~full/seed~7, augmentation~full/seed~8): the learning rate" in text


def test_summary_escapes_what_it_quotes(study, metrics):
    metrics.attrs["data_provenance"] = '{"source": "<script>alert(1)</script>"}'
    text = report.summary_html(study, metrics)
    assert "<script>" not in text and "&lt;script&gt;" in text


def test_key_numbers_are_a_row_per_arm_and_split(study, metrics):
    table = report.key_numbers(study, metrics)
    assert len(table) == 6 * 3 and {"width", "augmentation", "split", "orbit_slope_se"} <= set(table.columns)
    row = table[(table["arm"] == FULL) & (table["split"] == "test")].iloc[0]
    here = metrics.sel(arm=FULL, split="test", step=300)
    value = float(here["orbit_variance"].sel(member_count=256))
    error = float(here["orbit_variance_se"].sel(member_count=256))
    assert row["members"] == 256 and row["step"] == 300 and row["diverged"] == 0
    single = float(here["orbit_variance"].sel(member_count=1))
    assert row["member_deviation"] == pytest.approx(np.sqrt(single))
    assert row["orbit_slope"] == here["orbit_slope"] and row["difference_to_ntk_se"] > 0
    assert row["ensemble_deviation"] == pytest.approx(np.sqrt(value))
    assert row["ensemble_deviation_se"] == pytest.approx(error / (2 * np.sqrt(value)))


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


def test_compact_numbers_have_their_error_in_brackets():
    numbers = [(0.01234, 0.00056), (12.3, 4.5), (1.5e-6, 2e-7), (0.5, np.nan)]
    assert [number(*n, compact=True) for n in numbers] == ["0.01234(56)", "12.3(4.5)", "1.50(20)×10⁻⁶", "0.500"]


def test_series_of_a_missing_variable_is_empty(metrics):
    series = read_series(
        metrics.drop_vars("difference_to_ntk"), "difference_to_ntk", Choice(FULL, 256, "full"), "test", "step"
    )
    assert all(len(part) == 0 for part in series)
    assert isinstance(metrics, xr.Dataset)


def test_arms_trained_for_different_times_are_read_at_their_own_last_step(study, metrics):
    early = [arm for arm in metrics["arm"].values if arm != FULL]
    for name in ("orbit_variance", "member_orbit_variance"):
        metrics[name].loc[{"arm": early, "step": 300}] = np.nan
    table = report.key_numbers(study, metrics)
    assert set(table.loc[table["arm"] == FULL, "step"]) == {300} and set(table.loc[table["arm"] == NONE, "step"]) == {
        100
    }
    assert "the last recorded times" in report.summary_html(study, metrics)


def test_summary_quotes_provenance_and_warnings_of_the_stores():
    study = cosine_study()
    metrics, stores = make_metrics(study), make_stores(study)
    data, theory, ensemble = stores["augmentation~full"]
    data.attrs["data_provenance"] = '{"source": "a real data set", "md5": ["ab", "cd"]}'
    theory.attrs["warning"] = "the learning rate is above critical"
    text = plain(report.summary_html(study, metrics, {"augmentation~full": ArmStores(data, theory, ensemble)}))
    assert "source: a real data set; md5: ab, cd" in text
    assert "Warning (augmentation~full): the learning rate is above critical" in text
