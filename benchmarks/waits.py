"""How often a step makes a GPU wait for its host: each wait lets the GPU run dry, however fast the rest is.

    python benchmarks/waits.py                          # ALBEF, MAFA, SRCL and ITC alone, 16 and 64 pairs
    python benchmarks/waits.py --steps albef --sizes 16

A whole optimizer step is counted: forward, backward, clipping, a look at loss and gradient, update. A tenth of the
pairs share their image or their caption with another, so that rules find something. Each wait is printed with the line
of truepair that asks for it, then one JSON line a step. A step that is good to a GPU waits as often at any size.

With a GPU the waits are those that `torch.cuda.set_sync_debug_mode` reports. Without one, all tensors of the step lie
on a made-up device, whose operations run on the CPU: counted is what would stop a GPU. Such are numbers that are read
out, results whose size the data decide, and copies between device and host that are not told to be non-blocking.
"""

import argparse
import json
import os
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Self
from unittest.mock import patch

import torch
from mafa_step import INFO, SEED, half_masked, mafa_step, random_model, random_pairs
from step_time import captions_of
from torch import Tensor, nn
from torch.optim import adam
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from truepair.data.pairs import PairBatch
from truepair.engine.loop.optimizer import build_optimizer
from truepair.engine.loop.update import OptimizerStep
from truepair.methods.encode import BatchEncoder
from truepair.methods.frozen import FrozenOnBatch
from truepair.methods.momentum import MomentumConfig, MomentumModel
from truepair.methods.rules import RelationsConfig, RuleSet
from truepair.methods.srcl import SrclConfig, SrclWeights
from truepair.methods.step import ItcConfig, ItmConfig, MlmConfig, ObjectivesConfig, PretrainStep
from truepair.methods.towers import TowerOptimizerConfig
from truepair.models.fusion.albef import AlbefModel
from truepair.objectives.momentum import FeatureQueue
from truepair.relations.zones import Zones

DEVICE = torch.device("meta")  # the name of the made-up device: no other is free of drivers and known to autograd

READ_OUT = {"_local_scalar_dense", "is_nonzero", "equal", "multinomial"}
SIZED_BY_DATA = {"nonzero", "masked_select", "_unique", "_unique2", "unique_dim", "unique_consecutive", "bincount"}
SORTED_FIRST = {"isin"}  # finds the distinct elements, so its inner results are sized by the data

Wait = tuple[str, str]
"""An operation, and the line that asks for it."""


class OnDevice(Tensor):
    """A tensor of the made-up device; ``held`` has its values, on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "OnDevice":
        """A shell that says it is elsewhere."""
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.size(), held.stride(), held.storage_offset(), dtype=held.dtype, device=DEVICE
        )
        made.held = held
        return made  # type: ignore[no-any-return]

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
        self.waits[what, _line()] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation where its tensors are."""
        name = func.__name__.split(".")[0]
        if name == "_fused_sdp_choice":
            return 0  # by plain products: that of the CPU knows no other device
        flat, spec = tree_flatten((args, dict(kwargs or {})))
        tensors = [value for value in flat if isinstance(value, Tensor)]
        here = any(isinstance(tensor, OnDevice) for tensor in tensors)
        target = (kwargs or {}).get("device")
        there = here if target is None else torch.device(target) == DEVICE
        self._count(name, args, kwargs or {}, tensors, here, there)
        shells = {id(value.held): value for value in flat if isinstance(value, OnDevice)}
        plain = [torch.device("cpu") if isinstance(value, torch.device) else _held(value) for value in flat]
        out, shape = tree_flatten(func(*(unpacked := tree_unflatten(plain, spec))[0], **unpacked[1]))
        if name in ("copy_", "_copy_from"):
            there = isinstance(args[0], OnDevice)
        return tree_unflatten([_shelled(value, shells) if there else value for value in out], shape)

    def _count(
        self, name: str, args: Any, kwargs: dict[str, Any], tensors: list[Tensor], here: bool, there: bool
    ) -> None:
        if name in ("_to_copy", "copy_"):
            across = here != there if name == "_to_copy" else len({isinstance(t, OnDevice) for t in tensors}) > 1
            lone = tensors[-1].dim() == 0 and name == "copy_" and not isinstance(tensors[-1], OnDevice)
            if across and not kwargs.get("non_blocking") and not (len(args) > 2 and args[2]) and not lone:
                self.note("copy to the host" if isinstance(tensors[-1], OnDevice) else "copy to the device")
            return
        if not here:
            return
        if name in READ_OUT | SIZED_BY_DATA | SORTED_FIRST:
            self.note(name)
        elif name == "repeat_interleave" and kwargs.get("output_size") is None:
            self.note(name)
        elif name in ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"):
            self._count_indexing(name, args)
        elif any(tensor.dim() and not isinstance(tensor, OnDevice) for tensor in tensors):
            raise RuntimeError(f"{name} meets tensors of host and device, which a GPU would refuse")

    def _count_indexing(self, name: str, args: Any) -> None:
        into, indices = args[0], [index for index in args[1] if index is not None]
        if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
            filled = name != "index" and args[2].numel() == 1 and len(indices) == 1
            if not filled:  # by masked_fill
                self.note(f"{name} by a mask")
        elif any(not isinstance(index, OnDevice) for index in indices) and isinstance(into, OnDevice):
            self.note(f"{name} by an index of the host")
        if len(args) > 2 and isinstance(into, OnDevice) and not isinstance(args[2], OnDevice):
            self.note(f"{name} of a value of the host")


def _held(value: Any) -> Any:
    return value.held if isinstance(value, OnDevice) else value


def _shelled(value: Any, known: dict[int, OnDevice]) -> Any:
    if not isinstance(value, Tensor) or isinstance(value, OnDevice):
        return value
    return known.get(id(value)) or OnDevice(value) if id(value) not in known else known[id(value)]


def _line() -> str:
    """The innermost line of truepair that is running, or of the backward pass."""
    mark = f"{os.sep}truepair{os.sep}"
    frames = [frame for frame in traceback.extract_stack() if mark in frame.filename]
    own = [frame for frame in frames if "benchmarks" not in frame.filename]
    if not own:
        return "outside of truepair"
    last = own[-1]
    return f"{last.filename.rpartition(mark)[2]}:{last.lineno} {(last.line or '').strip()}"


@contextmanager
def made_up_device() -> Iterator[Counter[Wait]]:
    """Let the made-up device be one that torch knows; gives the waits on it."""
    mode = MadeUpDevice()
    on_host = {name: getattr(torch, name) for name in ("tensor", "as_tensor", "from_numpy", "Generator", "autocast")}
    listed, numbered, new = Tensor.tolist, Tensor.numpy, Tensor.new_tensor

    def moved(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Values of the host become a tensor there, which is then copied."""

        def made(data: Any, *args: Any, device: Any = None, **kwargs: Any) -> Tensor:
            if isinstance(data, OnDevice):
                return data.to(device=device or DEVICE, dtype=kwargs.get("dtype") or data.dtype)
            tensor = make(data, *args, **kwargs)
            return tensor if device is None or torch.device(device) != DEVICE else tensor.to(DEVICE)

        return made

    def new_tensor(like: Tensor, data: Any, *, dtype: Any = None, device: Any = None) -> Tensor:
        made = on_host["tensor"](data, dtype=dtype or like.dtype)
        return made.to(like.device if device is None else device)

    def read(method: Callable[..., Any]) -> Callable[..., Any]:
        def of(tensor: Tensor, *args: Any) -> Any:
            if isinstance(tensor, OnDevice):
                mode.note(method.__name__)
                return method(tensor.held.detach(), *args)
            return method(tensor, *args)

        return of

    def generator(device: Any = "cpu") -> torch.Generator:
        return on_host["Generator"]("cpu")  # type: ignore[no-any-return]

    def autocast(kind: str, *args: Any, **kwargs: Any) -> AbstractContextManager[Any]:
        return nullcontext() if kind == DEVICE.type else on_host["autocast"](kind, *args, **kwargs)

    with ExitStack() as patches:
        for name in ("tensor", "as_tensor"):
            patches.enter_context(patch.object(torch, name, moved(on_host[name])))
        patches.enter_context(patch.object(torch, "Generator", generator))
        patches.enter_context(patch.object(torch, "autocast", autocast))
        patches.enter_context(patch.object(Tensor, "new_tensor", new_tensor))
        patches.enter_context(patch.object(Tensor, "tolist", read(listed)))
        patches.enter_context(patch.object(Tensor, "numpy", read(numbered)))
        patches.enter_context(patch.object(adam, "_device_dtype_check_for_fused", lambda *_, **__: None))
        patches.enter_context(patch.object(torch, "inference_mode", torch.no_grad))
        patches.enter_context(mode)
        yield mode.waits


@contextmanager
def gpu() -> Iterator[Counter[Wait]]:
    """Let torch report each wait of a GPU; gives the waits."""
    waits: Counter[Wait] = Counter()

    def note(message: Any, *_: Any, **__: Any) -> None:
        if "synchronizing" in str(message):
            waits["wait", _line()] += 1

    with warnings.catch_warnings(), patch.object(warnings, "showwarning", note):
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield waits
        finally:
            torch.cuda.set_sync_debug_mode("default")


class OneProcess(SimpleNamespace):
    """What an optimizer step asks of accelerate, of one process in full precision."""

    num_processes, scaler = 1, None

    def __init__(self, device: torch.device) -> None:
        super().__init__(device=device)

    def unwrap_model(self, model: Any) -> Any:
        """The model itself."""
        return model

    def autocast(self) -> AbstractContextManager[None]:
        """No lower precision."""
        return nullcontext()

    def clip_grad_norm_(self, parameters: Any, most: float) -> Tensor:
        """The norm of the gradients, clipped."""
        return torch.nn.utils.clip_grad_norm_(parameters, most)

    def backward(self, loss: Tensor) -> None:
        """Differentiate."""
        loss.backward()


def some_alike(batch: PairBatch) -> PairBatch:
    """The batch, with a tenth of its pairs of the image, and a tenth of the caption, of another."""
    ids, tenth = batch.image_id, max(len(batch) // 10, 1)
    images, captions = ids.clone(), ids.clone()
    images[:tenth], captions[tenth : 2 * tenth] = ids[-tenth:], ids[-2 * tenth : -tenth]
    return replace(batch, image_id=images, caption_key=captions)


def plain_step(model: AlbefModel, **parts: Any) -> PretrainStep:
    """A step of the recipe `paper` and some further parts."""
    masker = half_masked(model)
    objectives = parts.pop("objectives", None) or ObjectivesConfig(mlm=MlmConfig(masking=masker.config))
    rules = RuleSet(RelationsConfig(ledger=False))
    return PretrainStep(model, BatchEncoder(model), objectives, rules, masker=masker, seed=SEED, **parts).train()


def albef(model: AlbefModel) -> PretrainStep:
    """The recipe `albef`: a momentum model, a queue, distillation, drawn negatives."""
    objectives = ObjectivesConfig(itm=ItmConfig(sampling="multinomial"), mlm=MlmConfig())
    momentum = MomentumModel(BatchEncoder(model), MomentumConfig(queue_size=256), 10_000)
    return plain_step(model, objectives=objectives, momentum=momentum)


def mafa(model: AlbefModel) -> PretrainStep:
    """The recipe `mafa`: a judge's verdicts, of which it has none yet; some pairs are converted."""
    return mafa_step(model, random_model("tiny", 2, dropout=0.0), {"zones": Zones(0.45, 0.5)})


def srcl(model: AlbefModel) -> PretrainStep:
    """The recipe `srcl`: a seed model weighs the negatives."""
    seed = FrozenOnBatch(BatchEncoder(random_model("tiny", 2, dropout=0.0)))
    return plain_step(model, srcl=SrclWeights(SrclConfig(seed_model="seed"), seed))


def itc(model: AlbefModel) -> PretrainStep:
    """ITC alone, as the recipe `clip`."""
    return plain_step(
        model,
        objectives=ObjectivesConfig(itc=ItcConfig(), itm=ItmConfig(weight=0.0), mlm=MlmConfig(weight=0.0)),
    )


STEPS: dict[str, Callable[[AlbefModel], PretrainStep]] = {"albef": albef, "mafa": mafa, "srcl": srcl, "itc": itc}


def move(modules: Sequence[nn.Module], device: torch.device) -> None:
    """Move weights to a device; those that several modules share stay shared, also on the made-up device."""
    moved: dict[int, nn.Parameter] = {}
    for module in (child for parent in modules for child in parent.modules()):
        for name, weight in module._parameters.items():
            if weight is not None:
                known = moved.setdefault(id(weight), nn.Parameter(weight.detach().to(device), weight.requires_grad))
                moved[id(known)] = module._parameters[name] = known
        if isinstance(module, FeatureQueue):  # keeps some of its state on the host
            module.to(device)
            continue
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else buffer.to(device)


def waits(name: str, pairs: int, *, logged: bool = False) -> Counter[Wait]:
    """The waits of one optimizer step, the second of its kind.

    Args:
        name: One of ``STEPS``.
        pairs: Of the batch.
        logged: Whether figures of the step go to the log.
    """
    model = random_model("tiny", 1, dropout=0.0)
    step, batch = STEPS[name](model), some_alike(random_pairs(model, captions_of(pairs)))
    seeded = getattr(step.srcl, "seed", None)
    judge = None if step.ecm is None else step.ecm.own_judge.judge  # type: ignore[attr-defined]
    beside = [part for part in (getattr(getattr(seeded, "encoder", None), "model", None), getattr(judge, "model", None)) if part]
    real = torch.cuda.is_available()
    device = torch.device("cuda") if real else DEVICE
    with gpu() if real else made_up_device() as counted:
        move([step, *beside], device)
        batch = batch.to(device)
        config = TowerOptimizerConfig(clip_norm=1.0)
        update = OptimizerStep(step, build_optimizer(step, config), OneProcess(device), config, None)
        for number in range(2):
            counted.clear()
            update.take([batch], INFO._replace(step=INFO.step + number, logged=logged), dict)
        return Counter(counted)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", nargs="+", choices=list(STEPS), default=list(STEPS), help="which steps")
    parser.add_argument("--sizes", nargs="+", type=int, default=[16, 64], help="pairs of a batch")
    parser.add_argument("--logged", action="store_true", help="steps whose figures go to the log")
    arguments = parser.parse_args()
    for name in arguments.steps:
        for pairs in arguments.sizes:
            found = waits(name, pairs, logged=arguments.logged)
            for (what, line), count in found.most_common():
                print(f"  {count:3} {what:28} {line}")
            row = {"step": name, "pairs": pairs, "logged": arguments.logged, "waits": found.total()}
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    sys.exit(main())
