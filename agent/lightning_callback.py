"""AdaptiveSchedule as a callback of Lightning's Trainer.

    trainer = Trainer(max_epochs=10, callbacks=[LightningAdaptiveSchedule(val_metric="val_loss")])

Schedulers that the module configures are adjusted around: Lightning goes on stepping them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import Tensor

from ..envs.errors import ConfigurationError, MissingPackageError
from ..envs.records import TrialState
from .adaptive_schedule import AdaptiveSchedule
from .arguments import require_count
from .schedule_options import ScheduleOptions, require_options

try:
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.trainer.states import TrainerFn
except ImportError as error:
    raise MissingPackageError(
        f"LightningAdaptiveSchedule needs Lightning, which cannot be imported ({error}): install metatuner[lightning]"
    ) from error

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from torch.optim import Optimizer


class LightningAdaptiveSchedule(Callback):
    """Adjusts the hyperparameters of a LightningModule's optimiser while it trains.

    The number of steps and the training loss come from the trainer, the validation loss from what the module logs. The
    state goes into Lightning's checkpoints, and `Trainer.fit(..., ckpt_path=...)` goes on from it. Where the trainer
    validates all data before it begins (`num_sanity_val_steps=-1`), that is the validation loss at the start.

    Example:
        >>> import lightning
        >>> import metatuner as mt
        >>> import torch
        >>> from torch.utils.data import DataLoader
        >>> class Line(lightning.LightningModule):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.layer = torch.nn.Linear(4, 1)
        ...     def training_step(self, batch):
        ...         return (self.layer(batch) - batch[:, :1]).square().mean()
        ...     def validation_step(self, batch):
        ...         self.log("val_loss", self.training_step(batch))
        ...     def configure_optimizers(self):
        ...         return torch.optim.Adam(self.parameters())
        >>> adaptive = mt.LightningAdaptiveSchedule(val_metric="val_loss", adjust=("lr",))
        >>> quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        >>> trainer = lightning.Trainer(max_epochs=2, callbacks=[adaptive], accelerator="cpu", **quiet)
        >>> trainer.fit(Line(), DataLoader(torch.randn(128, 4), 16), DataLoader(torch.randn(64, 4), 64))
        >>> adaptive.schedule.steps, [*adaptive.schedule.values]
        (16, ['lr'])

    Args:
        val_metric: The logged metric that is the validation loss; lower is better, and it is positive.
        total_steps: Optimiser steps of the whole training; None asks the trainer, and one that has no end itself
            (`max_epochs=-1`) trains without a known one.
        **options: As for `AdaptiveSchedule`.

    Attributes:
        schedule: The schedule, from the start of a training on.
    """

    def __init__(
        self, val_metric: str = "val_loss", total_steps: int | None = None, **options: Unpack[ScheduleOptions]
    ) -> None:
        super().__init__()
        require_options(options)
        if total_steps is not None:
            require_count("total_steps", total_steps)
        self._val_metric, self._total_steps, self._options = val_metric, total_steps, options
        self.schedule: AdaptiveSchedule | None = None
        self._saved: dict[str, Any] | None = None
        self._val_at_start: Tensor | None = None
        self._losses: list[Tensor] = []
        self._loss: Tensor | None = None
        self._optimizer_steps = self._begun_at = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes the schedule, now that the trainer has restored model and optimiser.

        Raises:
            ConfigurationError: There are several optimisers, or steps that the module takes by itself.
        """
        if self._saved is None:
            self._begun_at = trainer.global_step  # a trainer may fit again, or resume what had no schedule
        total_steps = _total_steps(trainer) if self._total_steps is None else self._total_steps
        self.schedule = AdaptiveSchedule(
            _only_optimizer(trainer, pl_module),
            None if total_steps is None else max(1, total_steps - self._begun_at),
            reference="optimizer" if trainer.lr_scheduler_configs else None,
            model=pl_module,
            **self._options,
        )
        if self._saved is not None:
            self.schedule.load_state_dict(self._saved)
        elif self._val_at_start is not None:
            self.schedule.validate(self._val_at_start)
        self._saved = self._val_at_start = None
        self._losses, self._loss, self._optimizer_steps = [], None, trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Collects losses until the optimiser has stepped."""
        if outputs:
            # Lightning has divided it by the number of batches that it accumulates.
            self._losses.append(outputs["loss"].detach() * trainer.accumulate_grad_batches)
        if trainer.global_step == self._optimizer_steps:
            return
        self._optimizer_steps = trainer.global_step
        if self.schedule is not None and self._losses:
            self._loss = torch.stack(self._losses).mean()
        if self.schedule is not None and self._loss is not None:
            # Where `training_step` gives none, Lightning steps the optimiser all the same.
            self.schedule.step(self._loss)
        self._losses = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the validation loss.

        Raises:
            ConfigurationError: The module does not log it.
        """
        part_of_data = trainer.sanity_checking and trainer.num_sanity_val_steps != math.inf
        if part_of_data or trainer.state.fn is not TrainerFn.FITTING:
            return
        if self._val_metric not in trainer.callback_metrics:
            raise ConfigurationError(
                f"expected the module to log {self._val_metric!r} in its validation step, it logged "
                f"{sorted(trainer.callback_metrics)}: call self.log({self._val_metric!r}, loss), or give the name of "
                "the validation loss as val_metric"
            )
        val_loss = trainer.callback_metrics[self._val_metric].detach()
        if trainer.sanity_checking:
            self._val_at_start = val_loss
        elif self.schedule is not None:
            self.schedule.validate(val_loss)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends the trial in the record."""
        if self.schedule is not None:
            self.schedule.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Ends the trial in the record, as failed or killed."""
        if self.schedule is not None:
            state = TrialState.FAILED if isinstance(exception, Exception) else TrialState.KILLED
            self.schedule.close(state, f"{type(exception).__name__}: {exception}")

    def state_dict(self) -> dict[str, Any]:
        """For Lightning's checkpoint."""
        state = self.schedule.state_dict() if self.schedule is not None else self._saved
        return {} if state is None else {"schedule": state, "begun_at": self._begun_at}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From Lightning's checkpoint; it is needed once the training starts."""
        self._saved, self._begun_at = state_dict.get("schedule"), state_dict.get("begun_at", 0)


def _only_optimizer(trainer: Trainer, module: LightningModule) -> Optimizer:
    if not module.automatic_optimization or len(trainer.optimizers) != 1:
        how = "automatic" if module.automatic_optimization else "manual"
        raise ConfigurationError(
            f"expected a module with automatic optimisation and one optimiser, {type(module).__name__} has "
            f"{len(trainer.optimizers)} and {how} optimisation: use AdaptiveSchedule for each one in training_step"
        )
    return trainer.optimizers[0]


def _total_steps(trainer: Trainer) -> int | None:
    steps = trainer.estimated_stepping_batches
    # Below 1 where the data have no known length.
    return int(steps) if math.isfinite(steps) and steps > 0 else None
