"""The documentation site: `make docs`. Its source folder is the repository, so that links between pages, and to files
that are no pages, are the same on the site and on a git host; only the pages named by ``include_patterns`` are read."""

import importlib.util
import sys
from importlib.metadata import version as version_of
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util.fileutil import copy_asset_file

ROOT = Path(__file__).parents[1]

project = "emergent-equivariance"
author = "the authors of emergent-equivariance"
project_copyright = author
version = release = version_of(project)
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
nitpicky = True
suppress_warnings: list[str] = []

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]

# Markdown as git hosts read it
myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # notebooks are kept executed; a test runs them

# Formulas without a network: one file of MathJax, drawn as SVG, so that no fonts are loaded either
mathjax_path = "tex-svg.js"

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_additional_pages = {"index": "redirect.html"}
templates_path = ["_templates"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True, "top_of_page_buttons": []}
copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_numpy_docstring = False
napoleon_use_ivar = True


def copy_mathjax(app: Sphinx) -> None:
    """Put MathJax beside the pages."""
    package = importlib.util.find_spec("sphinx-mathjax-offline")
    assert package is not None and package.origin is not None
    copy_asset_file(Path(package.origin).parent / "static" / "mathjax" / "tex-svg.js", Path(app.outdir) / "_static")


def setup(app: Sphinx) -> None:
    app.connect("builder-inited", lambda app: (Path(app.outdir) / "_static").mkdir(parents=True, exist_ok=True))
    app.connect("builder-inited", copy_mathjax)
