"""The training engine: the right gradient descent, independent of sharding, reproducible from its seeds."""

from pathlib import Path

import jax
import numpy as np
import pytest

from emergent_equivariance.errors import StudyError
from emergent_equivariance.study import parse_study
from emergent_equivariance.tasks import build_task
from emergent_equivariance.training import Choice, ShardResult, build_problem, get_engine, train_members, train_shard

CONTENT = {
    "study": "small",
    "task": {"name": "ising", "lattice": 3, "target": "local", "train": 6, "test": 4},
    "network": {"name": "mlp", "width": 8},
    "training": {"learning_rate": 0.5, "steps": 12, "record": [0, 1, 5, 12]},
}
EPOCHS = {"optimizer": "sgd", "learning_rate": 0.1, "epochs": 3, "batch_size": 5}
DIGITS = {"name": "digits", "train": 32, "test": 8, "ood": "none"}


def problem_of(learning_rate=0.5, **sections):
    settings = parse_study({**CONTENT, **sections}, Path("small.yaml")).arms[0].settings
    return build_problem(settings, build_task(settings), learning_rate)


def train(problem, members, together=1, steps_per_call=5):
    seen = []
    choice = Choice("jax", "map" if together == 1 else "vmap", together, steps_per_call)
    trainer = get_engine("jax").trainer(problem, choice)
    progress = lambda done, total: seen.append((done, total))  # noqa: E731
    result = train_shard(problem, trainer, choice, list(members), progress=progress)
    assert seen[0] == (0, len(members)) and seen[-1] == (len(members), len(members))
    assert seen == sorted(seen)
    return result


def weights_at_start(problem, members, together=1):
    return train(problem, members, together).weights


STORE = {**CONTENT["training"], "steps": 1, "record": [0, 1], "store_weights": [0]}


def test_initial_weights_are_bitwise_the_same_in_any_sharding():
    problem = problem_of(training=STORE)
    whole = weights_at_start(problem, range(7))
    for together in (1, 3):
        parts = [weights_at_start(problem, members, together) for members in (range(3), range(3, 7))]
        for index, array in enumerate(whole):
            np.testing.assert_array_equal(array, np.concatenate([part[index] for part in parts]))


def test_arms_that_differ_in_augmentation_start_from_the_same_weights():
    plain, full = (
        weights_at_start(problem_of(training=STORE, augmentation=kind), range(2)) for kind in ("none", "full")
    )
    for a, b in zip(plain, full, strict=True):
        np.testing.assert_array_equal(a, b)


def test_ensemble_seed_and_member_change_the_weights():
    first = weights_at_start(problem_of(training=STORE), range(2))
    other = weights_at_start(problem_of(training=STORE, ensemble={"seed": 1}), range(2))
    for a, b in zip(first, other, strict=True):
        assert not np.isclose(a, b).any()
        assert not np.isclose(a[0], a[1]).any()


@pytest.mark.parametrize("augmentation", ["none", "full", {"subset": 2}])
def test_gradient_descent_follows_the_written_out_recursion(augmentation):
    problem = problem_of(augmentation=augmentation, training={**CONTENT["training"], "store_weights": [0]})
    result = train(problem, range(2))
    network = problem.settings.network
    for member in range(2):
        w, b, v = (array[member, 0].astype(np.float64).copy() for array in result.weights)
        b = b.reshape(-1)
        x, y = (a.reshape(len(a), -1) for a in (problem.row_input, problem.row_target))
        orbit = problem.orbit_input.reshape(-1, x.shape[1])
        scale, out = network.W_std / np.sqrt(x.shape[1]), 1 / np.sqrt(network.width)
        predict = lambda inputs: np.maximum(inputs @ w * scale + network.b_std * b, 0) @ v * out  # noqa: B023, E731
        recorded = {}
        for step in range(13):
            if step in (0, 1, 5, 12):
                recorded[step] = predict(orbit)
            hidden = x @ w * scale + network.b_std * b
            active = np.maximum(hidden, 0)
            delta = (active @ v * out - y) / y.size
            back = (delta @ v.T * out) * (hidden > 0)
            w, b, v = (
                w - 0.5 * scale * x.T @ back,
                b - 0.5 * network.b_std * back.sum(axis=0),
                v - 0.5 * out * active.T @ delta,
            )
        expected = np.stack(list(recorded.values())).reshape(result.prediction[member].shape)
        np.testing.assert_allclose(result.prediction[member], expected, atol=2e-5)
        assert np.abs(expected[-1] - expected[0]).max() > 0.01


@pytest.mark.parametrize("training", [CONTENT["training"], EPOCHS], ids=["gd", "sgd"])
@pytest.mark.parametrize("augmentation", ["full", "random"])
def test_trained_predictions_do_not_depend_on_how_many_advance_together(training, augmentation):
    problem = problem_of(training=training, augmentation=augmentation)
    one, many = train(problem, range(5), 1), train(problem, range(5), 2)
    np.testing.assert_allclose(one.prediction, many.prediction, atol=1e-5)
    np.testing.assert_allclose(one.loss, many.loss, rtol=1e-4)


def test_an_epoch_visits_every_row_once_in_an_order_of_its_own():
    problem = problem_of(training=EPOCHS, augmentation="full")
    rows = len(problem.row_input)
    schedule = problem.schedule(0, 0, int(problem.segments.sum()))
    assert schedule.shape == (3 * 5, 5)
    epochs = schedule.reshape(3, -1)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch[epoch >= 0]), np.arange(rows))
    assert not (epochs[0] == epochs[1]).all()
    np.testing.assert_array_equal(schedule, problem_of(training=EPOCHS, augmentation="full").schedule(0, 0, 15))
    assert not (schedule == problem.schedule(1, 0, 15)).all()
    np.testing.assert_array_equal(schedule[3:11], problem.schedule(0, 3, 8))


@pytest.mark.parametrize("training", [{**CONTENT["training"], "steps": 2000, "record": [0]}, EPOCHS], ids=["gd", "sgd"])
def test_random_elements_are_fresh_uniform_and_keep_the_sample(training):
    steps = {**training, **({"record": [2000]} if "steps" in training else {"epochs": 2000, "record": [2000]})}
    problem = problem_of(training=steps, augmentation="random")
    schedule = problem.schedule(3, 0, int(problem.segments.sum()))
    chosen = schedule[schedule >= 0]
    counts = np.bincount(chosen % 4, minlength=4)
    expected = len(chosen) / 4
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)
    np.testing.assert_array_equal(np.bincount(chosen // 4), np.full(6, 2000))
    other = problem_of(training=steps, augmentation={"kind": "random", "seed": 1})
    other = other.schedule(3, 0, int(other.segments.sum()))
    assert not (other == schedule).all()


def test_diverged_members_are_marked_and_do_not_stop_the_others():
    problem = problem_of(learning_rate=1e4, training={**CONTENT["training"], "steps": 100, "record": [0, 100]})
    shard = train(problem, range(3)).to_dataset(problem, range(3))
    assert shard["diverged"].all()
    assert shard["done"].all()
    calm = problem_of()
    assert not train(calm, range(3)).to_dataset(calm, range(3))["diverged"].any()


def test_every_record_is_looked_at_for_divergence_a_fixed_number_of_times(monkeypatch):
    looked, diverged = [], ShardResult.diverged

    def counted(result):
        looked.append(result.prediction.shape[1])
        return diverged.fget(result)

    monkeypatch.setattr(ShardResult, "diverged", property(counted))
    records = list(range(41))
    train(problem_of(training={**CONTENT["training"], "steps": 40, "record": records}), range(2))
    assert sum(looked) <= 3 * len(records)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_minibatch_training_lowers_the_loss(optimizer, loss):
    rate = {"adam": 0.05, "sgd": 1.0 if loss == "mse" else 5.0}[optimizer]
    training = {"optimizer": optimizer, "loss": loss, "learning_rate": rate, "epochs": 15, "batch_size": 8}
    problem = problem_of(rate, task=DIGITS, training=training, augmentation="random")
    result = train(problem, range(2))
    assert result.prediction.shape == (2, 16, 40, 4, 10)
    assert (result.loss[:, -1] < 0.5 * result.loss[:, 0]).all()


def test_a_cnn_trains():
    network = {"name": "cnn", "width": 4, "head": "flatten"}
    training = {"optimizer": "adam", "loss": "cross_entropy", "learning_rate": 0.05, "epochs": 4, "batch_size": 8}
    problem = problem_of(0.05, task=DIGITS, network=network, training=training)
    result = train(problem, range(2), 2)
    assert (result.loss[:, -1] < 0.5 * result.loss[:, 0]).all()


def test_cross_entropy_is_that_of_the_definition():
    training = {"optimizer": "sgd", "loss": "cross_entropy", "learning_rate": 0.1, "epochs": 0}
    problem = problem_of(task=DIGITS, training=training)
    result = train(problem, [0])
    logits = result.prediction[0, 0, :32, 0].astype(np.float64)
    assert list(problem.splits[:32]) == ["train"] * 32
    label = problem.train_target.argmax(axis=1)
    shifted = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    assert result.loss[0, 0] == pytest.approx(-shifted[np.arange(32), label].mean(), rel=1e-5)


@pytest.mark.parametrize("training", [CONTENT["training"], EPOCHS], ids=["gd", "sgd"])
def test_mapped_members_have_the_same_bits_in_any_number(training):
    problem = problem_of(training=training, augmentation="full")
    found = []
    for together, steps_per_call in ((1, 5), (3, 5), (4, 7)):
        choice = Choice("jax", "map", together, steps_per_call)
        found.append(train_members(problem, range(5), choice))
    for other in found[1:]:
        np.testing.assert_array_equal(found[0].prediction, other.prediction)
        np.testing.assert_array_equal(found[0].loss, other.loss)


def test_every_candidate_trains_a_cnn_to_the_same_predictions():
    network = {"name": "cnn", "width": 4, "padding": "CIRCULAR", "dense_layers": 1}
    problem = problem_of(0.2, network=network, augmentation="full")
    choices = get_engine("jax").candidates(problem, 3)
    assert [(c.variant, c.members_at_once) for c in choices] == [
        ("map", 1), ("map-conv", 1), ("vmap", 3), ("vmap-conv", 3)
    ]  # fmt: skip
    found = [train_members(problem, range(3), choice).prediction for choice in choices]
    for other in found[1:]:
        np.testing.assert_allclose(found[0], other, atol=2e-5)
    assert np.abs(found[0][:, -1] - found[0][:, 0]).max() > 0.01


def test_candidates_of_dense_networks_make_even_groups():
    choices = get_engine("jax").candidates(problem_of(), 20)
    assert [(c.variant, c.members_at_once) for c in choices] == [("map", 10), ("map", 1), ("vmap", 8)]


def test_a_variant_that_does_not_exist_is_refused():
    with pytest.raises(StudyError, match="no variant loop"):
        get_engine("jax").trainer(problem_of(), Choice("jax", "loop", 1, 1))


def test_recording_in_batches_gives_every_row():
    """More rows than are evaluated at once, and not a multiple of them."""
    task = {**CONTENT["task"], "test": 70}
    problem = problem_of(task=task, evaluate={"samples": 70})
    assert len(problem.orbit_input) * problem.orbit_input.shape[1] > 256
    weights = train_members(problem_of(task=task, training=STORE), range(1)).weights
    parameters = jax.tree.unflatten(problem.network.structure, [array[0, 0] for array in weights])
    expected = problem.network.apply(parameters, problem.orbit_input.reshape(-1, *problem.orbit_input.shape[2:]))
    found = train_members(problem, range(1)).prediction[0, 0]
    np.testing.assert_allclose(found, np.reshape(expected, found.shape), atol=1e-5)
