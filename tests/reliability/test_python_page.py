"""docs/python.md: its blocks run, in their order, and what they give is right."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "python.md"
READING = "Read the results of a study"
SECTIONS = {
    heading: "".join(re.findall(r"```python\n(.*?)```", body, re.DOTALL))
    for heading, body in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.DOTALL | re.MULTILINE)
}


def run(*headings, **known):
    names = dict(known)
    for heading in headings:
        exec(compile(SECTIONS[heading], f"{PAGE.name}, {heading}", "exec"), names)
    return names


@pytest.fixture
def float64():
    import jax

    before = jax.config.jax_enable_x64
    yield
    jax.config.update("jax_enable_x64", before)


def test_there_is_no_section_that_is_not_run():
    assert list(SECTIONS) == [
        READING,
        "Figures",
        "Predictions of your own",
        "Kernels and dynamics of your own",
    ]


def test_the_results_of_a_study_and_its_figures(measured, tmp_path, monkeypatch):
    """With a smaller study in the place of the one of the page, whose networks are wider."""
    shutil.copytree(measured.root, tmp_path / "results" / "ising")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(SECTIONS, READING, SECTIONS[READING].replace("256", "8"))
    names = run(READING, "Figures")
    row = names["study"].table().query("augmentation == 'full' and split == 'test'")
    assert len(row) == 1
    assert names["steps"] == [0, 3, 10]
    assert 0 < names["deviation"] < 1
    assert Path("orbit_scaling.pdf").stat().st_size > 1000
    assert set(names["table"]["role"]) >= {"ensemble", "theory", "control"}


def test_own_predictions_and_own_kernels(float64):
    names = run("Predictions of your own", "Kernels and dynamics of your own")
    assert abs(names["slope"] + 0.5) < 5 * names["slope_error"] < 0.2
    np.testing.assert_allclose(names["variance"][0], 0.75 * 0.09, rtol=0.02)  # (1 − 1/|G|) σ² of one network
    expected = names["expected"]["predicted_orbit_variance"]
    np.testing.assert_allclose(expected.sel(member_count=10) * 10, expected.sel(member_count=1), rtol=1e-9)
    assert (expected.sel(member_count=1) > 0).all()
    mean = names["mean"]
    assert float(abs(mean - mean.isel(element=0)).max()) < 1e-9
    target = names["test"].sum(axis=(1, 2))
    assert np.corrcoef(mean.sel(step=1000).isel(element=0, output=0), target)[0, 1] > 0.9
