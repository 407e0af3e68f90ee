from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import optuna
import pytest
from metatuner.envs.records import StudyStarted, TrialFinished, TrialStarted, TrialState
from metatuner.tracking.importance import distribution, importances
from metatuner.tracking.study_plots import can_draw_parallel, history_figure, importance_figure, parallel_figure
from metatuner.tracking.study_summary import StudySummary
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution, distribution_to_json
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances


def study(trials: int, *, sign: float = 1.0) -> StudySummary:
    """The learning rate decides, the optimiser does not, the batch size never varies."""
    rng = np.random.default_rng(0)
    summary = StudySummary(StudyStarted(name="s", direction="minimize" if sign > 0 else "maximize"))
    for trial in range(trials):
        lr = float(np.exp(rng.uniform(np.log(1e-5), 0)))
        params = {"optimizer": ["sgd", "adam"][trial % 2], "lr": lr, "batch_size": 32}
        summary.begin(TrialStarted(trial=trial, name="random", params=params, time_ms=0), f"s/{trial}")
        state = TrialState.PRUNED if trial % 7 == 6 else TrialState.FINISHED
        summary.end(TrialFinished(trial=trial, state=state, time_ms=1), sign * abs(np.log10(lr) + 3))
    return summary


def png(figure: object) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")  # type: ignore[attr-defined]
    return buffer.getvalue()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_hyperparameter_that_decides_is_the_most_important(sign: float) -> None:
    summary = study(60, sign=sign)
    found = importances(summary.ranked(), {}, maximize=summary.maximizes)
    assert list(found) == ["lr", "optimizer"]
    assert found["lr"] > 0.7


def test_a_few_trials_say_nothing() -> None:
    assert importances(study(7).ranked(), {}, maximize=False) == {}


def test_distributions_follow_from_values() -> None:
    assert distribution(["1", "1"]) is None
    assert distribution(["1", "2"]) == FloatDistribution(1, 2)
    assert distribution(["0.001", "0.1"]) == FloatDistribution(0.001, 0.1, log=True)
    assert distribution(["-1", "100"]) == FloatDistribution(-1, 100)
    assert distribution(["b", "1", "b"]) == CategoricalDistribution(["1", "b"])
    assert distribution(["nan", "1"]) == CategoricalDistribution(["1", "nan"])


def test_what_is_known_of_a_distribution_stands_unless_it_is_wrong() -> None:
    known = distribution_to_json(FloatDistribution(1e-6, 1.0, log=True))
    assert distribution(["0.01", "0.02"], known) == FloatDistribution(1e-6, 1.0, log=True)
    assert distribution(["0.01", "2"], known) == FloatDistribution(0.01, 2, log=True)
    choices = distribution_to_json(CategoricalDistribution([16, 32, 64]))
    assert distribution(["16", "32"], choices) == CategoricalDistribution(["16", "32"])


def test_the_history_shows_every_trial_and_the_best_so_far() -> None:
    summary = study(20)
    panel = history_figure(list(summary.trials.values()), "val/loss").axes[0]
    lines = {line.get_label(): line.get_xydata() for line in panel.lines}
    assert set(lines) == {"trial", "best so far", "pruned"}
    assert len(lines["trial"]) == 18 and len(lines["pruned"]) == 2
    best = np.asarray(lines["best so far"])[:, 1]
    assert (np.diff(best) <= 0).all() and best[-1] == summary.ranked()[0].value
    assert png(history_figure(list(summary.trials.values()), "val/loss", "$x_")).startswith(b"\x89PNG")


def test_parallel_coordinates_draw_a_line_a_trial() -> None:
    summary = study(20)
    best = summary.ranked()
    figure = parallel_figure(best, "val/loss", {}, "title")
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["optimizer", "lr", "val/loss"]  # what never varies has no axis
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 3]
    assert len(lines) == len(best)
    assert png(figure).startswith(b"\x89PNG")


def test_a_trial_without_a_hyperparameter_leaves_a_gap() -> None:
    summary = study(4)
    summary.begin(TrialStarted(trial=9, name="", params={"lr": 0.1}, time_ms=0), "s/9")
    summary.end(TrialFinished(trial=9, time_ms=1), 0.0)
    figure = parallel_figure(summary.ranked(), "val/loss", {})
    gaps = [line for line in figure.axes[0].lines if np.isnan(np.asarray(line.get_ydata(), dtype=float)).any()]
    assert len(gaps) == 1
    assert png(figure).startswith(b"\x89PNG")


def test_equal_values_and_no_params_draw_nothing_or_something() -> None:
    summary = StudySummary(StudyStarted(name="s"))
    for trial in range(3):
        summary.begin(TrialStarted(trial=trial, name="", params={"lr": trial}, time_ms=0), f"s/{trial}")
        summary.end(TrialFinished(trial=trial, time_ms=1), 1.0)
    assert can_draw_parallel(summary.ranked())
    assert png(parallel_figure(summary.ranked(), "val/loss", {})).startswith(b"\x89PNG")
    assert not can_draw_parallel([])


def test_one_number_in_several_spellings_does_not_vary() -> None:
    assert distribution(["1", "1.0", "1e0"]) is None


def test_many_hyperparameters_show_the_most_important_ones() -> None:
    summary = StudySummary(StudyStarted(name="s"))
    for trial in range(10):
        params = {f"p{i}": (trial * (i + 3)) % 11 for i in range(500)}
        summary.begin(TrialStarted(trial=trial, name="", params=params, time_ms=0), f"s/{trial}")
        summary.end(TrialFinished(trial=trial, time_ms=1), float(trial))
    best = list(importances(summary.ranked(), {}, maximize=False))
    figure = parallel_figure(summary.ranked(), "v", {})
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert len(labels) == 9 and labels[:8] == best[:8]
    assert png(importance_figure(summary.ranked(), {})).startswith(b"\x89PNG")


def test_drawing_leaves_pyplot_alone() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import test_study_plots as t; s = t.study(20)\n"
        "t.png(t.parallel_figure(s.ranked(), 'v', {})); t.png(t.history_figure(s.ranked(), 'v'))\n"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    folder = __file__.rpartition("/")[0]
    subprocess.run([sys.executable, "-c", code, folder], check=True)


def test_importances_are_those_of_optuna_for_whole_numbers_and_steps() -> None:
    space = {"x": FloatDistribution(-5, 5), "d": IntDistribution(1, 4), "s": FloatDistribution(0, 1, step=0.25)}
    sampler = optuna.samplers.RandomSampler(0)
    theirs = optuna.create_study(sampler=sampler)
    theirs.optimize(lambda trial: (trial.suggest_float("x", -5, 5) - 2) ** 2 + trial.suggest_int("d", 1, 4)
                    + trial.suggest_float("s", 0, 1, step=0.25), n_trials=40)  # fmt: skip
    mine = StudySummary(StudyStarted(name="s"))
    for trial in theirs.trials:
        mine.begin(TrialStarted(trial=trial.number, name="random", params=trial.params), f"s/{trial.number}")
        mine.end(TrialFinished(trial=trial.number), trial.value)
    found = importances(mine.ranked(), {k: distribution_to_json(d) for k, d in space.items()}, maximize=False)
    expected = get_param_importances(theirs, evaluator=PedAnovaImportanceEvaluator())
    assert found == pytest.approx(expected)
