"""Whatever `metatuner tune` is given: an exit code of 2 and one line, or a study. Never a traceback."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from metatuner.__main__ import main
from mlflow import MlflowClient

GOOD = """
from optuna.distributions import *
space = {"x": FloatDistribution(0.0, 1.0)}
number = 3
def train(config):
    return config["x"]
"""
FILES = {
    "good.py": GOOD,
    "empty.py": "",
    "syntax.py": "def train(:",
    "bytes.py": b"\xff\xfe\x00",
    "zeros.py": b"x = 1\x00",
    "raises.py": "raise RuntimeError('several\\nlines\\n')",
    "leaves.py": "import sys; sys.exit(0)",
    "imports.py": "import nothing_of_this_name",
    "deep.py": "def f(): f()\nf()",
    "random.py": GOOD,
    "numpy.py": GOOD,
    "metatuner.py": GOOD,
    "low.py": "from optuna.distributions import *\nspace = {'x': FloatDistribution(2, 1)}\ntrain = len",
    "log.py": "from optuna.distributions import *\nspace = {'x': FloatDistribution(0, 1, log=True)}\ntrain = len",
    "inf.py": "from optuna.distributions import *\nspace = {'x': FloatDistribution(0, float('inf'))}\ntrain = len",
    "nan.py": "from optuna.distributions import *\nspace = {'x': FloatDistribution(float('nan'), 1)}\ntrain = len",
    "twice.py": """
from optuna.distributions import *
space = {"x": IntDistribution(0, 1), "m": {"a": {"x": IntDistribution(0, 1)}}}
train = len
""",
    "nothing.py": "space = {}\ntrain = len",
    "listed.py": "space = [1, 2]\ntrain = len",
    "worded.py": "space = 'x'\ntrain = len",
    "later.py": GOOD.replace("def", "async def"),
    "fails.py": GOOD.replace('config["x"]', "1 / 0"),
    "ends.py": GOOD.replace('config["x"]', "exit(5)"),
    "crashes.py": GOOD.replace('config["x"]', "__import__('os').abort()"),
    "texts.py": GOOD.replace('config["x"]', "'several\\nlines'"),
    "not_python.txt": GOOD,
}
BAD: list[list[str]] = [
    *([f"{name}:train"] for name in FILES if name not in ("good.py", "crashes.py")),
    [""], [":"], ["::"], ["good.py"], ["good.py:"], [":train"], ["good.py:number"], ["good.py:tr ain"], ["good.py:λ"],
    ["good.py:train:x"], ["nowhere.py:train"], [".:train"], ["/:train"], ["folder.py:train"], ["x" * 300 + ".py:train"],
    ["good.py\n:train"],
    ["good.py:train", "--space", "nowhere"], ["good.py:train", "--space", "number"],
    ["good.py:train", "--space", "train"],
    ["good.py:train", "--space", ""], ["good.py:train", "--budget", "0"], ["good.py:train", "--budget", "-5"],
    ["good.py:train", "--budget", str(10**30), "--strategy", "grid"], ["good.py:train", "--strategy", ""],
    ["good.py:train", "--strategy", "magic"], ["good.py:train", "--strategy", "asha"],
    ["good.py:train", "--strategy", "manual"], ["good.py:train", "--units", "0"], ["good.py:train", "--workers", "0"],
    ["good.py:train", "--most-paused", "0"],
    ["good.py:train", "--timeout", "nan"], ["good.py:train", "--timeout", "-1"], ["good.py:train", "--timeout", "inf"],
    ["good.py:train", "--trial-timeout", "nan"], ["good.py:train", "--trial-timeout", "0"],
    ["good.py:train", "--seed", "-1"], ["good.py:train", "--seed", str(2**40)], ["good.py:train", "--experiment", ""],
    ["good.py:train", "--storage", "/proc/nowhere/all.journal"], ["good.py:train", "--storage", "nowhere://x"],
    ["good.py:train", "--storage", "folder.py"], ["good.py:train", "--storage", "sqlite:////proc/nowhere/x.db"],
    ["good.py:train", "--storage", "good.py"],
    ["good.py:train", "--tracking-uri", "nowhere://x"], ["good.py:train", "--tracking-uri", "sqlite:////proc/nowhere/x.db"],
    ["good.py:train", "--space", "none", "--isolated"],
]  # fmt: skip
FAILING = ("fails", "ends", "texts")
UNREADABLE = [[], ["good.py:train", "--budget", "many"], ["good.py:train", "--budget", "1.5"], ["good.py:train",
"--no"],
              ["good.py:train", "--seed", "x"], ["good.py:train", "--timeout", "soon"], ["good.py:train",
              "more"]]  # fmt: skip


@pytest.fixture(autouse=True)
def _files(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file, text in FILES.items():
        (own_folder / file).write_bytes(text if isinstance(text, bytes) else text.encode())
        if Path(file).stem not in ("random", "numpy", "metatuner"):
            monkeypatch.delitem(sys.modules, Path(file).stem, raising=False)
    (own_folder / "folder.py").mkdir()


def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    said = {}
    for arguments in BAD:
        shutil.rmtree(".metatuner", ignore_errors=True)
        few = [] if "--budget" in arguments else ["--budget", "2"]
        code = main(["tune", *arguments, *few, "--json"])
        printed = capsys.readouterr()
        said[tuple(arguments)] = (code, printed.err)
        assert code == 2, (arguments, printed)
        *before, last = printed.err.splitlines()
        assert last.startswith("metatuner: error: "), (arguments, printed)
        # MLflow tells that it makes a database.
        assert all("INFO mlflow" in line for line in before), (arguments, printed)
        assert printed.out == "", (arguments, printed)
        # Whatever is not for the objective to do wrong is refused before it is called.
        assert ("trials has finished" in last) == (arguments[0].partition(".")[0] in FAILING), (arguments, printed)
    assert len(said) > 60


@pytest.mark.parametrize(
    "arguments",
    [
        ["tune", "good.py:train", "--budget", "2"],
        ["compare", "good.py:train", "--budget", "2", "--repeats", "2", "--strategies", "random,policy"],
        ["policies", "export", "search-default", "good.py/exported"],
    ],
)
def test_a_folder_that_cannot_be_made_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Path(".metatuner").write_text("a file where a folder is needed")
    assert main(arguments) == 2
    *_, last = capsys.readouterr().err.splitlines()
    assert last.startswith("metatuner: error: ") and "cannot be used" in last


def test_what_cannot_be_parsed_is_refused_with_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in UNREADABLE:
        with pytest.raises(SystemExit) as ended:
            main(["tune", *arguments])
        assert ended.value.code == 2
        assert "error: " in capsys.readouterr().err.splitlines()[-1]


def test_names_that_are_no_file_names_stay_in_their_folder(tmp_path: Path) -> None:
    for name in ("../../outside", "a/b", "λ", ".", "a b"):
        assert main(["tune", "good.py:train", "--budget", "1", "--strategy", "random", "--name", name, "--json"]) == 0
    studies = tmp_path / ".metatuner" / "studies"
    assert len(list(studies.iterdir())) >= 5
    assert not list(tmp_path.parent.glob("outside*"))


def test_a_process_of_its_own_says_one_line_too() -> None:
    for name in ("numpy.py", "random.py", "metatuner.py"):
        Path(name).unlink()  # Python itself would import these
    for arguments in (["leaves.py:train"], ["crashes.py:train", "--isolated"]):
        command = [sys.executable, "-m", "metatuner", "tune", *arguments, "--budget", "1", "--strategy", "random"]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert ended.returncode == 2, ended
        assert "Traceback" not in ended.stderr
        assert len([line for line in ended.stderr.splitlines() if line.startswith("metatuner: error:")]) == 1


def test_a_space_with_conditions_is_read_from_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("models.py").write_text(
        "from optuna.distributions import *\n"
        "space = {'model': {'svm': {'C': FloatDistribution(0.1, 1.0)}, 'mean': {}}}\n"
        "def train(config):\n    return config['C'] if config['model'] == 'svm' else 5.0\n"
    )
    assert main(["tune", "models.py:train", "--budget", "4", "--strategy", "grid"]) == 0
    printed = capsys.readouterr().out
    assert "best of 4 trials: 0.1" in printed
    assert "  model: svm\n  C: 0.1\n" in printed


def test_odd_names_and_values_are_recorded(tmp_path: Path) -> None:
    names = (" ", "x" * 1000, "λ", "a/b", "../x", "a\nb", "%s", "a|b", "_x2_", "é" * 300)
    Path("odd.py").write_text(
        "import math\nfrom optuna.distributions import *\n"
        f"space = {{name: CategoricalDistribution(['a\\n|b', None, 2.5]) for name in {names!r}}}\n"
        "answers = iter([math.inf, -math.inf, 1e308, 1 / 3])\n"
        "def train(config):\n    assert len(config) == 10\n    return next(answers)\n"
    )
    assert main(["tune", "odd.py:train", "--budget", "5", "--strategy", "random"]) == 0
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    (experiment,) = [each for each in client.search_experiments() if each.name != "Default"]
    trials = [run for run in client.search_runs([experiment.experiment_id]) if "mlflow.parentRunId" in run.data.tags]
    assert sorted(run.info.status for run in trials) == ["FAILED", *["FINISHED"] * 4]
    assert all(len(run.data.params) == len(names) for run in trials)
    assert {run.data.metrics.get("value") for run in trials} >= {1e308, 1 / 3}
