"""From measurements to observations, from actions to hyperparameters: the arithmetic of a schedule.

One object serves n trainings side by side; the single environment, the batched environment and a user's own loop
(n = 1) all go through it, so what a policy learns on is what it later sees.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import signals
from .adjustments import Adjustable, Kind
from .errors import TrainingError
from .signals import GLOBAL_SIGNALS, LIMIT, Array, Interval

HYPERPARAMETER_SIGNALS = (
    "adjusted", "moved", "room_up", "room_down", "last_adjustment", *(f"is_{kind}" for kind in Kind)
)  # fmt: skip
"""Signals of one hyperparameter, in their order in an observation; all 0 where it is not to be adjusted."""

TREND_RATE = 0.2
"""Trends are running means that take in this share of each interval's change."""

UNKNOWN_HORIZON = 10.0
"""Decisions that a trend is carried on for where nobody knows how many are left."""

ROOM = 3.0
"""Bounds further away than this many largest moves are not seen."""

CUT_AFTER_DIVERGENCE = math.log(4)
"""How far a learning rate falls (natural log) when a training is rolled back."""

DIVERGENCE_PENALTY = 0.5
"""What a rolled-back interval costs."""

ALIEN = 2.0
"""A first validation loss this many times above or below all training losses is another measure than they are."""


def observation_size(hyperparameters: int) -> int:
    """Length of an observation with this many adjustable hyperparameters."""
    return len(GLOBAL_SIGNALS) + hyperparameters * len(HYPERPARAMETER_SIGNALS)


class ScheduleController:
    """The state of n schedules with h adjustable hyperparameters and T decisions.

    An observation is the global signals followed by one block of hyperparameter signals for each hyperparameter.

    Args:
        hyperparameters: The h adjustable ones.
        decisions: T; `set_horizon` changes it.
        adaptive: For each training, whether its optimiser normalises its steps, shape (n,).
        adjusted: Which hyperparameters are to be adjusted, shape (n, h); None adjusts all.
        horizon_known: Whether the schedule may know T, shape (n,); None tells all.

    Attributes:
        is_rate: Which hyperparameters are learning rates, shape (h,).
        unlearns: Whether an interval in which a training has begun to overfit is taken back like one that diverged.
        overfitted: Whether it was, in the last interval, shape (n,).
    """

    def __init__(
        self,
        hyperparameters: Sequence[Adjustable],
        decisions: int,
        adaptive: Array,
        *,
        adjusted: NDArray[np.bool_] | None = None,
        horizon_known: NDArray[np.bool_] | None = None,
    ) -> None:
        self.hyperparameters, self.decisions = tuple(hyperparameters), decisions
        self._adaptive = np.asarray(adaptive, dtype=np.float64)
        n, h = len(self._adaptive), len(self.hyperparameters)
        self._adjusted = np.ones((n, h)) if adjusted is None else np.asarray(adjusted, dtype=np.float64)
        self._horizon_known = np.ones(n) if horizon_known is None else np.asarray(horizon_known, dtype=np.float64)
        kinds = [[float(each.kind is kind) for kind in Kind] for each in self.hyperparameters]
        self._kinds = np.broadcast_to(np.array(kinds).reshape(1, h, len(Kind)), (n, h, len(Kind)))
        self.is_rate = np.array([each.kind is Kind.LEARNING_RATE for each in self.hyperparameters])
        self._moves = np.array([each.largest_move for each in self.hyperparameters])
        self._low = np.array([each.low for each in self.hyperparameters])
        self._high = np.array([each.high for each in self.hyperparameters])
        self.unlearns = False
        self._seen_low, self._seen_high = np.array([each.seen for each in self.hyperparameters]).T
        self.begin(np.ones((n, h)), Interval.of(val_loss=np.ones(n)))

    def begin(self, reference: Array, started: Interval, decision: int = 0) -> None:
        """Begins n schedules.

        Args:
            reference: Starting values, shape (n, h).
            started: What was measured before the first step, of n trainings. Where the validation loss is unknown, the
                loss of the first mini-batch stands in until there is one.
            decision: The number of the first decision; above 0 where part of the training is over.

        Raises:
            TrainingError: A loss that is not positive.
        """
        n, h = reference.shape
        nothing = np.full(n, np.nan)
        self.decision = decision
        self.overfitted, self._unlearnt = np.zeros((2, n), dtype=np.bool_)  # in the last interval, and validated one
        self._offset, self._last_action = np.zeros((n, h)), np.zeros((n, h))
        self._start = self._base = self._natural(reference)
        self._val_start = self._val_last = self._val_best = np.array(started.val_loss, dtype=np.float64)
        self._validated = ~np.isnan(self._val_start)
        self._train_start, self._train_last, self._train_best = nothing.copy(), nothing.copy(), nothing.copy()
        self._train_at_best, self._log_grad_norm = nothing.copy(), nothing.copy()
        self._train_trend, self._val_trend, self._val_noise = np.zeros(n), np.zeros(n), np.zeros(n)
        self._val_age, self._since_best = np.zeros(n), np.zeros(n)
        self._measured = np.zeros((n, len(GLOBAL_SIGNALS)))
        about = {"adaptive": self._adaptive, "first_update": signals.relative_update_signal(started.first_update)}
        self._show(self._about_the_horizon() | about)
        self._require_positive(self._val_start, "validation loss before the first step")

    def set_horizon(self, decisions: int | None) -> None:
        """Tells how many decisions there are from here on, those so far included; None where nobody knows."""
        self.decisions = self.decisions if decisions is None else decisions
        self._horizon_known = np.full_like(self._horizon_known, float(decisions is not None))

    def rebase(self, val_loss: Array) -> None:
        """Forgets all losses: those from here on are compared with each other only, as after a change of the data.

        Args:
            val_loss: Validation losses now, shape (n,); NaN where unknown.
        """
        nothing = np.full(len(val_loss), np.nan)
        self._val_start = self._val_last = self._val_best = np.array(val_loss, dtype=np.float64)
        self._train_start, self._train_last, self._train_best = nothing.copy(), nothing.copy(), nothing.copy()
        self._train_at_best, self._log_grad_norm = nothing.copy(), nothing.copy()
        self._validated |= ~np.isnan(val_loss)
        self._require_positive(self._val_start, "validation loss on the new data")

    def observe(self, interval: Interval) -> tuple[Array, NDArray[np.bool_]]:
        """Takes in what an interval measured.

        Returns:
            The rewards, shape (n,): log(validation loss before / after), minus `DIVERGENCE_PENALTY` where the training
            diverged. Where none diverged they add up to log(starting / final validation loss); until the first of
            these is told training losses stand in.
            And which trainings diverged, or overfitted where such are taken back, shape (n,): they must be rolled back
            to the interval's start. Their learning rates are cut here.
        """
        self._fill_starts(interval)
        diverged = signals.has_diverged(interval, np.where(self._validated, self._val_start, np.nan))
        overfits = self.unlearns & ~diverged & self._validated & self._overfits(interval)
        # Twice in a row is no overfitting: the loss that is returned to was a lucky one, where validation is noisy.
        self.overfitted = overfits & ~self._unlearnt
        self._unlearnt = np.where(np.isnan(interval.val_loss), self._unlearnt, self.overfitted)
        back = diverged | self.overfitted
        train = np.where(back | np.isnan(interval.train_loss), self._train_last, interval.train_loss)
        fresh = ~np.isnan(interval.val_loss)
        first = (interval.val_loss > 0) & ~back & ~self._validated
        paid = np.where(first, signals.log_ratio(self._val_start, self._val_last, self._val_start), 0.0)
        self._meet_first_validation(interval.val_loss, train, first)
        val = np.where(self._validated, interval.val_loss, train)
        val = np.where(back | np.isnan(val), self._val_last, val)

        def since(now: Array, then: Array, start: Array) -> Array:
            return signals.log_ratio(now, then, start)

        t0, v0 = self._train_start, self._val_start
        reward = since(self._val_last, val, v0) - DIVERGENCE_PENALTY * diverged - paid
        inside = {
            "loss_noise": signals.loss_noise(interval.train_loss_std, interval.train_loss),
            "loss_slope": since(interval.late_loss, interval.early_loss, t0),
            "gradient_trend": signals.gradient_trend(interval.log_grad_norm, self._log_grad_norm),
            "gradient_alignment": np.nan_to_num(interval.alignment, nan=0.0),
            "relative_update": signals.relative_update_signal(interval.relative_update),
        }
        self.decision += 1
        self._follow_trends(since(train, self._train_last, t0), since(val, self._val_last, v0), fresh & ~back)
        self._since_best = np.where(val < self._val_best, 0.0, self._since_best + 1)
        horizon = self._about_the_horizon()
        left = np.where(self._horizon_known > 0, self.decisions - self.decision, UNKNOWN_HORIZON)
        values = {
            **horizon,
            "train_since_start": since(train, t0, t0),
            "train_since_last": since(train, self._train_last, t0),
            "train_since_best": since(train, self._train_best, t0),
            "val_since_start": since(val, v0, v0),
            "val_since_last": since(val, self._val_last, v0),
            "val_since_best": since(val, self._val_best, v0),
            "val_age": signals.counted(self._val_age),
            "decisions_since_best": signals.counted(self._since_best),
            "train_outlook": signals.outlook(self._train_trend, left),
            "val_outlook": signals.outlook(self._val_trend, left),
            "val_significance": signals.significance(self._val_trend, self._val_noise),
            "generalisation_gap": since(val, train, v0),
            **{name: np.where(back, 0.0, value) for name, value in inside.items()},
            "adaptive": self._adaptive,
            "diverged": back.astype(np.float64),
        }
        self._show(values)
        self._train_last, self._train_best = train, np.fmin(self._train_best, train)
        self._train_at_best = np.where(fresh & ~back & (val <= self._val_best), train, self._train_at_best)
        self._val_last, self._val_best = val, np.fmin(self._val_best, val)
        keep = back | np.isnan(interval.log_grad_norm)
        self._log_grad_norm = np.where(keep, self._log_grad_norm, interval.log_grad_norm)
        self._move(-CUT_AFTER_DIVERGENCE * (back[:, None] & self.is_rate[None]) * self._adjusted)
        return reward, back

    def _meet_first_validation(self, val: Array, train: Array, first: NDArray[np.bool_]) -> None:
        """Training losses stood in so far: validation is taken to have begun with the first of them, if it is alike.

        A network that has learnt nothing does as badly on any data; a validation loss that is far from all training
        losses is another measure, such as a perplexity.
        """
        alike = (val > train / ALIEN) & (val < ALIEN * self._train_start)
        began = np.where(alike, self._train_start, val)
        for name in ("_val_start", "_val_last", "_val_best"):
            setattr(self, name, np.where(first, began, getattr(self, name)))
        self._validated |= first

    def _overfits(self, interval: Interval) -> NDArray[np.bool_]:
        val, train = interval.val_loss, interval.train_loss
        return signals.overfits(val, self._val_last, self._val_best, self._val_start, train, self._train_at_best)

    @property
    def log_grad_norm(self) -> float:
        """Of the first training: mean logarithm of the gradient's norm in its last good interval; NaN before that."""
        return float(self._log_grad_norm[0])

    @property
    def val_loss(self) -> Array:
        """The last validation losses, shape (n,); after a rollback those of the interval's start."""
        return self._val_last

    @property
    def val_start(self) -> Array:
        """The validation losses that others are compared with, shape (n,): at the start, or since the data changed."""
        return self._val_start

    def observation(self) -> NDArray[np.float32]:
        """What a policy sees now, shape (n, observation_size(h)), clipped to [-5, 5]."""
        natural = self._base + self._offset
        own = np.stack(
            [
                self._adjusted,
                (natural - self._start) / (4.0 * self._moves),
                np.clip((self._seen_high - natural) / self._moves, 0.0, ROOM) / ROOM,
                np.clip((natural - self._seen_low) / self._moves, 0.0, ROOM) / ROOM,
                self._last_action,
            ],
            axis=2,
        )
        blocks = np.concatenate([own, self._kinds], axis=2) * self._adjusted[..., None]
        seen = np.concatenate([self._measured, blocks.reshape(len(blocks), -1)], axis=1)
        clipped: NDArray[np.float32] = np.clip(seen, -LIMIT, LIMIT).astype(np.float32)
        return clipped

    def adjust(self, action: ArrayLike) -> None:
        """Moves the hyperparameters by actions in [-1, 1], shape (n, h); a move stops at the distribution's bounds."""
        self._last_action = np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0) * self._adjusted
        self._move(self._last_action * self._moves)

    def shorten_first_step(self, action: Array, longest: float) -> NDArray[np.bool_]:
        """Lowers learning rates before the first step, by as much as it takes and an adjustment may not.

        Only those of optimisers that normalise their steps, where weights are moved by about the rate whatever the
        gradient is. Weights next to nothing are not measured against: there any step is long.

        Args:
            action: The adjustments that come next, shape (n, h).
            longest: The first step may move the weights by this share of their norm.

        Returns:
            Of which schedules rates were lowered, shape (n,).
        """
        signal = self.signals()["first_update"]
        told = (self._adaptive > 0) & (signal < LIMIT)
        coming = np.log(signals.relative_update(signal))[:, None] + action * self._moves
        excess = np.maximum(0.0, coming - np.log(longest)) * (told[:, None] & self.is_rate) * self._adjusted
        self._move(-excess)
        return np.asarray(excess.any(axis=1))

    def displace(self, values: Array, reference: Array) -> None:
        """Takes in that someone else set the hyperparameters, as far as their distributions allow.

        The policy sees where they are, but not a move of its own.

        Args:
            values: What they are now, shape (n, h).
            reference: Reference values, shape (n, h).
        """
        before = self.values(reference)
        self._move(np.where(values == before, 0.0, self._natural(values) - self._natural(before)))

    def values(self, reference: Array) -> Array:
        """The hyperparameters that follow from reference values, shape (..., n, h).

        Where nothing was adjusted they are the reference bit for bit.
        """
        reference = np.asarray(reference, dtype=np.float64)
        columns = [each.moved(reference[..., i], self._offset[:, i]) for i, each in enumerate(self.hyperparameters)]
        return np.stack(columns, axis=-1)

    def follow(self, reference: Array) -> None:
        """Tells where the reference is now, shape (n, h): bounds and signals are about the sum of both."""
        self._base = self._natural(reference)

    @property
    def offset(self) -> Array:
        """How far each hyperparameter was moved from its reference, on its natural scale: shape (n, h)."""
        return self._offset.copy()

    def action_to(self, offset: Array) -> Array:
        """The adjustments, within [-1, 1], that lead to an earlier `offset` or as far towards it as one may go."""
        towards: Array = np.clip((offset - self._offset) / self._moves, -1.0, 1.0)
        return towards

    def signals(self) -> dict[str, Array]:
        """The global signals by name, each of shape (n,); not clipped."""
        return dict(zip(GLOBAL_SIGNALS, self._measured.T, strict=True))

    def named_signals(self, training: int = 0) -> dict[str, float]:
        """The observation of one training by name, for people."""
        names = [*GLOBAL_SIGNALS]
        for each in self.hyperparameters:
            names += [f"{each.name}/{signal}" for signal in HYPERPARAMETER_SIGNALS]
        seen = dict(zip(names, map(float, self.observation()[training]), strict=True))
        return {name: value for name, value in seen.items() if "/is_" not in name and "/adjusted" not in name}

    def state_dict(self) -> dict[str, object]:
        """A copy of everything that changes; numbers and arrays of shape (n, ...)."""
        return {
            "decision": self.decision,
            "decisions": self.decisions,
            **{name: getattr(self, name).copy() for name in self._arrays()},
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Back to a state, bit for bit."""
        self.decision = int(state["decision"])  # type: ignore[call-overload]
        self.decisions = int(state["decisions"])  # type: ignore[call-overload]
        for name in self._arrays():
            setattr(self, name, np.array(state[name]))

    def _arrays(self) -> list[str]:
        constant = {"is_rate", "_adaptive", "_adjusted", "_kinds", "_moves", "_low", "_high"}
        constant |= {"_seen_low", "_seen_high"}
        return [name for name, value in vars(self).items() if isinstance(value, np.ndarray) and name not in constant]

    def _show(self, values: Mapping[str, Array]) -> None:
        nothing = np.zeros(len(self._adaptive))
        self._measured = np.stack([values.get(name, nothing) for name in GLOBAL_SIGNALS], axis=1)

    def _about_the_horizon(self) -> dict[str, Array]:
        left = max(self.decisions - self.decision, 0)
        return {
            "progress": self._horizon_known * (self.decision / self.decisions),
            "horizon_known": self._horizon_known,
            "decisions_left": self._horizon_known * signals.counted(left),
        }

    def _follow_trends(self, train: Array, val: Array, fresh: NDArray[np.bool_]) -> None:
        """Takes in the changes of the log losses in an interval; `val` counts only where it is fresh."""
        self._train_trend = self._train_trend + TREND_RATE * (train - self._train_trend)
        # A validation loss that comes every few intervals tells the change of all of them.
        per_interval = val / (1.0 + self._val_age)
        surprise = per_interval - self._val_trend
        self._val_trend = np.where(fresh, self._val_trend + TREND_RATE * surprise, self._val_trend)
        noise = self._val_noise + TREND_RATE * (np.abs(surprise) - self._val_noise)
        self._val_noise = np.where(fresh, noise, self._val_noise)
        self._val_age = np.where(fresh, 0.0, self._val_age + 1)

    def _natural(self, values: Array) -> Array:
        values = np.asarray(values, dtype=np.float64)
        return np.stack([each.to_natural(values[:, i]) for i, each in enumerate(self.hyperparameters)], axis=1)

    def _move(self, distance: Array) -> None:
        # Adding and subtracting the base loses digits, so what does not move keeps its offset untouched.
        natural = np.clip(self._base + self._offset + distance, self._low, self._high)
        self._offset = np.where(distance == 0.0, self._offset, natural - self._base)

    def _fill_starts(self, interval: Interval) -> None:
        first = np.where(np.isfinite(interval.first_loss), interval.first_loss, np.nan)
        # Once validation losses are known, a training loss is no longer what they are compared with.
        val = np.where(self._validated, interval.val_loss, first)
        for name in ("_train_start", "_train_last", "_train_best", "_val_start", "_val_last", "_val_best"):
            known, stands_in = getattr(self, name), val if "val" in name else first
            setattr(self, name, np.where(np.isnan(known), stands_in, known))
        self._require_positive(self._train_start, "training loss of the first mini-batch")

    @staticmethod
    def _require_positive(loss: Array, what: str) -> None:
        if np.any(loss <= 0.0):
            raise TrainingError(
                f"the {what} is {float(np.nanmin(loss)):g}, but a schedule compares losses by their ratios, "
                "so they must be positive: add a constant, or give an error measure such as the perplexity"
            )
