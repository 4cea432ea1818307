"""How often a step makes a GPU wait for its host: each wait lets the GPU run dry, however fast the rest is.

    python benchmarks/waits.py                          # ALBEF, MAFA, SRCL, ITC alone and CLIP, 16 and 64 pairs
    python benchmarks/waits.py --steps albef --sizes 16 --logged

A whole optimizer step is counted: forward, backward, clipping, a look at loss and gradient, update. A tenth of the
pairs share their image, and a tenth their caption, with another, so that rules find something. Each wait is printed
with the line of truepair that asks for it, then one JSON line a step. A step that is good to a GPU waits as often at
any size.

With a GPU the waits are those that `torch.cuda.set_sync_debug_mode` reports; without one they are counted on a made-up
device (`made_up_device.py`).
"""

import argparse
import json
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from made_up_device import DEVICE, Wait, line, made_up_device, move
from mafa_step import INFO, SEED, half_masked, mafa_step, random_model, random_pairs
from step_time import captions_of
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from truepair.data.pairs import PairBatch
from truepair.engine.loop.optimizer import build_optimizer
from truepair.engine.loop.update import OptimizerStep
from truepair.judges.itm import AlbefJudge
from truepair.judges.memory import VerdictMemory
from truepair.methods.encode import BatchEncoder
from truepair.methods.frozen import FrozenOnBatch
from truepair.methods.momentum import MomentumConfig, MomentumModel
from truepair.methods.rules import RelationsConfig, RuleSet
from truepair.methods.srcl import SrclConfig, SrclWeights
from truepair.methods.step import ItcConfig, ItmConfig, MlmConfig, ObjectivesConfig, PretrainStep
from truepair.methods.towers import TowerOptimizerConfig
from truepair.models import HubDualEncoder
from truepair.models.fusion.albef import AlbefModel
from truepair.relations.zones import Zones


@contextmanager
def gpu() -> Iterator[Counter[Wait]]:
    """Let torch report each wait of a GPU; gives the waits."""
    waits: Counter[Wait] = Counter()

    def note(message: Any, *_: Any, **__: Any) -> None:
        if "synchronizing" in str(message):
            waits["wait", line()] += 1

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
    """The recipe `mafa`: a judge reads the hardest pairs, of which it remembers none; some are converted."""
    return mafa_step(model, random_model("tiny", 2, dropout=0.0), {"zones": Zones(0.45, 0.5)})


def srcl(model: AlbefModel) -> PretrainStep:
    """The recipe `srcl`: a seed model weighs the negatives."""
    seed = FrozenOnBatch(BatchEncoder(random_model("tiny", 2, dropout=0.0)))
    return plain_step(model, srcl=SrclWeights(SrclConfig(seed_model="seed"), seed))


ITC_ALONE = ObjectivesConfig(itc=ItcConfig(), itm=ItmConfig(weight=0.0), mlm=MlmConfig(weight=0.0))


def itc(model: AlbefModel) -> PretrainStep:
    """ITC alone, of ALBEF's towers."""
    return plain_step(model, objectives=ITC_ALONE)


def clip(model: AlbefModel) -> PretrainStep:
    """The recipe `clip` on a CLIP of transformers that reads the pixels and words of the other model."""
    widths = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**widths, "vocab_size": model.config.vocab_size}
    vision = {**widths, "image_size": model.image_encoder.image_size, "patch_size": 16}
    dual = HubDualEncoder(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)))
    return PretrainStep(dual, BatchEncoder(dual), ITC_ALONE, RuleSet(RelationsConfig(ledger=False)), seed=SEED).train()


STEPS: dict[str, Callable[[AlbefModel], PretrainStep]] = {
    "albef": albef,
    "mafa": mafa,
    "srcl": srcl,
    "itc": itc,
    "clip": clip,
}


def beside(step: PretrainStep) -> list[nn.Module]:
    """The models that a step asks, which are no part of it."""
    found: list[nn.Module] = []
    if step.srcl is not None and isinstance(step.srcl.seed, FrozenOnBatch):
        found.append(step.srcl.seed.encoder.model)
    memory = None if step.ecm is None else step.ecm.memory
    if memory is not None and isinstance(memory.judge, AlbefJudge):
        found.append(memory.judge.model)
    return found


def waits(name: str, pairs: int, *, logged: bool = False) -> Counter[Wait]:
    """The waits of one optimizer step, the second of its kind.

    Args:
        name: One of ``STEPS``.
        pairs: Of the batch.
        logged: Whether figures of the step go to the log.
    """
    model = random_model("tiny", 1, dropout=0.0)
    step, batch = STEPS[name](model), some_alike(random_pairs(captions_of(pairs), side=model.image_encoder.image_size))
    real = torch.cuda.is_available()
    device = torch.device("cuda") if real else DEVICE
    with gpu() if real else made_up_device() as counted:
        move([step, *beside(step)], device)
        batch = batch.to(device)
        config = TowerOptimizerConfig(clip_norm=1.0)
        update = OptimizerStep(step, build_optimizer(step, config), OneProcess(device), config, None)
        for number in range(2):
            if step.ecm is not None and step.ecm.memory is not None:
                step.ecm.memory.memory = VerdictMemory(step.ecm.memory.fingerprint)
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
            for (what, asked), count in found.most_common():
                print(f"  {count:3} {what:28} {asked}")
            row = {"step": name, "pairs": pairs, "logged": arguments.logged, "waits": found.total()}
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
