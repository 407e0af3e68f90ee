"""The repository is the package: what is listed, what is built, and what works once installed."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import metatuner
import pytest

ROOT = Path(__file__).resolve().parent.parent
WORKSHOP = ("docs", "tests", "experiments")
"""Folders with code that is not installed."""

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def run(*command: str | Path, cwd: Path, **env: str) -> str:
    """Run a command outside of the current process's import path; its standard output, or a failed test."""
    clean = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=clean | env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@functools.cache
def source_files() -> list[Path]:
    """What a commit of the working tree would hold, relative to the root; without git, whatever is not hidden."""
    git = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    if (ROOT / ".git").exists() and shutil.which("git"):
        listed = subprocess.run(git, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
        files = [Path(name) for name in listed if name]
    else:
        files = [path.relative_to(ROOT) for path in ROOT.rglob("*")]
        files = [
            path
            for path in files
            if not any(p.startswith(".") or p in {"__pycache__", "build", "dist"} for p in path.parts)
        ]
    return [path for path in files if (ROOT / path).is_file() and not (ROOT / path).is_symlink()]


def test_the_listed_packages_are_the_folders_that_hold_code() -> None:
    code = [path for path in source_files() if path.suffix == ".py" and path.parts[0] not in WORKSHOP]
    packages = {".".join(("metatuner", *path.parent.parts)) for path in code}

    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == packages
    assert {path.parts[0] for path in code if len(path.parts) > 1} <= {"agent", "cli", "envs", "tracking"}
    for package in packages:
        assert ROOT.joinpath(*package.split(".")[1:], "__init__.py").is_file(), f"{package} has no __init__.py"


def test_the_root_holds_no_other_module() -> None:
    assert {path.name for path in source_files() if path.suffix == ".py" and path.parent == Path()} == {
        "__init__.py",
        "__main__.py",
    }


def test_the_lazy_face_agrees_with_itself() -> None:
    assert set(metatuner.__all__) == {*metatuner._HOME, "__version__"}
    assert sorted(metatuner.__all__) == list(metatuner.__all__), "keep __all__ sorted"
    assert set(metatuner.__all__) <= set(dir(metatuner))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = metatuner.nonsense


def test_what_needs_a_package_that_is_missing_is_not_listed() -> None:
    program = (
        "import importlib.util as u; find = u.find_spec; u.find_spec = lambda n: None if n == 'ray' else find(n)"
        "; import metatuner; print(*metatuner.__all__)"
    )
    listed = run(sys.executable, "-c", program, cwd=ROOT).split()
    assert set(metatuner.__all__) - set(listed) == {"PolicyScheduler", "TuneRecorder"}


def test_each_public_name_is_defined_where_the_lazy_face_says() -> None:
    for name, home in metatuner._HOME.items():
        assert importlib.util.find_spec(home, "metatuner"), f"{name}: there is no module {home}"
    for name in metatuner.__all__:
        value = getattr(metatuner, name)
        assert getattr(value, "__name__", name) == name


def test_constraints_pin_exactly_and_name_no_source() -> None:
    text = (ROOT / "constraints.txt").read_text()
    pins = [line for line in text.splitlines() if line and not line.startswith("#")]

    assert "://" not in text
    assert not [pin for pin in pins if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+( ; .+)?", pin)]
    assert not [pin for pin in pins if re.match(r"nvidia|cuda|triton", pin)]
    assert "torch==2.13.0" in pins

    def plain(requirement: str) -> str:
        name = re.match(r"[A-Za-z0-9._-]+", requirement)
        assert name is not None
        return re.sub(r"[-_.]+", "-", name[0]).lower()

    project = PYPROJECT["project"]
    needed = {plain(r) for r in [*project["dependencies"], *project["optional-dependencies"]["test"]]}
    assert needed <= {plain(pin) for pin in pins}, "regenerate constraints.txt: its header says how"


def test_the_wheel_is_complete_and_works_on_its_own(tmp_path: Path) -> None:
    """Slow: builds the wheel, installs it into a clean environment and uses it from an unrelated folder."""
    source = tmp_path / "source"
    for path in source_files():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, source / path)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, source, cwd=tmp_path)
    (wheel,) = tmp_path.glob("metatuner-*.whl")

    # What is in it: the code, the shipped policies, and nothing of the workshop.
    names = set(zipfile.ZipFile(wheel).namelist())
    info = f"metatuner-{metatuner.__version__}.dist-info"
    policies = {p.parent.as_posix() for p in source_files() if p.match("agent/policies/*/*")}
    code = [p for p in source_files() if p.suffix == ".py" and p.parts[0] not in WORKSHOP]
    expected = {f"metatuner/{p.as_posix()}" for p in code}
    expected |= {f"metatuner/{folder}/{file}" for folder in policies for file in ("card.json", "policy.safetensors")}
    expected |= {"metatuner/py.typed", f"{info}/licenses/LICENSE"}
    expected |= {f"{info}/{file}" for file in ("METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt")}
    assert names == expected
    assert policies, "no policy is shipped"

    # A clean environment. What metatuner needs is lent by this one: a .pth line adds the folder, but none of the .pth
    # files in it is read, so this one's own (editable) metatuner is not found there.
    clean = tmp_path / "clean"
    venv.create(clean, with_pip=False, symlinks=os.name == "posix")
    where = sysconfig.get_paths(vars={"base": str(clean), "platbase": str(clean)}, scheme="venv")
    python = Path(where["scripts"]) / Path(sys.executable).name
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python)
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    lent = [folder for folder in sys.path if Path(folder).name in {"site-packages", "dist-packages"}]
    (Path(where["purelib"]) / "lent.pth").write_text("".join(f"{folder}\n" for folder in lent))

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    found = run(python, "-c", "import metatuner; print(metatuner.__file__)", cwd=elsewhere)
    assert Path(found.strip()).is_relative_to(where["purelib"])
    assert "usage" in run(python, "-m", "metatuner", "--help", cwd=elsewhere).lower()
    assert "usage" in run(Path(where["scripts"]) / "metatuner", "--help", cwd=elsewhere).lower()
    everything = "import metatuner as m; print(*[getattr(m, name) and name for name in m.__all__])"
    assert run(python, "-c", everything, cwd=elsewhere).split() == list(metatuner.__all__)
    assert not [*elsewhere.iterdir()], "importing left something behind"
