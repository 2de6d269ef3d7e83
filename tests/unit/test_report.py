"""What the report page says: its sentences and tables against the metrics, what it quotes escaped, and its seal."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from report_pages import blank_figures, claimed, page, plain, words
from synthetic_results import (
    classification_study,
    cosine_study,
    diverge,
    make_metrics,
    make_stores,
    make_study,
    make_whole,
)

from emergent_equivariance.errors import StudyError
from emergent_equivariance.figures import figure_data
from emergent_equivariance.figures.interactive import chart
from emergent_equivariance.figures.words import number
from emergent_equivariance.pages import source_of
from emergent_equivariance.predictions import with_stores
from emergent_equivariance.report import key_numbers, report_html, shared
from emergent_equivariance.report.content import Table
from emergent_equivariance.report.render import prose
from emergent_equivariance.study import parse_study

FULL, NONE = "width~256/augmentation~full", "width~256/augmentation~none"
SECTIONS = [
    "Key figure",
    "Theory",
    "Ensembles",
    "Controls",
    "Failures",
    "Data provenance",
    "Settings",
    "How to reproduce",
]


@pytest.fixture(scope="module")
def study():
    return make_study()


@pytest.fixture
def metrics(study):
    return make_metrics(study)


def claim(text):
    """The sentence below the heading."""
    return plain(re.search(r'<p class="claim">(.*?)</p>', text)[1]).replace("\u00a0", " ")


# --------------------------------------------------------------------------------------------------- the claim


def put_numbers(metrics):
    at = {"arm": FULL, "split": "test", "step": 300}
    metrics["orbit_variance"].loc[{**at, "member_count": 256}] = 0.0144**2
    metrics["orbit_variance_se"].loc[{**at, "member_count": 256}] = 2 * 0.0144 * 0.00037
    metrics["predicted_orbit_variance"].loc[{**at, "member_count": 256}] = 0.0151**2
    metrics["orbit_slope"].loc[at], metrics["orbit_slope_se"].loc[at] = -0.4971, 0.0042
    metrics["orbit_variance"].loc[{**at, "member_count": 1}] = 0.2304**2
    metrics["orbit_variance_se"].loc[{**at, "member_count": 1}] = 2 * 0.2304 * 0.0012
    metrics["orbit_variance"].loc[{**at, "arm": NONE, "member_count": 256}] = 0.25**2


def test_the_claim_is_one_sentence_with_its_numbers(study, metrics):
    put_numbers(metrics)
    text = claim(page(study, metrics))
    control = number(0.25, metrics["orbit_variance_se"].sel(arm=NONE, split="test", step=300, member_count=256) / 0.5)
    assert text == (
        "On test inputs the mean of 256 networks of width 256 with full augmentation deviates by 0.01440 ± 0.00037 "
        "over the orbit of an input, against 0.2304 ± 0.0012 of a single member; theory predicts 0.0151, and without "
        f"augmentation the mean deviates by {control}."
    )


def test_the_sections_come_in_their_order_with_what_belongs_into_them(study, metrics):
    put_numbers(metrics)
    html = page(study, metrics)
    assert re.findall(r"<h2[^>]*>(.*?)</h2>", html) == SECTIONS
    text = plain(html).replace("\u00a0", " ")
    (line,) = [s for s in text.splitlines() if s.startswith("On test inputs the orbit deviation")]
    assert "the orbit deviation of a single member is 0.2304 ± 0.0012" in line
    assert "that of the mean of 256 members 0.01440 ± 0.00037: 16.00 ± 0.42 times smaller (√256 = 16.0)" in line
    assert "Predicted: 0.0151" in line and "Slope against ensemble size: −0.4971 ± 0.0042" in line
    assert "Without augmentation that of the mean is 0.250" in line
    assert "standard deviation of total energy over the orbit of an input under C4" in claimed(html)
    assert "0.01440(37)" in text and "distance to NTK mean" in text
    assert "left out of all statistics: none." in text and "spins are ±1" in text
    assert "git checkout 0123456789ab\n" in text and "jax" in text and "0.10.0" in text


def test_the_page_follows_the_data(study):
    texts = {page(study, make_metrics(study, seed=seed)) for seed in (0, 1)}
    assert len(texts) == 2
    assert page(study, make_metrics(study)) in texts


def test_metrics_of_another_study_are_refused(metrics):
    with pytest.raises(StudyError, match="no arm"):
        page(cosine_study(), metrics)


def test_arms_trained_for_different_times_are_read_at_their_own_last_step(study, metrics):
    early = [arm for arm in metrics["arm"].values if arm != FULL]
    for name in ("orbit_variance", "member_orbit_variance"):
        metrics[name].loc[{"arm": early, "step": 300}] = np.nan
    steps = key_numbers(study, metrics).groupby("arm")["step"].unique().map(list).to_dict()
    assert steps == {arm: [100] for arm in early} | {FULL: [300]}
    assert "the last recorded times" in claimed(page(study, metrics))


# --------------------------------------------------------------------------------------------------- failures


def test_diverged_members_and_arms_not_computed_are_counted(study):
    metrics = make_metrics(study, diverged=2).isel(arm=slice(1, None))
    text = words(study, metrics)
    assert "left out of all statistics: 10 (" in text and f"{FULL}: 2" in text
    assert "Arms not computed yet: width~64/augmentation~none." in text


def test_an_arm_whose_members_all_diverged_claims_nothing(study, metrics):
    metrics["members"].loc[{"arm": FULL}], metrics["diverged"].loc[{"arm": FULL}] = 0, 256
    for name in ("orbit_variance", "member_orbit_variance"):
        metrics[name].loc[{"arm": FULL}] = np.nan
    html = page(study, metrics)
    said = "Nothing was measured: of the networks of width 256 with full augmentation, all 256 members diverged."
    assert claim(html) == said
    assert "On test inputs nothing was measured: all 256 members diverged." in plain(html)
    assert f"All members diverged: {FULL} (256 of 256): nothing was measured there. A smaller" in plain(html)


@pytest.mark.filterwarnings("error")
def test_a_study_all_of_whose_members_diverged_has_a_page():
    study = cosine_study()
    metrics, stores = make_metrics(study), make_stores(study)
    diverge(metrics, stores, [arm.path for arm in study.arms])
    html = page(study, with_stores(study, metrics.isel(member_count=[0]), stores))
    assert claim(html).startswith("Nothing was measured") and not re.search(r"\bnan\b", plain(html))
    assert "Nothing was measured in it." in plain(html), "of the control too"


def test_one_member_claims_no_ensemble():
    study = make_study(ensemble={"members": 1})
    html = page(study, make_metrics(study))
    assert "with one member there is no ensemble to average" in claim(html)
    assert "there is no ensemble to average" in plain(html) and "Slope against" not in plain(html)


def test_a_study_without_a_control_says_so():
    study = make_study(sweep={"augmentation": ["full"]})
    html = page(study, make_metrics(study))
    assert "No arm without augmentation is there to compare with." in plain(html)
    assert "without augmentation the mean" not in claim(html)


# ------------------------------------------------------------------------------------------- theory, provenance


def test_the_page_says_where_theory_ends():
    study = classification_study()
    html = page(study, make_metrics(study))
    text = plain(html).replace("\u00a0", " ")
    assert "Arm augmentation~full: no analytic mean μt: loss cross_entropy." in text
    assert "theory predicts" not in claim(html) and "No arm of this study has an analytic mean" in text
    assert not re.search(r"Predicted: \d", text) and "same predictions" in text and "accuracy" in text
    table = text.split("All arms: orbit deviation")[1].split("<figure")[0]
    assert not re.search("NTK|Predicted:|of a prediction", table.split("Orbit deviation against training time")[0])
    assert re.search(r"Of the 4 transforms of an input 3\.\d+ ± 0\.030 get the same class \(single member: ", text)
    study = make_study(sweep={"augmentation": ["full", "random"]})
    text = words(study, make_metrics(study))
    assert "Arm augmentation~random: no analytic covariance" in text and "no analytic mean" not in text
    study = make_study(sweep={"augmentation": ["random"]})
    assert "is not predicted in this study" in words(study, make_metrics(study)) and "is not predicted" not in text


def test_route_and_conditioning_of_each_analytic_solution():
    study = cosine_study()
    stores = make_stores(study)
    assert "Analytic solutions" not in words(study, make_metrics(study))
    for which, (path, arm) in enumerate(stores.items()):
        stores[path] = arm = arm._replace(theory=arm.theory.assign(eigenvalue=("mode", np.arange(16.0))))
        arm.theory.attrs |= {"route": f"route {which}", "largest_eigenvalue": 12.5, "smallest_kept_eigenvalue": 0.125}
        arm.theory.attrs |= {"rank": 15, "rows": 64, "negative_eigenvalues": which, "modes": "all"}
    text = words(study, with_stores(study, make_metrics(study), stores))
    assert "route 1. Eigenvalues of Θ(X, X) (all): largest 12.5, smallest above round-off 0.125; 15 of 16 above" in text
    assert "round-off, 0 negative" in text and "round-off, 1 negative" in text and "No ridge" in text


def test_a_warning_names_all_arms_that_share_the_theory():
    study = make_study(sweep={"augmentation": ["none", "full"], "ensemble.seed": [7, 8]})
    stores = make_stores(study)
    for seed in (7, 8):
        stores[f"augmentation~full/seed~{seed}"].theory.attrs["warning"] = "the learning rate is above critical"
    text = words(study, make_whole(study, stores))
    assert text.count("the learning rate is above critical") == 1
    assert "Warning (augmentation~full/seed~7, augmentation~full/seed~8): the learning rate" in text


def test_provenance_is_quoted_for_each_of_several_data_sets(study, metrics):
    origins = [{"source": "a real data set", "md5": ["ab", "cd"]}, {"source": "b", "substitute": "a part of b"}]
    metrics.attrs["data_provenance"] = json.dumps(origins)
    html = page(study, metrics)
    text = plain(html)
    assert "Data 1 of 2" in text and "source: a real data set" in text and "md5: ab, cd" in text
    assert "Substitute data: a part of b." in claimed(html), "it is known before the claim is believed"


@pytest.mark.parametrize(
    ("commit", "command", "said"),
    [
        ("0123456789ab", "git checkout 0123456789ab\n", "without uncommitted changes"),
        ("0123456789ab-dirty", "git checkout 0123456789ab\n", "The checkout had changes that were not committed"),
        ("unknown", None, "The commit is not known"),
    ],
)
def test_the_commands_that_make_the_study_again(study, metrics, commit, command, said):
    metrics.attrs["git_commit"] = commit
    text = words(study, metrics)
    assert said in text and ".venv/bin/snakemake --cores all --configfile synthetic.yaml" in text
    assert (command in text) if command else ("git checkout" not in text)


def test_modules_of_ones_own_are_named_where_the_commands_are():
    study = make_study(task={"name": "custom", "factory": "examples.my_task:make", "train": 8, "test": 4})
    section = shared.reproduce(study, make_metrics(study))
    assert any("`examples.my_task:make`: that code is needed too" in getattr(b, "text", "") for b in section.blocks)


def test_of_which_seed_the_claim_is_stands_below_it():
    study = make_study(sweep={"augmentation": ["none", "full"], "ensemble.seed": [7, 8]})
    text = claimed(page(study, make_metrics(study)))
    assert "arms with seed = 7 (the first of 2); the tables hold all arms" in text


def test_a_factor_that_is_not_known_is_left_out(study, metrics):
    put_numbers(metrics)
    assert "times smaller" in words(study, metrics)
    metrics["orbit_variance_se"][:] = metrics["orbit_variance"]  # a relative error of 1/2 of the deviation
    assert "times smaller" not in words(study, metrics) and "times that with" not in words(study, metrics)


def test_a_chart_says_what_its_picture_says_above_it(study, metrics):
    spec = chart(figure_data("distance_to_ntk", metrics))
    drawn = [replace(figure, chart=spec, said=["mine · step 300", "one width only"]) for figure in blank_figures(study)]
    part = report_html(study, metrics, drawn).split('id="figure-distance_to_ntk"')[1].split("</figure>")[0]
    assert "mine · step 300; one width only" in part


def test_the_study_file_and_all_settings_are_on_the_page(tmp_path, study, metrics):
    file = tmp_path / "my <study>.yaml"
    file.write_text("study: synthetic  # <b>mine</b>\n")
    content = {"study": "synthetic", "task": {"name": "ising", "lattice": 5}, "group": "c4", "network": {"name": "mlp"}}
    content |= {"training": {"steps": 3}, "ensemble": {"members": 2}, "sweep": {"network.width": [8, 9]}}
    study = parse_study(content, file)
    html = page(study, make_metrics(study))
    assert "study: synthetic  # &lt;b&gt;mine&lt;/b&gt;" in html and str(tmp_path) not in html
    (saved,) = re.findall(r'download="my &lt;study&gt;.yaml" href="data:text/plain[^,]*,([^"]*)"', html)
    assert base64.b64decode(saved) == file.read_bytes()
    assert "activation: relu" in html, "defaults that the file leaves out"
    assert "width~9" in html and "2 arms" in html


# ------------------------------------------------------------------------------------------- markup and tables


def test_what_is_quoted_is_escaped(study, metrics):
    metrics.attrs["data_provenance"] = '{"source": "<script>alert(1)</script>"}'
    metrics["orbit_variance"].attrs["observable"] = "<img src=x onerror=alert(1)>"
    text = page(study, metrics)
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)" in text
    assert "<img src=x" not in text and "&lt;img src=x" in text


def test_marks_of_plain_texts_are_set():
    assert prose("**a** & `b < c`, μ_t, x_t ± 1") == (
        "<strong>a</strong> &amp; <code>b &lt; c</code>, μ<sub>t</sub>, x_t\u00a0±\u00a01"
    )


def test_cells_are_sorted_by_their_numbers_and_saved_in_full_precision(study, metrics):
    html = page(study, metrics)
    table = key_numbers(study, metrics)
    body = re.search(r"<tbody>(.*?)</tbody>", html, flags=re.DOTALL)[1]
    rows = [re.findall(r'<td[^>]*?(?:data-value="([^"]*)")?>([^<]*)</td>', row) for row in body.splitlines() if row]
    assert len(rows) == len(table) == 18
    column = 5  # width, augmentation, members, split, single member, ensemble mean
    assert [float(row[column][0]) for row in rows] == table["ensemble_deviation"].tolist()
    (saved,) = re.findall(r'download="synthetic-key_numbers.csv" href="data:text/csv[^,]*,([^"]*)"', html)
    read = list(csv.DictReader(io.StringIO(base64.b64decode(saved).decode())))
    assert [float(row["orbit_slope"]) for row in read] == table["orbit_slope"].tolist()


def test_every_figure_is_shown_with_words_caption_and_downloads(study, metrics):
    html = page(study, metrics)
    figures = blank_figures(study)
    assert html.count("<figure ") == len(figures) == 5
    for figure in figures:
        (block,) = re.findall(rf'<figure id="figure-{figure.name}".*?</figure>', html, flags=re.DOTALL)
        assert f'alt="{figure.alt}"' in block and "<figcaption>" in block and len(plain(block)) > 200
        assert f'download="synthetic-{figure.name}.csv"' in block and f'download="synthetic-{figure.name}.pdf"' in block


def test_a_figure_that_no_section_names_is_shown_all_the_same(study, metrics, monkeypatch):
    assert "Further figures" not in words(study, metrics)
    monkeypatch.setattr("emergent_equivariance.report.ensemble._OF_ENSEMBLES", ())
    html = page(study, metrics)
    (block,) = re.findall(r'<section id="figures".*?</section>', html, flags=re.DOTALL)
    assert re.findall(r'<figure id="figure-(\w+)"', block) == ["orbit_in_time"]
    assert html.count("<figure ") == len(blank_figures(study))


def test_the_page_is_sealed_with_its_source(study, metrics):
    checksum = "0123456789abcdef" * 4
    html = report_html(study, metrics.assign_attrs(checksum=checksum), blank_figures(study))
    assert source_of(html.encode()) == (checksum, True)
    assert source_of(html.replace("256", "257", 1).encode()) == (checksum, False)


def test_key_numbers_are_a_row_per_arm_and_split(study, metrics):
    table = key_numbers(study, metrics)
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


def test_the_cells_of_a_table_are_made_once_however_often_a_page_asks():
    table = Table("t", "T", ["a", "b"], [["x", 1]], pd.DataFrame())
    assert table.numeric == [False, True]
    assert table.cells is table.cells and table.numeric is table.numeric
