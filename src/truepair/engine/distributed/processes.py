"""The processes of a run: how they meet, the first time and when all are started again because one died."""

import gc
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from uuid import uuid4

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.state import AcceleratorState
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from truepair.engine.distributed.launch import started_processes
from truepair.errors import ConfigError

# Processes wait this long for one that evaluates or writes a checkpoint.
PATIENCE = timedelta(hours=2)

_MEETING = timedelta(minutes=10)  # all are started at once, and meet before they read data

_LOOKS = 0.1  # seconds between two looks into the store


def join_processes(*, cpu: bool) -> PartialState:
    """Open the process group of the processes that torchrun or accelerate started, unless it is open.

    Nothing else opens it: a library that does finds the addresses of dead processes after a restart.

    Args:
        cpu: compute on the CPU, even if there is something faster.

    Returns:
        This process among the others; a process alone has no group.

    Raises:
        ConfigError: several processes were started, and they cannot exchange anything.
    """
    count = started_processes()
    if count > 1 and not dist.is_initialized():
        kind = "cpu" if cpu else _accelerator()
        if kind in (None, "mps"):
            raise _cannot_exchange(count)
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
            _meet_in_kept_store(kind)
    state = PartialState(cpu=cpu, timeout=PATIENCE)
    if state.num_processes < count:
        raise _cannot_exchange(count)
    return state


def leave_processes() -> None:
    """Close the process group, once this process needs the others no more; does nothing where none is open.

    A thread of the group may still hold a tensor for a moment after what it exchanged is there. An interpreter that
    ends in that moment aborts, and the launcher takes a finished run for a dead one. Not to be called after an error:
    the group waits for what it exchanges, and another process may never answer.
    """
    if dist.is_initialized():
        dist.destroy_process_group()
        AcceleratorState._reset_state(reset_partial_state=True)
        gc.collect()  # a wrapped model that only a cycle still holds would keep the threads of the group


@contextmanager
def first_process_first(state: PartialState) -> Iterator[None]:
    """Let the first process do what the block says, then the others, who find what it has written.

    If it fails, the others try as well, and fail with a line of their own instead of one on a lost connection.

    Args:
        state: of `join_processes`; all processes call this together.
    """
    if not state.is_main_process:
        state.wait_for_everyone()
    try:
        yield
    finally:
        if state.is_main_process:
            state.wait_for_everyone()


def own_device(*, cpu: bool = False) -> torch.device:
    """Where this process computes. It meets nobody: others that were started with it need not call this.

    Args:
        cpu: on the CPU, even if there is something faster.
    """
    if started_processes() == 1 or dist.is_initialized():
        device: torch.device = PartialState(cpu=cpu).device
        return device
    kind = None if cpu else _accelerator()
    if kind is None:
        return torch.device("cpu")
    return torch.device(kind, int(os.environ.get("LOCAL_RANK", "0")) % torch.accelerator.device_count())


def agree_on_name(store: Store, rank: int, count: int, patience: timedelta = _MEETING) -> str:
    """A name that all processes of this attempt know and no earlier attempt had, for their keys in the store.

    The store may hold what processes wrote there that have died, and how often each machine has restarted its own
    processes differs. So the first process makes up a name, the others answer under it with names of their own, and
    it confirms the answers that it got: a name of an earlier attempt is never confirmed to a new process.

    Args:
        store: seen by all; used for nothing else by this attempt.
        rank: this process.
        count: how many there are.
        patience: how long to wait for the others.

    Raises:
        ConfigError: others did not come.
    """
    own = uuid4().hex
    store.set_timeout(patience)
    deadline = time.monotonic() + patience.total_seconds()
    try:
        if rank == 0:
            store.set("first", own)
            answers = [store.get(f"{own}/{other}").decode() for other in range(1, count)]
            store.set(f"{own}/confirmed", " ".join(answers))
            return own
        while time.monotonic() < deadline:
            name: str = store.get("first").decode()
            store.set(f"{name}/{rank}", own)
            time.sleep(_LOOKS)
            if store.check([f"{name}/confirmed"]) and own in store.get(f"{name}/confirmed").decode().split():
                return name
    except dist.DistStoreError as error:
        raise _nobody_came(rank, count, patience) from error
    raise _nobody_came(rank, count, patience)


def _meet_in_kept_store(kind: str) -> None:
    """Open the group in the store of torchrun, which it keeps for all attempts, under a name of this attempt."""
    store, rank, count = next(rendezvous("env://", timeout=_MEETING))
    name = agree_on_name(PrefixStore("truepair", store), rank, count)
    dist.init_process_group(
        dist.get_default_backend_for_device(kind),
        store=PrefixStore(name, store),
        rank=rank,
        world_size=count,
        timeout=PATIENCE,
    )


def _accelerator() -> str | None:
    """The kind of what computes faster than the CPU, such as "cuda"; None where there is none."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return None if found is None else found.type


def _cannot_exchange(count: int) -> ConfigError:
    return ConfigError(
        f"{count} processes were started, and there are no GPUs over which they can exchange anything; add "
        "--loop.cpu true, or start one process"
    )


def _nobody_came(rank: int, count: int, patience: timedelta) -> ConfigError:
    minutes = patience.total_seconds() / 60
    return ConfigError(
        f"process {rank} of {count} waited {minutes:g} minutes for the others; see what they said, and whether all "
        "machines reach MASTER_ADDR and MASTER_PORT"
    )
