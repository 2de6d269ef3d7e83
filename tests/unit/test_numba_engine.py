"""The numba engine: minimal filtering, gradients against JAX, and the same training as the other engines."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf
from test_engines import ADAM, DIGITS, ISING, MEMBERS, TOLERANCE, assert_close, problem_of, train

from emergent_equivariance.errors import StudyError, UserError
from emergent_equivariance.networks import build_network, initial_arrays
from emergent_equivariance.settings.networks import CnnNetwork, ConvolutionalNetwork, GcnnNetwork
from emergent_equivariance.training import Choice, get_engine
from emergent_equivariance.training.conv_plan import ConvPlan, minimal_filtering
from emergent_equivariance.training.conv_program import run

CONVOLUTIONAL = [
    *((case, "float64") for case in ("cnn-full-gd", "cnn-subset-sgd", "gcnn-none-adam")),
    *((case, "float32") for case in ("cnn-full-gd",)),
]


@pytest.mark.parametrize(("m", "q"), [(1, 1), (1, 7), (2, 3), (3, 3), (4, 3), (2, 5), (5, 2), (3, 4)])
def test_minimal_filtering_is_a_correlation(m: int, q: int) -> None:
    A, G, B = minimal_filtering(m, q)
    x, w = np.random.default_rng(0).standard_normal((2, 20))[:, : m + q - 1]
    w = w[:q]
    np.testing.assert_allclose(A.T @ ((G @ w) * (B @ x)), np.correlate(x, w, "valid"), rtol=0, atol=1e-14 * 30)


def test_minimal_filtering_needs_nodes() -> None:
    with pytest.raises(ValueError, match="7 nodes are needed, 6 known"):
        minimal_filtering(5, 3)


def cnn(**settings: Any) -> CnnNetwork:
    return CnnNetwork(**{"name": "cnn", "width": 5, **settings})


def gcnn(**settings: Any) -> GcnnNetwork:
    return GcnnNetwork(**{"name": "gcnn", "width": 3, **settings})


#: Every value of every option, with the shape of the inputs and the loss; widths around those of registers.
NETWORKS: dict[str, tuple[ConvolutionalNetwork, tuple[int, int, int], bool]] = {
    "plain": (cnn(width=28, conv_layers=3), (28, 28, 1), False),
    "flatten": (cnn(width=17, head="flatten", dense_layers=2, readout_b_std=0.3), (8, 8, 1), True),
    "circular": (cnn(width=40, padding="CIRCULAR", activation="erf", dense_layers=1), (6, 5, 3), False),
    "circular-even": (cnn(padding="CIRCULAR", kernel_size=4, head="flatten", conv_layers=3), (7, 9, 2), True),
    "valid": (cnn(padding="VALID", kernel_size=2, conv_layers=4, b_std=0), (9, 8, 8), True),
    "valid-to-a-pixel": (cnn(padding="VALID", kernel_size=3, conv_layers=2, head="flatten"), (5, 5, 1), False),
    "pixelwise": (cnn(kernel_size=1, conv_layers=1, b_std=0), (3, 4, 2), False),
    "wide-filter": (cnn(kernel_size=5, width=64), (11, 10, 1), False),
    "widest-filter": (cnn(kernel_size=7, padding="CIRCULAR", conv_layers=1), (7, 8, 1), True),
    "c4": (gcnn(group="c4", width=8, conv_layers=3), (8, 8, 1), False),
    "d4": (gcnn(group="d4", dense_layers=1, readout_b_std=0.1, activation="erf"), (5, 5, 2), True),
    "d2-circular": (gcnn(group="d2", padding="CIRCULAR", b_std=0), (6, 4, 1), False),
    "c2-valid": (gcnn(group="c2", padding="VALID", kernel_size=2), (5, 6, 1), True),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_and_gradients_are_those_of_jax(name: str) -> None:
    """For rows in any order and number; a second call finds the work space as the first has left it."""
    section, shape, cross_entropy = NETWORKS[name]
    draw, outputs, rows = np.random.default_rng(1), 4, np.array([5, 0, 2, *range(16)], np.int32)
    x, y = draw.standard_normal((16, *shape)), draw.standard_normal((16, outputs))
    with jax.enable_x64(True):
        network = build_network(section, shape, outputs)
        leaves = initial_arrays(network.shapes, 0, 3)

        def loss(leaves: list[jax.Array]) -> tuple[jax.Array, jax.Array]:
            found = network.apply(jax.tree.unflatten(network.structure, leaves), jnp.asarray(x[rows]))
            if cross_entropy:
                return -jnp.mean(jnp.sum(y[rows] * jax.nn.log_softmax(found), axis=-1)), found
            return 0.5 * jnp.mean((found - y[rows]) ** 2), found

        gradients, found = jax.jit(jax.grad(loss, has_aux=True))([jnp.asarray(leaf) for leaf in leaves])
    plan = ConvPlan(section, shape, outputs, cross_entropy, "float64")
    plan.pack(leaves)
    result = np.empty((len(rows), outputs))
    arrays = (plan.work, plan.packed, plan.gradient, result, plan.layers, plan.dense, rows, x, y)
    for learn in (True, False, True):
        run(*arrays, plan.matrices, plan.program, learn)
    assert_close(result, np.asarray(found), 1e-11)
    for ours, expected in zip(plan.unpack(network.shapes), gradients, strict=True):
        assert ours.shape == expected.shape
        assert_close(ours, np.asarray(expected), 1e-10)


@pytest.mark.slow
def test_erf_in_single_precision() -> None:
    """Of a network without weights but the bias: f = erf(b), with its gradient."""
    b = np.linspace(-6, 6, 600, dtype=np.float32)
    section = cnn(conv_layers=1, kernel_size=1, width=len(b), activation="erf", b_std=1.0, head="flatten")
    plan, n = ConvPlan(section, (1, 1, 1), len(b), False, "float32"), len(b)
    plan.pack([np.zeros((1, 1, 1, n), np.float32), b, n**0.5 * np.eye(n, dtype=np.float32)])
    x, y, result = np.zeros((1, 1, 1, 1), np.float32), np.zeros((1, n), np.float32), np.zeros((1, n), np.float32)
    arrays = (plan.work, plan.packed, plan.gradient, result, plan.layers, plan.dense, np.zeros(1, np.int32), x, y)
    for learn in (False, True):
        run(*arrays, plan.matrices, plan.program, learn)
    np.testing.assert_allclose(result[0], erf(b.astype(float)), rtol=3e-7, atol=0)
    _, change, _ = plan.unpack([(1, 1, 1, n), (n,), (n, n)])
    np.testing.assert_allclose(n * change / result[0], 2 / np.pi**0.5 * np.exp(-(b.astype(float) ** 2)), atol=5e-7)


def run_plan(plan: ConvPlan, leaves: list[np.ndarray], x: np.ndarray, y: np.ndarray, *, learn: bool) -> np.ndarray:
    """Outputs of all rows (row, output); or the gradients, left in the plan."""
    plan.pack(leaves)
    result, rows = np.empty_like(y), np.arange(len(x), dtype=np.int32)
    arrays = (plan.work, plan.packed, plan.gradient, result, plan.layers, plan.dense, rows, x, y)
    run(*arrays, plan.matrices, plan.program, learn)
    return result


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize(("head", "activation"), [("flatten", "relu"), ("global_average_pool", "erf")])
def test_weights_that_are_not_finite_show(head: str, activation: str, precision: str, value: float) -> None:
    """Outputs are finite where those of JAX are, and what follows finds nothing of them in the work space."""
    section = cnn(activation=activation, head=head, dense_layers=1, b_std=0.1)
    network, plan = build_network(section, (6, 6, 1), 2), ConvPlan(section, (6, 6, 1), 2, False, precision)
    healthy = [array.astype(precision) for array in initial_arrays(network.shapes, 0, 3)]
    draw = np.random.default_rng(0)
    x, y = draw.random((3, 6, 6, 1)).astype(precision) + 1, draw.standard_normal((3, 2)).astype(precision)
    outputs = run_plan(plan, healthy, x, y, learn=False)
    run_plan(plan, healthy, x, y, learn=True)
    gradients = plan.unpack(network.shapes)
    for index in range(len(healthy)):
        broken = [array.copy() for array in healthy]
        broken[index][:] = value
        found = run_plan(plan, broken, x, y, learn=False)
        with jax.enable_x64(precision == "float64"):
            expected = network.apply(jax.tree.unflatten(network.structure, broken), x)
        np.testing.assert_array_equal(np.isfinite(found), np.isfinite(expected), f"leaf {index}")
        run_plan(plan, broken, x, y, learn=True)
        if np.isnan(value):
            assert all(np.isnan(change).any() for change in plan.unpack(network.shapes)), index
        np.testing.assert_array_equal(run_plan(plan, healthy, x, y, learn=False), outputs)
        run_plan(plan, healthy, x, y, learn=True)
        for after, before in zip(plan.unpack(network.shapes), gradients, strict=True):
            np.testing.assert_array_equal(after, before)


@pytest.mark.parametrize(("head", "task"), [("flatten", DIGITS), ("global_average_pool", ISING)])
@pytest.mark.parametrize("rate", [1.0, 1e6, 1e12])
def test_members_diverge_where_they_do_with_other_engines(rate: float, head: str, task: dict[str, Any]) -> None:
    """Networks of relu whose units are all dead after a step stay finite."""
    network = {"name": "cnn", "width": 4, "head": head, "b_std": 0.3, "conv_layers": 2, "dense_layers": 1}
    sections = {"network": network, "task": task, "training": {"steps": 6, "record": [0, 6]}, "augmentation": "none"}
    problem = replace(problem_of("cnn-full-gd", **sections), learning_rate=rate)
    engines = {"jax": "map", "torch": "loop", "numba": "loop"}
    marks = {engine: train(problem, engine, variant).diverged.tolist() for engine, variant in engines.items()}
    assert marks["numba"] == marks["torch"] == marks["jax"]
    assert any(marks["jax"]) == (rate > 1)


@pytest.mark.parametrize(("case", "precision"), CONVOLUTIONAL, ids=map("-".join, CONVOLUTIONAL))
def test_it_trains_like_the_jax_engine(case: str, precision: str) -> None:
    problem, tolerance = problem_of(case, precision), TOLERANCE[precision]
    expected, found = train(problem, "jax", "map"), train(problem, "numba", "loop", 2)
    assert_close(found.prediction, expected.prediction, max(tolerance, 1e-7))  # predictions are kept in float32
    assert_close(found.loss, expected.loss, tolerance)
    for weight, other in zip(found.weights, expected.weights, strict=True):
        assert weight.dtype == other.dtype == precision
        np.testing.assert_array_equal(weight[:, 0], other[:, 0], "initial weights")
        assert_close(weight, other, tolerance)


@pytest.mark.parametrize("section", [cnn(b_std=0), gcnn(group="c4", width=2, b_std=0)], ids=["cnn", "gcnn"])
def test_plain_sums_leave_no_round_off_where_gradients_vanish(section: ConvolutionalNetwork) -> None:
    """Images of one pixel without biases: weights that are not positive there switch their unit off."""
    network, shape = build_network(section, (8, 8, 1), 2), (8, 8, 1)
    leaves = [array.astype(np.float32) for array in initial_arrays(network.shapes, 0, 3)]
    x, y = np.zeros((1, *shape), np.float32), np.random.default_rng(0).standard_normal((1, 2)).astype(np.float32)
    x[0, 4, 4] = 1.3
    dead = leaves[0] <= 0
    found = {}
    for filtering in (False, True):
        plan = ConvPlan(section, shape, 2, False, "float32", filtering)
        run_plan(plan, leaves, x, y, learn=True)
        found[filtering] = plan.unpack(network.shapes)[0]
    assert dead.any() and found[False][~dead].all()
    assert not found[False][dead].any()
    np.testing.assert_allclose(found[True], found[False], rtol=0, atol=1e-6 * np.abs(found[False]).max())


def test_adam_makes_no_steps_of_round_off() -> None:
    """Images that are dark but for one pixel, so that many gradients vanish: the weights are those of torch."""
    network = {"name": "cnn", "width": 5, "b_std": 0, "conv_layers": 2}
    problem = problem_of("cnn-subset-sgd", network=network, training=ADAM, augmentation="none")
    images = np.zeros_like(problem.row_input)
    images[:, 4, 4] = 1 + np.random.default_rng(0).random(len(images))[:, None]
    problem = replace(problem, row_input=images)
    trained = {}
    for engine in ("numba", "torch"):
        trainer = get_engine(engine).trainer(problem, Choice(engine, "loop", 1, 3))
        trained[engine] = trainer.save(trainer.advance(trainer.start(MEMBERS[:1]), 0, 3))
    for ours, theirs in zip(trained["numba"], trained["torch"], strict=True):
        assert_close(ours, theirs, 1e-5)


@pytest.mark.parametrize("case", ["cnn-subset-sgd", "gcnn-none-adam"])
def test_it_is_bitwise_the_same_wherever_it_is_interrupted(case: str) -> None:
    """Also in another trainer, and alone or beside others."""
    problem = problem_of(case)
    trainer, other = (get_engine("numba").trainer(problem, Choice("numba", "loop", 2, 100)) for _ in range(2))
    whole = trainer.save(trainer.advance(trainer.start(MEMBERS[:2]), 0, int(problem.segments.sum())))
    state = trainer.start(MEMBERS[:2])
    for first, stop in pairwise([0, 1, 5, int(problem.segments.sum())]):
        saved = trainer.save(state)
        kept = [array.copy() for array in saved]
        trainer.advance(state, first, stop - first)
        for a, b in zip(saved, kept, strict=True):
            np.testing.assert_array_equal(a, b, "what is saved does not change with the state")
        trainer, other = other, trainer
        state = trainer.advance(trainer.restore(MEMBERS[:2], saved), first, stop - first)
    alone = trainer.save(trainer.advance(trainer.start(MEMBERS[1:2]), 0, int(problem.segments.sum())))
    for a, b, c in zip(trainer.save(state), whole, alone, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(b[1:], c)


def test_other_networks_are_left_to_other_engines() -> None:
    problem = problem_of("mlp-none-gd")
    engine = get_engine("numba")
    assert engine.candidates(problem, 8) == []
    with pytest.raises(StudyError, match=r"numba: cannot train network mlp .*execution.engine auto"):
        engine.trainer(problem, Choice("numba", "loop", 1, 10))
    with pytest.raises(UserError, match=r"numba cannot train network mlp, only cnn, gcnn; use auto"):
        problem_of("mlp-none-gd", execution={"engine": "numba"})
    [choice] = engine.candidates(problem_of("gcnn-none-adam"), 8)
    with pytest.raises(StudyError, match=r"network gcnn by variant vmap.*variant loop"):
        engine.trainer(problem_of("gcnn-none-adam"), Choice("numba", "vmap", 1, choice.steps_per_call))
