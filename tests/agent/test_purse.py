from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metatuner.agent.cut_off_trials import MESSAGE_ATTRIBUTE, OWNER_ATTRIBUTE
from metatuner.agent.purse import KNOWN_ATTRIBUTE, UNITS_ATTRIBUTE, Purse
from metatuner.agent.tune import tune
from metatuner.envs.records import NullRecorder
from optuna.distributions import FloatDistribution
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study
from optuna.trial import TrialState

SPACE = {"x": FloatDistribution(0.0, 1.0)}


def new_study(storage: BaseStorage | None = None, direction: str = "minimize") -> Study:
    return optuna.create_study(storage=storage, study_name="study", direction=direction)


def reads_all(study: Study, units: int | None) -> tuple[float, float | None, int]:
    """What a purse must hold, the slow way."""
    cost = 0.0
    for trial in study.trials:
        cut_off = trial.state is TrialState.FAIL and MESSAGE_ATTRIBUTE not in trial.user_attrs
        if not trial.state.is_finished() or cut_off or KNOWN_ATTRIBUTE in trial.user_attrs:
            continue
        cost += 1 if units is None else (trial.user_attrs.get(UNITS_ATTRIBUTE) or units) / units
    try:
        best = study.best_value
    except ValueError:
        best = None
    return cost, best, len(study.get_trials(states=(TrialState.WAITING,)))


steps = st.lists(
    st.tuples(
        st.sampled_from(["ask", "enqueue", "known", "finish", "fail", "cut off", "look"]),
        st.integers(0, 5),
        st.floats(-1, 1),
        st.booleans(),
    ),
    max_size=40,
)


@settings(deadline=None)
@given(steps, st.sampled_from([None, 4]), st.sampled_from(["minimize", "maximize"]))
def test_it_holds_what_reading_all_trials_would_find(steps: Any, units: int | None, direction: str) -> None:
    with_less = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = new_study(direction=direction)
    purse = Purse(study, 10, units)
    running: list[optuna.Trial] = []
    for what, which, value, allowed in steps:
        match what:
            case "ask":
                trial = study.ask(SPACE)
                trial.set_user_attr(OWNER_ATTRIBUTE, "somebody")
                trial.set_constraint("odd", -1.0 if allowed else 1.0)
                running.append(trial)
            case "enqueue":
                study.enqueue_trial({"x": 0.5})
            case "known":
                attributes = {KNOWN_ATTRIBUTE: True}
                study.add_trial(optuna.trial.create_trial(value=value, user_attrs=attributes))
            case "look":
                purse.look()
            case _ if running:
                trial = running.pop(which % len(running))
                if units:
                    trial.set_user_attr(UNITS_ATTRIBUTE, which)
                if what == "finish":
                    study.tell(trial, value)
                    continue
                if what == "fail":
                    trial.set_user_attr(MESSAGE_ATTRIBUTE, "why")
                study.tell(trial, state=TrialState.FAIL)
    purse.look()
    spent, best, waiting = reads_all(study, units)
    assert purse.spent == pytest.approx(spent)
    assert (purse.best, purse.waiting) == (best, waiting)
    assert purse.is_empty == (spent >= 10)
    optuna.logging.set_verbosity(with_less)


def test_it_counts_what_others_do_in_the_same_storage(tmp_path: Path) -> None:
    file = str(tmp_path / "study.journal")
    mine = new_study(JournalStorage(JournalFileBackend(file)))
    theirs = optuna.load_study(study_name="study", storage=JournalStorage(JournalFileBackend(file)))
    purse = Purse(mine, 3, None)
    slow, quick = theirs.ask(SPACE), mine.ask(SPACE)
    purse.look()
    mine.tell(quick, 2.0)
    purse.look()
    assert (purse.spent, purse.best) == (1.0, 2.0)
    theirs.tell(slow, 1.0)
    theirs.tell(theirs.ask(SPACE), 3.0)
    purse.look()
    assert (purse.spent, purse.best, purse.is_empty) == (3.0, 1.0, True)


def test_fractions_add_up_exactly() -> None:
    study = new_study()
    for _ in range(70):
        trial = study.ask()
        trial.set_user_attr(UNITS_ATTRIBUTE, 1)
        study.tell(trial, 1.0)
    assert Purse(study, 10, 7).is_empty


def test_late_trials_cost_no_more_time_than_early_ones() -> None:
    stamps: list[float] = []

    def objective(config: Any) -> float:
        stamps.append(time.process_time())
        return float(config["x"])

    tune(objective, SPACE, 4000, strategy="random", recorder=NullRecorder(), progress=lambda *now: None)
    # The fastest of several stretches: whatever else this machine does is not measured. Reading all trials made the
    # late ones eight times as slow.
    early, late = (min(stamps[i + 100] - stamps[i] for i in range(*part, 100)) for part in ((100, 1000), (3000, 3900)))
    assert late < 2.5 * early
