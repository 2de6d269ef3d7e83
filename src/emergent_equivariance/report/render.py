"""From what a page says to its HTML: templates, style, script and charts in one file that needs nothing else."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..pages import sealed
from .content import Report, Section

#: Templates, style and script; and what each figure shows, as Snakemake's report says it too.
TEMPLATES, CAPTIONS = (Path(__file__).with_name(name) for name in ("templates", "captions"))


@dataclass(frozen=True)
class FigureFiles:
    """A figure as the page holds it.

    Attributes:
      name, title: its name, and what it is in a few words.
      caption: name of its file under CAPTIONS.
      alt: what it shows, for who does not see it.
      svg: the static picture.
      pdf: the same for print.
      csv: the numbers drawn.
      chart: the same numbers as a Vega-Lite specification; None: there is no interactive chart.
      said: the title of the picture and what it leaves out, which the chart does not say.
    """

    name: str
    title: str
    caption: str
    alt: str
    svg: bytes = field(repr=False)
    pdf: bytes = field(default=b"", repr=False)
    csv: bytes = field(default=b"", repr=False)
    chart: Mapping[str, Any] | None = field(default=None, repr=False)
    said: Sequence[str] = ()


def page(
    study: str,
    report: Report,
    sections: Sequence[Section],
    figures: Sequence[FigureFiles],
    checksum: str,
    configs: Mapping[str, Any],
) -> str:
    """The page as one HTML text, sealed with what it was made from. The same input gives the same text.

    Args:
      study: name of the study.
      sections: those of the report and of every page; those without blocks are left out.
      figures: every figure that the report and the sections name.
      checksum: of the metrics.nc that everything comes from.
      configs: ``light`` and ``dark`` → configuration of all charts.
    """
    from markupsafe import Markup

    charted = any(figure.chart for figure in figures)
    bundle, script = _bundle() if charted else "", (TEMPLATES / "report.js").read_text(encoding="utf-8")
    text = (
        _environment()
        .get_template("page.html.j2")
        .render(
            study=study,
            report=report,
            sections=[section for section in sections if section.blocks],
            figures={figure.name: _Shown(figure) for figure in figures},
            checksum=checksum,
            configs=configs,
            charted=charted,
            policy=_policy([bundle, script] if charted else [script]),
            css=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
            bundle=Markup(bundle),
            script=Markup(script),
        )
    )
    return sealed(text.encode()).decode()


class _Shown:
    """A figure with its caption as markup."""

    def __init__(self, figure: FigureFiles) -> None:
        self.__dict__.update(figure.__dict__)
        self.caption = caption(figure.caption)


@functools.cache
def _environment() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"prose": prose, "plain": plain, "data_uri": data_uri}
    return environment


@functools.cache
def _bundle() -> str:
    """Vega, Vega-Lite and vega-embed as one script without imports."""
    import vl_convert

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")


def _policy(scripts: Sequence[str]) -> str:
    """What a browser lets the page do: run these scripts, and show what is in it; ask nothing of the network."""
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts)
    allowed = " ".join(f"'sha256-{text}'" for text in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        "form-action 'none'"
    )


#: Marks of plain texts, see content.
_MARKS = (
    (re.compile(r"\*\*(.+?)\*\*"), r"<strong>\1</strong>"),
    (re.compile(r"`([^`]+)`"), r"<code>\1</code>"),
    (re.compile(r"(?<=[μΣσ])_t\b"), "<sub>t</sub>"),
)


def prose(text: str) -> Any:
    """A plain text as markup: escaped, its marks set."""
    from markupsafe import Markup, escape

    found = str(escape(text.replace(" ± ", "\u00a0±\u00a0")))
    for pattern, markup in _MARKS:
        found = pattern.sub(markup, found)
    return Markup(found)


def plain(text: str) -> str:
    """A text without its marks."""
    return re.sub(r"\*\*|`", "", text).replace("μ_t", "μₜ").replace("Σ_t", "Σₜ")


def data_uri(content: str | bytes, media_type: str) -> str:
    """Content as an address that holds it."""
    raw = content.encode() if isinstance(content, str) else content
    return f"data:{media_type};base64,{base64.b64encode(raw).decode()}"


@functools.cache
def caption(name: str) -> Any:
    """A caption as markup."""
    from docutils.core import publish_parts
    from markupsafe import Markup

    text = (CAPTIONS / name).read_text(encoding="utf-8")
    return Markup(publish_parts(text, writer="html5", settings_overrides={"halt_level": 2})["body"])
