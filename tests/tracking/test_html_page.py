"""Pages that stand alone."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

from matplotlib.figure import Figure
from metatuner.tracking.drawing import new_figure
from metatuner.tracking.html_page import bullets, folded, heading, page, pairs, paragraph, picture, table, verbatim


def _figure() -> Figure:
    figure = new_figure(4, 3)
    figure.subplots().plot([1, 2], [2, 1], "o-", label="a <b>")
    return figure


def test_a_page_fetches_nothing_and_runs_nothing() -> None:
    shown = page("t", [picture(_figure(), "c"), table(["a"], [["b"]])])
    assert "<script" not in shown
    assert not re.search(r'(src|href)="(?!#)', shown)


def test_text_is_text() -> None:
    evil = '<img src=x onerror=alert(1)> & "quotes"'
    shown = page(evil, [heading(evil), paragraph(evil), table([evil], [[evil]]), picture(_figure(), evil)])
    assert "<img" not in shown


def test_figures_are_whole_vectors_and_do_not_change_by_themselves() -> None:
    first, second = picture(_figure(), "Loss by epoch"), picture(_figure(), "Loss by epoch")
    assert first == second
    svg = first[first.index("<svg") : first.index("</svg>") + 6]
    assert ElementTree.fromstring(svg).attrib["aria-label"] == "Loss by epoch"


def test_numbers_are_short() -> None:
    assert "<td>0.3333</td><td>7</td>" in table(["a", "b", "c"], [["x", 1 / 3, 7]])


def test_lists_commands_and_what_is_folded_are_text_too() -> None:
    evil = "<b>&"
    shown = folded(evil, [bullets([evil]), verbatim(evil), pairs({evil: evil})])
    assert "<b>" not in shown and shown.count("&lt;b&gt;&amp;") == 5
    assert shown.startswith("<details><summary>") and "<details open" not in shown


def test_letters_that_no_font_has_here_are_kept() -> None:
    figure = new_figure(4, 3)
    figure.subplots().set_xlabel("中文 <x>")
    assert "中文 &lt;x&gt;" in picture(figure, "c")
