from __future__ import annotations

import numpy as np
import pytest
import torch
from metatuner.envs.controller import HYPERPARAMETER_SIGNALS, observation_size
from metatuner.envs.errors import ConfigurationError
from metatuner.envs.families import Architecture, Split, SyntheticTasks
from metatuner.envs.schedule import ScheduleEnv
from metatuner.envs.schedule_vec_env import ScheduleVecEnv, Variation
from metatuner.envs.signals import GLOBAL_SIGNALS

FAMILY = SyntheticTasks(steps=(12, 20), mix={Architecture.PERCEPTRON: 1.0})
ALL = ("lr", "weight_decay", "momentum", "dropout", "augmentation", "label_smoothing", "clip_norm")


def make(**options: object) -> ScheduleVecEnv:
    return ScheduleVecEnv(FAMILY, **{"groups": 2, "group_size": 3, "decisions": 4, **options})  # type: ignore[arg-type]


def test_the_batch_is_the_single_environment_many_times() -> None:
    # One without dropout and noise, since what layers draw is drawn for the batch; and one that small differences, of
    # sums in another order, do not grow in.
    starts = ((seed, FAMILY.sample(3, seed, 0).start) for seed in range(100))
    seed = next(seed for seed, start in starts if "dropout" not in start and start["lr"].max() < 0.01)
    batch = make(groups=1, seed=seed)
    seen = batch.reset()
    group = FAMILY.sample(3, seed, 0)
    actions = np.random.default_rng(0).uniform(-0.5, 0.5, (4, 3, 3)).astype(np.float32)
    together = [(seen, np.zeros(3))]
    for action in actions:
        observation, rewards, _, infos = batch.step(action)
        last = np.stack([info.get("terminal_observation", observation[i]) for i, info in enumerate(infos)])
        together.append((last, rewards))
    for i in range(3):
        env = ScheduleEnv(group.training.twin(i), decisions=4, interval=group.steps // 4)
        config = {name: float(values[i]) for name, values in group.start.items()}
        alone = [(env.reset(options={"config": config, "seed": group.seeds[i]})[0], 0.0)]
        alone += [env.step(action[i])[:2] for action in actions]
        for (one, reward), (all_of_them, rewards) in zip(alone, together, strict=True):
            np.testing.assert_allclose(one, all_of_them[i], atol=2e-3)
            assert reward == pytest.approx(rewards[i], abs=1e-4)


def test_actions_and_sizes_that_do_not_fit_are_refused() -> None:
    env = make()
    with pytest.raises(ConfigurationError, match=r"call reset\(\) first"):
        env.step(np.zeros((6, 3), np.float32))
    env.reset()
    wild = np.zeros((6, 3), np.float32)
    wild[0, 0] = np.nan
    for actions in (wild, np.zeros(3), np.zeros((1, 3)), np.zeros((6, 1))):
        with pytest.raises(ConfigurationError, match=r"finite actions of shape \(6, 3\)"):
            env.step(actions)
    assert np.isfinite(env.step(np.zeros((6, 3), np.float32))[0]).all()
    assert not env.has_attr("nonsense") and env.get_attr("decisions") == [4] * 6
    for wrong in ({"groups": 0}, {"group_size": 0}, {"groups": 1.5}, {"decisions": 2.5}):
        with pytest.raises(ConfigurationError, match="at least 1"):
            make(**wrong)
    assert make(decisions=np.int64(4)).decisions == 4


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
    parts = [SyntheticTasks(split).sample(2, 0, 0) for split in Split]
    seeds = [seed for part in parts for seed in part.seeds]
    assert len(set(seeds)) == len(seeds)


def test_clear_data_let_losses_fall_further_and_leave_small_data_as_they_are() -> None:
    def falls(clear: bool) -> list[float]:
        family = SyntheticTasks(steps=(150, 200), clear=clear, mix={Architecture.PERCEPTRON: 1.0})
        found = []
        for index in range(8):
            group = family.sample(4, 5, index)
            start = {**group.start, "lr": np.full(4, 0.01 if group.training.adaptive[0] else 0.1)}
            first = group.training.start(start, group.seeds).val_loss
            last = group.training.advance({"lr": start["lr"]}, group.steps).val_loss
            found.append(float(np.median(np.log(first / np.minimum(first, last)))))
        return found

    plain, clear = falls(False), falls(True)
    assert any(a == b for a, b in zip(plain, clear, strict=True))
    assert np.mean(clear) > np.mean(plain)


def test_worker_processes_change_no_number() -> None:
    # A worker has one thread; how a sum is shared among threads changes its last digits.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    here, elsewhere = make(groups=3), make(groups=3, workers=2)
    actions = np.random.default_rng(1).uniform(-1, 1, (5, 9, 3)).astype(np.float32)
    try:
        assert np.array_equal(here.reset(), elsewhere.reset())
        for action in actions:
            one, other = here.step(action), elsewhere.step(action)
            assert np.array_equal(one[0], other[0])
            assert np.array_equal(one[1], other[1])
    finally:
        elsewhere.close()
        elsewhere.close()
        torch.set_num_threads(threads)


def test_the_number_of_decisions_varies_between_episodes_and_the_horizon_does_not_follow_it() -> None:
    env = make(decisions=(2, 6))
    lengths = []
    env.reset()
    for _ in range(4):
        lengths.append(env.decisions)
        done = False
        while not done:
            *_, dones, infos = env.step(np.zeros((6, 3), dtype=np.float32))
            done = bool(dones.all())
        assert infos[0]["episode"]["l"] == lengths[-1]
    assert min(lengths) >= 2
    assert max(lengths) <= 6
    assert len(set(lengths)) > 1
    with pytest.raises(ConfigurationError, match="the least before the most"):
        make(decisions=(6, 2))


def blocks(observation: np.ndarray) -> np.ndarray:
    """Hyperparameter blocks, shape (n, h, signals)."""
    return observation[:, len(GLOBAL_SIGNALS) :].reshape(len(observation), -1, len(HYPERPARAMETER_SIGNALS))


def test_what_a_group_lacks_or_does_not_adjust_is_all_zeros_and_stays_where_it_is() -> None:
    env = make(groups=8, adjust=ALL, variation=Variation(subsets=True))
    seen = env.reset()
    assert seen.shape == (24, observation_size(len(ALL)))
    adjusted = blocks(seen)[:, :, 0] == 1.0
    assert np.all(blocks(seen)[~adjusted] == 0.0)
    assert np.all(adjusted.any(axis=1))
    assert len({tuple(row) for row in adjusted}) > 1
    moved = blocks(env.step(np.full((24, len(ALL)), -0.5, dtype=np.float32))[0])
    last = HYPERPARAMETER_SIGNALS.index("last_adjustment")
    assert np.all(moved[adjusted][:, last] == -0.5)
    assert np.all(moved[~adjusted] == 0.0)


def test_missing_validation_and_a_hidden_horizon_hide_only_what_they_should() -> None:
    plain = make(decisions=7)
    hard = make(decisions=7, variation=Variation(validation_missing=1.0, horizon_hidden=1.0))
    at = {name: GLOBAL_SIGNALS.index(name) for name in GLOBAL_SIGNALS}
    plain.reset()
    assert np.all(hard.reset()[:, at["horizon_known"]] == 0.0)
    totals, ages, calm = np.zeros((2, 6)), [], np.ones(6, dtype=bool)
    for _ in range(7):
        for total, env in zip(totals, (plain, hard), strict=True):
            seen, rewards, _, infos = env.step(np.zeros((6, 3), dtype=np.float32))
            total += rewards
            last = np.stack([info.get("terminal_observation", seen[i]) for i, info in enumerate(infos)])
            # A validation loss that nobody hears of takes no training back.
            calm &= last[:, at["diverged"]] == 0.0
        assert np.all(last[:, [at["progress"], at["decisions_left"]]] == 0.0)
        ages.append(last[:, at["val_age"]])
    assert np.any(np.array(ages[:-1]) > 0.0)
    assert np.all(ages[-1][calm] == 0.0)
    assert calm.sum() > 2
    np.testing.assert_allclose(totals[0][calm], totals[1][calm], atol=1e-5)


@pytest.mark.parametrize("split", list(Split))
@pytest.mark.parametrize("architecture", list(Architecture))
def test_every_architecture_of_every_split_trains(architecture: Architecture, split: Split) -> None:
    family = SyntheticTasks(split, steps=(6, 9), mix={architecture: 1.0})
    env = ScheduleVecEnv(family, groups=3, group_size=2, adjust=ALL, decisions=2)
    env.reset()
    for _ in range(2):
        seen, rewards, _, infos = env.step(np.zeros((6, len(ALL)), dtype=np.float32))
    assert np.all(np.isfinite(seen))
    assert np.all(np.isfinite(rewards))
    assert all(info["val_loss"] > 0 for info in infos)
