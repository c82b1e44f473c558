"""The training loop, whole: each global step a batch, forward, backward, step; at an epoch's end evaluate, log, save.

Nothing is called back. What a recipe decides (augment, prepare, loss) is called by name where it happens.

The gradient is the exact mean over the global batch's rows, for any number of ranks: every rank and micro-batch
backpropagates the sum of its rows' losses, and once all are added up, one scaling divides by the weight of all rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from penstock.errors import Preempted
from train import acceleration, distributed, ema, finite, random, rows
from train import state as states
from train.config import EarlyStopping, Options, TrainConfig
from train.control import Control
from train.distributed import World
from train.early_stopping import judge, still
from train.epoch_times import Clock, EpochTimes
from train.evaluate import evaluate
from train.feed import WEIGHT, Feed
from train.feed.device import to_device
from train.optimizers import set_lr
from train.schedule import lr_factor

ROW_KEYS = "_row_keys"  # (B,) int64 beside the fields: where a row's random numbers come from
# steps done, learning rate, (2,) loss and weight of all ranks' rows
OnStep = Callable[[int, float, torch.Tensor], None]


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
    state = states.start(model, config, device)
    stopping = config.early_stopping or EarlyStopping()
    if (saved := distributed.from_rank_0(saved, world)) is not None:
        with distributed.together(world):
            states.load(state, saved)
            state.best = still(state.best, stopping)
    losses = finite.Losses(train_feed, run_folder, world)
    steps_per_epoch = len(train_feed)
    num_steps = config.num_steps(steps_per_epoch)
    augment = getattr(recipe, "augment", None)
    dropouts = [module for module in model.modules() if isinstance(module, random.Dropout)]
    clock, batches = Clock(train_feed, state.step), None

    while True:
        if not state.evaluated:
            times = state.times = state.times or clock.stop(state.step, world)
            metrics = {"epoch": times.epoch, "step": state.step, "train_loss": float(state.sums[0] / state.sums[1])}
            if val_feed is not None:
                try:
                    with ema.averaged(model, state.averages):
                        val = evaluate(model, recipe, val_feed, config, world, control)
                except Preempted:
                    control.save(state.step, states.full(state, world))
                    raise
                metrics |= {f"val_{name}": value for name, value in val.items()}
                state.best = judge(state.best, stopping, metrics, state.step)
            state.sums.zero_()
            state.times, state.evaluated = None, True
            on_epoch(EpochResult(metrics, times))
            is_best = state.best is not None and state.best.since == 0
            if is_best or state.step == num_steps:
                control.save(state.step, states.full(state, world), is_best)
        if state.step == num_steps:
            break
        if config.early_stopping is not None and state.best is not None and state.best.since >= stopping.patience:
            break

        if control.before(state.step):
            losses.check()
            control.save(state.step, states.full(state, world))
            control.stop_if_asked()
        epoch, i = divmod(state.step, steps_per_epoch)
        if batches is None:
            forward.train()
            clock, plan = Clock(train_feed, state.step), train_feed.plan(epoch)
            batches = to_device(train_feed.epoch(epoch, i), device, train_feed.timings)
        with clock.waiting():
            batch = next(batches)

        lr = config.optimizer.lr * lr_factor(config.schedule, state.step, num_steps)
        set_lr(state.optimizers, lr)
        # for what is drawn without row keys
        random.seed_torch(device, random.seed_of(config.seed, state.step, world.rank))
        if augment is not None or dropouts:
            batch[ROW_KEYS] = random.row_keys(config.seed, epoch, rows.places(plan, i, world))
        if augment is not None:
            draw = random.drawing(batch[ROW_KEYS])
            batch = {**augment(batch, config, draw, state.step / num_steps), ROW_KEYS: batch[ROW_KEYS]}
        step_sums = torch.zeros_like(state.sums)
        for number, part in enumerate(rows.micro_batches(batch, config.accumulate), 1):
            for dropout in dropouts:
                dropout.keys = part[ROW_KEYS]
            with distributed.synchronising(forward, last=number == config.accumulate):
                with acceleration.autocast(config.precision, device):
                    outputs = forward(recipe.prepare(part, train_feed.card))
                    loss, weight = recipe.loss(outputs, part, config)  # (B,), (B,)
                loss, weight = (loss * part[WEIGHT]).sum(), (weight * part[WEIGHT]).sum()
                loss.backward()
            step_sums += torch.stack([loss.detach(), weight.detach()])
        state.sums += distributed.all_reduce(step_sums, world)
        distributed.scale_gradients(forward, step_sums[1], world)
        if config.clip_grad_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), config.clip_grad_norm)
        for optimizer in state.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if state.averages is not None and config.ema_decay is not None:
            ema.update(state.averages, model, ema.decay_at(config.ema_decay, state.step))
        state.step += 1
        on_step(state.step, lr, step_sums)
        losses.add(state.step - 1, step_sums)
        if i + 1 == steps_per_epoch or state.step == num_steps:
            losses.check()  # before it is evaluated
            if state.step < num_steps:
                next(batches, None)  # so that the feed fetches on, for the next epoch
            batches.close()
            batches, state.evaluated = None, False

    if config.early_stopping is not None:
        with distributed.together(world):
            saved = control.best()
        saved = distributed.from_rank_0(saved, world)
        assert saved is not None
        states.load(state, saved)
    if state.averages is not None:
        ema.assign(model, state.averages)
