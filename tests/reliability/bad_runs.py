"""Arguments, stores, cluster files and recordings that do not do, for the table of error messages."""

import errno
import fcntl
import json
import shutil
import sys

import xarray as xr

from emergent_equivariance import controller, store, verify
from emergent_equivariance.inputs import rate_text
from emergent_equivariance.study import load_study
from emergent_equivariance.study.tiling import planned_tiling

from .arranging import (
    AGGREGATE,
    ENSEMBLE,
    FULL,
    NONE,
    OTHER_SHARD,
    SHARD,
    TRAIN,
    Case,
    altered,
    both,
    change,
    chosen,
    cluster,
    copied,
    folder,
    gone,
    kernels,
    linked,
    lost_prediction,
    of_kernels,
    on_gpu,
    place,
    resealed,
    rewritten,
    tiled,
    torn,
    variables,
    written,
)

SINFO = "cpu*|8000|4|(null)|(null)|2:00:00"
GPU_SINFO = SINFO + "\ngpu|8000|4|gpu:fake:2|(null)|2:00:00"

TILES = "kernel-tiles small.yaml --key {kernel}"
DATA, THEORY, PROBE = "data/{data}.zarr.zip", "theory/{theory}.zarr.zip", "engine/{probe}.json"


def fewer(**samples):
    """Only some labels of a store."""
    return lambda dataset: dataset.isel({dim: slice(0, number) for dim, number in samples.items()})


def lost_targets(dataset):
    return dataset.assign(target=dataset["target"].where(dataset["split"] == "train"))


def other_tiles(study, patch):
    """The packed tiles of the study, cut in another way."""
    now = load_study(study.file, study.results)
    arm = now.arms[0]
    jobs = planned_tiling(arm.settings).jobs(arm.settings.execution.tiles_per_job)
    attributes = {"config_hash": arm.kernel_key, "tiling": [1, 1, 1, 1], "format": store.FORMAT}
    store.write(xr.Dataset(), now.tiles_path(arm, *jobs[0]), attributes)


def another_key(study, patch):
    """The learning rate of another study under the name of this one's."""
    rates = {"learning_rate": 0.1, "critical_learning_rate": 0.2}
    place(study, "theory/{rate}.learning-rate.json").write_text(rate_text(rates, "other"))


def of_other_arms(study, patch):
    path = place(study, PROBE)
    path.write_text(json.dumps({**json.loads(path.read_text()), "probe_key": "other"}))


def metrics_by_hand(study, patch):
    """metrics.nc with other numbers, and the checksum of the right ones."""
    dataset = store.read_netcdf(study.metrics_path)
    name = next(name for name, array in dataset.data_vars.items() if array.dtype.kind == "f")
    dataset.assign({name: dataset[name] + 1}).to_netcdf(study.metrics_path, engine="h5netcdf")


def kept(opened):
    """Something that is open as long as the case lasts."""
    return lambda study, patch: patch.setattr(sys, "_open_in_this_case", opened(study), raising=False)


def refused(module, name):
    """What the rights of other users' files do, which root has too."""

    def refuse(study):
        raise PermissionError(errno.EACCES, "Permission denied", str(study.root))

    return lambda study, patch: patch.setattr(module, name, refuse)


def sending(study):
    """What another `emeq sync` holds."""
    (study.root / "tracking").mkdir()
    file = (study.root / "tracking" / ".sync.lock").open("w")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


ARGUMENTS = {
    "nothing to measure": Case(f"measure small.yaml --arm {NONE}", ["small.yaml", "of kind ensemble", "`emeq theory`"]),
    "a study file of another kind": Case("new mine.txt", ["mine.txt", "ends in .yaml", "mine.yaml"]),
    "a file that names no study": Case("new .mine.yaml", [".mine.yaml", "'.mine'", "letters"]),
    "a study file where nothing is written": Case(
        "new /proc/none/mine.yaml", ["/proc/none/mine.yaml", "cannot be written"]
    ),
    "tiles beyond the last": Case(f"{TILES} --first 0 --last 99", ["small.yaml", "--last 99", "the tiles 0 to"], tiled),
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

STORES = {
    "fewer data than for tiles": Case(
        f"{TILES} --first 0 --last 0",
        ["small.yaml", "task", "6 training samples and 3 others", "task.test"],
        both(tiled, rewritten(DATA, fewer(sample=9))),
    ),
    "no tiles": Case(
        "learning-rate small.yaml --key {rate}",
        ["kernels/{kernel}.zarr.zip", "does not exist", "emeq kernel-tiles small.yaml --key {kernel}"],
        tiled,
    ),
    "tiles cut in another way": Case(
        "assemble-kernels small.yaml --key {kernel}",
        ["kernels/{kernel}/tiles-000000-", "tiling [1, 1, 1, 1]"],
        both(tiled, other_tiles),
    ),
    "fewer data than to compare with": Case(
        "measure small.yaml --arm arm~single",
        ["small.yaml", "convergence.inputs", "6 inputs", "has 3"],
        both(of_kernels("kernel_convergence", convergence={"inputs": 6}), rewritten(DATA, fewer(sample=9))),
    ),
    "data without targets": Case(
        "measure small.yaml --arm arm~single",
        ["small.yaml", "task", "6 of 6 test samples", "target"],
        both(kernels, rewritten(DATA, lost_targets)),
    ),
    "a learning rate beyond the critical one": Case(
        "measure small.yaml --arm arm~single",
        ["small.yaml", "regression.learning_rate", "1e+06", "flow"],
        of_kernels(regression={"sizes": [2], "learning_rate": 1e6, "form": "descent", "times": [1]}),
    ),
    "a kernel that is infinite": Case(
        "measure small.yaml --arm arm~single",
        ["small.yaml", "network", "is not finite", "network.W_std"],
        both(kernels, rewritten(DATA, lambda dataset: dataset.assign(input=1e200 * dataset["input"]))),
    ),
    "data that are resealed": Case(TRAIN, [DATA, "damaged", "checksum"], resealed(DATA)),
    "theory of fewer samples": Case(AGGREGATE, [THEORY, "(3, 4, 9)", "(18, 4, 9)"], rewritten(THEORY, fewer(sample=3))),
    "theory of fewer steps": Case(AGGREGATE, [THEORY, "steps [0, 3]", "[0, 3, 10]"], rewritten(THEORY, fewer(step=2))),
    "a learning rate of another name": Case(
        TRAIN, ["theory/{rate}.learning-rate.json", "under another name", "other"], another_key
    ),
    "a choice that is a folder": Case(TRAIN, [PROBE, "cannot be read"], folder(PROBE)),
    "a choice of an unknown engine": Case(TRAIN, [PROBE, "choice.engine", "'stub'", "jax"], chosen("stub", "loop")),
    "a choice for other arms": Case(TRAIN, [PROBE, "probe key other"], of_other_arms),
    "a choice of an unknown way": Case(TRAIN, [PROBE, "engine jax", "no variant loop"], chosen("jax", "loop")),
    "a choice of an unknown way of torch": Case(
        TRAIN, [PROBE, "engine torch", "variant scan"], chosen("torch", "scan")
    ),
    "a choice of an engine for images": Case(TRAIN, [PROBE, "engine numba", "network mlp"], chosen("numba", "loop")),
    "a file in the way of a lease": Case(
        TRAIN,
        [f"members/{NONE}/.members-000004-000005.lease", "cannot be written"],
        written(f"members/{NONE}/.members-000004-000005.lease", ""),
    ),
    "a shard of fewer steps": Case(AGGREGATE, [SHARD, "steps [0, 3]", "[0, 3, 10]"], rewritten(SHARD, fewer(step=2))),
    "a shard of fewer outputs": Case(AGGREGATE, [SHARD, "4 outputs", "9"], rewritten(SHARD, fewer(output=4))),
    "a shard of fewer members": Case(
        AGGREGATE, [OTHER_SHARD, "3 members", "4"], rewritten(OTHER_SHARD, fewer(member=1))
    ),
    "a folder of members that is none": Case(
        "status small.yaml",
        [f"members/{NONE}", "cannot be read"],
        both(gone(f"members/{NONE}"), written(f"members/{NONE}", "")),
    ),
    "an ensemble that lacks members": Case(
        "metrics small.yaml",
        [ENSEMBLE, "2 members", "small.yaml", "execution.allow_missing"],
        rewritten(ENSEMBLE, missing=2),
    ),
    "metrics changed by hand": Case("figures small.yaml", ["metrics.nc", "damaged", "checksum"], metrics_by_hand),
    "results that may not be read": Case(
        "verify small.yaml", ["results/small", "cannot be read", "Permission denied"], refused(verify, "found")
    ),
    "another controller": Case(
        "verify small.yaml --repair", ["small.yaml", "works on", "Nothing was started"], kept(controller.acquire)
    ),
    "no place for the controller": Case(
        "verify small.yaml --repair", [".controller", "cannot be written"], folder(".controller")
    ),
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
    "minutes that do not do": Case(
        "cluster small.yaml --cluster cluster.yaml",
        ["cluster.yaml", "max_minutes = 1", "takes about"],
        cluster("max_minutes: 1"),
    ),
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
    "runs that are being sent": Case("sync small.yaml", ["small/tracking", "another emeq sync"], kept(sending)),
    "runs that cannot be locked": Case(
        "sync small.yaml", ["tracking/.sync.lock", "Nothing that was recorded is lost"], folder("tracking/.sync.lock")
    ),
    "a dashboard of no runs": Case("dashboard small.yaml", ["small.yaml", "tracking.wandb = disabled", "offline"]),
    "a sweep of one": Case("sweep small.yaml", ["small.yaml", "sweep"], change(sweep=None)),
    "runs elsewhere": Case(
        "sync small.yaml", ["tracking", "link"], both(lambda s, p: (s.root / "tracking").mkdir(), linked("tracking"))
    ),
    "runs of nothing that is trained": Case("sync small.yaml --again", ["small.yaml", "kernel_regression"], kernels),
}
