"""What can be set and measured of scikit-learn's estimators that learn in mini-batches, by `partial_fit`.

Linear models (`SGDClassifier`, `SGDRegressor`, `Perceptron`) take a step for each row; neural networks
(`MLPClassifier`, `MLPRegressor`) one for each mini-batch, by an optimiser that the estimator makes at its first one.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .errors import ConfigurationError, SearchSpaceError

Array = NDArray[np.float64]


class EstimatorDials(Protocol):
    """An estimator's hyperparameters, weights and momentum. Vectors are flat, of shape (weights,).

    Attributes:
        estimator: The estimator.
        adaptive: 1.0 where its optimiser normalises steps by gradient size, else 0.0.
        begins_with_zeros: Whether all its weights are 0 before the first step.
    """

    estimator: Any
    adaptive: float
    begins_with_zeros: bool

    @property
    def rate(self) -> float:
        """The learning rate."""

    def write(self, name: str, value: float) -> None:
        """Sets `lr`, `weight_decay` or `momentum`.

        Raises:
            SearchSpaceError: The estimator has no such hyperparameter.
        """

    def forget(self) -> None:
        """Takes back what a step without a rate has left: the next step is the first."""

    def weights(self) -> Array:
        """A copy of coefficients and intercepts."""

    def momentum(self) -> Array:
        """A copy of the momentum buffer, signed as gradients are; 0 where there is none."""

    def gradient(self, weights: Array, momentum: Array) -> Array:
        """The mean gradient of the last step, which began with these weights and this momentum."""


class LinearDials:
    """A linear model of stochastic gradient descent: `lr` is its `eta0`, `weight_decay` its `alpha`.

    A step is taken for each row of a mini-batch, without momentum: the gradient is the update over the rate, as a mean
    over rows. The penalty is a part of it.

    Args:
        estimator: The model; its rate becomes constant between calls, since whoever writes it decides.
        rows: Rows a mini-batch.

    Raises:
        ConfigurationError: It averages its weights: then its updates tell nothing of the gradient.
    """

    adaptive = 0.0
    begins_with_zeros = True

    def __init__(self, estimator: Any, rows: int) -> None:
        if getattr(estimator, "average", False):
            raise ConfigurationError("expected an estimator with average=False, got one that averages its weights")
        self.estimator, self._rows = estimator, rows
        estimator.learning_rate = "constant"  # no parameter of a Perceptron, which has no other

    @property
    def rate(self) -> float:
        """See `EstimatorDials.rate`."""
        return float(self.estimator.eta0)

    def write(self, name: str, value: float) -> None:
        """See `EstimatorDials.write`."""
        if name == "lr":
            self.estimator.eta0 = value
        elif name == "weight_decay" and self.estimator.penalty == "l2":
            self.estimator.alpha = value
        else:
            raise _no_such(self.estimator, name, "lr, and weight_decay where its penalty is 'l2'")

    def forget(self) -> None:
        """See `EstimatorDials.forget`: the weights are 0 again, and nothing else is remembered.

        A perceptron learns from its mistakes alone, and makes none where its weights are of the right sign, however
        small they are.
        """
        self.estimator.coef_[...] = 0.0
        self.estimator.intercept_[...] = 0.0
        self.estimator.t_ = 1.0

    def weights(self) -> Array:
        """See `EstimatorDials.weights`."""
        return _flat([self.estimator.coef_, self.estimator.intercept_])

    def momentum(self) -> Array:
        """See `EstimatorDials.momentum`."""
        return np.zeros_like(self.weights())

    def gradient(self, weights: Array, momentum: Array) -> Array:
        """See `EstimatorDials.gradient`."""
        del momentum
        found: Array = (weights - self.weights()) / (self.rate * self._rows)
        return found


class NetworkDials:
    """A neural network: `lr` is its `learning_rate_init`, `momentum` that of SGD or Adam's `beta_1`.

    `weight_decay` is `alpha` over the rows of a mini-batch, as scikit-learn divides its penalty by them. The gradient
    is what the optimiser's momentum took in, the penalty's part included.

    Args:
        estimator: The network.
        rows: Rows a mini-batch: the estimator cuts none into smaller ones.
    """

    begins_with_zeros = False

    def __init__(self, estimator: Any, rows: int) -> None:
        self.estimator, self._rows = estimator.set_params(batch_size=rows), rows
        self.adaptive = float(estimator.solver == "adam")
        self._momentum_name = "beta_1" if self.adaptive else "momentum"

    @property
    def rate(self) -> float:
        """See `EstimatorDials.rate`."""
        return float(self.estimator.learning_rate_init)

    def write(self, name: str, value: float) -> None:
        """See `EstimatorDials.write`."""
        if name == "weight_decay":
            self.estimator.alpha = value * self._rows
            return
        if name not in ("lr", "momentum"):
            raise _no_such(self.estimator, name, "lr, weight_decay and momentum")
        attribute = "learning_rate_init" if name == "lr" else self._momentum_name
        # The estimator's own is what a new optimiser begins with.
        setattr(self.estimator, attribute, value)
        if self._optimizer is not None:
            setattr(self._optimizer, attribute, value)
            if name == "lr":
                # SGD looks at this one; Adam works it out from the other.
                self._optimizer.learning_rate = value

    def forget(self) -> None:
        """See `EstimatorDials.forget`."""
        del self.estimator._optimizer

    def weights(self) -> Array:
        """See `EstimatorDials.weights`."""
        return _flat([*self.estimator.coefs_, *self.estimator.intercepts_])

    def momentum(self) -> Array:
        """See `EstimatorDials.momentum`."""
        if self._optimizer is None:
            return np.zeros_like(self.weights())
        return _flat(self._optimizer.ms) if self.adaptive else -_flat(self._optimizer.velocities)

    def gradient(self, weights: Array, momentum: Array) -> Array:
        """See `EstimatorDials.gradient`."""
        del weights
        kept, now = getattr(self.estimator, self._momentum_name), self.momentum()
        taken = 1.0 - kept if self.adaptive else self.rate
        found: Array = (now - kept * momentum) / taken
        return found

    @property
    def _optimizer(self) -> Any:
        return getattr(self.estimator, "_optimizer", None)


def dials_of(estimator: Any, rows: int) -> EstimatorDials:
    """Those of an estimator.

    Args:
        estimator: An estimator that was not fitted; its settings are changed.
        rows: Rows a mini-batch.

    Raises:
        ConfigurationError: It has no `partial_fit`, or no learning rate that could be changed between calls.
    """
    if hasattr(estimator, "partial_fit"):
        if hasattr(estimator, "learning_rate_init"):
            return NetworkDials(estimator, rows)
        if hasattr(estimator, "eta0"):
            return LinearDials(estimator, rows)
    raise ConfigurationError(
        "expected an estimator with partial_fit and a learning rate, such as SGDClassifier or MLPRegressor (solver "
        f"'sgd' or 'adam'), got {estimator!r}"
    )


def _flat(arrays: list[Any]) -> Array:
    return np.concatenate([np.ravel(each) for each in arrays]).astype(np.float64)


def _no_such(estimator: Any, name: str, there: str) -> SearchSpaceError:
    return SearchSpaceError(f"{type(estimator).__name__} has no hyperparameter {name!r} to adjust; it has {there}")
