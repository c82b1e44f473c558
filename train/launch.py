"""`penstock train … --nproc-per-node N`: starts the ranks of this machine, and ends as they do.

torch's elastic agent starts them and starts them again (`--max-restarts`); under `torchrun … -m train.run` it is the
same agent. What this adds: the ranks' own exit code, where torchrun makes 1 of all, and that a rank which ended because
it was asked to is not started again.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import torch.distributed.elastic.rendezvous.registry as rendezvous
from torch.distributed.elastic.agent.server.api import RunResult, WorkerGroup, WorkerSpec
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, SubprocessContext
from torch.distributed.elastic.rendezvous import RendezvousParameters

from penstock import log
from penstock.errors import Preempted

STOPPED = (75, 130)  # a rank was asked to end: penstock.errors.Preempted
SHUTDOWN_S = 600  # for a checkpoint that is being written; schedulers kill sooner
RENDEZVOUS_S = 900


@dataclass(frozen=True)
class Launch:
    nproc_per_node: int = 1
    nnodes: int = 1
    node_rank: int | None = None  # None: in the order in which the nodes come
    rdzv_endpoint: str = ""  # host:port of the first node
    max_restarts: int = 0


class _Agent(LocalElasticAgent):
    ended: dict[int, int]  # rank -> exit code of those that a look has found to have ended

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        self.ended = self.exit_codes()  # before the others are ended too
        if any(code in STOPPED for code in self.ended.values()):
            self._remaining_restarts = 0
        result: RunResult = super()._monitor_workers(worker_group)
        return result

    def exit_codes(self) -> dict[int, int]:
        """Of the ranks of this machine that have ended, and not well."""
        assert isinstance(self._pcontext, SubprocessContext)
        ranks = [worker.global_rank for worker in self.get_worker_group().workers]
        codes = {ranks[local]: handler.proc.poll() for local, handler in self._pcontext.subprocess_handlers.items()}
        return {rank: code for rank, code in codes.items() if code}


def launch(wanted: Launch, arguments: Sequence[str]) -> int:
    """Runs `train.run` with these arguments in every rank; the exit code of what ended them."""
    for signum in (signal.SIGTERM, signal.SIGINT):  # until there are ranks, which get what arrives
        signal.signal(signum, _stop)
    for name in list(logging.root.manager.loggerDict):  # what the ranks say of themselves is enough
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // wanted.nproc_per_node)))
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGTERM,SIGINT"
    rdzv = rendezvous.get_rendezvous_handler(_parameters(wanted))
    agent = _Agent(
        WorkerSpec(
            role="train",
            local_world_size=wanted.nproc_per_node,
            entrypoint=sys.executable,
            args=("-u", "-m", "train.run", *arguments),
            rdzv_handler=rdzv,
            max_restarts=wanted.max_restarts,
            monitor_interval=0.1,
        ),
        DefaultLogsSpecs(log_dir=os.devnull),
        shutdown_timeout=SHUTDOWN_S,
    )
    ended: Mapping[int, int]
    try:
        result = agent.run()
        ended = agent.ended
        if result.is_failed() and not ended:  # a rank ended between the look and torch's own
            ended = {rank: failure.exitcode for rank, failure in result.failures.items()} or {0: 1}
    except SignalException:
        ended = agent.exit_codes()
    finally:
        rdzv.shutdown()
    return _exit_code(ended)


def _stop(signum: int, frame: object) -> None:
    raise SystemExit(Preempted(signum).exit_code)


def _parameters(wanted: Launch) -> RendezvousParameters:
    run_id = "penstock" if wanted.nnodes > 1 else uuid4().hex
    fixed: dict[str, Any] = {} if wanted.node_rank is None else {"rank": wanted.node_rank}
    return RendezvousParameters(
        backend="static" if fixed else "c10d",
        endpoint=wanted.rdzv_endpoint or "localhost:0",
        run_id=run_id,
        min_nodes=wanted.nnodes,
        max_nodes=wanted.nnodes,
        timeout=RENDEZVOUS_S,
        **fixed,
    )


def _exit_code(ended: Mapping[int, int]) -> int:
    """That of a rank which failed, before those of ranks that were asked to end. Says which ranks were killed."""
    killed = {rank: signal.Signals(-code) for rank, code in ended.items() if code < 0 and code != -signal.SIGTERM}
    for rank, signum in killed.items():
        log.error(f"rank {rank} was killed by {signum.name}; the others were ended")
    if killed:
        return 128 + next(iter(killed.values()))
    failed = [code for code in ended.values() if code not in STOPPED]
    code = next(iter(failed), max(ended.values(), default=0))
    return code if code >= 0 else 128 - code
