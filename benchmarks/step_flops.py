"""Floating-point operations of one MAFA step per pair: ITC + ITM + MLM, forward and backward, judge included.

    python benchmarks/step_flops.py --size base         # ViT-B/16 at 256 px, BERT-base as 6 + 6 layers; 6 GB

The real `PretrainStep` with random weights, 4 pairs, captions of 25 tokens, half of them masked. A multiplication and
an addition are two operations; only matrix products and convolutions count, as torch's FlopCounterMode counts them. One
JSON line for each of five cases, in GFLOP per pair, with the parts of the model they are spent in:

    cold               the judge knows no pair, and no pair is converted
    cold, kept         the same, and the judge has kept the states of the images (`ecm.judge.cache_images`)
    warm               the judge remembers all pairs, and no pair is converted
    converted          the judge knows no pair, and takes all 2B candidates for matches: 2B further rows of MLM
    converted, warm    the same, and the judge remembers all pairs

The official program needs 291.3 GFLOP where no pair is converted, and 348.7 where all are.
"""

import argparse
import bisect
import functools
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mafa_step import ALL_CONVERTED, INFO, NONE_CONVERTED, kept_states, mafa_step, random_model, random_pairs
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from truepair.data.pairs import PairBatch
from truepair.methods.step import PretrainStep
from truepair.models.fusion.albef import AlbefModel

OTHER = "other"
OFFICIAL = {"cold": 291.3, "cold, kept": 291.3, "warm": 291.3, "converted": 348.7, "converted, warm": 348.7}


class PartCounter(TorchDispatchMode):
    """Operations by part of the model: of the part that runs, or in the backward pass of the part that ran.

    Autograd numbers the nodes of the graph as the forward pass makes them; so a node's number tells its part.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.part = OTHER
        self.begins: list[tuple[int, str]] = [(0, OTHER)]  # number of the first node, part

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.counts[self._part_of_now()] += formula(*args, **(kwargs or {}), out_val=out)
        return out

    def _part_of_now(self) -> str:
        node = torch._C._current_autograd_node()
        if node is None:
            return self.part
        return self.begins[bisect.bisect_right(self.begins, node._sequence_nr(), key=lambda begin: begin[0]) - 1][1]

    @contextmanager
    def within(self, part: str) -> Iterator[None]:
        """What runs inside belongs to a part; parts inside the judge are the judge's."""
        outer = self.part
        self._enter(outer if outer == "judge" else part)
        yield
        self._enter(outer)

    def _enter(self, part: str) -> None:
        self.part = part
        self.begins.append((torch._C._autograd._get_sequence_nr(), part))

    def _counted(self, method: Callable[..., Any], part: str) -> Callable[..., Any]:
        @functools.wraps(method)
        def counted(*args: Any, **kwargs: Any) -> Any:
            """The method, counted as a part's."""
            with self.within(part):
                return method(*args, **kwargs)

        return counted

    @contextmanager
    def watching(self, step: PretrainStep) -> Iterator[None]:
        """Count the parts of a student and its judge."""
        model, ecm = step.model, step.ecm
        assert isinstance(model, AlbefModel) and ecm is not None and ecm.memory is not None
        methods = (
            (model.image_encoder, "forward", "image encoder"),
            (model.text_encoder, "forward", "text encoder"),
            (model.fusion_encoder, "image_keys_values", "image keys and values"),
            (model.fusion_encoder, "forward", "fusion"),
            (model.mlm_head, "forward", "MLM head"),
            (ecm.memory.judge, "score", "judge"),
        )
        for owner, name, part in methods:
            setattr(owner, name, self._counted(getattr(owner, name), part))
        yield
        for owner, name, _ in methods:
            delattr(owner, name)  # the method of the class is behind it


def remember_all(step: PretrainStep, batch: PairBatch) -> None:
    """Have the judge judge every pair of a batch, so that a step need not ask."""
    assert step.ecm is not None
    everyone = torch.ones(len(batch), len(batch), dtype=torch.bool)
    step.ecm.own_judge.score(batch, *everyone.nonzero(as_tuple=True))


def count(step: PretrainStep, batch: PairBatch) -> dict[str, float]:
    """GFLOP per pair of each part, and of all."""
    parts, total = PartCounter(), FlopCounterMode(display=False)
    # The fused kernel of the CPU is not in torch's list; matrix products are.
    with parts.watching(step), parts, total, sdpa_kernel(SDPBackend.MATH):
        step(batch, INFO).losses["loss"].backward()
    assert parts.counts.total() == total.get_total_flops(), "an operation belongs to no part"
    scale = len(batch) * 1e9
    return {"total": total.get_total_flops() / scale, **{part: n / scale for part, n in parts.counts.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", default="base", help="named model size")
    parser.add_argument("--batch", type=int, default=4, help="pairs")
    parser.add_argument("--tokens", type=int, default=25, help="tokens of a caption")
    arguments = parser.parse_args()
    student, judge = random_model(arguments.size, 1), random_model(arguments.size, 2)
    batch = random_pairs(torch.full((arguments.batch,), arguments.tokens), side=student.image_encoder.image_size)
    with tempfile.TemporaryDirectory() as folder:
        kept = kept_states(judge, batch, Path(folder))
    for case, official in OFFICIAL.items():
        rules = ALL_CONVERTED if "converted" in case else NONE_CONVERTED
        step = mafa_step(student, judge, rules, kept=kept if "kept" in case else None)
        if "warm" in case:
            remember_all(step, batch)
        student.zero_grad()
        figures = {name: round(value, 2) for name, value in count(step, batch).items()}
        compared = {"official": official} if arguments.size == "base" else {}
        print(json.dumps({"case": case, **figures, **compared}), flush=True)


if __name__ == "__main__":
    main()
