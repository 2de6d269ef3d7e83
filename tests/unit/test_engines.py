"""The engines agree: the same initial weights, the same trained weights and predictions; torch's own modules."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from torch.nn import functional

from emergent_equivariance.augmentation import stream
from emergent_equivariance.errors import StudyError
from emergent_equivariance.networks.factories import member_module
from emergent_equivariance.study import parse_study
from emergent_equivariance.tasks import build_task
from emergent_equivariance.training import Choice, Problem, ShardResult, build_problem, get_engine, train_shard
from emergent_equivariance.training.torch_engine import STREAM_STEP

MEMBERS = [2, 3, 7]

#: Relative to the root mean square of what is compared, after few steps.
TOLERANCE = {"float32": 1e-5, "float64": 1e-11}

ISING = {"name": "ising", "lattice": 4, "target": "local", "train": 6, "test": 3}
DIGITS = {"name": "digits", "train": 14, "test": 4, "ood": "none"}
MLP = {"name": "mlp", "width": 6, "hidden_layers": 2, "readout_b_std": 0.2}
CNN = {"name": "cnn", "width": 3, "head": "flatten"}
GCNN = {"name": "gcnn", "width": 2, "conv_layers": 2, "dense_layers": 1}
STEPS = {"steps": 9, "record": [0, 4, 9], "store_weights": [0, 9]}
EPOCHS = {"epochs": 3, "batch_size": 5, "record": [0, 1, 3], "store_weights": [0, 3]}
SGD = {"optimizer": "sgd", "momentum": 0.9, **EPOCHS}
ADAM = {"optimizer": "adam", **EPOCHS}

#: Part of network × augmentation × optimiser × loss × task that holds every value of each, with the learning rate.
CASES: dict[str, tuple[float, dict[str, Any]]] = {
    "mlp-none-gd": (0.5, {"network": {**MLP, "activation": "erf"}, "training": STEPS}),
    "mlp-random-adam": (0.02, {"network": MLP, "augmentation": "random", "task": DIGITS, "training": ADAM}),
    "cnn-full-gd": (0.5, {"network": CNN, "augmentation": "full", "training": STEPS}),
    "cnn-subset-sgd": (
        0.1,
        {
            "network": {**CNN, "head": "global_average_pool", "padding": "CIRCULAR", "b_std": 0},
            "augmentation": {"subset": 2},
            "task": DIGITS,
            "training": {**SGD, "loss": "cross_entropy"},
        },
    ),
    "gcnn-random-gd": (0.3, {"network": {**GCNN, "conv_layers": 1}, "augmentation": "random", "training": STEPS}),
    "gcnn-none-adam": (
        0.02,
        {"network": GCNN, "task": DIGITS, "training": {**ADAM, "loss": "cross_entropy"}},
    ),
}
ARMS = [(case, "float64") for case in CASES] + [("mlp-random-adam", "float32")]


def problem_of(case: str, precision: str = "float32", **sections: Any) -> Problem:
    rate, content = CASES[case]
    content = {"study": "small", "task": ISING, "execution": {"precision": precision}, **content, **sections}
    content["training"] = {"learning_rate": rate, **content["training"]}
    settings = parse_study(content, Path("small.yaml")).arms[0].settings
    return build_problem(settings, build_task(settings), rate)


def train(problem: Problem, engine: str, variant: str, together: int = 1, steps_per_call: int = 4) -> ShardResult:
    choice = Choice(engine, variant, together, steps_per_call)
    with jax.enable_x64(problem.settings.execution.precision == "float64"):
        return train_shard(problem, get_engine(engine).trainer(problem, choice), choice, MEMBERS)


def assert_close(found: np.ndarray, expected: np.ndarray, tolerance: float) -> None:
    scale = np.sqrt((expected.astype(np.float64) ** 2).mean())
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize(("case", "precision"), ARMS, ids=map("-".join, ARMS))
def test_engines_and_variants_agree(case: str, precision: str) -> None:
    problem, tolerance = problem_of(case, precision), TOLERANCE[precision]
    expected = train(problem, "jax", "map")
    scale = np.sqrt((expected.prediction**2).mean())
    assert np.abs(expected.prediction[:, -1] - expected.prediction[:, 0]).max() > 0.1 * scale, "something is learnt"
    for variant, together in (("loop", 1), ("vmap", 2)):
        found = train(problem, "torch", variant, together)
        assert_close(found.prediction, expected.prediction, max(tolerance, 1e-7))  # predictions are kept in float32
        assert_close(found.loss, expected.loss, tolerance)
        assert len(found.weights) == len(expected.weights) == len(problem.network.shapes)
        for weight, other in zip(found.weights, expected.weights, strict=True):
            assert weight.dtype == other.dtype == precision
            np.testing.assert_array_equal(weight[:, 0], other[:, 0], "initial weights")
            assert_close(weight, other, tolerance)


@pytest.mark.parametrize("case", ["cnn-subset-sgd", "gcnn-none-adam"])
@pytest.mark.parametrize(("variant", "together"), [("loop", 1), ("loop", 2), ("vmap", 2)])
def test_torch_is_bitwise_the_same_wherever_it_is_interrupted(case: str, variant: str, together: int) -> None:
    """Also where it goes on in another process: save, and restore into a new trainer."""
    problem, members = problem_of(case), MEMBERS[:together]
    choice = Choice("torch", variant, together, 100)
    trainer, other = (get_engine("torch").trainer(problem, choice) for _ in range(2))
    whole = trainer.advance(trainer.start(members), 0, int(problem.segments.sum()))
    state, calls = trainer.start(members), [0, 1, 5, int(problem.segments.sum())]
    for first, stop in pairwise(calls):
        saved = trainer.save(state)
        kept = [array.copy() for array in saved]
        trainer.advance(state, first, stop - first)
        for a, b in zip(saved, kept, strict=True):
            np.testing.assert_array_equal(a, b, "what is saved does not change with the state")
        trainer, other = other, trainer
        state = trainer.advance(trainer.restore(members, saved), first, stop - first)
    for a, b in zip(trainer.save(state), trainer.save(whole), strict=True):
        np.testing.assert_array_equal(a, b)
    for a, b in zip(trainer.record(state, True).weights, trainer.record(whole, True).weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_step_within_a_stack_is_that_of_every_member() -> None:
    """Minibatches that do not divide the rows: the last one of an epoch is smaller."""
    problem = problem_of("mlp-random-adam", "float64")
    assert problem.units % problem.batch
    one, many = train(problem, "torch", "loop"), train(problem, "torch", "vmap", 3, 7)
    for a, b in zip(one.weights, many.weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_threads_and_arithmetic_of_torch_are_those_of_the_settings() -> None:
    before = torch.get_num_threads()
    problem = problem_of("mlp-none-gd", execution={"threads": before + 1})
    get_engine("torch").trainer(problem, Choice("torch", "loop", 1, 10))
    assert torch.get_num_threads() == problem.settings.execution.threads != before
    assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.allow_tf32
    torch.set_num_threads(before)


# ------------------------------------------------------------------------------------ modules from factories

PLAIN = {"name": "torch", "factory": "tests.networks_for_tests:mlp"}
NORMALISED = {"name": "torch", "factory": "tests.networks_for_tests:normalised", "width": 5}


def written_out(problem: Problem, member: int) -> np.ndarray:
    """Predictions (record, sample, element, output) of a member trained with torch.optim, step by step."""
    settings, shape = problem.settings, problem.orbit_input.shape
    module = member_module(settings.network, shape[2:], problem.outputs, settings.ensemble.seed, member)
    rate, training = problem.learning_rate, settings.training
    if training.optimizer == "adam":
        optimizer: torch.optim.Optimizer = torch.optim.Adam(module.parameters(), rate)
    else:
        optimizer = torch.optim.SGD(module.parameters(), rate, training.momentum)
    x, y = (torch.tensor(a, dtype=torch.float32) for a in (problem.row_input, problem.row_target))
    orbit = torch.tensor(problem.orbit_input.reshape(-1, *shape[2:]), dtype=torch.float32)
    ends, recorded = np.cumsum(problem.segments), []
    for step in range(int(problem.segments.sum()) + 1):
        if step in ends:
            recorded.append(module.eval()(orbit).detach().numpy().reshape(*shape[:2], -1))
        if step == int(problem.segments.sum()):
            return np.stack(recorded)
        rows = problem.schedule(member, step, 1)[0]
        rows = torch.from_numpy(rows[rows >= 0])
        torch.manual_seed(int(stream(training.seed, STREAM_STEP, member, step).integers(2**63)))
        optimizer.zero_grad()
        output = module.train()(x[rows])
        if training.loss == "cross_entropy":
            loss = functional.cross_entropy(output, y[rows].argmax(1))
        else:
            loss = 0.5 * functional.mse_loss(output, y[rows])
        loss.backward()
        optimizer.step()
    raise AssertionError


@pytest.mark.parametrize(
    ("case", "network"),
    [("mlp-random-adam", PLAIN), ("cnn-subset-sgd", NORMALISED), ("mlp-none-gd", NORMALISED)],
    ids=["adam", "sgd-normalised", "gd-normalised"],
)
def test_modules_from_factories_follow_a_loop_written_out(case: str, network: dict[str, Any]) -> None:
    """Training mode in steps, evaluation mode in records, statistics per member, last minibatch without padding.

    Not adam with BatchNorm: the bias in front of it has no gradient but round-off, which adam scales up.
    """
    problem = problem_of(case, network=network)
    result = train(problem, "torch", "loop")
    for row, member in enumerate(MEMBERS):
        assert_close(result.prediction[row], written_out(problem, member), 1e-5)
    assert not np.isclose(result.prediction[0, -1], result.prediction[1, -1]).any()


def test_modules_with_dropout_do_not_depend_on_how_the_work_is_cut() -> None:
    problem = problem_of("mlp-random-adam", network=NORMALISED)
    one, other = train(problem, "torch", "loop", 1, 100), train(problem, "torch", "loop", 2, 1)
    np.testing.assert_array_equal(one.prediction, other.prediction)
    choice = Choice("torch", "loop", 2, 100)
    trainer = get_engine("torch").trainer(problem, choice)
    whole = trainer.save(trainer.advance(trainer.start(MEMBERS[:2]), 0, 8))
    torch.manual_seed(123)
    again = get_engine("torch").trainer(problem, choice)
    saved = trainer.save(trainer.advance(trainer.start(MEMBERS[:2]), 0, 3))
    resumed = again.save(again.advance(again.restore(MEMBERS[:2], saved), 3, 5))
    for a, b in zip(whole, resumed, strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(array.dtype == np.int64 and (array == 8).all() for array in whole), "BatchNorm counts its batches"


def test_the_seed_of_training_changes_the_masks() -> None:
    training = {**STEPS, "optimizer": "gd"}
    first, second = (
        train(problem_of("mlp-none-gd", network=NORMALISED, training={**training, "seed": seed}), "torch", "loop")
        for seed in (0, 1)
    )
    np.testing.assert_array_equal(first.prediction[:, 0], second.prediction[:, 0])
    assert not np.isclose(first.prediction[:, -1], second.prediction[:, -1]).all()


FROZEN = """
from torch import nn

def frozen(input_shape, outputs):
    module = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, outputs, bias=False))
    module[1].requires_grad_(False)
    return module
"""


def test_frozen_parameters_stay_and_are_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "partly_frozen.py").write_text(FROZEN)
    monkeypatch.chdir(tmp_path)
    problem = problem_of("mlp-none-gd", network={"name": "torch", "factory": "partly_frozen:frozen"})
    weights = train(problem, "torch", "loop").weights
    assert [array.shape[2:] for array in weights] == [(5, 16), (5,), (problem.outputs, 5)]
    for frozen in weights[:2]:
        np.testing.assert_array_equal(frozen[:, 0], frozen[:, 1])
    assert not np.isclose(weights[2][:, 0], weights[2][:, 1]).all()


def test_modules_from_factories_are_not_stacked() -> None:
    problem = problem_of("mlp-none-gd", network=NORMALISED)
    assert [choice.variant for choice in get_engine("torch").candidates(problem, 8)] == ["loop"]
    with pytest.raises(StudyError, match=r"network torch by variant vmap.*Use variant loop"):
        get_engine("torch").trainer(problem, Choice("torch", "vmap", 2, 10))


def test_a_minibatch_of_one_row_is_refused_for_batch_norm() -> None:
    problem = problem_of("mlp-random-adam", network=NORMALISED)
    problem = replace(problem, units=11)
    with pytest.raises(StudyError, match=r"training.batch_size: with 11 rows .* single row, .*: Expected more than 1"):
        get_engine("torch").trainer(problem, Choice("torch", "loop", 1, 10))


# ------------------------------------------------------------------------------------ how far float32 drifts

LONG_TASK = {"name": "digits", "train": 512, "test": 64, "ood": "none"}
LONG = {
    "gd": (
        {"name": "mlp", "width": 64, "hidden_layers": 2},
        {"learning_rate": 0.5, "steps": 300, "record": [0, 10, 300]},
        1e-4,
    ),
    "adam": (
        {"name": "cnn", "width": 8},
        {
            "learning_rate": 0.005,
            "optimizer": "adam",
            "loss": "cross_entropy",
            "epochs": 20,
            "batch_size": 32,
            "record": [0, 5, 20],
        },
        0.05,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_float32_drift_is_as_stated(name: str) -> None:
    """docs/engines.md: gradient descent keeps a tolerance, minibatch runs lose their digits at kinks of relu."""
    network, training, tolerance = LONG[name]
    content = {"study": "long", "task": LONG_TASK, "network": network, "training": training}
    settings = parse_study(content, Path("long.yaml")).arms[0].settings
    problem = build_problem(settings, build_task(settings), training["learning_rate"])
    expected, *others = (
        train(problem, engine, variant, together, 1000).prediction.astype(np.float64)
        for engine, variant, together in (("jax", "map", 1), ("torch", "loop", 1), ("torch", "vmap", 3))
    )
    axes = (2, 3, 4)
    for found in others:
        drift = np.sqrt(((found - expected) ** 2).mean(axes) / (expected**2).mean(axes)).max(axis=0)
        assert drift[1] < 1e-5, f"after a few steps: {drift}"
        assert drift[2] < tolerance, f"at the end: {drift}"
