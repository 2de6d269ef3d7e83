"""What a report page consists of, without any markup.

Texts are plain, with three marks that the page sets: ``**bold**``, `` `code` `` and ``_t`` after μ or Σ. Whatever a
user wrote is quoted as it is; the page escapes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import numpy as np

from ..figures.words import number

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Text:
    """A paragraph; ``note``: set smaller."""

    text: str
    note: bool = False
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    text: str
    kind: ClassVar[str] = "heading"


@dataclass(frozen=True)
class Points:
    """A list of sentences."""

    items: Sequence[str]
    kind: ClassVar[str] = "points"


@dataclass(frozen=True)
class Code:
    """Lines to be read or copied as they are.

    Attributes:
      text: the lines.
      title: what they are; given, they are folded away under it.
      file: name under which they can be saved; empty: they cannot.
    """

    text: str
    title: str = ""
    file: str = ""
    kind: ClassVar[str] = "code"


@dataclass(frozen=True)
class Picture:
    """A figure of the study, by its name."""

    name: str
    kind: ClassVar[str] = "figure"


class Cell(NamedTuple):
    """A cell of a table: what is read, and by which number it is sorted (None: by what is read)."""

    text: str
    value: float | None = None


def cell(value: float, error: float = np.nan) -> Cell:
    """A number with its standard error; not a number sorts last."""
    return Cell(number(value, error, compact=True), float(value) if np.isfinite(value) else np.nan)


@dataclass(frozen=True)
class Table:
    """A sortable table.

    Attributes:
      name: of the file its data are saved as, without ending.
      title: its caption.
      heads: heading of each column.
      rows: the cells; a text is a cell that is sorted as text, an integer one that is sorted as a number.
      data: what is saved, in full precision.
    """

    name: str
    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Cell | str | int]]
    data: pd.DataFrame = field(repr=False)
    kind: ClassVar[str] = "table"

    @cached_property
    def cells(self) -> list[list[Cell]]:
        """All cells as such."""
        return [[_as_cell(value) for value in row] for row in self.rows]

    @cached_property
    def numeric(self) -> list[bool]:
        """Which columns are of numbers."""
        return [all(row[k].value is not None for row in self.cells) for k in range(len(self.heads))]


def _as_cell(value: Cell | str | int) -> Cell:
    if isinstance(value, Cell):
        return value
    return Cell(value) if isinstance(value, str) else Cell(str(value), float(value))


Block = Text | Heading | Points | Code | Picture | Table


@dataclass(frozen=True)
class Section:
    """A part of the page: its anchor, its heading and what stands in it; without blocks it is left out."""

    anchor: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Report:
    """What a page says.

    Attributes:
      title: heading of the page, after the name of the study.
      claim: the result in one sentence.
      remarks: what must be known before the claim is believed (substitute data, missing members), and what its words
        mean.
      key_figure: name of the figure that shows the claim.
      sections: the rest.
    """

    title: str
    claim: str
    remarks: Sequence[Block]
    key_figure: str
    sections: Sequence[Section]


def pictures(names: Iterable[str], there: Sequence[str]) -> list[Block]:
    """The figures of these names that the study has."""
    return [Picture(name) for name in names if name in there]


def points(items: Iterable[str]) -> list[Block]:
    """A list of sentences, or nothing if there is none."""
    found = list(items)
    return [Points(found)] if found else []


def named(values: Mapping[str, int]) -> str:
    """``a: 2, b: 1``, for those that are not 0."""
    return ", ".join(f"{name}: {value}" for name, value in values.items() if value)
