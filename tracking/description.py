"""What a person reads first on a study's page: what it is, what came out so far, and how to do it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .links import comparison_link, run_link, trials_link
from .names import shorten
from .study_summary import StudySummary, TrialSummary
from .wording import duration, number, range_in_words, rounded, short, telling

LONGEST_INTRODUCTION = 2_500  # MLflow takes 8,000 characters, and links grow when they are resolved
_BEST_SHOWN, _PARAMS_SHOWN, _SPACE_SHOWN, _COMPARED = 5, 6, 15, 30


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
        lines.append(f"**{number(best[0].value)}** is the {goal} {_code(summary.started.metric)}: {name}.")
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
    params = telling(trials)[:_PARAMS_SHOWN]
    lines = [_row(["trial", _code(metric), *map(_plain, params), "time"]), _row(["---"] * (len(params) + 3))]
    for trial in trials:
        values = [_plain(short(rounded(trial.params.get(name, "")))) for name in params]
        title = run_link(f"#{trial.trial} {_plain(short(trial.name))}".strip(), trial.run)
        lines.append(_row([title, number(trial.value), *values, duration(trial.seconds)]))
    return "\n".join(lines)


def _space(space: Mapping[str, str], conditions: Mapping[str, str]) -> str:
    lines = ["## Search space", "", _row(["hyperparameter", "values"]), _row(["---"] * 2)]
    for name, distribution in list(space.items())[:_SPACE_SHOWN]:
        where = f", where {shorten(conditions[name], 40)}" if name in conditions else ""
        lines.append(_row([_plain(name), _plain(range_in_words(distribution) + where)]))
    if len(space) > _SPACE_SHOWN:
        lines.append(f"\nand {len(space) - _SPACE_SHOWN} more: artifact `search_space.json`")
    return "\n".join(lines)


def _again(summary: StudySummary) -> str:
    command, tags = summary.started.command.strip(), summary.started.tags
    commit = tags.get("mlflow.source.git.commit")
    code = f"commit `{commit[:12]}`" if commit else "code in no git repository"
    program = f"```\n{command}\n```" if command else f"Program `{tags.get('mlflow.source.name', 'unknown')}`."
    return f"## Again\n\n{program}\n\nIt was {code}; versions are in the artifact `environment.json`."


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _code(text: str) -> str:
    """Text as code, which ends neither itself nor a cell."""
    return f"`{' '.join(text.replace('`', chr(39)).replace('|', '/').split())}`"


def _plain(text: str) -> str:
    """Text that is neither Markdown nor the end of a cell or a link."""
    escaped = "".join(f"\\{letter}" if letter in r"\`*_[]<>#|~" else letter for letter in text)
    return " ".join(escaped.split())
