"""Four workers of one study, each on a wire of its own to the database that is cut, stalls or is slow, again and again.

OMP_NUM_THREADS=1 python experiments/workers/network.py --seed 1 2 3
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from crew import Crew, Machine, found
from postgres import Postgres
from wire import Wire

HERE = Path(__file__).parent
FAULTS = ("cut", "stalled for 15 s", "slow until the next fault: 0.1 s each way")
STALLED_S, DELAY_S = 15.0, 0.1


def main() -> None:
    """Runs it, looks what became of all trials, and writes `network.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, nargs="+", default=[1, 2, 3], help="of what happens to whom, a run each")
    parser.add_argument("--trials", type=int, default=120)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--every", type=float, default=3.0, help="seconds between two faults")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds after which it is given up")
    parser.add_argument("--out", type=Path, default=HERE / "network.json")
    args = parser.parse_args()
    results = {"command": " ".join(["python", *sys.argv]), "runs": [_run(seed, args) for seed in args.seed]}
    args.out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


def _run(seed: int, args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="workers-network-") as folder, Postgres() as server:
        storage = server.database()
        port = urlsplit(storage).port
        assert port is not None
        wires = [Wire(port) for _ in range(args.workers)]
        machines = [Machine(address=storage.replace(f":{port}/", f":{wire.port}/")) for wire in wires]
        crew = Crew(Path(folder), storage, args.trials, args.workers, machines=machines)
        chance, faults, began = random.Random(seed), Counter[str](), time.monotonic()
        try:
            crew.fill()
            while (done := crew.done()) < args.trials:
                if time.monotonic() - began > args.limit:
                    raise SystemExit(f"only {done} trials have finished in {args.limit:g} s")
                time.sleep(args.every)
                faults[_happens(chance, wires)] += 1
            told = {"seconds": round(time.monotonic() - began), "faults": faults}
            codes = crew.codes(args.limit)
            return {"seed": seed, **told, "exit codes": codes, **found(crew, args.trials)}
        finally:
            crew.end()
            for wire in wires:
                wire.close()


def _happens(chance: random.Random, wires: list[Wire]) -> str:
    fault, wire = chance.choice(FAULTS), chance.choice(wires)
    for each in wires:
        each.delay_s = 0.0
    if fault == FAULTS[0]:
        wire.cut()
    elif fault == FAULTS[1]:
        wire.stall(STALLED_S)
    else:
        wire.delay_s = DELAY_S
    return fault


if __name__ == "__main__":
    main()
