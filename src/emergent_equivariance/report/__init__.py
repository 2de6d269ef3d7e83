"""The report of a study: one page that says what was found, shows it, and says how to find it again.

content: what a page consists of. numbers: the table of key numbers. ensemble, solutions: what is said of ensembles; of
studies of kernels measures/ says it. shared: what is said of every study. render: the page itself, in HTML.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .numbers import key_numbers, why_no_covariance, why_no_mean
from .render import FigureFiles

if TYPE_CHECKING:
    import xarray as xr

    from ..study import Study

__all__ = ["FigureFiles", "figure_files", "key_numbers", "report_html", "why_no_covariance", "why_no_mean"]

#: Points of a figure above which the page shows its static picture only: charts are the larger part of the page.
CHARTED = 5000


def report_html(study: Study, metrics: xr.Dataset, figures: Sequence[FigureFiles]) -> str:
    """The page as one self-contained HTML text. The same input gives the same text.

    Args:
      study: the study.
      metrics: its metrics.nc; every number comes from it.
      figures: every figure of the study, see figure_files.

    Raises StudyError if the metrics hold an arm that the study does not have.
    """
    from dataclasses import replace

    from ..figures.interactive import chart_config
    from .render import page
    from .shared import further, provenance, reproduce, settings, substitute_words

    if study.kind == "ensemble":
        from .ensemble import content
    else:
        from ..measures import get_measure

        content = get_measure(study.kind).content
    report = content(study, metrics)
    report = replace(report, remarks=[*substitute_words(metrics), *report.remarks])
    sections = [
        *report.sections,
        further(report, [figure.name for figure in figures]),
        provenance(metrics),
        settings(study),
        reproduce(study, metrics),
    ]
    configs = {"light": chart_config(dark=False), "dark": chart_config(dark=True)}
    return page(study.name, report, sections, figures, metrics.attrs.get("checksum", ""), configs)


def figure_files(study: Study, metrics: xr.Dataset) -> list[FigureFiles]:
    """The figures of a study as ``figures.draw_all`` wrote them, with charts of the same numbers.

    Raises FileNotFoundError if one is not there.
    """
    from ..figures import FIGURES, figure_data, figure_names
    from ..figures.data import alt_text
    from ..figures.interactive import chart

    result = []
    for name in figure_names(study):
        table = figure_data(name, metrics)
        svg, pdf, csv = ((study.figures_folder / f"{name}.{suffix}").read_bytes() for suffix in ("svg", "pdf", "csv"))
        picture = FIGURES[name]
        spec = chart(table) if 0 < len(table) <= CHARTED else None
        said = [table.attrs["title"], *table.attrs["notes"]]
        result.append(FigureFiles(name, picture.title, picture.caption, alt_text(table), svg, pdf, csv, spec, said))
    return result
