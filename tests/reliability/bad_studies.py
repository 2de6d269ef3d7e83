"""Study files that are refused, for the table of error messages: content, and what the message says of it."""

from pathlib import Path

from emergent_equivariance.study import read_yaml

from .arranging import Case, change, text

#: The Ising study as shipped.
BASE = read_yaml(Path(__file__).parents[2] / "config" / "ising.yaml")


def changed(**sections):
    """The Ising study with some sections replaced; None drops a section."""
    content = {**BASE, **sections}
    return {key: value for key, value in content.items() if value is not None}


def training(**keys):
    return changed(training={**BASE["training"], **keys})


def of_kernels(kind="kernel_regression", **sections):
    """The same with a kind that trains nothing."""
    dropped = dict.fromkeys(("training", "ensemble", "evaluate", "theory", "sweep"))
    return changed(kind=kind, **{**dropped, **sections})


def regression(**keys):
    return of_kernels(regression={"sizes": [4], **keys})


def digits(**sections):
    return changed(**{"task": {"name": "digits"}, "sweep": None, **sections})


BAD = {
    "unknown kind": (changed(kind="kernels"), ["kind", "'kernels'", "kernel_regression"]),
    "unknown key": (changed(task={**BASE["task"], "latice": 5}), ["task.latice", "5", "lattice"]),
    "unknown section": (changed(nettwork={}), ["nettwork", "network"]),
    "wrong type": (changed(ensemble={"members": "many"}), ["ensemble.members", "many", "integer"]),
    "out of range": (changed(ensemble={"members": 0}), ["ensemble.members", "0", "greater"]),
    "empty sweep": (changed(sweep={}), ["sweep", "empty", "drop"]),
    "empty sweep list": (changed(sweep={"network.width": []}), ["sweep.network.width", "non-empty"]),
    "sweep of nothing": (changed(sweep={"network.widht": [1]}), ["network.widht", "width"]),
    "sweep into a value": (changed(sweep={"group.name": ["c4"]}), ["sweep.group.name", "c4"]),
    "sweep of the study": (changed(sweep={"study": ["a"]}), ["sweep.study", "whole study"]),
    "value swept twice": (changed(sweep={"network.width": [8, 8]}), ["sweep.network.width", "8"]),
    "unknown group": (changed(group="so3"), ["group", "'so3'", "c1 to c64", "t1 to t32"]),
    "group too large": (changed(group="c65"), ["group", "'c65'", "c1 to c64"]),
    "group of the wrong type": (changed(group=8), ["group", "8", "string"]),
    "c8 on a lattice": (changed(group="c8"), ["c8", "5×5", "between pixels", "trivial, c2, c4"]),
    "shifts by part of a pixel": (changed(group="t3"), ["t3", "5×5", "t1, t5"]),
    "shifts of an image by part of a pixel": (
        changed(task={"name": "digits"}, group="t3"),
        ["t3", "8×8", "t1, t2, t4, t8"],
    ),
    "interpolation of a lattice": (
        changed(action={"interpolation": "nearest"}),
        ["action", "ising", "leave the section out"],
    ),
    "unknown interpolation": (
        changed(task={"name": "digits"}, action={"interpolation": "cubic"}),
        ["action.interpolation", "'cubic'", "'nearest'", "'bilinear'"],
    ),
    "mask that is no switch": (
        changed(task={"name": "digits"}, action={"mask": "disc"}),
        ["action.mask", "'disc'", "'auto'"],
    ),
    "infinite fill": (
        changed(task={"name": "digits"}, action={"fill": float("inf")}),
        ["action.fill", "inf", "finite"],
    ),
    "a boolean for the fill": (changed(task={"name": "digits"}, action={"fill": True}), ["fill", "true"]),
    "gcnn of a group that is interpolated": (
        changed(task={"name": "digits"}, group="c8", network={"name": "gcnn"}, sweep=None),
        ["network.group", "c8", "c2, c4, d2, d4", "for instance c4"],
    ),
    "gcnn of a group that turns the grid": (
        changed(
            task={**BASE["task"], "lattice": [5, 4]}, group="c2", network={"name": "gcnn", "group": "c4"}, sweep=None
        ),
        ["network.group", "5×4", "c4 is not one of them", "c2, d2"],
    ),
    "unknown canonicalisation": (
        changed(network={"name": "mlp", "canonicalisation": "maximum"}),
        ["network.canonicalisation", "'maximum'", "'orbit_maximum'"],
    ),
    "c4 on a 5×4 grid": (changed(task={**BASE["task"], "lattice": [5, 4]}), ["c4", "5×4", "square"]),
    "d4 on a vector": (
        changed(task={"name": "cosine"}, group="d4"),
        ["d4", "one-dimensional", "trivial, c2"],
    ),
    "cnn on a vector": (
        changed(task={"name": "cosine"}, group="c2", network={"name": "cnn"}),
        ["cnn", "(1,)", "mlp"],
    ),
    "filters too large": (
        changed(network={"name": "cnn", "kernel_size": 7}, sweep=None),
        ["kernel_size", "5×5"],
    ),
    "even filters": (changed(network={"name": "cnn", "kernel_size": 2}, sweep=None), ["kernel_size", "even", "odd"]),
    "record beyond the end": (
        changed(training={**BASE["training"], "record": [0, 500]}),
        ["record", "500", "300"],
    ),
    "more subset elements than the group": (
        changed(augmentation={"subset": 5}, sweep=None),
        ["augmentation.subset", "5", "c4", "4"],
    ),
    "critical fraction without theory": (
        changed(training={"optimizer": "adam", "epochs": 2, "learning_rate": {"critical_fraction": 0.5}}),
        ["critical_fraction", "number"],
    ),
    "epochs with gd": (changed(training={"epochs": 3}), ["gd", "steps"]),
    "classification of one output": (
        changed(training={**BASE["training"], "loss": "cross_entropy", "learning_rate": 0.1}),
        ["cross_entropy", "ising", "mse"],
    ),
    "too many digits": (
        changed(task={"name": "digits", "train": 1500, "test": 500}),
        ["2000", "1797"],
    ),
    "unknown task": (changed(task={"name": "mnist"}), ["mnist", "fashion_mnist"]),
    "missing task": (changed(task=None), ["task", "missing"]),
    "wrong case": (changed(network={"name": "cnn", "padding": "same"}, sweep=None), ["network.padding", "'SAME'"]),
    "infinite rate": (changed(training={**BASE["training"], "learning_rate": float("inf")}), ["learning_rate", "inf"]),
    "huge seed": (changed(ensemble={"seed": 2**64}), ["ensemble.seed", str(2**64)]),
    "a boolean for a number": (changed(ensemble={"members": True}), ["ensemble", "members", "true"]),
    "a set named twice": (changed(task={**BASE["task"], "ood": ["gaussian", "gaussian"]}), ["ood", "twice"]),
    "softmax of a regression": (changed(evaluate={"ensemble_mean": "softmax"}), ["ensemble_mean", "ising", "logits"]),
    "endless name": (changed(study="a" * 300), ["study", "80"]),
    "study name with a slash": (changed(study="../escape"), ["study", "../escape"]),
    "a section that is no mapping": (changed(network="mlp", sweep=None), ["network", "'mlp'", "mapping"]),
    "a network without a name": (changed(network={"width": 8}, sweep=None), ["network", "name"]),
    "an unknown network": (changed(network={"name": "resnet"}, sweep=None), ["network", "'resnet'", "'mlp'"]),
    "no study name": (changed(study=None), ["study", "missing"]),
    "a list for the sweep": (changed(sweep=["network.width"]), ["sweep", "mapping", "dotted.key"]),
    "one value for a sweep": (changed(sweep={"network.width": 64}), ["sweep.network.width", "64", "list"]),
    "a key that is no text": (changed(sweep={3: [1]}), ["sweep.3"]),
    "two names of one arm": (
        changed(sweep={"network.width": {"small": 8, "narrow": 8}}),
        ["sweep", "width~small", "width~narrow", "same settings"],
    ),
    "a bad cell of the sweep": (changed(sweep={"network.width": [8, -1]}), ["network.width", "-1", "in the arm"]),
    "a negative learning rate": (training(learning_rate=-1), ["learning_rate", "-1", "positive"]),
    "a word for the learning rate": (training(learning_rate="fast"), ["training.learning_rate", "'fast'", "number"]),
    "a fraction of nothing": (training(learning_rate={"critical_fraction": 0}), ["critical_fraction", "0", "greater"]),
    "no steps": (training(steps=None), ["training", "steps"]),
    "negative steps": (training(steps=-1, record="auto"), ["training.steps", "-1", "greater"]),
    "a negative recorded step": (training(record=[-1, 10]), ["record", "-1", "negative"]),
    "weights at steps that are not recorded": (training(store_weights=[7]), ["store_weights", "7", "recorded"]),
    "momentum of gd": (training(momentum=0.9), ["momentum", "gd", "sgd"]),
    "momentum beyond one": (training(momentum=1.5), ["training.momentum", "1.5", "less than 1"]),
    "an unknown optimizer": (training(optimizer="lbfgs"), ["training.optimizer", "'lbfgs'", "'adam'"]),
    "an unknown loss": (training(loss="hinge"), ["training.loss", "'hinge'", "'mse'"]),
    "an unknown augmentation": (changed(augmentation="half", sweep=None), ["augmentation", "'half'", "'full'"]),
    "a subset of nothing": (changed(augmentation={"subset": 0}, sweep=None), ["subset", "0"]),
    "ensembles of no members": (changed(evaluate={"member_counts": [0]}), ["evaluate.member_counts", "0"]),
    "a word for ensembles": (changed(evaluate={"member_counts": "all"}), ["member_counts", "'all'", "'powers_of_two'"]),
    "memory of nothing": (changed(execution={"memory": 0}), ["execution.memory", "0", "greater"]),
    "memory that does not do": (changed(execution={"memory": 0.001}), ["execution.memory", "0.001 GB", "task.train"]),
    "tiles that do not fit": (
        changed(execution={"memory": 0.001, "tiles_above": 1, "tile_size": 200}, theory={"covariance": False}),
        ["execution.memory", "tile_size"],
    ),
    "an unknown engine": (changed(execution={"engine": "tensorflow"}), ["execution.engine", "'tensorflow'", "'jax'"]),
    "an unknown mode of W&B": (
        changed(tracking={"wandb": "sometimes"}),
        ["tracking.wandb", "'sometimes'", "'offline'"],
    ),
    "a project with a slash": (changed(tracking={"project": "a/b"}), ["tracking.project", "'a/b'"]),
    "a route to nowhere": (changed(theory={"route": "fast"}), ["theory.route", "'fast'", "'direct'"]),
    "few networks for kernels": (changed(theory={"monte_carlo": 2}), ["theory.monte_carlo", "2", "8"]),
    "a path for an import path": (
        changed(task={"name": "custom", "factory": "tasks/mine.py", "train": 4, "test": 4}, sweep=None),
        ["task.factory", "tasks/mine.py", "module:function"],
    ),
    "an unknown precision": (changed(execution={"precision": "float16"}), ["execution.precision", "'float16'"]),
    "canonical inputs of moving outputs": (
        changed(task={**BASE["task"], "target": "local"}, network={"name": "mlp", "canonicalisation": "orbit_maximum"}),
        ["network.canonicalisation", "task.target: total"],
    ),
    "no members at once": (changed(execution={"members_at_once": 0}), ["execution.members_at_once", "0", "auto"]),
    "an engine for images": (
        changed(execution={"engine": "numba"}),
        ["execution.engine", "numba", "network mlp", "only cnn, gcnn"],
    ),
    "a fraction without a kernel": (
        changed(network={"name": "torch", "factory": "a:b"}, sweep=None),
        ["training.learning_rate", "critical_fraction", "theory.monte_carlo"],
    ),
    "kernels of a network that has none": (
        of_kernels(network={"name": "torch", "factory": "a:b"}, regression={"sizes": [4]}),
        ["network.name", "torch", "mlp, cnn or gcnn"],
    ),
    "more inputs than test samples": (
        of_kernels("kernel_convergence", convergence={"inputs": 10_000}),
        ["convergence.inputs", "10000", "task.test"],
    ),
    "more samples than there are": (regression(sizes=[10_000]), ["regression.sizes", "10000", "task.train"]),
    "half a step of descent": (regression(form="descent", times=[0.5]), ["regression.times", "whole", "flow"]),
    "a rate that diverges": (
        regression(form="descent", learning_rate={"critical_fraction": 1.5}),
        ["regression.learning_rate", "1.5", "0.5"],
    ),
    "a rate of regression below 0": (regression(learning_rate=-1), ["regression.learning_rate", "-1", "positive"]),
    "a size given twice": (regression(sizes=[4, 4]), ["regression.sizes", "[4, 4]", "twice"]),
    "a time that is none": (regression(times=["later"]), ["regression.times", "'later'", "inf"]),
    "a width among the options": (
        changed(network={"name": "torch", "factory": "a:b", "options": {"width": 3}}, sweep=None),
        ["network.options", "width", "network.width"],
    ),
    "a subset of no size": (changed(augmentation={"kind": "subset"}, sweep=None), ["augmentation.subset", "number"]),
    "steps of sgd": (training(optimizer="sgd", learning_rate=0.1), ["training", "sgd", "epochs"]),
    "a lattice of two sites": (changed(task={**BASE["task"], "lattice": 2}), ["task.lattice", "2", "at least 3"]),
    "a lattice without end": (changed(task={**BASE["task"], "lattice": 1000}), ["task.lattice", "1000", "256"]),
    "a network that widens nothing": (changed(network={"name": "mlp", "width": 0}, sweep=None), ["network.width", "0"]),
}

#: The same by other subcommands, and files that are no study.
STUDY_FILES = {
    "no such file": Case("validate none.yaml", ["none.yaml", "No such file", "config/"]),
    "a folder": Case("validate .", [".: cannot be read", "directory"]),
    "an empty file": Case("validate small.yaml", ["small.yaml", "mapping"], text("")),
    "a list": Case("validate small.yaml", ["small.yaml", "mapping"], text("- 1")),
    "no YAML": Case("validate small.yaml", ["small.yaml", "not valid YAML", "line 1"], text("a: [1,")),
    "a tab": Case("validate small.yaml", ["small.yaml", "not valid YAML", "line 2"], text("task:\n\tname: ising")),
    "a key given twice": Case("validate small.yaml", ["small.yaml", "'study'", "twice"], text("study: a\nstudy: b")),
    "no text": Case("validate small.yaml", ["small.yaml", "not valid YAML"], text(b"study: \xff\xfe")),
    "an object": Case("validate small.yaml", ["small.yaml", "python"], text("study: !!python/object:os.system {}")),
    "no study to run": Case("run none.yaml", ["none.yaml", "No such file", "config/"]),
    "no study to see": Case("status none.yaml", ["none.yaml", "No such file", "config/"]),
    **{
        f"a bad key, by {command.split()[0]}": Case(
            command, ["small.yaml", "network.widht", "4", "width"], change(network={"name": "mlp", "widht": 4})
        )
        for command in ("plan small.yaml", "data small.yaml --key 0", "metrics small.yaml", "missing small.yaml")
    },
}
