"""One rank of a distributed training on loopback: trains, checkpoints, resumes; can be killed at any time.

python ddp_loop.py RANK SETTINGS   (a JSON object, see `main`)
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from metatuner.agent.adaptive_schedule import AdaptiveSchedule
from torch import nn
from torch.nn.parallel import DistributedDataParallel

calls = {"all_reduce": 0, "broadcast": 0}


class Count:
    """A recorder that counts."""

    records = 0

    def record(self, record: object, /) -> None:
        self.records += 1


def counted(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        calls[name] += 1
        return function(*args, **kwargs)

    return call


def digest(tensors: list[torch.Tensor]) -> str:
    return hashlib.sha256(b"".join(t.detach().cpu().numpy().tobytes() for t in tensors)).hexdigest()


def last_step_of_all(folder: Path, ranks: int) -> int:
    steps = [{int(f.stem.split("-")[1]) for f in folder.glob(f"rank{rank}-*.pt")} for rank in range(ranks)]
    return max(set.intersection(*steps), default=0)


def main(
    rank: int,
    folder: str,
    meeting: str,
    policy: str,
    steps: int = 60,
    pause: float = 0.0,
    spoil: int = -1,
    first_only: bool = False,
    horizon_of: dict[str, int] | None = None,
    device: str = "cpu",
    late: bool = False,
    lonely: bool = False,
) -> None:
    """Trains `steps` steps with 2 ranks; rank 1 tells that its loss at step `spoil` is NaN.

    `first_only`: all ranks resume from the first rank's state. `horizon_of`: another total_steps for a rank.
    `late`: the schedule is made before the process group. `lonely`: the first rank alone loads its schedule's state.
    """
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    early = nn.Linear(8, 3)
    early_optimizer = torch.optim.AdamW(early.parameters())
    early_tuner = AdaptiveSchedule(early_optimizer, steps, policy) if late else None
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    for name in calls:
        setattr(dist, name, counted(name, getattr(dist, name)))
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(200, 8, generator=generator)
    y = (x[:, :3] @ torch.randn(3, 3, generator=generator)).argmax(1)
    x, y = x.to(device), y.to(device)
    generator.manual_seed(rank)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3)).to(device)
    wrapped = DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(wrapped.parameters(), lr=1e-3)
    recorder = Count()
    tuner = AdaptiveSchedule(optimizer, (horizon_of or {}).get(str(rank), steps), policy, recorder=recorder)
    home = Path(folder)
    if start := last_step_of_all(home, 2):
        state = torch.load(home / f"rank{0 if first_only else rank}-{start}.pt", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if rank == 0 or not lonely:
            tuner.load_state_dict(state["tuner"])
        generator.set_state(torch.load(home / f"rank{rank}-{start}.pt", weights_only=True)["generator"])
    if early_tuner is not None:
        early(x[:16].cpu()).sum().backward()
        early_optimizer.step()
    dist.barrier()
    with (home / f"rank{rank}.log").open("a", encoding="utf-8") as log:
        while tuner.steps < steps:
            rows = torch.randint(0, 150, (16,), generator=generator)
            loss = nn.functional.cross_entropy(wrapped(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            told = loss.detach() * (torch.nan if rank == 1 and tuner.steps == spoil else 1.0)
            tuner.step(told)
            if tuner.steps % 7 == 0:
                with torch.no_grad():
                    mine = slice(150 + 25 * rank, 175 + 25 * rank)
                    tuner.validate(nn.functional.cross_entropy(model(x[mine]), y[mine]))
            weights = digest(list(model.parameters()))
            log.write(json.dumps([tuner.steps, loss.item(), tuner.values, tuner.signals, weights]) + "\n")
            log.flush()
            if tuner.steps % 5 == 0:
                state = {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "tuner": tuner.state_dict(),
                    "generator": generator.get_state(),
                }
                torch.save(state, home / f"rank{rank}.tmp")
                (home / f"rank{rank}.tmp").replace(home / f"rank{rank}-{tuner.steps}.pt")
            time.sleep(pause)
        tuner.close()
    (home / f"rank{rank}.json").write_text(json.dumps({"records": recorder.records, "calls": calls}))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), **json.loads(sys.argv[2]))
