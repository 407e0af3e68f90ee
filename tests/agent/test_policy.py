from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from metatuner.agent.actor import Actor, Committee
from metatuner.agent.policy import DEFAULT_POLICY, ZERO, Policy
from metatuner.agent.policy_files import shipped_policies
from metatuner.envs.adjustments import Kind
from metatuner.envs.controller import HYPERPARAMETER_SIGNALS, observation_size
from metatuner.envs.errors import PolicyError, PolicyFileError, UnknownPolicyError
from metatuner.envs.signals import GLOBAL_SIGNALS


def test_saved_and_loaded_it_decides_the_same(lively: Policy, folder: Path) -> None:
    loaded = Policy.load(folder)
    for hyperparameters in (1, 2, 3, 7):
        seen = np.random.default_rng(0).normal(size=(5, observation_size(hyperparameters))).astype(np.float32)
        decided, _ = loaded.decide(seen)
        assert decided.shape == (5, hyperparameters)
        assert np.array_equal(decided, lively.decide(seen)[0])
        assert np.abs(decided).max() <= 1.0
    assert loaded.card["note"] == "for tests"
    assert (loaded.name, loaded.decisions) == ("lively", 10)


def test_what_it_remembers_counts_and_is_kept_apart(remembering: Policy, tmp_path: Path) -> None:
    loaded = Policy.load(remembering.save(tmp_path / "remembering"))
    seen = np.random.default_rng(0).normal(size=(4, 5, observation_size(2))).astype(np.float32)
    decided, state = loaded.decide(seen[0])
    assert np.array_equal(decided, loaded.decide(seen[0], loaded.first_state(5))[0])
    assert state.shape == loaded.first_state(5).shape == (5, 12)
    for observation in seen[1:]:
        alone, of_one = loaded.decide(observation[2:3], state[2:3])
        decided, state = loaded.decide(observation, state)
        np.testing.assert_allclose(alone, decided[2:3], atol=1e-6)
        np.testing.assert_allclose(of_one, state[2:3], atol=1e-6)
    assert np.abs(decided - loaded.decide(seen[-1])[0]).max() > 1e-3


@pytest.mark.parametrize("name", [DEFAULT_POLICY, "schedule-bold"])
def test_the_policies_are_shipped_whole_and_say_how_they_were_made(name: str) -> None:
    policy = Policy.load(name)
    assert policy.name == name
    assert name in shipped_policies()
    assert policy.card["command"].startswith("metatuner train schedule")
    assert {"steps", "seed"} <= set(policy.card["meta_training"])
    assert policy.card["evaluation"]["validation tasks"] > 100


def test_a_committee_does_the_mean_of_what_its_members_would_do(lively: Policy, tmp_path: Path) -> None:
    assert isinstance(lively.actor, Actor)
    bolder = Actor(lively.actor.shape)
    joint = Policy("joint", Committee([lively.actor, bolder]).eval(), 10, {"unlearns": False})
    loaded = Policy.load(joint.save(tmp_path / "joint"))
    seen = np.random.default_rng(0).normal(size=(5, observation_size(3))).astype(np.float32)
    decided = [Policy("alone", each.eval()).decide(seen)[0] for each in (lively.actor, bolder)]
    np.testing.assert_allclose(loaded.decide(seen)[0], np.mean(decided, axis=0), atol=1e-6)
    assert loaded.first_state(5).shape == (5, 0)
    card = json.loads((tmp_path / "joint" / "card.json").read_text())

    def load_with(**other: Any) -> Policy:
        changed = card | {name: value for name, value in other.items() if name in card}
        changed["network"] = card["network"] | {name: value for name, value in other.items() if name not in card}
        (tmp_path / "joint" / "card.json").write_text(json.dumps(changed))
        return Policy.load(tmp_path / "joint")

    for members in (0, 17, True, 2.0):
        with pytest.raises(PolicyFileError, match="members, 1 to 16"):
            load_with(members=members)
    for optimism in (-0.1, 2.1, True, "0.5", float("nan")):
        with pytest.raises(PolicyFileError, match="optimism, 0 to 2"):
            load_with(optimism=optimism)
    with pytest.raises(PolicyFileError, match="expected true or false"):
        load_with(unlearns=1)
    with pytest.raises(PolicyFileError, match="shapes"):
        load_with(members=3)
    own = [name for name in card["own_signals"] if name != "is_learning_rate"]
    with pytest.raises(PolicyFileError, match="no signal is_learning_rate"):
        load_with(own_signals=own)
    del card["network"]["optimism"]  # a card from before there was any
    np.testing.assert_array_equal(load_with().decide(seen)[0], loaded.decide(seen)[0])


def test_an_optimist_moves_rates_up_where_members_disagree(lively: Policy, tmp_path: Path) -> None:
    assert isinstance(lively.actor, Actor)
    members = [lively.actor, Actor(lively.actor.shape), Actor(lively.actor.shape)]
    joint = Policy("joint", Committee(members, optimism=0.5).eval(), 10)
    loaded = Policy.load(joint.save(tmp_path / "joint"))
    kinds = Kind.WEIGHT_DECAY, Kind.LEARNING_RATE, Kind.MOMENTUM
    blocks = [[float(name in ("adjusted", f"is_{kind}")) for name in HYPERPARAMETER_SIGNALS] for kind in kinds]
    signals = np.random.default_rng(0).normal(size=(5, len(GLOBAL_SIGNALS)))
    seen = np.concatenate([signals, np.tile(np.ravel(blocks), (5, 1))], axis=1).astype(np.float32)
    each = np.array([Policy("alone", member.eval()).decide(seen)[0] for member in members])
    expected = each.mean(0)
    expected[:, 1] = np.minimum(expected[:, 1] + 0.5 * each.std(0)[:, 1], 1.0)
    np.testing.assert_allclose(loaded.decide(seen)[0], expected, atol=1e-6)
    assert (each.std(0) > 0.01).all()


def test_zero_adjusts_nothing() -> None:
    zero = Policy.load(ZERO)
    assert not zero.decide(np.ones((2, observation_size(3)), np.float32))[0].any()
    with pytest.raises(PolicyFileError, match="no weights"):
        zero.save("anywhere")


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('code ran')",)


def test_a_pickle_is_refused_unread(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "policy.pkl"
    file.write_bytes(pickle.dumps(Bomb()))
    archive = tmp_path / "policy.zip"
    torch.save(Bomb(), archive)
    for path in (file, archive):
        with pytest.raises(PolicyFileError, match="run any code"):
            Policy.load(path)
        shutil.copy(path, folder / "policy.safetensors")
        with pytest.raises(PolicyFileError, match="run any code"):
            Policy.load(folder)


def change_card(folder: Path, **entries: object) -> None:
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**card, **entries}))


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"schema_version": 99}, "schema version 99"),
        ({"sha256": "0" * 64}, "cut short or altered"),
        ({"sha256": 5}, "'sha256'"),
        ({"global_signals": ["progress", "weather"]}, "does not make .weather."),
        ({"network": {"summary": 16, "width": 10**9}}, "network sizes"),
        ({"network": {"summary": 16, "width": 32}}, "shapes"),
        ({"decisions": 0}, "decisions"),
        ({"decisions": True}, "'decisions'"),
        ({"name": None}, "'name'"),
    ],
)
def test_a_wrong_card_is_named(folder: Path, entries: dict[str, object], words: str) -> None:
    change_card(folder, **entries)
    with pytest.raises(PolicyFileError, match=words):
        Policy.load(folder)


def test_what_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(UnknownPolicyError, match="schedule-bold, schedule-default, search-default, zero"):
        Policy.load("no-such-policy")
    (folder / "card.json").unlink()
    with pytest.raises(PolicyFileError, match=r"no card\.json"):
        Policy.load(folder)


@given(st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_to_either_file_is_one_clear_error(folder: Path, tmp_path: Path, data: st.DataObject) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged, dirs_exist_ok=True)
    name = data.draw(st.sampled_from(["policy.safetensors", "card.json"]))
    whole = (folder / name).read_bytes()
    if data.draw(st.booleans()):
        broken = whole[: data.draw(st.integers(0, len(whole) - 2))]
    else:
        at = data.draw(st.integers(0, len(whole) - 1))
        broken = whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]
    (damaged / name).write_bytes(broken)
    try:
        Policy.load(damaged)
    except PolicyError as error:
        assert str(error)
    else:
        assert name == "card.json"  # a changed letter in a remark is no damage
