from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from metatuner.agent.actor import Actor, Committee
from metatuner.agent.meta_training import Algorithm, MetaTrainingSettings, train_schedule_policy
from metatuner.agent.policy import Policy
from metatuner.envs.controller import observation_size
from metatuner.envs.errors import CheckpointError, ConfigurationError
from metatuner.envs.records import Metrics, Record

SETTINGS = MetaTrainingSettings(
    steps=60, decisions=(3, 3), horizon=(6, 12), groups=1, group_size=5, copies=5, seed=2
)  # fmt: skip


class StoppedError(Exception):
    """Stands for whatever ends a run early."""


def decisions_of(policy: Policy) -> np.ndarray:
    seen = np.random.default_rng(0).normal(size=(8, observation_size(3))).astype(np.float32)
    return policy.decide(seen)[0]


@pytest.mark.parametrize("algorithm", list(Algorithm))
def test_a_run_follows_from_its_settings_and_resumes_bit_for_bit(algorithm: Algorithm, tmp_path: Path) -> None:
    settings = replace(SETTINGS, algorithm=algorithm, epochs=2)
    whole = train_schedule_policy(settings, tmp_path / "whole", evaluation_groups=0)

    def stop_early(done: int, total: int, mean: float) -> None:
        if done >= 45:
            raise StoppedError

    torch.manual_seed(99)  # what came before must not matter
    with pytest.raises(StoppedError):
        train_schedule_policy(
            settings, tmp_path / "stopped", evaluation_groups=0, checkpoint_every=1, progress=stop_early
        )
    told: list[int] = []
    resumed = train_schedule_policy(
        settings, tmp_path / "stopped", evaluation_groups=0, progress=lambda done, total, mean: told.append(done)
    )
    assert told == [45, 60]
    assert np.array_equal(decisions_of(resumed), decisions_of(whole))
    assert resumed.signal_ranges == whole.signal_ranges
    assert not (tmp_path / "stopped" / "checkpoint.safetensors").exists()
    other = train_schedule_policy(replace(settings, seed=3), tmp_path / "other", evaluation_groups=0)
    assert not np.array_equal(decisions_of(other), decisions_of(whole))


def test_a_checkpoint_of_other_settings_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    def stop(done: int, total: int, mean: float) -> None:
        if done > 15:
            raise StoppedError

    with pytest.raises(StoppedError):
        train_schedule_policy(SETTINGS, tmp_path, evaluation_groups=0, checkpoint_every=1, progress=stop)
    with pytest.raises(CheckpointError, match="same settings"):
        train_schedule_policy(replace(SETTINGS, steps=90), tmp_path, evaluation_groups=0)
    file = tmp_path / "checkpoint.safetensors"
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match="not a whole checkpoint"):
        train_schedule_policy(SETTINGS, tmp_path, evaluation_groups=0)
    train_schedule_policy(SETTINGS, tmp_path, evaluation_groups=0, resume=False)


def test_the_card_tells_everything_and_the_learning_curve_is_recorded(tmp_path: Path) -> None:
    records: list[Record] = []

    class Keep:
        def record(self, record: Record, /) -> None:
            records.append(record)

    train_schedule_policy(SETTINGS, tmp_path, name="tiny", evaluation_groups=1, recorder=Keep())
    card = json.loads((tmp_path / "card.json").read_text())
    assert card["name"] == "tiny"
    assert card["meta_training"]["seed"] == 2
    for split in ("validation", "held_out"):
        assert card["evaluation"][f"{split} median_ratio_to_best_of_12_cosines"] > 0
        assert card["evaluation"][f"{split} median_ratio_to_cosine transformer"] > 0
    low, high = card["signal_ranges"]["train_since_start"]
    assert low < 0.0 < high
    assert set(card["versions"]) >= {"torch", "stable-baselines3"}
    curve = [r for r in records if isinstance(r, Metrics) and "rollout/ep_rew_mean" in r.values]
    assert [r.step for r in curve] == [15, 30, 45, 60]
    assert Policy.load(tmp_path).name == "tiny"


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="steps must be at least 1"):
        MetaTrainingSettings(steps=0)
    with pytest.raises(ConfigurationError, match="multiple of copies"):
        MetaTrainingSettings(group_size=6, copies=4)
    with pytest.raises(ConfigurationError, match="below 2147483648, got 2147483648"):
        MetaTrainingSettings(members=2, seed=2**31)


def test_members_learn_apart_decide_together_and_go_on_where_they_were(tmp_path: Path) -> None:
    settings = replace(SETTINGS, members=3, optimism=0.5, unlearns=True)
    assert "--members 3 --optimism 0.5 --unlearn" in settings.command
    told: list[tuple[int, int]] = []

    def stop_in_the_second(done: int, total: int, mean: float) -> None:
        told.append((done, total))
        if done >= 90:
            raise StoppedError

    with pytest.raises(StoppedError):
        train_schedule_policy(
            settings, tmp_path / "joint", evaluation_groups=0, checkpoint_every=1, progress=stop_in_the_second
        )
    assert told[-1] == (90, 180)
    joint = train_schedule_policy(
        settings, tmp_path / "joint", evaluation_groups=0, progress=lambda done, total, mean: told.append((done, total))
    )
    assert told[-1] == (180, 180)
    assert min(done for done, _ in told[6:]) > 60  # the first member was there already
    assert sorted(file.name for file in (tmp_path / "joint").iterdir()) == ["card.json", "policy.safetensors"]
    alone = [
        train_schedule_policy(each, tmp_path / str(each.seed), evaluation_groups=0) for each in settings.of_members()
    ]
    assert [each.card["meta_training"]["seed"] for each in alone] == [6, 7, 8]
    decided = np.array([decisions_of(each) for each in alone])
    assert isinstance(joint.actor, Committee)
    assert joint.actor.optimism == 0.5
    assert joint.unlearns
    mean = replace(joint, actor=Committee(each.actor for each in alone if isinstance(each.actor, Actor)))
    np.testing.assert_allclose(decisions_of(mean), decided.mean(0), atol=1e-6)
    for name, (low, high) in joint.signal_ranges.items():
        ends = [each.signal_ranges[name] for each in alone]
        assert (low, high) == (min(end[0] for end in ends), max(end[1] for end in ends))
    assert np.array_equal(decisions_of(Policy.load(tmp_path / "joint")), decisions_of(joint))


def test_members_of_another_run_are_refused(tmp_path: Path) -> None:
    def stop_in_the_second(done: int, total: int, mean: float) -> None:
        if done > 60:
            raise StoppedError

    settings = replace(SETTINGS, members=2)
    with pytest.raises(StoppedError):
        train_schedule_policy(settings, tmp_path, evaluation_groups=0, progress=stop_in_the_second)
    with pytest.raises(CheckpointError, match="other settings"):
        train_schedule_policy(replace(settings, epochs=3), tmp_path, evaluation_groups=0)
    with pytest.raises(CheckpointError, match="another number of members"):
        train_schedule_policy(SETTINGS, tmp_path, evaluation_groups=0)
    train_schedule_policy(SETTINGS, tmp_path, evaluation_groups=0, resume=False)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["card.json", "policy.safetensors"]
    with pytest.raises(ConfigurationError, match="at most 1, got 2"):
        replace(settings, algorithm=Algorithm.RECURRENT_PPO)
    with pytest.raises(ConfigurationError, match="at most 16, got 17"):
        replace(settings, members=17)
    with pytest.raises(ConfigurationError, match="and 0 for a single member"):
        replace(SETTINGS, optimism=0.5)
    for optimism in (-0.5, 2.5, float("nan")):
        with pytest.raises(ConfigurationError, match="optimism must be from 0 to 2"):
            replace(settings, optimism=optimism)
