"""Studies of kernels: nothing is trained, each arm is one measurement.

One module per kind, all with the same functions:

- measure(settings, data, *, kernels, progress) → Dataset: the store of one arm; kernels is the assembled store of tiles
  where the study has one;
- join(study, datasets) → Dataset: metrics.nc, from the stores of all arms in the order of the study;
- tables(study, metrics) → {name: DataFrame}: tables/NAME.csv;
- content(study, metrics) → report.content.Report: what the report says.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

#: Kind of study → module.
MODULES = {"kernel_convergence": "convergence", "kernel_regression": "regression"}


def get_measure(kind: str) -> ModuleType:
    """The module of a kind of study; imported here, because it needs heavy libraries."""
    return import_module(f"{__name__}.{MODULES[kind]}")
