"""Everything that README.md and docs/ show is run: pages from top to bottom, each in a folder of its own.

- A block of Python is run after those before it on its page; one that begins with `# NAME.py` is written to that file.
- In a block of `console`, commands of metatuner are run in this process; those of make, pip and python are held against
  the Makefile, the extras and the files that there are.
- What cannot be run says why, by a comment that readers do not see: `<!--- skip: next "it needs a server" -->`.
"""

from __future__ import annotations

import contextlib
import doctest
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import unittest
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import metatuner
import pytest
import torch
from metatuner.__main__ import main
from metatuner.envs.errors import MissingPackageError
from metatuner.tracking.sqlite_file import ensure_database
from sybil import Document, Example, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser, SkipParser

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LANGUAGES = {"python", "console", "text", "json", "{toctree}", "{eval-rst}"}
MOST_SKIPPED = 8

# Of frameworks that are shown: what is old in them, and advice that such small examples do not need.
of_frameworks = pytest.mark.filterwarnings(
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning",
    "ignore:The '.*_dataloader' does not have many workers",
    "ignore:Checkpoint directory .* exists and is not empty",
    "ignore::DeprecationWarning:ray",
    "ignore::FutureWarning:ray",
)

_run = PythonEvaluator()


def evaluate_python(example: Example) -> None:
    if name := re.match(r"# (\w+\.py)\n", example.parsed):
        Path(name[1]).write_text(example.parsed)
    else:
        _run(example)


def evaluate_console(example: Example) -> None:
    for line in re.sub(r"\\\n", " ", example.parsed).splitlines():
        words = shlex.split(line, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
            words.pop(0)
        if words[:1] == ["metatuner"]:
            assert main(words[1:]) == 0, line
        elif words:
            assert exists(*words), f"{example.path}, line {example.line}: {line}"


def exists(command: str, *arguments: str) -> bool:
    """Whether there is what a command that is not run speaks of."""
    if command == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        return all(word in targets for word in arguments if "=" not in word)
    if command == "python":
        return arguments[0] == "-m" or (ROOT / arguments[0]).is_file()
    if command == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        asked = re.findall(r"\[(.+?)\]", " ".join(arguments))
        return all(extra in extras for each in asked for extra in each.split(","))
    return command in ("cd", "export", "source")


PARSED = Sybil(
    parsers=[SkipParser(), CodeBlockParser("python", evaluate_python), CodeBlockParser("console", evaluate_console)]
)


def parsed(page: Path) -> Document:
    return PARSED.parse(page)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's, without a run: it takes seconds to make, so that most pages find it made."""
    folder = tmp_path_factory.mktemp("store")
    ensure_database(folder / "mlflow.db", folder / "mlartifacts")
    return folder / "mlflow.db"


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder that is the current one; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    for name in ("MLFLOW_TRACKING_URI", "METATUNER_JOURNAL"):
        monkeypatch.delenv(name, raising=False)
    torch.manual_seed(0)
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@of_frameworks
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_shows_runs(page: Path, own_folder: Path, empty_database: Path) -> None:
    if page.name != "start.md":
        shutil.copy(empty_database, own_folder)
    for example in parsed(page).examples():
        with contextlib.suppress(unittest.SkipTest):
            example.evaluate()


def reason(example: doctest.Example) -> str:
    """Why an example in a docstring is not run: the comment before the mark that says so."""
    found = re.search(r"# (\w[^#]+?) +# doctest: \+SKIP", example.source)
    assert found is not None, f"say why this is not run: {example.source}"
    return found[1]


@of_frameworks
@pytest.mark.parametrize("name", sorted({*metatuner.__all__} - {"__version__"}))
def test_a_public_name_has_an_example_in_its_docstring_which_runs(
    name: str, own_folder: Path, empty_database: Path
) -> None:
    try:
        public = getattr(metatuner, name)
    except MissingPackageError as error:
        pytest.skip(str(error))
    shutil.copy(empty_database, own_folder)
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
    found = doctest.DocTestFinder(exclude_empty=False).find(public, name, globs={})
    shown = [example for test in found if test.name == name for example in test.examples]
    skipped = [reason(example) for example in shown if example.options.get(doctest.SKIP)]
    assert len(shown) - len(skipped) > 1, f"an example of {name}"
    for test in found:
        runner.run(test)
    assert runner.failures == 0


def test_every_source_on_the_page_of_science_is_in_the_file_that_it_names() -> None:
    rows = re.findall(r"^\| .* \| (.*) \| `(\S+\.py)` \|$", (ROOT / "docs" / "science.md").read_text(), re.MULTILINE)
    assert len(rows) > 30
    for sources, file in rows:
        text = (ROOT / file).read_text()
        for source in sources.split(";"):
            name, year = re.match(r" ?([\w&]+)\D*(\d{4})", source).groups()  # type: ignore[union-attr]
            assert name in text, (file, source)
            assert year in text, (file, source)


def test_pages_that_are_written_by_a_script_are_as_it_would_write_them() -> None:
    script = [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"]
    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def table_of_results() -> ModuleType:
    """The script that makes docs/results_table.md; it is no part of the package."""
    spec = importlib.util.spec_from_file_location("results_table", ROOT / "docs" / "results_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "docs"))
        spec.loader.exec_module(module)
    return module


def test_every_file_of_results_is_in_the_table_and_one_that_nobody_reads_is_refused(tmp_path: Path) -> None:
    table = table_of_results()
    page = (ROOT / "docs" / "results_table.md").read_text()
    files = {path.relative_to(ROOT / "experiments").as_posix() for path in (ROOT / "experiments").rglob("*.json*")}
    assert len(files) > 25
    rows = set(re.findall(r"^\|.*\]\(\.\./experiments/(\S+\.jsonl?)\) \|", page, re.MULTILINE))
    assert files == rows | set(table.WITHOUT_ROWS)
    assert all(table.WITHOUT_ROWS.values())
    shutil.copytree(ROOT / "experiments" / "ray_population", tmp_path / "ray_population")
    assert "| **worse** |" in table.page(tmp_path)
    (tmp_path / "ray_population" / "more.json").write_text("{}")
    with pytest.raises(SystemExit, match=r"for: ray_population/more\.json; give each a reader"):
        table.page(tmp_path)


def test_results_are_beside_the_strongest_rival_and_losses_are_marked(tmp_path: Path) -> None:
    """By the files of a made-up experiment of each kind: the lower is better, and the higher."""
    (tmp_path / "learn_from_history").mkdir()
    learnt = {"champion": 0.2, "candidate": 0.1, "tasks": ["a"]}
    (tmp_path / "learn_from_history" / "results.json").write_text(json.dumps({"search-default": learnt}))
    (tmp_path / "meta_training_speed").mkdir()
    over = {"schedules": {"1": 1.0, "2": 1.7}, "searches": {"1": 1.0, "2": 0.9}, "nothing": {"1": 1.0, "2": 1.001}}
    speed = {"decisions a second": {}, "over 1, same round, median": over}
    (tmp_path / "meta_training_speed" / "results.json").write_text(json.dumps(speed))
    for folder in tmp_path.iterdir():
        (folder / "README.md").write_text("# Is it so?\n")
    row = r"^\|.* \| \[(.*)\]\(\S+\) \| .*: (.*) \| (.*) \|$"
    assert re.findall(row, table_of_results().page(tmp_path), re.MULTILINE) == [
        ("1.70", "1.00", "better"),
        ("0.90", "1.00", "**worse**"),
        ("1.00", "1.00", "level"),
        ("0.100", "0.200", "better"),
    ]


def test_the_site_is_built_without_a_warning_and_fetches_nothing_when_it_is_looked_at(tmp_path: Path) -> None:
    """Slow: Sphinx reads all pages and docstrings."""
    options = ["-q", "-W", "--keep-going", "-c", ROOT / "docs", "-d", tmp_path / "read", ROOT, tmp_path / "site"]
    command = [sys.executable, "-m", "sphinx", *map(str, options)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
    pages = list((tmp_path / "site").rglob("*.html"))
    assert {f"{page.stem}.html" for page in PAGES[1:]} <= {page.name for page in pages}
    for page in pages:
        fetched = re.findall(r"<(?:script|img|link|iframe)[^>]*(?:src|href)=[\"'](?:https?:)?//", page.read_text())
        assert not fetched, page.name


def test_the_chinese_readme_has_the_same_code_links_and_figures() -> None:
    english, chinese = ((ROOT / name).read_text() for name in ("README.md", "README.zh-CN.md"))
    for what in (r"```\w+\n.*?```", r"\]\((?!README)(.*?)\)", r"^#+ "):
        found = [re.findall(what, text, re.DOTALL | re.MULTILINE) for text in (english, chinese)]
        assert found[0] == found[1], what
    tables = [re.findall(r"^\|.*\|$", text, re.MULTILINE) for text in (english, chinese)]
    for one, other in zip(*tables, strict=True):
        # Numbers that stand for words in one language, such as "a quarter", are words in both.
        assert sorted(re.findall(r"\d+\.\d+", one)) == sorted(re.findall(r"\d+\.\d+", other)), one


def test_the_reference_has_every_public_name() -> None:
    documented = set(re.findall(r"auto\w+:: metatuner\.(\w+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE))
    assert set(metatuner.__all__) - {"__version__", "MetatunerError"} <= documented


def test_links_of_pages_lead_to_files() -> None:
    for page in [*PAGES, ROOT / "README.zh-CN.md"]:
        for link in re.findall(r"\]\(([^)#:\s]+)(?:#[\w-]+)?\)", page.read_text()):
            assert (page.parent / link).exists(), (page.name, link)


def test_scripts_that_experiments_name_are_there() -> None:
    for page in sorted((ROOT / "experiments").glob("*/README.md")):
        for script in re.findall(r"\bpython (experiments/\S+\.py)", page.read_text()):
            assert (ROOT / script).is_file(), page


def test_every_block_is_of_a_kind_that_is_looked_at_and_few_are_not_run() -> None:
    skipped = 0
    for page in PAGES:
        text = page.read_text()
        fences = re.findall(r"^ *```(.*)$", text, re.MULTILINE)
        assert {fence.split()[0] for fence in fences[::2]} <= LANGUAGES, page.name
        assert not any(fences[1::2]), f"{page.name}: a block is not closed"
        reasons = re.findall(r"<!--- skip: next(.*)-->", text)
        assert all(re.fullmatch(r' "\w.+" ', reason) for reason in reasons), page.name
        skipped += len(reasons)
    assert skipped <= MOST_SKIPPED
