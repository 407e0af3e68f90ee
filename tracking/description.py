"""What a person reads first on a study's page: what it is, what came out so far, and how to do it again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence

from .links import comparison_link, run_link, trials_link
from .names import shorten
from .study_summary import StudySummary, TrialSummary

LONGEST_INTRODUCTION = 2_500  # MLflow takes 8,000 characters, and links grow when they are resolved
_BEST_SHOWN, _PARAMS_SHOWN, _SPACE_SHOWN, _COMPARED = 5, 6, 15, 30
_LONGEST_VALUE = 24


def describe(summary: StudySummary, study: str, introduction: str, *, over: bool) -> str:
    """The description of a study.

    Args:
        summary: The study.
        study: The key of its run.
        introduction: What whoever runs it says about it, as Markdown; empty takes its name.
        over: Whether it has ended.
    """
    head = shorten(introduction.strip(), LONGEST_INTRODUCTION, "artifact description.md")
    parts = [head or f"# {_plain(summary.started.name)}"]
    if summary.trials:
        parts.append(_result(summary, study, over=over))
    if summary.started.space:
        parts.append(_space(summary.started.space, summary.started.conditions))
    parts.append(_again(summary))
    return "\n\n".join(parts) + "\n"


def _result(summary: StudySummary, study: str, *, over: bool) -> str:
    best = summary.ranked()
    lines = ["## Result" if over else "## Result so far", ""]
    if best:
        goal = "largest" if summary.maximizes else "smallest"
        name = run_link(f"#{best[0].trial} {_plain(best[0].name)}".strip(), best[0].run)
        lines.append(f"**{_number(best[0].value)}** is the {goal} `{summary.started.metric}`: {name}.")
    lines.append(_progress(summary) + "\n")
    if len(best) > 1:
        lines += [_table(best[:_BEST_SHOWN], summary.started.metric), ""]
    links = [trials_link("All trials", study)]
    if len(best) > 1:
        some = f" of the best {_COMPARED}" if len(best) > _COMPARED else ""
        links.append(comparison_link(f"parallel coordinates{some}", [trial.run for trial in best[:_COMPARED]]))
    return "\n".join([*lines, " · ".join(links) + " · plots lie under *Artifacts*"])


def _progress(summary: StudySummary) -> str:
    states = ", ".join(f"{count} {state}" for state, count in summary.states().items())
    budget = f" Budget: {_plain(summary.started.budget)}." if summary.started.budget else ""
    return f"Trials: {states}.{budget}"


def _table(trials: Sequence[TrialSummary], metric: str) -> str:
    params = _telling(trials)[:_PARAMS_SHOWN]
    lines = [_row(["trial", f"`{metric}`", *params, "time"]), _row(["---"] * (len(params) + 3))]
    for trial in trials:
        values = [_plain(_short(_rounded(trial.params.get(name, "")))) for name in params]
        title = run_link(f"#{trial.trial} {_plain(_short(trial.name))}".strip(), trial.run)
        lines.append(_row([title, _number(trial.value), *values, _duration(trial.seconds)]))
    return "\n".join(lines)


def _telling(trials: Sequence[TrialSummary]) -> list[str]:
    """Params in which these trials differ."""
    names = dict.fromkeys(name for trial in trials for name in trial.params)
    return [name for name in names if len({trial.params.get(name) for trial in trials}) > 1]


def _space(space: Mapping[str, str], conditions: Mapping[str, str]) -> str:
    lines = ["## Search space", "", _row(["hyperparameter", "values"]), _row(["---"] * 2)]
    for name, distribution in list(space.items())[:_SPACE_SHOWN]:
        where = f", where {shorten(conditions[name], 40)}" if name in conditions else ""
        lines.append(_row([_plain(name), _plain(_values(distribution) + where)]))
    if len(space) > _SPACE_SHOWN:
        lines.append(f"\nand {len(space) - _SPACE_SHOWN} more: artifact `search_space.json`")
    return "\n".join(lines)


def _values(distribution: str) -> str:
    """A distribution of Optuna's in words."""
    fields = json.loads(distribution)["attributes"]
    if "choices" in fields:
        return shorten(", ".join(str(choice) for choice in fields["choices"]), 80)
    step = f", in steps of {fields['step']:g}" if fields.get("step") not in (None, 1) else ""
    return f"{fields['low']:g} to {fields['high']:g}{' (log)' if fields['log'] else ''}{step}"


def _again(summary: StudySummary) -> str:
    command, tags = summary.started.command.strip(), summary.started.tags
    commit = tags.get("mlflow.source.git.commit")
    code = f"commit `{commit[:12]}`" if commit else "code in no git repository"
    program = f"```\n{command}\n```" if command else f"Program `{tags.get('mlflow.source.name', 'unknown')}`."
    return f"## Again\n\n{program}\n\nIt was {code}; versions are in the artifact `environment.json`."


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _plain(text: str) -> str:
    """Text that is neither Markdown nor the end of a cell or a link."""
    escaped = "".join(f"\\{letter}" if letter in r"\`*_[]<>#|~" else letter for letter in text)
    return " ".join(escaped.split())


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"


def _rounded(text: str) -> str:
    """A number with a fraction in four digits; other texts as they are."""
    try:
        return text if text.lstrip("+-").isdigit() else f"{float(text):.4g}"
    except ValueError:
        return text


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = math.floor(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {seconds % 60:02.0f} s"
