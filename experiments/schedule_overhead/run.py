"""What AdaptiveSchedule costs: the same training with and without it, in turn, in one process.

For each case two copies of a model of 10 million parameters train side by side, on labels that no one can learn: a
loss that vanishes brings denormal numbers, which are slow, and the two would not do the same work any more. Steps with
and without alternate, and swap who goes first, so that a busy machine slows down both. A pair is one interval of each:
as many steps as lie between two decisions, one decision and one rollback copy among them. Time is processor time.

    OMP_NUM_THREADS=1 python experiments/schedule_overhead/run.py
"""

from __future__ import annotations

import itertools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from metatuner.agent.adaptive_schedule import AdaptiveSchedule
from metatuner.agent.policy import DEFAULT_POLICY, Policy
from optuna.distributions import FloatDistribution
from torch import Tensor, nn

HERE = Path(__file__).parent
INTERVALS = (20, 50, 100)
SECONDS = float(os.environ.get("SECONDS_PER_CASE", "60"))
"""About how long one case is timed."""

BATCHES = 64

Step = Callable[[], Tensor]


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


def steps_of(model: str, optimizer: str, interval: int, tuned: Literal["rollback", "cut"] | None) -> Step:
    """A training; each call takes one step."""
    torch.manual_seed(0)
    net, x, y = MODELS[model]()
    made, tuner = OPTIMIZERS[optimizer](net.parameters()), None
    if tuned:
        policy = Policy.load(DEFAULT_POLICY)
        # So long that it never ends here; only the length of an interval matters.
        policy = Policy("endless", policy.actor, 10**6, policy.card)
        space = {"lr": FloatDistribution(1e-6, 1e-3, log=True)}
        tuner = AdaptiveSchedule(made, interval * 10**6, policy, on_divergence=tuned, space=space)

    batches = itertools.cycle(zip(x, y, strict=True))

    def step() -> Tensor:
        inputs, targets = next(batches)
        loss = nn.functional.cross_entropy(net(inputs), targets)
        made.zero_grad()
        loss.backward()
        made.step()
        if tuner is not None:
            tuner.step(loss)
        return loss

    return step


def timed_pair(bare: Step, tuned: Step, steps: int) -> tuple[float, float]:
    """Processor time of so many steps of each, in seconds."""
    spent = {bare: 0.0, tuned: 0.0}
    for i in range(steps):
        for step in (bare, tuned) if i % 2 else (tuned, bare):
            start = time.process_time()
            step()
            spent[step] += time.process_time() - start
    return spent[bare], spent[tuned]


def compare(model: str, optimizer: str, interval: int, on_divergence: Literal["rollback", "cut"]) -> dict[str, Any]:
    """Times one case."""
    bare = steps_of(model, optimizer, interval, None)
    with_tuner = steps_of(model, optimizer, interval, on_divergence)
    # The first two intervals allocate what later ones use again.
    once = sum(timed_pair(bare, with_tuner, 2 * interval)) / 2
    load = os.getloadavg()[0]
    pairs = [timed_pair(bare, with_tuner, interval) for _ in range(max(6, round(SECONDS / once)))]
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
    """Times all cases and writes results.json."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    cases: list[tuple[str, str, int, Literal["rollback", "cut"]]] = [
        ("MLP", optimizer, interval, how)
        for optimizer in OPTIMIZERS
        for interval in INTERVALS
        for how in ("rollback", "cut")
    ]
    cases += [("transformer", "AdamW", interval, "rollback") for interval in (20, 50)]
    results = []
    for case in cases:
        results.append(compare(*case))
        print(json.dumps(results[-1]), flush=True)
    machine = {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    text = json.dumps({"machine": machine, "cases": results}, indent=1) + "\n"
    (HERE / "results.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
