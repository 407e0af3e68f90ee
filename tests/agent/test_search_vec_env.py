from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from metatuner.agent.search_vec_env import SearchVecEnv
from metatuner.envs.search import SearchEnv
from metatuner.envs.search_families import SearchFamilies
from numpy.typing import NDArray

MOVES = 12


def first_possible(env: SearchVecEnv) -> NDArray[np.int64]:
    return np.argmax(np.stack(env.env_method("action_masks")), axis=1)


def played(env: SearchVecEnv) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32], list[bool]]]:
    env.reset()
    for _ in range(MOVES):
        observation, rewards, dones, _ = env.step(first_possible(env))
        yield observation, rewards, dones.tolist()
    env.close()


def test_searches_in_processes_are_those_of_this_one() -> None:
    here, there = (SearchVecEnv(SearchFamilies(), 3, seed=5, workers=workers) for workers in (1, 2))
    for (one, its_rewards, its_ends), (other, rewards, ends) in zip(played(here), played(there), strict=True):
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(its_rewards, rewards)
        assert its_ends == ends


def test_each_is_a_search_of_the_environment_and_begins_the_next_one_when_it_ends() -> None:
    env, single = SearchVecEnv(SearchFamilies(), 2, seed=5), SearchEnv(families=SearchFamilies())
    observation, _ = single.reset(seed=6)
    np.testing.assert_array_equal(env.reset()[1], observation)
    returned, done, moves = 0.0, False, 0
    while not done:
        np.testing.assert_array_equal(env.env_method("action_masks", indices=1)[0], single.action_masks())
        observation, reward, done, _, info = single.step(first_possible(env)[1])
        after, rewards, dones, infos = env.step(first_possible(env))
        returned, moves = returned + reward, moves + 1
        assert (rewards[1], dones[1]) == (np.float32(reward), done)
    np.testing.assert_array_equal(infos[1]["terminal_observation"], observation)
    assert infos[1]["episode"] == {"r": pytest.approx(returned), "l": moves, "t": 0.0}
    assert infos[1]["regret"] == info["regret"]
    np.testing.assert_array_equal(after[1], single.reset()[0])


def test_nothing_else_is_to_be_asked_for() -> None:
    env = SearchVecEnv(SearchFamilies(), 1, seed=0)
    assert env.has_attr("action_masks")
    assert env.env_is_wrapped(SearchEnv) == [False]
    with pytest.raises(AttributeError, match="budget"):
        env.set_attr("budget", 3)
    with pytest.raises(AttributeError, match="render"):
        env.env_method("render")
