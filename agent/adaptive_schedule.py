"""A learned schedule in a user's own PyTorch loop.

    tuner = AdaptiveSchedule(optimizer, total_steps=10_000)
    for inputs, targets in batches:
        loss = criterion(model(inputs), targets)
        optimizer.zero_grad(); loss.backward(); optimizer.step(); tuner.step(loss)
        ...
        tuner.validate(validation_loss)     # whenever one is known; the decisions are as good as it is fresh

Measurements, signals and moves are those of the environment that the policy was trained in: the same code.

- Gradient accumulation: call `step` after each `optimizer.step()`, with the mean loss of its mini-batches.
- Mixed precision: a step that a `GradScaler` skips does not count. Fused optimisers skip it on the device, where nobody
  sees it: there it counts.
- Distributed training: every rank constructs the schedule and calls `step` alike. Measurements are averaged over the
  ranks, and the first rank's action is applied on all, both at decisions only. Only the first rank records, and what it
  records between decisions is its own. Each rank's `state_dict` holds its own measurements: save them all to go on bit
  for bit; from the first rank's file alone, loaded on every rank, all go on alike, but not quite as they would have.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from numbers import Integral
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from optuna.distributions import BaseDistribution
from torch import Tensor, nn
from torch.optim import Optimizer

from ..envs import optimizers
from ..envs.adjustments import adjustables
from ..envs.controller import ScheduleController
from ..envs.errors import ConfigurationError, TrainingError
from ..envs.probe import OptimizerProbe
from ..envs.records import NullRecorder, Recorder, TrialState
from ..envs.signals import Interval
from .dials import Array, Dials
from .followed_reference import Followed, FollowedReference, followed_name
from .guard import Guard
from .horizon import Horizon
from .knobs import Knob
from .loop_watch import SUSPICIOUS, LoopWatch
from .optimizer_hooks import OptimizerHooks
from .policy import DEFAULT_POLICY, Policy
from .ranks import Ranks
from .schedule_arguments import require_arguments, require_starts, single
from .schedule_record import ScheduleRecord
from .schedule_state import require_fitting, require_identity
from .setbacks import Setbacks
from .unasked_decay import UnaskedDecay

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class AdaptiveSchedule:
    """Adjusts an optimiser's hyperparameters while it trains.

    Decisions are spread evenly over the training. One falls right before the first optimiser step of its interval, so
    it sees every validation loss that was reported until then, and `due` tells when one would be fresh for it.

    Example:
        >>> import metatuner as mt
        >>> import torch
        >>> model, x = torch.nn.Linear(4, 1), torch.randn(96, 4)
        >>> optimizer = torch.optim.Adam(model.parameters(), lr=1e-4)  # far too low
        >>> with mt.AdaptiveSchedule(optimizer, total_steps=100) as tuner:
        ...     for step in range(100):
        ...         losses = (model(x) - x[:, :1]).square()
        ...         optimizer.zero_grad()
        ...         losses[:64].mean().backward()
        ...         optimizer.step()
        ...         tuner.step(losses[:64].mean())
        ...         if tuner.due:
        ...             tuner.validate(losses[64:].mean())
        >>> tuner.values["lr"] > 1e-4
        True
        >>> longer = mt.AdaptiveSchedule(optimizer, total_steps=200)
        >>> longer.load_state_dict(tuner.state_dict())  # from a checkpoint, after the model's state and the optimiser's
        >>> longer.steps
        100

    Args:
        optimizer: Any torch optimiser. Its current hyperparameters are the starting values.
        total_steps: Optimiser steps of the whole training, at least 1. None where it has no known end: the policy is
            told so, and `extend` tells the end once it is known.
        policy: A policy, its name, or its folder. "zero" follows the reference bit for bit.
        adjust: The hyperparameters to adjust, out of those the optimiser has; `momentum` is also Adam's first beta.
            Parameter groups keep their ratios: one without weight decay, beside one that has some, goes on without.
            And any of `knobs`.
        recorder: Takes decisions and losses.
        reference: A scheduler on `optimizer` whose schedule is adjusted; it is stepped by `step`, do not step it
            yourself. "optimizer" takes what stands in the optimiser right before each of its steps, for schedulers that
            someone else steps: adjusted values stand there only while the optimiser steps. None takes the reference
            that the policy was trained on, from the optimiser's current values ("zero": these values as they are).
        space: Distributions that bound the adjusted values; by default the usual range of each kind.
        on_divergence: What to do when a loss or weight stops being finite, or the validation loss reaches 20 times its
            start. "rollback" returns to the weights of the last decision (kept in memory: parameters and optimiser
            state once more) and cuts the learning rate; "cut" only cuts it. The same where the training begins to
            overfit, for a policy that `unlearns`, unless there is no guard or "cut".
        model: Where given, what it holds beside the optimiser's parameters is rolled back too: buffers (batch norm
            statistics), and the weights of a `torch.optim.swa_utils.AveragedModel` in it.
            `nn.ModuleList([model, average])` has both.
        trial: The trial's number in the recorder's study; None takes the next one.
        name: The trial's name in the recorder's study.
        knobs: Hyperparameters that live outside of the optimiser, by their names in `adjust`.
        decide_every: Optimiser steps between two decisions. None spreads the policy's number of decisions over the
            training, and decides every `horizon.OPEN_INTERVAL` steps where it has no known end.
        guard: Whether `agent.guard.Guard` may overrule the policy; what it does is told in the decisions' notes.
        process_group: The processes that train this model together; by default all, where `torch.distributed` is
            initialised. None decides alone.

    Raises:
        ConfigurationError: `total_steps` below 1, an unknown `on_divergence`, an optimiser without parameters, a knob
            that is not in `adjust`, or an argument of another kind.
        SearchSpaceError: The optimiser lacks a hyperparameter of `adjust`, has one outside of its scale, or `space` has
            what is not adjusted.
        PolicyError: The policy cannot be loaded.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int | None,
        policy: str | Path | Policy = DEFAULT_POLICY,
        adjust: Sequence[str] = ("lr", "weight_decay", "momentum"),
        recorder: Recorder | None = None,
        *,
        reference: Followed = None,
        space: Mapping[str, BaseDistribution] | None = None,
        on_divergence: Literal["rollback", "cut"] = "rollback",
        model: nn.Module | None = None,
        trial: int | None = None,
        name: str | None = None,
        knobs: Mapping[str, Knob] | None = None,
        decide_every: int | None = None,
        guard: bool = True,
        process_group: ProcessGroup | Literal["default"] | None = "default",
    ) -> None:
        require_arguments(optimizer, on_divergence, policy, recorder, model)
        self.policy = policy if isinstance(policy, Policy) else Policy.load(policy)
        self._horizon, self.steps = Horizon(total_steps, self.policy.decisions, decide_every), 0
        self._optimizer = optimizer
        self._hyperparameters = adjustables(adjust, space)
        self._dials = Dials(optimizer, adjust, knobs or {})
        self._reference = FollowedReference(
            reference, self.policy.reference, optimizer, self._dials, self._hyperparameters, total_steps
        )
        adjusts = self.policy.actor is not None
        require_starts(self._hyperparameters, self._reference.start, [*(knobs or {})] if adjusts else adjust)
        self._adjusted = self._reference.start
        # For each hyperparameter the group that stands for all: the first one that has it.
        self._leading = np.argmax(self._reference.start != 0.0, axis=0)
        adaptive = np.array([optimizers.adaptive(optimizer)])
        self._controller = ScheduleController(self._hyperparameters, self._horizon.decisions or 1, adaptive)
        self._controller.set_horizon(self._horizon.decisions)
        self._guard = Guard(self.policy.signal_ranges, 1, len(self._hyperparameters)) if guard else None
        self._remembered = self.policy.first_state(1)
        self._probe = OptimizerProbe(optimizer, 1)
        self._setbacks = Setbacks(optimizer, model, rolls_back=on_divergence == "rollback")
        self._controller.unlearns = guard and self.policy.unlearns and on_divergence == "rollback"
        self._val_loss: float | None = None
        self._begun = self._stepped = self._closed = self._superseded = False
        self._agreed = False  # whether all ranks are known to be as far
        self._watch = LoopWatch(optimizer)
        self._settings = {
            "optimizer": type(optimizer).__name__,
            "reference": followed_name(reference),
            "space": [str(each.distribution) for each in self._hyperparameters],
            "decide_every": None if decide_every is None else int(decide_every),
            "guard": bool(guard),
        }
        self._due, self._skipped_in_a_row = True, 0
        # What the last interval brought, where that was taken in before the next decision.
        self._observed: tuple[float, str] | None = None
        self._ranks = Ranks(process_group, optimizers.parameters(optimizer)[0].device)
        self._unasked = UnaskedDecay(optimizer, self._hyperparameters, self._ranks)
        name = name or " ".join([self.policy.name, *(f"lr={v:.3g}" for k, v in self.values.items() if k == "lr")])
        recorder = recorder if recorder is not None and self._ranks.first else NullRecorder()
        self._record = ScheduleRecord(recorder, trial, self.policy, name, self._described)
        # Whoever steps its scheduler finds the scheduler's own values.
        after = self._reference.put_back if self._reference.outside else None
        before, ready = self._before_step, self._gradients_ready
        self._hooks = OptimizerHooks(optimizer, before, ready, after, replaced=self._replaced)

    @property
    def total_steps(self) -> int | None:
        """Optimiser steps of the whole training; None where it has no known end."""
        return self._horizon.total_steps

    @property
    def values(self) -> dict[str, float]:
        """The adjusted hyperparameters as they are now, in the first parameter group where they are not 0."""
        return self._named(self._adjusted if self._reference.outside else self._dials.read())

    @property
    def due(self) -> bool:
        """Whether to validate now: a decision falls before the next optimiser step, or the training has just ended."""
        if self._closed:
            return False
        return self._deciding or (self._begun and self.steps == self.total_steps and self._probe.meter.full)

    @property
    def signals(self) -> dict[str, float]:
        """What the policy saw last, by name."""
        return self._controller.named_signals()

    def step(self, loss: Tensor | float) -> None:
        """Tells that the optimiser took a step; to be called after each `optimizer.step()`.

        Args:
            loss: The mini-batch loss that the step followed from, the mean where several were accumulated: a number or
                a tensor of one element. A tensor stays on its device until the next decision.

        Raises:
            ConfigurationError: The loss is not a single number, or the schedule is closed.
            TrainingError: The losses are not finite from the start, although the optimiser skips its steps. Or it has
                never stepped, as where the loop steps another one.
        """
        self._require_open()
        loss = single(loss, "mini-batch loss")
        if not self._stepped:
            # The optimiser took no step: a gradient scaler skips those whose gradients overflowed.
            self._skipped(loss)
            return
        self._stepped, self._skipped_in_a_row = False, 0
        self._watch.told()
        self.steps += 1
        if self._horizon.goes_on(self.steps - 1):
            self._probe.after_step(loss)
            self._due = self._probe.meter.full and self._horizon.goes_on(self.steps)
        if self._reference.step(self.steps, self.total_steps):
            self._apply()

    def validate(self, val_loss: Tensor | float) -> None:
        """Tells the current validation loss. Never the test loss: the policy acts on what it hears.

        Args:
            val_loss: A number or a tensor of one element.

        Raises:
            ConfigurationError: The loss is not a single number, or the schedule is closed.
            TrainingError: It is not finite before the first step, so that nothing can be compared with it.
        """
        self._require_open()
        self._val_loss = float(single(val_loss, "validation loss"))
        if self._begun:
            self._watch.hears(self._val_loss, "validation")
        if not self._begun and not np.isfinite(self._val_loss):
            raise TrainingError(
                f"the validation loss before the first step is {self._val_loss}: expected a finite number; look for "
                "NaN or infinity in the data and the initial weights"
            )
        self._record.metrics(self.steps, {"val/loss": self._val_loss})

    def extend(self, total_steps: int) -> None:
        """Gives the training another end: a later one, also when it has reached its end, or the first that is known.

        Decisions keep their distance. On every rank alike.

        Args:
            total_steps: Optimiser steps of the whole training, those so far included.

        Raises:
            ConfigurationError: So many steps were taken already, or the schedule is closed.
        """
        self._require_open()
        if isinstance(total_steps, Integral) and 0 < total_steps <= self.steps:
            raise ConfigurationError(
                f"{self.steps} optimiser steps were taken, so the training cannot end after {total_steps}: count all "
                "of its steps, those so far included"
            )
        finished = self._begun and not self._horizon.goes_on(self.steps)
        running = 1 if self._begun else 0
        left = self._probe.meter.left if self._begun else 0
        self._horizon.extend(total_steps, self._controller.decision + running, self.steps + left)
        self._controller.set_horizon(self._horizon.decisions)
        self._due = self._due or finished
        if self._begun and self._reference.stretch(self.steps, self.total_steps):
            self._apply()

    def new_data(self, val_loss: Tensor | float | None = None) -> None:
        """Tells that the data changed: losses from here on are compared with each other, not with those before.

        On every rank alike, though the validation loss may be known to some alone.

        Args:
            val_loss: The validation loss on the new data, where it is known.

        Raises:
            ConfigurationError: The loss is not a single number, or the schedule is closed.
            TrainingError: It is not positive.
        """
        self._require_open()
        known = np.nan if val_loss is None else float(single(val_loss, "validation loss"))
        now = self._ranks.mean(np.array([known]))
        if self._begun and self._due:
            self._observed = self._observe()
            self._controller.rebase(now)
        elif self._begun:
            # What the running interval has measured was measured on the old data.
            self._controller.rebase(now)
            self._probe.begin(max(1, self._probe.meter.left))
            self._val_loss = None
        elif val_loss is not None:
            self._val_loss = known

    def close(self, state: TrialState = TrialState.FINISHED, message: str = "") -> None:
        """Ends the trial in the record and lets go of the optimiser. Safe to call twice."""
        self._hooks.remove()
        try:
            if self._record.begun and not self._horizon.goes_on(self.steps) and self._probe.meter.full:
                self._record_last_interval()
        finally:
            self._closed = True
            self._record.finish(state, message)

    def _record_last_interval(self) -> None:
        interval = self._probe.interval(self._val_loss)
        figures = {"train/loss": float(interval.train_loss[0])}
        # For the record alone: whoever goes on from this state takes the interval in then.
        unlearns, before = self._controller.unlearns, self._controller.state_dict()
        self._controller.unlearns = False  # the weights are the caller's now
        with contextlib.suppress(TrainingError):  # a loss that is not positive, of which no decision follows any more
            figures["reward"] = float(self._controller.observe(interval)[0][0])
        self._controller.load_state_dict(before)
        self._controller.unlearns = unlearns
        self._record.metrics(self.steps, figures)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            killed = not isinstance(error, Exception)
            self.close(TrialState.KILLED if killed else TrialState.FAILED, f"{type(error).__name__}: {error}")

    def state_dict(self, *, rollback: bool = True) -> dict[str, Any]:
        """Everything that the rest of the schedule follows from: plain numbers and tensors.

        Save it beside the model's and the optimiser's own state, after `step` and `validate`.

        Args:
            rollback: Include the weights to roll back to, so that even a divergence is resumed bit for bit. Without
                them the state is a few kilobytes, and the weights at loading time take their place.
        """
        controller, kept = _as_tensors(self._controller.state_dict()), self._setbacks.rollback
        return {
            "identity": self._identity(),
            "steps": self.steps,
            "flags": [self._begun, self._due, self._stepped, self._setbacks.back],
            "in_a_row": [self._setbacks.in_a_row, self._skipped_in_a_row],
            "val_loss": self._val_loss,
            "most_decay": self._unasked.most,
            "observed": self._observed,
            **self._reference.state_dict(),
            "controller": controller,
            "remembered": torch.from_numpy(self._remembered),
            "guard": _as_tensors(self._guard.state_dict()) if self._guard is not None else None,
            "horizon": self._horizon.state_dict(),
            "meter": self._probe.meter.state_dict(),
            "rollback": kept.state_dict() if kept is not None and rollback else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on from a state, bit for bit; load the model's and the optimiser's state first.

        Where this schedule was made for another number of steps, the training gets another end, as by `extend`.

        Raises:
            CheckpointError: The state is of a schedule with other arguments, the number of steps aside. Or it is no
                whole state. Nothing has been changed then.
            ConfigurationError: This schedule is to end before the saved one stood.
        """
        wanted = self.total_steps
        require_identity(state, self._identity())
        kept = self._setbacks.rollback
        require_fitting(state, self.state_dict(rollback=False), None if kept is None else kept.present)
        self.steps, self._agreed = state["steps"], False
        self._begun, self._due, self._stepped, self._setbacks.back = state["flags"]
        self._setbacks.in_a_row, self._skipped_in_a_row = state["in_a_row"]
        self._val_loss, self._observed = state["val_loss"], state["observed"]
        self._unasked.most = state["most_decay"]
        self._reference.load_state_dict(state)
        self._controller.load_state_dict(_as_arrays(state["controller"]))
        self._remembered = state["remembered"].cpu().numpy()
        if self._guard is not None:
            self._guard.load_state_dict(_as_arrays(state["guard"]))
        self._probe.meter.load_state_dict(state["meter"])
        self._horizon.load_state_dict(state["horizon"])
        if self._setbacks.rollback is not None and state["rollback"] is not None:
            self._setbacks.rollback.load_state_dict(state["rollback"])
        else:
            self._setbacks.keep()
        if wanted is not None and wanted != self.total_steps:
            self.extend(wanted)
        self._controller.set_horizon(self._horizon.decisions)
        if self._begun:
            self._apply(optimizer=not self._reference.outside)

    def _identity(self) -> dict[str, Any]:
        return {
            "policy": self.policy.card.get("sha256", self.policy.name),
            "adjust": [each.name for each in self._hyperparameters],
            "groups": len(self._reference.start),
            **self._settings,
        }

    def _before_step(self) -> bool:
        """The optimiser is about to step; returns whether the gradients are those of weights that were taken back."""
        self._watch.steps()
        if not self._agreed:
            self._ranks.require_together(self.steps)
            self._agreed = True
        self._reference.read()
        rolled_back = self._begun and self._decide_if_due()
        if self._reference.outside and self._begun:
            self._apply()
        return rolled_back

    def _gradients_ready(self) -> None:
        if not self._begun:
            # The first decision looks at the first gradient.
            self._decide_if_due()
        if self._horizon.goes_on(self.steps):
            self._probe.before_step()
        self._stepped = True

    def _require_open(self) -> None:
        if self._closed and not self._superseded:
            raise ConfigurationError("this schedule is closed: make another one for what is trained from here on")
        if self._superseded:
            raise ConfigurationError(
                "another schedule was made on this optimiser, and has taken the place of this one: what both are to "
                "adjust is for one, by its argument `adjust`"
            )

    def _replaced(self) -> None:
        """Another schedule adjusts the optimiser from here on."""
        self._superseded = True
        cut_short = self.total_steps is not None and self.steps < self.total_steps
        message = f"another schedule took its place after {self.steps} of {self.total_steps} steps" if cut_short else ""
        self.close(TrialState.KILLED if cut_short else TrialState.FINISHED, message)

    def _skipped(self, loss: Tensor) -> None:
        self._skipped_in_a_row += 1
        self._watch.skipped(self._skipped_in_a_row, begun=self._begun)
        if self._skipped_in_a_row % SUSPICIOUS or not self._horizon.goes_on(self.steps):
            return
        if not self._ranks.any(not bool(torch.isfinite(loss))):
            return
        if not self._begun:
            raise TrainingError(
                f"the first {self._skipped_in_a_row} steps were skipped and their losses are not finite: look for NaN "
                "or infinity in the data and the initial weights"
            )
        # No optimiser step will ever come to decide before.
        self._probe.meter.loss(loss)
        self._decide()
        if self._reference.outside:
            self._reference.put_back()

    @property
    def _deciding(self) -> bool:
        return self._due and self._horizon.goes_on(self.steps)

    def _decide_if_due(self) -> bool:
        return self._deciding and self._decide()

    def _decide(self) -> bool:
        """Takes in the interval that ended and sets hyperparameters for the next; returns whether it rolled back."""
        self._due = False
        reward, note = float("nan"), ""
        if not self._begun:
            self._begin()
        else:
            reward, note = self._observed or self._observe()
        self._observed = None
        seen = self._controller.observation()
        # All ranks see the same and remember the same; that the first one's action counts makes sure of it.
        action, self._remembered = self.policy.decide(seen, self._remembered)
        action = self._ranks.of_first(action)
        number, signals = self._controller.decision, self._controller.named_signals()
        if self._guard is not None and self.policy.actor is not None:
            action, (why,) = self._guard.overrule(self._controller, action)
            note = "; ".join(filter(None, [note, why]))
        if self.steps and not self._reference.outside:
            self._watch.finds(self._dials.read_optimizer(self._adjusted), self._adjusted)
        self._controller.follow(self._lead(self._reference.values)[None])
        self._controller.adjust(action)
        self._unasked.look(self._controller.log_grad_norm, self._reference.values)
        self._apply()
        self._setbacks.keep()
        self._probe.begin(self._horizon.steps_after(number, self.steps))
        self._record.decision(
            number=number,
            step=self.steps,
            signals=signals,
            adjustments={each.name: float(action[0, i]) for i, each in enumerate(self._hyperparameters)},
            values=self.values,
            reward=reward,
            note=note,
        )
        return self._setbacks.back

    def _begin(self) -> None:
        self._ranks.require_same({**self._identity(), "total_steps": self.total_steps})
        # Reading it waits for the device: not for a policy that does not look at it.
        first_update = self._probe.first_update() if "first_update" in self.policy.global_signals else np.nan
        mine = np.array([np.nan if self._val_loss is None else self._val_loss, first_update])
        val_loss, first_update = self._ranks.mean(mine)
        started = Interval.of(val_loss=val_loss, first_update=first_update)
        self._controller.begin(self._lead(self._reference.values)[None], started)
        self._begun, self._val_loss = True, None

    def _observe(self) -> tuple[float, str]:
        """Takes in the interval that ended; returns its reward and a note for the record."""
        interval = self._ranks.average(self._probe.interval(self._val_loss))
        self._val_loss = None
        self._watch.hears(float(interval.train_loss[0]), "training")
        rewards, back = self._controller.observe(interval)
        self._record.metrics(self.steps, {"train/loss": float(interval.train_loss[0])})
        note = self._setbacks.after(
            back=bool(back[0]),
            overfitted=bool(self._controller.overfitted[0]),
            learning_rate=lambda: self.values.get("lr", float("nan")),
        )
        return float(rewards[0]), note

    def _lead(self, values: Array) -> Array:
        """Of values of shape (groups, h) those that stand for all groups, shape (h,)."""
        leading: Array = np.take_along_axis(values, self._leading[None], axis=0)[0]
        return leading

    def _named(self, values: Array) -> dict[str, float]:
        return dict(zip([each.name for each in self._hyperparameters], self._lead(values).tolist(), strict=True))

    def _apply(self, *, optimizer: bool = True) -> None:
        reference = self._reference.values
        adjusted = self._controller.values(reference[:, None, :])[:, 0]
        nothing = reference == 0.0
        # Beside others that have some, a group that has none keeps that ratio too.
        self._adjusted = np.where(nothing & ~nothing.all(axis=0), 0.0, self._unasked.limited(adjusted, reference))
        self._dials.write_knobs(self._adjusted)
        if optimizer:
            self._dials.write_optimizer(self._adjusted)

    def _described(self) -> tuple[dict[str, float | str], dict[str, str]]:
        """The parameters and tags that the trial begins with."""
        settings: dict[str, float | str] = {
            "policy": self.policy.name,
            "total_steps": self.total_steps or "open",
            "optimizer": type(self._optimizer).__name__,
        }
        tags = {"metatuner.resumed_at": str(self.steps)} if self.steps else {}
        return {**self._named(self._reference.start), **settings}, tags


def _as_tensors(state: Mapping[str, object]) -> dict[str, Any]:
    return {name: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for name, v in state.items()}


def _as_arrays(state: Mapping[str, object]) -> dict[str, Any]:
    # A checkpoint may have been read to a GPU, numbers and all.
    return {name: v.cpu().numpy() if isinstance(v, Tensor) else v for name, v in state.items()}
