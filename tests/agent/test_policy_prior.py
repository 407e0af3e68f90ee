from __future__ import annotations

import json
from pathlib import Path

import metatuner as mt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from metatuner.agent.policy_prior import PRIOR, attach_prior, export_policy, prior_with
from metatuner.agent.search_policy import SearchPolicy
from metatuner.envs.conditional_space import ConditionalSpace
from metatuner.envs.errors import ConfigurationError, PolicyError, PolicyFileError, UnknownPolicyError
from metatuner.envs.records import NullRecorder
from optuna.distributions import BaseDistribution, FloatDistribution

SPACE: dict[str, BaseDistribution] = {"x": FloatDistribution(0, 1), "y": FloatDistribution(0, 1)}
TABLE = "task,value,x,y\n" + "".join(f"t,{-abs(i - 9)},{i / 10},{0.5 + i / 50}\n" for i in range(11))
"""The larger, the better; best where x is 0.9."""


def write(path: Path) -> int:
    return path.write_text(TABLE)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    folder = export_policy("search-default", tmp_path / "shared")
    assert attach_prior(folder, "maximize", write) == len(TABLE)
    return folder


def test_skill_and_history_go_together(shared: Path, tmp_path: Path) -> None:
    copy = export_policy(shared, tmp_path / "copy")
    assert {path.name for path in copy.iterdir()} == {"policy.safetensors", "card.json", PRIOR}
    result = mt.tune(
        lambda config: (config["x"] - 0.9) ** 2, SPACE, 1, strategy=f"policy:{copy}", recorder=NullRecorder()
    )
    assert result.best_config["x"] == pytest.approx(0.9, abs=0.05)
    found = prior_with(copy, ConditionalSpace(SPACE), own=None, units=1)
    assert found is not None
    assert found.match.lines()[0] == f"prior policy:{copy}: 11 trials of 11 count, of 1 past task"


def test_without_a_table_it_is_the_policy_alone(tmp_path: Path) -> None:
    folder = export_policy("search-default", tmp_path / "alone")
    assert prior_with(folder, ConditionalSpace(SPACE), own=None, units=1) is None
    result = mt.tune(lambda config: config["x"], SPACE, 1, strategy=f"policy:{folder}", recorder=NullRecorder())
    assert result.best_config["x"] == pytest.approx(0.5)  # the middle, where nothing is known


def test_a_history_of_something_else_is_no_error(shared: Path, caplog: pytest.LogCaptureFixture) -> None:
    elsewhere = ConditionalSpace({"depth": FloatDistribution(0, 1)})
    assert prior_with(shared, elsewhere, own=None, units=1) is None
    assert "are of no use here" in caplog.text


def test_another_policy_leaves_no_history_behind(shared: Path) -> None:
    export_policy("search-default", shared)
    assert not (shared / PRIOR).exists()


def test_what_is_saved_anew_has_no_history(shared: Path, tmp_path: Path) -> None:
    again = SearchPolicy.load(shared).save(tmp_path / "again")
    assert prior_with(again, ConditionalSpace(SPACE), own=None, units=1) is None


@given(st.data())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_to_the_table_is_one_clear_error(shared: Path, data: st.DataObject) -> None:
    whole = TABLE.encode()
    at = data.draw(st.integers(0, len(whole) - 1))
    cut = data.draw(st.booleans())
    rest = b"" if cut else bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]
    (shared / PRIOR).write_bytes(whole[:at] + rest)
    with pytest.raises(PolicyFileError, match="cut short or altered"):
        prior_with(shared, ConditionalSpace(SPACE), own=None, units=1)


@pytest.mark.parametrize("told", [3, {}, {"direction": "up"}, {"direction": "minimize", "sha256": 7}, [1]])
def test_a_card_that_tells_nonsense_is_refused(shared: Path, told: object) -> None:
    card = json.loads((shared / "card.json").read_text())
    (shared / "card.json").write_text(json.dumps({**card, "prior": told}))
    with pytest.raises(PolicyFileError):
        prior_with(shared, ConditionalSpace(SPACE), own=None, units=1)
    with pytest.raises(PolicyFileError):
        export_policy(shared, shared.parent / "copy")
    assert not (shared.parent / "copy").exists()


def test_what_cannot_be_exported_is_said(shared: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="another folder"):
        export_policy(shared, shared)
    with pytest.raises(UnknownPolicyError):
        export_policy("nobody", tmp_path / "x")
    schedule = export_policy("schedule-default", tmp_path / "schedule")
    with pytest.raises(ConfigurationError, match="for a schedule"):
        attach_prior(schedule, "minimize", write)
    with pytest.raises(ConfigurationError, match="direction"):
        attach_prior(shared, "sideways", write)
    (shared / PRIOR).unlink()
    with pytest.raises(PolicyFileError, match="cannot be read"):
        prior_with(shared, ConditionalSpace(SPACE), own=None, units=1)


@pytest.mark.parametrize("strategy", ["policy:nobody", "policy:schedule-default"])
def test_a_strategy_that_is_no_search_policy_is_refused(strategy: str) -> None:
    with pytest.raises(PolicyError):
        mt.tune(lambda config: config["x"], SPACE, 1, strategy=strategy, recorder=NullRecorder())
