"""What a user can meet on the command line: exit code, file and key in the message, a remedy, no traceback.

One table: what is arranged in a folder with a study that is done up to its metrics, what is called there, what the
message says. The command line is entered in this process, where ``emeq`` enters it, and by a process of its own once
for each way out of it. Every place in the package where an error for the user is raised has a row, or is in UNTOLD.
"""

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

from emergent_equivariance import cli, verify
from emergent_equivariance.errors import StoreError, StudyError, UserError
from emergent_equivariance.groups import get_group
from emergent_equivariance.study import layout, load_study

from .arranging import SHARD, Case, keys, place, rewritten
from .bad_modules import DATA
from .bad_runs import ARGUMENTS, CLUSTERS, STORES, TRACKING
from .bad_studies import BAD, STUDY_FILES
from .finished_study import study_in
from .raise_sites import UNTOLD, Recorder, sites

ROOT = Path(__file__).parents[2]

#: What a remedy begins with, and what may stand before it.
VERBS = (
    "add|ask|build|call|check|choose|compute|convert|correct|delete|draw|drop|flatten|give|install|label|leave|let|list|lower|"
    "make|mend|name|order|provide|raise|record|register|remove|rename|replace|return|run|set|start|sweep|take|train|"
    "treat|use|wait|write"
)
REMEDY = re.compile(rf"(?:[.;:,)] |\bor )(?:{VERBS})\b", re.IGNORECASE)

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


@pytest.fixture(scope="module")
def recorder():
    """Where the errors came from that the cases were told."""
    with pytest.MonkeyPatch.context() as patch:
        yield Recorder(patch)


@pytest.fixture(scope="module")
def once():
    """Build the parsers of all subcommands once, not for every case: that takes longer than most of them."""
    program = typer.main.get_command(cli.app)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", lambda app: program)
        yield


@pytest.fixture
def emeq(monkeypatch, capsys, recorder, once):
    """Enter the command line as ``emeq`` does; returns exit code, standard output and error."""

    def enter(*arguments):
        monkeypatch.setattr(sys, "argv", ["emeq", *arguments])
        layout._has_link.cache_clear()  # of the relative paths of other cases
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        recorder.told(err)
        return code, out, err

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
def test_a_bad_study_file_is_told_with_file_key_value_and_remedy(tmp_path, monkeypatch, emeq, recorder, name):
    content, says = BAD[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(content))
    recorder.cases.add(name)
    check(*emeq("validate", "study.yaml"), Case("validate", ["error: study.yaml: ", *says]))


@pytest.mark.parametrize("name", TABLE)
def test_what_goes_wrong_is_told_with_file_and_remedy(measured, tmp_path, monkeypatch, emeq, recorder, name):
    recorder.cases.add(name)
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


def test_every_place_that_raises_an_error_for_the_user_has_a_row_or_a_reason(recorder):
    if lacking := (BAD.keys() | TABLE.keys()) - recorder.cases:
        pytest.skip(f"{len(lacking)} cases were not run in this process before")
    left = recorder.left(sites())
    counted = {place: len(lines) for place, lines in left.items()}
    expected = {place: number for place, (number, _) in UNTOLD.items()}
    lines = {place: left.get(place, []) for place in counted.keys() | expected.keys()}
    wrong = {place: lines[place] for place in lines if counted.get(place) != expected.get(place)}
    assert not wrong, "a row is lacking for these places, or a reason is left over: see raise_sites.UNTOLD"
    assert len(BAD) + len(TABLE) >= 60


def test_the_reasons_name_tests():
    for where, (_, reason) in UNTOLD.items():
        assert (ROOT / reason.split()[-1]).is_file(), where


def test_a_place_without_a_row_is_found(tmp_path, monkeypatch):
    (tmp_path / "a.py").write_text(
        "class OwnError(UserError): ...\n"
        "def told(): raise OwnError('a')\n"
        "def returned(): return OwnError('a')\n"
        "def helped(): raise made('a')\n"
        "def other(): raise ValueError('a')\n"
    )
    assert [site.function for site in sites(tmp_path)] == ["told", "returned", "helped"]
    recorder = Recorder(monkeypatch)
    with pytest.raises(StudyError):
        get_group("so3")
    recorder.told("nothing of it")
    assert not recorder.reached
    with pytest.raises(StudyError) as caught:
        get_group("so3")
    recorder.told(f"error: {caught.value}")
    assert {file for file, _ in recorder.reached} == {"groups.py"}


# ------------------------------------------------------------------------------------------------ in no row


def test_an_installation_without_neural_tangents_is_told(monkeypatch):
    from emergent_equivariance import infinite_width

    monkeypatch.setitem(sys.modules, "neural_tangents", None)
    with pytest.raises(UserError, match=r"no module 'neural_tangents'\. Install it with: pip install"):
        infinite_width._open()


def test_what_cannot_be_removed_and_nonsense_among_the_inputs_are_told(measured, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(measured.root, tmp_path / "results" / measured.name)
    study = study_in(tmp_path)
    rewritten(SHARD, inputs="nonsense")(study, monkeypatch)
    report = verify.verify(study)
    (finding,) = [found for found in report.findings if found.path == place(study, SHARD)]
    assert "inputs is no list of checksums" in finding.reason

    def refuse(path, **options):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(StoreError, match=r"cannot be written: the disk is read-only.*Make room"):
        list(verify.repair(report))
