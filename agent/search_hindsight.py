"""What a search should have done, seen from behind: of a generated task it is known how good every move would be.

Searches are made as the rule would, or as a network that has learnt already, now and then otherwise. Of each move that
they might have made the true regret is told, and the network learns by how much the expected improvement that its
surrogate foretells is too large or too small: the logarithm of their ratio is added to the rule's, as nothing else is
known of what a move tells or costs. A choice among moves needs ratios only, so the likelihood is a multinomial one of
where the gain lies (as a Poisson regression's is, given the sum; Birch 1963). Truth instead of returns: a single search
has hundreds of labels, without noise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..envs.errors import CheckpointError
from ..envs.search import SearchEnv
from ..envs.search_moves import CONTEXT, FEATURES, MOVES
from ..envs.search_task import SearchTasks
from ..envs.worker_process import Crew
from .meta_training import Progress
from .search_actor import NATS, SHARPNESS, SearchActor, SearchActorShape
from .search_checkpoint import SearchCheckpoint

_OTHERWISE = (0.0, 0.15, 0.4)  # shares of a search's moves that are drawn from the scores, not the best one
_TEMPERATURE = 4.0  # of those draws
_PART = "hindsight-{}-{}.safetensors"
_NO_GAIN, _FLOOR = 1e-3, 0.03  # of log regret; and the regret below which one is as good as another
_EPOCHS, _BATCH, _PEAK = 5, 256, 2e-3
_POSSIBLE, _PROMISED = FEATURES.index("possible"), FEATURES.index("log_final_improvement")


@dataclass(frozen=True)
class Hindsight:
    """Moves that might have been made, of n states of searches.

    Attributes:
        observations: Of the search environment, shape (n, MOVES * f + c).
        gains: By how much each move's full training would lower the incumbent's log regret, shape (n, MOVES).
    """

    observations: NDArray[np.float16]
    gains: NDArray[np.float16]

    def __len__(self) -> int:
        return len(self.observations)

    @classmethod
    def joined(cls, parts: Sequence[Hindsight]) -> Hindsight:
        """All of them."""
        return cls(
            np.concatenate([each.observations for each in parts]), np.concatenate([each.gains for each in parts])
        )


def look_back(
    tasks: SearchTasks,
    moves: int,
    seed: int,
    folder: Path,
    run: str,
    *,
    actor: SearchActor | None = None,
    time: int = 0,
    searches: int = 16,
    workers: int = 1,
    progress: Progress | None = None,
) -> Hindsight:
    """Searches until there are so many moves; goes on from what lies in a folder.

    Args:
        tasks: What is searched.
        moves: How many moves to look back on; all of those of the last searches count.
        seed: Tasks, budgets and choices follow from it.
        folder: Where parts of it are kept, until `forget`.
        run: What tells this run from others.
        actor: Whose searches they are; None: the rule's.
        time: Which time it is that the run looks back.
        searches: How many there are in a part.
        workers: Processes that search; the result is the same for any number.
        progress: Told after every few searches.

    Raises:
        CheckpointError: A part in the folder is damaged, or belongs to another run.
    """
    parts: list[Hindsight] = []
    done = 0
    with Crew(_Watcher(tasks, actor or SearchActor(SearchActorShape())), workers) as crew:
        while not parts or done < moves:
            file = SearchCheckpoint(folder / _PART.format(time, len(parts)), run)
            part = _kept(file, folder)
            if part is None:
                begun = [(seed, time, len(parts) * searches + i) for i in range(searches)]
                part = Hindsight.joined(crew.call("of", begun))
                file.write(len(part), {name: torch.from_numpy(each) for name, each in vars(part).items()})
            parts.append(part)
            done += len(part)
            if progress is not None:
                progress(min(done, moves), moves, math.nan)
    return Hindsight.joined(parts)


def _kept(file: SearchCheckpoint, folder: Path) -> Hindsight | None:
    found = file.read()
    if found is None:
        return None
    moves, tensors = found
    told = {name: (each.dtype, tuple(each.shape)) for name, each in tensors.items()}
    size = MOVES * len(FEATURES) + len(CONTEXT)
    if told != {"observations": (torch.float16, (moves, size)), "gains": (torch.float16, (moves, MOVES))}:
        raise CheckpointError(f"a part of what was looked back on in {folder} is damaged: begin anew with --fresh")
    return Hindsight(**{name: each.numpy() for name, each in tensors.items()})


def forget(folder: Path) -> None:
    """Removes what `look_back` has kept."""
    for path in folder.glob(_PART.format("*", "*")):
        path.unlink()


class _Watcher:
    """Searches, and notes what might have been; lives in any process."""

    def __init__(self, tasks: SearchTasks, actor: SearchActor) -> None:
        self._tasks, self._actor = tasks, actor

    def of(self, seed: tuple[int, ...]) -> Hindsight:
        random = np.random.default_rng(seed)
        env = SearchEnv(families=self._tasks)
        otherwise = random.choice(_OTHERWISE)
        observation, info = env.reset(seed=int(random.integers(2**31)))
        observations, gains, done = [], [], False
        while not done:
            with np.errstate(invalid="ignore"):  # of impossible moves nothing is known
                fall = np.log((info["regret"] + _FLOOR) / (env.regrets() + _FLOOR))
            observations.append(observation.astype(np.float16))
            gains.append(np.maximum(np.nan_to_num(fall), 0.0).astype(np.float16))
            scores = np.where(env.action_masks(), self._scores(observation), -np.inf)
            observation, _, done, _, info = env.step(_chosen(scores, otherwise, random))
        return Hindsight(np.stack(observations), np.stack(gains))

    @torch.no_grad()
    def _scores(self, observation: NDArray[np.float32]) -> NDArray[np.float64]:
        scores: NDArray[np.float64] = self._actor(torch.from_numpy(observation)[None])[0].double().numpy()
        return scores


def _chosen(scores: NDArray[np.float64], otherwise: float, random: np.random.Generator) -> np.int64:
    if random.random() >= otherwise:
        return np.int64(scores.argmax())
    weights = np.exp((scores - scores.max()) / _TEMPERATURE)
    return np.int64(random.choice(MOVES, p=weights / weights.sum()))


def learn_from_hindsight(actor: SearchActor, hindsight: Hindsight, seed: int) -> None:
    """Fits what a network adds to the rule; where nothing could be gained, nothing is learnt.

    Args:
        actor: The network, which is changed.
        hindsight: What to learn from.
        seed: The order of the moves follows from it.
    """
    useful = hindsight.gains.sum(1, dtype=np.float32) > _NO_GAIN
    observations = torch.from_numpy(hindsight.observations[useful])
    gains = torch.from_numpy(hindsight.gains[useful]).float()
    if not len(gains):
        return
    total = gains.sum(1, keepdim=True)
    # Where much can be gained the choice matters more, but a few hopeless beginnings shall not be all that matters.
    weights = total[:, 0].sqrt()
    shares, weights = gains / total, weights / weights.mean()
    batch = min(_BATCH, len(gains))
    steps = _EPOCHS * (len(gains) // batch)
    optimizer = torch.optim.AdamW(actor.parameters(), _PEAK, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _PEAK, total_steps=steps + 1)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(_EPOCHS):
        order = torch.randperm(len(gains), generator=generator)
        for places in order[: len(gains) // batch * batch].reshape(-1, batch):
            likely = torch.log_softmax(_foretold(actor, observations[places].float()), dim=1)
            loss = -(weights[places] * (shares[places] * likely).sum(1)).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()


def _foretold(actor: SearchActor, observations: Tensor) -> Tensor:
    """Log of the improvement that each move promises, corrected by what the network adds, shape (n, MOVES)."""
    features, _ = actor.encoder.split(observations)
    promised = NATS * features[..., _PROMISED] + actor.added(observations) * NATS / SHARPNESS
    return promised.masked_fill(features[..., _POSSIBLE] < 0.5, -torch.inf)
