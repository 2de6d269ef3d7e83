"""Report pages for tests, with pictures that show nothing, and what a reader sees of them."""

from __future__ import annotations

import html
import re

from emergent_equivariance.figures import FIGURES, figure_names
from emergent_equivariance.report import FigureFiles, report_html

SVG = b"<svg xmlns='http://www.w3.org/2000/svg' width='40' height='30'><rect width='40' height='30' fill='#ccc'/></svg>"


def blank_figures(study):
    """Every figure of the study, without charts."""
    return [
        FigureFiles(name, FIGURES[name].title, FIGURES[name].caption, f"{name} in words", SVG, b"%PDF-", b"x,y\n1,2\n")
        for name in figure_names(study)
    ]


def page(study, metrics):
    """The page of a study, as HTML."""
    return report_html(study, metrics, blank_figures(study))


def plain(text):
    """What is read on a page, one line per paragraph, point or cell."""
    body = re.sub(r"<(style|script)\b.*?</\1>|<head>.*?</head>", "", text, flags=re.DOTALL)
    return html.unescape(re.sub(r"<[^>]+>", "", body))


def words(study, metrics):
    """What is read on the page of a study."""
    return plain(page(study, metrics))


def claimed(text):
    """What is read of a page above its key figure: heading, claim and remarks."""
    return plain(text.split('<section id="key-figure"')[0])
