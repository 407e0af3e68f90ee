from __future__ import annotations

import numpy as np
import pytest
from metatuner.envs.families import Split, SyntheticClassification
from metatuner.envs.schedule import ScheduleEnv
from metatuner.envs.schedule_vec_env import ScheduleVecEnv

FAMILY = SyntheticClassification(intervals=(3, 5))


def make(**options: object) -> ScheduleVecEnv:
    return ScheduleVecEnv(FAMILY, **{"groups": 2, "group_size": 3, "decisions": 4, **options})  # type: ignore[arg-type]


def test_the_batch_is_the_single_environment_many_times() -> None:
    batch = make(groups=1)
    seen = batch.reset()
    group = FAMILY.sample(3, 0, 0)
    actions = np.random.default_rng(0).uniform(-0.5, 0.5, (4, 3, 3)).astype(np.float32)
    together = [(seen, np.zeros(3))]
    for action in actions:
        observation, rewards, _, infos = batch.step(action)
        last = np.stack([info.get("terminal_observation", observation[i]) for i, info in enumerate(infos)])
        together.append((last, rewards))
    for i in range(3):
        env = ScheduleEnv(group.training.twin(i), decisions=4, interval=group.interval)
        config = {name: float(values[i]) for name, values in group.start.items()}
        alone = [(env.reset(options={"config": config, "seed": group.seeds[i]})[0], 0.0)]
        alone += [env.step(action[i])[:2] for action in actions]
        for (one, reward), (all_of_them, rewards) in zip(alone, together, strict=True):
            np.testing.assert_allclose(one, all_of_them[i], atol=2e-3)
            assert reward == pytest.approx(rewards[i], abs=1e-4)


def test_episodes_end_together_and_report_their_returns() -> None:
    env = make()
    env.reset()
    total = np.zeros(6)
    for step in range(4):
        _, rewards, dones, infos = env.step(np.zeros((6, 3), dtype=np.float32))
        total += rewards
        assert dones.tolist() == [step == 3] * 6
    np.testing.assert_allclose([info["episode"]["r"] for info in infos], total, rtol=1e-5)
    assert all(info["val_loss"] > 0 and "terminal_observation" in info for info in infos)
    assert env.episode == 2


def test_an_episode_follows_from_seed_and_number_alone() -> None:
    one, other = make(seed=5), make(seed=5)
    one.reset()
    later = one.reset()
    other.episode = 1
    assert np.array_equal(other.reset(), later)
    zero = np.zeros((6, 3), dtype=np.float32)
    assert np.array_equal(one.step(zero)[0], other.step(zero)[0])
    different = make(seed=6)
    different.episode = 1
    assert not np.array_equal(different.reset(), later)


def test_a_cosine_reference_reaches_every_group_step_by_step() -> None:
    env = make(reference="cosine")
    env.reset()
    for _ in range(3):
        observation, *_ = env.step(np.zeros((6, 3), dtype=np.float32))
    assert np.all(np.isfinite(observation))


def test_splits_share_no_task() -> None:
    parts = [SyntheticClassification(split).sample(2, 0, 0) for split in Split]
    seeds = [seed for part in parts for seed in part.seeds]
    assert len(set(seeds)) == len(seeds)
