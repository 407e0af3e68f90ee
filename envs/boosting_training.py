"""Rounds of XGBoost as steps of a training, so that their learning rate can be scheduled.

Boosting is gradient descent in function space (Friedman 2001, Greedy function approximation: a gradient boosting
machine): what a network has in weights it has in the margins of the training rows, and a round is a step. Trees that
are grown stay as they are; the rate of those to come can change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, SupportsFloat

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .errors import ConfigurationError, MissingPackageError, SearchSpaceError, TrainingError
from .estimator_losses import mean_log_loss, require_known_classes
from .meter import IntervalMeter
from .signals import Interval
from .training import Values

try:
    import xgboost
except ImportError as error:
    raise MissingPackageError("rounds of XGBoost need the package xgboost: pip install metatuner[xgboost]") from error

Array = NDArray[np.float64]

_SAMPLING = ("subsample", "colsample_bytree", "colsample_bylevel", "colsample_bynode")


class BoostingTraining:
    """Rounds of XGBoost; implements `envs.training.Training`.

    A step is one round on all training rows. The only hyperparameter is `lr`, XGBoost's `learning_rate`; everything
    else is the estimator's. Log loss, or squared error. Before the first round all predictions are the mean of the
    training targets (several classes: all alike), which XGBoost would work out itself in the first round.

    Before you use it: it is for whoever has no idea of the rate. Near 0.2 a constant rate is as good, and a small one
    with more rounds may be better than both (see `experiments/other_frameworks`).

    Example:
        >>> import metatuner as mt
        >>> from sklearn.datasets import load_breast_cancer
        >>> from sklearn.model_selection import train_test_split
        >>> from xgboost import XGBClassifier
        >>> x, y = load_breast_cancer(return_X_y=True)
        >>> x_train, x_val, y_train, y_val = train_test_split(x, y, random_state=0)
        >>> trees = XGBClassifier(max_depth=2, n_jobs=1)
        >>> training = mt.BoostingTraining(trees, x_train, y_train, x_val, y_val)
        >>> env = mt.ScheduleEnv(training, adjust=("lr",), start={"lr": 0.01}, decisions=10, interval=4)
        >>> run = mt.run_schedule(env, "schedule-default", seed=0)
        >>> run.val_loss < run.start_loss
        True
        >>> training.model.predict(x_val[:3]).shape
        (3,)

    Args:
        estimator: `XGBClassifier` (of classes 0, 1, ...) or `XGBRegressor` with the objective that it has by default.
            Rows and columns are sampled by its `subsample` and `colsample_...`, others each round than in a single
            `fit`: without these nothing is random.
        x: Training inputs: whatever `xgboost.DMatrix` takes.
        y: Training targets.
        x_val: Validation inputs. Never test examples: rewards are computed from these.
        y_val: Validation targets.

    Raises:
        ConfigurationError: The estimator is of another kind, or has another objective or a `base_score`.
        TrainingError: `start` was not called, classes are not 0, 1, ..., or validation targets have one that training
            targets lack; XGBoost does not take the data, or validation inputs have other columns.
    """

    adaptive = 0.0

    def __init__(self, estimator: Any, x: Any, y: Any, x_val: Any, y_val: Any) -> None:
        self._estimator, self._classes = estimator, 0
        if isinstance(estimator, xgboost.XGBClassifier):
            self._classes = _count_classes(y, y_val)
        elif not isinstance(estimator, xgboost.XGBRegressor):
            raise ConfigurationError(f"expected an XGBClassifier or XGBRegressor, got {estimator!r}")
        own = estimator.get_xgb_params()
        if own.get("base_score") is not None:
            raise ConfigurationError("expected no base_score: predictions begin at the mean of the training targets")
        if np.ndim(y) > 1 and np.shape(y)[1] > 1:
            raise TrainingError(f"expected one target a row, got targets of shape {np.shape(y)}")
        self._params = {**own, **_objective(self._classes, float(np.mean(np.asarray(y))))}
        # Of several classes, too, a classifier says "binary:logistic" as long as nobody says otherwise.
        usual = (None, "binary:logistic") if self._classes else (None,)
        if estimator.objective not in (*usual, self._params["objective"]):
            raise ConfigurationError(
                f"expected the objective {self._params['objective']!r}, whose loss is measured, got "
                f"{estimator.objective!r}"
            )
        # What is no parameter of a booster is one of its data.
        about = {"nthread": self._params.get("n_jobs"), "missing": estimator.missing}
        about |= {name: getattr(estimator, name) for name in ("enable_categorical", "feature_types")}
        try:
            self._train, self._val = (xgboost.DMatrix(*rows, **about) for rows in ((x, y), (x_val, y_val)))
            if (weights := getattr(estimator, "feature_weights", None)) is not None:
                self._train.set_info(feature_weights=weights)
        except (xgboost.core.XGBoostError, ValueError, TypeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise TrainingError(f"XGBoost does not take these data: {reason}") from error
        if self._train.num_col() != self._val.num_col():
            raise TrainingError(
                f"expected validation inputs with the {self._train.num_col()} columns of the training ones, got "
                f"{self._val.num_col()}"
            )
        if self._train.feature_names != self._val.feature_names:
            raise TrainingError(
                f"expected validation inputs with the columns {self._train.feature_names} of the training ones, in "
                f"that order, got {self._val.feature_names}"
            )
        self._samples = any(float(own.get(name) or 1.0) < 1.0 for name in _SAMPLING)
        self._rate = float(estimator.learning_rate or 0.3)
        self._seed = 0
        self._state: bytearray | None = None

    @property
    def model(self) -> Any:
        """The estimator with all trees so far, to predict with."""
        fitted = type(self._estimator)(**self._estimator.get_params())
        fitted.load_model(self._started)
        return fitted

    def start(self, config: Mapping[str, float], seed: int) -> Interval:
        """See `Training.start`."""
        self._seed = seed
        self._set({"lr": self._rate, **config}, 0)
        booster = xgboost.train(self._settings(), self._train, num_boost_round=0)
        self._state = booster.save_raw()
        self._base = self._margins(booster)
        return Interval.of(val_loss=self._loss(booster, self._val), first_update=self._first_update())

    def advance(self, hyperparameters: Values, steps: int) -> Interval:
        """See `Training.advance`."""
        # A booster remembers margins with other rounding errors than those that are worked out anew, as after a
        # restore: so they are always worked out anew.
        booster = xgboost.Booster(self._settings(), model_file=self._started)
        done, meter = booster.num_boosted_rounds(), IntervalMeter(steps)
        for step in range(steps):
            self._set(hyperparameters, step)
            if step and self._samples:
                # A booster draws for its first round otherwise than for later ones: each round is to be the first.
                booster = xgboost.Booster(self._settings(), model_file=booster.save_raw())
            booster.set_param({"learning_rate": self._rate})
            self._round(booster, done + step, meter)
        self._state = booster.save_raw()
        return meter.interval(self._loss(booster, self._val))

    def snapshot(self) -> Any:
        """See `Training.snapshot`."""
        return bytes(self._started), self._rate, self._seed

    def restore(self, snapshot: Any) -> None:
        """See `Training.restore`."""
        state, self._rate, self._seed = snapshot
        self._state = bytearray(state)

    def close(self) -> None:
        """See `Training.close`."""
        self._state = None

    @property
    def _started(self) -> bytearray:
        if self._state is None:
            raise TrainingError("this training has not begun: call start(config, seed) first")
        return self._state

    def _settings(self) -> dict[str, Any]:
        # Which rows and columns a round samples follows from its number, not from the rounds before it.
        return {**self._params, "learning_rate": self._rate, "random_state": self._seed, "seed_per_iteration": True}

    def _set(self, values: Values, step: int) -> None:
        for name, value in values.items():
            if name != "lr":
                raise SearchSpaceError(f"boosting has no hyperparameter {name!r} to adjust; it has lr")
            self._rate = float(value) if isinstance(value, int | float) else float(value[step])

    def _round(self, booster: xgboost.Booster, number: int, meter: IntervalMeter) -> None:
        """Measures, and adds the trees of a round."""
        outputs = self._outputs(booster, self._train)
        margins = self._margins(booster) if meter.wants_update else None
        if meter.wants_gradient:
            squared = _scalar(np.square(self._errors(outputs)).sum())
            meter.gradient(squared, torch.zeros_like(squared), torch.zeros_like(squared))
        meter.loss(_scalar(self._loss_of(outputs, self._train)))
        booster.update(self._train, number)
        if margins is not None:
            meter.update(*map(_scalar, self._moved(booster, margins)))

    def _first_update(self) -> float:
        """Grows the trees of the first round, and forgets them."""
        booster = xgboost.Booster(self._settings(), model_file=self._started)
        margins = self._margins(booster)
        booster.update(self._train, 0)
        return float(np.sqrt(np.divide(*self._moved(booster, margins))))

    def _moved(self, booster: xgboost.Booster, margins: Array) -> tuple[float, float]:
        """How far the margins have moved, and how large they were, counted from the first ones: squared norms.

        They count as no smaller than their unit, which is 1, for a regression the standard deviation of the targets.
        """
        unit = 1.0 if self._classes else float(np.std(self._train.get_label()))
        moved = float(np.square(self._margins(booster) - margins).sum())
        return moved, float(np.square(margins - self._base).sum()) + unit**2 * margins.size

    def _outputs(self, booster: xgboost.Booster, data: xgboost.DMatrix) -> Array:
        """Predictions, shape (rows,), or probabilities, shape (rows, classes)."""
        found: Array = booster.predict(data).astype(np.float64)
        return np.stack([1.0 - found, found], axis=1) if self._classes == 2 else found

    def _margins(self, booster: xgboost.Booster) -> Array:
        found: Array = booster.predict(self._train, output_margin=True).astype(np.float64)
        return found

    def _errors(self, outputs: Array) -> Array:
        """Gradients of the training loss by the margins, a row each."""
        labels = self._train.get_label()
        found: Array = outputs - (np.eye(self._classes)[labels.astype(np.int64)] if self._classes else labels)
        return found

    def _loss(self, booster: xgboost.Booster, data: xgboost.DMatrix) -> float:
        return self._loss_of(self._outputs(booster, data), data)

    def _loss_of(self, outputs: Array, data: xgboost.DMatrix) -> float:
        labels = data.get_label()
        if self._classes:
            return mean_log_loss(outputs, labels.astype(np.int64))
        return float(np.square(outputs - labels).mean())


def _count_classes(targets: Any, val_targets: Any) -> int:
    classes = np.unique(targets)
    if len(classes) < 2 or not np.array_equal(classes, np.arange(len(classes))):
        raise TrainingError(f"XGBoost wants at least two classes 0, 1, ..., got {classes[:5].tolist()}: encode them")
    require_known_classes(targets, val_targets)
    return len(classes)


def _objective(classes: int, mean: float) -> dict[str, Any]:
    """What is minimised, and from which prediction on."""
    if classes == 0:
        return {"objective": "reg:squarederror", "base_score": mean}
    if classes == 2:
        return {"objective": "binary:logistic", "base_score": mean}
    return {"objective": "multi:softprob", "num_class": classes, "base_score": 0.5}


def _scalar(value: SupportsFloat) -> Tensor:
    return torch.tensor(float(value), dtype=torch.float64)
