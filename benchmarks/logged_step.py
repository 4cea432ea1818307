"""What the figures of a logged step cost: the same step of ITC with them and without.

    python benchmarks/logged_step.py                    # InfoNCE and SRCL, 2048 pairs, one thread
    python benchmarks/logged_step.py --truth            # hidden matches are known, too, as of data with groups

Both encoders are frozen and their states are in memory, so that the step is little else than the loss: any other step
pays the same for its figures, and more for the rest. Logged and plain steps take turns in one process, forward and
backward, in CPU time; one JSON line a loss, with the median and range of their ratio.

When this was written, at 2,048 pairs on one of two busy cores, before and after figures that are means over at most 256
anchors of the batch (the range of single ratios is wide there, 0.7 to 1.5):

  figures                       before   after
  InfoNCE                         1.74    1.00 to 1.05
  SRCL                            2.85    1.00 to 1.03
  InfoNCE, matches known          4.46    1.12
  SRCL, matches known             4.58    1.08
"""

import argparse
import json
import statistics
import time
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from truepair.data.pairs import PairBatch
from truepair.engine.loop.step import StepInfo
from truepair.evaluation.truth import Truth
from truepair.methods.chance import ChanceWatch
from truepair.methods.encode import BatchEncoder
from truepair.methods.rules import RelationsConfig, RuleSet
from truepair.methods.srcl import SrclConfig, SrclWeights
from truepair.methods.step import ItcConfig, ItmConfig, MlmConfig, ObjectivesConfig, PretrainStep
from truepair.models.fusion.albef import AlbefModel
from truepair.models.fusion.config import AlbefConfig

TOKENS = 8
ROWS_OF_A_GROUP = 8


def pairs(count: int) -> PairBatch:
    """Different pairs without pixels."""
    rows = torch.arange(count)
    return PairBatch(
        pixel_values=None,
        input_ids=torch.ones(count, TOKENS, dtype=torch.int64),
        attention_mask=torch.ones(count, TOKENS, dtype=torch.int64),
        index=rows,
        source_index=rows,
        image_id=rows,
        caption_id=rows,
        caption_key=rows,
        captions=[str(row) for row in rows.tolist()],
        reasons=[""] * count,
    )


class States:
    """States of frozen encoders, one token a picture [N, 1, W] and some a caption [N, L, D]."""

    def __init__(self, count: int, model: AlbefModel) -> None:
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(count, 1, model.image_encoder.width, generator=generator)
        self.texts = torch.randn(count, TOKENS, model.config.hidden_size, generator=generator)

    def visit(self, rows: Tensor, epoch: int, seed: int) -> Tensor:
        """Image states of some rows [B, 1, W]."""
        return self.images[rows]

    def gather(self, captions: list[str]) -> tuple[Tensor, None]:
        """Text states of all rows [N, L, D]."""
        return self.texts, None


def step_of(count: int, srcl: SrclConfig | None, *, truth: bool) -> PretrainStep:
    torch.manual_seed(0)
    model = AlbefModel(AlbefConfig.of_size("tiny", image_pooling="mean", text_pooling="mean"))
    model.image_encoder.requires_grad_(False)
    model.text_encoder.requires_grad_(False)
    states = cast(Any, States(count, model))
    itc_alone = ObjectivesConfig(itc=ItcConfig(), itm=ItmConfig(weight=0.0), mlm=MlmConfig(weight=0.0))
    return PretrainStep(
        model,
        BatchEncoder(model, image_cache=states, caption_cache=states),
        itc_alone,
        RuleSet(RelationsConfig()),
        masker=None,
        srcl=None if srcl is None else SrclWeights(srcl, None),
        truth=_truth(count) if truth else None,
        chance=ChanceWatch(10**9, lambda _: 0),
    ).train()


def _truth(count: int) -> Truth:
    """Every caption of a group is true of all its pictures."""
    rows, captions = np.divmod(np.arange(count * ROWS_OF_A_GROUP), ROWS_OF_A_GROUP)
    return Truth.of_matches(rows, rows // ROWS_OF_A_GROUP * ROWS_OF_A_GROUP + captions)


def seconds(step: PretrainStep, batch: PairBatch, *, logged: bool) -> float:
    """CPU time of a step and its backward pass."""
    began = time.process_time()
    step(batch, StepInfo(0, 10, 20, 10, logged)).losses["loss"].backward()
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pairs", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--truth", action="store_true", help="matches of the batch are known")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    batch = pairs(arguments.pairs)
    for name, srcl in {"InfoNCE": None, "SRCL": SrclConfig(alpha=0.0)}.items():
        step = step_of(arguments.pairs, srcl, truth=arguments.truth)
        turns = [
            (seconds(step, batch, logged=False), seconds(step, batch, logged=True)) for _ in range(arguments.rounds + 1)
        ][1:]
        ratios = sorted(logged / plain for plain, logged in turns)
        plain = statistics.median(plain for plain, _ in turns)
        told = {"ratio": round(statistics.median(ratios), 3), "range": [round(ratios[0], 3), round(ratios[-1], 3)]}
        print(json.dumps({"loss": name, "pairs": arguments.pairs, "plain_ms": round(1e3 * plain, 1), **told}))


if __name__ == "__main__":
    main()
