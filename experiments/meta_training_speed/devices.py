"""Is a GPU worth it for meta-training? The environment alone, in one process, on each device.

OMP_NUM_THREADS=1 python experiments/meta_training_speed/devices.py --devices cpu cuda
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from metatuner.agent.meta_training import MetaTrainingSettings, environment
from metatuner.envs.families import Split, SyntheticTasks

HERE = Path(__file__).parent


def main() -> None:
    """Measures, and writes what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", nargs="+", default=["cpu"])
    parser.add_argument("--group-sizes", type=int, nargs="+", default=[16, 128])
    parser.add_argument("--episodes", type=int, default=2, help="of each, after one that warms up")
    parser.add_argument("--out", type=Path, default=HERE / "devices.json")
    args = parser.parse_args()
    torch.set_num_threads(1)
    names = {device: _name(device) for device in args.devices}
    rates: dict[str, dict[int, list[float]]] = {device: {size: [] for size in args.group_sizes} for device in names}
    for size in args.group_sizes:
        for device in names:
            rates[device][size] = decisions_per_second(device, size, args.episodes)
            print(f"{device}, groups of {size}: {rates[device][size]} decisions/s", flush=True)
        found = {"devices": names, "torch": torch.__version__, "decisions a second": rates}
        args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def decisions_per_second(device: str, group_size: int, episodes: int) -> list[float]:
    """Of each episode: the same task groups on every device."""
    settings = replace(MetaTrainingSettings(), group_size=group_size)
    family = SyntheticTasks(Split.TRAIN, settings.horizon, settings.copies, device=device)
    env = environment(settings, family, 1)
    rng, rates = np.random.default_rng(0), []
    try:
        env.reset()
        for _ in range(1 + episodes):
            began, decisions = time.perf_counter(), env.decisions
            # The last step of an episode begins the next one.
            for _ in range(decisions):
                env.step(rng.uniform(-1, 1, (env.num_envs, *env.action_space.shape)).astype(np.float32))
            rates.append(round(decisions * env.num_envs / (time.perf_counter() - began), 1))
        return rates[1:]
    finally:
        env.close()


def _name(device: str) -> str:
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else device


if __name__ == "__main__":
    main()
