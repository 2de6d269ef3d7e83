"""Values from the literature in metrics.nc, of either kind of study."""

from __future__ import annotations

from collections.abc import Iterable

from xarray import Dataset

from ..settings import Section


def with_published(result: Dataset, published: Iterable[Section], words: str) -> Dataset:
    """``result`` with published_value(published), in ``words``, and a coordinate published_NAME of every other field.

    Args:
      published: entries of one kind, of all arms; each is kept once. None: ``result`` as it is.
    """
    entries = [entry.model_dump() for entry in dict.fromkeys(published)]
    if not entries:
        return result
    columns = {f"published_{name}": ("published", [entry[name] for entry in entries]) for name in entries[0]}
    result["published_value"] = (*columns.pop("published_value"), {"long_name": words})
    return result.assign_coords(columns)
