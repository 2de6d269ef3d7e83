"""Subcommands in this process: what they hand on, and what they refuse."""

import pytest
import yaml

from emergent_equivariance import kernel_store, theory
from emergent_equivariance.cli import stages
from emergent_equivariance.errors import StudyError
from emergent_equivariance.measures import get_measure, regression
from emergent_equivariance.settings import STUDY_FILES
from emergent_equivariance.study import load_study

ENSEMBLE = {
    "study": "tiny",
    "task": {"name": "ising", "lattice": 3, "train": 4, "test": 4},
    "network": {"name": "mlp", "width": 4},
    "training": {"learning_rate": 0.1, "steps": 2},
    "execution": {"kernel_threads": 5, "tiles_above": 2},
}
REGRESSION = {
    **{key: ENSEMBLE[key] for key in ("study", "task", "network", "execution")},
    "kind": "kernel_regression",
    "regression": {"sizes": [2, 4]},
}


def written(folder, content):
    file = folder / "study.yaml"
    file.write_text(yaml.safe_dump(content))
    return load_study(file, folder / "results")


@pytest.mark.parametrize(("threads", "used"), [(3, 3), (None, 5)])
@pytest.mark.parametrize(
    ("content", "command", "module", "worker"),
    [
        (ENSEMBLE, "kernel_tiles", kernel_store, "compute"),
        (ENSEMBLE, "learning_rate", theory, "resolve_learning_rate"),
        (ENSEMBLE, "theory", theory, "solve"),
        (REGRESSION, "measure", regression, "measure"),
    ],
)
def test_kernels_are_computed_on_the_threads_that_are_granted(
    tmp_path, monkeypatch, content, command, module, worker, threads, used
):
    study = written(tmp_path, content)
    arm = study.arms[0]
    seen = []

    class Stop(Exception):
        pass

    def stop(*arguments, **_):
        seen.extend(getattr(argument, "settings", argument) for argument in arguments)
        raise Stop

    monkeypatch.setattr(module, worker, stop)
    for name in ("read_data", "read_kernels"):
        monkeypatch.setattr(stages, name, lambda *_: None)
    monkeypatch.setattr(stages, "use_float64", lambda: None)
    attribute = {"kernel_tiles": "kernel_key", "theory": "theory_key", "measure": "path"}.get(command, f"{command}_key")
    more = {"first": 0, "last": 0} if command == "kernel_tiles" else {}
    with pytest.raises(Stop):
        getattr(stages, command)(study.file, getattr(arm, attribute), **more, threads=threads, results=study.results)
    settings = [argument for argument in seen if isinstance(argument, type(arm.settings))]
    assert [found.execution.kernel_threads for found in settings] == [used]


@pytest.mark.parametrize(
    ("content", "command", "arguments", "remedy"),
    [
        (REGRESSION, "theory", {"key": "0"}, "emeq measure"),
        (REGRESSION, "learning-rate", {"key": "0"}, "emeq measure"),
        (REGRESSION, "aggregate", {"arm": "arm~single"}, "emeq measure"),
        (REGRESSION, "probe", {"key": "0"}, "emeq measure"),
        (REGRESSION, "train", {"arm": "arm~single", "first": 0, "last": 1}, "emeq measure"),
        (ENSEMBLE, "measure", {"arm": "arm~single"}, "emeq theory.*emeq train"),
    ],
)
def test_a_command_of_another_kind_of_study_is_refused(tmp_path, monkeypatch, content, command, arguments, remedy):
    study = written(tmp_path, content)
    monkeypatch.setattr(stages, "use_float64", lambda: None)
    with pytest.raises(StudyError, match=rf"study\.yaml.*kind {study.kind}.*emeq {command}`.*{remedy}"):
        getattr(stages, command.replace("-", "_"))(study.file, **arguments, results=study.results)


def test_every_kind_of_study_of_kernels_has_its_measure():
    for kind in set(STUDY_FILES) - {"ensemble"}:
        module = get_measure(kind)
        assert module.__name__.endswith(kind.removeprefix("kernel_"))
        assert all(callable(getattr(module, name)) for name in ("measure", "join", "tables", "content"))
