"""The report on what carries over from past tasks: one page, see `html_page`."""

from __future__ import annotations

from collections.abc import Sequence

from ..envs.transfer import Transfer, TransferPair
from .html_page import heading, page, paragraph, picture, table
from .transfer_plots import matrix_figure, transfer_figure

_MOST_ROWS = 30


def transfer_page(transfer: Transfer, address: str) -> str:
    """The report as an HTML file that stands alone.

    Args:
        transfer: What was measured.
        address: Where the past tasks came from, such as "table:past.csv".
    """
    return page(
        f"How well {transfer.policy} carries over",
        [
            paragraph(_how(transfer, address)),
            *(paragraph(line[0].upper() + line[1:] + ".") for line in transfer.verdict),
            heading("Regret by number of trials"),
            picture(transfer_figure(transfer), "Normalised regret by number of trials, with intervals"),
            paragraph(
                "0 is the best configuration that is known of a task, 1 the median trial of its history. Zero-shot is "
                "the policy without any past task, few-shot the policy with as many of the other tasks as it says, "
                "drawn anew for each search; the surrogate alone is the rule from which the policy's learning began."
            ),
            curve_table(transfer),
            heading("From task to task"),
            picture(matrix_figure(transfer), "Gain on each task where one other task is its past"),
            paragraph(_sampled(transfer) + transfer.rule + " ▲ marks a gain, ▼ a loss."),
            *_negative(transfer),
            heading("All other tasks as the past"),
            paragraph(
                "A search does not believe its past blindly: how likely past tasks mislead is first told by how often "
                "they mislead each other, then by how much likelier they make what was seen, and as large a share of "
                "the budget as there is doubt is spent without them. The last columns tell the share of moves for "
                "which the past had no say, and what the gain or loss is after the last trial."
            ),
            pair_table(sorted(transfer.together, key=lambda pair: pair.gain.mean)),
        ],
    )


def curve_table(transfer: Transfer) -> str:
    """Regrets of every way to search, at a few numbers of trials and over all."""
    shown = _shown(transfer.trials)
    columns = ["search", *(f"after {n}" for n in shown), "over all", "gain over zero-shot"]
    rows = [
        [curve.label, *(curve.regrets[n - 1].mean for n in shown), curve.average, curve.gain]
        for curve in transfer.curves
    ]
    return table(columns, rows)


def pair_table(pairs: Sequence[TransferPair]) -> str:
    """What pasts do to tasks."""
    columns = ["past", "task", "gain", "p, corrected", "transfer", "without a say", "gain after the last trial"]
    rows = [
        [
            pair.past,
            pair.target,
            pair.gain,
            pair.p,
            "negative" if pair.worse else "positive" if pair.better else "",
            f"{pair.doubted:.0%}",
            pair.last_gain,
        ]
        for pair in pairs
    ]
    return table(columns, rows)


def _shown(trials: int) -> list[int]:
    """Numbers of trials to tell in a table: 1, 2, 5, 10, 20 ... and the last one."""
    nice = [base * 10**power for power in range(len(str(trials))) for base in (1, 2, 5)]
    return [n for n in nice if n < trials] + [trials]


def _how(transfer: Transfer, address: str) -> str:
    return (
        f"Each of {len(transfer.tasks)} past tasks of {address} was left out in turn, replayed as the Gaussian process "
        f"of its trials, and searched {transfer.repeats} times in each way, with {transfer.trials} trials and the same "
        f"seeds (from {transfer.seed}). Intervals have a confidence of {transfer.confidence:.0%}; those of means over "
        "tasks are bootstrapped over tasks and searches. A gain is the fall of the mean regret over all numbers of "
        "trials."
    )


def _sampled(transfer: Transfer) -> str:
    if len(transfer.sample) == len(transfer.tasks):
        return ""
    return f"The matrix shows a random sample of {len(transfer.sample)} of the {len(transfer.tasks)} tasks. "


def _negative(transfer: Transfer) -> list[str]:
    if not transfer.negative:
        return [paragraph("No pair is flagged as negative transfer.")]
    more = len(transfer.negative) - _MOST_ROWS
    shown = pair_table(transfer.negative[:_MOST_ROWS])
    told = paragraph(f"{len(transfer.negative)} pairs of negative transfer, the worst first:")
    return [told, shown, *([paragraph(f"and {more} more")] if more > 0 else [])]
