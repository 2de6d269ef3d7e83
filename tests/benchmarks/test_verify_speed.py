"""How fast stores are verified, as a fraction of the rate at which the same files can be read at all, in one run.

The files are put out of the system's cache before every measurement (posix_fadvise; no root needed). The plain rate is
that of reading them one after the other in blocks of 4 MB. Both are measured in turns, and the best of each counts.
"""

import os
import time
from functools import partial

import numpy as np
import pytest
import xarray as xr

from emergent_equivariance import store
from emergent_equivariance.study import FORMAT
from emergent_equivariance.verify import content, readers
from emergent_equivariance.verify.places import Place, Role

pytestmark = pytest.mark.benchmark
TURNS = 3


def shard(path, steps, samples, members=64):
    """A shard of ``members`` with steps × samples × 4 elements × 50 outputs each."""
    rng = np.random.default_rng(0)
    prediction = rng.normal(size=(members, steps, samples, 4, 50)).astype(np.float32)
    small = {"loss": (("member", "step"), prediction[:, :, 0, 0, 0] ** 2)}
    small |= {name: ("member", np.full(members, name == "done")) for name in ("done", "diverged")}
    dims = ("member", "step", "sample", "element", "output")
    dataset = xr.Dataset({"prediction": (dims, prediction), **small}, {"member": np.arange(members)})
    said = {"format": FORMAT, "config_hash": "a", "study": "s", "versions": "{}", "git_commit": "x", "inputs": "{}"}
    store.write(dataset, path, said)
    return Place(path, Role.SHARD, True, None, key="a", members=(0, members - 1))


def uncache(paths):
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def plain(paths):
    buffer = bytearray(4 * 2**20)
    for path in paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def best(actions, paths, cold):
    """Action → shortest seconds of all turns, and processor seconds then."""
    found = dict.fromkeys(actions, (np.inf, np.inf))
    for _ in range(TURNS):
        for name, action in actions.items():
            if cold:
                uncache(paths)
            start, busy = time.perf_counter(), time.process_time()
            action(paths)
            found[name] = min(found[name], (time.perf_counter() - start, time.process_time() - busy))
    return found


class Nothing:
    name = "s"


def check_all(places, jobs):
    with readers(jobs, sum(place.path.stat().st_size for place in places)) as pool:
        for checked in pool.map(partial(content.check, Nothing()), places):
            assert checked.problem is None, checked.problem


@pytest.mark.parametrize("kind", ["shards of 64 members of 5 MB", "shards of 64 members of 0.3 MB"])
def test_verification_against_the_disk(record, tmp_path, kind):
    cores = len(os.sched_getaffinity(0))
    shape, count = ((25, 256), 8 * cores) if "5 MB" in kind else ((6, 64), 80 * cores)
    places = [shard(tmp_path / f"{k}.zarr.zip", *shape) for k in range(count)]
    paths = [place.path for place in places]
    nbytes = sum(path.stat().st_size for path in paths)
    actions = {
        "plain": plain,
        "one": lambda _: check_all(places, 1),
        "all": lambda _: check_all(places, cores),
    }
    for cold in (True, False):
        found = best(actions, paths, cold)
        cache = "not cached" if cold else "cached"
        rates = {name: nbytes / 1e6 / seconds for name, (seconds, _) in found.items()}
        said = ", ".join(f"{name} {rate:.0f} MB/s" for name, rate in rates.items())
        print(f"{kind}, {cache}, {cores} cores, {nbytes / 1e6:.0f} MB: {said}")
        if cold:
            goal = ">= 0.5" if "5 MB" in kind else ""
            record(
                f"{kind}: verify / reading the files, not cached, {cores} cores", rates["all"] / rates["plain"], goal
            )
            record(f"{kind}: verify / reading the files, not cached, 1 core", rates["one"] / rates["plain"])
        else:
            record(f"{kind}: verify, MB per processor second", nbytes / 1e6 / found["one"][1])


def test_where_the_time_goes(tmp_path):
    """Printed, not kept: processor seconds per GB of reading, hashing and all of it."""
    import hashlib

    place = shard(tmp_path / "a.zarr.zip", 25, 256)
    nbytes = place.path.stat().st_size / 1e9
    parts = {
        "read": lambda path: plain([path]),
        "read and SHA-256": lambda path: hashlib.sha256(path.read_bytes()),
        "checksum of the arrays": store.read,
        "verify": lambda path: check_all([place], 1),
    }
    for name, action in parts.items():
        times = []
        for _ in range(TURNS):
            start = time.process_time()
            action(place.path)
            times.append(time.process_time() - start)
        print(f"{name}: {min(times) / nbytes:.2f} s per GB")
