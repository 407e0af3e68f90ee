"""AdaptiveSchedule as a callback of the Trainer of Hugging Face's transformers.

    trainer = Trainer(model, args, ..., callbacks=[TransformersAdaptiveSchedule()])

The Trainer always steps a scheduler of its own (`lr_scheduler_type`); it is adjusted around. The policy
`schedule-default` learnt to adjust `lr_scheduler_type="constant"`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..envs.errors import CheckpointError, ConfigurationError, MissingPackageError
from ..envs.records import TrialState
from .adaptive_schedule import AdaptiveSchedule
from .schedule_options import ScheduleOptions, require_options
from .schedule_state import read_state, write_state

try:
    from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState
    from transformers.training_args import TrainingArguments
except ImportError as error:
    raise MissingPackageError(
        f"TransformersAdaptiveSchedule needs transformers, which cannot be imported ({error}): install "
        "metatuner[transformers]"
    ) from error


_OTHER_SET = re.compile("eval_.+_loss")


class TransformersAdaptiveSchedule(TrainerCallback):
    """Adjusts the hyperparameters of the Trainer's optimiser while it trains.

    The number of steps comes from the Trainer, the training loss from the model's outputs, the validation loss from the
    Trainer's evaluations (`eval_on_start=True` gives the one at the start). The state is a file in each of the
    Trainer's checkpoints, one a process, and `trainer.train(resume_from_checkpoint=...)` goes on from it.

    Example:
        >>> from pathlib import Path
        >>> import metatuner as mt
        >>> import torch
        >>> from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainingArguments
        >>> size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
        >>> model = BertForSequenceClassification(BertConfig(vocab_size=9, **size))
        >>> rows = [{"input_ids": row, "labels": row[0] % 2} for row in torch.randint(9, (64, 5))]
        >>> arguments = TrainingArguments("checkpoints", max_steps=10, lr_scheduler_type="constant", use_cpu=True)
        >>> adaptive = mt.TransformersAdaptiveSchedule(adjust=("lr", "weight_decay"))
        >>> trainer = Trainer(model, arguments, train_dataset=rows, eval_dataset=rows, callbacks=[adaptive])
        >>> output = trainer.train()
        {'train_runtime': ...}
        >>> Path("checkpoints", "checkpoint-10", "metatuner_0.safetensors").is_file()  # the schedule's state
        True

    Args:
        val_metric: The evaluation's metric that is the validation loss; lower is better, and it is positive.
        from_checkpoint: The checkpoint that is resumed from, where it is not in the Trainer's `output_dir`.
        **options: As for `AdaptiveSchedule`.

    Attributes:
        schedule: The schedule, while the Trainer trains; else None.
    """

    def __init__(
        self,
        val_metric: str = "eval_loss",
        from_checkpoint: str | Path | None = None,
        **options: Unpack[ScheduleOptions],
    ) -> None:
        require_options(options)
        self._val_metric, self._from_checkpoint, self._options = val_metric, from_checkpoint, options
        self.schedule: AdaptiveSchedule | None = None
        self._losses, self._resumed_at = _Losses(), 0
        self._other_sets: set[str] = set()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Makes the schedule, now that the Trainer has restored model and optimiser.

        Raises:
            CheckpointError: The Trainer resumes from a checkpoint without a schedule's state.
        """
        # Nobody tells a callback that a training has failed: only that the next one begins.
        self._end(TrialState.FAILED, "the Trainer did not end this training")
        self._other_sets = set()
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        optimizer = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
        self.schedule = AdaptiveSchedule(
            optimizer, state.max_steps, reference="optimizer", model=model, **self._options
        )
        self._resumed_at = state.global_step
        if state.global_step:
            file = self._saved_file(args, state)
            self.schedule.load_state_dict(read_state(file))
        self._losses.listen(model, args)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Tells the schedule that the optimiser stepped."""
        if self.schedule is not None:
            self.schedule.step(self._losses.take())

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Takes the validation loss, during training only.

        Raises:
            ConfigurationError: It is not among the metrics; or, where there are several evaluation sets, not among
                those of any.
        """
        metrics: Mapping[str, float] = kwargs["metrics"]
        # `eval_on_start` evaluates where a training resumes, too: there the schedule has heard what it was to hear.
        again = state.global_step == self._resumed_at > 0
        if self.schedule is None or again:
            return
        if self._val_metric not in metrics and not self._is_of_a_new_set(metrics):
            raise ConfigurationError(
                f"expected {self._val_metric!r} among the evaluation's metrics, got {sorted(metrics)}: evaluate on "
                "data with labels, or give the name of the validation loss as val_metric"
            )
        if self._val_metric in metrics:
            self._other_sets = set()
            self.schedule.validate(metrics[self._val_metric])

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Adds this process's state to the checkpoint that was just written."""
        if self.schedule is None:
            return
        file = _checkpoint(args, state) / _file_name(args.process_index)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_state(self.schedule.state_dict(), file)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ends the trial in the record: evaluations from now on are none of its business."""
        self._end()

    def _end(self, state: TrialState = TrialState.FINISHED, message: str = "") -> None:
        self._losses.stop()
        if self.schedule is not None:
            self.schedule.close(state, message)
            self.schedule = None

    def _is_of_a_new_set(self, metrics: Mapping[str, float]) -> bool:
        """Where there are several evaluation sets, each is evaluated by itself: `eval_NAME_loss`.

        If one comes a second time, and the validation loss never did, it is of no set.
        """
        others = {name for name in metrics if _OTHER_SET.fullmatch(name)}
        new = others - self._other_sets
        self._other_sets |= others
        return bool(new)

    def _saved_file(self, args: TrainingArguments, state: TrainerState) -> Path:
        folders = [self._from_checkpoint, args.resume_from_checkpoint, _checkpoint(args, state)]
        for folder in [Path(folder) for folder in folders if folder]:
            for rank in (args.process_index, 0):
                if (file := folder / _file_name(rank)).is_file():
                    return file
        raise CheckpointError(
            f"the Trainer resumes at step {state.global_step}, but {_checkpoint(args, state)} holds no "
            f"{_file_name(0)}: give its folder as from_checkpoint where it is elsewhere; if the process was killed "
            "while it saved, resume from the checkpoint before; one that was trained without the schedule has none"
        )


class _Losses:
    """The training losses of a model, heard from its outputs, between two optimiser steps."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._scale: float | None = None
        self._handle: RemovableHandle | None = None

    def listen(self, model: nn.Module, args: TrainingArguments) -> None:
        averaged = args.average_tokens_across_devices
        world = args.world_size

        def hear(module: nn.Module, inputs: Any, kwargs: dict[str, Any], outputs: Any) -> None:
            if not module.training:
                return
            self._losses.append(_loss_of(outputs).detach().mean())
            # With a number of items the model divides by those of the whole step (and of all processes, where the
            # Trainer averages over them), so its losses add up; without, each is the mean of its mini-batch.
            items = kwargs.get("num_items_in_batch") is not None
            self._scale = (float(world) if averaged else 1.0) if items else None

        self._handle = model.register_forward_hook(hear, with_kwargs=True)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.remove()
        self._handle, self._losses = None, []

    def take(self) -> Tensor:
        if not self._losses:
            raise ConfigurationError(
                "the Trainer took a step without calling its model: TransformersAdaptiveSchedule hears the losses from "
                "the model's outputs; use AdaptiveSchedule in a Trainer that trains in another way"
            )
        losses = torch.stack(self._losses)
        self._losses = []
        return losses.mean() if self._scale is None else losses.sum() * self._scale


def _loss_of(outputs: Any) -> Tensor:
    loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs[0] if isinstance(outputs, tuple) else None
    if not isinstance(loss, Tensor):
        raise ConfigurationError(
            f"expected the model's outputs to hold a loss, got {type(outputs).__name__} without one: the model needs "
            "labels, and must compute the loss itself (not the Trainer, as with label_smoothing_factor or a "
            "compute_loss of your own); or use AdaptiveSchedule in a loop of your own"
        )
    return loss


def _checkpoint(args: TrainingArguments, state: TrainerState) -> Path:
    return Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"


def _file_name(rank: int) -> str:
    return f"metatuner_{rank}.safetensors"
