"""The demonstration: one adaptive run from a badly chosen learning rate against a whole learning-rate search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, TensorDataset

from ..envs import builtin_tasks
from ..envs.data_sets import data_set_used
from ..envs.errors import ConfigurationError
from ..envs.records import Description, Metrics, Recorder, StudyStarted
from .adaptive_schedule import AdaptiveSchedule
from .arguments import require_seed
from .policy import ZERO, Policy

STARTING_RATES = (1e-5, 1e-3, 1e-1)
SEARCHED_RATES = tuple(np.geomspace(1e-5, 1.0, 12).tolist())


@dataclass(frozen=True)
class DemoSettings:
    """What a demonstration follows from.

    Attributes:
        steps: Optimiser steps a run.
        optimizer: "adam", "adamw" or "sgd".
        seed: The split, the initial weights and the mini-batches follow from it.
    """

    steps: int = 1000
    optimizer: str = "adam"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ConfigurationError(f"steps must be at least 1, got {self.steps}")
        require_seed(self.seed)

    @property
    def runs(self) -> int:
        """How many trainings it takes."""
        return 2 * len(STARTING_RATES) + len(SEARCHED_RATES)


@dataclass(frozen=True)
class Run:
    """One line of the result."""

    schedule: str
    lr: float
    val_loss: float
    val_accuracy: float
    steps: int


@dataclass(frozen=True)
class DemoResult:
    """What came out.

    Attributes:
        policy: Adaptive runs, one for each of STARTING_RATES.
        cosine: Cosine runs from the same rates.
        search: Cosine runs from SEARCHED_RATES.
    """

    policy: list[Run]
    cosine: list[Run]
    search: list[Run]

    @property
    def best_of_search(self) -> Run:
        """The search's result; its cost is the whole search."""
        best = min(self.search, key=lambda run: run.val_loss)
        steps = sum(run.steps for run in self.search)
        return Run(f"best of {len(self.search)} cosines", best.lr, best.val_loss, best.val_accuracy, steps)

    def rows(self) -> list[Run]:
        """The table, line by line."""
        return [*self.policy, *self.cosine, self.best_of_search]

    def conclusions(self) -> list[str]:
        """What the table says, in words."""
        best = self.best_of_search
        lines = []
        for ours, theirs in zip(self.policy, self.cosine, strict=True):
            lines.append(
                f"from lr {ours.lr:g}: validation loss {ours.val_loss / best.val_loss:.2f} times that of the best of "
                f"{len(self.search)} (cosine from the same start: {theirs.val_loss / best.val_loss:.2f} times), for "
                f"{ours.steps / best.steps:.0%} of its optimiser steps"
            )
        return lines

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "best_of_search": asdict(self.best_of_search)}


def run_demo(
    settings: DemoSettings,
    policy: Policy,
    recorder: Recorder,
    progress: Callable[[int, str], None] = lambda done, note: None,
) -> DemoResult:
    """Trains a perceptron on scikit-learn's digits: three adaptive runs, three cosine runs, and a search of twelve.

    Args:
        settings: What to do.
        policy: The schedule policy to show.
        recorder: Takes the study.
        progress: Told after each run: runs done, and the last one's name.
    """
    recorder.record(
        StudyStarted(
            name=f"digits {settings.optimizer}: {policy.name} against cosine",
            params={**asdict(settings), "policy": policy.name, "data": "scikit-learn digits, 70 : 30 split"},
            budget=f"{settings.runs} trainings of {settings.steps:,} optimiser steps",
            command=(
                f"metatuner demo --steps {settings.steps} --optimizer {settings.optimizer} --seed {settings.seed}"
            ),
        )
    )
    for data, context in zip(_data(settings)[2:], ("training", "validation"), strict=True):
        recorder.record(data_set_used("digits", data, context=context, source="sklearn.datasets.load_digits"))
    recorder.record(Description(markdown=_introduction(settings, policy)))
    plan = [(policy, lr) for lr in STARTING_RATES]
    plan += [(Policy.load(ZERO), lr) for lr in [*STARTING_RATES, *SEARCHED_RATES]]
    runs: list[Run] = []
    for trial, (chosen, lr) in enumerate(plan):
        runs.append(_train(settings, chosen, lr, recorder, trial))
        progress(len(runs), f"{runs[-1].schedule} from {lr:g}")
    n = len(STARTING_RATES)
    result = DemoResult(runs[:n], runs[n : 2 * n], runs[2 * n :])
    recorder.record(Description(markdown=_introduction(settings, policy) + _summary(result)))
    return result


def _data(settings: DemoSettings) -> tuple[int, int, TensorDataset, TensorDataset]:
    """Features, classes, and the examples to train and to validate on."""
    inputs, targets = builtin_tasks.load_examples("digits")
    return inputs.shape[1], int(targets.max()) + 1, *builtin_tasks.split_examples(inputs, targets, settings.seed)


def _train(settings: DemoSettings, policy: Policy, lr: float, recorder: Recorder, trial: int) -> Run:
    """One training in a plain PyTorch loop. Every run of a demonstration sees the same weights and mini-batches."""
    features, classes, train, val = _data(settings)
    torch.manual_seed(settings.seed)
    model = builtin_tasks.mlp(features, classes)
    optimizer = builtin_tasks.OPTIMIZERS[settings.optimizer](model.parameters())
    for group in optimizer.param_groups:
        group["lr"] = lr
    is_cosine = policy.actor is None
    name = "cosine" if is_cosine else policy.name
    tuner = AdaptiveSchedule(
        optimizer,
        settings.steps,
        policy,
        reference=CosineAnnealingLR(optimizer, settings.steps) if is_cosine else None,
        recorder=recorder,
        trial=trial,
        name=f"{name} from {lr:.0e}",
    )
    criterion = nn.CrossEntropyLoss()
    batches = DataLoader(
        train, batch_size=32, shuffle=True, drop_last=True, generator=torch.Generator().manual_seed(settings.seed)
    )
    with tuner:
        loss, accuracy = _validate(model, val, criterion)
        tuner.validate(loss)
        while tuner.steps < settings.steps:
            for x, y in batches:
                loss_now = criterion(model(x), y)
                optimizer.zero_grad()
                loss_now.backward()
                optimizer.step()
                tuner.step(loss_now)
                if tuner.due:
                    loss, accuracy = _validate(model, val, criterion)
                    tuner.validate(loss)
                    recorder.record(Metrics(trial=trial, step=tuner.steps, values={"val/accuracy": accuracy}))
                if tuner.steps == settings.steps:
                    break
    return Run(name, lr, loss, accuracy, settings.steps)


@torch.no_grad()
def _validate(model: nn.Module, val: TensorDataset, criterion: nn.Module) -> tuple[float, float]:
    inputs, targets = val.tensors
    model.eval()
    logits = model(inputs)
    model.train()
    return float(criterion(logits, targets)), float((logits.argmax(1) == targets).float().mean())


def _introduction(settings: DemoSettings, policy: Policy) -> str:
    return (
        "# One adaptive run instead of a learning-rate search\n\n"
        f"A perceptron (64-48-48-10) learns scikit-learn's digits with {settings.optimizer}, {settings.steps} "
        f"optimiser steps a run. The policy `{policy.name}` adjusts learning rate, weight decay and momentum "
        f"{policy.decisions} times a run, starting from three learning rates, two of them badly chosen. Beside it: "
        f"cosine schedules from the same three rates, and a search over {len(SEARCHED_RATES)} rates. All runs share "
        "initial weights and mini-batches; losses are validation losses, and no test set is touched.\n\n"
        "Open a trial and look at *Model metrics*: `hp/lr` is the schedule.\n"
    )


def _summary(result: DemoResult) -> str:
    lines = ["\n| schedule | start lr | validation loss | accuracy | optimiser steps |", "|---|---|---|---|---|"]
    lines += [
        f"| {run.schedule} | {run.lr:g} | {run.val_loss:.4f} | {run.val_accuracy:.1%} | {run.steps:,} |"
        for run in result.rows()
    ]
    return "\n".join(lines) + "\n"
