from __future__ import annotations

import pickle
from collections.abc import Mapping

import gymnasium
import metatuner.envs  # noqa: F401 - registers the environments
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from metatuner.envs.builtin_tasks import builtin_task
from metatuner.envs.errors import ConfigurationError, SearchSpaceError, TrainingError
from metatuner.envs.references import DECAY, stable_decay
from metatuner.envs.schedule import ScheduleEnv
from metatuner.envs.signals import Interval
from metatuner.envs.training import Values
from optuna.distributions import CategoricalDistribution, FloatDistribution
from stable_baselines3.common.env_checker import check_env as check_env_sb3


def make(**options: object) -> ScheduleEnv:
    return ScheduleEnv("iris", **{"decisions": 6, "interval": 4, **options})  # type: ignore[arg-type]


def test_both_checkers_pass_without_a_warning() -> None:
    made = gymnasium.make("metatuner/Schedule-v0", task="iris", decisions=4, interval=3)
    check_env(made.unwrapped)
    check_env_sb3(made.unwrapped)


def test_rewards_add_up_to_the_log_ratio_of_validation_losses() -> None:
    env = make()
    _, info = env.reset(seed=1, options={"config": {"lr": 0.01}})
    start, total, terminated = info["val_loss"], 0.0, False
    while not terminated:
        _, reward, terminated, truncated, info = env.step(env.action_space.sample() * 0.3)
        total += reward
        assert not truncated
    assert total == pytest.approx(np.log(start / info["val_loss"]))


class Falling:
    """A training whose validation losses are given."""

    adaptive = 1.0

    def __init__(self, losses: list[float]) -> None:
        self._losses = losses

    def start(self, config: Mapping[str, float], seed: int) -> Interval:
        self._left = iter(self._losses)
        return Interval.of(val_loss=next(self._left))

    def advance(self, hyperparameters: Values, steps: int) -> Interval:
        loss = next(self._left)
        return Interval.of(first_loss=1.0, train_loss=1.0, early_loss=1.0, late_loss=1.0, val_loss=loss)

    def snapshot(self) -> object:
        return None

    def restore(self, snapshot: object) -> None:
        pass

    def close(self) -> None:
        pass


def test_losses_that_cannot_be_compared_end_the_episode() -> None:
    def env(*losses: float) -> ScheduleEnv:
        return ScheduleEnv(Falling(list(losses)), adjust=("lr",), decisions=3, interval=2)

    still = np.zeros(1, np.float32)
    falls = env(1.0, 0.0, -1.0)
    falls.reset(seed=0)
    assert falls.step(still)[1] > 0  # a loss of exactly 0, such as a hinge's, is the best there is
    with pytest.raises(TrainingError, match="must not be negative"):
        falls.step(still)
    with pytest.raises(TrainingError, match="infinite"):
        env(np.inf, 1.0).reset(seed=0)


def test_it_can_be_pickled() -> None:
    env = make()
    env.reset(seed=3)
    copied = pickle.loads(pickle.dumps(env))
    action = np.full(3, 0.1, dtype=np.float32)
    assert np.array_equal(copied.step(action)[0], env.step(action)[0])


def test_a_seed_reproduces_an_episode_bit_for_bit() -> None:
    def episode() -> list[object]:
        env = make()
        seen: list[object] = [env.reset(seed=7)[0].tolist()]
        for i in range(6):
            observation, reward, *_ = env.step(np.full(3, 0.1 * i, dtype=np.float32))
            seen += [observation.tolist(), reward]
        return seen

    assert episode() == episode()


@pytest.mark.parametrize("reference", ["constant", "cosine"])
def test_zero_adjustment_is_the_reference(reference: str) -> None:
    config, steps = {"lr": 0.02, "weight_decay": 0.0, "momentum": 0.9}, 6 * 4
    env = make(reference=reference)
    env.reset(seed=0, options={"config": config, "seed": 11})
    losses = [env.step(np.zeros(3, dtype=np.float32))[4]["val_loss"] for _ in range(6)]
    bare = builtin_task("iris")
    bare.start(config, seed=11)
    fractions = np.arange(steps) / steps
    rates = 0.02 * 0.5 * (1 + np.cos(np.pi * fractions)) if reference == "cosine" else np.full(steps, 0.02)
    expected = [bare.advance({"lr": rates[i : i + 4].tolist()}, 4).val_loss[0] for i in range(0, steps, 4)]
    assert losses == expected


def test_a_reference_that_stays_and_decays_is_one_and_then_falls_to_nothing() -> None:
    assert stable_decay([0.0, 0.3, 1.0 - DECAY]).tolist() == [1.0, 1.0, 1.0]
    assert stable_decay(1.0 - DECAY / 2) == pytest.approx(0.5)
    assert stable_decay(1.0) == 0.0


def test_the_reset_tells_the_reference_where_the_constructor_leaves_it_open() -> None:
    def last_rate(env: ScheduleEnv, **options: object) -> float:
        env.reset(seed=0, options={"config": {"lr": 1e-3, "weight_decay": 1e-4, "momentum": 0.9}, **options})
        for _ in range(6):
            *_, info = env.step(np.zeros(3, dtype=np.float32))
        return float(info["hyperparameters"]["lr"])

    assert last_rate(make()) == 1e-3
    assert last_rate(make(), reference="stable_decay") == pytest.approx(1e-3 / 24 / DECAY)
    assert last_rate(make(reference="constant"), reference="stable_decay") == 1e-3
    with pytest.raises(ConfigurationError, match="stable_decay"):
        make().reset(options={"reference": "linear"})


def test_divergence_is_rolled_back_and_the_episode_goes_on() -> None:
    env = ScheduleEnv(builtin_task("iris", "sgd"), decisions=6, interval=4)
    _, info = env.reset(seed=0, options={"config": {"lr": 1e9}})
    rates, flags = [], []
    for _ in range(6):
        _, reward, terminated, _, info = env.step(np.array([-1.0, 0.0, 0.0], dtype=np.float32))
        rates.append(info["hyperparameters"]["lr"])
        flags.append(info["diverged"])
        assert np.isfinite(reward)
    assert terminated
    assert flags[0]
    # A move down of 3 and a cut of 4 after each divergence.
    assert rates[1] == pytest.approx(rates[0] / 12)


def test_any_subset_of_hyperparameters() -> None:
    env = make(adjust=("momentum", "lr"), space={"lr": FloatDistribution(1e-3, 1e-1, log=True)})
    assert env.action_space.shape == (2,)
    env.reset(seed=0)
    for _ in range(5):
        info = env.step(np.array([0.0, 1.0], dtype=np.float32))[4]
    assert info["hyperparameters"]["lr"] == pytest.approx(0.1)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least 1"):
        make(decisions=0)
    with pytest.raises(ConfigurationError, match="references"):
        make(reference="linear")
    with pytest.raises(ConfigurationError, match="starting value for dropout"):
        make(adjust=("lr", "dropout"))
    with pytest.raises(SearchSpaceError, match="must start from"):
        make(start={"lr": CategoricalDistribution([1, 2]), "weight_decay": 0.0, "momentum": 0.9}).reset(seed=0)
    for wrong in ({"decisions": 2.5}, {"interval": 1.5}, {"decisions": True}):
        with pytest.raises(ConfigurationError, match="whole number"):
            make(**wrong)
    with pytest.raises(SearchSpaceError, match=r"\['lrr'\], which are not among"):
        make(space={"lrr": FloatDistribution(1e-5, 1.0, log=True)})
    env = make(decisions=1)
    for start in (-1.0, float("nan"), float("inf"), "fast"):
        with pytest.raises(SearchSpaceError, match="start of 'lr'"):
            env.reset(seed=0, options={"config": {"lr": start}})
    env.reset(seed=0)
    for action in (np.zeros(2), np.zeros((1, 3)), np.full(3, np.nan)):
        with pytest.raises(ConfigurationError, match="finite numbers, one a hyperparameter"):
            env.step(action)
    env.step(np.zeros(3, dtype=np.float32))
    with pytest.raises(ConfigurationError, match="reset"):
        env.step(np.zeros(3, dtype=np.float32))


def test_after_a_rollback_the_validation_loss_is_that_of_the_weights_that_are_left() -> None:
    env = make(decisions=2, start={"lr": 0.01, "weight_decay": 0.0, "momentum": 0.9})
    _, info = env.reset(seed=0, options={"config": {"lr": 1e30}})
    start = info["val_loss"]
    *_, info = env.step(np.zeros(3, dtype=np.float32))
    assert info["diverged"] and info["val_loss"] == start


def test_a_step_before_the_first_reset_and_an_unknown_option_are_refused() -> None:
    env = make()
    with pytest.raises(ConfigurationError, match=r"call reset\(\) first"):
        env.step(np.zeros(3, dtype=np.float32))
    with pytest.raises(ConfigurationError, match=r"got \['confg'\]"):
        env.reset(seed=0, options={"confg": {}})
    with pytest.raises(ConfigurationError, match="expected a training"):
        ScheduleEnv(None)  # type: ignore[arg-type]
