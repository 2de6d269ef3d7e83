"""How the cases of the table of error messages are arranged: in a folder with a study done up to its metrics."""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pooch
import pytest
import yaml

from emergent_equivariance import store
from emergent_equivariance.study import Choice, Probe, Study, load_study
from emergent_equivariance.tasks import build_task, sources

from .finished_study import CONTENT

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


def of_kernels(kind="kernel_regression", **sections):
    """A study of kernels, in which nothing is trained."""
    dropped = dict.fromkeys(("training", "ensemble", "evaluate", "sweep"))
    return change(kind=kind, **dropped, **sections)


#: One that is right.
kernels = of_kernels(regression={"sizes": [2]})

#: Kernels are computed in tiles.
tiled = change(execution={"tiles_above": 1, "tile_size": 4})


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


def resealed(name):
    """A store that is whole as a file, with another checksum of its arrays."""

    def arrange(study, patch):
        path = place(study, name)
        with zipfile.ZipFile(path) as archive:
            entries = {entry: archive.read(entry) for entry in archive.namelist()}
        described = json.loads(entries["zarr.json"])
        described["attributes"]["checksum"] = "0" * len(described["attributes"]["checksum"])
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            for entry, content in (entries | {"zarr.json": json.dumps(described).encode()}).items():
                archive.writestr(entry, content)

    return arrange


def lost_prediction(dataset):
    values = dataset["prediction"].values.copy()
    values[0, 1, 2] = np.nan
    return dataset.assign(prediction=dataset["prediction"].copy(data=values))


def written(name, content):
    return lambda study, patch: place(study, name).write_text(content)


def copied(name, onto):
    return lambda study, patch: shutil.copy(place(study, name), place(study, onto))


def folder(name):
    """A folder in the place of a file."""

    def arrange(study, patch):
        path = study.root / name.format(**keys(study))
        path.unlink(missing_ok=True)
        path.mkdir(parents=True)

    return arrange


def linked(name):
    """A file or folder of the results, elsewhere and a link to it."""

    def arrange(study, patch):
        elsewhere = study.file.parent / "elsewhere"
        place(study, name).rename(elsewhere)
        place(study, name).symlink_to(elsewhere)

    return arrange


def unreadable(name):
    """A file that is there, and cannot be read by anybody."""

    def arrange(study, patch):
        path = study.file.parent / name
        path.unlink()
        path.symlink_to("/proc/self/mem")  # there is nothing at its beginning

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


def own(content):
    """A module of one's own; every content has a name of its own, since modules stay imported. → name, arrangement."""
    name = "mine_" + hashlib.md5(content.encode(), usedforsecurity=False).hexdigest()[:8]
    return name, text(content, f"{name}.py")


def module(content, **task):
    """A task of one's own, by the function ``task`` of this module."""
    name, arranged = own(content)
    return both(arranged, change(task={"name": "custom", "factory": f"{name}:task", "train": 6, "test": 6, **task}))


#: Training with a learning rate that needs no kernel.
TRAINING = {"learning_rate": 0.1, "steps": 10}


def network(content, training=TRAINING, **section):
    """A network of one's own, by the function ``make`` of this module."""
    name, arranged = own(content)
    torch = {"name": "torch", "factory": f"{name}:make", **section}
    return both(arranged, change(network=torch, theory={"mean": False}, training=training))


def made(study, patch):
    """The data of the study as it was arranged."""
    now = load_study(study.file, study.results)
    for arm in now.arms:
        attributes = store.provenance(now) | {"data_key": arm.data_key}
        store.write(store.task_to_dataset(build_task(arm.settings)), now.data_path(arm), attributes)


def chosen(engine, variant, members=2, device="cpu"):
    """The measurement of engines chose this, in a file that may be changed by hand."""

    def arrange(study, patch):
        now = load_study(study.file, study.results)
        for arm in now.arms:
            told = {"reason": "for this test", "device": device, "machine": "any", "threads": 1}
            probe = Probe(arm.probe_key, Choice(engine, variant, members, 10), **told)
            store.write_text(probe.to_json(), now.probe_path(arm))

    return arrange


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


#: The measurement of engines chose a GPU.
on_gpu = chosen("jax", "vmap", device="fake GPU")
