"""What a step must keep beside the student, in a checkpoint: momentum model, queue, verdicts, calibration, ledger."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from truepair.errors import CheckpointError
from truepair.training.sharding import gathered, spread_like
from truepair.training.step_parts import StepParts

_MOMENTUM = "momentum.safetensors"
_STATE = "parts.json"


def save_step(folder: Path, parts: StepParts, rank: int) -> None:
    """Write the state of a step's parts.

    Args:
        folder: Of the checkpoint.
        parts: Of the step.
        rank: This process; verdicts are each rank's own, the rest is the same on all and written by the first.
    """
    if parts.miner is not None and parts.miner.memory is not None:
        save_file(parts.miner.memory.memory.state_dict(), folder / f"verdicts-r{rank:05d}.safetensors")
    momentum = None if parts.momentum is None else gathered(parts.momentum.tensors(), keep=rank == 0)
    if rank > 0:
        return
    state: dict[str, Any] = {"counts": parts.counts.read()}
    if parts.ledger is not None:
        state["ledger"] = parts.ledger.state_dict()
    if parts.miner is not None:
        state["ecm"] = parts.miner.counts.read()
    if parts.found is not None:
        state["found"] = parts.found.counts
    if parts.regulator is not None:
        state["srcl"] = parts.regulator.state()
    (folder / _STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
    if momentum is not None:
        save_file({name: tensor.contiguous() for name, tensor in momentum.items()}, folder / _MOMENTUM)


def load_step(folder: Path, parts: StepParts, rank: int) -> None:
    """Read what :func:`save_step` wrote. A run that goes on with more ranks starts their verdicts empty.

    Raises:
        CheckpointError: The checkpoint is of a run with other parts.
    """
    verdicts = folder / f"verdicts-r{rank:05d}.safetensors"
    if parts.miner is not None and parts.miner.memory is not None and verdicts.exists():
        parts.miner.memory.memory.load_state_dict(load_file(verdicts))
    state: dict[str, Any] = json.loads((folder / _STATE).read_text(encoding="utf-8"))
    try:
        parts.counts.load(state["counts"])
        if parts.ledger is not None:
            parts.ledger.load_state_dict(state["ledger"])
        if parts.miner is not None:
            parts.miner.counts.load(state["ecm"])
        if parts.found is not None:
            parts.found.counts = dict(state["found"])
        if parts.regulator is not None:
            parts.regulator.load_state(state["srcl"])
    except KeyError as error:
        raise CheckpointError(f"{folder} is of a run without {error}; give another run folder") from error
    if parts.momentum is not None:
        _copy(load_file(folder / _MOMENTUM), parts.momentum.tensors(), folder)


@torch.no_grad()
def _copy(saved: dict[str, torch.Tensor], tensors: dict[str, torch.Tensor], folder: Path) -> None:
    if {n: t.shape for n, t in saved.items()} != {n: t.shape for n, t in tensors.items()}:
        raise CheckpointError(f"{folder} holds another momentum model or queue; give another run folder")
    for name, tensor in tensors.items():
        tensor.copy_(spread_like(tensor, saved[name]))
