"""What the tests of reliability share; none of it is ever changed, but copied."""

import shutil

import pytest

from .finished_study import make, run, study_in


@pytest.fixture(scope="session")
def measured(tmp_path_factory):
    """A study up to its metrics."""
    study = study_in(tmp_path_factory.mktemp("measured"))
    make(study)
    return study


@pytest.fixture(scope="session")
def finished(measured, tmp_path_factory):
    """A finished study: that one, with figures and report."""
    study = study_in(tmp_path_factory.mktemp("finished"))
    shutil.copytree(measured.root, study.root)
    run(study, ["figures"])
    return study
