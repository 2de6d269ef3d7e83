"""Files that somebody else made: refused by name, in bounded memory; nothing is unpickled, no path leads outside."""

import ast
import gc
import json
import os
import re
import struct
import subprocess
import sys
import tracemalloc
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numcodecs.zstd import Zstd

from emergent_equivariance import controller, members, store
from emergent_equivariance.errors import StoreError, StudyError
from emergent_equivariance.study import FORMAT, header, load_study, parse_study
from emergent_equivariance.tracking.runs import tracking_folder

from .finished_study import CONTENT, study_in

ROOT = Path(__file__).parents[2]
SOURCES = [*sorted((ROOT / "src").rglob("*.py")), ROOT / "Snakefile", *sorted((ROOT / "workflow").rglob("*.smk"))]
A, C, TEXT = "a/zarr.json", "a/c/0/0", "text/c/0"

# ------------------------------------------------------------------------------------------------ stores


@pytest.fixture(scope="module")
def entries(tmp_path_factory):
    """Name → content of the entries of a small store."""
    path = tmp_path_factory.mktemp("store") / "s.zarr.zip"
    values = np.random.default_rng(0).integers(0, 3, (30, 4)).astype(np.float32)
    texts = ("x", ["train", "train", "test", "ood"])
    store.write(
        xr.Dataset({"a": (("y", "x"), values), "text": texts, "n": ("y", np.arange(30))}), path, {"format": FORMAT}
    )
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def pack(path, entries, **how):
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", **how) as archive:
        warnings.simplefilter("ignore")
        for name, content in entries.items() if isinstance(entries, dict) else entries:
            archive.writestr(zipfile.ZipInfo(name), content, how.get("compression"))


def meta(**changes):
    """Change keys of the metadata of an array."""
    return lambda e: {**e, A: json.dumps({**json.loads(e[A]), **changes}).encode()}


def attribute(name, value):
    return lambda e: meta(attributes={**json.loads(e[A])["attributes"], name: value})(e)


def root(**changes):
    return lambda e: {**e, "zarr.json": json.dumps({**json.loads(e["zarr.json"]), **changes}).encode()}


def entry(name, content):
    return lambda e: {**e, name: content(e.get(name)) if callable(content) else content}


def grid(*shape):
    return {"name": "regular", "configuration": {"chunk_shape": list(shape)}}


def codecs(*names):
    return meta(codecs=[{"name": name, "configuration": {}} for name in names])


def frame(size):
    """The beginning of a zstd frame that claims so many bytes."""
    return b"\x28\xb5\x2f\xfd" + bytes([0xE0]) + struct.pack("<Q", size) + b"\x01\x00\x00" + b"x" * 8


def wide(content):
    """Metadata of 1000 texts of its own dimension."""
    return {**content, "shape": [1000], "chunk_grid": grid(1000), "dimension_names": ["wide_"]}


BYTES = [{"name": "bytes", "configuration": {"endian": "big"}}]
HOSTILE = {
    "root no JSON": entry("zarr.json", b"{"),
    "root empty": entry("zarr.json", b""),
    "root no text": entry("zarr.json", b"\xff\xfe\x00"),
    "root a list": entry("zarr.json", b"[]"),
    "root a number": entry("zarr.json", b"1e999"),
    "root nested": entry("zarr.json", b"[" * 200_000),
    "root huge": entry("zarr.json", b" " * 2**25),
    "root with a huge number": entry("zarr.json", b"9" * 10_000),
    "root lost": lambda e: {k: v for k, v in e.items() if k != "zarr.json"},
    "root an array": root(node_type="array"),
    "attributes a list": root(attributes=[1]),
    "attributes null": root(attributes=None),
    "coordinates a number": root(attributes={"coordinates": 3, "format": FORMAT}),
    "another zarr": root(zarr_format=2),
    "shape negative": meta(shape=[-30, 4]),
    "shape huge": meta(shape=[2**40, 4]),
    "shape beyond integers": meta(shape=[2**70, 4]),
    "shape a fraction": meta(shape=[30.5, 4]),
    "shape a text": meta(shape=["30", 4]),
    "shape null": meta(shape=None),
    "shape of other rank": meta(shape=[30]),
    "shape of another size": meta(shape=[30, 5]),
    "shape of many dimensions": meta(shape=[1] * 100, dimension_names=[str(k) for k in range(100)]),
    "many empty chunks": meta(shape=[2**30, 4], chunk_grid=grid(1, 1)),
    "objects": meta(data_type="object"),
    "complex": meta(data_type="complex64"),
    "raw bytes": meta(data_type="r64"),
    "type a mapping": meta(data_type={"name": "numpy.datetime64", "configuration": {}}),
    "type a number": meta(data_type=7),
    "wider type": meta(data_type="float64"),
    "other type": meta(data_type="int32", fill_value=0),
    "text as type of numbers": meta(data_type="string"),
    "chunk zero": meta(chunk_grid=grid(0, 4)),
    "chunk negative": meta(chunk_grid=grid(-1, 4)),
    "chunk huge": meta(chunk_grid=grid(2**40, 2**40)),
    "chunk larger than written": meta(chunk_grid=grid(60, 4)),
    "chunk of another rank": meta(chunk_grid=grid(30)),
    "another grid": meta(chunk_grid={"name": "rectangular", "configuration": {"chunk_shape": [30, 4]}}),
    "other keys": meta(chunk_key_encoding={"name": "v2", "configuration": {"separator": "."}}),
    "fill a mapping": meta(fill_value={}),
    "fill a word": meta(fill_value="__import__"),
    "pickle": codecs("numcodecs.pickle"),
    "pickle after bytes": codecs("bytes", "numcodecs.pickle"),
    "json2": codecs("numcodecs.json2"),
    "sharding": codecs("sharding_indexed"),
    "gzip": codecs("bytes", "gzip"),
    "no codec": meta(codecs=[]),
    "codecs null": meta(codecs=None),
    "big-endian": meta(codecs=BYTES),
    "zstd twice": codecs("bytes", "zstd", "zstd"),
    "dimensions equal": meta(dimension_names=["y", "y"]),
    "dimensions no names": meta(dimension_names=[1, 2]),
    "dimensions lost": meta(dimension_names=None),
    "transformers": meta(storage_transformers=[{"name": "x"}]),
    "unknown key": meta(must_understand=True),
    "a variable of two dimensions named as one": lambda e: {
        **{k: v for k, v in e.items() if not k.startswith("a/")},
        **{k.replace("a/", "y/", 1): v for k, v in e.items() if k.startswith("a/")},
    },
    "checksum chunk zero": attribute("checksum_chunk", [0, 4]),
    "checksum chunk negative": attribute("checksum_chunk", [-1, 4]),
    "checksum chunk a text": attribute("checksum_chunk", "ab"),
    "checksum chunk of tiny pieces": attribute("checksum_chunk", [10**9, 10**9]),
    "checksum chunk null": attribute("checksum_chunk", None),
    "coordinates of an array": attribute("coordinates", ["a"]),
    "chunk empty": entry(C, b""),
    "chunk no frame": entry(C, b"x" * 100),
    "chunk claims an exabyte": entry(C, frame(2**60)),
    "chunk claims its size and ends": entry(C, frame(480)),
    "chunk a bomb": entry(C, lambda _: bytes(Zstd(22).encode(bytes(2**28)))),
    "chunk of other values": entry(C, lambda _: bytes(Zstd().encode(np.ones((30, 4), np.float32).tobytes()))),
    "chunk lost": lambda e: {k: v for k, v in e.items() if k != C},
    "chunk of two frames, the second a bomb": entry(C, lambda old: old + bytes(Zstd(22).encode(bytes(2**28)))),
    "chunk behind the array": entry("a/c/1/0", lambda _: bytes(Zstd().encode(bytes(480)))),
    "chunk of other rank": entry("a/c/0", b"x"),
    "chunk of no array": entry("c/0", b"x"),
    "chunk cut": entry(C, lambda old: old[:-3]),
    "texts claim four billion": entry(TEXT, lambda _: bytes(Zstd().encode(b"\xff\xff\xff\xff"))),
    "texts too long": entry(TEXT, lambda _: bytes(Zstd().encode(struct.pack("<II", 4, 2**31) + b"x"))),
    "texts no text": entry(TEXT, lambda _: bytes(Zstd().encode(struct.pack("<I", 4) + struct.pack("<I", 1) * 4))),
    "texts of great width": lambda e: {
        **{k: v for k, v in e.items() if not k.startswith("n/")},
        "wide/zarr.json": json.dumps(wide(json.loads(e["text/zarr.json"]))).encode(),
        "wide/c/0": bytes(Zstd().encode(struct.pack("<II", 1000, 2**20) + b"x" * 2**20 + bytes(4 * 999))),
    },
    "texts a bomb": entry(TEXT, lambda _: bytes(Zstd(22).encode(bytes(2**28)))),
    "texts claim an exabyte": entry(TEXT, frame(2**60)),
    "a path upwards": entry("../../evil", b"x"),
    "a path within upwards": entry("a/../../evil/zarr.json", b"{}"),
    "an absolute path": entry("/etc/passwd", b"x"),
    "a path with a backslash": entry("a\\..\\evil", b"x"),
    "a nested group": entry("b/a/zarr.json", b"{}"),
    "a folder": entry("a/", b""),
    "a script": entry("a/setup.py", b"import os"),
    "metadata lost": lambda e: {k: v for k, v in e.items() if k != A},
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_stores_are_refused_by_name_in_bounded_memory(entries, tmp_path, case):
    path = tmp_path / "s.zarr.zip"
    pack(path, HOSTILE[case](entries))
    refused(path)


def refused(path):
    tracemalloc.start()
    try:
        with pytest.raises(StoreError, match=re.escape(str(path))):
            store.read(path)
        assert tracemalloc.get_traced_memory()[1] < 100 * 2**20
        assert isinstance(header(path), dict)
    finally:
        tracemalloc.stop()


def test_the_store_that_they_are_made_from_is_not(entries, tmp_path):
    pack(tmp_path / "s.zarr.zip", entries)
    assert store.read(tmp_path / "s.zarr.zip")["a"].shape == (30, 4)


def test_damage_is_told_once_and_nothing_stays_open(entries, tmp_path, capfd):
    """zarr reads chunks in tasks of its own: none of them prints that it failed."""
    path = tmp_path / "s.zarr.zip"
    rows = np.random.default_rng(0).normal(size=(400, 300)).astype(np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "BLOCK_BYTES", 20_000)
        store.write(xr.Dataset({"a": (("y", "x"), rows), "y": np.arange(400)}), path, {"format": FORMAT})
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        for found in archive.infolist():
            content[found.header_offset + 200] ^= 0xFF * (found.filename.startswith("a/c"))
    gc.disable()
    try:
        kept = store.read(path)
        (tmp_path / "damaged").write_bytes(content)
        os.replace(tmp_path / "damaged", path)
        for _ in range(3):
            with pytest.raises(StoreError, match=r"is damaged and cannot be read.*CRC"):
                store.read(path)
        np.testing.assert_array_equal(kept["a"], rows)
        kept.close()
        opened = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
        assert not [name for name in opened if name.startswith(str(tmp_path))]
    finally:
        gc.enable()
    gc.collect()
    assert capfd.readouterr() == ("", "")


def test_archives_that_lie(entries, tmp_path):
    path = tmp_path / "s.zarr.zip"
    pack(path, {**entries, "b/c/0": bytes(2**28)}, compression=zipfile.ZIP_DEFLATED)
    refused(path)
    pack(path, [*entries.items(), (A, entries[A])])
    refused(path)
    pack(path, entries)
    content = path.read_bytes()
    at = content.rindex(C.encode()) - 46  # of its entry in the directory at the end
    for offset, lie in ((8, b"\x01\x00"), (10, b"\x08\x00"), (20, b"\xff\xff\xff\x7f"), (42, b"\xff\xff\xff\x00")):
        path.write_bytes(content[: at + offset] + lie + content[at + offset + len(lie) :])
        refused(path)
    for length in range(0, len(content), len(content) // 12):
        path.write_bytes(content[:length])
        refused(path)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.floats(0, 1, exclude_max=True), value=st.integers(1, 255), more=st.booleans())
def test_a_changed_byte_anywhere_is_noticed_or_does_not_matter(entries, tmp_path, at, value, more):
    """Names, times and sizes in the archive's own lists may change without a change of arrays and attributes."""
    path, whole = tmp_path / "s.zarr.zip", tmp_path / "whole.zarr.zip"
    pack(whole, entries)
    content = bytearray(whole.read_bytes())
    place = int(at * len(content))
    content[place] ^= value
    if more:
        content[place - 1] ^= value
    path.write_bytes(content)
    try:
        found = store.read(path)
    except StoreError as error:
        assert str(path) in str(error)
    else:
        xr.testing.assert_identical(found.load(), store.read(whole).load())


def test_hostile_netcdf(tmp_path):
    path = tmp_path / "metrics.nc"
    store.write_netcdf(xr.Dataset({"a": ("x", np.arange(300.0)), "t": ("x", ["a"] * 300)}), path, {"study": "s"})
    assert store.read_netcdf(path)["a"][2] == 2
    content = path.read_bytes()
    for length in (0, 8, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(StoreError, match="metrics"):
            store.read_netcdf(path)


# ------------------------------------------------------------------------------------------------ pickle


def test_nothing_is_unpickled():
    """No import of what unpickles, no loader that may, in the program and the workflow."""
    forbidden = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "pickles"}
    for file in SOURCES:
        if file.suffix != ".py":
            assert not re.search(r"\b(pickle|joblib|shelve|marshal|torch\.load)\b", file.read_text()), file
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, (ast.Import, ast.ImportFrom)) else []
            if isinstance(node, ast.ImportFrom):
                names.append(node.module or "")
            assert not {part for name in names for part in name.split(".")} & forbidden, file
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("read_pickle", "to_pickle", "load_pickle"), file
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "load":
                given = {word.arg: word.value for word in node.keywords}
                assert "allow_pickle" not in given, file
                owner = node.func.value
                assert not (isinstance(owner, ast.Name) and owner.id == "torch"), file


def test_arrays_of_objects_in_data_sets_are_refused(tmp_path):
    """numpy's own default, on which tasks.sources relies."""
    np.savez(tmp_path / "a.npz", x=np.array([{}], object))
    with np.load(tmp_path / "a.npz") as archive, pytest.raises(ValueError, match="pickle"):
        archive["x"]


# ------------------------------------------------------------------------------------------------- paths

OUTWARDS = ["../evil", "/tmp/evil", "a/b", "..", ".", "a\\b", "", "a\nb", "~", "-rf", "$HOME"]


@pytest.mark.parametrize("name", OUTWARDS)
def test_names_of_studies_are_no_paths(name, tmp_path):
    with pytest.raises(StudyError, match="study"):
        parse_study({**CONTENT, "study": name}, tmp_path / "s.yaml")


@pytest.mark.parametrize("name", OUTWARDS)
def test_swept_names_stay_within_the_results(name, tmp_path):
    networks = {name: {"name": "mlp", "width": 8}, "plain": {"name": "mlp", "width": 9}}
    content = {**CONTENT, "sweep": {"network": networks}}
    try:
        study = parse_study(content, tmp_path / "s.yaml", tmp_path / "results")
    except StudyError:
        return
    for arm in study.arms:
        for path in (study.shard_path(arm, 0, 1), study.ensemble_path(arm)):
            assert path.resolve().is_relative_to(study.root.resolve())
            assert ".." not in path.parts and "\n" not in str(path) and path.name not in (".", "..")


def test_arms_and_keys_on_the_command_line_are_those_of_the_study(tmp_path):
    study = study_in(tmp_path)
    for arm in ("../../evil", "/etc", "augmentation~full/../x"):
        with pytest.raises(StudyError, match="there is no arm"):
            study.arm(arm)
    for attribute in ("data_key", "theory_key", "kernel_key", "learning_rate_key", "probe_key"):
        with pytest.raises(StudyError, match="no arm has the key"):
            study.arm_with(attribute, "../../evil")


LINKED = ["members", "leases", "ensemble", "data", "theory", "engine", "tables", "figures", ".controller", "tracking"]


@pytest.mark.parametrize("where", LINKED)
def test_links_below_the_results_lead_nowhere_else(tmp_path, where):
    study = study_in(tmp_path)
    (tmp_path / "away").mkdir()
    study.root.mkdir(parents=True)
    name = "members" if where == "leases" else where
    (study.root / name).symlink_to(tmp_path / "away")
    arm = study.arms[0]
    paths = {
        "members": lambda: study.shard_path(arm, 0, 1),
        "leases": lambda: study.lease_path(arm, 0, 1),
        ".controller": lambda: controller.lock_path(study),
        "tracking": lambda: tracking_folder(study),
        "ensemble": lambda: study.ensemble_path(arm),
        "data": lambda: study.data_path(arm),
        "theory": lambda: study.theory_path(arm),
        "engine": lambda: study.probe_path(arm),
        "tables": lambda: study.table_path("x"),
        "figures": lambda: study.figures_folder,
    }
    with pytest.raises(StoreError, match=f"{name}.*a link in this path leads out of"):
        paths[where]()


def test_a_lease_that_is_a_link_elsewhere_deletes_nothing(tmp_path):
    study = study_in(tmp_path)
    victim = tmp_path / "away" / "mine"
    victim.parent.mkdir()
    victim.write_text("kept")
    lease = study.lease_path(study.arms[0], 0, 1)
    lease.parent.mkdir(parents=True)
    lease.symlink_to(victim.parent)
    with pytest.raises(StoreError, match=rf"{re.escape(lease.name)}: a link in this path leads out of"):
        members.train(study, study.arms[0], 0, 1, print, lambda done, total: None)
    assert victim.read_text() == "kept"
    assert list(victim.parent.iterdir()) == [victim]


@pytest.mark.parametrize("inside", [False, True])
def test_the_file_of_the_controller_is_no_link(inside, tmp_path):
    study = study_in(tmp_path)
    study.root.mkdir(parents=True)
    victim = (study.root if inside else tmp_path) / "victim"
    victim.write_text("kept")
    (study.root / ".controller").symlink_to(victim)
    for call in (controller.acquire, controller.other):
        with pytest.raises(StoreError, match=r"\.controller: .*link"):
            call(study)
    assert victim.read_text() == "kept"


def test_the_results_themselves_may_be_a_link(tmp_path):
    (tmp_path / "away").mkdir()
    (tmp_path / "results").symlink_to(tmp_path / "away")
    study = study_in(tmp_path)
    (study.root / "members").mkdir(parents=True)
    assert load_study(study.file, study.results).shard_path(study.arms[0], 0, 1).parent.name == "augmentation~none"


@pytest.mark.slow
def test_wildcards_on_the_command_line_of_snakemake(tmp_path):
    """A target outside the results, or one that leads there, is no output of any rule."""
    study = study_in(tmp_path)
    root = "results/small"
    targets = [
        f"{root}/members/../../evil/members-000000-000001.zarr.zip",
        f"{root}/data/../../../evil.zarr.zip",
    ]
    for target in targets:
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "-n", "--cores", "1"]
        done = subprocess.run(
            [*command, target, "--configfile", str(study.file)], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 1 and "Missing" in done.stderr + done.stdout, done.stderr
