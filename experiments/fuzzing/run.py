"""Does whatever reads from outside refuse what is no good, in its own words and without much memory?

    python experiments/fuzzing/run.py [--inputs 700] [--only NAME ...] [--seed 0] [--out results.json]

Each reader is given inputs of two kinds, whole ones that were altered and random ones. What it raises must be a
`MetatunerError`; what it accepts is used. Failures are counted by what was raised and where, each with its smallest
input.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase
from metatuner.envs.errors import MetatunerError

HERE = Path(__file__).parent
MOST_MEMORY = 8 * 2**30
"""Bytes of address space: whoever takes more has failed."""

MOST_SECONDS = 20
"""For one input: whoever takes longer has failed."""

SLOW = {
    "policy: Model Registry": 8,
    "past runs in MLflow": 4,
    "journal: sent to MLflow": 8,
    "study in MLflow: report": 8,
    "meta-training: checkpoint of a schedule's": 4,
    "meta-training: checkpoint of a search's": 4,
    "Optuna journal": 2,
}
"""Readers that get a fraction of the inputs, one in so many."""


def main() -> None:
    """Runs all readers and writes what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=700)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    # As in the tests: a warning is an error, since it tells of arithmetic that went wrong.
    warnings.simplefilter("error")
    for module in ("mlflow", "alembic", "optuna", "sqlalchemy"):
        warnings.filterwarnings("ignore", module=module)
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, MOST_MEMORY))
    from memory import measured
    from readers import READERS

    os.environ.pop("MLFLOW_TRACKING_URI", None)
    signal.signal(signal.SIGALRM, _too_long)
    results: dict[str, Any] = {}
    for name, reader in READERS.items():
        if not args.only or any(each in name for each in args.only):
            began = time.perf_counter()
            with tempfile.TemporaryDirectory() as folder:
                os.chdir(folder)
                with reader(Path(folder)) as fuzzed:
                    results[name] = fuzz(fuzzed, args.inputs // min(SLOW.get(name, 1), args.inputs), args.seed)
                os.chdir(HERE)
            print(f"{name}: {results[name]}, {time.perf_counter() - began:.0f} s", flush=True)
            args.out.write_text(json.dumps({"readers": results}, indent=1) + "\n")
    memory = measured()
    args.out.write_text(json.dumps({"readers": results, "memory": memory}, indent=1) + "\n")
    total = sum(each["inputs"] for each in results.values())
    kinds = sum(len(each["failures"]) for each in results.values())
    print(f"{total:,} inputs, {kinds} kinds of failure; memory: {memory}")


def fuzz(fuzzed: Any, inputs: int, seed: int) -> dict[str, Any]:
    """Gives a reader so many inputs."""
    counts: Counter[str] = Counter()
    failures: dict[str, tuple[int, str]] = {}

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=inputs,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(fuzzed.inputs)
    def run(given: Any) -> None:
        counts["inputs"] += 1
        signal.alarm(MOST_SECONDS)
        try:
            fuzzed.read(given)
            signal.alarm(0)
        except MetatunerError as error:
            assert str(error)
            counts["refused"] += 1
        except Exception as error:
            try:
                shown = repr(given)
            except Exception:
                shown = type(given).__name__
            where, smallest = _where(error), failures.get(_where(error))
            counts["failed"] += 1
            if smallest is None or len(shown) < smallest[0]:
                failures[where] = (len(shown), shown[:300])
        else:
            counts["accepted"] += 1

    run()
    kept = {where: shown for where, (_, shown) in sorted(failures.items())}
    return {**{name: counts[name] for name in ("inputs", "accepted", "refused", "failed")}, "failures": kept}


def _too_long(*_: object) -> None:
    raise TimeoutError(f"more than {MOST_SECONDS} s")


def _where(error: BaseException) -> str:
    """What was raised, and the innermost line of the package that it passed."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "experiments" not in frame.filename]
    ours = [frame for frame in frames if "site-packages" not in frame.filename and "/lib/python" not in frame.filename]
    frame = (ours or frames or traceback.extract_tb(error.__traceback__))[-1]
    place = "/".join(Path(frame.filename).parts[-2:])
    return f"{type(error).__name__} in {place}:{frame.name}:{frame.lineno}: {str(error)[:100]}"


if __name__ == "__main__":
    main()
