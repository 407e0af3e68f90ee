"""Writes the pages that follow from something else: the command line from its parsers, figures from experiments.

    python docs/generate.py            # writes docs/cli.md, docs/reproduce.md and docs/results_table.md
    python docs/generate.py --check    # fails where they are not what it would write

A page is kept beside the others, so that it can be read without building anything.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import results_table
from metatuner.cli.parser import build_parser

DOCS = Path(__file__).resolve().parent
EXPERIMENTS = DOCS.parent / "experiments"
ALWAYS_THERE = {"--help", "--json", "--tracking-uri"}


def command_line() -> str:
    """The page of the command line."""
    parser = build_parser()
    lines = [
        "# Command line",
        "",
        "<!--- written by docs/generate.py from the parsers: do not edit -->",
        "",
        f"`metatuner`, or `python -m metatuner`. {parser.description}",
        "",
        "Every verb has `--help` with an example. On a terminal there is a progress bar, in a pipe there are plain",
        "lines on standard error. The exit code is 0 for success, 2 with one line for bad input, 130 after Ctrl-C.",
        "Where a verb has them, these options mean the same everywhere:",
        "",
        "| option | meaning |",
        "|---|---|",
        "| `--tracking-uri URI` | MLflow store: sqlite:///FILE or http://HOST:PORT (default: "
        "`MLFLOW_TRACKING_URI`, else ./mlflow.db) |",
        "| `--json` | print the result as JSON and nothing else |",
        "",
        "Tab completes verbs, options and files, once your shell knows how:",
        "",
        *_code(
            """eval "$(metatuner completion bash)"    # in ~/.bashrc
metatuner completion zsh > ~/.zsh/completions/_metatuner    # a folder of $fpath
metatuner completion fish > ~/.config/fish/completions/metatuner.fish""",
            reason="it writes to the user's own files; tests/cli/test_completion.py asks a real bash",
        ),
    ]
    for name, verb in _verbs(parser):
        lines += ["", f"## {name}", "", *_verb(f"metatuner {name}", verb)]
    return "\n".join(lines) + "\n"


def _verbs(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


def _verb(command: str, parser: argparse.ArgumentParser) -> list[str]:
    assert parser.description is not None
    summary, _, details = parser.description.strip().partition("\n\n")
    lines = [_text(summary) if details else _text(summary).rstrip(".") + "."]
    for paragraph in filter(None, details.split("\n\n")):
        # Lines that are indented or in columns are shown as they are.
        in_columns = re.search(r"\S {3,}\S", paragraph)
        lines += ["", *(["```text", *paragraph.splitlines(), "```"] if in_columns else [_text(paragraph)])]
    lines += ["", "```text", (parser.epilog or "").removeprefix("example: "), "```"]
    actions = list(_verbs(parser))
    for name, each in actions:
        lines += ["", f"### {command.removeprefix('metatuner ')} {name}", "", *_verb(f"{command} {name}", each)]
    rows = [_row(action) for action in parser._actions if not ALWAYS_THERE & {*action.option_strings}]
    if rows and not actions:
        lines += ["", "| argument | meaning |", "|---|---|", *rows]
    return lines


def _row(action: argparse.Action) -> str:
    name = action.option_strings[-1] if action.option_strings else ""
    value = action.metavar or (
        "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper().replace("-", "_")
    )
    values = " ".join(value) if isinstance(value, tuple) else str(value)
    many = " ..." if action.nargs == "+" else ""
    optional = "[{}]" if action.nargs == "?" else "{}"
    called = name if action.nargs == 0 else optional.format(f"{name} {values}{many}".strip())
    meaning = (action.help or "") % {**vars(action), "prog": "metatuner"}
    needed = " (needed)" if action.option_strings and action.required else ""
    return f"| `{called}` | {_text(meaning)}{needed} |".replace("|'", "'")


def _text(text: str) -> str:
    """Words as Markdown."""
    return re.sub(r"([*_<>|\[\]])", r"\\\1", " ".join(text.split()))


def _code(text: str, reason: str) -> list[str]:
    return [f'<!--- skip: next "{reason}" -->', "", "```console", *text.splitlines(), "```"]


def figures() -> str:
    """The page of experiments: what each asks, how it is done again, and what came out."""
    lines = [
        "# Reproducing every figure",
        "",
        "<!--- written by docs/generate.py from experiments/*/README.md: do not edit -->",
        "",
        "One folder a question: a script, its result, and the command, given in the repository's root. Here are the",
        "commands, the files that they write, and the first table of results; the page behind each says what was",
        "measured, on what, and where we lose.",
    ]
    for readme in sorted(EXPERIMENTS.glob("*/README.md")):
        text, folder = readme.read_text(), f"../experiments/{readme.parent.name}"
        title = text.splitlines()[0].removeprefix("# ")
        lines += ["", f"## {title}", "", "```text", *_commands(text), "```", ""]
        files = [path for path in sorted(readme.parent.rglob("*")) if path.suffix in (".json", ".jsonl", ".png")]
        names = [path.relative_to(readme.parent).as_posix() for path in files]
        written = ["Result: " + ", ".join(f"[{name}]({folder}/{name})" for name in names) + "."] if names else []
        lines.append(" ".join([f"[What was measured]({folder}).", *written]))
        if table := _first_result(text):
            lines += ["", re.sub(r"\]\((?=[^):#]+\))(?!\.\./)", f"]({folder}/", table)]
    lines += ["", "```{toctree}", ":maxdepth: 1", ":hidden:", ":glob:", "", "../experiments/*/README", "```"]
    return "\n".join(lines) + "\n"


def _commands(text: str) -> Iterator[str]:
    """The commands of a page's first block that has some, without comments."""
    block = re.search(r"```console\n(.*?)```", text, re.DOTALL)
    if block is None:
        raise SystemExit(f"no command in: {text.splitlines()[0]}")
    for line in block[1].splitlines():
        yield re.sub(r"\s+#.*", "", line).rstrip()


def _first_result(text: str) -> str:
    """The first table that has a best figure, in bold; else the first table; else nothing."""
    tables = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    best = [table for table in tables if re.search(r"\*\*-?\d", table)]
    return (best or tables or [""])[0].rstrip()


PAGES = {
    "cli.md": command_line,
    "reproduce.md": figures,
    "results_table.md": lambda: results_table.page(EXPERIMENTS),
}


def main() -> int:
    """Writes the pages, or checks them; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    stale = []
    for name, page in PAGES.items():
        text, file = page(), DOCS / name
        if not file.is_file() or file.read_text() != text:
            stale.append(name)
            if not check:
                file.write_text(text)
    if stale and check:
        print(f"not as they would be written, run python docs/generate.py: {', '.join(stale)}", file=sys.stderr)
    return int(bool(stale and check))


if __name__ == "__main__":
    sys.exit(main())
