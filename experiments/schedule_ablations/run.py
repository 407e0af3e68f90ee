"""What makes a schedule policy good: one thing at a time is changed, and each policy is trained equally long.

    OMP_NUM_THREADS=1 python experiments/schedule_ablations/run.py --policies FOLDER [--arms ...] [--seeds 0 1 2]

Trains what is not in FOLDER yet (a dozen minutes a policy on one core), evaluates what is not in results.jsonl yet, and
prints the tables. Several of these may run side by side, with different arms or seeds.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from metatuner.agent.evaluation import SEARCHED_RATES, final_losses, train_fixed
from metatuner.agent.meta_training import OF_OPTIMIZERS, Algorithm, MetaTrainingSettings, train_schedule_policy
from metatuner.agent.policy import Policy
from metatuner.envs.families import Architecture, Split, SyntheticTasks
from metatuner.envs.references import cosine
from metatuner.envs.signals import LOSS_FLOOR
from numpy.typing import NDArray
from scipy.stats import trim_mean
from variants import VARIANTS

Array = NDArray[np.float64]

HERE = Path(__file__).parent
HORIZON = (50, 400)
ARMS: Mapping[str, Mapping[str, Any]] = {
    "base": {},
    "reference: cosine": {"reference": "cosine"},
    "reference: stays, then decays": {"reference": "stable_decay"},
    "clear data": {"clear": True},
    "no copies of a task to be judged against": {"copies": 1},
    "advantages not scaled within a group": {"scaled": False},
    "episodes do not vary": {"varied": False},
    "horizons up to 1,600": {"horizon": (50, 1600)},
    "learns the optimiser's three alone": {"adjust": OF_OPTIMIZERS},
    "learns the learning rate alone": {"adjust": ("lr",)},
    "a memory (recurrent PPO)": {"algorithm": Algorithm.RECURRENT_PPO},
    "SAC instead of PPO": {"algorithm": Algorithm.SAC},
    **{name: {} for name in VARIANTS},
}
"""What differs from the base: settings of `MetaTrainingSettings`, or how it is trained."""

LAYERS = ("dropout", "augmentation", "label_smoothing", "clip_norm")
SUBSETS: Mapping[str, tuple[str, ...]] = {
    "lr": ("lr",),
    "lr, weight decay": ("lr", "weight_decay"),
    "lr, momentum": ("lr", "momentum"),
    "the optimiser's three": OF_OPTIMIZERS,
    **{f"the three, {name}": (*OF_OPTIMIZERS, name) for name in LAYERS},
    "all seven": (*OF_OPTIMIZERS, *LAYERS),
}
"""What one and the same policy may adjust."""

GROUPS, GROUP_SIZE = 4, 16
_TASK_SEED = 1
_RESAMPLES = 2000


class Evaluation:
    """The tasks of a split, and how good the best of twelve cosines is on each.

    Args:
        split: Which tasks.
        cache: A folder for the cosines' losses.
    """

    def __init__(self, split: Split, cache: Path) -> None:
        cache.mkdir(parents=True, exist_ok=True)
        self._families = {each: SyntheticTasks(split, HORIZON, mix={each: 1.0}) for each in Architecture}
        self._split, self._cache = split, cache

    def ratios(self, policy: Policy, adjust: Sequence[str]) -> Array:
        """Final validation losses over the search's, shape (task groups, tasks of a group)."""
        found = []
        for architecture, family in self._families.items():
            for index in range(GROUPS):
                ours = final_losses(policy, family, _TASK_SEED, index, GROUP_SIZE, adjust)
                theirs = self._searched(architecture, index, policy.decisions)
                found.append(np.maximum(ours, LOSS_FLOOR) / np.maximum(theirs, LOSS_FLOOR))
        return np.array(found)

    def _searched(self, architecture: Architecture, index: int, decisions: int) -> Array:
        path = self._cache / f"{self._split}-{architecture}-{index}.npy"
        if not path.is_file():
            group = self._families[architecture].sample(GROUP_SIZE, _TASK_SEED, index)
            np.save(path, np.min([train_fixed(group, cosine, decisions, lr) for lr in SEARCHED_RATES], axis=0))
        losses: Array = np.load(path)
        return losses


def trained(arm: str, seed: int, steps: int, folder: Path) -> Policy:
    """The policy of an arm; trained where it is not in the folder."""
    out = folder / f"{re.sub('[^a-zA-Z]+', '-', arm)}-{seed}"
    if not (out / "card.json").is_file():
        settings = MetaTrainingSettings(**{"steps": steps, "seed": seed, "horizon": HORIZON, **ARMS[arm]})
        if arm in VARIANTS:
            VARIANTS[arm](settings, out)
        else:
            train_schedule_policy(settings, out, name=arm, evaluation_groups=0)
        print(f"trained: {arm}, seed {seed}", flush=True)
    return Policy.load(out)


def interval(by_policy: Sequence[Array]) -> tuple[float, float, float]:
    """Interquartile mean over policies and tasks, and its 95 % bootstrap interval, task groups being resampled."""
    ratios, rng = np.stack(by_policy), np.random.default_rng(0)
    draws = rng.integers(ratios.shape[1], size=(_RESAMPLES, ratios.shape[1]))
    low, high = np.percentile([trim_mean(ratios[:, drawn].ravel(), 0.25) for drawn in draws], [2.5, 97.5])
    return float(trim_mean(ratios.ravel(), 0.25)), float(low), float(high)


def main() -> None:
    """Trains, evaluates, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--policies", type=Path, required=True, help="a folder for the policies")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300_000, help="decisions to learn from (default: %(default)s)")
    parser.add_argument("--results", type=Path, default=HERE / "results.jsonl")
    args = parser.parse_args()
    torch.set_num_threads(1)
    evaluations = {split: Evaluation(split, args.policies / "searches") for split in (Split.VALIDATION, Split.HELD_OUT)}
    known = _read(args.results)
    for seed in args.seeds:
        for arm in args.arms:
            subsets = SUBSETS if arm == "base" else {"the optimiser's three": OF_OPTIMIZERS}
            for subset, adjust in subsets.items():
                for split, evaluation in evaluations.items():
                    key = f"{arm} | {seed} | {args.steps} | {subset} | {split}"
                    if key in known:
                        continue
                    policy = trained(arm, seed, args.steps, args.policies)
                    known[key] = evaluation.ratios(policy, adjust)
                    _append(args.results, key, known[key])
    report(_read(args.results))


def report(known: Mapping[str, Array]) -> None:
    """Prints two tables: the arms, and what the base policy adjusts."""
    rows: dict[tuple[str, str, str], dict[str, list[Array]]] = {}
    for key, ratios in known.items():
        arm, _, steps, subset, split = key.split(" | ")
        rows.setdefault((arm, subset, steps), {}).setdefault(split, []).append(ratios)
    print("| arm | adjusted | decisions learnt from | seeds | validation (95 %) | held out (95 %) |")
    print("|---|---|---|---|---|---|")
    for (arm, subset, steps), by_split in rows.items():
        cells = ["{:.3f} ({:.3f} to {:.3f})".format(*interval(by_split[split])) for split in by_split]
        seeds = len(next(iter(by_split.values())))
        print(f"| {arm} | {subset} | {int(steps):,} | {seeds} | {' | '.join(cells)} |")


def _read(path: Path) -> dict[str, Array]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {entry["key"]: np.array(entry["ratios"]) for entry in map(json.loads, lines)}


def _append(path: Path, key: str, ratios: Array) -> None:
    rounded = [[float(f"{ratio:.4g}") for ratio in row] for row in ratios]
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"key": key, "ratios": rounded}) + "\n")


if __name__ == "__main__":
    main()
