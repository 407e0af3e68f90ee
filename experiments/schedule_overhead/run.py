"""What AdaptiveSchedule costs: steps of one training with and without it, in turn.

A model of 10 million parameters trains on labels that no one can learn (a loss that vanishes brings denormal numbers,
which are slow). Every other step is taken without the schedule: its hooks are unhooked and it is not told. So both
kinds of steps share the memory, the hyperparameters and, on a busy machine, the neighbours. A pair is as many steps of
each kind as lie between two decisions, one decision and one rollback copy among them. Time is processor time.

On a GPU, which works behind the processor's back, it is the steps of a whole interval that are taken with the schedule,
and then, or before, as many without. Time is that of the clock, until the GPU has done them all.

    OMP_NUM_THREADS=1 python experiments/schedule_overhead/run.py
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from metatuner.agent.adaptive_schedule import AdaptiveSchedule
from metatuner.agent.policy import DEFAULT_POLICY, Policy
from optuna.distributions import FloatDistribution
from torch import Tensor, nn

HERE = Path(__file__).parent
INTERVALS = (20, 100)
BATCHES = 64

OnDivergence = Literal["rollback", "cut"]
Case = tuple[str, str, int, OnDivergence]
"""Model, optimiser, steps between decisions, and what to do on divergence."""


class Transformer(nn.Module):
    """A small language model: 3 layers of width 512, 1000 tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(1000, 512)
        layer = nn.TransformerEncoderLayer(512, 8, 2048, 0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(512, 1000)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits, shape (sequences * tokens, 1000)."""
        out: Tensor = self.head(self.layers(self.embed(tokens))).flatten(0, 1)
        return out


def mlp() -> tuple[nn.Module, Tensor, Tensor]:
    """10.0 million parameters, 64 rows."""
    sizes = (784, 2048, 2048, 2048)
    layers = [part for i in range(3) for part in (nn.Linear(sizes[i], sizes[i + 1]), nn.ReLU())]
    return (
        nn.Sequential(*layers, nn.Linear(2048, 10)),
        torch.randn(BATCHES, 64, 784),
        torch.randint(0, 10, (BATCHES, 64)),
    )


def transformer() -> tuple[nn.Module, Tensor, Tensor]:
    """10.5 million parameters, 8 sequences of 32 tokens."""
    return Transformer(), torch.randint(0, 1000, (BATCHES, 8, 32)), torch.randint(0, 1000, (BATCHES, 256))


MODELS = {"MLP": mlp, "transformer": transformer}
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    # With weight decay, which costs SGD one more pass over the weights: it is adjusted, so both are to have some.
    "SGD with momentum": lambda p: torch.optim.SGD(p, lr=1e-4, momentum=0.9, weight_decay=1e-4),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-5),
}


class Training:
    """A training whose steps are taken with or without the schedule."""

    def __init__(
        self, model: str, optimizer: str, interval: int, on_divergence: OnDivergence, policy: str, device: str
    ) -> None:
        torch.manual_seed(0)
        self.net, *data = MODELS[model]()
        self.net.to(device)
        x, y = (part.to(device) for part in data)
        self.on_gpu = x.is_cuda
        self.optimizer = OPTIMIZERS[optimizer](self.net.parameters())
        self.batches = itertools.cycle(zip(x, y, strict=True))
        trained = Policy.load(policy)
        # So long that it never ends here; only the length of an interval matters.
        endless = Policy("endless", trained.actor, 10**6, trained.card)
        space = {"lr": FloatDistribution(1e-6, 1e-3, log=True)}
        self.tuner = AdaptiveSchedule(
            self.optimizer, interval * 10**6, endless, on_divergence=on_divergence, space=space
        )
        self.hooks = self.optimizer._optimizer_step_pre_hooks

    def steps(self, tuned: bool, count: int) -> float:
        """Takes steps; returns their time in seconds."""
        start = self._now()
        for _ in range(count):
            self._step(tuned)
        return self._now() - start

    def _now(self) -> float:
        if self.on_gpu:
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    def _step(self, tuned: bool) -> None:
        inputs, targets = next(self.batches)
        self.optimizer._optimizer_step_pre_hooks = self.hooks if tuned else OrderedDict()
        loss = nn.functional.cross_entropy(self.net(inputs), targets)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if tuned:
            self.tuner.step(loss)

    def pair(self, steps: int, turn: int) -> tuple[float, float]:
        """Time of so many steps without and with the schedule."""
        spent = [0.0, 0.0]
        at_a_time = steps if self.on_gpu else 1
        for i in range(turn, turn + steps // at_a_time):
            for tuned in (False, True) if i % 2 else (True, False):
                spent[tuned] += self.steps(tuned, at_a_time)
        return spent[0], spent[1]


def compare(case: Case, policy: str, device: str, seconds: float) -> dict[str, Any]:
    """Times one case."""
    model, optimizer, interval, on_divergence = case
    training = Training(*case, policy, device)
    # The first two intervals allocate what later ones use again.
    once = max(sum(training.pair(interval, turn)) for turn in range(2))
    load = os.getloadavg()[0]
    pairs = [training.pair(interval, turn) for turn in range(max(4, round(seconds / once)))]
    ratios = [(tuned / plain - 1) * 100 for plain, tuned in pairs]
    quartiles = statistics.quantiles(ratios, n=4)
    plain, tuned = (statistics.median(one) for one in zip(*pairs, strict=True))
    return {
        "model": model,
        "optimizer": optimizer,
        "interval": interval,
        "on_divergence": on_divergence,
        "pairs": len(pairs),
        "step_ms": round(plain / interval * 1e3, 2),
        "overhead_of_medians_percent": round((tuned / plain - 1) * 100, 2),
        "overhead_percent": round(statistics.median(ratios), 2),
        "quartiles_percent": [round(quartiles[0], 2), round(quartiles[2], 2)],
        "load_before": round(load, 2),
    }


def main() -> None:
    """Times all cases and writes what came of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="where to train (default: %(default)s)")
    parser.add_argument("--policy", default=DEFAULT_POLICY, help="name or folder (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60.0, help="about how long a case is timed")
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    cases: list[Case] = [
        ("MLP", optimizer, interval, how)
        for optimizer in OPTIMIZERS
        for interval in INTERVALS
        for how in ("rollback", "cut")
    ]
    cases += [("transformer", "AdamW", interval, "rollback") for interval in INTERVALS]
    results = []
    for case in cases:
        results.append(compare(case, args.policy, args.device, args.seconds))
        print(json.dumps(results[-1]), flush=True)
    machine = {
        "processor": platform.machine(),
        "device": torch.cuda.get_device_name() if args.device != "cpu" else "cpu",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    found = {"machine": machine, "policy": args.policy, "cases": results}
    args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
