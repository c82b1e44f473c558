"""Lightning's Trainer over a feed, that goes on where it was.

    python examples/lightning_fit.py demo/dataset /tmp/lightning     # `make demo` makes the dataset
    python examples/lightning_fit.py demo/dataset /tmp/lightning 5   # the same run, up to epoch 5

The feed is the train dataloader as it is. `setup` is the first place where Lightning knows rank and world size. The
feed shares the rows out among the ranks by itself: `use_distributed_sampler=False` keeps Lightning from doing so once
more where a DataLoader is wrapped around it.

The data module gives the feed's position to Lightning's checkpoints and takes it back. Count the run in epochs: with
`max_steps`, Lightning 2.6 goes on wrongly from a checkpoint at the end of an epoch.
"""

import sys
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import nn
from torch.nn.functional import cross_entropy

from train.feed import Feed


class Digits(lightning.LightningDataModule):
    def __init__(self, dataset_url: str) -> None:
        super().__init__()
        self.dataset_url = dataset_url

    def setup(self, stage: str) -> None:
        rank, world_size = self.trainer.global_rank, self.trainer.world_size
        columns = ["id", "image", "label"]
        self.feed = Feed(self.dataset_url, global_batch_size=64, columns=columns, rank=rank, world_size=world_size)

    def train_dataloader(self) -> Feed:
        return self.feed

    def state_dict(self) -> dict[str, Any]:
        return self.feed.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.feed.load_state_dict(state_dict)


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
        self.keys: list[str] = []
        self.losses: list[float] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)

    def training_step(self, batch: dict[str, Any], _: int) -> torch.Tensor:
        logits = self.model(batch["image"].float() / 16)  # (B, 8, 8) uint8 of 0 to 16 -> (B, 10)
        # On several ranks the last batch of one may be padding, of weight 0.
        loss = (cross_entropy(logits, batch["label"], reduction="none") * batch["_weight"]).mean()
        self.keys += batch["id"]
        self.losses.append(loss.item())
        return loss

    def on_train_epoch_end(self) -> None:
        loss = sum(self.losses) / len(self.losses)
        print(f"step {self.global_step}: {len(self.keys)} rows, {len(set(self.keys))} keys, loss {loss:.4f}")
        self.keys, self.losses = [], []


folder, num_epochs = Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 3
lightning.seed_everything(0)
trainer = lightning.Trainer(
    max_epochs=num_epochs,
    callbacks=[ModelCheckpoint(folder, filename="{step}", every_n_train_steps=10, save_top_k=-1)],
    use_distributed_sampler=False,
    logger=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
checkpoints = sorted(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
trainer.fit(
    Classifier(),
    datamodule=Digits(sys.argv[1]),
    ckpt_path=checkpoints[-1] if checkpoints else None,
    weights_only=True,
)
