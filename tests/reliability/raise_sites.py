"""Where the package makes errors for the user, and which of these places a command line has reached."""

import ast
import builtins
import re
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pytest
from pydantic import BaseModel, ValidationError

import emergent_equivariance
from emergent_equivariance.errors import UserError
from emergent_equivariance.study import cluster, problems, reading

SOURCE = Path(emergent_equivariance.__file__).parent

#: What is raised and is no error for the user: wrong usage and ways out, interruptions, what a reader of files catches.
OTHERS = {name for name in dir(builtins) if isinstance(getattr(builtins, name), type)}
OTHERS |= {"BadParameter", "Exit", "Interrupted", "Superseded", "BadZipFile", "ConstructorError"}


#: Places that the table has no row for: "file function" → how many there are in it, and why.
#: Of the Python API; no subcommand comes here.
PYTHON = {
    "analysis.py ensemble_metrics": (1, "tests/unit/test_analysis.py"),
    "analysis.py expected_metrics": (1, "tests/unit/test_analysis.py"),
    "analysis.py _sizes": (1, "tests/unit/test_analysis.py"),
    "analysis.py _ordered": (2, "tests/unit/test_analysis.py"),
    "analysis.py _reference": (3, "tests/unit/test_analysis.py"),
    "analysis.py _analytic": (1, "tests/unit/test_analysis.py"),
    "analysis.py _check_shape": (1, "tests/unit/test_analysis.py"),
    "empirical.py stored_parameters": (3, "tests/theory/test_empirical.py"),
    "results.py open_study": (2, "tests/reliability/test_open_study.py"),
    "results.py Results.metrics": (1, "tests/reliability/test_open_study.py"),
    "results.py Results.table": (1, "tests/reliability/test_open_study.py"),
    "results.py Results.members": (1, "tests/reliability/test_open_study.py"),
    "results.py Results.theory": (1, "tests/reliability/test_open_study.py"),
    "results.py Results._arm": (4, "tests/reliability/test_open_study.py"),
    "results.py Results._check_kind": (1, "tests/reliability/test_open_study.py"),
    "results.py _arm": (1, "tests/reliability/test_open_study.py"),
}
#: Told by Snakemake, of which `emeq run` shows what it says.
SNAKEMAKE = {
    "slurm.py check_login": (1, "tests/workflow/test_cluster.py"),
    "slurm_states.py heed_lost_jobs": (1, "tests/unit/test_slurm_states.py"),
    "study/submission.py _too_little_memory": (1, "--set-resources, tests/unit/test_cluster.py"),
    "workflow.py find_study_file": (2, "tests/unit/test_dependencies.py"),
}
#: Needs a disk that is full or refuses to remove, a server, a race, a lack of memory, or another installation.
ELSEWHERE = {
    "checkpoints.py Checkpoints._write": (1, "full disk, tests/reliability/test_checkpoints.py"),
    "infinite_width.py _open": (1, "another installation, tests/reliability/test_error_table.py"),
    "lease.py Lease._heed_foreign": (1, "takes a minute, tests/reliability/test_lease.py"),
    "lease.py Lease.confirm": (1, "full disk, tests/reliability/test_lease.py"),
    "tracking/again.py record_again.tell": (1, "full disk, tests/tracking/test_sync.py"),
    "tracking/dashboard.py save": (1, "server, tests/tracking/test_dashboard_saving.py"),
    "training/probe.py _fastest": (1, "memory, tests/unit/test_probe.py"),
    "verify/__init__.py repair": (1, "behind a list of findings, tests/reliability/test_error_table.py"),
    "verify/content.py inputs_of": (1, "told as a finding, tests/reliability/test_error_table.py"),
}
#: Said before by another check; kept for callers from Python, for tasks of the package, or for files of later versions.
BEFORE = {
    "settings/networks.py GcnnNetwork._order": (1, "the group is filled in, tests/theory/test_networks.py"),
    "kernel_store.py _kappa": (1, "Settings.has_invariant_kernel, tests/theory/test_tiles.py"),
    "tasks/base.py TaskData.check": (1, "tasks/custom.py build, tests/unit/test_tasks.py"),
    "tasks/registry.py _check_promises": (1, "tasks of the package, tests/unit/test_tasks.py"),
    "tasks/sources.py parse_idx": (2, "the checksum, tests/unit/test_tasks.py"),
    "training/probe.py choose": (1, "the settings, tests/unit/test_probe.py"),
}
UNTOLD = PYTHON | SNAKEMAKE | ELSEWHERE | BEFORE


class Site(NamedTuple):
    """A place where an error for the user is made or raised: its file, function, and lines."""

    file: str
    function: str
    first: int
    last: int


def sites(source: Path = SOURCE) -> list[Site]:
    """Every ``raise`` of something that is not in OTHERS, and every error for the user that is made to be returned.

    What models of settings raise as ValueError is told to the user, too.
    """
    texts = {str(path.relative_to(source)): path.read_text() for path in sorted(source.rglob("*.py"))}
    trees = {file: ast.parse(text) for file, text in texts.items() if re.search(r"\braise |Error\(", text)}
    errors = _subclasses(trees.values())
    found = []
    for file, tree in trees.items():
        _find(tree, file, "", errors, OTHERS - {"ValueError"} if file.startswith("settings/") else OTHERS, found)
    return found


def _subclasses(trees: Iterable[ast.Module]) -> set[str]:
    """Names of UserError and the classes that are derived from it."""
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    errors = {"UserError"}
    while more := {c.name for c in classes if {_name(base) for base in c.bases} & errors} - errors:
        errors |= more
    return errors


def _find(node: ast.AST, file: str, function: str, errors: set[str], others: set[str], found: list[Site]) -> None:
    """Add the sites in a node to ``found``."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        function = f"{function}.{node.name}".lstrip(".")
    made = isinstance(node, ast.Call) and _name(node.func) in errors
    if made or (isinstance(node, ast.Raise) and node.exc is not None and _name(node.exc) not in others):
        found.append(Site(file, function, node.lineno, node.end_lineno))
        return
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.expr_context | ast.Name | ast.Constant):
            _find(child, file, function, errors, others, found)


def _name(node: ast.AST) -> str:
    """Last part of the name of what is called or named."""
    if isinstance(node, ast.Call):
        return _name(node.func)
    return getattr(node, "attr", "") or getattr(node, "id", "")


class Recorder:
    """Errors for the user that are made from now on.

    Attributes:
      reached: (file, line) where those were raised or made whose message the user was told.
      cases: names of the cases of the table that were run; for who runs them.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._made: list[tuple[UserError | ValueError, str, int]] = []
        self.reached: set[tuple[str, int]] = set()
        self.cases: set[str] = set()
        initialise = UserError.__init__

        def record(error: UserError, *arguments, **named) -> None:
            initialise(error, *arguments, **named)
            maker = sys._getframe(1)
            self._made.append((error, maker.f_code.co_filename, maker.f_lineno))

        patch.setattr(UserError, "__init__", record)

        def explain(model: type[BaseModel], error: ValidationError) -> str:
            for problem in error.errors():
                if problem["type"] == "value_error":
                    self._made.append((problem["ctx"]["error"], "", 0))
            return problems.explain(model, error)

        for module in (reading, cluster):
            patch.setattr(module, "explain", explain)

    def told(self, said: str) -> None:
        """Keep the places of the errors whose message was told, and forget the others."""
        for error, *place in self._made:
            # Models say keys without their section, which is put before them.
            message = error.message if isinstance(error, UserError) else str(error).partition(": ")[2] or str(error)
            if message in said:
                places, at = {tuple(place)}, error.__traceback__
                while at is not None:
                    last, at = (at.tb_frame.f_code.co_filename, at.tb_lineno), at.tb_next
                    places |= {last} if at is None else set()
                self.reached |= {(str(Path(f).relative_to(SOURCE)), n) for f, n in places if f.startswith(str(SOURCE))}
        self._made.clear()

    def left(self, known: Iterable[Site]) -> dict[str, list[int]]:
        """ "file function" → lines of its sites that were not reached."""
        found = defaultdict(list)
        for site in known:
            if not any(file == site.file and site.first <= line <= site.last for file, line in self.reached):
                found[f"{site.file} {site.function}"].append(site.first)
        return dict(found)
