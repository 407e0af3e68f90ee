"""A page that stands alone: text, tables and figures in one HTML file, with no script and nothing to fetch.

It can be mailed, kept as an artifact of a run, and read on a telephone.
"""

from __future__ import annotations

import html
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 0 auto; padding: 1rem; }
h1 { font-size: 1.5rem; line-height: 1.25; } h2 { font-size: 1.15rem; margin-top: 2rem; }
h1, h2, p { overflow-wrap: anywhere; }
figure { margin: 1rem 0; background: white; color: black; overflow-x: auto; }
figure svg { display: block; width: 100%; min-width: 26rem; height: auto; }
figure svg text { white-space: pre; }
figcaption { padding: .25rem .5rem; font-size: .9rem; }
.wide { overflow-x: auto; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; padding: .5rem .75rem; background: #8881; font-size: .85rem; }
li { overflow-wrap: anywhere; margin: .3rem 0; } ul { padding-left: 1.25rem; }
details { margin: .75rem 0; } summary { cursor: pointer; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #8884; min-width: 3rem; }
th:first-child, td:first-child, .pairs td { text-align: left; }
.wide th, .wide td { white-space: nowrap; overflow-wrap: normal; }
.wide th:first-child, .wide td:first-child { white-space: normal; overflow-wrap: break-word; min-width: 7rem; }
.pairs th { font-weight: normal; opacity: .75; vertical-align: top; }
""".strip()


def page(title: str, parts: Sequence[str]) -> str:
    """The whole file.

    Args:
        title: Its title and first heading, as plain text.
        parts: What stands on it, each made by a function of this module.
    """
    shown = html.escape(title)
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{shown}</title>\n<style>\n{_STYLE}\n</style>\n</head>\n<body>\n<h1>{shown}</h1>\n{body}\n</body>\n</html>\n"
    )


def heading(text: str) -> str:
    """A heading, of plain text."""
    return f"<h2>{html.escape(text)}</h2>"


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{html.escape(text)}</p>"


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table; one that is too wide for the screen scrolls by itself.

    Args:
        columns: Its heads.
        rows: Cells for each row, as many as there are columns; the first one names the row. A float is shown with
            four digits.
    """
    head = "".join(f'<th scope="col">{html.escape(column)}</th>' for column in columns)
    lines = ["".join(f"<td>{html.escape(_cell(value))}</td>" for value in row) for row in rows]
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def pairs(rows: Mapping[str, str]) -> str:
    """Names, each with what belongs to it, as plain texts."""
    lines = "\n".join(
        f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(text)}</td></tr>' for name, text in rows.items()
    )
    return f'<table class="pairs">\n<tbody>\n{lines}\n</tbody>\n</table>'


def bullets(items: Sequence[str]) -> str:
    """A list, of plain texts."""
    lines = "\n".join(f"<li>{html.escape(item)}</li>" for item in items)
    return f"<ul>\n{lines}\n</ul>"


def verbatim(text: str) -> str:
    """Plain text with its own lines, such as a command or Markdown."""
    return f"<pre>{html.escape(text)}</pre>"


def folded(summary: str, parts: Sequence[str]) -> str:
    """What is seen only when it is asked for.

    Args:
        summary: What it is, as plain text; a press on it unfolds the parts.
        parts: Each made by a function of this module.
    """
    inside = "\n".join(parts)
    return f"<details><summary>{html.escape(summary)}</summary>\n{inside}\n</details>"


def picture(figure: Figure, caption: str) -> str:
    """A figure of matplotlib, drawn as vectors.

    Args:
        figure: The figure.
        caption: What it shows, as plain text; also what a screen reader says.
    """
    from matplotlib import rc_context

    drawn = io.StringIO()
    # Marks and clips are named after their look, not after a random number: the same figure gives the same file. Text
    # stays text, which a reader can search and copy, and whose letters need not be in a font of this machine.
    with rc_context({"svg.hashsalt": "metatuner", "svg.fonttype": "none"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
    svg = re.sub(r"^.*?(?=<svg)", "", drawn.getvalue(), count=1, flags=re.DOTALL)
    said = html.escape(caption, quote=True)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{said}" ', 1)
    return f"<figure>\n{svg}<figcaption>{html.escape(caption)}</figcaption>\n</figure>"


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
