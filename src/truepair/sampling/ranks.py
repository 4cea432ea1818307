"""What the sampler needs of torch.distributed, and nothing at all in a single process."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from truepair.errors import ConfigError


@dataclass(frozen=True)
class Ranks:
    """This process among the processes of a run.

    Attributes:
        rank: This process, from 0.
        count: How many there are.
    """

    rank: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.count:
            raise ConfigError(f"rank {self.rank} of {self.count} does not exist; ranks count from 0")

    @classmethod
    def current(cls) -> "Ranks":
        """The process group of torch.distributed if there is one, else a single rank."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    def gather(self, sizes: Sequence[int], *parts: Tensor) -> tuple[Tensor, ...]:
        """Put the rows of all ranks together, in rank order and in one message.

        Args:
            sizes: Number of rows of each rank.
            parts: This rank's rows [sizes[rank], ...] of one or more tensors on one device; types and shapes of a row
                are the same on all ranks.

        Returns:
            All rows [sum of sizes, ...] of each tensor, the same on every rank.

        Raises:
            ConfigError: There are several ranks but no process group.
        """
        if self.count == 1:
            return parts
        self._require_group()
        rows = torch.cat([_as_bytes(part) for part in parts], dim=1)
        sent = rows.new_zeros(max(sizes), rows.shape[1])
        sent[: len(rows)] = rows
        sent = sent.to(_device(sent))
        received = [torch.empty_like(sent) for _ in sizes]
        dist.all_gather(received, sent)
        joined = torch.cat([block[:size] for block, size in zip(received, sizes, strict=True)]).to(rows.device)
        columns = joined.split([_as_bytes(part).shape[1] for part in parts], dim=1)
        return tuple(
            column.contiguous().view(part.dtype).view(len(joined), *part.shape[1:])
            for column, part in zip(columns, parts, strict=True)
        )

    def broadcast(self, tensor: Tensor) -> Tensor:
        """Rank 0's tensor; all ranks give one of the same shape and type.

        Raises:
            ConfigError: There are several ranks but no process group.
        """
        if self.count == 1:
            return tensor
        self._require_group()
        sent = tensor.to(_device(tensor))
        dist.broadcast(sent, src=0)
        return sent.to(tensor.device)

    def _require_group(self) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            raise ConfigError(f"there are {self.count} ranks but no process group; call init_process_group first")


def _as_bytes(rows: Tensor) -> Tensor:
    """Rows as uint8 [b, bytes of a row], which every backend can send."""
    return rows.reshape(len(rows), math.prod(rows.shape[1:])).contiguous().view(torch.uint8)


def _device(tensor: Tensor) -> torch.device:
    """Where the process group wants a tensor: NCCL takes none from the CPU."""
    if tensor.device.type == "cpu" and dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return tensor.device
