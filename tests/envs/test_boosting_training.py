from __future__ import annotations

from typing import Any

import numpy as np
import pandas
import pytest
from metatuner.envs.errors import ConfigurationError, SearchSpaceError, TrainingError
from metatuner.envs.testing import check_training
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import log_loss

xgboost = pytest.importorskip("xgboost")

from metatuner.envs.boosting_training import BoostingTraining  # noqa: E402 - it needs xgboost

LOADERS = {"classes": load_wine, "binary": load_breast_cancer, "regression": load_diabetes}


def rows(kind: str) -> tuple[Any, Any, Any, Any]:
    x, y = LOADERS[kind](return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))[:150]
    x, y = x[order], y[order]
    return x[:100], y[:100], x[100:], y[100:]


def trees(kind: str, **settings: Any) -> Any:
    made = xgboost.XGBRegressor if kind == "regression" else xgboost.XGBClassifier
    return made(max_depth=2, n_jobs=1, **settings)


def training(kind: str = "classes", **settings: Any) -> BoostingTraining:
    return BoostingTraining(trees(kind, **settings), *rows(kind))


@pytest.mark.parametrize("kind", LOADERS)
def test_rounds_conform(kind: str) -> None:
    check_training(lambda: training(kind, subsample=0.8, colsample_bytree=0.5), {"lr": 0.1})


@pytest.mark.parametrize("kind", LOADERS)
def test_constant_rates_give_what_xgboost_gives_from_the_same_start(kind: str) -> None:
    x, y, x_val, _ = rows(kind)
    mine = training(kind)
    mine.start({"lr": 0.2}, seed=0)
    interval = mine.advance({}, 4)
    mine.advance({}, 3)
    start = 0.5 if kind == "classes" else float(y.mean())
    alone = trees(kind, n_estimators=7, learning_rate=0.2, base_score=start).fit(x, y)
    told = "predict" if kind == "regression" else "predict_proba"
    assert mine.model.get_booster().num_boosted_rounds() == 7
    assert np.allclose(getattr(mine.model, told)(x_val), getattr(alone, told)(x_val), rtol=1e-4)
    assert interval.relative_update[0] > 0
    assert np.isfinite(interval.log_grad_norm[0])


def test_the_loss_is_that_of_scikit_learn_and_it_begins_with_the_mean() -> None:
    _, y, x_val, y_val = rows("binary")
    mine = training("binary")
    first = mine.start({"lr": 0.3}, seed=0).val_loss[0]
    assert first == pytest.approx(log_loss(y_val, np.full(len(y_val), y.mean())), rel=1e-5)
    last = mine.advance({}, 5).val_loss[0]
    assert last == pytest.approx(log_loss(y_val, mine.model.predict_proba(x_val)), rel=1e-5)


@pytest.mark.parametrize("kind", LOADERS)
def test_the_first_update_is_in_units_of_the_outputs(kind: str) -> None:
    low, high = (float(training(kind).start({"lr": lr}, seed=0).first_update[0]) for lr in (0.01, 0.1))
    assert 0 < 10 * low == pytest.approx(high, rel=0.05)
    assert high < 1


def test_what_cannot_be_boosted_is_refused() -> None:
    x, y = load_wine(return_X_y=True)
    with pytest.raises(ConfigurationError, match="XGBClassifier or XGBRegressor"):
        BoostingTraining(SGDClassifier(), x, y, x, y)
    with pytest.raises(ConfigurationError, match="expected the objective 'reg:squarederror'"):
        BoostingTraining(xgboost.XGBRegressor(objective="reg:absoluteerror"), x, y, x, y)
    with pytest.raises(TrainingError, match="encode them"):
        BoostingTraining(xgboost.XGBClassifier(), x, y + 1, x, y)
    with pytest.raises(TrainingError, match="validation targets have classes"):
        BoostingTraining(xgboost.XGBClassifier(), x, y, x, y + 1)
    with pytest.raises(ConfigurationError, match="no base_score"):
        BoostingTraining(xgboost.XGBRegressor(base_score=0.05), x, y, x, y)
    with pytest.raises(TrainingError, match="the 13 columns of the training ones, got 5"):
        BoostingTraining(xgboost.XGBRegressor(), x, y, x[:, :5], y)
    with pytest.raises(TrainingError, match="XGBoost does not take these data"):
        BoostingTraining(xgboost.XGBRegressor(), x, np.full(len(y), np.nan), x, y)
    with pytest.raises(TrainingError, match="call start"):
        training().advance({}, 1)
    with pytest.raises(SearchSpaceError, match="it has lr"):
        training().start({"lr": 0.1, "momentum": 0.9}, seed=0)


def test_what_the_estimator_says_of_its_data_holds() -> None:
    x, y, x_val, y_val = rows("binary")
    x = np.where(np.random.default_rng(0).random(x.shape) < 0.4, -999.0, x)
    mine = BoostingTraining(trees("binary", missing=-999.0), x, y, x_val, y_val)
    mine.start({"lr": 0.3}, 0)
    loss = mine.advance({}, 6).val_loss[0]
    assert loss == pytest.approx(log_loss(y_val, mine.model.predict_proba(x_val)), rel=1e-4)


@pytest.mark.parametrize("intervals", [[1] * 8, [3, 5]])
def test_samples_of_rows_and_columns_do_not_depend_on_the_interval(intervals: list[int]) -> None:
    def loss(steps: list[int]) -> float:
        mine = training("regression", subsample=0.5, colsample_bytree=0.3, colsample_bynode=0.5)
        mine.start({"lr": 0.3}, 0)
        return float([mine.advance({}, each).val_loss[0] for each in steps][-1])

    assert loss(intervals) == pytest.approx(loss([8]), rel=1e-5)


def test_what_xgboost_does_not_take_is_told() -> None:
    x, y, x_val, y_val = rows("binary")
    with pytest.raises(ConfigurationError, match="expected the objective 'reg:squarederror'"):
        BoostingTraining(trees("regression", objective="binary:logistic"), x, y, x_val, y_val)
    with pytest.raises(TrainingError, match="one target a row"):
        BoostingTraining(trees("regression"), x, np.stack([y, y], 1), x_val, y_val)
    frame = pandas.DataFrame(x[:, :2], columns=["a", "b"])
    with pytest.raises(TrainingError, match="in that order"):
        BoostingTraining(trees("binary"), frame, y, frame[["b", "a"]][: len(y_val)], y_val)
