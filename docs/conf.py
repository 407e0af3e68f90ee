"""How the documentation becomes a site: `make docs`.

Sphinx's source is the repository, not this folder, so that links from here to experiments and the changelog are the
same on the site as where the files are read as they are.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import metatuner

if TYPE_CHECKING:
    from sphinx.application import Sphinx

project = "metatuner"
author = "the metatuner authors"
version = release = metatuner.__version__
copyright = "the metatuner authors, Apache-2.0"  # noqa: A001 - Sphinx's name

root_doc = "docs/index"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
include_patterns = ["docs/**.md", "experiments/*/README.md", "experiments/**/table*.md", "CHANGELOG.md", "SECURITY.md"]
# Hidden folders first: .typing links back to the root, and .venv is large.
exclude_patterns = ["**/.*", ".*", "agent", "build", "cli", "dist", "docs/_build", "envs", "tests", "tracking"]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

default_role = "code"  # docstrings have single backticks
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # signatures of schedules are long, and what a type means is told in words
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"metatuner {release}"
html_copy_source = False
html_show_sphinx = False
html_static_path = ["static"]
html_css_files = ["site.css"]
copybutton_exclude = ".linenos, .gp, .go"  # prompts and what is printed are not copied

_ROOT = Path(__file__).resolve().parent.parent
_LINK = re.compile(r"(?<=\]\()([^)#:\s]+)(?=\))")


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _open_folders)
    app.connect("build-finished", _lead_to_the_first_page)


def _open_folders(app: Sphinx, name: str, source: list[str]) -> None:
    """A link to a folder leads to its README, as it does where folders are shown with theirs."""
    folder = (_ROOT / name).parent

    def opened(link: re.Match[str]) -> str:
        is_page = (folder / link[1] / "README.md").is_file()
        return f"{link[1].rstrip('/')}/README.md" if is_page else link[1]

    source[0] = _LINK.sub(opened, source[0])
    if Path(name).name.startswith("table"):
        # A script's table, to which its README leads: a page needs a title.
        source[0] = f"---\norphan: true\n---\n\n# Figures of {folder.name}\n\n" + source[0].replace("###", "##")
    # Sphinx cannot have links to files in the headings that it lists.
    source[0] = re.sub(r"^#.*", lambda heading: re.sub(r"\[(.*?)\]\(.*?\)", r"\1", heading[0]), source[0], flags=re.M)


def _lead_to_the_first_page(app: Sphinx, error: Exception | None) -> None:
    """Whoever opens the site's folder comes to its first page."""
    if error is None:
        (Path(app.outdir) / "index.html").write_text('<meta http-equiv="refresh" content="0; url=docs/index.html">\n')
