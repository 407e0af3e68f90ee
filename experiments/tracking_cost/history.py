"""What reading the past costs: 10,000 runs with 500,000 points of a metric, from an SQLite file and from a server.

    python experiments/tracking_cost/history.py [--runs 10000]

The runs are written by bare SQL (MLflow would take minutes): 10 params, 8 tags, a metric of 50 points each. The server
has one worker. Prints seconds, and the processor's seconds in this process, without and with curves.
"""

from __future__ import annotations

import argparse
import contextlib
import sqlite3
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

from metatuner.tracking.history import read_history
from metatuner.tracking.store import connect, resolve
from metatuner.tracking.ui import UiServer

PARAMS, TAGS, POINTS = 10, 8, 50


def fill(database: Path, runs: int) -> None:
    """Makes a store with these runs: copies of one that MLflow has made, so that every column is as it makes them."""
    client = connect(resolve(f"sqlite:///{database}"))
    run_id = client.create_run(client.create_experiment("past")).info.run_id
    client.log_metric(run_id, "val/loss", 1.0)
    client.log_param(run_id, "p", 1)
    client.set_terminated(run_id)
    with contextlib.closing(sqlite3.connect(database)) as connection:
        connection.row_factory = sqlite3.Row
        ids = [uuid.uuid4().hex for _ in range(runs)]
        steps = [{"step": step, "timestamp": step, "value": 1 / (step + 1)} for step in range(POINTS)]
        for table, changes in {
            "runs": [{}],
            "params": [{"key": f"p{i}"} for i in range(PARAMS)],
            "tags": [{"key": f"t{i}"} for i in range(TAGS)],
            "metrics": steps,
            "latest_metrics": steps[-1:],
        }.items():
            row = dict(connection.execute(f"SELECT * FROM {table} WHERE run_uuid = ?", (run_id,)).fetchone())
            copies = [tuple({**row, **change, "run_uuid": i}.values()) for i in ids for change in changes]
            connection.executemany(f"INSERT INTO {table} VALUES ({','.join('?' * len(row))})", copies)
        connection.commit()


def seconds(uri: str, **options: Any) -> str:
    """Of reading everything once."""
    begun, used = time.perf_counter(), time.process_time()
    trials = points = 0
    for trial in read_history("past", tracking_uri=uri, **options):
        trials += 1
        points += sum(map(len, trial.curves.values()))
    elapsed, used = time.perf_counter() - begun, time.process_time() - used
    return f"{trials:,} trials, {points:,} points: {elapsed:.1f} s, of which this process worked {used:.1f} s"


def main() -> None:
    """Fills a store and reads it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="metatuner-") as folder:
        database = Path(folder) / "mlflow.db"
        uri = f"sqlite:///{database}"
        connect(resolve(uri)).search_experiments(max_results=1)
        fill(database, args.runs)
        with UiServer(uri, port=0) as server:
            for name, address in (("file", uri), ("server", server.url)):
                print(name, seconds(address), flush=True)
                print(name, seconds(address, with_curves=["val/loss"]), flush=True)


if __name__ == "__main__":
    main()
