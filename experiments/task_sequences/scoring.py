"""What a prior saves: full trainings until a search is as good as another is with its whole budget.

There are two such levels: the search without a prior, which is then judged by its own best, and random search, which is
neither of the two that are compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

DRAWS = 10_000

Array = NDArray[np.float64]
Run = Mapping[str, Any]

ARMS: Mapping[str, tuple[str, int]] = {
    "policy, prior from 3 tasks": ("policy", 4),
    "policy, no prior": ("policy", 1),
    "portfolio from the same 3 tasks": ("portfolio", 4),
    "random search": ("random", 1),
    "TPE": ("tpe", 1),
    "Hyperband": ("hyperband", 1),
}
"""Strategies by name, and how many tasks each is told of, plus one."""


@dataclass(frozen=True)
class Arm:
    """A way to search, on every pair of a task and a seed.

    Attributes:
        costs: Full trainings until it was as good as the search without a prior in the end; infinite where never.
        begun: Configurations that it began until then; infinite where never.
        easier: Full trainings until it was as good as random search in the end; infinite where never.
        losses: The best validation loss that it found, as a ratio to that of the search without a prior.
        tests: The test loss of that configuration, likewise.
        curves: The best validation loss after each unit, as such a ratio; infinite before any training finished. Shape
            (pairs, units).
    """

    costs: Array
    begun: Array
    easier: Array
    losses: Array
    tests: Array
    curves: Array


@dataclass(frozen=True)
class Scores:
    """An example's scores.

    Attributes:
        arms: On the fourth task, by name.
        places: The policy by place in the order, 1 to 4: the first has no prior.
        budget: Full trainings that each search may spend.
    """

    arms: Mapping[str, Arm]
    places: Mapping[int, Arm]
    budget: int

    @classmethod
    def of(cls, runs: Sequence[Run], budget: int, units: int) -> Scores:
        """Scores of all runs of an example."""
        # The last training may end a little after the budget has: that is too late.
        runs = [{**run, "finished": [each for each in run["finished"] if each[0] <= budget * units]} for run in runs]
        alone, random = (
            {(run["task"], run["seed"]): run for run in runs if (run["strategy"], run["place"]) == (strategy, 1)}
            for strategy in ("policy", "random")
        )

        def arm(strategy: str, place: int) -> Arm:
            chosen = [run for run in runs if (run["strategy"], run["place"]) == (strategy, place)]
            chosen.sort(key=lambda run: (run["task"], run["seed"]))
            pairs = [(run, alone[run["task"], run["seed"]]) for run in chosen]
            spent = [_reached(run, _best(other)) for run, other in pairs]
            return Arm(
                np.array(spent) / units,
                np.array([_begun(run, each) for (run, _), each in zip(pairs, spent, strict=True)]),
                np.array([_reached(run, _best(random[run["task"], run["seed"]])) for run in chosen]) / units,
                np.array([_over(_best(run), _best(other)) for run, other in pairs]),
                np.array([_over(run["test"], other["test"]) for run, other in pairs]),
                np.array([_over(_curve(run, budget * units), _best(other)) for run, other in pairs]),
            )

        return cls(
            {name: arm(*each) for name, each in ARMS.items()},
            {place: arm("policy", place) for place in range(1, 5)},
            budget,
        )

    def table(self) -> str:
        """Markdown."""
        lines = [
            "| fourth task | full trainings until as good as without a prior | configurations begun until then | as "
            f"good within {self.budget} | best validation loss, ratio | its test loss, ratio | full trainings until as "
            "good as random search |",
            "|---|---|---|---|---|---|---|",
        ]
        for name, arm in self.arms.items():
            cells = [
                name,
                self._interval(arm.costs, 1),
                self._interval(arm.begun, 0),
                f"{np.isfinite(arm.costs).sum()} of {len(arm.costs)}",
                self._interval(arm.losses, 2),
                self._interval(arm.tests, 2),
                self._interval(arm.easier, 1),
            ]
            lines.append(f"| {' | '.join(cells)} |")
        told, alone = self.arms["policy, prior from 3 tasks"], self.arms["policy, no prior"]
        for level, ours, theirs in (("no prior", told.costs, alone.costs), ("random", told.easier, alone.easier)):
            sooner, later = (ours < theirs).sum(), (ours > theirs).sum()
            lines += ["", f"As good as {level}: with a prior sooner on {sooner}, later on {later} of {len(ours)}."]
            by_place = [
                f"{place}: {self._interval(arm.easier if level == 'random' else arm.costs, 1)}"
                for place, arm in self.places.items()
            ]
            lines.append(f"By place in the order: {', '.join(by_place)}.")
        return "\n".join(lines)

    def _interval(self, values: Array, digits: int) -> str:
        low, high = bootstrap(values)
        middle, low, high = (
            f"{each:.{digits}f}" if np.isfinite(each) else "never" for each in (median(values), low, high)
        )
        return f"{middle} ({low} to {high})"


def by_budget(whole: Sequence[Run], runs: Sequence[Run], budgets: Sequence[int], units: int) -> str:
    """What searches of the fourth task find with each budget, as Markdown.

    Args:
        whole: Runs of `run.py`: what random search found there with all of its budget is the level.
        runs: Other searches, `budget` being what each could spend. Strategies that do not depend on it have one run
            alone, and have found with less what it had finished by then.
        budgets: Full trainings, rising.
        units: Parts of a full training.
    """
    most = budgets[-1] * units
    levels = {(run["task"], run["seed"]): _within(run, most) for run in whole if run["strategy"] == "random"}
    lines = [
        f"| best validation loss, over random search's with {budgets[-1]} | "
        f"{' | '.join(f'B = {budget}' for budget in budgets)} |",
        f"|---|{'---|' * len(budgets)}",
    ]
    for name, (strategy, place) in ARMS.items():
        chosen = [run for run in runs if (run["strategy"], run["place"]) == (strategy, place)]
        cells = [_of_budget(chosen, levels, budget, units) for budget in budgets] if chosen else []
        lines += [f"| {' | '.join([name, *cells])} |"] if cells else []
    return "\n".join(lines)


def _of_budget(runs: Sequence[Run], levels: Mapping[tuple[str, int], float], budget: int, units: int) -> str:
    least = min(run["budget"] for run in runs if run["budget"] >= budget)
    ratios: dict[tuple[str, int], list[float]] = {}
    for run in runs:
        if run["budget"] == least:
            pair = run["task"], run["seed"]
            ratios.setdefault(pair, []).append(float(_over(_within(run, budget * units), levels[pair])))
    of_pair = np.array(list(ratios.values()))
    drawn = np.random.default_rng(0).integers(len(of_pair), size=(DRAWS, len(of_pair)))
    low, high = np.quantile(median(of_pair[drawn].reshape(DRAWS, -1), axis=1), [0.025, 0.975], method="inverted_cdf")
    return f"{median(of_pair):.2f} ({low:.2f} to {high:.2f}), {(of_pair <= 1).sum()} of {of_pair.size}"


def median(values: Array, axis: int | None = None) -> Any:
    """The lower median, which may be infinite."""
    return np.quantile(values, 0.5, axis=axis, method="inverted_cdf")


def bootstrap(values: Array) -> tuple[float, float]:
    """A 95 % interval of the median, over pairs of a task and a seed."""
    drawn = np.random.default_rng(0).integers(len(values), size=(DRAWS, len(values)))
    low, high = np.quantile(median(values[drawn], axis=1), [0.025, 0.975], method="inverted_cdf")
    return float(low), float(high)


def plot(found: Mapping[str, Scores], path: Path) -> None:
    """On the left the best loss so far on the fourth task, on the right what each place in the order costs."""
    figure = Figure(figsize=(11, 3.6 * len(found)), layout="constrained")
    colours = ("#0072B2", "#D55E00", "#56B4E9", "#999999", "#CC79A7", "#009E73")
    for (name, scores), (left, right) in zip(found.items(), figure.subplots(len(found), 2, squeeze=False), strict=True):
        for (arm, of_arm), colour in zip(scores.arms.items(), colours, strict=True):
            medians = median(of_arm.curves, axis=0)
            spent = np.arange(1, len(medians) + 1) * scores.budget / len(medians)
            wide = 2.5 if arm.startswith("policy") else 1.2
            left.plot(spent, np.where(np.isfinite(medians), medians, np.nan), color=colour, label=arm, linewidth=wide)
        left.axhline(1, color="black", linewidth=0.8, linestyle=":")
        left.set(title=f"{name}: the fourth task", xlabel="full trainings spent", ylabel="best validation loss, ratio")
        left.set_yscale("log")
        left.set_yticks(ticks := [1, 1.2, 1.5, 2, 3, 4], [str(tick) for tick in ticks])
        left.minorticks_off()
        left.set_ylim(0.9, 4)
        left.legend(fontsize=8)
        for place, arm_there in scores.places.items():
            costs = arm_there.easier
            # What never got there is drawn above the budget.
            heights = np.where(np.isfinite(costs), costs, scores.budget + 1)
            jitter = np.random.default_rng(place).uniform(-0.15, 0.15, len(costs))
            right.plot(place + jitter, heights, "o", color="#999999", alpha=0.6, markersize=4)
            centre, (low, high) = median(costs), bootstrap(costs)
            low, centre, high = (min(each, scores.budget + 1) for each in (low, centre, high))
            right.errorbar(place, centre, [[centre - low], [high - centre]], fmt="s", color="#0072B2", capsize=5)
        right.axhline(scores.budget + 0.5, color="black", linewidth=0.8, linestyle=":")
        right.set(
            title=f"{name}: each place in the order",
            xlabel="place in the order (the first has no prior)",
            ylabel="full trainings until as good as\nrandom search (above the line: never)",
            xticks=list(scores.places),
            ylim=(0, scores.budget + 1.5),
        )
    figure.savefig(path, dpi=110)


def _over(losses: Array | float, other: float) -> Array:
    """Losses as ratios to another; where classes can be told apart without error, both may be 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.equal(losses, other), 1.0, np.divide(losses, other))


def _best(run: Run) -> float:
    return float(min(loss for _, loss in run["finished"]))


def _within(run: Run, units: int) -> float:
    return min((float(loss) for spent, loss in run["finished"] if spent <= units), default=np.inf)


def _reached(run: Run, level: float) -> float:
    return next((float(spent) for spent, loss in run["finished"] if loss <= level), np.inf)


def _begun(run: Run, spent: float) -> float:
    return float(sum(at < spent for at in run["begun"])) if np.isfinite(spent) else np.inf


def _curve(run: Run, units: int) -> Array:
    curve = np.full(units, np.inf)
    for spent, loss in run["finished"]:
        curve[spent - 1 :] = np.minimum(curve[spent - 1 :], loss)
    return curve
