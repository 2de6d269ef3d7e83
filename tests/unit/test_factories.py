"""The user's own torch networks: what a factory must keep, how members are drawn, BatchNorm and dropout in training."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from emergent_equivariance.errors import StudyError
from emergent_equivariance.networks.factories import check_factory, member_module, mode_dependent, trained_parameters
from emergent_equivariance.plan import render
from emergent_equivariance.settings import TorchNetwork
from emergent_equivariance.study import parse_study
from emergent_equivariance.study.budget import TORCH, needs
from emergent_equivariance.tasks import build_task
from emergent_equivariance.training import ENGINES, Choice, build_problem, get_engine, train_shard
from emergent_equivariance.training.probe import choose
from emergent_equivariance.training.torch_engine import stacking_fault

NETS = "tests.networks_for_tests"
SHAPE, OUTPUTS = (3, 3, 1), 4


def section(factory, **fields):
    return TorchNetwork(name="torch", factory=factory, **fields)


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Text of a module with a function ``make`` → its import path, found in the working directory."""
    monkeypatch.chdir(tmp_path)
    made = []

    def write(text):
        name = f"own_nets_{len(made)}_{tmp_path.name.replace('-', '_')}"
        (tmp_path / f"{name}.py").write_text(HEAD + text)
        made.append(name)
        return f"{name}:make"

    yield write
    for name in made:
        sys.modules.pop(name, None)


HEAD = """
import random
import numpy as np
import torch
from torch import nn
from math import prod

def dense(shape, outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(prod(shape), 8), nn.ReLU(), nn.Linear(8, outputs))

class Altered(nn.Module):
    def __init__(self, inner, change):
        super().__init__()
        self.inner, self.change = inner, change

    def forward(self, x):
        return self.change(self.inner(x))
"""

GOOD = "def make(shape, outputs):\n    return dense(shape, outputs)\n"


# ------------------------------------------------------------------------------------------- drawing members


def weights(module):
    return [parameter.detach().numpy() for parameter in module.parameters()]


def test_weights_depend_on_seed_and_member_alone(make):
    chosen = section(make(GOOD))
    first = weights(member_module(chosen, SHAPE, OUTPUTS, 3, 5))
    torch.manual_seed(99)  # whatever the process did before
    torch.randn(7)
    for same, array in zip(weights(member_module(chosen, SHAPE, OUTPUTS, 3, 5)), first, strict=True):
        np.testing.assert_array_equal(same, array)
    for seed, member in ((3, 6), (4, 5)):
        assert not np.array_equal(weights(member_module(chosen, SHAPE, OUTPUTS, seed, member))[0], first[0])


def test_drawing_a_member_leaves_the_generator_of_torch_alone(make):
    chosen = section(make(GOOD))
    torch.manual_seed(1)
    expected = torch.randn(3)
    torch.manual_seed(1)
    member_module(chosen, SHAPE, OUTPUTS, 0, 0)
    assert torch.equal(torch.randn(3), expected)


def test_members_are_different_and_spread_as_the_factory_says():
    modules = [member_module(section(f"{NETS}:mlp", width=64), SHAPE, OUTPUTS, 0, m) for m in range(30)]
    entries = np.concatenate([weights(module)[0].ravel() for module in modules])  # N(0, 1)
    assert abs(entries.mean()) < 4 / np.sqrt(entries.size)
    assert abs(entries.var() - 1) < 4 * np.sqrt(2 / entries.size)
    assert len({weights(module)[0].tobytes() for module in modules}) == 30


def test_width_and_options_are_passed_on():
    module = member_module(section(f"{NETS}:mlp", width=7, options={"b_std": 0.0}), SHAPE, OUTPUTS, 0, 0)
    assert [tuple(parameter.shape) for parameter in module.parameters()] == [(7, 9), (OUTPUTS, 7)]


def test_trained_parameters_and_layers_that_depend_on_the_mode(make):
    text = (
        "def make(shape, outputs):\n    net = dense(shape, outputs)\n    net[1].weight.requires_grad_(False)\n"
        "    return net.append(nn.BatchNorm1d(outputs)).append(nn.Dropout2d())\n"
    )
    module = member_module(section(make(text)), SHAPE, OUTPUTS, 0, 0)
    assert "1.weight" not in trained_parameters(module) and "1.bias" in trained_parameters(module)
    assert mode_dependent(module) == ["BatchNorm1d", "Dropout2d"]


# ------------------------------------------------------------------------------------------------ bad factories


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("import nothing_of_this_name\n", "no module 'nothing_of_this_name'|failed with", id="import"),
        pytest.param("make = 3\n", "has no function 'make'", id="callable"),
        pytest.param("def make(shape):\n    return dense(shape, 1)\n", "cannot be called as", id="arguments"),
        pytest.param("def make(shape, outputs):\n    return [1]\n", "returned list, no Module", id="module"),
        pytest.param("def make(shape, outputs):\n    return dense(shape, outputs + 1)\n", r"\(3, 5\)", id="shape"),
        pytest.param(
            "def make(shape, outputs):\n    return Altered(dense(shape, outputs), lambda y: y[0])\n",
            r"gives \(4,\)",
            id="batch",
        ),
        pytest.param(
            "def make(shape, outputs):\n    return Altered(dense(shape, outputs), torch.Tensor.double)\n",
            "of torch.float64, expected",
            id="dtype",
        ),
        pytest.param(
            "def make(shape, outputs):\n    return Altered(dense(shape, outputs), lambda y: (y, y))\n",
            "gives tuple",
            id="tuple",
        ),
        pytest.param(
            "def make(shape, outputs):\n    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2, 4))\n",
            "fails on inputs .batch, 3, 3, 1. of float32: RuntimeError.*channels last",
            id="channels",
        ),
        pytest.param(
            "def make(shape, outputs):\n    return Altered(nn.Flatten(), lambda y: y[:, :outputs])\n",
            "no trainable parameters",
            id="no-parameters",
        ),
        pytest.param(
            "def make(shape, outputs):\n    return dense(shape, outputs).requires_grad_(False)\n",
            "no trainable parameters",
            id="frozen",
        ),
        pytest.param(
            "def make(shape, outputs):\n    net = dense(shape, outputs)\n"
            "    net[1].weight.data = torch.as_tensor(np.random.randn(8, prod(shape)), dtype=torch.float32)\n"
            "    return net\n",
            "same seed give different weights.*not with numpy",
            id="numpy",
        ),
        pytest.param(
            "def make(shape, outputs):\n    net = dense(shape, outputs)\n"
            "    nn.init.constant_(net[1].bias, random.random())\n    return net\n",
            "same seed give different weights",
            id="random",
        ),
        pytest.param(
            "def make(shape, outputs):\n    torch.manual_seed(0)\n    return dense(shape, outputs)\n",
            "different seeds give the same weights",
            id="manual-seed",
        ),
        pytest.param(
            "NET = []\ndef make(shape, outputs):\n    NET or NET.append(dense(shape, outputs))\n    return NET[0]\n",
            "share parameters",
            id="cached",
        ),
        pytest.param(
            "BODY = nn.Linear(9, 8)\ndef make(shape, outputs):\n"
            "    return nn.Sequential(nn.Flatten(), BODY, nn.ReLU(), nn.Linear(8, outputs))\n",
            "share parameters",
            id="shared-layer",
        ),
        pytest.param(
            "def make(shape, outputs):\n    return dense(shape, outputs).to(torch.complex64)\n",
            "torch.complex64, not real floating-point",
            id="complex",
        ),
        pytest.param(
            "def make(shape, outputs):\n    return nn.Sequential(nn.Flatten(), nn.LazyLinear(outputs))\n",
            "has no shape before the first forward pass",
            id="lazy",
        ),
        pytest.param(
            "def make(shape, outputs):\n    return dense(shape, outputs).to('meta')\n", "is on meta", id="device"
        ),
        pytest.param(
            "def make(shape, outputs):\n    return Altered(dense(shape, outputs), lambda y: y - y.mean(0))\n",
            "depends on the rest of the batch",
            id="mixes-batch",
        ),
        pytest.param(
            "def make(shape, outputs):\n"
            "    return Altered(dense(shape, outputs), lambda y: nn.functional.dropout(y, 0.5, True))\n",
            "or on chance",
            id="always-random",
        ),
        pytest.param(
            "def make(shape, outputs):\n    net = dense(shape, outputs)\n    torch.manual_seed(0)\n"
            "    net[3].reset_parameters()\n    return net\n",
            "the same weights 3.weight: that layer ignores the seed",
            id="manual-seed-of-a-layer",
        ),
        pytest.param(
            "TABLE = torch.zeros(8), torch.ones(8)\ndef make(shape, outputs):\n    net = dense(shape, outputs)\n"
            "    net.insert(2, nn.BatchNorm1d(8))\n    net[2].running_mean, net[2].running_var = TABLE\n"
            "    return net\n",
            "share the buffer 2.running_mean",
            id="shared-statistics",
        ),
        pytest.param(
            "def make(shape, outputs):\n    return Altered(dense(shape, outputs), torch.no_grad()(lambda y: 2 * y))\n",
            "its outputs have no gradient",
            id="no-grad",
        ),
        pytest.param(
            "def make(shape, outputs):\n"
            "    return Altered(dense(shape, outputs), lambda y: (lambda z: z * y.mul_(2))(y.sin()))\n",
            "the gradient of its outputs cannot be taken",
            id="in-place",
        ),
        pytest.param(
            "class Pair(nn.Module):\n    def __init__(self, inner):\n        super().__init__()\n"
            "        self.inner = inner\n    def forward(self, x):\n        y = self.inner(x)\n"
            "        return (y, y) if self.training else y\n"
            "def make(shape, outputs):\n    return Pair(dense(shape, outputs))\n",
            "in training mode, of .* the module gives tuple",
            id="other-outputs-in-training",
        ),
        pytest.param(
            "def make(shape, outputs):\n    net = dense(shape, outputs)\n"
            "    nn.init.constant_(net[1].bias, float('nan'))\n    return net\n",
            "the initial weights 1.bias are not all finite",
            id="nan",
        ),
        pytest.param(
            "def make(shape, outputs):\n    return Altered(dense(shape, outputs), lambda y: y / 0)\n",
            "outputs of standard normal inputs are not all finite",
            id="infinite",
        ),
        pytest.param(
            "def make(shape, outputs):\n    import nothing_of_this_name\n",
            "calling it failed with ModuleNotFoundError: No module named 'nothing_of_this_name'",
            id="import-when-called",
        ),
    ],
)
def test_bad_factories_are_refused(make, text, says):
    chosen = section(make(text))
    with pytest.raises(StudyError, match=f"(?s)network.factory: '{chosen.factory}'.*({says})"):
        member_module(chosen, SHAPE, OUTPUTS, 0, 0)


def test_missing_module_and_width_that_is_not_wanted(make):
    with pytest.raises(StudyError, match=r"there is no module 'nowhere'.*Correct the name"):
        check_factory(section("nowhere:make"), SHAPE, OUTPUTS)
    with pytest.raises(StudyError, match=r"width=3.*unexpected keyword argument 'width'.*network.width"):
        check_factory(section(make(GOOD), width=3), SHAPE, OUTPUTS)


def test_faults_of_the_factory_itself_keep_their_traceback(make):
    for text in (
        "def make(shape, outputs):\n    return 1 / 0\n",
        "def make(shape, outputs):\n    return Altered(dense(shape, outputs), lambda y: 1 / 0)\n",
    ):
        chosen = section(make(text))
        with pytest.raises(ZeroDivisionError) as caught:
            check_factory(chosen, SHAPE, OUTPUTS)
        assert caught.value.__notes__ == [f"network.factory: '{chosen.factory}'"]
        assert caught.traceback[-1].name in ("make", "<lambda>")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param("    nn.init.zeros_(net[3].weight)\n    nn.init.ones_(net[1].bias)\n", id="constant-weights"),
        pytest.param("    net[1].register_buffer('table', TABLE)\n", id="shared-constants"),
        pytest.param("    net[1].register_buffer('table', TABLE * float('nan'))\n", id="nan-in-a-buffer"),
        pytest.param("    net[1].weight.data = torch.eye(8, 9)\n    net[1].weight.requires_grad_(False)\n", id="fixed"),
    ],
)
def test_what_factories_may_do(make, change):
    text = "TABLE = torch.arange(3.0)\ndef make(shape, outputs):\n    net = dense(shape, outputs)\n"
    check_factory(section(make(f"{text}{change}    return net\n")), SHAPE, OUTPUTS)


# -------------------------------------------------------------------------------------------------- study files

CONTENT = {
    "study": "own",
    "task": {"name": "ising", "lattice": 3, "target": "local", "train": 6, "test": 4},
    "network": {"name": "torch", "factory": f"{NETS}:normalised", "width": 12, "options": {"dropout": 0.25}},
    "training": {"learning_rate": 0.1, "steps": 7, "record": [0, 1, 4, 7], "store_weights": [0, 7]},
    "ensemble": {"members": 3},
}


def arm_of(**sections):
    return parse_study({**CONTENT, **sections}, Path("own.yaml")).arms[0]


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"network": {"name": "torch", "factory": "no-path"}}, "network.factory = 'no-path'"),
        ({"network": {"name": "torch", "factory": "a:b", "options": {"width": 3}}}, "width is passed by itself"),
        ({"network": {"name": "torch", "factory": "a:b", "W_std": 1.0}}, "unknown key network.W_std"),
        ({"execution": {"engine": "jax"}}, "execution.engine: jax .*torch"),
        ({"training": {"steps": 3}}, "a critical_fraction needs the NTK"),
        ({"theory": {"monte_carlo": 3}}, "theory.monte_carlo = 3"),
        *(
            ({"kind": kind, "training": None, "ensemble": None, **more}, "torch has no analytic kernel")
            for kind, more in (("kernel_convergence", {}), ("kernel_regression", {"regression": {"sizes": [3]}}))
        ),
    ],
)
def test_study_files_that_cannot_be_run(sections, says):
    content = {key: value for key, value in {**CONTENT, **sections}.items() if value is not None}
    with pytest.raises(StudyError, match=says):
        parse_study(content, Path("own.yaml"))


def test_what_the_hash_of_a_member_holds():
    arm, same = arm_of(), arm_of(theory={"monte_carlo": 8})
    assert arm.config_hash == same.config_hash
    network = CONTENT["network"]
    for change in ({"width": 13}, {"options": {"dropout": 0.5}}, {"factory": f"{NETS}:mlp"}):
        assert arm_of(network=network | change).config_hash != arm.config_hash


def test_plan_of_a_network_of_unknown_size(capsys):
    study = parse_study({**CONTENT, "sweep": {"network.width": [4, 8]}, "theory": {"monte_carlo": 8}}, Path("own.yaml"))
    render(study, keys=False)
    said = " ".join(capsys.readouterr().out.split())
    assert "width~4" in said and "?" in said and "2 solutions with Monte-Carlo kernels" in said


def test_memory_of_kernels_from_torch_networks_counts_torch():
    sections = {"theory": {"monte_carlo": 8}}
    own, ours = (needs(arm_of(**sections, network=n).settings) for n in (CONTENT["network"], {"name": "mlp"}))
    assert own.solution - ours.solution == TORCH


# --------------------------------------------------------------------------------------------------- training


def problem_of(**sections):
    settings = arm_of(**sections).settings
    return build_problem(settings, build_task(settings), 0.1)


def train(problem, members, together=1, steps_per_call=1000):
    choice = Choice("torch", "loop", together, steps_per_call)
    return train_shard(problem, get_engine("torch").trainer(problem, choice), choice, list(members))


EPOCHS = {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.9, "epochs": 3, "batch_size": 4}


@pytest.mark.parametrize("training", [CONTENT["training"], EPOCHS], ids=["gd", "sgd"])
def test_batchnorm_and_dropout_do_not_depend_on_sharding_or_interruption(training):
    problem = problem_of(training=training)
    whole = train(problem, range(4))
    parts = [train(problem, members, together, 2) for members, together in ((range(1), 1), (range(1, 4), 3))]
    np.testing.assert_array_equal(whole.prediction, np.concatenate([part.prediction for part in parts]))
    np.testing.assert_array_equal(whole.loss, np.concatenate([part.loss for part in parts]))
    assert not np.array_equal(whole.prediction[0], whole.prediction[1])


def test_training_is_a_plain_torch_loop():
    """Training mode in steps, masks seeded per step, evaluation mode while recording, running statistics kept."""
    from emergent_equivariance.augmentation import stream
    from emergent_equivariance.training.torch_engine import STREAM_STEP

    problem, member = problem_of(), 2
    found = train(problem, [member])
    settings = problem.settings
    module = member_module(settings.network, SHAPE, problem.outputs, settings.ensemble.seed, member)
    x, y = (torch.tensor(a, dtype=torch.float32) for a in (problem.row_input, problem.row_target))
    orbits = torch.tensor(problem.orbit_input, dtype=torch.float32).flatten(0, 1)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    recorded = {}
    for step in range(8):
        if step in settings.training.recorded:
            module.eval()
            recorded[step] = module(orbits).detach().numpy()
        module.train()
        torch.manual_seed(int(stream(settings.training.seed, STREAM_STEP, member, step).integers(2**63)))
        loss = 0.5 * ((module(x) - y) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for index, step in enumerate(settings.training.recorded):
        ours = found.prediction[0, index].reshape(recorded[step].shape)
        np.testing.assert_allclose(ours, recorded[step], rtol=1e-4, atol=1e-5, err_msg=f"step {step}")
    moved = np.abs(found.prediction[0, -1] - found.prediction[0, 0]).max()
    assert moved > 0.1  # so that the comparison says something


def test_running_statistics_and_masks_survive_a_checkpoint():
    problem = problem_of()
    choice = Choice("torch", "loop", 2, 1000)
    trainer = get_engine("torch").trainer(problem, choice)
    members = [0, 1]
    state = trainer.advance(trainer.start(members), 0, 4)
    saved = [array.copy() for array in trainer.save(state)]
    expected = trainer.record(trainer.advance(state, 4, 3), True)
    again = get_engine("torch").trainer(problem, choice)
    resumed = again.record(again.advance(again.restore(members, saved), 4, 3), True)
    np.testing.assert_array_equal(resumed.prediction, expected.prediction)
    for a, b in zip(resumed.weights, expected.weights, strict=True):
        np.testing.assert_array_equal(a, b)


# ---------------------------------------------------------------------------------------------- stacked members

#: A weight that is not trained but drawn per member, tied weights, a table that all members share.
STACKABLE = """
class Net(nn.Module):
    def __init__(self, shape, outputs):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(prod(shape), 6), nn.LayerNorm(6), nn.Linear(6, outputs)
        self.lift = nn.Parameter(torch.randn(6, 6), requires_grad=False)
        self.tied = self.lift
        self.register_buffer("table", torch.arange(6.0))

    def forward(self, x):
        y = torch.tanh(self.first(x.flatten(1))) @ self.lift @ self.tied.T / 6
        return self.last(torch.relu(self.norm(y + self.table / 6)) if self.training else self.norm(y).relu())

def make(shape, outputs):
    return Net(shape, outputs)
"""

OTHER = {"adam": EPOCHS | {"optimizer": "adam", "momentum": 0.0, "learning_rate": 0.02}, "sgd": EPOCHS}
OTHER["gd"] = {"learning_rate": 0.1, "steps": 6}


def variants(problem, members=3):
    return {(c.variant, c.members_at_once) for c in get_engine("torch").candidates(problem, members)}


@pytest.mark.parametrize("optimizer", list(OTHER))
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_stacked_members_are_those_trained_one_by_one(make, optimizer, precision):
    training = OTHER[optimizer] | {"record": [0, 1, 3], "store_weights": [0, 3]}
    problem = problem_of(
        network={"name": "torch", "factory": make(STACKABLE)},
        training=training,
        execution={"precision": precision},
        augmentation="random" if optimizer == "adam" else "none",
    )
    assert variants(problem) == {("loop", 1), ("vmap", 3)} and stacking_fault(problem) == ""
    alone = train(problem, range(4))
    choice = Choice("torch", "vmap", 2, 1)
    stacked = train_shard(problem, get_engine("torch").trainer(problem, choice), choice, list(range(4)))
    tolerance = {"float32": 1e-4, "float64": 1e-7}[precision]  # predictions are kept in float32
    scale = np.abs(alone.prediction).max()
    np.testing.assert_allclose(stacked.prediction, alone.prediction, rtol=0, atol=tolerance * scale)
    assert np.abs(alone.prediction[:, -1] - alone.prediction[:, 0]).max() > 0.01 * scale, "something is learnt"
    assert len(alone.weights) == 7  # tied weights once
    for found, expected in zip(stacked.weights, alone.weights, strict=True):
        assert found.shape == expected.shape and found.dtype == expected.dtype == precision
        np.testing.assert_array_equal(found[:, 0], expected[:, 0], "initial weights")
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())
    lift = next(weight for weight in stacked.weights if weight.shape[2:] == (6, 6))
    np.testing.assert_array_equal(lift[:, 0], lift[:, 1], "weights that are not trained")


def test_stacked_members_survive_a_checkpoint(make):
    problem = problem_of(network={"name": "torch", "factory": make(STACKABLE)}, training=EPOCHS)
    first, second = (get_engine("torch").trainer(problem, Choice("torch", "vmap", 2, 100)) for _ in range(2))
    state = first.advance(first.start([1, 4]), 0, 3)
    saved = [array.copy() for array in first.save(state)]
    expected = first.record(first.advance(state, 3, 2), True)
    found = second.record(second.advance(second.restore([1, 4], saved), 3, 2), True)
    np.testing.assert_array_equal(found.prediction, expected.prediction)
    for a, b in zip(found.weights, expected.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_networks_of_the_package_are_stacked():
    images = {"name": "digits", "train": 6, "test": 2, "ood": "none"}
    network = {"name": "torch", "factory": "emergent_equivariance.networks.steerable:cyclic_cnn", "width": 2}
    assert variants(problem_of(task=images, network=network)) == {("loop", 1), ("vmap", 3)}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("nn.Sequential(dense(shape, outputs), nn.Dropout(0.1))", "Dropout: not the same", id="dropout"),
        pytest.param(
            "nn.Sequential(dense(shape, 5), nn.BatchNorm1d(5), nn.Linear(5, outputs))", "BatchNorm1d", id="bn"
        ),
        pytest.param(
            "Altered(dense(shape, outputs), lambda y: y if y.sum() > 0 else -y)", "data-dependent", id="branch"
        ),
        pytest.param("Altered(dense(shape, outputs), lambda y: y * y.max().item())", "item", id="item"),
        pytest.param("Noisy(shape, outputs)", "random operation", id="functional-dropout"),
        pytest.param("Altered(dense(shape, outputs), Twice.apply)", "setup_context", id="own-gradient"),
        pytest.param("Own(shape, outputs)", "buffers are not the same in all members", id="own-buffers"),
        pytest.param("Keeping(shape, outputs)", "RuntimeError", id="kept-tensors"),
        pytest.param("Detached(shape, outputs)", "outputs or gradients", id="not-through-parameters"),
        pytest.param("counting(shape, outputs)", "its buffers change", id="counter"),
    ],
)
def test_members_that_cannot_be_stacked_are_trained_one_by_one(make, text, says):
    problem = problem_of(
        network={"name": "torch", "factory": make(f"{ODD}def make(shape, outputs):\n    return {text}\n")}
    )
    assert variants(problem) == {("loop", 1)}
    with pytest.raises(StudyError, match=rf"(?s)network torch by variant vmap: .*{says}.*Use variant loop"):
        get_engine("torch").trainer(problem, Choice("torch", "vmap", 2, 10))
    train(problem, [0])


ODD = f"""
from {__name__} import counting

class Body(nn.Module):
    def __init__(self, shape, outputs):
        super().__init__()
        self.inner, self.last = dense(shape, 5), nn.Linear(5, outputs)
        self.kept = None
        self.reference = [self.last.weight]

class Noisy(Body):
    def forward(self, x):
        return self.last(nn.functional.dropout(self.inner(x), 0.5, self.training))

class Own(Body):
    def __init__(self, shape, outputs):
        super().__init__(shape, outputs)
        self.register_buffer("mask", torch.rand(5))

    def forward(self, x):
        return self.last(self.inner(x) * self.mask)

class Keeping(Body):
    def forward(self, x):
        if self.kept is None:
            self.kept = self.last.weight.detach() > 0
        return nn.functional.linear(self.inner(x), self.last.weight * self.kept)

class Detached(Body):
    def forward(self, x):
        return nn.functional.linear(self.inner(x), self.reference[0])

class Twice(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return 2 * x

    @staticmethod
    def backward(context, gradient):
        return 2 * gradient
"""


def test_buffers_that_change_later_stop_stacked_members(make):
    text = """
class Late(nn.Module):
    def __init__(self, shape, outputs):
        super().__init__()
        self.inner = dense(shape, outputs)
        self.register_buffer("shift", torch.zeros(()))

    def forward(self, x):
        if len(x) == 6:
            self.shift = self.shift + 1
        return self.inner(x) + self.shift

def make(shape, outputs):
    return Late(shape, outputs)
"""
    problem = problem_of(network={"name": "torch", "factory": make(text)})
    trainer = get_engine("torch").trainer(problem, Choice("torch", "vmap", 2, 10))
    with pytest.raises(StudyError, match="its buffers change"):
        trainer.advance(trainer.start([0, 1]), 0, 2)


def test_stacks_fit_the_budget_of_memory():
    network = {"name": "torch", "factory": f"{NETS}:mlp", "width": 4000}
    problem = problem_of(network=network, execution={"memory": 0.03}, ensemble={"members": 40})
    assert variants(problem, 40) == {("loop", 1), ("vmap", 8)}  # 52,000 weights and 4,000 activations per row


def counting(input_shape, outputs):
    """Counts its training steps in a buffer that is no part of its state_dict, and adds the count to its outputs."""

    class Counting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(9, outputs)
            self.register_buffer("steps", torch.zeros(()), persistent=False)

        def forward(self, x):
            self.steps = self.steps + self.training
            return self.inner(x.flatten(1)) + self.steps

    return Counting()


def test_every_buffer_is_the_members_own_and_part_of_checkpoints():
    problem = problem_of(network={"name": "torch", "factory": f"{__name__}:counting"})
    trainer = get_engine("torch").trainer(problem, Choice("torch", "loop", 2, 1000))
    state = trainer.advance(trainer.start([0, 1]), 0, 4)
    saved = trainer.save(state)
    again = get_engine("torch").trainer(problem, Choice("torch", "loop", 2, 1000))
    for count in (4, 5):
        assert [float(unit.module.steps) for unit in state] == [count, count]
        state = again.advance(again.restore([0, 1], saved), 4, 1)


def test_the_seed_of_training_is_part_of_the_hash():
    """Masks depend on it, also where there is no order of the data."""
    assert arm_of().config_hash != arm_of(training=CONTENT["training"] | {"seed": 1}).config_hash


def test_the_probe_knows_that_torch_alone_trains_them():
    problem = problem_of()
    assert {name for name in ENGINES if get_engine(name).candidates(problem, 3)} == {"torch"}
    found = choose(problem, math.inf)
    assert (found.choice.engine, found.choice.variant, found.choice.members_at_once) == ("torch", "loop", 1)


def test_masks_follow_the_seed_of_training_and_weights_do_not():
    plain, other = (train(problem_of(training=CONTENT["training"] | {"seed": seed}), [0]) for seed in (0, 1))
    np.testing.assert_array_equal(plain.prediction[:, 0], other.prediction[:, 0])
    assert not np.array_equal(plain.prediction[:, 1:], other.prediction[:, 1:])
