"""Meta-training of a search policy: PPO with masked moves on generated tasks.

A run goes on from its last checkpoint. Rewards are undiscounted over whole searches; budgets are drawn from a single
training to dozens, so that one policy learns to spend any of them.
"""

from __future__ import annotations

import json
import math
import platform
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
from sb3_contrib import MaskablePPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from ..envs.errors import CheckpointError, ConfigurationError
from ..envs.families import Split
from ..envs.records import Artifact, Metrics, NullRecorder, Recorder
from ..envs.search_families import SearchFamilies
from ..envs.search_task import SearchTasks
from .meta_training import Progress, RecorderOutput
from .run_folder import CHECKPOINT
from .search_actor import SearchActor, SearchActorShape
from .search_actor_critic import SearchActorCritic
from .search_evaluation import evaluate_search, trust_what_pays
from .search_policy import SearchPolicy
from .search_vec_env import SearchVecEnv

_MOVES = 128  # of each search between two updates
_MOST_STEPS = 2**62


@dataclass(frozen=True)
class SearchTrainingSettings:
    """What a run follows from.

    Attributes:
        steps: Moves to learn from, in all searches together; the last update may exceed them.
        seed: Tasks, initial weights and exploration follow from it.
        searches: Searches side by side.
        learning_rate: PPO's at the start; it falls linearly to a twentieth.
        epochs: PPO's passes over each update's moves.
        width: Units of each hidden layer.
    """

    steps: int = 150_000
    seed: int = 0
    searches: int = 16
    learning_rate: float = 1e-3
    epochs: int = 4
    width: int = 64

    def __post_init__(self) -> None:
        for name in ("steps", "searches", "epochs", "width"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def command(self) -> str:
        """The command that makes this run."""
        return f"metatuner train search --steps {self.steps} --seed {self.seed} --out DIR"


def train_search_policy(
    settings: SearchTrainingSettings,
    out: str | Path,
    *,
    name: str = "search",
    resume: bool = True,
    checkpoint_every: int = 1,
    evaluation_tasks: int = 100,
    recorder: Recorder | None = None,
    trial: int = 0,
    progress: Progress | None = None,
    workers: int = 1,
) -> SearchPolicy:
    """Trains a policy and saves it, with its card, into a folder.

    Args:
        settings: What the run follows from.
        out: The policy's folder; checkpoints lie in it while the run lasts.
        name: The policy's name on its card.
        resume: Go on from a checkpoint found in `out`; otherwise begin afresh.
        checkpoint_every: Updates between checkpoints.
        evaluation_tasks: Tasks of the validation split, which tell how much of what was learnt is kept, and of the
            held-out one, to evaluate the result on; 0 keeps all, and evaluates nothing.
        recorder: Takes the learning curve, as metrics of `trial`.
        trial: The trial's number in the recorder's study.
        progress: Told after every update.
        workers: Processes that search, to learn and to evaluate; the result is the same for any number.

    Returns:
        The trained policy.

    Raises:
        CheckpointError: The checkpoint in `out` belongs to other settings.
    """
    recorder = recorder or NullRecorder()
    actor = learn_to_search(
        settings,
        out,
        resume=resume,
        checkpoint_every=checkpoint_every,
        recorder=recorder,
        trial=trial,
        progress=progress,
        workers=workers,
    )
    evaluation: dict[str, float] = {}
    if evaluation_tasks:
        trust_what_pays(actor, evaluation_tasks, workers=workers)
        for split in (Split.VALIDATION, Split.HELD_OUT):
            told = evaluate_search(actor, split, evaluation_tasks, workers)
            evaluation |= {f"{split} {k}": v for k, v in told.items()}
        recorder.record(
            Metrics(
                trial=trial,
                step=settings.steps,
                values={f"evaluation/{key}": value for key, value in evaluation.items()},
            )
        )
    card = {**search_card(settings), "trust": actor.trust.tolist(), "evaluation": evaluation}
    return keep_policy(SearchPolicy(name, actor, card), out, recorder, trial)


def learn_to_search(
    settings: SearchTrainingSettings,
    out: str | Path,
    *,
    tasks: SearchTasks | None = None,
    lessons: str = "",
    begin: SearchActor | None = None,
    resume: bool = True,
    checkpoint_every: int = 1,
    recorder: Recorder,
    trial: int = 0,
    progress: Progress | None = None,
    workers: int = 1,
) -> SearchActor:
    """Trains a network.

    Args:
        settings: What the run follows from.
        out: Where the checkpoint lies; `keep_policy` removes it.
        tasks: What a search draws its tasks from; None: generated ones.
        lessons: What tells these tasks from others, and where learning begins: a checkpoint belongs to one of them.
        begin: The network that learning begins from; None: the rule.
        resume: Go on from a checkpoint found in `out`.
        checkpoint_every: Updates between checkpoints.
        recorder: Takes the learning curve, as metrics of `trial`.
        trial: The trial's number in the recorder's study.
        progress: Told after every update.
        workers: Processes that search.

    Raises:
        CheckpointError: The checkpoint in `out` belongs to other settings, lessons or another beginning.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = _Checkpoint(out / CHECKPOINT, json.dumps({**asdict(settings), "lessons": lessons}))
    found = checkpoint.read() if resume else None
    env = _environment(settings, 0 if found is None else found[0], workers, tasks or SearchFamilies())
    try:
        model = _learner(settings, env)
        if found is not None:
            model.num_timesteps = found[0]
            checkpoint.put_into(model, found[1])
        elif begin is not None:
            _learnt(model).load_state_dict(begin.state_dict())
        model.set_logger(Logger(folder=None, output_formats=[RecorderOutput(recorder, trial)]))
        if model.num_timesteps < settings.steps:
            model.learn(
                settings.steps - model.num_timesteps,
                callback=_AfterUpdate(checkpoint, checkpoint_every, settings, progress),
                reset_num_timesteps=False,
            )
            checkpoint.write(model)
    finally:
        env.close()
    return _learnt(model).eval()


def keep_policy(policy: SearchPolicy, out: str | Path, recorder: Recorder, trial: int) -> SearchPolicy:
    """Saves a policy that has learnt in `out`, records its card, and gives it back as it is loaded from there."""
    out = Path(out)
    policy.save(out)
    recorder.record(Artifact(trial=trial, path="card.json", text=(out / "card.json").read_text(encoding="utf-8")))
    (out / CHECKPOINT).unlink(missing_ok=True)
    return SearchPolicy.load(out)


def _environment(settings: SearchTrainingSettings, done: int, workers: int, tasks: SearchTasks) -> VecEnv:
    # A resumed run meets other tasks than it has met before.
    resumed = int(np.random.SeedSequence([settings.seed, done]).generate_state(1)[0]) // 2
    return SearchVecEnv(tasks, settings.searches, resumed if done else settings.seed, workers)


def _learner(settings: SearchTrainingSettings, env: VecEnv) -> MaskablePPO:
    peak = settings.learning_rate
    return MaskablePPO(
        SearchActorCritic,
        env,
        learning_rate=lambda left: peak * (0.05 + 0.95 * max(left, 0.0)),
        n_steps=_MOVES,
        batch_size=min(512, _MOVES * settings.searches),
        n_epochs=settings.epochs,
        gamma=1.0,
        gae_lambda=0.95,
        policy_kwargs={"shape": SearchActorShape(width=settings.width)},
        stats_window_size=20 * settings.searches,
        seed=settings.seed,
        device="cpu",
    )


def _learnt(model: MaskablePPO) -> SearchActor:
    assert isinstance(model.policy, SearchActorCritic)
    return model.policy.learnt_actor()


class _AfterUpdate(BaseCallback):
    def __init__(
        self, checkpoint: _Checkpoint, every: int, settings: SearchTrainingSettings, progress: Progress | None
    ) -> None:
        super().__init__()
        self._checkpoint, self._every, self._settings, self._progress = checkpoint, every, settings, progress
        self._updates = 0

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self._updates += 1
        if self._updates % self._every == 0:
            self._checkpoint.write(self.model)

    def _on_rollout_end(self) -> None:
        if self._progress is not None:
            returns = [float(episode["r"]) for episode in self.model.ep_info_buffer or []]
            self._progress(self.num_timesteps, self._settings.steps, float(np.mean(returns)) if returns else math.nan)


class _Checkpoint:
    """What was learnt so far, as plain data."""

    def __init__(self, path: Path, settings: str) -> None:
        self._path, self._settings = path, settings

    def write(self, model: Any) -> None:
        facts = {"settings": self._settings, "steps": str(model.num_timesteps)}
        tensors = {key: value.contiguous().clone() for key, value in model.policy.state_dict().items()}
        temporary = self._path.with_suffix(".tmp")
        temporary.write_bytes(safetensors.torch.save(tensors, facts))
        temporary.replace(self._path)

    def read(self) -> tuple[int, dict[str, Tensor]] | None:
        if not self._path.exists():
            return None
        try:
            with safetensors.safe_open(self._path, "pt") as file:
                facts = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            settings, steps = facts["settings"], int(facts["steps"])
            if not 0 <= steps < _MOST_STEPS:
                raise ValueError(f"expected a number of steps, got {steps}")
        except (OSError, safetensors.SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"{self._path} is not a whole checkpoint ({error}): delete it to begin afresh"
            ) from error
        if settings != self._settings:
            raise CheckpointError(
                f"{self._path} belongs to a run with settings {settings}, not {self._settings}: give the same settings "
                "to go on with it, or another folder (or --fresh) to begin anew"
            )
        return steps, tensors

    def put_into(self, model: MaskablePPO, policy: dict[str, Tensor]) -> None:
        try:
            parts: dict[str, Any] = {**model.get_parameters(), "policy": policy}
            model.set_parameters(parts)
        except RuntimeError as error:
            raise CheckpointError(f"{self._path} does not fit its run ({error}): delete it to begin afresh") from error


def search_card(settings: SearchTrainingSettings) -> dict[str, object]:
    """What a card tells of a run."""
    return {
        "algorithm": "PPO (Schulman et al. 2017) with masked moves, sb3-contrib",
        "task_family": "SearchFamilies, split train: no real data",
        "meta_training": asdict(settings),
        "command": settings.command,
        "versions": {
            "python": platform.python_version(),
            **{each: version(each) for each in ("torch", "stable-baselines3", "sb3-contrib", "gymnasium", "numpy")},
            "platform": sys.platform,
        },
    }
