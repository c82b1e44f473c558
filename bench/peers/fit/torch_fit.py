"""PyTorch as its tutorials write it: a DataLoader over a TensorDataset, and a loop, or Lightning's Trainer."""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from bench.peers.fit.data import NUM_CLASSES, Job, serve


def build(model: str) -> nn.Module:
    if model == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 64), nn.ReLU(), nn.Linear(64, NUM_CLASSES))
    hidden = [nn.Conv2d(1, 32, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 13 * 13, 64), nn.ReLU()]
    return nn.Sequential(*hidden, nn.Linear(64, NUM_CLASSES))


def loader(job: Job) -> DataLoader[tuple[Tensor, ...]]:
    images, labels = map(torch.from_numpy, job.train)
    return DataLoader(TensorDataset(images[:, None], labels), batch_size=job.batch_size, shuffle=True)


def optimizer_of(model: nn.Module, job: Job) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    decayed, others = ([p for p in model.parameters() if (p.dim() >= 2) == wanted] for wanted in (True, False))
    groups = [{"params": decayed, "weight_decay": job.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=job.lr)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, job.lr_factor)


def loop(model: nn.Module, job: Job) -> list[float]:
    optimizer, scheduler = optimizer_of(model, job)
    criterion = nn.CrossEntropyLoss(label_smoothing=job.label_smoothing)
    batches, seconds = loader(job), []
    model.train()
    for _ in range(job.epochs):
        started, loss_sum = time.perf_counter(), 0.0
        for x, y in batches:
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            scheduler.step()
            loss_sum += loss.item()
        seconds.append(time.perf_counter() - started)
    return seconds


def lightning(model: nn.Module, job: Job) -> list[float]:
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.seconds = model, []
            self.criterion = nn.CrossEntropyLoss(label_smoothing=job.label_smoothing)

        def training_step(self, batch, _):
            x, y = batch
            loss = self.criterion(self.model(x), y)
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self):
            optimizer, scheduler = optimizer_of(self.model, job)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

        def on_train_epoch_start(self) -> None:
            self.started = time.perf_counter()

        def on_train_epoch_end(self) -> None:
            self.seconds.append(time.perf_counter() - self.started)

    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    module = Module()
    trainer = lightning.Trainer(accelerator="cpu", max_epochs=job.epochs, enable_model_summary=False, **options)
    trainer.fit(module, loader(job))
    return module.seconds


def fit(job: Job) -> tuple[list[float], float]:
    torch.manual_seed(job.seed)
    model = build(job.model)
    seconds = lightning(model, job) if job.system == "lightning" else loop(model, job)
    model.eval()
    with torch.no_grad():
        images, labels = map(torch.from_numpy, job.test)
        accuracy = (model(images[:, None]).argmax(dim=1) == labels).float().mean()
    return seconds, float(accuracy)


if __name__ == "__main__":
    serve(["pytorch", "lightning"], fit, ["torch", "lightning"])
