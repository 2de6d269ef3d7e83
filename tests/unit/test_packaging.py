"""What other tools read of the repository: packaging, environments, citation, catalog, hosted checks, hooks."""

import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.text_files import mended, tracked, wrong

import emergent_equivariance

ROOT = Path(__file__).parents[2]
ENVS = ROOT / "envs"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BIN = Path(sys.executable).parent
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


def text(*parts):
    return ROOT.joinpath(*parts).read_text(encoding="utf-8")


def pins(name):
    """Name → exact version of the packages in a file for pip; each once."""
    found = {}
    for line in (ENVS / name).read_text().splitlines():
        if not line or line.startswith(("#", "-r ")):
            continue
        requirement = Requirement(line)
        (version,) = requirement.specifier
        assert version.operator == "==" and requirement.url is None and requirement.marker is None, line
        key = canonicalize_name(requirement.name)
        assert key not in found, f"{line}: named twice"
        found[key] = version.version
    return found


# ------------------------------------------------------------------------------------------- versions and citation


def test_one_version():
    version = emergent_equivariance.__version__
    citation = yaml.safe_load(text("CITATION.cff"))
    assert PROJECT["dynamic"] == ["version"] and "version" not in PROJECT
    assert citation["version"] == version
    titles = re.findall(r"^## \[(.*?)\](.*)$", text("CHANGELOG.md"), flags=re.MULTILINE)
    assert titles[0] == ("Unreleased", "")
    released = titles[1:]
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", v) and re.fullmatch(r" - \d{4}-\d\d-\d\d", day) for v, day in released)
    if released:
        assert released[0][0] == version
        assert citation["date-released"].isoformat() == released[0][1].removeprefix(" - ")


def test_changelog_has_the_sections_of_its_format():
    sections = re.findall(r"^### (.*)$", text("CHANGELOG.md"), flags=re.MULTILINE)
    assert sections and set(sections) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert not re.findall(r"^(?![#\-]|  |$).*", text("CHANGELOG.md").split("## ", 1)[1].split("\n", 1)[1], re.MULTILINE)


def test_citation_file_has_what_its_schema_asks_for():
    """The required keys of CFF 1.2.0, and of its references; checked once against the whole schema by hand."""
    citation = yaml.safe_load(text("CITATION.cff"))
    assert citation["cff-version"] == "1.2.0" and {"message", "title", "authors"} <= set(citation)
    assert citation["license"] == PROJECT["license"] == "MIT" and text("LICENSE").startswith("MIT License")
    for entry in [citation, *citation["references"]]:
        assert entry["authors"] and all(
            "name" in a or {"family-names", "given-names"} <= set(a) for a in entry["authors"]
        )
    assert all({"type", "title"} <= set(entry) for entry in citation["references"])


# ------------------------------------------------------------------------------------------- environments


def test_the_lock_has_every_direct_dependency_in_a_version_that_is_asked_for():
    lock = pins("requirements.lock")
    wanted = [
        *PROJECT["dependencies"],
        *(line for extra in PROJECT["optional-dependencies"].values() for line in extra),
    ]
    for requirement in map(Requirement, wanted):
        version = lock.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement}: not in envs/requirements.lock; make lock"
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement}: the lock has {version}"
    assert not set(lock) & set(pins("requirements-nodeps.lock"))


def test_the_lock_is_closed_under_what_its_packages_need():
    """By the metadata of the packages that are installed here."""
    spec = importlib.util.spec_from_file_location("lock", ENVS / "lock.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    needed, lock = set(module.closure(module.direct())), set(pins("requirements.lock"))
    assert needed == lock, f"not in the lock: {needed - lock}; not needed: {lock - needed}"


def test_the_environment_with_gpus_adds_to_the_lock_and_changes_nothing():
    assert re.search(r"^-r requirements.lock$", text("envs", "requirements-gpu.lock"), flags=re.MULTILINE)
    lock, gpu = pins("requirements.lock"), pins("requirements-gpu.lock")
    assert not set(lock) & set(gpu)
    assert {gpu["jax-cuda13-plugin"], gpu["jax-cuda13-pjrt"]} == {lock["jax"]} == {lock["jaxlib"]}


def test_conda_and_container_take_their_versions_from_the_lock():
    conda = yaml.safe_load(text("envs", "environment.yaml"))
    container = text("envs", "Containerfile")
    python = Requirement(f"python{PROJECT['requires-python']}").specifier
    (pinned,) = [line for line in conda["dependencies"] if isinstance(line, str) and line.startswith("python=")]
    image = re.search(r"^FROM .*/python:([\d.]+)-", container, flags=re.MULTILINE)[1]
    assert pinned == f"python={image}" and python.contains(image)
    assert conda["dependencies"][-1] == {"pip": ["-r requirements.lock"]}
    assert "ARG LOCK=requirements.lock\n" in container
    for line in ("-r envs/${LOCK}", "--no-deps -r envs/requirements-nodeps.lock"):
        assert line in container
    for source in re.findall(r"^COPY (.*) \S+$", container, flags=re.MULTILINE):
        assert all((ROOT / name).exists() for name in source.split())
    assert "envs/emergent-equivariance.sif" in container
    assert 'container: "envs/emergent-equivariance.sif"' in text("workflow", "study.smk")


# ------------------------------------------------------------------------------------------- hosted checks and hooks


def test_hosted_checks_run_the_commands_of_developers():
    workflow = yaml.safe_load(text(".github", "workflows", "ci.yml"))
    (job,) = workflow["jobs"].values()
    commands = [entry["command"] for entry in job["strategy"]["matrix"]["include"]]
    assert ".ci/run" in commands
    for command in commands:
        if command.startswith("make "):
            assert command.split()[1] in TARGETS, command
        else:
            assert (ROOT / command).stat().st_mode & 0o100, f"{command}: not executable"
    names = [entry["name"] for entry in job["strategy"]["matrix"]["include"]]
    for condition in (step["if"] for step in job["steps"] if "if" in step):
        assert re.fullmatch(r"matrix.name == '(.*)'", condition)[1] in names
    (version,) = [step["with"]["python-version"] for step in job["steps"] if "setup-python" in step.get("uses", "")]
    assert f"python={version}" in text("envs", "environment.yaml")


def test_hooks_use_the_tools_of_the_environment():
    (repository,) = yaml.safe_load(text(".pre-commit-config.yaml"))["repos"]
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        program = hook["entry"].split()[0]
        assert program.startswith(".venv/bin/") and (BIN / Path(program).name).exists(), hook["entry"]
        assert hook["language"] == "system"


def test_targets_that_pages_name_exist():
    for page in ("CONTRIBUTING.md", "README.md"):
        for target in re.findall(r"`make ([a-z-]+)", text(page)):
            assert target in TARGETS, f"{page}: make {target}"


def test_files_end_with_one_newline_and_lines_without_spaces(tmp_path):
    assert mended("a \n\tb\t\n \n  \nc\n\n") == "a\n\tb\n \n\nc\n" and mended("") == ""
    file = tmp_path / "a.txt"
    file.write_text("a \n")
    assert wrong([file]) == [file] and wrong([file], fix=True) == [file] and wrong([file]) == []
    if shutil.which("git") and (ROOT / ".git").exists():
        assert wrong(tracked(ROOT)) == []


# ------------------------------------------------------------------------------------------- the workflow catalog


def test_catalog_finds_what_it_asks_for():
    """source/docs/about/adding_workflows.md of snakemake/snakemake-workflow-catalog, "standardized usage"."""
    usage = yaml.safe_load(text(".snakemake-workflow-catalog.yml"))["usage"]
    assert usage["report"] is True
    assert {"conda", "apptainer", "apptainer+conda"} <= set(usage["software-stack-deployment"])
    assert set(usage["mandatory-flags"]) == {"desc", "flags"}
    assert (ROOT / "workflow" / "Snakefile").is_file() and list((ROOT / "workflow" / "rules").glob("*.smk"))
    assert text("config", "README.md").strip()
    assert {"snakemake", "workflow"} <= set(re.findall(r"\w+", text("README.md").lower()))


@pytest.mark.slow
def test_lint_and_snakefmt_find_nothing(tmp_path):
    run = {"capture_output": True, "text": True, "timeout": 300, "cwd": tmp_path}
    lint = [sys.executable, "-m", "snakemake", "--lint", "--snakefile", str(ROOT / "workflow" / "Snakefile")]
    done = subprocess.run([*lint, "--configfile", str(ROOT / "config" / "ising.yaml")], **run)
    assert done.returncode == 0, done.stdout + done.stderr
    done = subprocess.run([str(BIN / "snakefmt"), "--check", str(ROOT / "Snakefile"), str(ROOT / "workflow")], **run)
    assert done.returncode == 0, done.stdout + done.stderr


# ------------------------------------------------------------------------------------------- the package


def package_data():
    """Patterns of files below the package that belong to it and are no modules."""
    return tomllib.loads(text("pyproject.toml"))["tool"]["setuptools"]["package-data"]["emergent_equivariance"]


def test_package_says_that_it_is_typed_and_names_its_data():
    package = ROOT / "src" / "emergent_equivariance"
    listed = {file for pattern in package_data() for file in package.glob(pattern) if file.is_file()}
    assert package / "py.typed" in listed
    needed = {f for f in tracked(package) if f.is_file() and f.suffix != ".py"}
    assert needed <= listed, f"not in [tool.setuptools.package-data]: {needed - listed}"


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_its_data(tmp_path):
    """Built of what the container is built of."""
    skipped = shutil.ignore_patterns("*.egg-info", "__pycache__")
    for line in re.findall(r"^COPY (.+)$", text("envs", "Containerfile"), flags=re.MULTILINE):
        *names, target = line.split()
        for name in names:
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, tmp_path / target, symlinks=True, ignore=skipped)
            else:
                shutil.copy(ROOT / name, tmp_path / target)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", "wheels", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    assert wheel.name.startswith(f"emergent_equivariance-{emergent_equivariance.__version__}-")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("emergent_equivariance/")}
    package = ROOT / "src" / "emergent_equivariance"
    files = {file for pattern in ("**/*.py", *package_data()) for file in package.glob(pattern) if file.is_file()}
    missing = {f"emergent_equivariance/{file.relative_to(package)}" for file in files} - held
    assert not missing
