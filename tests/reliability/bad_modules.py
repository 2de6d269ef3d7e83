"""Data, tasks and networks that do not do, for the table of error messages."""

import dataclasses
import gzip
import hashlib
import io
import os

import numpy as np

from emergent_equivariance.tasks import sources

from .arranging import (
    TRAIN,
    TRAINING,
    Case,
    both,
    change,
    chosen,
    fashion,
    made,
    module,
    network,
    nowhere,
    own,
    text,
    unreadable,
    variables,
)

#: What is said first of a choice of the torch engine that cannot be kept to.
ENGINE = ".json: engine torch"

DATA_OF, PROBE = "data small.yaml --key {data}", "probe small.yaml --key {probe}"

#: A task that is right, and what alters it.
TASK = """
import numpy as np
from dataclasses import replace
from emergent_equivariance.groups import get_group, invariant_action
from emergent_equivariance.interpolation import interpolated_action
from emergent_equivariance.settings import IsingTask
from emergent_equivariance.tasks import Readout, ising

def task(settings, group):
    data = ising.build(IsingTask(name="ising", lattice=3, target="local", train=6, test=6), group)
    return {}
"""


def task(result, **section):
    """A task of one's own: what becomes of that one, ``data``."""
    return module(TASK.format(result), **{"ood": ["gaussian"], **section})


#: What the data of a task may not be: what becomes of them, and what is said of it.
TASKS = {
    "inputs of another shape": ("replace(data, input=data.input[:, :2])", ["(2, 3, 1)", "(3, 3, 1)"]),
    "inputs of single precision": ("replace(data, input=data.input.astype('f4'))", ["float32", "float64"]),
    "outputs that are arrays": (
        "replace(data, output_action=invariant_action(group, (3, 3)))",
        ["output action", "(3, 3)"],
    ),
    "fewer targets": ("replace(data, target=data.target[1:])", ["18 inputs", "(17, 9)", "(18, 9)"]),
    "fewer labels": ("replace(data, label=np.zeros(17, int))", ["(17,)", "(18,)"]),
    "two groups": (
        "replace(data, input_action=invariant_action(get_group('c2'), (3, 3, 1)))",
        ["input_action", "c2", "c4"],
    ),
    "no training samples": ("replace(data, split=np.full(18, 'test'))", ["no sample", "'train'"]),
    "a target that is lost": ("replace(data, target=data.target * np.nan)", ["training target", "not finite"]),
    "an unknown split": (
        "replace(data, split=np.where(data.split == 'test', 'validation', data.split))",
        ["split", "validation", "ood-NAME"],
    ),
    "an observable of other outputs": (
        "replace(data, readout=Readout('energy', np.ones((1, 8))))",
        ["'energy'", "(1, 8)", "(observable, 9)"],
    ),
    "an observable that is not invariant": (
        "replace(data, readout=Readout('corner', np.eye(9)[:1]))",
        ["'corner'", "not invariant under c4"],
    ),
    "splits in another order": (
        "replace(data, split=data.split[::-1])",
        ["'ood-gaussian', 'test', 'train'", "expected ['train', 'test', 'ood-gaussian']"],
    ),
}

#: Parts of networks, and what a module begins with that has some of one's own.
NETWORKS = """
import random
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

BODY, TABLE = nn.Linear(9, 8), (torch.zeros(8), torch.ones(8))

"""

#: What a factory of networks may not do: its body behind ``net = dense(shape, outputs)``, and what is said of it.
FACTORIES = {
    "an import that fails": ("import no_such_module", ["ModuleNotFoundError", "'no_such_module'"]),
    "no network": ("return [1]", ["returned list", "torch.nn.Module"]),
    "weights without a shape": ("return nn.Sequential(nn.Flatten(), nn.LazyLinear(outputs))", ["1.weight", "no shape"]),
    "weights elsewhere": ("return net.to('meta')", ["1.weight is on meta", "CPU"]),
    "complex weights": (
        "net[1].weight.data = net[1].weight.data.to(torch.complex64); return net",
        ["1.weight", "torch.complex64"],
    ),
    "nothing to train": ("return net.requires_grad_(False)", ["no trainable parameters"]),
    "weights that are lost": (
        "nn.init.constant_(net[1].bias, float('nan')); return net",
        ["initial weights 1.bias", "not all finite"],
    ),
    "a layer that is shared": (
        "return nn.Sequential(nn.Flatten(), BODY, nn.ReLU(), nn.Linear(8, outputs))",
        ["share parameters", "new layers"],
    ),
    "another generator": (
        "nn.init.constant_(net[1].bias, random.random()); return net",
        ["same seed", "different weights"],
    ),
    "a seed of its own": ("torch.manual_seed(0); return dense(shape, outputs)", ["different seeds", "same weights"]),
    "a layer with a seed of its own": (
        "torch.manual_seed(0); net[3].reset_parameters(); return net",
        ["same weights 3.weight", "ignores the seed"],
    ),
    "images with channels first": (
        "return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(2, outputs))",
        ["fails on inputs (batch, 3, 3, 1)", "RuntimeError", "channels last"],
    ),
    "outputs of another number": ("return dense(shape, outputs + 1)", ["(3, 10)", "expected (3, 9)"]),
    "outputs that are lost": ("return Altered(net, lambda y: y / 0)", ["outputs", "not all finite"]),
    "samples that are mixed": ("return Altered(net, lambda y: y - y.mean(0))", ["depends on the rest of the batch"]),
    "no gradient": ("return Altered(net, torch.no_grad()(lambda y: 2 * y))", ["outputs have no gradient"]),
    "a gradient that is lost": (
        "return Altered(net, lambda y: (lambda z: z * y.mul_(2))(y.sin()))",
        ["gradient", "cannot be taken", "in place"],
    ),
    "statistics that are shared": (
        "net.insert(2, nn.BatchNorm1d(8)); net[2].running_mean, net[2].running_var = TABLE; return net",
        ["share the buffer 2.running_mean"],
    ),
    "filters that do not fit": (
        "from emergent_equivariance.groups import get_group\n"
        "    from emergent_equivariance.networks.filters import Filters\n"
        "    return Filters(get_group('c4'), 2, 'SAME').fit(3, 3)",
        ["kernel_size 2", "c4"],
    ),
}


def factory(body):
    return network(f"{NETWORKS}def make(shape, outputs):\n    net = dense(shape, outputs)\n    {body}\n")


#: A network that counts its steps, of more samples than it is tried with.
COUNTING = """
class Counting(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x):
        if len(x) == 6:
            self.count = self.count + 1
        return self.inner(x) + self.count

def make(shape, outputs):
    return Counting(dense(shape, outputs))
"""


def data_of(result, **sections):
    """The study on a task of one's own, whose data are made."""
    name, arranged = own(TASK.format(result))
    section = {"name": "custom", "factory": f"{name}:task", "train": 6, "test": 6, "ood": ["gaussian"]}
    return both(arranged, change(task=section, **{"theory": {"mean": False}, "training": TRAINING, **sections}), made)


def classes(result):
    """The same as classification."""
    return data_of(result, training={**TRAINING, "loss": "cross_entropy"})


def substitute(study, patch):
    """A small substitute of PathMNIST, believed to be the official one."""
    known = sources.SETS["path_mnist"]
    (file,) = known.substitute.md5
    content = io.BytesIO()
    np.savez(content, images=np.zeros((25, 28, 28, 3), np.uint8), labels=np.zeros(25, np.uint8))
    md5 = {file: hashlib.md5(content.getvalue(), usedforsecurity=False).hexdigest()}
    believed = dataclasses.replace(known, substitute=dataclasses.replace(known.substitute, md5=md5))
    patch.setitem(sources.SETS, "path_mnist", believed)
    task = {"name": "path_mnist", "train": 16, "test": 10, "data_dir": "."}
    for step in (nowhere, text(content.getvalue(), f"pathmnist_samples/{file}"), change(task=task)):
        step(study, patch)


def steerable(options, **sections):
    """The networks of cyclic groups that come with the package."""
    factory = "emergent_equivariance.networks.steerable:cyclic_cnn"
    torch = {"name": "torch", "factory": factory, "width": 4, "options": options}
    return change(network=torch, theory={"mean": False}, training=TRAINING, **sections)


DATA = {
    "no such folder": Case(
        DATA_OF,
        ["small.yaml", "task.data_dir", "'nowhere'"],
        change(task={"name": "fashion_mnist", "data_dir": "nowhere"}),
    ),
    "no such folder in the environment": Case(
        DATA_OF,
        ["$EMEQ_DATA_DIR", "'nowhere'"],
        both(nowhere, variables(EMEQ_DATA_DIR="nowhere"), change(task={"name": "fashion_mnist"})),
    ),
    "a data set that is nowhere": Case(
        DATA_OF,
        ["small.yaml", "FashionMNIST", "task.data_dir", "EMEQ_DATA_DIR", "dataset-fashion-mnist"],
        both(nowhere, change(task={"name": "fashion_mnist"})),
    ),
    "a part of a data set": Case(
        DATA_OF,
        ["small.yaml", "FashionMNIST", "lacks", "t10k-labels-idx1-ubyte.gz"],
        both(fashion(b""), lambda study, patch: os.remove("fashion-mnist/t10k-labels-idx1-ubyte.gz")),
    ),
    "a truncated data set": Case(
        DATA_OF,
        ["train-images-idx3-ubyte.gz", "truncated", "md5"],
        fashion(gzip.compress(bytes(10_000))[:-12]),
    ),
    "an altered data set": Case(
        DATA_OF,
        ["train-images-idx3-ubyte.gz", "altered", "expected md5", "found"],
        fashion(gzip.compress(bytes(100))),
    ),
    "no module": Case(
        DATA_OF,
        ["small.yaml", "task.factory", "no_such_module:task", "working directory"],
        change(task={"name": "custom", "factory": "no_such_module:task", "train": 6, "test": 6}),
    ),
    "a module with a fault": Case(DATA_OF, ["small.yaml", "task.factory", "SyntaxError"], module("def task(:")),
    "no such function": Case(DATA_OF, ["small.yaml", "task.factory", "'task'"], module("other = 1")),
    "no task": Case(
        DATA_OF,
        ["small.yaml", "task.factory", "returned dict", "TaskData"],
        module("def task(settings, group): return {}"),
    ),
    "fewer samples": Case(
        DATA_OF,
        ["small.yaml", "task.factory: 'mine_", "task.train is 7", "6 samples"],
        task("data", train=7),
    ),
    "a network of no module": Case(
        PROBE,
        ["small.yaml", "network.factory", "no_such_module"],
        change(
            network={"name": "torch", "factory": "no_such_module:network", "width": 4},
            theory={"mean": False},
            training={"learning_rate": 0.1, "steps": 10},
        ),
    ),
    "a network with other arguments": Case(
        PROBE,
        ["small.yaml", "network.factory: 'mine_", "shape", "outputs", "unexpected keyword argument 'width'"],
        network(f"{NETWORKS}make = dense", width=3),
    ),
    **{
        f"a task with {name}": Case(DATA_OF, ["small.yaml: task.factory: 'mine_", ":task'", *says], task(result))
        for name, (result, says) in TASKS.items()
    },
    **{
        f"a network with {name}": Case(PROBE, ["small.yaml: network.factory: 'mine_", ":make'", *says], factory(body))
        for name, (body, says) in FACTORIES.items()
    },
    "filters of even size": Case(
        PROBE, ["small.yaml", "network.factory", "kernel_size = 2", "network.options"], steerable({"kernel_size": 2})
    ),
    "filters for no image": Case(
        PROBE,
        ["small.yaml", "network.factory", "shape (1,)", "on a grid"],
        both(steerable({}, task={"name": "cosine", "train": 6, "test": 6}, group="c2"), made),
    ),
    "an action that is not by the group": Case(
        DATA_OF,
        ["small.yaml", "task.factory: 'mine_", "output_action is of the group c2", "c4"],
        task("replace(data, output_action=invariant_action(get_group('c2'), (9,)))"),
    ),
    "a file that cannot be read": Case(
        DATA_OF,
        ["train-images-idx3-ubyte.gz", "cannot be read"],
        both(fashion(b""), unreadable("fashion-mnist/train-images-idx3-ubyte.gz")),
    ),
    "a substitute that is too small": Case(
        DATA_OF, ["small.yaml", "task", "16 + 10 images", "25 images", "task.train"], substitute
    ),
    "outputs that move with the inputs": Case(
        PROBE,
        ["small.yaml", "network.canonicalisation", "transform under c4"],
        data_of("data", network={"name": "mlp", "canonicalisation": "orbit_maximum"}),
    ),
    "no classes": Case(PROBE, ["small.yaml", "training.loss", "class labels", "mse"], classes("data")),
    "classes beyond the outputs": Case(
        PROBE,
        ["small.yaml", "training.loss", "from 0 to 8", "task custom", "from 9 to 9"],
        classes("replace(data, label=np.full(18, 9))"),
    ),
    "a minibatch of one": Case(
        TRAIN,
        ["small.yaml", "training.batch_size", "6 rows", "single"],
        both(
            network(
                f"{NETWORKS}def make(shape, outputs):\n"
                "    return nn.Sequential(dense(shape, 4), nn.BatchNorm1d(4), nn.Linear(4, outputs))\n",
                training={"optimizer": "sgd", "learning_rate": 0.1, "epochs": 2, "batch_size": 5},
            ),
            chosen("torch", "loop", 1),
        ),
    ),
    "networks that cannot be stacked": Case(
        TRAIN,
        [ENGINE, "variant vmap", "Dropout"],
        both(factory("return nn.Sequential(net, nn.Dropout(0.1))"), chosen("torch", "vmap")),
    ),
    "networks that count": Case(
        TRAIN,
        [ENGINE, "variant vmap", "its buffers change"],
        both(network(f"{NETWORKS}{COUNTING}"), chosen("torch", "vmap")),
    ),
    "tiles of an action that is not exact": Case(
        "kernel-tiles small.yaml --key {kernel} --first 0 --last 0",
        ["small.yaml", "group", "c4 is not exact", "execution.tiles_above"],
        data_of(
            "replace(data, input_action=interpolated_action(group, (3, 3, 1)))",
            theory={},
            execution={"tiles_above": 1, "tile_size": 4},
        ),
    ),
    "networks of several kinds": Case(
        TRAIN,
        [ENGINE, "variant vmap", "buffers of member 4"],
        both(
            factory(  # members 0 and 1, by which it is tried, are of one kind, 4 and 5 of another
                "net.register_buffer('kind', (abs(torch.rand(()) - 0.59) < 0.29).float()); return net"
            ),
            chosen("torch", "vmap"),
        ),
    ),
}
