"""A training by Lightning's Trainer in a process of its own: checkpoints each epoch; can be killed and resumed.

python lightning_loop.py SETTINGS   (a JSON object, see `main`)
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from metatuner.agent.lightning_callback import LightningAdaptiveSchedule
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Net(LightningModule):
    def __init__(self, scheduler: bool) -> None:
        super().__init__()
        self.scheduler = scheduler
        self.net = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
        if not self.scheduler:
            return optimizer
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}


class Log(Callback):
    def __init__(self, file: Path, adaptive: LightningAdaptiveSchedule, pause: float) -> None:
        self.file, self.adaptive, self.pause = file, adaptive, pause

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        loss, schedule = args[1]["loss"].item(), self.adaptive.schedule
        assert schedule is not None
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        batch = trainer.fit_loop.epoch_loop.total_batch_idx
        entry = [batch, schedule.steps, loss, schedule.values, schedule.signals, rate]
        with self.file.open("a", encoding="utf-8") as log:
            log.write(json.dumps(entry) + "\n")
        time.sleep(self.pause)


def main(
    folder: str,
    policy: str,
    scheduler: bool = False,
    accumulate: int = 1,
    pause: float = 0.0,
    epochs: int = 5,
    clip: float | None = None,
    precision: Any = "32-true",
    accelerator: str = "cpu",
) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = torch.randn(320, 8)
    y = (x[:, :3] @ torch.randn(3, 3)).argmax(1)
    train = DataLoader(TensorDataset(x[:256], y[:256]), batch_size=16)
    val = DataLoader(TensorDataset(x[256:], y[256:]), batch_size=64)
    home = Path(folder)
    adaptive = LightningAdaptiveSchedule(policy=policy)
    checkpoints = ModelCheckpoint(home, filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    trainer = Trainer(
        accelerator=accelerator,
        devices=1,
        max_epochs=epochs,
        callbacks=[adaptive, Log(home / "log", adaptive, pause), checkpoints],
        accumulate_grad_batches=accumulate,
        gradient_clip_val=clip,
        precision=precision,
        num_sanity_val_steps=-1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    last = max(home.glob("*.ckpt"), key=lambda file: int(file.stem.split("=")[1]), default=None)
    trainer.fit(Net(scheduler), train, val, ckpt_path=last)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
