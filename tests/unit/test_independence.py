"""What a member is does not depend on how the work is cut: shards, members at once, steps per call, engine."""

import functools
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from emergent_equivariance.study import parse_study
from emergent_equivariance.tasks import build_task
from emergent_equivariance.training import Choice, build_problem, get_engine, train_shard

MEMBERS = 6
#: Of predictions of gradient descent, relative to their root mean square, in float32.
TOLERANCE = 1e-5
CONTENT = {
    "study": "small",
    "task": {"name": "ising", "lattice": 3, "target": "local", "train": 6, "test": 4},
    "network": {"name": "mlp", "width": 8},
    "training": {"learning_rate": 0.5, "steps": 12, "record": [0, 1, 5, 12], "store_weights": [0]},
}
EPOCHS = {"learning_rate": 0.1, "epochs": 3, "batch_size": 5}
SECTIONS = {
    "gd": {},
    "gd-random": {"augmentation": "random"},
    "sgd-full": {"training": {**EPOCHS, "optimizer": "sgd", "momentum": 0.9}, "augmentation": "full"},
    "adam-random": {"training": {**EPOCHS, "optimizer": "adam"}, "augmentation": "random"},
}
ENGINES = [("jax", "map"), ("jax", "vmap"), ("torch", "loop"), ("torch", "vmap"), ("numba", "loop")]
ONE_BY_ONE = {"jax": "map", "torch": "loop", "numba": "loop"}
NETWORKS = {"mlp": CONTENT["network"], "cnn": {"name": "cnn", "width": 3}}

few = settings(deadline=None, max_examples=8, derandomize=True, database=None)
cuts = st.sets(st.integers(1, MEMBERS - 1)).map(lambda inner: list(pairwise([0, *sorted(inner), MEMBERS])))
engines = st.sampled_from(ENGINES)


def network_of(engine):
    """A network that the engine trains."""
    return "cnn" if engine == "numba" else "mlp"


@functools.cache
def problem_of(case, network="mlp"):
    content = {**CONTENT, **SECTIONS[case], "network": NETWORKS[network]}
    arm = parse_study(content, Path("small.yaml")).arms[0].settings
    return build_problem(arm, build_task(arm), 0.5 if case.startswith("gd") else 0.1)


@functools.cache
def trainer_of(case, choice, network):
    return get_engine(choice.engine).trainer(problem_of(case, network), choice)


def train(case, choice, members, network):
    trainer = trainer_of(case, choice, network)
    return train_shard(problem_of(case, network), trainer, choice, list(members))


@functools.cache
def one_by_one(case, engine, network):
    return train(case, Choice(engine, ONE_BY_ONE[engine], 1, 8), range(MEMBERS), network)


def reference(case, engine):
    """Members one by one in another engine, on the same network."""
    return one_by_one(case, "torch", "cnn") if engine == "numba" else one_by_one(case, "jax", "mlp")


def in_shards(case, choice, ranges):
    parts = [train(case, choice, range(first, stop), network_of(choice.engine)) for first, stop in ranges]
    return [np.concatenate(arrays) for arrays in zip(*((p.prediction, p.loss, *p.weights) for p in parts), strict=True)]


@few
@given(ranges=cuts, engine=engines, together=st.sampled_from([2, 4]))
@example(ranges=[(0, 1), (1, 6)], engine=("numba", "loop"), together=2)
def test_initial_weights_are_bitwise_the_same(ranges, engine, together):
    _, _, *weights = in_shards("gd", Choice(*engine, together if engine[1] == "vmap" else 1, 8), ranges)
    for drawn, array in zip(weights, reference("gd", engine[0]).weights, strict=True):
        np.testing.assert_array_equal(drawn, array)


@few
@given(
    case=st.sampled_from(["gd", "gd-random"]),
    ranges=cuts,
    engine=engines,
    together=st.sampled_from([2, 4]),
)
@example(case="gd", ranges=[(0, 2), (2, 6)], engine=("numba", "loop"), together=2)
def test_trained_predictions_of_gradient_descent_agree(case, ranges, engine, together):
    prediction, loss, *_ = in_shards(case, Choice(*engine, together if engine[1] == "vmap" else 1, 8), ranges)
    expected = reference(case, engine[0])
    scale = np.sqrt((expected.prediction**2).mean())
    assert np.abs(expected.prediction[:, -1] - expected.prediction[:, 0]).max() > 100 * TOLERANCE * scale
    np.testing.assert_allclose(prediction, expected.prediction, rtol=0, atol=TOLERANCE * scale)
    np.testing.assert_allclose(loss, expected.loss, rtol=10 * TOLERANCE)


@few
@given(case=st.sampled_from([*SECTIONS]), ranges=cuts, engine=st.sampled_from([*ONE_BY_ONE]))
@example(case="adam-random", ranges=[(0, 2), (2, 6)], engine="numba")
def test_members_trained_one_by_one_are_bitwise_the_same_in_any_shards(case, ranges, engine):
    expected = one_by_one(case, engine, network_of(engine))
    choice = Choice(engine, ONE_BY_ONE[engine], 1, 8)
    found = in_shards(case, choice, ranges)
    for array, other in zip(found, (expected.prediction, expected.loss, *expected.weights), strict=True):
        np.testing.assert_array_equal(array, other)


@pytest.mark.parametrize("engine", ENGINES, ids="-".join)
@few
@given(case=st.sampled_from([*SECTIONS]), data=st.data())
def test_steps_are_bitwise_the_same_however_they_are_cut_into_calls(engine, case, data):
    network, members = network_of(engine[0]), [1, 4]
    problem = problem_of(case, network)
    trainer = trainer_of(case, Choice(*engine, 2 if engine[1] == "vmap" else 1, 12), network)
    members = members if engine[1] == "vmap" else members[:1]
    total = min(int(problem.segments.sum()), 12)
    inner = data.draw(st.sets(st.integers(1, total - 1)))
    whole = trainer.advance(trainer.start(members), 0, total)
    state = trainer.start(members)
    for first, stop in pairwise([0, *sorted(inner), total]):
        state = trainer.advance(state, first, stop - first)
    for one, other in zip(trainer.save(state), trainer.save(whole), strict=True):
        np.testing.assert_array_equal(one, other)


@few
@given(case=st.sampled_from([*SECTIONS]), member=st.integers(0, 10**6), data=st.data())
def test_the_schedule_is_the_same_however_it_is_cut(case, member, data):
    problem = problem_of(case)
    total = int(problem.segments.sum())
    whole = problem.schedule(member, 0, total)
    assert whole.shape == (total, problem.batch)
    inner = data.draw(st.sets(st.integers(1, total - 1)))
    parts = [problem.schedule(member, first, stop - first) for first, stop in pairwise([0, *sorted(inner), total])]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
