"""Six workers of one study, one of which is killed every two seconds, and a database that restarts twice.

OMP_NUM_THREADS=1 python experiments/workers/chaos.py --seed 1 2 3
OMP_NUM_THREADS=1 python experiments/workers/chaos.py --seed 1 2 3 --server mysql
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from crew import Crew, found
from mysql import MySQL
from postgres import Postgres
from server import Server

HERE = Path(__file__).parent
SERVERS: dict[str, type[Postgres] | type[MySQL]] = {"postgresql": Postgres, "mysql": MySQL}


def main() -> None:
    """Runs it, looks what became of all trials, and writes `chaos.json`, or `chaos_mysql.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, nargs="+", default=[1, 2, 3], help="of whom is killed, a run each")
    parser.add_argument("--server", choices=SERVERS, default="postgresql", help="where the study lies")
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--workers", type=int, default=6)
    parser.add_argument("--strategy", default="random")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two kills")
    parser.add_argument("--limit", type=float, default=1200.0, help="seconds after which it is given up")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    results = {"command": " ".join(["python", *sys.argv]), "runs": [_run(seed, args) for seed in args.seed]}
    out = args.out or HERE / ("chaos.json" if args.server == "postgresql" else f"chaos_{args.server}.json")
    out.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


def _run(seed: int, args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="workers-chaos-") as folder, SERVERS[args.server]() as server:
        crew = Crew(Path(folder), server.database(), args.trials, args.workers, strategy=args.strategy)
        try:
            told = _live(crew, server, seed, args)
        finally:
            crew.end()
        return {"seed": seed, **told, **found(crew, args.trials)}


def _live(crew: Crew, server: Server, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Kills and restarts until the budget is spent, then lets the workers end; returns what it did."""
    chance, began, restarts = random.Random(seed), time.monotonic(), 0
    crew.fill()
    while (done := crew.done()) < args.trials:
        if time.monotonic() - began > args.limit:
            raise SystemExit(f"only {done} trials have finished in {args.limit:g} s")
        time.sleep(args.every)
        if restarts < 2 and done > args.trials * (restarts + 1) / 3:
            server.restart(crash=restarts == 1)
            restarts += 1
        crew.kill(chance.choice(crew.workers))
        crew.fill()
    spent_s = time.monotonic() - began
    return {
        "seconds": round(spent_s),
        "kills": len(crew.killed),
        "restarts of the database": restarts,
        "exit codes of the last workers": crew.codes(args.limit - spent_s),
    }


if __name__ == "__main__":
    main()
