from __future__ import annotations

import re
from dataclasses import replace
from itertools import permutations

from matplotlib.collections import QuadMesh
from metatuner.envs.transfer import POLICY, RANDOM, RULE, TPE, Interval, Transfer, TransferCurve, TransferPair
from metatuner.tracking.transfer_plots import matrix_figure, transfer_figure
from metatuner.tracking.transfer_report import transfer_page


def pair(past: str, target: str, gain: float, significant: bool = True) -> TransferPair:
    return TransferPair(past, target, Interval(gain, gain - 0.1, gain + 0.1), gain / 4, 0.01, 0.25, significant)


def transfer(count: int = 3, sample: int = 3) -> Transfer:
    names = tuple(f"task <{i}>" for i in range(count))
    some = Interval(0.5, 0.4, 0.6)
    ways = [(POLICY, 0), (POLICY, 1), (POLICY, count - 1), (RULE, count - 1), (RULE, 0), (TPE, 0), (RANDOM, 0)]
    curves = tuple(TransferCurve(who, past, (some,) * 12, some, some) for who, past in ways)
    pairs = tuple(pair(*two, gain=-0.5 if two[0] == names[0] else 0.5) for two in permutations(names[:sample], 2))
    together = tuple(pair("all others", name, 0.1, False) for name in names)
    return Transfer("mine", names, names[:sample], 12, 2, 0, 0.95, curves, pairs, together)


def test_the_page_stands_alone_and_tells_what_harms() -> None:
    shown = transfer_page(transfer(), "table:<past>.csv")
    assert "<script" not in shown and "<past>" not in shown and "task <" not in shown
    assert not re.search(r'(src|href)="(?!#)', shown)
    assert shown.count("<td>negative</td>") == 2
    assert "2 of 6 pairs are negative transfer, 4 a gain" in shown
    assert "corrected for 6 pairs" in shown
    for words in ("zero-shot", "few-shot, 1 past task<", "few-shot, 2 past tasks", "TPE", "random search", "after 10"):
        assert words in shown


def test_a_sample_and_no_harm_are_said_to_be_so() -> None:
    whole = transfer(30, 3)
    harmless = replace(whole, pairs=tuple(each for each in whole.pairs if each.better))
    shown = transfer_page(harmless, "mlflow:x")
    assert "a random sample of 3 of the 30 tasks" in shown
    assert "No pair is flagged" in shown


def test_the_matrix_is_symmetric_about_nothing_and_marks_pairs() -> None:
    (panel, _) = matrix_figure(transfer()).axes
    (cells,) = [each for each in panel.collections if isinstance(each, QuadMesh)]
    assert cells.get_clim() == (-0.5, 0.5)
    assert [text.get_text() for text in panel.texts].count("-0.50") == 2
    assert sorted(line.get_marker() for line in panel.lines) == ["^"] * 4 + ["v"] * 2
    assert panel.get_xlabel() == "task that was searched"


def test_curves_have_names_and_bands() -> None:
    left, right = transfer_figure(transfer()).axes
    assert [text.get_text() for text in left.get_legend().get_texts()] == [
        "zero-shot",
        "few-shot, 1 past task",
        "few-shot, 2 past tasks",
    ]
    assert len(right.lines) == len(right.collections) == 6
