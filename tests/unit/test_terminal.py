"""The command line as a user meets it: help, completion, exit codes, progress, colours."""

import io
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from emergent_equivariance.cli import app, common, run, terminal
from emergent_equivariance.errors import INTERRUPTED, Interrupted, StoreError
from emergent_equivariance.study import load_study
from emergent_equivariance.study.products import products
from emergent_equivariance.templates import templates, write_study

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "terminal.md").read_text(encoding="utf-8")
PROGRAM = typer.main.get_command(app)


# ---------------------------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("name", sorted(PROGRAM.commands))
def test_every_option_says_what_it_is_for(name):
    command = PROGRAM.commands[name]
    assert command.help and command.help.strip()[0].isupper()
    assert command.rich_help_panel
    for parameter in command.params:
        assert parameter.help, f"{name} {parameter.name}"
        assert parameter.help.endswith((".", ")")), f"{name} {parameter.name}"
    assert command.epilog is None or re.search(r"`emeq [a-z]", command.epilog)


def test_what_is_called_by_hand_shows_an_example():
    by_hand = [c for c in PROGRAM.commands.values() if c.rich_help_panel != common.WORKFLOW]
    assert {command.name for command in by_hand if command.epilog is None} == set()
    for command in by_hand:
        for example in re.findall(r"`emeq ([\w-]+)", command.epilog):
            assert example == command.name


# ---------------------------------------------------------------------------------------------------------- exit codes


def test_the_page_and_the_help_name_the_same_exit_codes():
    rows = re.findall(r"^\| (\d+) \| ", PAGE, flags=re.MULTILINE)
    assert [int(code) for code in rows] == list(common.EXIT_CODES)
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    for code in common.EXIT_CODES:
        assert re.search(rf"\b{code}: \w", shown.partition("Exit codes")[2]), code


def test_every_documented_exit_code_is_returned(tmp_path, monkeypatch, capsys):
    def code_of(*arguments):
        monkeypatch.setattr(sys, "argv", ["emeq", *arguments])
        with pytest.raises(SystemExit) as ended:
            common.main()
        return ended.value.code or 0

    monkeypatch.chdir(tmp_path)
    write_study(Path("mine.yaml"))
    codes = {code_of("validate", "mine.yaml")}
    codes |= {code_of("validate", "nowhere.yaml"), code_of("status", "mine.yaml"), code_of("missing", "mine.yaml")}
    codes |= {code_of("validate"), code_of("validate", "mine.yaml", "--unknown"), code_of("nothing")}

    def interrupted(*_):
        raise Interrupted("time limit: stopped with a checkpoint")

    monkeypatch.setattr("emergent_equivariance.cli.looking.load_study", interrupted)
    codes |= {code_of("validate", "mine.yaml")}
    assert codes == set(common.EXIT_CODES)
    assert INTERRUPTED in codes
    assert "stopped with a checkpoint" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------- completion


def completed(words, shell="complete_bash"):
    environment = {**os.environ, "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
    environment |= {"_EMEQ_COMPLETE": shell}
    code = "import sys; sys.argv = ['emeq']; from emergent_equivariance.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if line]


def test_bash_completes_subcommands_templates_and_arms(tmp_path):
    write_study(tmp_path / "mine.yaml")
    assert completed(["emeq", "sta"]) == ["status"]
    assert completed(["emeq", "new", "a.yaml", "--template", "kernel_"]) == ["kernel_convergence", "kernel_regression"]
    arms = completed(["emeq", "train", str(tmp_path / "mine.yaml"), "--arm", "aug"])
    assert arms == ["augmentation~none", "augmentation~full"]


def test_paths_are_left_to_the_shell():
    """Its own completion of names of files comes in where there is none (`complete -o default`)."""
    assert completed(["emeq", "validate", "conf"]) == []
    assert completed(["emeq", "status", "a.yaml", "--results", ""]) == []
    assert any("complete -o default -F" in line for line in completed(["emeq"], "source_bash"))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_installed(tmp_path, shell):
    """Of the shell named here: which one the tests themselves are started from is not typer's to find out."""
    environment = {**os.environ, "HOME": str(tmp_path), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    code = "import sys; sys.argv = ['emeq', *sys.argv[1:]]; from emergent_equivariance.cli import main; main()"
    command = [sys.executable, "-c", code, "--install-completion", shell]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert any("_EMEQ_COMPLETE" in path.read_text() for path in tmp_path.rglob("*") if path.is_file())


# ------------------------------------------------------------------------------------------------- progress and colours


class Clock:
    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


def test_logs_get_few_lines_of_progress(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    report = terminal.progress("members", steps=300)
    for done in range(0, 10_001):
        clock.now += 1.0
        report(done, 10_000)
    lines = capsys.readouterr().err.splitlines()
    assert 20 < len(lines) < 120, "10,000 seconds"
    assert lines[-1] == "members: 10000/10000, 1 per second (300 steps)"
    assert lines[5].endswith("h 46 min left") and "\x1b" not in "".join(lines) and "\r" not in "".join(lines)


def test_the_speed_of_a_job_that_goes_on_is_that_from_there(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    report = terminal.progress("members", steps=10)
    report(50, 100)
    clock.now += 20
    report(60, 100)
    assert capsys.readouterr().err == "members: 60/100, 0.5 per second (5 steps), 80 s left\n"


def test_a_terminal_gets_one_line_that_is_rewritten(monkeypatch, capsys):
    clock = Clock(monkeypatch)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "70")
    report = terminal.progress("kernel pairs")
    for done in range(1, 101):
        clock.now += 0.5
        report(done, 100)
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1 and shown.count("\r") == 100
    for line in shown.split("\r"):
        assert len(line.strip().removesuffix("\x1b[K")) < 70
    assert "━" * 10 + "╌" * 10 + " kernel pairs: 50/100, 2 per second, 25 s left" in shown


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.04 s"),
        (7.4, "7 s"),
        (42, "42 s"),
        (119, "2 min"),
        (3 * 3600, "3 h"),
        (12_000, "3 h 20 min"),
        (50 * 3600, "2 d 2 h"),
        (3 * 86_400, "3 d"),
    ],
)
def test_durations_are_those_of_people(seconds, text):
    assert terminal.duration(seconds) == text


def in_terminal(command, **environment):
    """All that a command writes to a terminal of 80 columns."""
    master, slave = pty.openpty()
    everything = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24", **environment}
    with subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=everything) as process:
        os.close(slave)
        parts = []
        while True:
            try:
                parts.append(os.read(master, 65536))
            except OSError:
                break
            if not parts[-1]:
                break
    os.close(master)
    return process.returncode, b"".join(parts).decode()


def test_colours_are_for_terminals_and_can_be_switched_off(tmp_path):
    write_study(tmp_path / "mine.yaml")
    study = load_study(tmp_path / "mine.yaml", tmp_path)
    shard = study.shard_path(study.arms[0], 0, 31)
    shard.parent.mkdir(parents=True)
    shard.touch()
    command = [sys.executable, "-m", "emergent_equivariance", "status", str(study.file), "--results", str(tmp_path)]
    colour = re.compile(r"\x1b\[[0-9;]*3[0-7]m")
    code, shown = in_terminal(command, NO_COLOR="")
    assert code == 1 and colour.search(shown)
    assert not colour.search(in_terminal(command, NO_COLOR="1")[1])
    assert "\x1b" not in subprocess.run(command, capture_output=True, text=True, check=False).stdout


# ----------------------------------------------------------------------------------------------------------------- run

SAYING = "print('Select jobs', flush=True); print('warning: heed this', flush=True); print('the end')"


def shown_run(tmp_path, monkeypatch, code):
    write_study(tmp_path / "mine.yaml")
    study = load_study(tmp_path / "mine.yaml", tmp_path)
    out = io.StringIO()
    monkeypatch.setattr(run, "console", lambda: Console(file=out, width=80))
    return study, out, lambda: run._run_shown(study, [sys.executable, "-c", code])


def test_a_run_that_succeeds_ends_in_one_line_and_shows_warnings(tmp_path, monkeypatch):
    study, out, start = shown_run(tmp_path, monkeypatch, SAYING)
    for path in products(study):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert start() == 0
    lines = out.getvalue().splitlines()
    assert "warning: heed this" in lines and "Select jobs" not in lines
    assert re.fullmatch(r"mine: 128 of 128 members, complete, in [\d.]+ s", lines[-1])


def test_a_run_that_fails_says_why(tmp_path, monkeypatch):
    study, out, start = shown_run(tmp_path, monkeypatch, f"{SAYING}; raise SystemExit(3)")
    assert start() == 3
    assert "Snakemake ended with exit code 3. It said at last:" in out.getvalue()
    assert out.getvalue().rstrip().endswith("the end")
    log = study.log_path(study.theory_path(study.arms[0]))
    log.parent.mkdir(parents=True)
    log.write_text("error: the disk is full\n")
    assert start() == 3
    assert "analytic solution: the disk is full" in out.getvalue()
    assert "`emeq missing " in out.getvalue()


def test_a_signal_while_snakemake_is_started_stops_it_too(tmp_path, monkeypatch):
    _, _, start = shown_run(tmp_path, monkeypatch, "import time; time.sleep(60)")
    popen = subprocess.Popen

    def interrupted(*arguments, **options):
        started = popen(*arguments, **options)
        os.kill(os.getpid(), signal.SIGTERM)
        return started

    monkeypatch.setattr(run.subprocess, "Popen", interrupted)
    assert start() == -signal.SIGTERM


def test_a_signal_to_a_run_stops_snakemake(tmp_path, monkeypatch):
    waiting = "import os, signal, time; os.kill(os.getppid(), signal.SIGTERM); time.sleep(60)"
    _, out, start = shown_run(tmp_path, monkeypatch, waiting)
    before = signal.getsignal(signal.SIGTERM)
    assert start() == -signal.SIGTERM
    assert out.getvalue().rstrip().endswith("Stopped. The same command goes on.")
    assert signal.getsignal(signal.SIGTERM) is before


def test_nothing_runs_on_behind_a_view_that_is_gone(tmp_path, monkeypatch):
    _, _, start = shown_run(tmp_path, monkeypatch, "import time; time.sleep(60)")
    processes = []
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: processes.append(popen(*a, **k)) or processes[0])

    def broken(study):
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr("emergent_equivariance.status.status", broken)
    with pytest.raises(RuntimeError):
        start()
    assert processes[0].returncode is not None


def test_a_run_goes_on_where_its_status_cannot_be_read_for_a_while(tmp_path, monkeypatch):
    from emergent_equivariance import status

    _, out, start = shown_run(tmp_path, monkeypatch, "import time; time.sleep(3)")
    looks = []

    def unreadable_at_first(study, look=status.status):
        looks.append(study)
        if len(looks) == 1:
            raise StoreError("the disk does not answer")
        return look(study)

    monkeypatch.setattr(status, "status", unreadable_at_first)
    assert start() == 0
    assert len(looks) > 2
    assert "its status cannot be read: the disk does not answer" in out.getvalue()


@pytest.mark.slow
def test_without_a_terminal_a_run_is_snakemake_and_nothing_else(tmp_path):
    write_study(tmp_path / "mine.yaml")
    (tmp_path / "Snakefile").write_text("rule all:\n    shell: 'echo the rule ran'\n")
    command = [sys.executable, "-m", "emergent_equivariance", "run", "mine.yaml", "--cores", "1", "--printshellcmds"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "the rule ran" in done.stdout, done.stderr
    assert "Complete log" in done.stderr and "members" not in done.stdout


# ------------------------------------------------------------------------------------------------------------ the page


def test_the_page_names_every_variable_that_is_read():
    sources = "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))
    read = set(re.findall(r"environ(?:\.get\(|\[)\s*[\"'](\w+)[\"']", sources))
    read = {name for name in read if not name.startswith(("WANDB", "JAX_"))}  # of their clients, set by us
    assert {"CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID"} <= read
    for name in {*read, *re.findall(r"\bEMEQ_[A-Z_]+\b", sources)}:
        assert f"`{name}`" in PAGE, name


def test_the_page_names_every_template():
    for name in templates():
        assert f"`{name}`" in PAGE, name
