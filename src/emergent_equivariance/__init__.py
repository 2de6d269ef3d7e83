"""Emergent equivariance of deep ensembles, measured against the analytic NTK mean.

``open_study("results/ising")`` gives the results of a study as labelled datasets; docs/python.md shows this and how the
functions behind the workflow are used by themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .results import Results, open_study

__all__ = ["Results", "__version__", "open_study"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """``open_study`` and ``Results``, imported when they are asked for: the package itself imports nothing."""
    if name in ("Results", "open_study"):
        from . import results

        return getattr(results, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
