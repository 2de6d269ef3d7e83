"""What the tests of reliability share."""

import pytest

from .finished_study import make, study_in


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished study; never changed, but copied."""
    study = study_in(tmp_path_factory.mktemp("finished"))
    make(study)
    return study
