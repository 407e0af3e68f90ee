from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from metatuner.envs.errors import ConfigurationError, SearchSpaceError, TrainingError
from metatuner.envs.estimator_losses import hinge_loss
from metatuner.envs.partial_fit_training import PartialFitTraining
from metatuner.envs.testing import check_training
from scipy.sparse import csr_matrix
from sklearn.datasets import load_diabetes, load_wine
from sklearn.linear_model import Perceptron, SGDClassifier, SGDRegressor
from sklearn.metrics import log_loss
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier


def rows(regression: bool = False) -> tuple[Any, Any, Any, Any]:
    x, y = (load_diabetes if regression else load_wine)(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))[:170]
    x, y = ((x - x.mean(0)) / x.std(0))[order], (y - y.mean()) / y.std() if regression else y
    y = y[order]
    return x[:120], y[:120], x[120:], y[120:]


ESTIMATORS = [
    SGDClassifier(loss="log_loss"),
    SGDClassifier(loss="hinge"),
    SGDRegressor(),
    Perceptron(),
    MLPClassifier((8,)),
    MLPClassifier((8,), solver="sgd"),
    MLPRegressor(hidden_layer_sizes=(8,)),
    MLPRegressor(hidden_layer_sizes=(8,), solver="sgd"),
]


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=str)
def test_estimators_conform(estimator: Any) -> None:
    data = rows("Regressor" in type(estimator).__name__)
    check_training(lambda: PartialFitTraining(estimator, *data), {"lr": 1e-3})


def test_the_loss_is_that_of_scikit_learn_and_the_estimator_is_left_as_it_was() -> None:
    estimator = MLPClassifier((8,), random_state=5)
    x, y, x_val, y_val = rows()
    training = PartialFitTraining(estimator, x, y, x_val, y_val)
    training.start({"lr": 0.01}, seed=0)
    measured = training.advance({}, 30).val_loss[0]
    assert measured == pytest.approx(log_loss(y_val, training.model.predict_proba(x_val)))
    assert training.model.score(x_val, y_val) > 0.8
    assert not hasattr(estimator, "coefs_")
    assert estimator.random_state == 5


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_it_trains_as_the_estimator_would_by_itself(momentum: float) -> None:
    """All rows are one mini-batch, so that nothing depends on its order but rounding."""
    x, y, x_val, y_val = rows()
    estimator = MLPClassifier((8,), solver="sgd", learning_rate_init=0.05, momentum=momentum, random_state=3)
    training = PartialFitTraining(estimator, x, y, x_val, y_val, batch_size=len(x))
    training.start({}, seed=3)
    training.advance({}, 5)
    alone = estimator.set_params(batch_size=len(x))
    for _ in range(5):
        alone.partial_fit(x, y, classes=np.unique(y))
    assert np.allclose(training.model.coefs_[0], alone.coefs_[0])


@pytest.mark.parametrize("solver", ["sgd", "adam"])
def test_gradients_are_those_of_the_loss(solver: str) -> None:
    """By finite differences: the norm of the gradient of the first mini-batch, which here is all rows."""
    x, y, x_val, y_val = rows()
    estimator = MLPClassifier((2,), solver=solver, activation="tanh", alpha=0.0)
    training = PartialFitTraining(estimator, x, y, x_val, y_val, batch_size=len(x))
    training.start({"lr": 1e-3}, seed=0)
    model, squared = training.model, 0.0
    for weights in [*model.coefs_, *model.intercepts_]:
        for place in np.ndindex(weights.shape):
            ends = []
            for move in (1e-5, -2e-5):
                weights[place] += move
                ends.append(log_loss(y, model.predict_proba(x)))
            weights[place] += 1e-5
            squared += ((ends[0] - ends[1]) / 2e-5) ** 2
    assert training.advance({}, 1).log_grad_norm[0] == pytest.approx(0.5 * np.log(squared), abs=1e-3)


def test_the_first_update_of_a_network_is_told_beforehand() -> None:
    training = PartialFitTraining(MLPClassifier((8,), solver="sgd", nesterovs_momentum=False), *rows())
    started = training.start({"lr": 1e-3}, seed=0)
    assert training.advance({}, 1).relative_update[0] == pytest.approx(started.first_update[0], rel=1e-3)


@pytest.mark.parametrize(("estimator", "regression"), [(SGDClassifier(loss="log_loss"), False), (SGDRegressor(), True)])
def test_updates_of_a_linear_model_are_in_units_of_its_outputs(estimator: Any, regression: bool) -> None:
    def told(lr: float, scale: float = 1.0) -> tuple[float, float]:
        x, y, x_val, y_val = rows(regression)
        training = PartialFitTraining(estimator, x, y * scale if regression else y, x_val, y_val)
        return float(training.start({"lr": lr}, seed=0).first_update[0]), float(
            training.advance({}, 1).relative_update[0]
        )

    first, then = told(1e-5)
    assert 0 < first == pytest.approx(then)
    assert told(1e-4)[0] == pytest.approx(10 * first, rel=0.05)
    assert told(1e-5, scale=100.0) == pytest.approx((first, then))


@pytest.mark.parametrize("estimator", [SGDClassifier(loss="log_loss"), MLPClassifier((8,), solver="sgd")], ids=str)
def test_weight_decay_shrinks_as_much_as_a_step_of_gradient_descent_would(estimator: Any) -> None:
    """Of a step that is a small one: the weights lose lr times weight decay, and here 32 rows are 32 steps."""
    moved = {}
    for decay in (0.0, 0.5):
        training = PartialFitTraining(estimator, *rows())
        training.start({"lr": 1e-2, "weight_decay": 0.0, **({"momentum": 0.0} if "MLP" in str(estimator) else {})}, 0)
        training.advance({}, 20)
        training.advance({"lr": 1e-6, "weight_decay": decay}, 1)
        moved[decay] = training.model.coefs_[0] if "MLP" in str(estimator) else training.model.coef_
    steps = 1 if "MLP" in str(estimator) else 32
    assert np.allclose(moved[0.0] - moved[0.5], steps * 1e-6 * 0.5 * moved[0.0], rtol=1e-2, atol=1e-12)


def test_momentum_is_that_of_the_live_optimiser() -> None:
    training = PartialFitTraining(MLPClassifier((8,)), *rows())
    training.start({"lr": 1e-3, "momentum": 0.9}, seed=0)
    training.advance({}, 2)
    training.advance({"momentum": 0.5, "lr": [1e-2, 1e-4]}, 2)
    optimizer = training.model._optimizer
    assert (optimizer.beta_1, optimizer.learning_rate_init) == (0.5, 1e-4)


def test_names_as_classes_and_sparse_inputs_are_taken() -> None:
    x, y, x_val, y_val = rows()
    names = np.array(["red", "white", "rose"])
    training = PartialFitTraining(
        SGDClassifier(loss="log_loss"), csr_matrix(x), names[y], csr_matrix(x_val), names[y_val]
    )
    started = training.start({"lr": 1e-2}, seed=0)
    assert training.advance({}, 30).val_loss[0] < 0.5 * started.val_loss[0]
    assert set(training.model.predict(x_val)) <= set(names)


def test_what_cannot_be_scheduled_is_refused() -> None:
    data = rows()
    with pytest.raises(ConfigurationError, match="partial_fit and a learning rate"):
        PartialFitTraining(DecisionTreeClassifier(), *data)
    with pytest.raises(ConfigurationError, match="partial_fit"):
        PartialFitTraining(MLPClassifier(solver="lbfgs"), *data)
    for other in (GaussianNB(), make_pipeline(StandardScaler(), SGDClassifier()), "SGD"):
        with pytest.raises(ConfigurationError, match="expected an estimator with random_state"):
            PartialFitTraining(other, *data)
    for size in (-1, 0, 2.5):
        with pytest.raises(ConfigurationError, match="batch_size must be"):
            PartialFitTraining(SGDClassifier(), *data, batch_size=size)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="average=False"):
        PartialFitTraining(SGDClassifier(average=True), *data)
    with pytest.raises(TrainingError, match="NaN"):
        PartialFitTraining(SGDClassifier(), np.full((4, 2), np.nan), [0, 1, 0, 1], *data[2:])
    with pytest.raises(TrainingError, match="validation targets have classes"):
        PartialFitTraining(SGDClassifier(), *data[:3], data[3] + 1)
    training = PartialFitTraining(SGDClassifier(), *data)
    with pytest.raises(TrainingError, match="call start"):
        training.advance({}, 1)
    with pytest.raises(SearchSpaceError, match="SGDClassifier has no hyperparameter 'momentum'"):
        training.start({"lr": 0.1, "momentum": 0.9}, seed=0)
    with pytest.raises(TrainingError, match="early_stopping"):
        PartialFitTraining(SGDClassifier(early_stopping=True), *data).start({}, seed=0)


@pytest.mark.parametrize("estimator", [SGDRegressor(), MLPClassifier((4,)), SGDClassifier()])
def test_a_column_of_targets_is_a_row_of_them(estimator: Any) -> None:
    x, y = regression() if isinstance(estimator, SGDRegressor) else classification()
    losses = []
    for targets in (y, y[:, None]):
        training = PartialFitTraining(estimator, x[:80], targets[:80], x[80:], targets[80:])
        training.start({"lr": 1e-3}, 0)
        losses.append(training.advance({}, 5).val_loss[0])
    assert losses[0] == losses[1]


def test_targets_of_several_classes_a_row_are_refused() -> None:
    x, y = classification()
    with pytest.raises(TrainingError, match="one class a row"):
        PartialFitTraining(MLPClassifier((4,)), x, np.stack([y, y], 1), x, np.stack([y, y], 1))


def test_a_perceptron_begins_with_nothing() -> None:
    x, y = classification()
    x[:, 0] += 4.0 * y
    training = PartialFitTraining(Perceptron(), x, y, x, y)
    training.start({"lr": 1.0}, 0)
    assert not training.model.coef_.any()
    training.advance({}, 20)
    assert np.abs(training.model.coef_).max() > 0.1


def test_the_hinge_loss_of_one_class_alone_is_that_of_its_rows() -> None:
    x, y = classification()
    model = SGDClassifier(random_state=0).fit(x, y)
    for label in (0, 1):
        rows = y == label
        margins = model.decision_function(x[rows]) * (1 if label else -1)
        assert hinge_loss(model, x[rows], y[rows]) == pytest.approx(np.maximum(0, 1 - margins).mean())


def regression() -> tuple[Any, Any]:
    random = np.random.default_rng(0)
    x = random.normal(size=(120, 4))
    return x, x @ random.normal(size=4)


def classification() -> tuple[Any, Any]:
    x, y = regression()
    return x, (y > 0).astype(int)
