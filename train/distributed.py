"""Ranks: the processes that train one model together, each on a device of its own, and what they tell each other.

torchrun's environment says which rank this process is. With one rank there is no process group, and nothing here costs
anything: every function gives back what it got.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeGuard, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from penstock.errors import PenstockError, RunError

if TYPE_CHECKING:  # FSDP2's modules take two seconds to import: only where a model is sharded
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

Parallel = Literal["ddp", "fsdp"]
T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This rank's place among all of them: `rank` of `size`, the `local_rank`-th on its machine."""

    device: torch.device
    rank: int = 0
    local_rank: int = 0
    size: int = 1


def environment_rank() -> int:
    """The rank that torchrun gave this process; 0 without it."""
    return int(os.environ.get("RANK", 0))


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """`auto` is a GPU where there is one, each rank its own. Raises: RunError for a device that is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not name.startswith("cuda"):
        try:
            return torch.device(name)
        except RuntimeError as error:
            raise RunError(f"--device {name}: expected auto, cpu or cuda; choose one of these") from error
    if not torch.cuda.is_available():
        raise RunError(
            f"--device {name}: torch sees no GPU here; `penstock doctor` says more, --device cpu runs without"
        )
    device = torch.device(name if ":" in name else f"cuda:{local_rank}")
    if (device.index or 0) >= torch.cuda.device_count():
        raise RunError(
            f"--device {name}: expected a GPU for each rank of a machine, found {torch.cuda.device_count()} GPUs and "
            f"local rank {local_rank}; start fewer ranks (--nproc-per-node)"
        )
    torch.cuda.set_device(device)
    return device


@contextmanager
def joined(device: str) -> Iterator[World]:
    """The world of this process, with the process group open: NCCL between GPUs, gloo between CPUs.

    An error of another rank than the first says which one's it is.
    """
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size == 1:
        yield World(choose_device(device))
        return
    local_rank = int(os.environ["LOCAL_RANK"])
    world = World(choose_device(device, local_rank), environment_rank(), local_rank, size)
    on_gpu = world.device.type == "cuda"
    store, _, _ = next(rendezvous("env://"))
    # Ranks that an agent started again get the store of before, with the addresses of those that have died.
    store = PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpu else "gloo",
        store=store,
        rank=world.rank,
        world_size=world.size,
        device_id=world.device if on_gpu else None,
    )
    try:
        yield world
    except PenstockError as error:
        if not world.rank:
            raise
        raise error.of(f"rank {world.rank}") from error
    # Not after an error: the other ranks may be in a collective that this one will never join.
    dist.destroy_process_group()


@contextmanager
def together(world: World) -> Iterator[None]:
    """What a rank cannot do, for a reason that its user can mend, stops all ranks here; rank 0 says why."""
    error: PenstockError | None = None
    try:
        yield
    except PenstockError as raised:
        if world.size == 1:
            raise
        error = raised
    if world.size == 1:
        return
    errors: list[PenstockError | None] = [None] * world.size
    dist.all_gather_object(errors, error)
    failed = next((rank for rank, found in enumerate(errors) if found is not None), None)
    if failed is None:
        return
    if world.rank:
        raise SystemExit(1)
    found = errors[failed]
    assert found is not None
    raise found.of(f"rank {failed}") if failed else found


def from_rank_0(value: T, world: World) -> T:
    """What rank 0 has; a tensor in it comes to this rank's device, one after the other."""
    if world.size == 1:
        return value
    outline = [tree_map_only(Tensor, lambda tensor: tensor.to("meta"), value) if world.rank == 0 else None]
    dist.broadcast_object_list(outline, src=0)
    leaves, spec = tree_flatten(value if world.rank == 0 else outline[0])
    here = [_broadcast(leaf, world) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
    found: T = tree_unflatten(here, spec)
    return found


def _broadcast(tensor: Tensor, world: World) -> Tensor:
    here = torch.empty_like(tensor, device=world.device) if tensor.is_meta else tensor.to(world.device).contiguous()
    dist.broadcast(here, src=0)
    return here


def all_reduce(sums: Tensor, world: World) -> Tensor:
    """The sums over all ranks, in place."""
    if world.size > 1:
        dist.all_reduce(sums)
    return sums


def parallelise(model: nn.Module, world: World, parallel: Parallel) -> nn.Module:
    """What to call for a forward pass, so that the backward pass leaves every rank with the gradient of all rows.

    DDP gives a wrapper around `model` and averages; FSDP2 shards `model` itself, its blocks (what nn.ModuleLists hold)
    one by one, and sums. `scale_gradients` evens that out.
    """
    if world.size == 1:
        return model
    if parallel == "ddp":
        # Said of channels-last gradients with one channel, whose strides differ in name only.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        device_ids = [world.device.index] if world.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=device_ids, gradient_as_bucket_view=True)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(world.device.type, (world.size,))
    for module in (*reversed(blocks(model)), model):  # an inner list's blocks before the block that they are in
        fully_shard(module, mesh=mesh)
        assert is_fsdp(module)
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)  # gloo knows no other reduction for a factor
    return model


def blocks(model: nn.Module) -> list[nn.Module]:
    """The parts that a model repeats: what its nn.ModuleLists hold."""
    return [block for module in model.modules() if isinstance(module, nn.ModuleList) for block in module]


@contextmanager
def synchronising(forward: nn.Module, last: bool) -> Iterator[None]:
    """Around a forward and backward pass: the ranks add up their gradients in the `last` one before a step."""
    if isinstance(forward, DistributedDataParallel) and not last:
        with forward.no_sync():
            yield
        return
    if is_fsdp(forward):
        forward.set_requires_gradient_sync(last)
    yield


def reshard(model: nn.Module) -> None:
    """FSDP leaves the outermost part of a model whole after a forward pass that no backward pass has followed."""
    for module in model.modules():
        if is_fsdp(module):
            module.reshard()


def scale_gradients(forward: nn.Module, weight: Tensor, world: World) -> None:
    """Gradients of a sum over all ranks' rows -> of the mean, whose weight over all ranks is `weight`, a scalar."""
    averaged = world.size if isinstance(forward, DistributedDataParallel) else 1
    gradients = [local(p.grad) for p in forward.parameters() if p.grad is not None]
    torch._foreach_mul_(gradients, (averaged / weight.clamp_min(1e-12)).to(gradients[0].dtype))


def local(tensor: Tensor) -> Tensor:
    """This rank's part of a sharded tensor; others as they are."""
    return tensor.to_local() if is_sharded(tensor) else tensor


def is_sharded(tensor: Tensor) -> TypeGuard[DTensor]:
    return hasattr(tensor, "placements")


def is_fsdp(module: nn.Module) -> TypeGuard[FSDPModule]:
    return hasattr(module, "set_requires_gradient_sync")


def full(state: Mapping[str, Any], world: World) -> dict[str, Any]:
    """A state dict whose sharded tensors are put together, on rank 0's CPU. All ranks must call it."""

    def whole(tensor: Tensor) -> Tensor:
        if not is_sharded(tensor):
            return tensor
        gathered = tensor.full_tensor()
        return gathered.cpu() if world.rank == 0 else gathered.new_empty(0)

    found: dict[str, Any] = tree_map_only(Tensor, whole, dict(state))
    return found


def load_model(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Loads full tensors, of which a sharded model takes each rank's part."""
    own = model.state_dict()
    model.load_state_dict({name: _part(value, own[name]) if name in own else value for name, value in state.items()})


@torch.no_grad()
def load_each(tensors: Sequence[Tensor], state: Sequence[Tensor]) -> None:
    """Loads full tensors into those that are here, of which each rank may have a part."""
    for tensor, value in zip(tensors, state, strict=True):
        tensor.copy_(_part(value, tensor))


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Loads full tensors, of which each rank takes its parameters' part; what the optimizer was built with stays."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    parts = {
        index: {name: _part(value, parameters[index]) for name, value in values.items()}
        for index, values in state["state"].items()
    }
    groups = [
        {**own, "params": saved["params"]}
        for own, saved in zip(optimizer.param_groups, state["param_groups"], strict=True)
    ]
    optimizer.load_state_dict({"state": parts, "param_groups": groups})


def _part(value: Any, like: Tensor) -> Any:
    """A full tensor sharded as the tensor `like` is that it belongs to."""
    if not isinstance(value, Tensor) or not is_sharded(like) or value.shape != like.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements, src_data_rank=None)


def share_buffers(model: nn.Module, world: World) -> None:
    """Every rank gets rank 0's buffers, such as the running statistics of batch norm."""
    if world.size > 1:
        for buffer in model.buffers():
            dist.broadcast(local(buffer), src=0)
