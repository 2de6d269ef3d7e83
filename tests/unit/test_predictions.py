"""What metrics.nc quotes of the stores: the numbers of the stores, few of them, read where they are needed."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from synthetic_results import classification_study, cosine_study, make_metrics, make_stores, make_study, make_whole

from emergent_equivariance.figures.predictions import mean_label
from emergent_equivariance.predictions import MEMBERS, ORBITS, drawn, theory_variables
from emergent_equivariance.study.choice import joined_stores, store_arms

NONE, FULL = "augmentation~none", "augmentation~full"


def two_logits(stores):
    """The stores of two outputs with each output an observable of its own."""
    for path, (data, _, ensemble) in stores.items():
        data = data.drop_vars("readout").assign(readout=(("observable", "output"), np.eye(2)))
        second = ensemble["second_moment"].rename(output="observable")
        ensemble = ensemble.drop_vars("observable_second_moment").assign(observable_second_moment=second)
        stores[path] = stores[path]._replace(data=data.assign_attrs(observable_name="logits"), ensemble=ensemble)
    return stores


@pytest.mark.parametrize("arm", [NONE, FULL])
def test_what_is_drawn_is_the_largest_observable_of_the_main_arm_with_its_theory(arm):
    study = make_study(sweep={"augmentation": ["none", "full"]})
    stores = two_logits(make_stores(study, mixing=True))
    found, here = drawn(study, stores), stores[arm]
    assert found["drawn_arm"].values.tolist() == [NONE, FULL] and found["drawn_step"].values.tolist() == [300]
    assert found["drawn_mean"].attrs["observable"] == "largest logit" and found["drawn_step"].attrs["units"] == "step"
    assert found["drawn_profile"].values.all()
    splits = stores[FULL].data["split"].sel(sample=found["drawn_sample"].values).values
    assert found["drawn_split"].values.tolist() == splits.tolist()
    assert {split: (splits == split).sum() for split in splits} == dict.fromkeys(
        ("train", "test", "ood-gaussian"), ORBITS
    )
    for sample in found["drawn_sample"].values:
        at = {"step": 300, "sample": sample}
        index = int(stores[FULL].ensemble["mean"].sel(at).isel(element=0).argmax("output"))
        one = found.sel(drawn_arm=arm, drawn_step=300, drawn_sample=sample)
        assert one["drawn_observable"] == index
        mean = here.ensemble["mean"].sel(at).isel(output=index).values
        np.testing.assert_allclose(one["drawn_mean"], mean)
        variance = here.ensemble["second_moment"].sel(at).isel(output=index).values - mean**2
        np.testing.assert_allclose(one["drawn_member_std"], np.sqrt(variance * 256 / 255))
        np.testing.assert_allclose(one["drawn_mean_se"], one["drawn_member_std"] / 16)
        single = here.ensemble["example_prediction"].sel(at).isel(output=index, example=slice(MEMBERS))
        np.testing.assert_allclose(one["drawn_single"], single)
        np.testing.assert_allclose(one["drawn_theory_mean"], here.theory["mean"].sel(at).isel(output=index))
        covariance = here.theory["orbit_covariance"].sel(at).values
        np.testing.assert_allclose(one["drawn_theory_std"], np.sqrt(np.diag(covariance)))
        difference = [covariance[g, g] + covariance[0, 0] - 2 * covariance[g, 0] for g in range(4)]
        np.testing.assert_allclose(one["drawn_theory_difference_std"], np.sqrt(np.maximum(difference, 0)), atol=1e-7)


def test_the_deviation_of_a_sum_of_outputs_has_the_norm_of_the_sum():
    study = make_study(sweep={"augmentation": ["full"]})
    stores = make_stores(study, mixing=True)
    found, covariance = drawn(study, stores).isel(drawn_arm=0, drawn_sample=4), stores[FULL].theory["orbit_covariance"]
    at = covariance.sel(step=300, sample=found["drawn_sample"].item()).values
    np.testing.assert_allclose(found["drawn_theory_std"].sel(drawn_step=300), np.sqrt(2 * np.diag(at)))
    assert found["drawn_mean"].attrs["observable"] == "total energy"


def test_the_mirror_toy_has_its_whole_line_and_an_early_step():
    study = cosine_study()
    stores = make_stores(study)
    found = make_whole(study, stores)
    data = stores[FULL].data
    assert found["drawn_step"].values.tolist() == [30, 1000]
    assert found.sizes["drawn_sample"] == data.sizes["sample"] and found["drawn_profile"].sum() == 3 * ORBITS
    x = data["input"].values[:, 0]
    np.testing.assert_array_equal(found["drawn_input"], np.stack([x, -x], axis=1))
    for name, expected in (("input", x), ("target", data["target"].values[:, 0]), ("split", data["split"].values)):
        np.testing.assert_array_equal(found[f"data_{name}"], expected)


def test_arms_without_members_theory_or_examples_are_nan_or_absent():
    study = make_study(sweep={"augmentation": ["none", "full"]}, ensemble={"members": 2})
    stores = make_stores(study)
    single = drawn(study, stores)["drawn_single"].transpose("drawn_member", ...)
    assert single[:2].notnull().all() and single[2:].isnull().all()
    ensemble = stores[NONE].ensemble
    gone = (ensemble * np.nan).drop_vars("example_prediction").assign_attrs(members=0)
    stores[NONE] = stores[NONE]._replace(ensemble=gone, theory=None)
    found = drawn(study, stores).sel(drawn_arm=NONE)
    for name, values in found.data_vars.items():
        if str(name).startswith("drawn_"):
            assert values.isnull().all(), name
    study = classification_study()
    found = make_whole(study)
    assert not [name for name in found if str(name).startswith("drawn_theory")]
    assert (found["theory_route"] == "").all() and found["theory_rank"].isnull().all()


def test_the_theory_of_every_arm_is_quoted_once_read():
    study = make_study(sweep={"augmentation": ["none", "full"], "ensemble.seed": [7, 8]})
    arms = store_arms(study)
    assert [arm.coords["seed"] for arm in arms] == [7, 7], "seeds share data and theory"
    stores = {path: here for path, here in make_stores(study).items() if path in [arm.path for arm in arms]}
    for k, (path, here) in enumerate(stores.items()):
        theory = here.theory.assign(eigenvalue=("mode", np.arange(16.0)), mean_error=0 * here.theory["mean"] + 0.5)
        said = {"route": f"route {k}", "rank": 15 - k, "largest_eigenvalue": 12.5, "modes": "all"}
        stores[path] = here._replace(theory=theory.assign_attrs(said | ({"warning": "above critical"} if k else {})))
    found = xr.Dataset(theory_variables(study, stores), {"arm": [arm.path for arm in study.arms]})
    assert found["theory_route"].values.tolist() == ["route 0", "route 0", "route 1", "route 1"]
    assert found["theory_rank"].values.tolist() == [15, 15, 14, 14]
    assert found["theory_warning"].values.tolist() == ["", "", "above critical", "above critical"]
    assert (found["theory_modes_computed"] == 16).all() and (found["theory_mean_error"] == 0.5).all()
    assert found["theory_smallest_kept_eigenvalue"].isnull().all()
    assert mean_label(drawn(study, stores)) == "Monte-Carlo mean μₜ (no fit)"


def test_studies_of_kernels_join_results_alone():
    study = make_study(sweep={"augmentation": ["none", "full"]})
    assert [path.parent.name for path in joined_stores(study)] == ["data", "theory", "theory"]
    assert len(joined_stores(classification_study())) == 1


class Recorded(xr.backends.BackendArray):
    """An array on disk, of which only what is asked for is read."""

    def __init__(self, values):
        self.values, self.shape, self.dtype, self.read = values, values.shape, values.dtype, 0

    def __getitem__(self, key):
        support = xr.core.indexing.IndexingSupport.OUTER
        return xr.core.indexing.explicit_indexing_adapter(key, self.shape, support, self.get)

    def get(self, key):
        found = self.values[np.ix_(*(np.atleast_1d(np.arange(n)[k]) for k, n in zip(key, self.shape, strict=True)))]
        self.read += found.size
        return found.reshape([n for n, k in zip(found.shape, key, strict=True) if not isinstance(k, int | np.integer)])


def test_only_what_is_drawn_is_read():
    study = make_study(sweep={"augmentation": ["none", "full"]})
    stores, lazy = make_stores(study), []

    def opened(dataset):
        for name, variable in dataset.data_vars.items():
            if "sample" in variable.dims and "step" in variable.dims:
                lazy.append(Recorded(variable.values))
                wrapped = xr.core.indexing.LazilyIndexedArray(lazy[-1])
                dataset = dataset.assign({name: xr.Variable(variable.dims, wrapped)})
        return dataset

    expected = drawn(study, stores)
    for path, (_, theory, ensemble) in stores.items():
        stores[path] = stores[path]._replace(theory=opened(theory), ensemble=opened(ensemble))
    xr.testing.assert_identical(drawn(study, stores), expected)
    orbits = 3 * ORBITS / expected.sizes["drawn_sample"]
    assert orbits == 1 and all(array.read <= array.values.size / 6 for array in lazy), "one step of six"
    assert make_metrics(study).nbytes > expected.nbytes
