"""What a user can meet on the command line: exit code, file and key in the message, a remedy, no traceback.

One table: what is arranged in a folder with a study that is done up to its metrics, what is called there, what the
message says. The command line is entered in this process, where ``emeq`` enters it, and by a process of its own once
for each way out of it.
"""

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pooch
import pytest
import yaml

from emergent_equivariance import cli, store
from emergent_equivariance.study import Choice, Probe, Study, load_study
from emergent_equivariance.tasks import sources

from .bad_studies import BAD
from .finished_study import CONTENT, study_in

#: What a remedy begins with, and what may stand before it.
VERBS = (
    "add|build|check|choose|convert|correct|delete|drop|give|install|leave|list|lower|make|mend|name|order|provide|"
    "raise|record|remove|rename|replace|return|run|set|start|sweep|take|train|use|wait|write"
)
REMEDY = re.compile(rf"(?:[.;:,)] |\bor )(?:{VERBS})\b", re.IGNORECASE)

NONE, FULL = "augmentation~none", "augmentation~full"
SHARD = f"members/{NONE}/members-000000-000001.zarr.zip"
ENSEMBLE = f"ensemble/{NONE}.zarr.zip"
OTHER_SHARD = f"members/{NONE}/members-000002-000003.zarr.zip"
AGGREGATE = f"aggregate small.yaml --arm {NONE}"
TRAIN = f"train small.yaml --arm {NONE} --first 4 --last 5"


class Case(NamedTuple):
    """A case of the table.

    Attributes:
      command: arguments of ``emeq``; {data}, {theory}, {rate}, {probe}, {kernel} stand for the keys of the first arm.
      says: what the message holds besides a remedy, the file or argument at fault first.
      arrange: called with the study, of which all is there, and monkeypatch.
      code: exit code.
    """

    command: str
    says: list[str]
    arrange: Callable[[Study, pytest.MonkeyPatch], object] = lambda study, patch: None
    code: int = 1


# ------------------------------------------------------------------------------------------------ arranging


def change(**sections):
    """Change sections of the study file, or drop them."""

    def arrange(study, patch):
        content = {key: value for key, value in {**CONTENT, **sections}.items() if value is not None}
        study.file.write_text(yaml.safe_dump(content))

    return arrange


#: A study of kernels, in which nothing is trained.
def kernels(study, patch):
    dropped = dict.fromkeys(("training", "ensemble", "evaluate", "sweep"))
    change(kind="kernel_regression", regression={"sizes": [2]}, **dropped)(study, patch)


def text(content, name="small.yaml"):
    def arrange(study, patch):
        path = study.file.parent / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return arrange


def both(*steps):
    return lambda study, patch: [step(study, patch) for step in steps]


def place(study, name):
    """A file of the results, {data} and the like in its name replaced."""
    return study.root / name.format(**keys(study))


def keys(study):
    arm = study.arms[0]
    names = {"data": "data_key", "theory": "theory_key", "rate": "learning_rate_key", "probe": "probe_key"}
    return {short: getattr(arm, name) for short, name in {**names, "kernel": "kernel_key"}.items()}


def gone(*names):
    def arrange(study, patch):
        for name in names:
            path = place(study, name)
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return arrange


def torn(name):
    def arrange(study, patch):
        path = place(study, name)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return arrange


def altered(name):
    """One bit of the largest array of a store."""

    def arrange(study, patch):
        path = place(study, name)
        with zipfile.ZipFile(path) as archive:
            entry = max(archive.infolist(), key=lambda entry: entry.file_size)
        content = bytearray(path.read_bytes())
        content[entry.header_offset + 30 + len(entry.filename) + entry.file_size // 2] ^= 1
        path.write_bytes(content)

    return arrange


def rewritten(name, by=lambda dataset: dataset, **attributes):
    """A store, whole, with other arrays or attributes."""

    def arrange(study, patch):
        dataset = store.read(place(study, name)).load()
        store.write(by(dataset), place(study, name), attributes)

    return arrange


def lost_prediction(dataset):
    values = dataset["prediction"].values.copy()
    values[0, 1, 2] = np.nan
    return dataset.assign(prediction=dataset["prediction"].copy(data=values))


def written(name, content):
    return lambda study, patch: place(study, name).write_text(content)


def copied(name, onto):
    return lambda study, patch: shutil.copy(place(study, name), place(study, onto))


def linked(name):
    """A file or folder of the results, elsewhere and a link to it."""

    def arrange(study, patch):
        elsewhere = study.file.parent / "elsewhere"
        place(study, name).rename(elsewhere)
        place(study, name).symlink_to(elsewhere)

    return arrange


def variables(**values):
    return lambda study, patch: [patch.setenv(name, value) for name, value in values.items()]


#: Nothing but what is arranged: no package of the system, no network, no cache.
def nowhere(study, patch):
    patch.setattr(pooch.get_logger(), "disabled", True)  # it writes where standard error was when it was imported
    patch.setattr(sources, "SYSTEM", study.file.parent / "no-such-folder")
    variables(HTTPS_PROXY="http://127.0.0.1:9", XDG_CACHE_HOME=str(study.file.parent))(study, patch)
    patch.delenv(sources.DATA_DIR, raising=False)


def fashion(content):
    """The study on FashionMNIST, all of whose files are there and hold this."""
    names = sources.SETS["fashion_mnist"].md5
    files = [text(content, f"fashion-mnist/{name}.gz") for name in names]
    return both(nowhere, *files, change(task={"name": "fashion_mnist", "data_dir": "."}))


def module(content, **task):
    """A task of one's own, by a function of this module; every case has a module of its own."""
    name = f"mine_{abs(hash(content)) % 10**8}"
    factory = {"name": "custom", "factory": f"{name}:task", "train": 6, "test": 6, **task}
    return both(text(content, f"{name}.py"), change(task=factory))


def cluster(content="", **answers):
    """A cluster file, and what the programs of SLURM say of the cluster; those that say nothing are not there."""

    def arrange(study, patch):
        text(content, "cluster.yaml")(study, patch)
        folder = study.file.parent / "bin"
        folder.mkdir()
        for name, answer in answers.items():
            (folder / name).write_text(f"#!/bin/sh\nprintf '%s\\n' '{answer}'\n")
            (folder / name).chmod(0o755)
        patch.setenv("PATH", str(folder))
        shutil.rmtree(study.root)

    return arrange


def on_gpu(study, patch):
    """The measurement of engines chose a GPU."""
    for arm in study.arms:
        told = {"reason": "for this test", "device": "fake GPU", "machine": "any", "threads": 1}
        store.write_text(Probe(arm.probe_key, Choice("jax", "vmap", 2, 10), **told).to_json(), study.probe_path(arm))


SINFO = "cpu*|8000|4|(null)|(null)|2:00:00"
GPU_SINFO = SINFO + "\ngpu|8000|4|gpu:fake:2|(null)|2:00:00"

# ------------------------------------------------------------------------------------------------ the table

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

ARGUMENTS = {
    "an unknown arm": Case("aggregate small.yaml --arm width~1", ["small.yaml", "width~1", NONE, FULL]),
    "an unknown key of data": Case("data small.yaml --key abc", ["small.yaml", "abc", "{data}"]),
    "an unknown key of theory": Case("theory small.yaml --key abc", ["small.yaml", "abc", "{theory}"]),
    "members backwards": Case(TRAIN.replace("--first 4", "--first 6"), ["small.yaml", "--last 5", "--first 6"]),
    "nothing to train": Case(
        "train small.yaml --arm arm~single --first 0 --last 1",
        ["small.yaml", "kernel_regression", "emeq measure"],
        kernels,
    ),
    "no kernels in tiles": Case(
        "kernel-tiles small.yaml --key {kernel} --first 0 --last 1", ["small.yaml", "{kernel}", "execution.tiles_above"]
    ),
    "a study file that exists": Case("new small.yaml", ["small.yaml", "exists", "not overwritten"]),
    "a schema where nothing is written": Case(
        "schema --output /proc/none/schema.json", ["/proc/none/schema.json", "cannot be written"]
    ),
    "an unknown template": Case("new mine.yaml --template nonesuch", ["'--template'", "'nonesuch'", "ising"], code=2),
    "an unknown subcommand": Case("trian small.yaml", ["trian"], code=2),
    "an unknown option": Case("validate small.yaml --fast", ["--fast"], code=2),
    "no study file": Case("validate", ["STUDY.yaml"], code=2),
    "an option left out": Case(f"train small.yaml --arm {NONE} --first 0", ["--last"], code=2),
    "a word for a number": Case(TRAIN.replace("--first 4", "--first a"), ["'--first'", "integer"], code=2),
    "a negative member": Case(TRAIN.replace("--first 4", "--first -1"), ["'--first'", "greater"], code=2),
    "no threads": Case("theory small.yaml --key {theory} --threads 0", ["'--threads'", "greater"], code=2),
}

DATA = {
    "no such folder": Case(
        "data small.yaml --key {data}",
        ["small.yaml", "task.data_dir", "'nowhere'"],
        change(task={"name": "fashion_mnist", "data_dir": "nowhere"}),
    ),
    "no such folder in the environment": Case(
        "data small.yaml --key {data}",
        ["$EMEQ_DATA_DIR", "'nowhere'"],
        both(nowhere, variables(EMEQ_DATA_DIR="nowhere"), change(task={"name": "fashion_mnist"})),
    ),
    "a data set that is nowhere": Case(
        "data small.yaml --key {data}",
        ["small.yaml", "FashionMNIST", "task.data_dir", "EMEQ_DATA_DIR", "dataset-fashion-mnist"],
        both(nowhere, change(task={"name": "fashion_mnist"})),
    ),
    "a part of a data set": Case(
        "data small.yaml --key {data}",
        ["small.yaml", "FashionMNIST", "lacks", "t10k-labels-idx1-ubyte.gz"],
        both(fashion(b""), lambda study, patch: os.remove("fashion-mnist/t10k-labels-idx1-ubyte.gz")),
    ),
    "a truncated data set": Case(
        "data small.yaml --key {data}",
        ["train-images-idx3-ubyte.gz", "truncated", "md5"],
        fashion(gzip.compress(bytes(10_000))[:-12]),
    ),
    "an altered data set": Case(
        "data small.yaml --key {data}",
        ["train-images-idx3-ubyte.gz", "altered", "expected md5", "found"],
        fashion(gzip.compress(bytes(100))),
    ),
    "no module": Case(
        "data small.yaml --key {data}",
        ["small.yaml", "task.factory", "no_such_module:task", "working directory"],
        change(task={"name": "custom", "factory": "no_such_module:task", "train": 6, "test": 6}),
    ),
    "a module with a fault": Case(
        "data small.yaml --key {data}", ["small.yaml", "task.factory", "SyntaxError"], module("def task(:")
    ),
    "no such function": Case(
        "data small.yaml --key {data}", ["small.yaml", "task.factory", "'task'"], module("other = 1")
    ),
    "no task": Case(
        "data small.yaml --key {data}",
        ["small.yaml", "task.factory", "returned dict", "TaskData"],
        module("def task(settings, group): return {}"),
    ),
    "inputs of another shape": Case(
        "data small.yaml --key {data}",
        ["small.yaml", "task", "(8,)", "(3, 3, 1)"],
        module(
            "import dataclasses, yaml\n"
            "from emergent_equivariance.settings import IsingTask\n"
            "from emergent_equivariance.tasks import ising\n"
            "def task(settings, group):\n"
            "    data = ising.build(IsingTask(name='ising', lattice=3, train=6, test=6), group)\n"
            "    return dataclasses.replace(data, input=data.input.reshape(len(data.input), -1)[:, :8])\n"
        ),
    ),
    "fewer samples": Case(
        "data small.yaml --key {data}",
        ["small.yaml", "task.train is 7", "6 samples"],
        module(
            "from emergent_equivariance.settings import IsingTask\n"
            "from emergent_equivariance.tasks import ising\n"
            "def task(settings, group):\n"
            "    return ising.build(IsingTask(name='ising', lattice=3, train=6, test=6), group)\n",
            train=7,
            ood=["gaussian"],
        ),
    ),
    "a network of no module": Case(
        "probe small.yaml --key {probe}",
        ["small.yaml", "network.factory", "no_such_module"],
        change(
            network={"name": "torch", "factory": "no_such_module:network", "width": 4},
            theory={"mean": False},
            training={"learning_rate": 0.1, "steps": 10},
        ),
    ),
}

STORES = {
    "data not made": Case(
        TRAIN,
        ["data/{data}.zarr.zip", "does not exist", "emeq data small.yaml --key {data}"],
        gone("data/{data}.zarr.zip"),
    ),
    "data torn": Case(TRAIN, ["data/{data}.zarr.zip", "damaged"], torn("data/{data}.zarr.zip")),
    "data altered": Case(TRAIN, ["data/{data}.zarr.zip", "damaged", "CRC"], altered("data/{data}.zarr.zip")),
    "another theory": Case(
        AGGREGATE,
        ["theory/{theory}.zarr.zip", "another name", "theory key"],
        lambda study, patch: shutil.copy(study.theory_path(study.arms[1]), study.theory_path(study.arms[0])),
    ),
    "no theory": Case(AGGREGATE, ["theory/{theory}.zarr.zip"], gone("theory/{theory}.zarr.zip")),
    "no learning rate": Case(
        TRAIN,
        ["theory/{rate}.learning-rate.json", "does not exist", "emeq learning-rate small.yaml --key {rate}"],
        gone("theory/{rate}.learning-rate.json"),
    ),
    "a learning rate changed by hand": Case(
        TRAIN,
        ["theory/{rate}.learning-rate.json", "damaged"],
        lambda study, patch: place(study, "theory/{rate}.learning-rate.json").write_text(
            json.dumps({**json.loads(place(study, "theory/{rate}.learning-rate.json").read_text()), "learning_rate": 1})
        ),
    ),
    "no choice of the engine": Case(
        TRAIN,
        ["engine/{probe}.json", "does not exist", "emeq probe small.yaml --key {probe}"],
        gone("engine/{probe}.json"),
    ),
    "a choice of no engine": Case(TRAIN, ["engine/{probe}.json", "damaged"], written("engine/{probe}.json", "{{}")),
    "a choice of a GPU": Case(TRAIN, ["engine/{probe}.json", "GPU"], on_gpu),
    "a shard of another version": Case(
        TRAIN.replace("4 --last 5", "0 --last 1"), [SHARD, "another version"], rewritten(SHARD, config_hash="0" * 16)
    ),
    "a folder of another version": Case(
        "missing small.yaml",
        ["small.yaml", NONE, "another version", "config hash"],
        change(network={"name": "mlp", "width": 8, "b_std": 0.5}),
    ),
    "a torn shard": Case(AGGREGATE, [SHARD, "damaged"], torn(SHARD)),
    "an altered shard": Case(AGGREGATE, [SHARD, "damaged", "CRC"], altered(SHARD)),
    "a shard of another format": Case(AGGREGATE, [SHARD, "has format 99", "reads 1"], rewritten(SHARD, format=99)),
    "a foreign shard": Case(
        AGGREGATE,
        [SHARD, "another version", "config hash"],
        copied(SHARD.replace(NONE, FULL), SHARD),
    ),
    "a shard under another's name": Case(AGGREGATE, [SHARD, "members [2, 3]", "from 0"], copied(OTHER_SHARD, SHARD)),
    "members not done": Case(
        AGGREGATE,
        [SHARD, "members [0, 1] are not done"],
        rewritten(SHARD, lambda dataset: dataset.assign(done=dataset["done"] & False)),
    ),
    "a lost prediction": Case(AGGREGATE, [SHARD, "not finite", "no divergence"], rewritten(SHARD, lost_prediction)),
    "a missing shard": Case(
        AGGREGATE,
        ["small.yaml", "1 of 2 shards", OTHER_SHARD, ".log", "execution.allow_missing"],
        gone(OTHER_SHARD),
    ),
    "no shard at all": Case(
        AGGREGATE,
        ["small.yaml", "2 of 2 shards", f"members/{NONE}", "all_members"],
        gone(f"members/{NONE}"),
    ),
    "no ensemble": Case("metrics small.yaml", [ENSEMBLE, "does not exist"], gone(ENSEMBLE)),
    "an ensemble of fewer members": Case(
        "metrics small.yaml", [ENSEMBLE, "another version"], change(ensemble={"members": 3})
    ),
    "no metrics": Case("figures small.yaml", ["metrics.nc", "cannot be read"], gone("metrics.nc")),
    "torn metrics": Case("figures small.yaml", ["metrics.nc"], torn("metrics.nc")),
    "stale metrics": Case(
        "figures small.yaml",
        ["metrics.nc", "another version", "emeq metrics small.yaml"],
        change(ensemble={"members": 3}),
    ),
    "a link out of the results": Case(AGGREGATE, [f"members/{NONE}", "link"], linked(f"members/{NONE}")),
    "a link out of the results, seen from afar": Case("status small.yaml", ["members", "link"], linked("members")),
    "a link for the controller": Case(
        "verify small.yaml --repair",
        [".controller", "link"],
        both(written("file", ""), lambda study, patch: (study.root / ".controller").symlink_to("file")),
    ),
    "results in a file": Case(
        "data small.yaml --key {data} --results small.yaml", ["small.yaml", "is a file", "--results"]
    ),
    "results where nothing is written": Case(
        "data small.yaml --key {data} --results /proc/none", ["/proc/none/small/data", "cannot be written"]
    ),
}

CLUSTERS = {
    "no cluster file": Case("cluster small.yaml --cluster none.yaml", ["none.yaml", "cluster.example.yaml"]),
    "no mapping": Case("cluster small.yaml --cluster cluster.yaml", ["cluster.yaml", "mapping"], cluster("- cpu")),
    "an unknown key": Case(
        "plan small.yaml --cluster cluster.yaml", ["cluster.yaml", "partitoin", "partition"], cluster("partitoin: cpu")
    ),
    "an unknown key of the environment's": Case(
        "plan small.yaml",
        ["cluster.yaml", "gpu.tpye", "type"],
        both(cluster("gpu: {tpye: a100}"), variables(EMEQ_CLUSTER="cluster.yaml")),
    ),
    "a request for no GPU": Case(
        "cluster small.yaml --cluster cluster.yaml",
        ["cluster.yaml", "gpu.request", "'gras'", "'gres'"],
        cluster("gpu: {request: gras}"),
    ),
    "a partition of two words": Case(
        "cluster small.yaml --cluster cluster.yaml", ["cluster.yaml", "partition", "'a b'"], cluster("partition: a b")
    ),
    "an unknown partition": Case(
        "cluster small.yaml --cluster cluster.yaml",
        ["cluster.yaml", "partition = nonesuch", "cpu"],
        cluster("partition: nonesuch", sinfo=SINFO),
    ),
    "memory that does not do": Case(
        "cluster small.yaml --cluster cluster.yaml",
        ["cluster.yaml", "max_memory = 0.1 GB", "needs about"],
        cluster("max_memory: 0.1"),
    ),
    "memory beyond the nodes": Case(
        "cluster small.yaml --cluster cluster.yaml",
        ["cluster.yaml", "memory", "partition cpu", "100 MB"],
        cluster("partition: cpu", sinfo=SINFO.replace("8000", "100")),
    ),
    "time beyond the limit": Case(
        "cluster small.yaml --cluster cluster.yaml",
        ["cluster.yaml", "minutes", "partition cpu allows 1"],
        cluster("partition: cpu", sinfo=SINFO.replace("2:00:00", "1:00")),
    ),
    "an account of others": Case(
        "cluster small.yaml --cluster cluster.yaml",
        ["cluster.yaml", "account = others", "lab"],
        cluster("account: others", sinfo=SINFO, sacctmgr="lab"),
    ),
    "a partition without GPUs": Case(
        "cluster small.yaml --cluster cluster.yaml",
        ["cluster.yaml", "gpu.partition = cpu", "no node of it has GPUs"],
        both(cluster("gpu: {partition: cpu}", sinfo=GPU_SINFO), on_gpu),
    ),
    "an unknown type of GPU": Case(
        "cluster small.yaml --cluster cluster.yaml",
        ["cluster.yaml", "gpu.type = h100", "fake"],
        both(cluster("gpu: {partition: gpu, type: h100}", sinfo=GPU_SINFO), on_gpu),
    ),
}

TRACKING = {
    "a dashboard of no runs": Case("dashboard small.yaml", ["small.yaml", "tracking.wandb = disabled", "offline"]),
    "a sweep of one": Case("sweep small.yaml", ["small.yaml", "sweep"], change(sweep=None)),
    "runs elsewhere": Case(
        "sync small.yaml", ["tracking", "link"], both(lambda s, p: (s.root / "tracking").mkdir(), linked("tracking"))
    ),
    "runs of nothing that is trained": Case("sync small.yaml --again", ["small.yaml", "kernel_regression"], kernels),
}

TABLE = {
    f"{part}, {name}": case
    for part, cases in {
        "study file": STUDY_FILES,
        "arguments": ARGUMENTS,
        "data": DATA,
        "stores": STORES,
        "cluster": CLUSTERS,
        "tracking": TRACKING,
    }.items()
    for name, case in cases.items()
}


# ------------------------------------------------------------------------------------------------ the test


@pytest.fixture
def emeq(monkeypatch, capsys):
    """Enter the command line as ``emeq`` does; returns exit code, standard output and error."""

    def enter(*arguments):
        monkeypatch.setattr(sys, "argv", ["emeq", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return enter


def check(code, out, err, case, **known):
    """What every message keeps to. The frame that wrong usage is told in is taken off."""
    said = err if case.code == 1 else re.sub(r"[│\s]+", " ", err)
    assert code == case.code, err
    assert "Traceback" not in err
    assert out == ""
    for part in case.says:
        assert part.format(**known) in said, said
    if case.code == 1:
        *before, last = err.strip().split("error: ")
        assert before, err
        assert "\n" not in last or "cluster.yaml" in last, err
        assert REMEDY.search(last), last


@pytest.mark.parametrize("name", BAD)
def test_a_bad_study_file_is_told_with_file_key_value_and_remedy(tmp_path, monkeypatch, emeq, name):
    content, says = BAD[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    check(*emeq("validate", "study.yaml"), Case("validate", ["error: study.yaml: ", *says]))


@pytest.mark.parametrize("name", TABLE)
def test_what_goes_wrong_is_told_with_file_and_remedy(measured, tmp_path, monkeypatch, emeq, name):
    case = TABLE[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    shutil.copytree(measured.root, tmp_path / "results" / measured.name)
    study = study_in(tmp_path)
    case.arrange(study, monkeypatch)
    known = keys(load_study(study.file, study.results) if "--key {" in case.command else study)
    check(*emeq(*case.command.format(**known).split()), case, **known)


@pytest.mark.parametrize(
    "case",
    [
        Case("validate none.yaml", ["none.yaml", "No such file"]),
        Case("train none.yaml", ["Missing option"], code=2),
    ],
    ids=["error", "usage"],
)
def test_the_program_ends_with_the_same_exit_codes(tmp_path, case):
    command = [sys.executable, "-m", "emergent_equivariance", *case.command.split()]
    environment = {**os.environ, "NPROC": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=300)
    check(done.returncode, done.stdout, done.stderr, case)


def test_the_table_is_as_long_as_promised():
    assert len(BAD) + len(TABLE) >= 60
