"""The solve in blocks against the direct one on the augmented set (theory.md §7, item 2)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pytest
import xarray as xr

from emergent_equivariance import dynamics, orbit_solve
from emergent_equivariance.groups import GROUPS, Action, get_group, grid_action, invariant_action, line_action
from emergent_equivariance.kernels import orbits
from emergent_equivariance.settings import Settings
from emergent_equivariance.tasks.registry import build_task
from emergent_equivariance.theory import kernel_samples, resolve_learning_rate, solve

SLOW = pytest.mark.slow
TRAIN, SAMPLES = 5, 8
TIMES = [0, 1, 20, 10**5, np.inf]


def gaussian(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """exp(−|x − y|²/size): invariant under every orthogonal action."""
    distance = ((x[:, None] - y[None]) ** 2).reshape(len(x), len(y), -1)
    return np.exp(-distance.mean(axis=-1))


def odd(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """sinh of the inner product, odd in x and with entries of both signs."""
    return np.sinh((x[:, None] * y[None]).reshape(len(x), len(y), -1).mean(axis=-1))


@dataclass(frozen=True, eq=False)
class Case:
    """Kernel, actions, data: training samples first."""

    input_action: Action
    output_action: Action
    kernels: tuple[Any, Any] = (gaussian, lambda x, y: gaussian(x, y) ** 2 + 0.1 * odd(x, y))
    special: bool = False

    @cached_property
    def inputs(self) -> np.ndarray:
        inputs = np.random.default_rng(1).standard_normal((SAMPLES, *self.input_action.shape))
        if self.special:  # a training sample that every element leaves alone
            inputs[0] = 1.0
        return inputs

    @cached_property
    def target(self) -> np.ndarray:
        """(train, element, output)."""
        rng = np.random.default_rng(2)
        return self.output_action.orbit(rng.standard_normal((TRAIN, *self.output_action.shape)))

    @cached_property
    def matrices(self) -> tuple[np.ndarray, np.ndarray]:
        """K and Θ between all transformed samples, (row, row_) with rows (sample, element)."""
        points = self.input_action.orbit(self.inputs).reshape(-1, *self.input_action.shape)
        nngp, ntk = (kernel(points, points) for kernel in self.kernels)
        return (nngp + nngp.T) / 2, (ntk + ntk.T) / 2

    def kappa(self, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, ...]:
        x = self.inputs[rows]
        y = self.input_action.orbit(self.inputs[columns]).reshape(-1, *self.input_action.shape)
        shape = len(rows), len(columns), self.input_action.group.order
        return tuple(kernel(x, y).reshape(shape) for kernel in self.kernels)

    def blocks(self, irreps: list[int], nngp: bool = True) -> orbits.OrbitBlocks:
        return orbits.irrep_blocks(
            self.kappa, self.input_action.group, irreps, np.arange(SAMPLES), TRAIN, nngp=nngp, progress=None
        )

    def initial(self) -> np.ndarray:
        order = self.input_action.group.order
        nngp = self.matrices[0].reshape(SAMPLES, order, SAMPLES, order)
        return np.stack([nngp[s, :, s] for s in range(SAMPLES)])


def directly(case: Case, eta: float, form: dynamics.Form) -> tuple[dynamics.Spectrum, np.ndarray, np.ndarray]:
    order = case.input_action.group.order
    rows = TRAIN * order
    nngp, ntk = case.matrices
    cross_nngp, cross_ntk = (kernel[:, :rows].reshape(SAMPLES, order, rows) for kernel in (nngp, ntk))
    spectrum = dynamics.decompose(ntk[:rows, :rows])
    target = case.target.reshape(rows, -1)
    mean = dynamics.mean(spectrum, cross_ntk, target, TIMES, eta, form)
    covariance = dynamics.covariance(
        spectrum, cross_ntk, cross_nngp, nngp[:rows, :rows], case.initial(), TIMES, eta, target.shape[1], form
    )
    return spectrum, mean, covariance


def in_blocks(case: Case, eta: float, form: dynamics.Form) -> tuple[orbit_solve.OrbitSpectrum, np.ndarray, np.ndarray]:
    group = case.input_action.group
    blocks = case.blocks(orbit_solve.representatives(group))
    spectrum = orbit_solve.decompose(group, orbits.on_training(blocks.ntk), TRAIN * group.order)
    everything = np.arange(SAMPLES)
    ntk, nngp = orbits.on_samples(blocks.ntk, everything), orbits.on_samples(blocks.nngp, everything)
    outputs = case.target.shape[-1]
    mean = orbit_solve.mean(spectrum, ntk, case.target, TIMES, eta, form)
    covariance = orbit_solve.covariance(
        spectrum, ntk, nngp, orbits.on_training(blocks.nngp), case.initial(), TIMES, eta, outputs, form
    )
    return spectrum, mean, covariance


def signs(name: str, irrep: int) -> Action:
    """One output that a real character of the group multiplies."""
    group = get_group(name)
    return Action(group, (1,), np.zeros((group.order, 1), dtype=np.int64), group.irreps[irrep][:, 0].astype(np.int8))


def cases() -> list[Any]:
    found = []
    for name, group in GROUPS.items():
        square = grid_action(group, 3, 3, 1)
        outputs = {"invariant": invariant_action(group, (3,)), "local": grid_action(group, 3, 3)}
        outputs |= {f"sign{i}": signs(name, i) for i in range(1, len(group.irreps)) if group.irreps[i].dtype == float}
        for label, action in outputs.items():
            if action.sign.shape[1] == 1 or label in ("invariant", "local"):
                flat = Action(group, (action.source.shape[1],), action.source, action.sign)
                found.append(pytest.param(Case(square, flat), id=f"{name}-{label}"))
    c2, d2 = get_group("c2"), get_group("d2")
    found.append(pytest.param(Case(line_action(c2), invariant_action(c2, (2,))), id="line"))
    found.append(pytest.param(Case(grid_action(d2, 2, 4), invariant_action(d2, (2,))), id="rectangle"))
    return found


@pytest.mark.parametrize("form", ["descent", "flow"])
@pytest.mark.parametrize("case", cases())
def test_blocks_give_the_numbers_of_the_augmented_set(case: Case, form: dynamics.Form) -> None:
    whole = case.matrices[1][: TRAIN * case.input_action.group.order, : TRAIN * case.input_action.group.order]
    eta = 0.9 * dynamics.critical_learning_rate(np.linalg.eigvalsh(whole)[-1], len(whole), case.target.shape[-1])
    direct, means, covariances = directly(case, eta, form)
    spectrum, mean, covariance = in_blocks(case, eta, form)
    np.testing.assert_allclose(spectrum.eigenvalue, direct.eigenvalue, rtol=0, atol=1e-13 * direct.eigenvalue[-1])
    for time in range(len(TIMES)):
        np.testing.assert_allclose(mean[time], means[time], rtol=0, atol=1e-9 * np.abs(means[time]).max())
        scale = np.abs(covariances[0]).max()  # Σ_t is a difference of terms of this size
        np.testing.assert_allclose(covariance[time], covariances[time], rtol=0, atol=1e-9 * scale)
    assert (mean[0] == 0).all()
    np.testing.assert_array_equal(covariance[0], case.initial())
    np.testing.assert_array_equal(covariance, covariance.swapaxes(-1, -2))
    orbit_variance = covariance.diagonal(axis1=-2, axis2=-1).mean(axis=-1) - covariance.mean(axis=(-2, -1))
    if case.input_action.group.order > 1:
        assert (orbit_variance[:3, TRAIN:] > 1e-5 * covariance[0].max()).all(), "members are not invariant"


def test_the_mean_needs_only_the_irreps_of_the_outputs() -> None:
    for case in (parameters.values[0] for parameters in cases()):
        group, action = case.input_action.group, case.output_action
        needed = orbit_solve.occurring(action)
        transformed = {
            i: np.abs(np.einsum("hac,jho->jaco", group.irreps[i].conj(), case.target)).max()
            for i in orbit_solve.representatives(group)
        }
        assert needed == [i for i, size in transformed.items() if size > 1e-12]


def test_averaged_kernel_is_the_trivial_block() -> None:
    """Invariant targets: the N samples with Θ̄(x, x′) = mean_u Θ(x, ux′), and no group anywhere else."""
    d4 = get_group("d4")
    case = Case(grid_action(d4, 3, 3, 1), invariant_action(d4, (2,)))
    averaged = case.kappa(np.arange(SAMPLES), np.arange(TRAIN))[1].mean(axis=-1)
    gram = (averaged[:TRAIN] + averaged[:TRAIN].T) / 2
    expected = dynamics.mean(dynamics.decompose(gram), averaged, case.target[:, 0], TIMES[:-1], 0.3)
    blocks = case.blocks([0], nngp=False)
    assert blocks.nngp == {}
    spectrum = orbit_solve.decompose(d4, orbits.on_training(blocks.ntk), TRAIN * 8)
    mean = orbit_solve.mean(spectrum, orbits.on_samples(blocks.ntk, np.arange(SAMPLES)), case.target, TIMES[:-1], 0.3)
    np.testing.assert_allclose(mean, np.repeat(expected[:, :, None], 8, axis=2), rtol=1e-10, atol=1e-13)


def test_an_invariant_training_sample_lowers_the_rank_and_nothing_else() -> None:
    c4 = get_group("c4")
    case = Case(grid_action(c4, 3, 3, 1), grid_action(c4, 3, 3), special=True)
    case = replace(case, output_action=Action(c4, (9,), case.output_action.source, case.output_action.sign))
    direct, means, covariances = directly(case, 0.3, "flow")
    spectrum, mean, covariance = in_blocks(case, 0.3, "flow")
    kept = [int(block.kept.sum()) * spectrum.copies(i) for i, block in spectrum.blocks.items()]
    assert sum(kept) == direct.kept.sum() == TRAIN * 4 - 3
    np.testing.assert_allclose(mean[-1], means[-1], rtol=0, atol=1e-9 * np.abs(means[-1]).max())
    np.testing.assert_allclose(covariance[-1], covariances[-1], rtol=0, atol=1e-9 * covariances[0].max())


@pytest.mark.parametrize("name", ["c2", "c4", "d2", "d4"])
@pytest.mark.parametrize("kernel", [gaussian, odd])
def test_largest_eigenvalue_wherever_it_lies(name: str, kernel: Any) -> None:
    """A kernel that is odd under half turns has it outside the trivial irrep, unless that is all there is."""
    group = get_group(name)
    case = Case(grid_action(group, 3, 3, 1), invariant_action(group, (1,)), (kernel, kernel))
    if kernel is odd:
        case.inputs[:] -= case.inputs[:, ::-1, ::-1]
    rows = TRAIN * group.order
    expected = np.linalg.eigvalsh(case.matrices[1][:rows, :rows])[-1]
    everything = case.blocks(orbit_solve.representatives(group))
    trivial, *others = orbits.on_training(everything.ntk).values()
    known = dynamics.largest_eigenvalue(trivial)
    assert orbit_solve.largest_eigenvalue(known, others) == pytest.approx(expected, rel=1e-12)
    assert (known == pytest.approx(expected, rel=1e-12)) == (kernel is gaussian)
    assert everything.smallest == pytest.approx(case.matrices[1][:rows, :rows].min(), abs=1e-12)
    assert (everything.smallest >= 0) == (kernel is gaussian)


def test_tiles_of_any_size_give_the_same_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    d4 = get_group("d4")
    case = Case(grid_action(d4, 3, 3, 1), invariant_action(d4, (1,)))
    irreps = orbit_solve.representatives(d4)
    whole, whole_kappa = case.blocks(irreps), orbits.orbit_kernels(case.kappa, d4, np.arange(SAMPLES), TRAIN)
    asked: list[int] = []

    def counting(rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, ...]:
        asked.append(len(rows) * len(columns))
        return case.kappa(rows, columns)

    monkeypatch.setattr(orbits, "SMALLEST_SIDE", 2)
    monkeypatch.setattr(orbits, "LARGEST_SIDE", 2)
    calls: list[tuple[int, int]] = []
    found = orbits.irrep_blocks(
        counting, d4, irreps, np.arange(SAMPLES), TRAIN, nngp=True, progress=lambda *call: calls.append(call)
    )
    assert max(asked) == 4 and len(asked) == 6 + 6
    assert calls == sorted(calls) and calls[-1][0] == calls[-1][1]
    for i in irreps:
        gram = orbits.on_training(found.ntk)[i]
        np.testing.assert_array_equal(gram, gram.conj().T)
        np.testing.assert_allclose(found.ntk[i], whole.ntk[i], rtol=0, atol=1e-14)
        np.testing.assert_allclose(found.nngp[i], whole.nngp[i], rtol=0, atol=1e-14)
    kappa = orbits.orbit_kernels(case.kappa, d4, np.arange(SAMPLES), TRAIN)
    for kernel, one in zip(kappa, whole_kappa, strict=True):
        np.testing.assert_allclose(kernel, one, rtol=0, atol=1e-14)


def test_kappa_is_the_augmented_kernel() -> None:
    d4 = get_group("d4")
    case = Case(grid_action(d4, 3, 3, 1), invariant_action(d4, (1,)))
    kappa = orbits.orbit_kernels(case.kappa, d4, np.arange(SAMPLES), TRAIN)
    rows = np.stack(np.meshgrid(np.arange(SAMPLES), np.arange(8), indexing="ij"), axis=-1)
    columns = rows[:TRAIN].reshape(-1, 2)
    for kernel, whole in zip(kappa, case.matrices, strict=True):
        expected = whole.reshape(SAMPLES, 8, -1)[..., : TRAIN * 8]
        np.testing.assert_allclose(orbits.augmented(kernel, d4, rows, columns), expected, rtol=0, atol=1e-14)


# ------------------------------------------------------------------------- from the study file to the store

TASKS: dict[str, dict[str, Any]] = {
    "ising-local": {"name": "ising", "lattice": 4, "target": "local", "train": 6, "test": 3},
    "ising-total": {"name": "ising", "lattice": 4, "target": "total", "train": 6, "test": 3},
    "ising-rectangle": {"name": "ising", "lattice": [3, 4], "target": "local", "train": 6, "test": 3},
    "digits": {"name": "digits", "train": 6, "test": 3},
    "cosine": {"name": "cosine", "train": 6, "test": 3},
    "parity": {"name": "custom", "factory": "examples.parity_task:ground_state", "train": 6, "test": 3, "ood": "deep"},
}
NETWORKS: dict[str, dict[str, Any]] = {
    "mlp": {"name": "mlp"},
    "erf": {"name": "mlp", "activation": "erf", "b_std": 0.0},
    "flatten": {"name": "cnn", "conv_layers": 1, "head": "flatten"},
    "pool": {"name": "cnn", "conv_layers": 1, "head": "global_average_pool"},
    "gcnn": {"name": "gcnn", "conv_layers": 1},
}


def settings(task: str, group: str, network: str, augmentation: Any = "full", **sections: Any) -> Settings:
    return Settings.model_validate(
        {
            "task": TASKS[task],
            "group": group,
            "network": NETWORKS[network],
            "augmentation": augmentation,
            "training": {"steps": 2000, "record": [0, 1, 30, 2000]},
            "evaluate": {"samples": 2},
            **sections,
        }
    )


def compared(arm: Settings, data: Any = None, tolerance: float = 1e-9, **stores: Any) -> xr.Dataset:
    """The store on the automatic route, held against the direct one."""
    data = build_task(arm) if data is None else data
    found = solve(arm, data, **stores)
    direct = solve(arm.model_copy(update={"theory": arm.theory.model_copy(update={"route": "direct"})}), data)
    assert direct.attrs["route"] == "direct on the augmented set, because theory.route is direct"
    for name in set(direct) - {"eigenvalue"}:
        for got, expected in zip(found[name].values, direct[name].values, strict=True):
            scale = np.abs(expected if name == "mean" else direct[name].values[0]).max()
            np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * scale)
    if found.attrs["modes"] == "all":
        scale = 1e-12 * direct["eigenvalue"].values[-1]
        np.testing.assert_allclose(found["eigenvalue"], direct["eigenvalue"], rtol=0, atol=scale)
    for name in ("learning_rate", "critical_learning_rate", "largest_eigenvalue", "rows", "outputs"):
        assert found.attrs[name] == pytest.approx(direct.attrs[name], rel=1e-12)
    return found


def arms() -> list[Any]:
    quick = {
        ("ising-local", "c4", "mlp"),
        ("ising-total", "d2", "mlp"),
        ("digits", "c2", "pool"),
    }
    grid = [
        (t, g, n) for t in ("ising-local", "ising-total", "digits") for g in ("c2", "c4", "d2", "d4") for n in NETWORKS
    ]
    marked = [pytest.param(*arm, marks=() if arm in quick else SLOW) for arm in grid]
    return [
        *marked,
        ("ising-rectangle", "d2", "mlp"),
        ("cosine", "c2", "mlp"),
        pytest.param("parity", "c2", "mlp", marks=SLOW),
    ]


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("task", "group", "network"), arms())
def test_routes_agree(task: str, group: str, network: str) -> None:
    found = compared(settings(task, group, network))
    assert found.attrs["route"].startswith(f"group: irreps of {group} in blocks of ")
    assert found.attrs["route"].endswith("because augmentation is full and Θ(gx, gx′) = Θ(x, x′)")


@pytest.mark.usefixtures("float64")
def test_flow_is_solved_by_blocks_too() -> None:
    flow = compared(settings("ising-local", "c4", "mlp", theory={"form": "flow"}))
    descent = solve(settings("ising-local", "c4", "mlp"), build_task(settings("ising-local", "c4", "mlp")))
    assert flow.attrs["time"].startswith("gradient flow") and descent.attrs["time"].startswith("gradient descent")
    assert np.abs(flow["mean"] - descent["mean"]).max() > 1e-3


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("network", "task"), [("erf", "digits"), pytest.param("mlp", "digits", marks=SLOW)])
def test_mean_alone(network: str, task: str) -> None:
    """Only the trivial irrep; λ_max of the whole set all the same, also where Θ has negative entries."""
    arm = settings(task, "d4", network, "random")
    data = build_task(arm)
    found = compared(arm, data)
    assert found.sizes["mode"] == 6 and found.attrs["modes"] == "of 1 of the irreps, 1 × 6"
    assert resolve_learning_rate(arm, data) == pytest.approx(
        {name: found.attrs[name] for name in ("learning_rate", "critical_learning_rate")}, rel=1e-12
    )


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    "augmentation",
    [
        "full",
        pytest.param("none", marks=SLOW),
        pytest.param({"subset": 3}, marks=SLOW),
        pytest.param("random", marks=SLOW),
    ],
)
def test_stored_kernels(augmentation: Any) -> None:
    arm = settings("digits", "d4", "mlp", augmentation)
    data = build_task(arm)
    samples, train = kernel_samples(arm, data), np.flatnonzero(data.split == "train")
    assert list(samples[: len(train)]) == list(train) and set(data.evaluated(2)) <= set(samples)
    nngp, ntk = orbits.computed(_network(arm, data), data.input_action, data.input)(samples, train)
    dims = ("sample", "train", "element")
    kernels = xr.Dataset({"nngp": (dims, nngp), "ntk": (dims, ntk)}, {"sample": samples, "train": train})
    found = compared(arm, data, kernels=kernels)
    doubled = kernels.assign(ntk=2 * kernels["ntk"])
    half = resolve_learning_rate(arm, data, kernels=doubled)
    assert half["critical_learning_rate"] == pytest.approx(found.attrs["critical_learning_rate"] / 2, rel=1e-12)
    twice = solve(arm, data, kernels=doubled)
    np.testing.assert_allclose(twice["eigenvalue"], 2 * found["eigenvalue"], rtol=1e-9, atol=1e-12)


@pytest.mark.usefixtures("float64")
def test_a_large_subset_is_solved_directly_with_kernels_of_pairs() -> None:
    found = compared(settings("ising-local", "d4", "mlp", {"subset": 5}))
    assert found.attrs["route"] == (
        "direct on the augmented set, with kernels of pairs (x, ux′), because augmentation is subset"
    )
    assert found.attrs["rows"] == 30
    for augmentation, kind in (("none", "none"), ({"subset": 2}, "subset")):  # no more kernels than κ has
        arm = settings("ising-local", "d4", "mlp", augmentation)
        route = solve(arm, build_task(arm)).attrs["route"]
        assert route == f"direct on the augmented set, because augmentation is {kind}"


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("augmentation", ["full", {"subset": 3}])
def test_an_action_that_the_kernel_does_not_respect(augmentation: Any) -> None:
    """Quarter turns of an image whose pixels are in disorder: nothing to an mlp, everything to a cnn."""
    arm = settings("ising-total", "c4", "flatten", augmentation)
    data = build_task(arm)
    shuffle = np.random.default_rng(0).permutation(16)
    back = np.argsort(shuffle)
    turned = Action(
        data.input_action.group,
        data.input_action.shape,
        shuffle[data.input_action.source[:, back]],
        data.input_action.sign,
    )
    turned.check()
    data = replace(data, input_action=turned)
    found = compared(arm, data)
    assert found.attrs["route"].startswith(
        "direct on the augmented set, because Θ(gx, gx′) differs from Θ(x, x′) under c4, by up to 0."
    )
    blind = compared(settings("ising-total", "c4", "mlp", augmentation), data)
    expected = "group: irreps of c4" if augmentation == "full" else "direct on the augmented set, with kernels of pairs"
    assert blind.attrs["route"].startswith(expected)


@pytest.mark.usefixtures("float64")
def test_invariant_members_need_one_kernel_per_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    arm = settings("digits", "c4", "gcnn")
    data = build_task(arm)
    network, pairs = _network(arm, data), []
    original = orbits.cross_kernels

    def counting(network: Any, x1: np.ndarray, x2: np.ndarray, **options: Any) -> Any:
        pairs.append(len(x1) * len(x2))
        return original(network, x1, x2, **options)

    monkeypatch.setattr(orbits, "cross_kernels", counting)
    kappa = orbits.computed(network, data.input_action, data.input)
    nngp, ntk = kappa(np.arange(3), np.arange(2))
    assert pairs == [6] and nngp.shape == ntk.shape == (3, 2, 4)
    turned = data.input_action.orbit(data.input[:2])
    for u in range(4):
        expected = original(network, data.input[:3], turned[:, u])
        np.testing.assert_allclose(nngp[..., u], expected[0], rtol=1e-12)
        np.testing.assert_allclose(ntk[..., u], expected[1], rtol=1e-12)


def _network(arm: Settings, data: Any) -> Any:
    from emergent_equivariance.networks import build_network

    return build_network(arm.network, data.input_action.shape, data.output_action.shape[0])


@pytest.mark.usefixtures("float64")
def test_a_target_outside_the_range_of_the_kernel_leaves_the_mean_at_zero() -> None:
    """Without bias an erf network is odd; under x ↦ −x its kernel has no invariant part, hence no mode to fit."""
    arm = Settings.model_validate(
        {
            "task": {"name": "cosine", "train": 6, "test": 5},
            "group": "c2",
            "network": {"name": "mlp", "activation": "erf", "b_std": 0.0},
            "augmentation": "random",
            "training": {"steps": 100},
        }
    )
    theory = solve(arm, build_task(arm))
    assert theory.attrs["rank"] == 0 and "smallest_kept_eigenvalue" not in theory.attrs
    assert np.abs(theory["mean"].values).max() < 1e-12
