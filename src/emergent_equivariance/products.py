"""What is made of metrics.nc in every kind of study: the plain tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .study import Study

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr


def tables(study: Study, joined: xr.Dataset) -> dict[str, pd.DataFrame]:
    """Name → table; the same input gives the same tables.

    Args:
      study: the study.
      joined: its metrics.nc.
    """
    if study.kind != "ensemble":
        from .measures import get_measure

        return get_measure(study.kind).tables(study, joined)
    from .report import key_numbers
    from .summary import tables

    return {**tables(joined), "key_numbers": key_numbers(study, joined)}
