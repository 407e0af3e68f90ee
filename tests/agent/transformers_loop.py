"""A training by the Trainer of transformers in a process of its own: checkpoints; can be killed and resumed.

python transformers_loop.py SETTINGS   (a JSON object, see `main`)
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from metatuner.agent.transformers_callback import TransformersAdaptiveSchedule
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint


class Rows(Dataset[dict[str, torch.Tensor]]):
    def __init__(self, size: int, seed: int) -> None:
        self.ids = torch.randint(0, 50, (size, 6), generator=torch.Generator().manual_seed(seed))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.ids[i], "labels": self.ids[i, 0] % 3}


class Log(TrainerCallback):
    def __init__(self, file: Path, adaptive: TransformersAdaptiveSchedule, pause: float) -> None:
        self.file, self.adaptive, self.pause = file, adaptive, pause

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        schedule, rate = self.adaptive.schedule, kwargs["lr_scheduler"].get_last_lr()[0]
        assert schedule is not None
        first = schedule.state_dict(rollback=False)["meter"]["losses"].tolist()
        entry = [state.global_step, schedule.steps, first, schedule.values, schedule.signals, rate]
        with self.file.open("a", encoding="utf-8") as log:
            log.write(json.dumps(entry) + "\n")
        time.sleep(self.pause)


def main(
    folder: str,
    policy: str,
    pause: float = 0.0,
    accumulate: int = 1,
    scheduler: str = "linear",
    from_checkpoint: str | None = None,
    use_cpu: bool = True,
    **more: Any,
) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    home = Path(folder)
    config = BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, num_labels=3
    )
    adaptive = TransformersAdaptiveSchedule(policy=policy, from_checkpoint=from_checkpoint)
    args = TrainingArguments(
        output_dir=str(home / "out"),
        num_train_epochs=4,
        per_device_train_batch_size=8,
        gradient_accumulation_steps=accumulate,
        learning_rate=1e-3,
        lr_scheduler_type=scheduler,
        eval_strategy="steps",
        eval_steps=6,
        eval_on_start=True,
        save_strategy="steps",
        save_steps=5,
        use_cpu=use_cpu,
        report_to=[],
        disable_tqdm=True,
        **more,
    )
    trainer = Trainer(
        BertForSequenceClassification(config),
        args,
        train_dataset=Rows(96, 1),
        eval_dataset=Rows(48, 2),
        callbacks=[adaptive, Log(home / "log", adaptive, pause)],
    )
    last = get_last_checkpoint(args.output_dir) if (home / "out").exists() else None
    trainer.train(resume_from_checkpoint=last)
    assert trainer.evaluate(metric_key_prefix="test")  # none of the schedule's business


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
