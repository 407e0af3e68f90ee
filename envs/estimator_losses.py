"""The loss of a fitted scikit-learn estimator on rows of data, where none is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import TrainingError

EstimatorLoss = Callable[[Any, Any, Any], float]
"""A positive loss of a fitted estimator, inputs and targets."""


def usual_loss(estimator: Any) -> EstimatorLoss:
    """Log loss of a classifier with probabilities, hinge loss of one without, squared error of a regressor.

    Args:
        estimator: As it is before it is fitted.
    """
    from sklearn.base import is_classifier

    if not is_classifier(estimator):
        return squared_error
    return log_loss if hasattr(estimator, "predict_proba") else hinge_loss


def log_loss(estimator: Any, inputs: Any, targets: Any) -> float:
    """What `sklearn.metrics.log_loss` is, without its checks, which take longer than a step of training."""
    return mean_log_loss(estimator.predict_proba(inputs), np.searchsorted(estimator.classes_, targets))


def mean_log_loss(probabilities: NDArray[Any], places: NDArray[Any]) -> float:
    """Mean log loss of probabilities (rows, classes), where `places` (rows,) tells the columns of the true classes."""
    found = probabilities[np.arange(len(places)), places]
    return float(-np.log(np.clip(found, np.finfo(found.dtype).eps, 1.0)).mean())


def hinge_loss(estimator: Any, inputs: Any, targets: Any) -> float:
    """See `sklearn.metrics.hinge_loss`, which takes rows of one class alone for the negative one."""
    from sklearn.metrics import hinge_loss

    margins = estimator.decision_function(inputs)
    if len(estimator.classes_) == 2:
        return float(np.maximum(0.0, 1.0 - np.where(targets == estimator.classes_[1], margins, -margins)).mean())
    return float(hinge_loss(targets, margins, labels=estimator.classes_))


def squared_error(estimator: Any, inputs: Any, targets: Any) -> float:
    """Mean squared error."""
    return float(np.square(estimator.predict(inputs) - targets).mean())


def require_known_classes(targets: Any, val_targets: Any) -> None:
    """Refuses validation targets of classes that nobody can have learnt.

    Raises:
        TrainingError: There are some.
    """
    if len(unknown := np.setdiff1d(val_targets, targets)):
        raise TrainingError(
            f"the validation targets have classes that the training targets lack: {unknown[:5].tolist()}"
        )
