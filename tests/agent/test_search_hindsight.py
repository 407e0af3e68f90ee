from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from metatuner.agent.search_actor import NATS, SHARPNESS, SearchActor, SearchActorShape
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


def test_only_moves_that_are_possible_and_better_than_the_incumbent_gain(seen: tuple[Path, Hindsight]) -> None:
    _, hindsight = seen
    features = hindsight.observations[:, : SIZE - len(CONTEXT)].reshape(len(hindsight), MOVES, -1)
    possible = features[..., FEATURES.index("possible")] > 0
    assert (hindsight.gains >= 0).all()
    assert (hindsight.gains[~possible] == 0).all()
    assert hindsight.gains.max() > 0


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


def test_the_network_learns_by_how_much_what_is_promised_is_wrong() -> None:
    """What is far off promises too much: twice the distance, and e times less is gained."""
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    features = random.normal(size=(20_000, MOVES, len(FEATURES))).astype(np.float32)
    features[..., FEATURES.index("possible")] = random.random((20_000, MOVES)) < 0.8
    features[..., FEATURES.index("log_final_improvement")] /= NATS
    distance, promised = (features[..., FEATURES.index(name)] for name in ("distance", "log_final_improvement"))
    gains = np.exp(NATS * promised - distance) * features[..., FEATURES.index("possible")]
    observations = np.concatenate([features.reshape(20_000, -1), random.normal(size=(20_000, len(CONTEXT)))], axis=1)
    told = Hindsight(observations.astype(np.float16), np.minimum(gains, 6e4).astype(np.float16))
    actor = SearchActor(SearchActorShape(width=16))
    learn_from_hindsight(actor, told, seed=0)
    added = actor.added(torch.from_numpy(observations.astype(np.float32))).detach().numpy()
    slope = np.polyfit(distance.ravel(), added.ravel(), 1)[0]
    assert slope * NATS / SHARPNESS == pytest.approx(-1.0, abs=0.3)
    assert actor.sharpness.item() == SHARPNESS


def test_where_nothing_could_be_gained_nothing_is_learnt() -> None:
    actor = SearchActor(SearchActorShape(width=4))
    before = {name: each.clone() for name, each in actor.state_dict().items()}
    learn_from_hindsight(actor, Hindsight(np.ones((3, SIZE), np.float16), np.zeros((3, MOVES), np.float16)), seed=0)
    for name, each in actor.state_dict().items():
        torch.testing.assert_close(each, before[name])
