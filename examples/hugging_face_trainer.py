"""Hugging Face's Trainer over a feed, that goes on where it was.

    python examples/hugging_face_trainer.py demo/dataset /tmp/hugging_face       # `make demo` makes the dataset
    python examples/hugging_face_trainer.py demo/dataset /tmp/hugging_face 100   # the same run, up to step 100

`get_train_dataloader` gives the feed as it is, with the rank and world size of `TrainingArguments`. Trainer's own would
have accelerate share the batches out among the ranks: that is done already.

Trainer goes on by skipping what it has trained on, which needs a DataLoader and reads it all again. A feed seeks: with
`ignore_data_skip` Trainer leaves it alone, and a callback puts it where the checkpoint's step is. Trainer counts
`global_step`, so that nothing has to be saved beside it.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint

from train.feed import Feed


class FeedTrainer(Trainer):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.keys: list[str] = []
        self.losses: list[float] = []

    def get_train_dataloader(self) -> Feed:
        return feed

    def compute_loss(self, model: Any, inputs: dict[str, Any], **_: Any) -> torch.Tensor:
        logits = model(inputs["image"].float() / 16)  # (B, 8, 8) uint8 of 0 to 16 -> (B, 10)
        # On several ranks the last batch of one may be padding, of weight 0.
        loss = (cross_entropy(logits, inputs["label"], reduction="none") * inputs["_weight"]).mean()
        self.keys += inputs["id"]
        self.losses.append(loss.item())
        return loss


class Epochs(TrainerCallback):
    """Begins where the run is, and tells what each epoch has trained on."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        epoch, batch = divmod(state.global_step, len(feed))
        feed.load_state_dict({**feed.state_dict(), "epoch": epoch, "batch": batch})

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        loss = sum(trainer.losses) / len(trainer.losses)
        print(f"step {state.global_step}: {len(trainer.keys)} rows, {len(set(trainer.keys))} keys, loss {loss:.4f}")
        trainer.keys, trainer.losses = [], []


folder, num_steps = sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 60
set_seed(0)
arguments = TrainingArguments(
    folder,
    max_steps=num_steps,
    learning_rate=1e-2,
    lr_scheduler_type="constant",
    per_device_train_batch_size=64,
    save_steps=10,
    ignore_data_skip=True,
    disable_tqdm=True,
    report_to="none",
    use_cpu=True,
)
feed = Feed(
    sys.argv[1],
    global_batch_size=arguments.per_device_train_batch_size * arguments.world_size,
    columns=["id", "image", "label"],
    rank=arguments.process_index,
    world_size=arguments.world_size,
)
model = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
trainer = FeedTrainer(model=model, args=arguments, callbacks=[Epochs()])
trainer.train(resume_from_checkpoint=get_last_checkpoint(folder) if Path(folder).is_dir() else None)
