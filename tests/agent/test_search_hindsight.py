from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from metatuner.agent.search_actor import ADDED, NATS, SHARPNESS, SearchActor, SearchActorShape
from metatuner.agent.search_hindsight import Hindsight, forget, learn_from_hindsight, look_back
from metatuner.envs.errors import CheckpointError
from metatuner.envs.search_families import SearchFamilies
from metatuner.envs.search_moves import CONTEXT, FEATURES, MOVES
from metatuner.envs.search_task import SearchTask

SIZE = MOVES * len(FEATURES) + len(CONTEXT)


class NoTasks(SearchFamilies):
    """Nobody may search."""

    def task(self, seed: int) -> SearchTask:
        raise AssertionError(seed)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Hindsight]:
    folder = tmp_path_factory.mktemp("hindsight")
    return folder, look_back(SearchFamilies(), 30, 3, folder, "a run", searches=2)


def test_what_is_seen_does_not_depend_on_who_searches(seen: tuple[Path, Hindsight], tmp_path: Path) -> None:
    folder, here = seen
    there = look_back(SearchFamilies(), 30, 3, tmp_path, "a run", searches=2, workers=2)
    assert len(here) >= 30
    np.testing.assert_array_equal(here.observations, there.observations)
    np.testing.assert_array_equal(here.gains, there.gains)
    assert {each.name for each in folder.iterdir()} == {each.name for each in tmp_path.iterdir()}


def of_moves(hindsight: Hindsight, name: str) -> np.ndarray:
    features = hindsight.observations[:, : SIZE - len(CONTEXT)].reshape(len(hindsight), MOVES, -1)
    return features[..., FEATURES.index(name)]


def test_only_moves_that_are_possible_gain(seen: tuple[Path, Hindsight]) -> None:
    _, hindsight = seen
    assert (hindsight.gains >= 0).all()
    assert (hindsight.gains[of_moves(hindsight, "possible") == 0] == 0).all()
    assert hindsight.gains.max() > 0


def test_what_finishing_the_best_trial_tells_is_left_to_the_rule(seen: tuple[Path, Hindsight]) -> None:
    """It gains nothing, but has as large a share of the gain as it has of what all moves promise."""
    _, hindsight = seen
    promised = np.exp(NATS * of_moves(hindsight, "log_final_improvement").astype(np.float64))
    promised *= of_moves(hindsight, "possible")
    expected = promised / promised.sum(1, keepdims=True)
    gains = hindsight.gains.astype(np.float64)
    shares = gains / np.maximum(gains.sum(1, keepdims=True), 1e-9)
    best = (of_moves(hindsight, "continues") > 0) & (of_moves(hindsight, "rank") == 0)
    left = best & np.isclose(shares, expected, rtol=0.02) & (expected > 1e-3)
    assert left.any(1).sum() > 0.2 * (gains.sum(1) > 0).sum()


def test_it_goes_on_from_what_it_has_kept(seen: tuple[Path, Hindsight]) -> None:
    folder, before = seen
    again = look_back(NoTasks(), 30, 3, folder, "a run", searches=2)
    np.testing.assert_array_equal(again.observations, before.observations)
    with pytest.raises(CheckpointError, match="belongs to a run"):
        look_back(NoTasks(), 30, 3, folder, "another run", searches=2)


def test_a_damaged_part_is_told(seen: tuple[Path, Hindsight], tmp_path: Path) -> None:
    del seen
    look_back(SearchFamilies(), 1, 3, tmp_path, "a run", searches=1)
    (part,) = tmp_path.iterdir()
    part.write_bytes(part.read_bytes().replace(b"gains", b"pains"))
    with pytest.raises(CheckpointError, match="damaged"):
        look_back(NoTasks(), 1, 3, tmp_path, "a run", searches=1)
    part.write_bytes(b"torn")
    with pytest.raises(CheckpointError, match="not a whole checkpoint"):
        look_back(NoTasks(), 1, 3, tmp_path, "a run", searches=1)
    forget(tmp_path)
    assert not list(tmp_path.iterdir())


def made_up(slope: float) -> tuple[Hindsight, np.ndarray]:
    """Moves of which those that are far off gain less than they promise, and their distances."""
    random = np.random.default_rng(0)
    features = random.normal(size=(20_000, MOVES, len(FEATURES))).astype(np.float32)
    features[..., FEATURES.index("possible")] = random.random((20_000, MOVES)) < 0.8
    features[..., FEATURES.index("log_final_improvement")] /= NATS
    distance, promised = (features[..., FEATURES.index(name)] for name in ("distance", "log_final_improvement"))
    gains = np.exp(NATS * promised - slope * distance) * features[..., FEATURES.index("possible")]
    observations = np.concatenate([features.reshape(20_000, -1), random.normal(size=(20_000, len(CONTEXT)))], axis=1)
    return Hindsight(observations.astype(np.float16), np.minimum(gains, 6e4).astype(np.float16)), distance


def learnt_from(hindsight: Hindsight) -> tuple[SearchActor, np.ndarray]:
    torch.manual_seed(0)
    actor = SearchActor(SearchActorShape(width=16))
    learn_from_hindsight(actor, hindsight, seed=0)
    return actor, actor.added(torch.from_numpy(hindsight.observations).float()).detach().numpy()


def test_the_network_learns_by_how_much_what_is_promised_is_wrong() -> None:
    """What is far off promises a little too much."""
    hindsight, distance = made_up(slope=0.3)
    actor, added = learnt_from(hindsight)
    slope = np.polyfit(distance.ravel(), added.ravel(), 1)[0]
    assert slope * NATS / SHARPNESS == pytest.approx(-0.3, abs=0.1)
    assert actor.sharpness.item() == SHARPNESS


def test_the_rule_has_its_say_whatever_was_learnt() -> None:
    """As if what is promised were e times too much or too little, and no more."""
    hindsight, _ = made_up(slope=4.0)
    _, added = learnt_from(hindsight)
    assert 0.8 * ADDED < np.abs(added).max() <= ADDED == SHARPNESS / NATS


def test_where_nothing_could_be_gained_nothing_is_learnt() -> None:
    actor = SearchActor(SearchActorShape(width=4))
    before = {name: each.clone() for name, each in actor.state_dict().items()}
    learn_from_hindsight(actor, Hindsight(np.ones((3, SIZE), np.float16), np.zeros((3, MOVES), np.float16)), seed=0)
    for name, each in actor.state_dict().items():
        torch.testing.assert_close(each, before[name])
