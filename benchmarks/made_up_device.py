"""A device made up to count the waits of a GPU for its host where there is no GPU.

Its operations run on the CPU. Counted is what would stop a GPU: numbers that are read out, results whose size the data
decide, and copies between device and host that are not told to be non-blocking. An operation that meets tensors of both
is refused, as a GPU would.
"""

import os
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.optim import adam
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

DEVICE = torch.device("meta")
"""What it is called: of the names that torch knows, the only one that autograd takes without a driver."""

READ_OUT = {"_local_scalar_dense", "is_nonzero", "equal", "multinomial"}
SIZED_BY_DATA = {
    "nonzero",
    "masked_select",
    "_unique",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "bincount",
    "isin",
}
INDEXING = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index")

Wait = tuple[str, str]
"""An operation, and the line that asks for it."""


class OnDevice(Tensor):
    """A tensor of the made-up device; ``held`` has its values, on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnDevice":
        """A shell that says it is elsewhere."""
        made = Tensor._make_wrapper_subclass(
            cls, held.size(), held.stride(), held.storage_offset(), dtype=held.dtype, device=DEVICE
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Every operation is run by the mode."""
        raise RuntimeError(f"{func} ran outside of the made-up device")


class MadeUpDevice(TorchDispatchMode):
    """Runs what happens on the made-up device on the CPU, and counts the waits."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[Wait] = Counter()

    def note(self, what: str) -> None:
        """Count a wait of the line that is running."""
        self.waits[what, line()] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation where its tensors are."""
        name, kwargs = func.__name__.split(".")[0], dict(kwargs or {})
        if name == "_fused_sdp_choice":
            return 0  # by plain products: that of the CPU knows no other device
        flat, spec = tree_flatten((args, kwargs))
        tensors = [value for value in flat if isinstance(value, Tensor)]
        here = any(isinstance(tensor, OnDevice) for tensor in tensors)
        target = kwargs.get("device")
        there = here if target is None else torch.device(target) == DEVICE
        if name == "copy_":
            there = isinstance(args[0], OnDevice)
            self._count_copy(tensors[1], there, non_blocking=kwargs.get("non_blocking") or args[2:] == (True,))
        elif name == "_to_copy":
            self._count_copy(tensors[0], there, non_blocking=kwargs.get("non_blocking", False))
        elif here:
            self._count(name, args, kwargs, tensors)
        shells = {id(value.held): value for value in flat if isinstance(value, OnDevice)}
        plain = [torch.device("cpu") if isinstance(value, torch.device) else _held(value) for value in flat]
        plain_args, plain_kwargs = tree_unflatten(plain, spec)
        out, shape = tree_flatten(func(*plain_args, **plain_kwargs))
        return tree_unflatten([_shelled(value, shells) if there else value for value in out], shape)

    def _count_copy(self, source: Tensor, there: bool, *, non_blocking: bool) -> None:
        """Count a copy that is waited for; a number of the host goes along with the operation."""
        if isinstance(source, OnDevice) == there or non_blocking:
            return
        self.note("copy to the device" if there else "copy to the host")

    def _count(self, name: str, args: Any, kwargs: dict[str, Any], tensors: Sequence[Tensor]) -> None:
        unsized = name == "repeat_interleave" and kwargs.get("output_size") is None
        if name in READ_OUT | SIZED_BY_DATA or unsized:
            self.note(name)
        elif name in INDEXING:
            self._count_indexing(name, *args[:3])
        elif any(tensor.dim() and not isinstance(tensor, OnDevice) for tensor in tensors):
            raise RuntimeError(f"{name} meets tensors of host and device, which a GPU would refuse")

    def _count_indexing(
        self, name: str, into: Tensor, by: Sequence[Tensor | None], value: Tensor | None = None
    ) -> None:
        indices = [index for index in by if index is not None]
        if not isinstance(into, OnDevice):
            raise RuntimeError(f"{name} of the host by an index of the device, which a GPU would refuse")
        if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
            filled = value is not None and value.numel() == 1 and len(indices) == 1  # by masked_fill
            if not filled:
                self.note(f"{name} by a mask")
            return
        if not all(isinstance(index, OnDevice) for index in indices):
            self.note(f"{name} by an index of the host")
        if value is not None and value.dim() == 0:  # CUDA keeps a number on the host until then
            self.note(f"{name} of a value of the host")


def _held(value: Any) -> Any:
    return value.held if isinstance(value, OnDevice) else value


def _shelled(value: Any, known: dict[int, OnDevice]) -> Any:
    """A result as one of the device: what was written in place is what it was."""
    if not isinstance(value, Tensor) or isinstance(value, OnDevice):
        return value
    return known[id(value)] if id(value) in known else OnDevice(value)


def line() -> str:
    """The innermost line of truepair that is running."""
    mark = f"{os.sep}truepair{os.sep}"
    own = [frame for frame in traceback.extract_stack() if mark in frame.filename]
    if not own:
        return "outside of truepair"
    return f"{own[-1].filename.rpartition(mark)[2]}:{own[-1].lineno} {own[-1].line}"


@contextmanager
def made_up_device() -> Iterator[Counter[Wait]]:
    """Let the made-up device be one that torch knows; gives the waits on it."""
    mode = MadeUpDevice()
    tensor, as_tensor, generator, autocast = torch.tensor, torch.as_tensor, torch.Generator, torch.autocast

    def moved(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Values of the host become a tensor there, which is then copied."""

        def made(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
            if isinstance(data, OnDevice):
                return data.to(device=device or DEVICE, dtype=kwargs.get("dtype") or data.dtype)
            there = device is not None and torch.device(device) == DEVICE
            return make(data, *args, **kwargs).to(DEVICE) if there else make(data, *args, **kwargs)

        return made

    def new_tensor(like: Tensor, data: Any, *, dtype: Any = None, device: Any = None) -> Tensor:
        return tensor(data, dtype=dtype or like.dtype).to(like.device if device is None else device)

    def read(method: Callable[..., Any]) -> Callable[..., Any]:
        """Reading values out is a wait."""

        def of(values: Tensor, *args: Any) -> Any:
            if isinstance(values, OnDevice):
                mode.note(method.__name__)
                return method(values.held.detach(), *args)
            return method(values, *args)

        return of

    def lower_precision(kind: str, *args: Any, **kwargs: Any) -> AbstractContextManager[Any]:
        return nullcontext() if kind == DEVICE.type else autocast(kind, *args, **kwargs)

    with ExitStack() as patches:
        for owner, name, stand_in in (
            (torch, "tensor", moved(tensor)),
            (torch, "as_tensor", moved(as_tensor)),
            (torch, "Generator", lambda device="cpu": generator()),
            (torch, "autocast", lower_precision),
            (torch, "inference_mode", torch.no_grad),
            (Tensor, "new_tensor", new_tensor),
            (Tensor, "tolist", read(Tensor.tolist)),
            (Tensor, "numpy", read(Tensor.numpy)),
            (adam, "_device_dtype_check_for_fused", lambda *_, **__: None),
        ):
            patches.enter_context(patch.object(owner, name, stand_in))
        patches.enter_context(mode)
        yield mode.waits


def move(modules: Sequence[nn.Module], device: torch.device) -> None:
    """Move modules to a device; weights that several of them share stay shared, also on the made-up device."""
    moved: dict[int, nn.Parameter] = {}
    for module in (child for parent in modules for child in parent.modules()):
        weights = {name: weight for name, weight in module._parameters.items() if weight is not None}
        for name, weight in weights.items():
            if id(weight) not in moved:
                there = nn.Parameter(weight.detach().to(device), weight.requires_grad)
                moved |= {id(weight): there, id(there): there}
            module._parameters[name] = moved[id(weight)]
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.to(device)
