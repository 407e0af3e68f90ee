"""Chance that follows from a study's seed and a trial's number: so workers that begin together differ."""

from __future__ import annotations

import numpy as np
from optuna.samplers import BaseSampler
from optuna.samplers._lazy_random_state import LazyRandomState


def seed_for_trial(sampler: BaseSampler, seed: int, number: int) -> None:
    """Seeds what a sampler of Optuna, and those that it is made of, draw for a trial.

    Args:
        sampler: The sampler. Those that keep chance elsewhere see to it themselves, as ours do.
        seed: The study's seed.
        number: The trial's number.
    """
    drawn = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
    for part in vars(sampler).values():
        if isinstance(part, LazyRandomState):
            part.rng.seed(drawn)
        elif isinstance(part, BaseSampler):
            seed_for_trial(part, seed, number)
