"""Where the time of a CLIP step goes, part by part, in our step and with open_clip's model, loss and optimizer.

    python benchmarks/clip_parts.py                     # the small CLIP of dual_encoder.py, batch 32
    python benchmarks/clip_parts.py --size vit-s-16 --batch 4 --padded

Needs open_clip. Both have the same weights, and one batch in memory, so that nothing is read. Operations of matrix
products and convolutions are counted first, and must be equal: a ratio of seconds is then one per operation. Attention
is not among them; one kernel of torch's computes it on both sides. The optimizers are those of both programs.

The two take turns in one process, CPU seconds of one thread. One JSON line: medians of the ratios open_clip / ours. And
one for the projections of attention: three products, as in transformers, against a packed one, as in open_clip.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from clip_programs import (
    BETAS,
    CLIP_NORM,
    DECAY,
    LEARNING_RATE,
    SIZES,
    Setting,
    Size,
    open_clip_model,
    quiet,
    write_model,
)
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from truepair.engine.loop.optimizer import set_learning_rate

PARTS = ("forward", "backward", "clipping", "optimizer", "gradients emptied", "all")


def captions(size: Size, count: int, *, padded: bool) -> tuple[Tensor, Tensor]:
    """Ids and mask, both [B, L]: of full length, or of a third of it and more."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(4, 16, (count, size.context), generator=draw)
    lengths = torch.randint(size.context // 3, size.context + 1, (count, 1), generator=draw)  # [B, 1]
    if not padded:
        lengths.fill_(size.context)
    lengths[0] = size.context
    places = torch.arange(size.context)
    ids[:, 0] = 2
    ids.masked_fill_(places == lengths - 1, 3).masked_fill_(places >= lengths, 0)
    return ids, (places < lengths).long()


def sides(
    setting: Setting, *, padded: bool
) -> dict[str, tuple[Callable[[], Tensor], nn.Module, torch.optim.Optimizer]]:
    """Loss, model and optimizer of both."""
    from open_clip.loss import ClipLoss

    from truepair.engine.loop.optimizer import build_optimizer
    from truepair.methods.encode import BatchEncoder
    from truepair.methods.rules import RelationsConfig, RuleSet
    from truepair.methods.step import ItmConfig, MlmConfig, ObjectivesConfig, PretrainStep
    from truepair.methods.towers import TowerOptimizerConfig
    from truepair.models.open import open_model
    from truepair.objectives import contrastive_loss

    pixels = torch.randn(setting.batch, 3, setting.size.pixels, setting.size.pixels)
    ids, mask = captions(setting.size, setting.batch, padded=padded)
    own, theirs = open_model(setting.folder / "model").model.train(), open_clip_model(setting).train()
    alone = ObjectivesConfig(itm=ItmConfig(weight=0.0), mlm=MlmConfig(weight=0.0))
    step = PretrainStep(own, BatchEncoder(own), alone, RuleSet(RelationsConfig(ledger=False)))
    config = TowerOptimizerConfig(learning_rate=LEARNING_RATE, weight_decay=DECAY, betas=BETAS)
    optimizer = build_optimizer(step, config)
    set_learning_rate(optimizer, 1.0)
    groups = [
        {"params": [weight for weight in theirs.parameters() if (weight.ndim >= 2) == decayed], "weight_decay": share}
        for decayed, share in ((True, DECAY), (False, 0.0))
    ]

    def ours() -> Tensor:
        """Our loss, a scalar."""
        texts, images = own.encode_texts(ids, mask).features, own.encode_images(pixels).features
        return contrastive_loss(images, texts, own.temperature).loss

    def other() -> Tensor:
        """open_clip's, a scalar."""
        loss: Tensor = ClipLoss()(**theirs(pixels, ids))
        return loss

    return {
        "ours": (ours, own, optimizer),
        "open_clip": (other, theirs, torch.optim.AdamW(groups, LEARNING_RATE, BETAS)),
    }


def seconds(loss: Callable[[], Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> list[float]:
    """CPU seconds of the parts of a step, and of all."""
    marks = [time.process_time()]

    def mark() -> None:
        marks.append(time.process_time())

    value = loss()
    mark()
    value.backward()
    mark()
    nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
    mark()
    optimizer.step()
    mark()
    optimizer.zero_grad()
    mark()
    return [*(end - start for start, end in pairwise(marks)), marks[-1] - marks[0]]


def projections(size: Size, batch: int) -> dict[str, Callable[[], None]]:
    """Queries, keys and values of one layer of the image tower, forward and backward, as both libraries have them."""
    width, places = size.image[0], (size.pixels // size.patch) ** 2 + 1
    states = torch.randn(batch, places, width, requires_grad=True)
    weights = [torch.randn(width, width, requires_grad=True) for _ in range(3)]
    biases = [torch.randn(width, requires_grad=True) for _ in range(3)]
    packed, packed_bias = (torch.cat(parts).detach().requires_grad_() for parts in (weights, biases))
    pull = torch.randn(batch, places, width)

    def three() -> None:
        """Three products."""
        parts = [F.linear(states, weight, bias) for weight, bias in zip(weights, biases, strict=True)]
        torch.autograd.backward(parts, [pull] * 3)

    def one() -> None:
        """One product."""
        F.linear(states, packed, packed_bias).backward(torch.cat([pull] * 3, dim=-1))

    return {"three": three, "packed": one}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", choices=SIZES, default="small", help="of the model")
    parser.add_argument("--batch", type=int, default=32, help="pairs of a batch")
    parser.add_argument("--padded", action="store_true", help="captions of a third of the context and more")
    parser.add_argument("--rounds", type=int, default=12, help="counted steps of each")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    size = SIZES[arguments.size]
    with tempfile.TemporaryDirectory() as folder, quiet():
        setting = Setting(Path(folder), size, arguments.batch)
        write_model(setting.folder / "model", size)
        both = sides(setting, padded=arguments.padded)
    work = {}
    for name, (loss, model, _) in both.items():
        with FlopCounterMode(display=False) as counter:
            loss().backward()
        model.zero_grad()
        work[name] = counter.get_total_flops() / 1e9 / arguments.batch
    if abs(work["ours"] / work["open_clip"] - 1) > 1e-3:
        raise SystemExit(f"the sides do not compute the same: {work} GFLOP per pair")
    ratios = []
    for number in range(arguments.rounds + 2):
        taken = {name: seconds(*both[name]) for name in list(both)[:: 1 if number % 2 else -1]}
        if number >= 2:  # the optimizers' averages are made in the first
            ratios.append([theirs / own for own, theirs in zip(taken["ours"], taken["open_clip"], strict=True)])
    medians = {
        part: round(statistics.median(row), 3) for part, row in zip(PARTS, zip(*ratios, strict=True), strict=True)
    }
    facts = {"size": arguments.size, "batch": arguments.batch, "padded": arguments.padded}
    print(json.dumps({**facts, "gflop_per_pair": round(work["ours"], 3), "open_clip / ours": medians}))
    ways, taken = projections(size, arguments.batch), []
    for number in range(3 * arguments.rounds):
        times = {}
        for name in list(ways)[:: 1 if number % 2 else -1]:
            started = time.process_time()
            ways[name]()
            times[name] = time.process_time() - started
        taken.append(times["three"] / times["packed"])
    print(json.dumps({"projections: three / packed": round(statistics.median(taken[3:]), 3)}))


if __name__ == "__main__":
    main()
