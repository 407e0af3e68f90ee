"""The pieces of a study that is far too large to try: what a trial takes of the database, of memory, and of time.

OMP_NUM_THREADS=1 python experiments/workers/scale.py
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from metatuner.agent.storages import open_storage
from optuna.trial import FrozenTrial, create_trial
from postgres import Postgres
from sqlalchemy import event
from sqlalchemy.engine import Engine
from worker import FLOATS, work

HERE = Path(__file__).parent
READER = """
import json, sys, time
import optuna, psutil
from metatuner.agent.storages import open_storage

study = optuna.load_study(study_name="large", storage=open_storage(sys.argv[1]))
memory, began = psutil.Process().memory_info().rss, time.perf_counter()
trials = study.get_trials(deepcopy=False)
first_s = time.perf_counter() - began
began = time.perf_counter()
study.get_trials(deepcopy=False)
print(json.dumps({
    "trials": len(trials),
    "first reading, ms a trial": round(first_s / len(trials) * 1e3, 3),
    "memory, kB a trial": round((psutil.Process().memory_info().rss - memory) / len(trials) / 1e3, 2),
    "reading again, s": round(time.perf_counter() - began, 4),
}))
"""
CLIENT = """
import sys, time
import optuna
from metatuner.agent.storages import open_storage

study = optuna.load_study(study_name="large", storage=open_storage(sys.argv[1]))
trial = study.ask()
began, done = time.monotonic(), 0
while time.monotonic() - began < 10:
    trial.set_user_attr("n", done)
    done += 1
print(done)
"""


def main() -> None:
    """Measures, and writes `scale.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20_000, help="of the large study")
    parser.add_argument("--clients", type=int, default=8, help="that write at the same time")
    parser.add_argument("--out", type=Path, default=HERE / "scale.json")
    args = parser.parse_args()
    with Postgres() as server:
        storage = server.database()
        opened = open_storage(storage)
        study = optuna.create_study(study_name="large", storage=opened)
        study.add_trials(list(_trials(args.trials)))
        results = {
            "command": " ".join(["python", *sys.argv]),
            "reading": json.loads(_run(READER, storage)),
            "statements and commits of a trial": {who: _counted(server, who) for who in ("optuna", "tpe", "policy")},
            f"attributes written a second, {args.clients} clients": _written(storage, args.clients),
        }
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


def _trials(count: int) -> Iterator[FrozenTrial]:
    chance = random.Random(0)
    for _ in range(count):
        params = {name: chance.uniform(-5.0, 5.0) for name in FLOATS}
        made = create_trial(params=params, distributions=dict(FLOATS), value=sum(params.values()))
        made.datetime_start = made.datetime_complete = datetime.now()
        yield made


def _counted(server: Postgres, who: str, trials: int = 100) -> dict[str, float]:
    """Of one worker alone."""
    storage, found = server.database(), {"statements": 0, "commits": 0}
    open_storage(storage)  # makes the tables

    def statement(*_: Any) -> None:
        found["statements"] += 1

    def commit(*_: Any) -> None:
        found["commits"] += 1

    event.listen(Engine, "before_cursor_execute", statement)
    event.listen(Engine, "commit", commit)
    work(who, storage, who, trials)
    event.remove(Engine, "before_cursor_execute", statement)
    event.remove(Engine, "commit", commit)
    return {name: round(count / trials, 1) for name, count in found.items()}


def _written(storage: str, clients: int) -> float:
    processes = [
        subprocess.Popen([sys.executable, "-c", CLIENT, storage], stdout=subprocess.PIPE) for _ in range(clients)
    ]
    return round(sum(int(process.communicate()[0]) for process in processes) / 10)


def _run(program: str, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], check=True, capture_output=True, text=True
    ).stdout


if __name__ == "__main__":
    main()
