"""``emeq verify``: every damage is named by its kind, and a repair removes exactly what it names."""

import json
import os
import re
import shutil
import time
from dataclasses import asdict, replace

import numpy as np
import pytest

from emergent_equivariance import controller, lease, store, verify
from emergent_equivariance.cli import app
from emergent_equivariance.errors import StoreError, StudyError
from emergent_equivariance.inputs import rate_text, read_learning_rate
from emergent_equivariance.lease import Lease, this_process
from emergent_equivariance.pages import sealed, source_of
from emergent_equivariance.study import load_study

from .finished_study import CONTENT, study_in

NONE, FULL = "augmentation~none", "augmentation~full"
SHARD = f"members/{NONE}/members-000000-000001.zarr.zip"
OTHER_SHARD = f"members/{NONE}/members-000002-000003.zarr.zip"
FULL_SHARD = f"members/{FULL}/members-000000-000001.zarr.zip"
WIDE = f"members/{NONE}/members-000000-000003.zarr.zip"
BACKUP = f"members/{NONE}/backup~1/members-000000-000001.zarr.zip"
#: What a job may leave when it is killed after its shard was written.
LEFT = ("lease", "lease.0123456789abcdef", "checkpoint.zarr.zip")
PROFILE = "figures/orbit_profile.csv"
ENSEMBLE, FULL_ENSEMBLE = f"ensemble/{NONE}.zarr.zip", f"ensemble/{FULL}.zarr.zip"


@pytest.fixture
def study(finished, tmp_path):
    shutil.copytree(finished.root, tmp_path / "results" / finished.name)
    return study_in(tmp_path)


def found(study, jobs=1):
    """Kind and path under the root of everything that is named."""
    report = verify.verify(study, jobs)
    return {(str(f.kind), f.path.relative_to(study.root).as_posix()) for f in report.findings}


def emeq(study, *arguments):
    """Exit code of ``emeq verify``."""
    command = ["verify", str(study.file), "--results", str(study.results), *arguments]
    return app(command, standalone_mode=False)


def files(study):
    return {p.relative_to(study.root).as_posix() for p in study.root.rglob("*") if p.is_file()}


def rewrite(path, change, **attributes):
    """Write a store again, whole, with other arrays or attributes."""
    dataset = store.read(path).load()
    del dataset.attrs["checksum"]
    store.write(change(dataset), path, attributes)


def same(dataset):
    return dataset


def shifted(name, by=1.0):
    return lambda dataset: dataset.assign({name: dataset[name] + by})


def theories(study):
    return sorted(path.relative_to(study.root).as_posix() for path in (study.root / "theory").glob("*.zarr.zip"))


def rate(study):
    return study.learning_rate_path(study.arms[0])


def engine(study):
    return study.probe_path(study.arms[0])


def test_a_finished_study_is_well_and_nothing_is_written(study):
    before = {name: os.stat(study.root / name) for name in files(study)}
    report = verify.verify(study, jobs=2)
    assert report.findings == [] and report.is_well and report.unproven == 0
    after = {name: os.stat(study.root / name) for name in files(study)}
    assert {n: (s.st_ino, s.st_mtime_ns) for n, s in before.items()} == {
        n: (s.st_ino, s.st_mtime_ns) for n, s in after.items()
    }
    stores = [name for name in before if not name.startswith(("tables/", ".cache/"))]
    assert report.files == len(stores) + 1, "every file was read, the tables together"
    assert report.nbytes >= sum(before[name].st_size for name in stores)


def cut(study, name):
    path = study.root / name
    path.write_bytes(path.read_bytes()[:-40])


def copy(study, source, target):
    shutil.copy(study.root / source, study.root / target)


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def nan_member(dataset):
    values = dataset["prediction"].values.copy()
    values[1, -1] = np.nan
    return dataset.assign(prediction=(dataset["prediction"].dims, values))


def swap(study, first, second):
    a, b = study.root / first, study.root / second
    content = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(content)


def stamp(study, name):
    """A picture of another metrics.nc."""
    path = study.root / name
    path.write_bytes(sealed(unsealed(path).replace(source_of(path.read_bytes())[0].encode(), b"0" * 64)))


def earlier(path):
    """A metrics.nc without the predictions that pictures show."""
    dataset = store.read_netcdf(path)
    kept = dataset.drop_vars([name for name in dataset.variables if str(name).startswith(("drawn_", "theory_"))])
    store.write_netcdf(kept, path, {"config_hash": "0" * 16})


def unsealed(path):
    """A picture as earlier versions wrote it."""
    return re.sub(rb" text [0-9a-f]{64}", b"", path.read_bytes())


def zeros(content):
    """With 512 bytes in the middle that a file system lost."""
    middle = len(content) // 2
    return content[:middle] + bytes(512) + content[middle + 512 :]


def other_rate(study, key=None, **changes):
    """A learning rate that is whole and another."""
    found = json.loads(rate(study).read_text())
    del found["checksum"]
    rate(study).write_text(rate_text({**found, **changes}, key or found["learning_rate_key"]))


def older_rate(study, **changes):
    """A learning rate as earlier versions wrote it."""
    edit_json(rate(study), **changes)
    found = json.loads(rate(study).read_text())
    found.pop("checksum", None)
    rate(study).write_text(json.dumps(found))


def name_of_rate(study):
    return rate(study).relative_to(study.root).as_posix()


DAMAGES = {
    "shard lost": (lambda s: (s.root / SHARD).unlink(), {("missing", SHARD)}),
    "shard cut": (lambda s: cut(s, SHARD), {("torn", SHARD)}),
    "shard empty": (lambda s: (s.root / SHARD).write_bytes(b""), {("torn", SHARD)}),
    "shard of another arm": (lambda s: copy(s, FULL_SHARD, SHARD), {("foreign", SHARD)}),
    "shard of other members": (lambda s: copy(s, OTHER_SHARD, SHARD), {("foreign", SHARD)}),
    "shard of another study": (
        lambda s: rewrite(s.root / SHARD, same, study="other", config_hash="0" * 16),
        {("foreign", SHARD)},
    ),
    "shard of other settings": (lambda s: rewrite(s.root / SHARD, same, config_hash="0" * 16), {("stale", SHARD)}),
    "shard without a hash": (lambda s: rewrite(s.root / SHARD, lambda d: d.drop_attrs(), format=1), {("torn", SHARD)}),
    "shard without versions": (
        lambda s: rewrite(s.root / SHARD, lambda d: d.assign_attrs({**d.attrs, "versions": None}).drop_vars("done")),
        {("torn", SHARD)},
    ),
    "members not done": (
        lambda s: rewrite(s.root / SHARD, lambda d: d.assign(done=d["done"] & (d["member"] > 0))),
        {("torn", SHARD)},
    ),
    "NaN not marked": (lambda s: rewrite(s.root / SHARD, nan_member), {("torn", SHARD)}),
    "diverged but finite": (
        lambda s: rewrite(s.root / SHARD, lambda d: d.assign(diverged=~d["diverged"])),
        {("torn", SHARD)},
    ),
    "shard trained otherwise": (lambda s: rewrite(s.root / SHARD, shifted("prediction")), {("stale", ENSEMBLE)}),
    "data of other inputs": (
        lambda s: rewrite(s.data_path(s.arms[0]), shifted("input")),
        lambda s: (
            {("stale", n) for n in files(s) if n.startswith(("theory/", "members/", "ensemble/", "metrics.nc"))}
            - {("stale", rate(s).relative_to(s.root).as_posix()), ("stale", rate_full(s))}
        ),
    ),
    "data of another key": (
        lambda s: rewrite(s.data_path(s.arms[0]), same, data_key="0" * 16),
        lambda s: {("foreign", s.data_path(s.arms[0]).relative_to(s.root).as_posix())},
    ),
    "theories swapped": (
        lambda s: swap(s, *theories(s)),
        lambda s: {("foreign", name) for name in theories(s)},
    ),
    "theory cut": (lambda s: cut(s, theories(s)[0]), lambda s: {("torn", theories(s)[0])}),
    "rate damaged": (
        lambda s: edit_json(rate(s), learning_rate="nan"),
        lambda s: {("torn", rate(s).relative_to(s.root).as_posix())},
    ),
    "rate of another key": (
        lambda s: other_rate(s, key="0" * 16),
        lambda s: {("foreign", name_of_rate(s))},
    ),
    "rate changed": (lambda s: edit_json(rate(s), learning_rate=0.123), lambda s: {("torn", name_of_rate(s))}),
    "rate of an earlier version changed": (
        lambda s: older_rate(s, learning_rate=0.123),
        lambda s: {("torn", name_of_rate(s))},
    ),
    "another rate": (lambda s: other_rate(s, learning_rate=0.123), lambda s: {("stale", name_of_rate(s))}),
    "another rate, of a theory that does not tell": (
        lambda s: (
            other_rate(s, learning_rate=0.123),
            rewrite(s.theory_path(s.arms[0]), same, critical_learning_rate="unknown"),
        ),
        lambda s: {("stale", name_of_rate(s))},
    ),
    "another rate, and no theory": (
        lambda s: (other_rate(s, learning_rate=0.123), s.theory_path(s.arms[0]).unlink()),
        lambda s: {("doubtful", name_of_rate(s))},
    ),
    "a shard of another rate": (
        lambda s: rewrite(s.root / SHARD, same, learning_rate=0.123),
        {("stale", SHARD)},
    ),
    "engine damaged": (
        lambda s: engine(s).write_text("{}"),
        lambda s: {("torn", engine(s).relative_to(s.root).as_posix())},
    ),
    "engine of other arms": (
        lambda s: edit_json(engine(s), probe_key="0" * 16),
        lambda s: {("foreign", engine(s).relative_to(s.root).as_posix())},
    ),
    "ensemble lost": (lambda s: (s.root / ENSEMBLE).unlink(), {("missing", ENSEMBLE)}),
    "ensemble of another arm": (lambda s: copy(s, FULL_ENSEMBLE, ENSEMBLE), {("foreign", ENSEMBLE)}),
    "ensemble of other numbers": (lambda s: rewrite(s.root / ENSEMBLE, shifted("mean")), {("stale", "metrics.nc")}),
    "metrics cut": (lambda s: cut(s, "metrics.nc"), {("torn", "metrics.nc")}),
    "metrics altered": (
        lambda s: flip(s.root / "metrics.nc"),
        {("torn", "metrics.nc")},
    ),
    "a table edited": (lambda s: append(s.root / "tables" / "metrics.csv", "x"), {("stale", "tables")}),
    "a table lost": (lambda s: (s.root / "tables" / "metrics.csv").unlink(), {("torn", "tables")}),
    "tables lost": (lambda s: shutil.rmtree(s.root / "tables"), {("missing", "tables")}),
    "a picture cut": (lambda s: cut(s, "figures/orbit_scaling.png"), {("torn", "figures/orbit_scaling.png")}),
    "a picture for print cut": (lambda s: cut(s, "figures/orbit_scaling.pdf"), {("torn", "figures/orbit_scaling.pdf")}),
    "a picture for print of other metrics": (
        lambda s: stamp(s, "figures/orbit_scaling.pdf"),
        {("stale", "figures/orbit_scaling.pdf")},
    ),
    "numbers of a picture cut": (lambda s: cut(s, PROFILE), {("torn", PROFILE)}),
    "a number of a picture edited": (
        lambda s: (p := s.root / PROFILE).write_text(p.read_text().replace("member,0,", "member,1,", 1)),
        {("torn", PROFILE)},
    ),
    "numbers of a picture without their source": (
        lambda s: (p := s.root / PROFILE).write_text(re.sub("# metrics.nc .*\n", "", p.read_text())),
        {("torn", PROFILE)},
    ),
    "numbers of a picture lost": (lambda s: (s.root / PROFILE).unlink(), {("missing", PROFILE)}),
    "metrics of an earlier format": (
        lambda s: earlier(s.metrics_path),
        {("stale", "metrics.nc")},
    ),
    "a picture of other metrics": (
        lambda s: stamp(s, "figures/orbit_scaling.svg"),
        {("stale", "figures/orbit_scaling.svg")},
    ),
    "summary of other metrics": (lambda s: stamp(s, "report.html"), {("stale", "report.html")}),
    "a picture with zeros": (
        lambda s: (p := s.root / "figures/orbit_scaling.svg").write_bytes(zeros(p.read_bytes())),
        {("torn", "figures/orbit_scaling.svg")},
    ),
    "a picture of an earlier version with zeros": (
        lambda s: (p := s.root / "figures/orbit_scaling.svg").write_bytes(zeros(unsealed(p))),
        {("torn", "figures/orbit_scaling.svg")},
    ),
    "summary with another digit": (
        lambda s: s.report_path.write_text(s.report_path.read_text().replace("8", "3")),
        {("torn", "report.html")},
    ),
    "a torn shard in front of whole ones": (
        lambda s: (s.root / WIDE).write_bytes((s.root / SHARD).read_bytes()[:1000]),
        {("torn", WIDE)},
    ),
    "a foreign shard in front of whole ones": (lambda s: copy(s, SHARD, WIDE), {("foreign", WIDE)}),
    "copies of the user": (
        lambda s: (
            copy(s, FULL_ENSEMBLE, f"ensemble/{NONE} copy.zarr.zip"),
            (s.root / BACKUP).parent.mkdir(),
            copy(s, FULL_SHARD, BACKUP),
            (s.root / BACKUP).with_name(".members-000000-000001.checkpoint.zarr.zip").write_bytes(b"x"),
        ),
        {
            ("unused", f"ensemble/{NONE} copy.zarr.zip"),
            ("unused", BACKUP),
            ("unused", f"members/{NONE}/backup~1/.members-000000-000001.checkpoint.zarr.zip"),
        },
    ),
    "old files that only look temporary": (
        lambda s: (old(s, ".draft.tmp"), old(s, ".folder.123456.tmp/thesis.txt")),
        {("unknown", ".draft.tmp"), ("unknown", ".folder.123456.tmp/thesis.txt")},
    ),
    "what a killed job leaves beside its shard": (
        lambda s: (dead_lease(s, ""), dead_lease(s, ".0123456789abcdef"), dead_checkpoint(s)),
        {("leftover", f"members/{NONE}/.members-000000-000001.{name}") for name in LEFT},
    ),
    "a checkpoint of a torn shard": (lambda s: (cut(s, SHARD), dead_checkpoint(s)), {("torn", SHARD)}),
    "a note of the user": (lambda s: (s.root / "notes.txt").write_text("x"), {("unknown", "notes.txt")}),
    "a checkpoint that stayed": (
        lambda s: (s.root / f"members/{NONE}/.members-000000-000001.checkpoint.zarr.zip").write_bytes(b"x"),
        {("leftover", f"members/{NONE}/.members-000000-000001.checkpoint.zarr.zip")},
    ),
    "a shard of another study elsewhere": (
        lambda s: (elsewhere(s), rewrite(s.root / "members/width~9/members-000000-000001.zarr.zip", same, study="b")),
        {("unused", "members/width~9/members-000000-000001.zarr.zip")},
    ),
    "a shard of an arm that is gone": (
        lambda s: (
            elsewhere(s),
            rewrite(s.root / "members/width~9/members-000000-000001.zarr.zip", same, arm="width~9"),
        ),
        {("unused", "members/width~9/members-000000-000001.zarr.zip")},
    ),
}


def elsewhere(study):
    (study.root / "members" / "width~9").mkdir()
    copy(study, SHARD, "members/width~9/members-000000-000001.zarr.zip")


def old(study, name):
    path = study.root / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("x")
    os.utime(path, (time.time() - 2 * verify.ABANDONED,) * 2)


def dead_lease(study, token):
    """A lease, or what was to be one, of a process of this machine that has ended."""
    folder = study.lease_path(study.arms[0], 0, 1)
    folder = folder.with_name(folder.name + token)
    folder.mkdir()
    (folder / "1").write_text(json.dumps(asdict(replace(this_process(), start=1))))


def dead_checkpoint(study):
    study.checkpoint_path(study.arms[0], 0, 1).write_bytes(b"x")


def append(path, text):
    path.write_text(path.read_text() + text)


def flip(path):
    """Change a byte of the numbers of a netCDF file."""
    import h5py

    with h5py.File(path, "r+") as file:
        file["members"][...] += 1


def rate_full(study):
    return study.learning_rate_path(study.arms[1]).relative_to(study.root).as_posix()


@pytest.mark.parametrize("case", DAMAGES)
def test_damage_is_named_and_a_repair_removes_exactly_that(study, case):
    damage, expected = DAMAGES[case]
    damage(study)
    expected = expected(study) if callable(expected) else expected
    report = verify.verify(study)
    assert {(str(f.kind), f.path.relative_to(study.root).as_posix()) for f in report.findings} == expected
    before = files(study)
    removed = {f.path.relative_to(study.root).as_posix() for f in verify.repair(report)}
    gone = {name for kind, name in expected if kind in ("torn", "foreign", "stale", "leftover")}
    assert removed == gone
    assert before - files(study) == {name for name in before if any(f"{name}/".startswith(f"{g}/") for g in gone)}


def test_after_a_repair_there_is_nothing_to_repair(study):
    for case in ("shard of other members", "rate damaged", "metrics cut", "a picture cut"):
        DAMAGES[case][0](study)
    assert len(list(verify.repair(verify.verify(study)))) == 4
    assert found(study) == {("missing", name) for name in (SHARD, "metrics.nc", "figures/orbit_scaling.png")}


def test_a_changed_study(study):
    more = study_in(study.file.parent, ensemble={"members": 6})
    new = {f"members/{arm}/members-000004-000005.zarr.zip" for arm in (NONE, FULL)}
    stale = {("stale", name) for name in (ENSEMBLE, FULL_ENSEMBLE, "metrics.nc")}
    assert found(more) == {("missing", name) for name in new} | stale
    fewer = study_in(study.file.parent, sweep={"augmentation": ["full"]})
    assert {(kind, name) for kind, name in found(fewer) if name.startswith(("members", "ensemble", "theory"))} == {
        ("unused", name) for name in files(study) if NONE in name
    } | {("unused", study.theory_path(study.arms[0]).relative_to(study.root).as_posix())} | {
        ("unused", rate(study).relative_to(study.root).as_posix())
    }
    other = study_in(study.file.parent, ensemble={"members": 4, "seed": 1})
    assert {name for kind, name in found(other) if kind == "stale"} == {
        name for name in files(study) if name.startswith(("members", "ensemble", "metrics"))
    }


def test_shards_in_training_are_told_and_left(study):
    path = study.root / SHARD
    path.unlink()
    held = Lease(study.lease_path(study.arms[0], 0, 1), "members", lambda text: None)
    checkpoint = study.checkpoint_path(study.arms[0], 0, 1)
    checkpoint.write_bytes(b"x")
    held.acquire()
    try:
        report = verify.verify(study)
        assert [(f.kind, f.path) for f in report.findings] == [(verify.Kind.TRAINING, path)] and not report.is_well
        assert str(os.getpid()) in report.findings[0].reason
        path.write_bytes(b"torn")
        assert [f.kind for f in verify.verify(study).findings] == [verify.Kind.TRAINING]
        assert list(verify.repair(verify.verify(study))) == [] and checkpoint.exists()
    finally:
        held.release()
    path.unlink()
    (finding,) = verify.verify(study).findings
    assert finding.kind == "missing" and "a checkpoint is there" in finding.reason


def test_temporary_files_of_dead_writers(study):
    old, new = (study.root / "ensemble" / f".{name}.zarr.zip.123.tmp" for name in ("old", "new"))
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (time.time() - 2 * verify.ABANDONED,) * 2)
    assert found(study) == {("leftover", old.relative_to(study.root).as_posix())}
    assert verify.verify(study).is_well
    assert [f.path for f in verify.repair(verify.verify(study))] == [old] and new.exists()


def test_what_changed_since_it_was_read_stays(study):
    cut(study, SHARD)
    report = verify.verify(study)
    shutil.copy(study.root / OTHER_SHARD, study.root / SHARD)
    assert list(verify.repair(report)) == []


def test_nothing_is_removed_while_a_snakemake_runs(study, monkeypatch):
    cut(study, SHARD)
    with controller.acquire(study), pytest.raises(StudyError, match=r"works on .* now"):
        emeq(study, "--repair")
    assert (study.root / SHARD).exists()
    removing = verify.repair

    def watched(report):
        assert str(os.getpid()) in controller.other(study), "no Snakemake can start while files are removed"
        return removing(report)

    monkeypatch.setattr(verify, "repair", watched)
    assert emeq(study, "--repair") == 1 and not (study.root / SHARD).exists()
    assert controller.other(study) == ""


def test_a_damaged_rate_is_not_trained_with(study):
    arm = study.arms[0]
    assert read_learning_rate(study, arm) == json.loads(rate(study).read_text())["learning_rate"]
    older_rate(study)
    assert read_learning_rate(study, arm) > 0
    for change in (edit_json, lambda path, **changes: older_rate(study, **changes)):
        change(rate(study), learning_rate=0.123)
        with pytest.raises(StoreError, match=f"{rate(study)}: is damaged. Delete it"):
            read_learning_rate(study, arm)


def test_a_lease_that_may_not_be_read_is_told(study, monkeypatch):
    (study.root / SHARD).unlink()

    def refused(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(lease, "holder", refused)
    (finding,) = verify.verify(study).findings
    assert finding.kind == "in training" and "Permission denied" in finding.reason


def test_members_that_may_be_missing_are_counted(study, capfd):
    allowed = study_in(study.file.parent, execution={"shard_size": 2, "allow_missing": True})
    (study.root / FULL_SHARD).unlink()
    assert verify.verify(allowed).allowed == 2
    emeq(allowed)
    assert "2 members are missing, which execution.allow_missing in" in capfd.readouterr().out


def test_a_link_out_of_the_results_is_refused(study, tmp_path):
    (study.root / "members").rename(tmp_path / "away")
    (study.root / "members").symlink_to(tmp_path / "away")
    with pytest.raises(StoreError, match="leads out of"):
        verify.verify(load_study(study.file, study.results))


def test_results_of_earlier_versions_are_well_but_not_proven(study):
    """Without the attributes that newer versions write."""
    path = study.root / ENSEMBLE
    dataset = store.read(path).load()
    del dataset.attrs["inputs"]
    store.write(dataset, path, {})
    report = verify.verify(study)
    assert report.findings == [] and report.unproven == 1


def test_command_line(study, capfd):
    assert not emeq(study) and "all is well" in capfd.readouterr().out
    cut(study, SHARD)
    (study.root / ENSEMBLE).unlink()
    assert emeq(study) == 1
    said = capfd.readouterr().out
    assert f"torn        {study.root / SHARD}: is damaged" in said and "1 missing, 1 torn" in said
    assert f"emeq verify {study.file} --repair" in said
    assert emeq(study, "--repair") == 1
    said = capfd.readouterr().out
    assert f"removed     {study.root / SHARD}" in said and "1 removed" in said
    assert CONTENT["study"] in said


@pytest.mark.slow
def test_pictures_and_report_are_made_of_metrics_alone(finished, tmp_path):
    study = study_in(tmp_path)
    study.root.mkdir(parents=True)
    shutil.copy(finished.metrics_path, study.metrics_path)
    app(["figures", str(study.file), "--results", str(study.results)], standalone_mode=False)
    for path in sorted(finished.figures_folder.iterdir()):
        assert (study.figures_folder / path.name).read_bytes() == path.read_bytes(), path.name
    assert study.report_path.is_file() and not (study.root / "data").exists()
    earlier(study.metrics_path)
    with pytest.raises(StoreError, match=r"metrics\.nc: was made from another version .* Run `emeq metrics "):
        app(["figures", str(study.file), "--results", str(study.results)], standalone_mode=False)
