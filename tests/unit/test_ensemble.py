"""Aggregation on synthetic Gaussian members whose mean and covariance over the orbit are known."""

from __future__ import annotations

import weakref
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from report_pages import page
from test_metrics import DIMS, make_task, make_theory

from emergent_equivariance import ensemble, metrics, products, store
from emergent_equivariance.ensemble import aggregate, member_counts
from emergent_equivariance.errors import StoreError
from emergent_equivariance.figures import FIGURES
from emergent_equivariance.report import key_numbers
from emergent_equivariance.study import FORMAT, parse_study
from emergent_equivariance.study.products import PICTURES
from emergent_equivariance.summary import _over_subsets, _two_terms, join, orbit_scaling, tables

STEPS = (0, 10)


def make_study(members=64, sweep=None, **changed):
    content = {
        "study": "synthetic",
        "task": {"name": "ising", "lattice": 3},
        "group": "c4",
        "network": {"name": "mlp", "width": 8},
        "training": {"steps": 10, "record": list(STEPS)},
        "ensemble": {"members": members},
    }
    if sweep:
        content["sweep"] = sweep
    return parse_study(content | changed, Path("synthetic.yaml"))


def settings_of(**changed):
    return make_study(**changed).arms[0].settings


class World:
    """Members ~ N(μ, Σ) per output and sample, independent between steps, samples and outputs."""

    def __init__(self, seed=0, *, samples=6, sites=False, test=2, asymmetry=0.0, label=None):
        rng = np.random.default_rng(seed)
        self.task = make_task(
            "c4", outputs=1 if label is None else 3, samples=samples, sites=sites, label=label, test=test
        )
        outputs = self.task.target.shape[1]
        base = rng.normal(size=(len(STEPS) * samples, *self.task.output_action.shape)) + 3
        self.mean = self.task.output_action.orbit(base).reshape(len(STEPS), samples, 4, outputs)
        self.mean = self.mean + asymmetry * rng.normal(size=self.mean.shape)
        self.root = rng.normal(size=(len(STEPS), samples, 4, 4))
        self.covariance = self.root @ self.root.swapaxes(-1, -2)

    def reference(self, **options):
        theory = make_theory(self.task, self.mean, self.covariance, STEPS)
        return metrics.Reference.of(self.task, samples=99, theory=theory, **{"loss": "mse", **options})

    def draw(self, members, seed=1):
        """(member, step, sample, element, output) float32."""
        noise = np.random.default_rng(seed).normal(size=(members, *self.mean.shape))
        return (self.mean + np.einsum("tsgh,mtsho->mtsgo", self.root, noise)).astype(np.float32)

    def shards(self, values, sizes=None, diverged=()):
        start = 0
        for size in sizes or [len(values)]:
            yield self.shard(values[start : start + size], start, diverged)
            start += size

    def shard(self, values, first=0, diverged=()):
        member = np.arange(first, first + len(values))
        return xr.Dataset(
            {
                "prediction": (("member", *DIMS), values),
                "loss": (("member", "step"), np.tile([1.0, 0.5], (len(values), 1))),
                "done": ("member", np.ones(len(values), bool)),
                "diverged": ("member", np.isin(member, diverged)),
            },
            {
                "member": member,
                "step": list(STEPS),
                "sample": np.arange(values.shape[2]),
                "element": list(self.task.output_action.group.elements),
            },
            {"file": f"members-{first:06d}.zarr.zip"},
        )

    def aggregate(self, values, settings=None, **options):
        return aggregate(self.shards(values), self.reference(), settings or settings_of(), len(values), **options)


def test_sizes_are_powers_of_two_or_a_list_clipped():
    assert member_counts(settings_of(), 12) == [1, 2, 4, 8]
    assert member_counts(settings_of(evaluate={"member_counts": [3, 100]}), 12) == [1, 3]


def test_values_equal_those_of_whole_arrays():
    world = World(sites=True)
    values = world.draw(12)
    result = world.aggregate(values)
    sizes = {int(m): int(n) for m, n in zip(*np.unique(result["member_count"], return_counts=True), strict=True)}
    assert sizes == {1: 12, 2: 6, 4: 3, 8: 1, 12: 1}
    np.testing.assert_allclose(result["mean"], values.astype(float).mean(0), rtol=1e-12)
    np.testing.assert_allclose(result["second_moment"], (values.astype(float) ** 2).mean(0), rtol=1e-12)
    observable = values.astype(float).sum(-1, keepdims=True)
    np.testing.assert_allclose(result["observable_second_moment"], (observable**2).mean(0), rtol=1e-12)
    np.testing.assert_array_equal(result["example_prediction"], values[:8])
    for i in range(result.sizes["subset"]):
        here = result.isel(subset=i)
        own = values[int(here["first"]) : int(here["stop"])].astype(float)
        assert len(own) == here["member_count"]
        variance = own.mean(0).sum(-1).var(-1)  # (step, sample) of the total
        np.testing.assert_allclose(here["orbit_variance"].sel(split="train"), variance[:, :4].mean(1), rtol=1e-9)
        m = len(own)
        if m > 1:
            unbiased = (m * variance - own.sum(-1).var(-1).mean(0)) / (m - 1)
            np.testing.assert_allclose(here["orbit_variance_unbiased"].sel(split="test"), unbiased[:, 4:].mean(1))
    kept = result["stored_member_count"].values.tolist()
    assert kept == [2] * 4 + [4] * 3 + [8]
    np.testing.assert_allclose(result["subset_mean"][5], values[4:8].mean(0), rtol=1e-6)
    np.testing.assert_allclose(
        result["member_orbit_variance"], result["orbit_variance"][result["member_count"] == 1], rtol=1e-6
    )
    assert result["predicted_orbit_variance"].dims == ("ensemble_size", "step", "split")
    assert result["ensemble_size"].values.tolist() == [1, 2, 4, 8, 12]
    assert result.attrs["members"] == 12 and result["step"].attrs["units"] == "step"


def test_independent_of_chunks_and_shards():
    world = World(sites=True)
    values, reference = world.draw(21), world.reference()
    whole = aggregate(world.shards(values), reference, settings_of(), 21)
    for sizes, chunk in (([21], 1), ([21], 3), ([8, 8, 5], 5), ([1] * 21, 64), ([16, 12], 7)):
        extended = np.concatenate([values, world.draw(9, seed=5)])[: sum(sizes)]  # members past M are not used
        other = aggregate(world.shards(extended, sizes), reference, settings_of(), 21, chunk_members=chunk)
        assert set(other.variables) == set(whole.variables)
        for name, variable in whole.variables.items():
            if variable.dtype.kind != "f":
                np.testing.assert_array_equal(other[name], variable)
            else:
                single = variable.dtype == np.float32  # rounded once, so the last digit may differ
                np.testing.assert_allclose(
                    other[name], variable, rtol=3e-6 if single else 1e-12, atol=1e-12, err_msg=name
                )


def test_diverged_members_are_skipped_and_counted():
    world = World()
    values = world.draw(20)
    bad = [0, 7, 19]
    broken = values.copy()
    broken[bad] = np.nan
    result = aggregate(world.shards(broken, [8, 12], bad), world.reference(), settings_of(), 20, chunk_members=4)
    good = world.aggregate(np.delete(values, bad, axis=0))
    for name in ("mean", "orbit_variance", "orbit_variance_se", "subset_mean", "zscore_to_ntk", "stop"):
        np.testing.assert_allclose(result[name], good[name], rtol=1e-6, err_msg=name)
    assert np.flatnonzero(result["diverged"]).tolist() == bad
    lost = np.isnan(result["member_orbit_variance"]).all(["step", "split"]).values
    assert np.flatnonzero(lost).tolist() == bad
    assert np.flatnonzero(np.isnan(result["member_loss_train"]).all("step")).tolist() == bad
    assert result["example"].values.tolist() == [1, 2, 3, 4, 5, 6, 8, 9]
    joined = join(make_study(members=20), [result])
    assert joined["members"].item() == 17 and joined["diverged"].item() == 3
    assert joined["member_count"].values.tolist() == [1, 2, 4, 8, 16, 17]


def test_an_arm_without_valid_members_is_all_nan():
    world = World()
    values = np.full_like(world.draw(4), np.nan)
    result = aggregate(world.shards(values, diverged=range(4)), world.reference(), settings_of(), 4)
    assert result.sizes["subset"] == 0 and np.isnan(result["mean"]).all() and result.attrs["members"] == 0
    good = world.aggregate(world.draw(4))
    study = make_study(sweep={"network.width": [8, 16]})
    joined = join(study, [result, good])
    assert joined["diverged"].values.tolist() == [4, 0]
    assert np.isnan(joined["orbit_variance"][0]).all() and np.isfinite(joined["orbit_variance"][1]).all()
    assert key_numbers(study, joined)["members"].tolist()[0] == 0
    nothing = join(study, [result, result])
    assert nothing["member_count"].values.tolist() == [1] and nothing["members"].values.tolist() == [0, 0]
    assert np.isnan(nothing["orbit_variance"]).all() and nothing["orbit_variance"].dims[-1] == "member_count"
    assert {name: len(table) for name, table in tables(nothing).items()} == {"metrics": 0, "members": 0, "scaling": 0}
    for data in (joined, nothing):
        assert "All members diverged" in page(study, data)
        for name in set(PICTURES["ensemble"]) - {"same_predictions", "mirror", "orbit_profile"}:
            FIGURES[name].draw(data).canvas.draw()


def test_the_provenance_of_the_data_reaches_the_metrics():
    world, study = World(), make_study(sweep={"network.width": [8, 16]})
    world.task.provenance["source"] = "a"
    one = world.aggregate(world.draw(4))
    world.task.provenance["source"] = "b"
    other = world.aggregate(world.draw(4))
    assert join(study, [one, one]).attrs["data_provenance"] == '{"source": "a"}'
    assert join(study, [one, other]).attrs["data_provenance"] == '[{"source": "a"}, {"source": "b"}]'
    assert "data_provenance" not in join(study, [World().aggregate(world.draw(4))] * 2).attrs


def test_tables_do_not_depend_on_the_order_in_which_a_store_lists_its_variables():
    world, study = World(), make_study(sweep={"network.width": [8, 16]})
    one = world.aggregate(world.draw(8))
    turned = xr.Dataset({name: one[name] for name in reversed(list(one.data_vars))}, one.coords, one.attrs)
    assert list(turned.data_vars) != list(one.data_vars)
    texts = [
        {name: table.to_csv() for name, table in products.tables(study, join(study, found)).items()}
        for found in ([one, one], [turned, one])
    ]
    assert texts[0] == texts[1] and texts[0].keys() == {"metrics", "members", "scaling", "key_numbers"}


def test_actions_that_are_not_exact_are_said_in_the_report():
    world, study = World(), make_study(sweep={"network.width": [8, 16]})
    exact = world.aggregate(world.draw(4))
    metrics = join(study, [exact, exact])
    assert "composition_error" not in metrics and "composition_error" not in key_numbers(study, metrics)
    assert "not exact" not in page(study, metrics)
    world.task.provenance.update(composition_error=0.19, composition_error_largest=0.463)
    inexact = world.aggregate(world.draw(4))
    metrics = join(study, [exact, inexact])
    assert metrics["composition_error"].values.tolist() == [0, 0.19]
    assert metrics["composition_error_largest"].values.tolist() == [0, 0.463]
    said = page(study, metrics)
    assert said.count("is not exact") == 1 and "(width~16)" in said
    assert "19 % of its norm" in said and "at most 46.3 %" in said
    table = key_numbers(study, metrics).set_index("arm")
    assert (table.loc["width~16", "composition_error"] == 0.19).all()
    assert (table.loc["width~8", "composition_error"] == 0).all()
    assert "(width~" not in page(study, join(study, [inexact, inexact])).split("not exact")[1][:40]


def test_one_pass_with_few_shards_alive_and_small_reads():
    """Shards are made when asked for, and no read takes more than a chunk of members."""
    world, made, most, read = World(), [], [0], [0]

    class Recorded(xr.backends.BackendArray):
        def __init__(self, values):
            self.values, self.shape, self.dtype = values, values.shape, values.dtype

        def __getitem__(self, key):
            return xr.core.indexing.explicit_indexing_adapter(
                key, self.shape, xr.core.indexing.IndexingSupport.BASIC, self.get
            )

        def get(self, key):
            block = self.values[key]
            read[0] = max(read[0], len(block))
            return block

    def shards():
        for first in range(0, 96, 16):
            values = world.draw(16, seed=first)
            shard = world.shard(values, first)
            lazy = xr.core.indexing.LazilyIndexedArray(Recorded(values))
            shard["prediction"] = xr.Variable(("member", *DIMS), lazy)
            made.append(weakref.ref(shard))
            most[0] = max(most[0], sum(one() is not None for one in made))
            yield shard
            del shard, values, lazy

    result = aggregate(shards(), world.reference(), settings_of(), 96, chunk_members=8)
    assert read[0] == 8 and most[0] <= 2
    assert (result["member_count"] == 96).sum() == 1


def test_running_state_does_not_grow_with_members():
    for size, members in ((4, 1000), (1, 1000), (64, 1000)):
        running = ensemble._Subsets(size)
        for _ in range(members // 8):
            running.add([np.ones((8, 3)), np.ones((8, 2))])
            assert sum(a.nbytes for a in running.partial) <= 5 * 8
        assert running.complete == members // size


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.assign(done=s["done"] & (s["member"] != 3)), "members .3. are not done"),
        (lambda s: s.assign_coords(step=[0, 11]), "has steps"),
        (lambda s: s.assign_coords(sample=s["sample"] + 1), "has samples"),
        (lambda s: s.isel(element=[1, 0, 2, 3]), "has elements"),
        (lambda s: s.isel(output=[0, 0]), "has 2 outputs"),
        (lambda s: s.assign_coords(member=s["member"] + 1), "consecutive ones from 0"),
        (lambda s: s.assign(prediction=s["prediction"].where(s["member"] != 5)), "missing or not finite"),
    ],
)
def test_bad_shards_are_refused_by_name(change, message):
    world = World()
    shard = change(world.shard(world.draw(8))).assign_attrs(file="members-000000-000007.zarr.zip")
    with pytest.raises(StoreError, match=message) as error:
        aggregate([shard], world.reference(), settings_of(), 8)
    assert "members-000000-000007.zarr.zip" in str(error.value)


def test_missing_members_and_foreign_theory_are_refused():
    world = World()
    with pytest.raises(StoreError, match="hold 8 members, the study asks for 9"):
        aggregate(world.shards(world.draw(8)), world.reference(), settings_of(), 9)
    with pytest.raises(StoreError, match="consecutive ones from 4"):
        aggregate([world.shard(world.draw(4)), world.shard(world.draw(4), 8)], world.reference(), settings_of(), 8)
    other = settings_of(training={"steps": 10, "record": [0, 1, 10]})
    with pytest.raises(StoreError, match="the theory is of the steps"):
        aggregate(world.shards(world.draw(8)), world.reference(), other, 8)


@pytest.mark.parametrize("sites", [False, True])
@pytest.mark.parametrize("asymmetry", [0.0, 0.5])
def test_measured_agrees_with_predicted_at_every_size(sites, asymmetry):
    world = World(3, samples=16, test=8, sites=sites, asymmetry=asymmetry)
    values = world.draw(512)
    joined = join(make_study(members=512), [world.aggregate(values)]).squeeze("arm")
    for name in ("orbit_variance", "orbit_mse"):
        predicted = joined[f"predicted_{name}"]
        enough = joined["member_count"] <= 16  # 32 subsets: fewer make a t distribution with long tails
        z = ((joined[name] - predicted) / joined[f"{name}_se"]).where(enough, drop=True)
        assert (abs(z) < 4).all(), (name, float(abs(z).max()))
        assert np.isfinite(joined[f"predicted_{name}_se"]).all()
    biased = xr.DataArray(world.mean, dims=DIMS).sum("output").var("element")
    expected = xr.concat([biased[:, :8].mean("sample"), biased[:, 8:].mean("sample")], "split").T
    unbiased = joined[["orbit_variance_unbiased", "orbit_variance_unbiased_se"]].sel(member_count=[2, 4, 8, 16])
    z = (unbiased["orbit_variance_unbiased"] - expected) / unbiased["orbit_variance_unbiased_se"]
    assert float(abs(z).max()) < 4
    if asymmetry == 0:
        slope = (joined["orbit_slope"] + 0.5) / joined["orbit_slope_se"]
        assert (abs(slope) < 4.5).all()  # 8 blocks: the 3σ level of a t distribution with 7 degrees of freedom
        assert np.sqrt((slope**2).mean()) < 2
        score = joined[["zscore_to_ntk", "zscore_to_ntk_se"]].sel(member_count=[1, 4, 16])
        assert (abs(score["zscore_to_ntk"] - 1) < 4 * score["zscore_to_ntk_se"] + 0.01).all()
    ratio = (joined["orbit_variance_ratio"] - 1) / joined["orbit_variance_ratio_se"]
    assert (abs(ratio) < 4.5).all()
    assert (abs(joined["orbit_variance_ratio"] - 1) < 0.1).all()


def test_a_plateau_flattens_the_slope_but_not_the_ratio():
    world = World(4, asymmetry=3.0)
    scaling = orbit_scaling(world.aggregate(world.draw(256)))
    assert (scaling["orbit_slope"] > -0.3).all()
    assert (abs(scaling["orbit_variance_ratio"] - 1) < 0.15).all()


def test_scaling_needs_sixteen_members_and_a_deviation():
    world = World()
    assert np.isnan(orbit_scaling(world.aggregate(world.draw(15)))["orbit_variance_ratio"]).all()
    few = orbit_scaling(world.aggregate(world.draw(31)))
    assert np.isnan(few["orbit_slope"]).all() and np.isfinite(few["orbit_variance_ratio"]).all()
    assert np.isfinite(orbit_scaling(world.aggregate(world.draw(32)))["orbit_slope"]).all()
    symmetric = np.repeat(world.draw(32)[:, :, :, :1], 4, axis=3)
    result = orbit_scaling(world.aggregate(symmetric))
    assert np.isnan(result["orbit_slope"]).all() and np.isnan(result["orbit_variance_ratio"]).all()
    listed = settings_of(evaluate={"member_counts": [3, 10, 31, 100]})
    result = orbit_scaling(world.aggregate(world.draw(400), listed))
    assert (abs(result["orbit_slope"] + 0.5) < 4 * result["orbit_slope_se"]).all()


@pytest.mark.slow
def test_standard_errors_cover_the_spread_over_repetitions():
    """The claimed errors of subsets and blocks are the actual ones; a jackknife over members would not be."""
    world, repetitions = World(8, samples=4), 60
    study = make_study(members=64, evaluate={"member_counts": [1, 2, 4, 8]})
    reference = world.reference()
    names = {"orbit_variance": 4, "orbit_variance_unbiased": 4, "zscore_to_ntk": 4, "orbit_mse": 1}
    found = {name: [] for name in (*names, "orbit_slope", "orbit_variance_ratio")}
    for seed in range(repetitions):
        result = aggregate(world.shards(world.draw(64, seed=100 + seed)), reference, study.arms[0].settings, 64)
        joined = join(study, [result]).sel(step=10, split="train").squeeze("arm")
        for name, rows in found.items():
            here = joined.sel(member_count=names[name]) if name in names else joined
            rows.append((here[name].item(), here[f"{name}_se"].item()))
    for name, rows in found.items():
        value, claimed = np.array(rows).T
        ratio = np.sqrt((claimed**2).mean()) / value.std(ddof=1)
        assert 0.75 < ratio < 1.35, (name, ratio)
    slopes = np.array(found["orbit_slope"])[:, 0]
    assert abs(slopes.mean() + 0.5) < 4 * slopes.std() / np.sqrt(repetitions) + 0.01


@pytest.mark.parametrize("plateau", [0.0, 0.3, 3.0])
def test_errors_of_the_full_ensemble_are_the_actual_ones_with_and_without_a_plateau(plateau):
    """Quadratic forms of members v + noise: claimed over actual error, and few beyond three of them."""
    rng, members, dimension, repetitions = np.random.default_rng(0), 128, 6, 200
    scale = np.linspace(0.3, 1.0, dimension)
    centre = plateau * np.ones(dimension) / np.sqrt(dimension)
    sizes = [2**k for k in range(8)]
    label = np.concatenate([np.full(members // m, m) for m in sizes])
    found: dict[str, list[tuple[float, float]]] = {"orbit_variance": [], "orbit_variance_unbiased": []}
    for _ in range(repetitions):
        v = centre + scale * rng.normal(size=(members, dimension))
        square, single = [], []
        for m in sizes:
            square.append((v.reshape(-1, m, dimension).mean(1) ** 2).sum(-1))
            single.append((v**2).sum(-1).reshape(-1, m).mean(1))
        squares, spread = np.concatenate(square)[:, None, None], np.concatenate(single)[:, None, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            unbiased = (label[:, None, None] * squares - spread) / (label[:, None, None] - 1)
        unbiased[label == 1] = np.nan
        for name, values, source in (
            ("orbit_variance", squares, None),
            ("orbit_variance_unbiased", unbiased, squares),
        ):
            value, error = _over_subsets(name, values, np.zeros_like(values), label, source)
            found[name].append((value[0, 0, -1], error[0, 0, -1]))
    for name, rows in found.items():
        value, claimed = np.array(rows).T
        ratio = np.sqrt((claimed**2).mean()) / value.std(ddof=1)
        assert 0.77 < ratio < 1.3, (name, ratio)
        truth = (centre**2).sum() + ((scale**2).sum() / members if name == "orbit_variance" else 0)
        assert (np.abs(value - truth) > 3 * claimed).mean() < 0.03, name


def test_the_fit_of_two_terms_finds_them_and_leaves_constants_alone():
    sizes = np.concatenate([np.full(64 // m, m) for m in (1, 2, 4, 8, 16, 32, 64)])
    for a, b in ((108.0, 18.0), (60.0, 18.0)):  # |v|² = 9, tr C = 3: 108 and 18 in one dimension
        values = np.empty((len(sizes), 1, 1))
        for m in np.unique(sizes):
            rows = np.flatnonzero(sizes == m)
            pattern = np.resize([-1.0, 1.0], len(rows))
            pattern = pattern / pattern.std(ddof=1) if len(rows) > 1 else 0 * pattern
            values[rows, 0, 0] = 9 + 3 / m + np.sqrt(a / m + b / m**2) * pattern
        counts = np.unique(sizes)
        np.testing.assert_allclose(_two_terms(values, sizes)[0, 0], np.sqrt(a / counts + b / counts**2), rtol=1e-5)
    assert np.isnan(_two_terms(np.zeros((len(sizes), 1, 1)), sizes)).all()
    error = _over_subsets("orbit_variance", *np.zeros((2, len(sizes), 1, 1)), sizes)[1]
    assert (error == 0).all()


def test_sizes_with_few_subsets_carry_on_the_spread_of_the_largest_size_with_eight():
    result = World(samples=8).aggregate(World(samples=8).draw(16))
    joined = join(make_study(members=16), [result]).squeeze("arm")
    names = ["orbit_variance", "zscore_to_ntk", "loss"]
    spread = result[names].isel(subset=result["member_count"].values == 2).std("subset", ddof=1)
    two, four = (joined.sel(member_count=m) for m in (2, 4))
    np.testing.assert_allclose(two["orbit_variance_se"], spread["orbit_variance"] / np.sqrt(8))
    relative = spread["orbit_variance"] / two["orbit_variance"]
    np.testing.assert_allclose(four["orbit_variance_se"], four["orbit_variance"] * relative / np.sqrt(4))
    np.testing.assert_allclose(four["zscore_to_ntk_se"], spread["zscore_to_ntk"] / np.sqrt(4))
    np.testing.assert_allclose(four["loss_se"], spread["loss"] * np.sqrt(2 / 4) / np.sqrt(4))
    assert np.isnan(joined["orbit_variance_unbiased"].sel(member_count=1)).all()
    assert np.isnan(joined["difference_to_ntk"].sel(step=0)).all()


def test_without_a_size_of_eight_subsets_the_jackknife_over_samples_is_used():
    world = World(samples=8)
    result = world.aggregate(world.draw(4))
    joined = join(make_study(members=4), [result]).squeeze("arm")
    two = result["orbit_variance_se"][result["member_count"].values == 2]
    np.testing.assert_allclose(joined["orbit_variance_se"].sel(member_count=2), two.mean("subset"), rtol=1e-6)


def test_join_aligns_arms_with_different_sizes_steps_and_theory():
    """Also an arm without Σ_t, and swept keys named like a metric or a number of ours."""
    world = World()
    study = make_study(sweep={"augmentation": ["full", "random"], "ensemble.members": [8, 12]})
    plain = metrics.Reference.of(
        world.task, samples=99, loss="mse", theory=make_theory(world.task, world.mean, steps=STEPS)
    )
    results = []
    for arm in study.arms:
        m = arm.settings.ensemble.members
        known = world.reference() if arm.settings.has_covariance else plain
        results.append(aggregate(world.shards(world.draw(m)), known, arm.settings, m))
    joined = join(study, results)
    assert joined["arm"].values.tolist() == [arm.path for arm in study.arms]
    assert joined["member_count"].values.tolist() == [1, 2, 4, 8, 12]
    assert joined["split"].values.tolist() == ["train", "test"] and joined["step"].values.tolist() == list(STEPS)
    assert joined["augmentation"].values.tolist() == ["full", "full", "random", "random"]
    assert joined["swept_members"].values.tolist() == [8, 12, 8, 12] == joined["members"].values.tolist()
    assert joined["augmentation_label"].values.tolist() == joined["augmentation"].values.tolist()
    assert joined["network_width"].values.tolist() == [8] * 4 and joined["has_mean"].all()
    assert len(set(joined["group_order"].values.tolist())) == 1 and joined["group_order"][0] > 1
    assert np.isnan(joined["orbit_variance"].sel(member_count=12)[0]).all()
    assert np.isnan(joined["predicted_orbit_variance"][2:]).all() and np.isnan(joined["zscore_to_ntk"][2:]).all()
    assert np.isfinite(joined["difference_to_ntk"].sel(step=10, member_count=8)).all()
    assert joined["member_orbit_variance"].dims == ("arm", "step", "split", "member")
    assert np.isnan(joined["member_orbit_variance"][0].sel(member=8)).all()
    with pytest.raises(ValueError, match="4 arms but 1"):
        join(study, results[:1])


def test_results_survive_their_files(tmp_path):
    world = World(label=np.array([0, 1, 2, 0, 1, 2]))
    result = world.aggregate(world.draw(20))
    store.write(result, tmp_path / "ensemble.zarr.zip", {"format": FORMAT})
    joined = join(make_study(), [store.read(tmp_path / "ensemble.zarr.zip")])
    store.write_netcdf(joined, tmp_path / "metrics.nc", {})
    again = store.read_netcdf(tmp_path / "metrics.nc")
    xr.testing.assert_allclose(again, join(make_study(), [result]))
    assert again["orbit_variance"].attrs["observable"] == "h" and again["step"].attrs["units"] == "step"
    for name, table in tables(again).items():
        assert table.equals(tables(joined)[name]), name


def test_tables():
    world = World(label=np.array([0, 1, 2, 0, 1, 2]))
    study = make_study(sweep={"network.width": [8, 16]}, members=64)
    joined = join(study, [world.aggregate(world.draw(64, seed)) for seed in (0, 1)])
    frames = tables(joined)
    table = frames["metrics"].set_index(["arm", "step", "split", "member_count"])
    assert len(table) == 2 * 2 * 2 * 7 and set(table["width"]) == {8, 16}
    assert {"network_width", "augmentation_label", "orbit_variance_se", "predicted_orbit_variance"} <= set(table)
    assert table.loc[("width~16", 10, "test", 4), "orbit_kl"] == joined["orbit_kl"].sel(
        arm="width~16", step=10, split="test", member_count=4
    )
    row = (
        frames["members"].query("arm == 'width~8' and step == 10 and split == 'train' and metric == 'accuracy'").iloc[0]
    )
    accuracies = joined["member_accuracy"].sel(arm="width~8", step=10, split="train")
    assert row["members"] == 64 and np.isclose(row["mean"], accuracies.mean()) and row["max"] == accuracies.max()
    assert "loss_train" not in set(frames["members"]["metric"])
    key = key_numbers(study, joined).set_index(["arm", "split"]).loc[("width~8", "test")]
    last = joined.sel(arm="width~8", split="test", step=10)
    assert key["members"] == 64 and key["diverged"] == 0 and key["step"] == 10
    assert np.isclose(key["ensemble_deviation"] ** 2, last["orbit_variance"].sel(member_count=64))
    assert np.isclose(key["member_deviation"] ** 2, last["orbit_variance"].sel(member_count=1))
    assert np.isclose(key["predicted_deviation"] ** 2, last["predicted_orbit_variance"].sel(member_count=64))
    assert key["member_orbit_same_predictions"] == last["orbit_same_predictions"].sel(member_count=1)
    for name in ("orbit_slope", "orbit_variance_ratio", "difference_to_ntk", "accuracy", "orbit_same_predictions"):
        assert np.isfinite(key[name]) and np.isfinite(key[f"{name}_se"]), name


def test_softmax_averages_probabilities():
    world = World(label=np.array([0, 1, 2, 0, 1, 2]))
    values = world.draw(6)
    reference = world.reference(averaged="softmax", loss="cross_entropy")
    result = aggregate(world.shards(values), reference, settings_of(), 6)
    p = np.exp(values.astype(float))
    p /= p.sum(-1, keepdims=True)
    np.testing.assert_allclose(result["mean"], p.mean(0), rtol=1e-10)
    cross_entropy = -np.log(p.mean(0)[:, np.arange(4), 0, world.task.label[:4]]).mean(1)
    full = result.isel(subset=-1)
    assert full["member_count"] == 6 and result.attrs["ensemble_mean"] == "softmax"
    np.testing.assert_allclose(full["loss"].sel(split="train"), cross_entropy)
    assert "difference_to_ntk" not in result and "predicted_orbit_variance" not in result
