"""The report of a study: one HTML file that stands alone, and the same facts as plain data.

It says only what the record holds. A section whose data are not there is left out, or says what is missing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from statistics import median
from typing import TYPE_CHECKING, Any

from ..envs.records import TrialState
from . import curve_plots, decision_words, schedule_plots, slice_plots, study_plots
from .html_page import bullets, folded, heading, page, pairs, paragraph, picture, table, verbatim
from .importance import FEWEST_TRIALS, can_rank, importances
from .operations import DECISIONS_FILE
from .proposals import full_reason, proposals
from .recorded_study import MOST_CURVES, RecordedStudy
from .study_summary import NOT_ALLOWED, TrialSummary
from .told_trials import is_number
from .wording import duration, in_words, number, range_in_words, rounded, short, telling

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BEST_SHOWN, _PARAMS_SHOWN, _REASONS_SHOWN, _TRACES_SHOWN, _FAILURES_SHOWN = 10, 6, 10, 3, 10
_DECISIONS_SHOWN, _FEW_TRIALS = 20, 50
_MOST_VECTORS = 1_500  # of so many trials and more a figure holds dots, no shapes: a page must not weigh megabytes
_COSTS: Mapping[str, tuple[str, str]] = {
    "resource/wall_s": ("time", "s"),
    "resource/cpu_s": ("CPU time", "s"),
    "resource/peak_rss_mb": ("highest memory", "MB"),
    "resource/process_peak_rss_mb": ("highest memory of the whole process", "MB"),
    "resource/gpu_mem_mb": ("highest GPU memory", "MB"),
    "resource/process_gpu_mem_mb": ("highest GPU memory of the whole process", "MB"),
    "resource/peak_gpu_used_mb": ("highest GPU memory by the driver", "MB"),
    "resource/gpu_util": ("mean GPU utilisation", "%"),
}
_ADDED = ("resource/wall_s", "resource/cpu_s")
"""Costs that add up over trials."""


def report_page(study: RecordedStudy) -> str:
    """The report as an HTML file."""
    sections: list[Callable[[RecordedStudy], Iterable[str]]] = [
        _result,
        _what_it_is,
        _history,
        _hyperparameters,
        _learning_curves,
        _schedules,
        _proposals,
        _decisions,
        _resources,
        _failures,
        _again,
    ]
    return page(study.started.name or study.run_id, [part for section in sections for part in section(study)])


def report_facts(study: RecordedStudy) -> dict[str, Any]:
    """What the report says, as plain data for machines; a number that is none is None."""
    summary, best = study.summary, study.summary.best
    reasons = _reasons(study)
    return {
        "study": study.started.name,
        "run_id": study.run_id,
        "experiment": study.experiment,
        "metric": study.started.metric,
        "direction": study.started.direction,
        "state": str(study.state or "running"),
        "budget": study.started.budget,
        "strategy": _strategy(study),
        "seed": _seed(study),
        "trials": dict(summary.states()),
        "best": None
        if best is None
        else {
            "trial": best.trial,
            "run_id": best.run,
            "value": _finite(best.value),
            "params": dict(best.params),
            "seconds": best.seconds,
            "why": reasons.get(best.trial),
        },
        "importance": _importances(study),
        "reasons": {
            each.source: {"trials": each.trials, "best_value": _finite(each.best), "led": each.led}
            for each in proposals(list(summary.trials.values()), maximize=summary.maximizes)
        },
        "decisions": {
            str(trial): {
                "decisions": len(recorded.decisions),
                "summary": decision_words.summary(recorded.decisions),
                "steps": decision_words.sentences(recorded.decisions),
            }
            for trial, recorded in study.trials.items()
            if recorded.decisions
        },
        "resources": {
            name: {
                "trials": len(values),
                "sum": sum(values.values()) if name in _ADDED else None,
                "max": max(values.values()),
            }
            for name, values in _costs(study).items()
        },
    }


def _result(study: RecordedStudy) -> Iterable[str]:
    summary = study.summary
    ranked = summary.ranked()
    yield heading("Result" if study.state is not None else "Result so far")
    if study.message:
        yield paragraph(f"The study {study.state}: {study.message}")
    some_are_not = NOT_ALLOWED in summary.states()
    if not ranked:
        which = " that is allowed" if some_are_not else ""
        yield paragraph(f"No trial{which} has finished with a number, so there is no best one yet.")
        yield paragraph(_progress(study))
        return
    best, goal = ranked[0], "largest" if summary.maximizes else "smallest"
    yield paragraph(f"{number(best.value)} is the {goal} {study.started.metric}, of {_title(best)}. {_progress(study)}")
    if best.params:
        yield pairs(best.params)
    if len(ranked) > 1:
        shown = ranked[:_BEST_SHOWN]
        params = telling(shown)[:_PARAMS_SHOWN]
        rows = [
            [
                f"#{trial.trial} {short(trial.name)}".strip(),
                number(trial.value),
                *(short(rounded(trial.params.get(name, ""))) for name in params),
                duration(trial.seconds),
            ]
            for trial in shown
        ]
        which = " and are allowed" if some_are_not else ""
        yield paragraph(f"The best {len(shown)} of {len(ranked)} trials that finished with a number{which}:")
        yield table(["trial", study.started.metric, *params, "time"], rows)


def _progress(study: RecordedStudy) -> str:
    states = ", ".join(f"{count} {state}" for state, count in study.summary.states().items()) or "none yet"
    again = study.attempts - len(study.summary.trials)
    repeated = f" ({again} more were cut off or failed, and were done again)" if again else ""
    seconds = sum(trial.seconds for trial in study.summary.trials.values())
    together = f" Together they took {duration(seconds)}." if seconds else ""
    return f"Trials: {states}{repeated}.{together}"


def _what_it_is(study: RecordedStudy) -> Iterable[str]:
    started, tags = study.started, study.started.tags
    yield heading("What it is")
    goal = "the larger the better" if study.summary.maximizes else "the smaller the better"
    facts = {
        "judged by": f"{started.metric}, {goal}",
        "budget": started.budget,
        "strategy": _strategy(study) or "",
        "seed": _seed(study) or "",
        "state": str(study.state or "running"),
        "began": _moment(started.time_ms),
        "ended": _moment(study.ended_ms) if study.ended_ms else "",
        "data": "; ".join(f"{name} ({context})" if context else name for name, context in study.data_sets),
        "MLflow experiment": study.experiment,
        "MLflow run": study.run_id,
        **{f"setting {name}": str(value) for name, value in started.params.items()},
    }
    yield pairs({name: value for name, value in facts.items() if value})
    if started.space:
        yield paragraph("The search space:")
        where = {name: f", where {condition}" for name, condition in started.conditions.items()}
        yield pairs({name: range_in_words(each) + where.get(name, "") for name, each in started.space.items()})
    if study.introduction:
        yield folded("Its description", [verbatim(study.introduction)])
    if prior := tags.get("metatuner.prior"):
        yield folded("What past tasks had to tell", [verbatim(prior)])


def _history(study: RecordedStudy) -> Iterable[str]:
    trials = list(study.summary.trials.values())
    if len(study.summary.ranked()) < 2:
        return
    yield heading("What was found when")
    figure = study_plots.history_figure(trials, study.started.metric, maximize=study.summary.maximizes)
    yield _picture(figure, "The value of each trial, in their order, and the best so far.", len(trials))


def _hyperparameters(study: RecordedStudy) -> Iterable[str]:
    summary, space, metric = study.summary, study.started.space, study.started.metric
    ranked = summary.ranked()
    if not slice_plots.sliceable(ranked, space):
        return
    yield heading("Which hyperparameters matter")
    shares = _importances(study)
    if shares:
        first = next(iter(shares))
        rough = ", which are few: a rough guess" if len(ranked) < _FEW_TRIALS else ""
        yield paragraph(
            f"{first} matters most: {shares[first]:.0%} of what makes the best tenth of the trials good is owed to it, "
            f"as {len(ranked)} trials tell{rough}. Each hyperparameter is looked at by itself; those that not every "
            "trial has are left out."
        )
        figure = study_plots.importance_figure(ranked, space, maximize=summary.maximizes)
        yield _picture(figure, "How much each hyperparameter matters for being among the best trials.", 0)
    elif len(ranked) < FEWEST_TRIALS:
        yield paragraph(f"{len(ranked)} trials are too few to tell which matters; it takes {FEWEST_TRIALS}.")
    figure = slice_plots.slices_figure(ranked, metric, space, list(shares))
    yield _picture(
        figure, "Each trial's value against each hyperparameter. Dark: late. The best one is ringed.", len(ranked)
    )
    if len(ranked) > 1 and study_plots.can_draw_parallel(ranked):
        figure = study_plots.parallel_figure(ranked, metric, space, maximize=summary.maximizes)
        yield _picture(figure, "A line for each trial, dark and thick where its value is good.", len(ranked))


def _learning_curves(study: RecordedStudy) -> Iterable[str]:
    metric = study.started.metric
    trainings = {trial: recorded.training for trial, recorded in study.trials.items()}
    drawn = sum(curve_plots.has_curve(training, metric) for training in trainings.values())
    if study.is_schedule or not drawn:
        return
    best = study.summary.best
    yield heading("Learning curves")
    figure = curve_plots.learning_curves_figure(
        list(study.summary.trials.values()), trainings, metric, "units of budget", best.trial if best else None
    )
    caption = "What each trial reported. A triangle: it ended before it had finished. Thick: the best trial."
    yield _picture(figure, caption + _left_out(study), drawn)


def _schedules(study: RecordedStudy) -> Iterable[str]:
    if not study.is_schedule:
        return
    drawn = [trial for trial in study.summary.trials if study.trials[trial].training.has_curves]
    trainings = [study.trials[trial].training for trial in drawn]
    if not trainings:
        return
    yield heading("Schedules")
    if len(trainings) > 1 and schedule_plots.can_compare(trainings):
        figure = schedule_plots.comparison_figure(trainings)
        yield _picture(
            figure, "Validation loss and learning rate of all trials, the best ten named." + _left_out(study), 0
        )
    for trial in _first(study, drawn)[:_TRACES_SHOWN]:
        training = study.trials[trial].training
        told = " Dots are decisions of the policy." if training.decisions else ""
        yield _picture(
            schedule_plots.schedule_figure(training), f"{training.name}: losses and hyperparameters.{told}", 0
        )


def _proposals(study: RecordedStudy) -> Iterable[str]:
    summary, reasons = study.summary, _reasons(study)
    if not reasons:
        if study.started.space or _strategy(study):
            yield heading("Why these configurations")
            who = f"the strategy {_strategy(study)}" if _strategy(study) else "whoever proposed them"
            yield paragraph(f"Not recorded: {who} does not tell why it proposes a configuration.")
        return
    yield heading("Why these configurations")
    yield paragraph(f"{len(reasons)} of {len(summary.trials)} trials have a reason for which they were proposed.")
    counted = proposals(list(summary.trials.values()), maximize=summary.maximizes)
    rows = [
        [f"{each.source}: {each.meaning}" if each.meaning else each.source, each.trials, each.led, number(each.best)]
        for each in counted
    ]
    yield table(["reason", "trials", "new best", "best value"], rows)
    named = [trial for trial in summary.ranked() if reasons.get(trial.trial)][:_REASONS_SHOWN]
    if named:
        yield paragraph(f"The best {len(named)}, and why they were proposed:" if len(named) > 1 else "The best one:")
        told = {trial.trial: full_reason(trial.trial, reasons) for trial in named}
        yield bullets([f"#{trial.trial}, {number(trial.value)}: {told[trial.trial]}" for trial in named])
    everyone = [f"#{trial}: {reason}" for trial, reason in reasons.items()]
    if len(everyone) > len(named):
        yield folded("All reasons, in the order of trials", [bullets(everyone)])


def _decisions(study: RecordedStudy) -> Iterable[str]:
    decided = [trial for trial in study.summary.trials if study.trials[trial].decisions]
    if not decided:
        return
    policies = [study.trials[trial].decisions for trial in decided]
    yield heading("What was decided while they trained")
    yield paragraph(
        "A policy is a network: the record has what it saw and what it did, not which figure moved it. Where it was "
        "overruled, or a training was rolled back, the record says why."
    )
    for name in dict.fromkeys(name for decisions in policies for each in decisions for name in each.values):
        rows = [
            [habit.seen, habit.raised, habit.lowered, habit.kept] for habit in decision_words.habits(policies, name)
        ]
        if any(row[1] or row[2] for row in rows):
            yield paragraph(f"What policies did to the {in_words(name)}, all trials together:")
            yield table(["after", "raised", "lowered", "kept"], rows)
    acting = [trial for trial in _first(study, decided) if decision_words.adjusts(study.trials[trial].decisions)]
    for trial in acting[:_DECISIONS_SHOWN]:
        summary = study.summary.trials[trial]
        decisions = study.trials[trial].decisions
        value = f", {number(summary.value)}" if summary.value is not None else ""
        yield folded(
            f"{_title(summary)}{value}: {decision_words.summary(decisions)}",
            [bullets(decision_words.sentences(decisions))],
        )
    if more := acting[_DECISIONS_SHOWN:]:
        yield paragraph(f"The decisions of {len(more)} more trials are in the files {DECISIONS_FILE} of their runs.")
    if still := [trial for trial in decided if trial not in acting]:
        followed = _numbers([study.summary.trials[trial] for trial in still])
        yield paragraph(f"{_count(len(still))} followed the reference as it is, with no adjustment: {followed}.")


def _resources(study: RecordedStudy) -> Iterable[str]:
    costs = _costs(study)
    if not costs:
        return
    yield heading("What it took")
    rows = []
    for name, values in costs.items():
        label, unit = _COSTS[name]
        ordered = sorted(values.values())
        total = _amount(sum(ordered), unit) if name in _ADDED else ""
        rows.append([label, _amount(median(ordered), unit), _amount(ordered[-1], unit), total, len(ordered)])
    yield table(["", "median trial", "largest trial", "all together", "trials"], rows)
    trials = list(study.summary.trials.values())
    if len(trials) > 1:
        named = {f"{_COSTS[name][0]} ({_COSTS[name][1]})": values for name, values in list(costs.items())[:3]}
        yield _picture(curve_plots.costs_figure(trials, named), "What each trial took, in their order.", len(trials))


def _failures(study: RecordedStudy) -> Iterable[str]:
    failed = [trial for trial in study.summary.trials.values() if trial.state is TrialState.FAILED]
    killed = [trial for trial in study.summary.trials.values() if trial.state is TrialState.KILLED]
    odd = [
        trial
        for trial in study.summary.trials.values()
        if trial.state is TrialState.FINISHED and trial.value is not None and not math.isfinite(trial.value)
    ]
    if not (failed or killed or odd):
        return
    yield heading("What went wrong")
    if odd:
        yield paragraph(f"{len(odd)} finished with a value that is no number: {_numbers(odd)}.")
    by_message: dict[str, list[TrialSummary]] = {}
    for trial in [*failed, *killed]:
        by_message.setdefault(study.trials[trial.trial].message or "no message", []).append(trial)
    common = sorted(by_message.items(), key=lambda each: -len(each[1]))
    if common:
        lines = [f"{len(trials)} {trials[0].state} ({_numbers(trials)}): {text}" for text, trials in common]
        yield bullets(lines[:_FAILURES_SHOWN])
        if len(lines) > _FAILURES_SHOWN:
            yield paragraph(
                f"and {len(lines) - _FAILURES_SHOWN} other messages, which the trials' runs in MLflow hold."
            )


def _again(study: RecordedStudy) -> Iterable[str]:
    tags = study.started.tags
    yield heading("How to do it again")
    if study.started.command:
        yield verbatim(study.started.command)
    elif program := tags.get("mlflow.source.name"):
        yield paragraph(f"It was run by the program {program}.")
    commit = tags.get("mlflow.source.git.commit")
    yield paragraph(f"The code was commit {commit}." if commit else "The code lay in no git repository.")
    versions = {name.removeprefix("package."): value for name, value in tags.items() if name.startswith("package.")}
    if versions:
        yield paragraph(f"Versions: {', '.join(f'{name} {version}' for name, version in versions.items())}.")


def _picture(figure: Figure, caption: str, marks: int) -> str:
    if marks > _MOST_VECTORS:
        for panel in figure.axes:
            for artist in [*panel.lines, *panel.collections]:
                artist.set_rasterized(True)
    return picture(figure, caption)


def _importances(study: RecordedStudy) -> dict[str, float]:
    ranked = study.summary.ranked()
    if not can_rank(ranked):
        return {}
    return importances(ranked, study.started.space, maximize=study.summary.maximizes)


def _reasons(study: RecordedStudy) -> dict[int, str]:
    return {trial.trial: str(trial.proposal) for trial in study.summary.trials.values() if trial.proposal is not None}


def _costs(study: RecordedStudy) -> dict[str, dict[int, float]]:
    """Costs by name and trial, as far as they were recorded."""
    found = {
        name: {
            trial: recorded.metrics[name]
            for trial, recorded in study.trials.items()
            if name in recorded.metrics and is_number(recorded.metrics[name])
        }
        for name in _COSTS
    }
    return {name: values for name, values in found.items() if values}


def _first(study: RecordedStudy, numbers: Sequence[int]) -> list[int]:
    """Trials, the best ones first, then those that do not count."""
    ranked = [trial.trial for trial in study.summary.ranked() if trial.trial in set(numbers)]
    return list(dict.fromkeys([*ranked, *numbers]))


def _left_out(study: RecordedStudy) -> str:
    more = len(study.trials) - MOST_CURVES
    return f" {more} trials more are left out." if more > 0 else ""


def _strategy(study: RecordedStudy) -> str | None:
    return study.started.tags.get("metatuner.strategy")


def _seed(study: RecordedStudy) -> str | None:
    return study.started.tags.get("metatuner.seed")


def _title(trial: TrialSummary) -> str:
    return f"trial {trial.trial} ({trial.name})" if trial.name else f"trial {trial.trial}"


def _numbers(trials: Sequence[TrialSummary]) -> str:
    shown = ", ".join(f"#{trial.trial}" for trial in trials[:_FAILURES_SHOWN])
    return shown + (f" and {len(trials) - _FAILURES_SHOWN} more" if len(trials) > _FAILURES_SHOWN else "")


def _count(trials: int) -> str:
    return "1 trial" if trials == 1 else f"{trials} trials"


def _amount(value: float, unit: str) -> str:
    return duration(value) if unit == "s" else f"{value:,.0f} {unit}"


def _moment(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
