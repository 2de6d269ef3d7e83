"""The documentation site: `make docs`. Its source folder is the repository, so that links between pages, and to files
that are no pages, are the same on the site and on a git host; only the pages named by ``include_patterns`` are read."""

import importlib.util
import re
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.ext.napoleon import Config, GoogleDocstring
from sphinx.util.fileutil import copy_asset_file

from emergent_equivariance import __version__

ROOT = Path(__file__).parents[1]

project = "emergent-equivariance"
author = "the authors of emergent-equivariance"
project_copyright = author
version = release = __version__
smartquotes = False  # options are written --so
html_title = "Emergent equivariance"

root_doc = "docs/index"
include_patterns = ["*.md", "config/*.md", "docs/**"]
exclude_patterns = ["docs/_build", "docs/images", "docs/_static", "docs/_templates", "**.ipynb_checkpoints"]
# the reader of patterns walks through every folder that is not excluded
exclude_patterns += [
    str(path.relative_to(ROOT))
    for path in ROOT.iterdir()
    if path.is_dir() and path.name not in ("config", "docs")
]  # fmt: skip

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
]

# Markdown as git hosts read it
myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # notebooks are kept executed; a test runs them

# Formulas without a network: one file of MathJax, drawn as SVG, so that no fonts are loaded either
mathjax_path = "tex-svg.js"
mathjax3_config = {"svg": {"scale": 0.9}}

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_additional_pages = {"index": "redirect.html"}
templates_path = ["_templates"]
html_copy_source = False
html_show_search_summary = False  # they are fetched, which browsers refuse from files
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True

autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
autodoc_preserve_defaults = True
add_module_names = False
python_maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"
SECTIONS = Config(napoleon_use_ivar=True, napoleon_use_rtype=False, napoleon_attr_annotations=False)


def copy_mathjax(app: Sphinx) -> None:
    """Put MathJax beside the pages."""
    package = importlib.util.find_spec("sphinx-mathjax-offline")
    assert package is not None and package.origin is not None
    static = Path(app.outdir) / "_static"
    static.mkdir(parents=True, exist_ok=True)
    copy_asset_file(Path(package.origin).parent / "static" / "mathjax" / "tex-svg.js", static)


#: What reStructuredText would read as markup; and docstrings' ``code`` and blocks of formulas, which it shall.
MARKUP = re.compile(r"[\\*|]|_(?!\w)|`(?!`)")
CODE = re.compile(r"(``.+?``)", re.DOTALL)
FORMULAS = re.compile(r"(?<=\n\n)((?:  +.*\n|\n)+)(?=\S|\Z)")


def read_docstring(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with Google's sections, ``code`` and indented formulas."""
    blocks = FORMULAS.split("\n".join(lines))
    for place, block in enumerate(blocks):
        if place % 2:
            blocks[place] = ".. code-block:: text\n\n" + block
        else:
            pieces = CODE.split(block)
            blocks[place] = "".join(
                piece if at % 2 else MARKUP.sub(r"\\\g<0>", piece) for at, piece in enumerate(pieces)
            )
    text = "".join(blocks)
    if what not in ("attribute", "data", "property"):  # there the first colon would be read as the end of a type
        text = str(GoogleDocstring(text, SECTIONS, what=what, name=name, obj=obj, options=options))
    lines[:] = text.split("\n")


def skip_constants(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Of a module its functions and classes are shown, not its constants."""
    return True if what == "module" and not callable(obj) else None


def read_fields(app: Sphinx, doctree: nodes.document) -> None:
    """Between a parameter and its meaning stands a colon."""
    for text in list(doctree.findall(nodes.Text)):
        if text == " -- ":
            text.parent.replace(text, nodes.Text(": "))


def setup(app: Sphinx) -> None:
    app.connect("builder-inited", copy_mathjax)
    app.connect("autodoc-process-docstring", read_docstring)
    app.connect("autodoc-skip-member", skip_constants)
    app.connect("doctree-read", read_fields)
