"""A scikit-learn estimator that learns in mini-batches, as a training that can be scheduled."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, SupportsFloat

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .errors import ConfigurationError, TrainingError
from .estimator_dials import EstimatorDials, dials_of
from .estimator_losses import EstimatorLoss, require_known_classes, usual_loss
from .meter import IntervalMeter
from .sampling import EpochSampler
from .signals import Interval, first_update
from .training import Values

Array = NDArray[np.float64]

_NO_RATE = float(np.finfo(np.float64).tiny)
"""A step of this size makes an estimator's weights, and leaves them as they were made, or next to 0."""


class PartialFitTraining:
    """A scikit-learn estimator in training by `partial_fit`; implements `envs.training.Training`.

    A step is one `partial_fit` of one mini-batch. Hyperparameters are `lr`, `weight_decay` (the `alpha` of an L2
    penalty) and, of neural networks, `momentum` (or Adam's first beta): see `envs.estimator_dials`. Nothing else that
    an estimator does to its rate has a say.

    Example:
        >>> import metatuner as mt
        >>> from sklearn.datasets import load_digits
        >>> from sklearn.model_selection import train_test_split
        >>> from sklearn.neural_network import MLPClassifier
        >>> x, y = load_digits(return_X_y=True)
        >>> x_train, x_val, y_train, y_val = train_test_split(x / 16, y, random_state=0)
        >>> training = mt.PartialFitTraining(MLPClassifier((32,)), x_train, y_train, x_val, y_val)
        >>> env = mt.ScheduleEnv(training, adjust=("lr",), start={"lr": 1e-5}, decisions=15, interval=10)
        >>> run = mt.run_schedule(env, "schedule-default", seed=0)
        >>> run.val_loss < 0.5 * run.start_loss
        True
        >>> training.model.predict(x_val[:3]).shape
        (3,)

    Args:
        estimator: `SGDClassifier`, `SGDRegressor`, `Perceptron`, `MLPClassifier` or `MLPRegressor`, or what has the
            same attributes. It is copied and left as it is.
        x: Training inputs, shape (rows, features), standardised as they should be: an array or a sparse matrix.
        y: Training targets.
        x_val: Validation inputs. Never test examples: rewards are computed from these.
        y_val: Validation targets.
        loss: A positive loss of a fitted estimator, inputs and targets. None takes the log loss of a classifier with
            probabilities, the hinge loss of one without, the squared error of a regressor.
        batch_size: Rows a mini-batch.

    Raises:
        ConfigurationError: The estimator has no `partial_fit`, no learning rate, or averages its weights.
        TrainingError: `start` was not called, or the estimator does not take these data; classes of the validation
            targets that the training ones lack.
    """

    adaptive: float

    def __init__(
        self,
        estimator: Any,
        x: Any,
        y: Any,
        x_val: Any,
        y_val: Any,
        *,
        loss: EstimatorLoss | None = None,
        batch_size: int = 32,
    ) -> None:
        from sklearn.base import is_classifier

        if not isinstance(batch_size, int | np.integer) or batch_size < 1:
            raise ConfigurationError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
        if not hasattr(estimator, "get_params") or "random_state" not in estimator.get_params():
            raise ConfigurationError(
                f"expected an estimator with random_state, learning_rate and partial_fit, such as an MLPClassifier or "
                f"an SGDRegressor, got {estimator!r}"
            )
        self._estimator, self._loss = estimator, loss or usual_loss(estimator)
        self._train, self._val = _checked(x, y), _checked(x_val, y_val)
        self._rows = min(batch_size, len(self._train[1]))
        self._classes = {"classes": np.unique(self._train[1])} if is_classifier(estimator) else {}
        if self._classes:
            if np.ndim(self._train[1]) > 1:
                raise TrainingError(
                    f"expected one class a row, got targets of shape {np.shape(self._train[1])}: train a classifier "
                    "for each column"
                )
            require_known_classes(self._train[1], self._val[1])
        self._dials: EstimatorDials | None = None
        self.adaptive = self._fresh(seed=0).adaptive

    @property
    def model(self) -> Any:
        """The estimator in training: fitted, once `start` was called."""
        return self._started.estimator

    def start(self, config: Mapping[str, float], seed: int) -> Interval:
        """See `Training.start`."""
        self._dials = self._fresh(seed)
        self._sampler = EpochSampler(len(self._train[1]), self._rows, seed)
        own = {"lr": self._dials.rate}
        self._dials.write("lr", _NO_RATE)
        try:
            self.model.partial_fit(*self._batch(np.arange(self._rows)), **self._classes)
            val_loss = self._measure(*self._val)
        except ValueError as error:
            raise TrainingError(f"{type(self.model).__name__} does not take these data: {error}") from error
        self._dials.forget()
        self._set({**own, **config}, 0)
        return Interval.of(val_loss=val_loss, first_update=self._first_update())

    def advance(self, hyperparameters: Values, steps: int) -> Interval:
        """See `Training.advance`."""
        _, meter = self._started, IntervalMeter(steps)
        with _quiet():
            for step, rows in enumerate(self._sampler.next(steps).numpy()):
                self._set(hyperparameters, step)
                if not self._step(meter, rows):
                    break
            return meter.interval(self._measure(*self._val) if meter.full else None)

    def snapshot(self) -> Any:
        """See `Training.snapshot`."""
        return copy.deepcopy((self._started, self._sampler.state_dict()))

    def restore(self, snapshot: Any) -> None:
        """See `Training.restore`."""
        self._dials, sampler = copy.deepcopy(snapshot)
        self._sampler.load_state_dict(sampler)

    def close(self) -> None:
        """See `Training.close`."""
        self._dials = None

    @property
    def _started(self) -> EstimatorDials:
        if self._dials is None:
            raise TrainingError("this training has not begun: call start(config, seed) first")
        return self._dials

    def _fresh(self, seed: int) -> EstimatorDials:
        from sklearn.base import clone

        return dials_of(clone(self._estimator).set_params(random_state=seed), self._rows)

    def _first_update(self) -> float:
        """Takes the first step, and takes it back."""
        before, dials = self.snapshot(), self._started
        weights, momentum = dials.weights(), dials.momentum()
        rows = self._sampler.next(1)[0].numpy()
        told = np.array(np.nan)
        with _quiet():
            outputs = self._outputs(rows)
            taken = self._fit(rows)
            if taken and dials.begins_with_zeros:
                told = np.sqrt(np.divide(*self._moved(rows, outputs)))
            elif taken:
                gradient, size = (np.array(np.linalg.norm(v)) for v in (dials.gradient(weights, momentum), weights))
                told = first_update(np.array(dials.rate), np.array(self.adaptive), len(weights), gradient, size)
        self.restore(before)
        return float(told)

    def _moved(self, rows: NDArray[np.int64], outputs: Array) -> tuple[float, float]:
        """How far the outputs of a mini-batch have moved, and how large they were: squared norms.

        This is what is measured where weights begin with zeros (linear models): over such weights any update is large.
        Outputs count as no smaller than their unit, which is 1 for margins and the standard deviation of the targets
        for predictions.
        """
        unit = 1.0 if self._classes else float(np.std(self._train[1]))
        moved = float(np.square(self._outputs(rows) - outputs).sum())
        return moved, float(np.square(outputs).sum()) + unit**2 * outputs.size

    def _outputs(self, rows: NDArray[np.int64]) -> Array:
        """Margins or predictions on training rows."""
        inputs, _ = self._batch(rows)
        told = getattr(self.model, "decision_function", self.model.predict)
        found: Array = told(inputs)
        return found

    def _set(self, values: Values, step: int) -> None:
        for name, value in values.items():
            self._started.write(name, float(value) if isinstance(value, int | float) else float(value[step]))

    def _step(self, meter: IntervalMeter, rows: NDArray[np.int64]) -> bool:
        """Measures and takes a step; returns whether all numbers are still finite."""
        dials, takes_update = self._started, meter.wants_update
        loss = self._measure(*self._batch(rows))
        looks = meter.wants_gradient or takes_update
        weights, momentum = (dials.weights(), dials.momentum()) if looks else (np.zeros(0), np.zeros(0))
        outputs = self._outputs(rows) if takes_update and dials.begins_with_zeros else None
        taken = self._fit(rows)
        if taken and meter.wants_gradient:
            gradient = dials.gradient(weights, momentum)
            meter.gradient(*map(_scalar, (gradient @ gradient, gradient @ momentum, momentum @ momentum)))
        if taken and takes_update:
            update = dials.weights() - weights
            compared = (update @ update, weights @ weights) if outputs is None else self._moved(rows, outputs)
            meter.update(*map(_scalar, compared))
        meter.loss(_scalar(loss if taken else np.inf))
        return taken and bool(np.isfinite(loss))

    def _fit(self, rows: NDArray[np.int64]) -> bool:
        """One `partial_fit`; returns whether the estimator's numbers were finite."""
        try:
            self.model.partial_fit(*self._batch(rows))
        except ValueError:
            # These data were taken before: what scikit-learn refuses is an overflow.
            return False
        return True

    def _measure(self, inputs: Any, targets: Any) -> float:
        return float(self._loss(self.model, inputs, targets))

    def _batch(self, rows: Any) -> tuple[Any, Any]:
        inputs, targets = self._train
        return inputs[rows], targets[rows]


def _checked(inputs: Any, targets: Any) -> tuple[Any, Any]:
    from sklearn.utils import check_X_y

    try:
        found: tuple[Any, Any] = check_X_y(inputs, targets, accept_sparse="csr", multi_output=True)
    except ValueError as error:
        raise TrainingError(f"these data cannot be learnt from: {error}") from error
    rows, told = found
    # A column is what scikit-learn would make of it: predictions minus a column would be a table.
    return rows, told.ravel() if told.ndim == 2 and told.shape[1] == 1 else told


def _scalar(value: SupportsFloat) -> Tensor:
    return torch.tensor(float(value), dtype=torch.float64)


@contextmanager
def _quiet() -> Iterator[None]:
    """Numbers that overflow are reported by an interval; data and parameters were checked before."""
    import sklearn

    with np.errstate(all="ignore"), sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
        yield
