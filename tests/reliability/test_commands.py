"""Subcommands in this process: what they hand on, and what they refuse."""

import pytest
import yaml

from emergent_equivariance import cli, kernel_store, theory
from emergent_equivariance.measures import regression
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
    for name in ("_read_data", "_read_kernels"):
        monkeypatch.setattr(cli, name, lambda *_: None)
    monkeypatch.setattr(cli, "_use_float64", lambda: None)
    attribute = {"kernel_tiles": "kernel_key", "theory": "theory_key", "measure": "path"}.get(command, f"{command}_key")
    more = {"first": 0, "last": 0} if command == "kernel_tiles" else {}
    with pytest.raises(Stop):
        getattr(cli, command)(study.file, getattr(arm, attribute), **more, threads=threads, results=study.results)
    settings = [argument for argument in seen if isinstance(argument, type(arm.settings))]
    assert [found.execution.kernel_threads for found in settings] == [used]
