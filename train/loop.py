"""The training loop, whole: each global step a batch, forward, backward, step; at an epoch's end evaluate, log, save.

Nothing is called back. What a recipe decides (augment, prepare, loss) is called by name where it happens.

The gradient is the exact mean over the global batch's rows, for any number of ranks: every rank and micro-batch
backpropagates the sum of its rows' losses, and once all are added up, one scaling divides by the weight of all rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from penstock.errors import Preempted, RunError
from train import acceleration, distributed, ema, finite, random
from train.config import EarlyStopping, Options, TrainConfig
from train.control import Control
from train.distributed import World
from train.early_stopping import Best, judge
from train.evaluate import evaluate
from train.feed import WEIGHT, Feed
from train.feed.device import to_device
from train.feed.petastorm_reader import Batch
from train.feed.plan import Plan
from train.optimizers import build as build_optimizers
from train.optimizers import set_lr
from train.schedule import lr_factor

ROW_KEYS = "_row_keys"  # (B,) int64 beside the fields: where a row's random numbers come from
# steps done, learning rate, (2,) loss and weight of all ranks' rows
OnStep = Callable[[int, float, torch.Tensor], None]


@dataclass(frozen=True)
class EpochTimes:
    """An epoch's steps on all ranks: how long they took, how long they waited for batches, what feeds did meanwhile."""

    epoch: int  # from 1
    step: int  # the run's steps at its end
    rows: int
    seconds: float
    wait_seconds: float  # mean over the ranks
    num_bytes: int
    stages: Mapping[str, float]  # train.feed.timing.STAGES -> seconds, summed over the threads of rank 0's feed

    @property
    def data_stall(self) -> float:
        """The share of the time in which the trainer stood still for data, 0 to 1."""
        return self.wait_seconds / max(self.seconds, 1e-9)


@dataclass(frozen=True)
class EpochResult:
    metrics: dict[str, float]  # the same on every run of the same configuration
    times: EpochTimes


def train(
    model: nn.Module,
    recipe: Any,
    config: TrainConfig,
    options: Options,
    train_feed: Feed,
    val_feed: Feed | None,
    world: World,
    control: Control,
    run_folder: Path,
    saved: Mapping[str, Any] | None,
    on_step: OnStep,
    on_epoch: Callable[[EpochResult], None],
) -> None:
    """Trains `model` in place from the checkpoint that rank 0 read, if there is one, to the last step.

    It ends with the averages of its weights, and with those of its best evaluation, where the configuration asks so.

    Raises: Preempted where `control` says so, RunError where the loss is not finite, or the checkpoint is of another
    model.
    """
    device = world.device
    forward = distributed.parallelise(model, world, options.parallel)
    optimizers = build_optimizers(model, config.optimizer)
    averages = ema.start(model) if config.ema_decay is not None else None
    losses = finite.Losses()
    sums = torch.zeros(2, dtype=torch.float64, device=device)  # loss and weight of the epoch's rows so far
    first, evaluated = 0, True
    best: Best | None = None
    if (saved := distributed.from_rank_0(saved, world)) is not None:
        with distributed.together(world):
            _load(saved, model, optimizers, averages)
        first, evaluated = saved["position"]["step"], saved["position"]["evaluated"]
        sums.copy_(saved["sums"])
        best = Best(**saved["best"]) if saved["best"] else None

    steps_per_epoch = len(train_feed)
    num_steps = config.num_steps(steps_per_epoch)
    augment = getattr(recipe, "augment", None)
    dropouts = [module for module in model.modules() if isinstance(module, random.Dropout)]

    def check_losses(bad: int | None) -> None:
        if bad is not None:
            with distributed.together(world):
                if world.rank == 0:
                    finite.stop(bad, train_feed, run_folder)

    def save(step: int, evaluated: bool = True, is_best: bool = False) -> None:
        check_losses(losses.first_bad())
        state = {
            "position": {"step": step, "evaluated": evaluated},
            "model": model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            "ema": averages,
            "sums": sums,
            "best": asdict(best) if best else None,
        }
        control.save(step, distributed.full(state, world), is_best)

    def end_epoch(step: int, times: EpochTimes) -> None:
        nonlocal best
        metrics = {"epoch": times.epoch, "step": step, "train_loss": float(sums[0] / sums[1])}
        if val_feed is not None:
            try:
                with ema.averaged(model, averages):
                    val = evaluate(model, recipe, val_feed, config, world, control)
            except Preempted:
                save(step, evaluated=False)
                raise
            metrics |= {f"val_{name}": value for name, value in val.items()}
            best = judge(best, config.early_stopping or EarlyStopping(), metrics, step)
        sums.zero_()
        on_epoch(EpochResult(metrics, times))
        is_best = best is not None and best.since == 0
        if is_best or step == num_steps:
            save(step, is_best=is_best)

    if not evaluated:
        end_epoch(first, _Clock(train_feed, steps_per_epoch).stop(first - 1, world))
    for step in range(first, num_steps):
        if config.early_stopping is not None and best is not None and best.since >= config.early_stopping.patience:
            break
        if control.before(step):
            save(step)
            control.stop_if_asked()
        epoch, i = divmod(step, steps_per_epoch)
        if i == 0 or step == first:
            forward.train()
            clock = _Clock(train_feed, i)
            plan = train_feed.plan(epoch)
            batches = to_device(train_feed.epoch(epoch, i), device, train_feed.timings)
        with clock.waiting():
            batch = next(batches)

        lr = config.optimizer.lr * lr_factor(config.schedule, step, num_steps)
        set_lr(optimizers, lr)
        random.seed_torch(device, random.seed_of(config.seed, step, world.rank))  # for what is drawn without row keys
        if augment is not None or dropouts:
            batch[ROW_KEYS] = random.row_keys(config.seed, epoch, _places(plan, i, world))
        if augment is not None:
            draw = random.drawing(batch[ROW_KEYS])
            batch = {**augment(batch, config, draw, step / num_steps), ROW_KEYS: batch[ROW_KEYS]}
        step_sums = torch.zeros_like(sums)
        for number, part in enumerate(_micro_batches(batch, config.accumulate), 1):
            for dropout in dropouts:
                dropout.keys = part[ROW_KEYS]
            with distributed.synchronising(forward, last=number == config.accumulate):
                with acceleration.autocast(config.precision, device):
                    outputs = forward(recipe.prepare(part, train_feed.card))
                    loss, weight = recipe.loss(outputs, part, config)  # (B,), (B,)
                loss, weight = (loss * part[WEIGHT]).sum(), (weight * part[WEIGHT]).sum()
                loss.backward()
            step_sums += torch.stack([loss.detach(), weight.detach()])
        sums += distributed.all_reduce(step_sums, world)
        distributed.scale_gradients(forward, step_sums[1], world)
        if config.clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), config.clip_grad_norm)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if averages is not None and config.ema_decay is not None:
            ema.update(averages, model, ema.decay_at(config.ema_decay, step))
        on_step(step + 1, lr, step_sums)

        is_last = i + 1 == steps_per_epoch or step + 1 == num_steps
        check_losses(losses.add(step, step_sums))
        if is_last:
            check_losses(losses.first_bad())  # before it is evaluated
            batches.close()
            end_epoch(step + 1, clock.stop(step, world))
    if config.early_stopping is not None:
        with distributed.together(world):
            saved = control.best()
        saved = distributed.from_rank_0(saved, world)
        assert saved is not None
        _load(saved, model, optimizers, averages)
    if averages is not None:
        ema.assign(model, averages)


def _load(
    saved: Mapping[str, Any],
    model: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    averages: Sequence[torch.Tensor] | None,
) -> None:
    try:
        distributed.load_model(model, saved["model"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            distributed.load_optimizer(optimizer, state)
        if averages is not None:
            distributed.load_each(averages, saved["ema"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise RunError(
            f"the checkpoint does not fit the model that the recipe makes now ({' '.join(str(error).split())}); go "
            f"back to the recipe's code of that run, or choose another --out"
        ) from error


def _places(plan: Plan, batch: int, world: World) -> torch.Tensor:
    """(B,) the places of a rank's rows in the epoch's order; where it has none left, one for the row of padding."""
    places = torch.from_numpy(plan.places(batch, world.rank, world.size))
    places = places if len(places) else torch.tensor([plan.num_rows])
    return places.pin_memory().to(world.device, non_blocking=True) if world.device.type == "cuda" else places


def _micro_batches(batch: Batch, count: int) -> Iterator[Batch]:
    """A rank's batch in `count` parts; where it has fewer rows, some parts are a row that counts for nothing."""
    if count == 1:
        yield batch
        return
    num_rows = len(batch[WEIGHT])
    for number in range(count):
        start, stop = num_rows * number // count, num_rows * (number + 1) // count
        if start < stop:
            yield {name: values[start:stop] for name, values in batch.items()}
        else:
            part = {name: values[:1] for name, values in batch.items()}
            yield {**part, WEIGHT: torch.zeros_like(part[WEIGHT])}


class _Clock:
    """Takes the time of an epoch's steps, from its `first` batch on."""

    def __init__(self, feed: Feed, first: int) -> None:
        self._feed, self._first, self._waited = feed, first, 0.0
        feed.timings.clear()
        self._started = time.perf_counter()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        asked = time.perf_counter()
        yield
        self._waited += time.perf_counter() - asked

    def stop(self, step: int, world: World) -> EpochTimes:
        """The times of the epoch that the run's step `step` was the last of."""
        seconds = time.perf_counter() - self._started
        fed, plan = self._feed.timings, self._feed.plan(0)
        epoch, last = divmod(step, plan.num_batches)
        first_row, stop_row = (min(n * plan.global_batch_size, plan.num_rows) for n in (self._first, last + 1))
        all_ranks = torch.tensor([self._waited, fed.num_bytes], dtype=torch.float64, device=world.device)
        waited, num_bytes = distributed.all_reduce(all_ranks, world).tolist()
        return EpochTimes(
            epoch=epoch + 1,
            step=step + 1,
            rows=stop_row - first_row,
            seconds=seconds,
            wait_seconds=waited / world.size,
            num_bytes=int(num_bytes),
            stages=dict(fed.seconds),
        )
