"""The longest files come first: a file is one worker's, and none should be left with one at the end.

Only the tests of tests/slurm know a cluster, their own. Snakemake's SLURM plugin asks ``scontrol`` whenever it is
imported, and waits nine seconds for a controller that a slurm.conf of this machine names and that does not answer.
"""

import os

os.environ["SLURM_CONF"] = os.devnull

FIRST = ("workflow", "slurm", "reliability")


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: not any(f"tests/{folder}/" in item.nodeid for folder in FIRST))
