"""A user's training loop in a process of its own: trains, checkpoints, resumes; can be killed at any time.

python loop.py CHECKPOINT LOG STEPS POLICY_FOLDER [PAUSE]
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from metatuner.agent.adaptive_schedule import AdaptiveSchedule
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR


def main(checkpoint: Path, log: Path, steps: int, policy: str, pause: float) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(200, 8, generator=generator)
    y = (x[:, :3] @ torch.randn(3, 3, generator=generator)).argmax(1)
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(0.1), nn.Linear(16, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    tuner = AdaptiveSchedule(optimizer, steps, policy, reference=CosineAnnealingLR(optimizer, steps))
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        tuner.load_state_dict(state["tuner"])
        generator.set_state(state["generator"])
        torch.set_rng_state(state["random"])
    with log.open("a", encoding="utf-8") as file:
        while tuner.steps < steps:
            rows = torch.randint(0, 150, (16,), generator=generator)
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            tuner.step(loss)
            if tuner.steps % 7 == 0:
                with torch.no_grad():
                    tuner.validate(nn.functional.cross_entropy(model(x[150:]), y[150:]))
            file.write(json.dumps([tuner.steps, loss.item(), tuner.values, tuner.signals]) + "\n")
            file.flush()
            if tuner.steps % 5 == 0:
                state = {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "tuner": tuner.state_dict(),
                    "generator": generator.get_state(),
                    "random": torch.get_rng_state(),
                }
                torch.save(state, checkpoint.with_suffix(".tmp"))
                checkpoint.with_suffix(".tmp").replace(checkpoint)
            time.sleep(pause)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4], float(sys.argv[5]))
