"""Time and memory of a MAFA step: the library's `PretrainStep` against a textbook implementation of the same losses.

    python benchmarks/step_time.py                      # size "small", 16 pairs, one thread
    python benchmarks/step_time.py --against plain --judge cold    # nothing is remembered

The textbook step has the same blocks and weights. It repeats the states of an image for each row that reads it,
computes all tokens of all rows through all layers, padding included, and vocabulary logits at every place, keeps all
activations, and asks the judge (con-D) about its 2B candidates in each step. The library's step shares all that, and
from the second turn on the judge has judged the pairs before (warm memory); with `--judge cold` it forgets them before
each turn, with `--judge kept` too, but has kept the states of the images (`ecm.judge.cache_images`). Both use fused
attention; the textbook of `--against plain` keeps its attention weights, as the official program does. Nothing is
converted, dropout is off, caption lengths are those of COCO (8 to 24 tokens, mostly near 12). Losses must be equal to
1e-4.

The two take turns in one process, forward and backward, timed in seconds of CPU time; one JSON line a round, one for
the median and range of the ratio. Each trains twice in a process of its own too, for the peak of its memory. Part of
that is the same on both sides: the imports, the weights of student and judge, and the gradients. The rest is what the
step itself needs; both ratios are printed. The peak is that of the resident set, so it has the holes that the memory
allocator leaves; the library's loop gives them back before the backward pass, and so does its side here.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from unittest.mock import patch

import torch
import torch.nn.functional as F
from mafa_step import INFO, NONE_CONVERTED, SEED, half_masked, kept_states, mafa_step, random_model, random_pairs
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from truepair.data.pairs import PairBatch
from truepair.engine.loop.update import release_free_memory
from truepair.judges.memory import VerdictMemory
from truepair.models.encoders import recomputing
from truepair.models.encoders.recomputing import RecomputingLayer
from truepair.models.fusion import text_encoder as bert_layers
from truepair.models.fusion.albef import AlbefModel
from truepair.models.fusion.text_encoder import visible_keys
from truepair.objectives.mlm import IGNORED
from truepair.randomness import sample_keys

Losses = dict[str, Tensor]
SIDES = ("textbook", "plain", "truepair")


def text_states(model: AlbefModel, ids: Tensor, mask: Tensor) -> Tensor:
    """States of all tokens, padding included [R, L, D]."""
    states: Tensor = model.text_encoder.embeddings(ids)
    for layer in model.text_encoder.layers:
        states = layer(states, visible_keys(mask))
    return states


def fuse(model: AlbefModel, text: Tensor, mask: Tensor, images: Tensor) -> Tensor:
    """Texts [R, L, D] with the image states of each row [R, N, W]: fused states of all tokens [R, L, D]."""
    for layer in model.fusion_encoder.layers:
        text = layer(text, visible_keys(mask), *layer.image_keys_values(images), None)
    return text


@torch.no_grad()
def ask(judge: AlbefModel, batch: PairBatch, images: Tensor, texts: Tensor) -> Tensor:
    """The judge's match probability of some pairs [P]."""
    image_states = judge.image_states(batch.pixel_values)
    states = text_states(judge, batch.input_ids, batch.attention_mask)
    fused = fuse(judge, states[texts], batch.attention_mask[texts], image_states[images])
    return judge.match(fused).softmax(dim=1)[:, 1]


def textbook_step(model: AlbefModel, judge: AlbefModel, batch: PairBatch) -> Losses:
    """ITC with smoothing of 0.5 and constant candidates, ITM with the hardest negatives, MLM of half the tokens."""
    mask, device = batch.attention_mask, batch.attention_mask.device
    own = torch.arange(len(batch), device=device)
    image = model.encode_images(batch.pixel_values)
    states = text_states(model, batch.input_ids, mask)
    feature = model.project_text(states, mask)
    i2t = image.features @ feature.detach().T / model.temperature  # [B, B]
    t2i = feature @ image.features.detach().T / model.temperature
    targets = 0.5 * torch.eye(len(batch), device=device) + 0.5 / len(batch)
    itc = (F.cross_entropy(i2t, targets) + F.cross_entropy(t2i, targets)) / 2

    hardest_text, hardest_image = (s.detach().fill_diagonal_(-torch.inf).argmax(dim=1) for s in (i2t, t2i))
    images, texts = torch.cat([own, hardest_image, own]), torch.cat([own, own, hardest_text])  # [3B]
    scores = ask(judge, batch, images[len(own) :], texts[len(own) :])  # [2B]
    if scores.max() >= NONE_CONVERTED["zones"].high:
        raise SystemExit("the judge takes a pair for a match, which this step does not cover")
    fused = fuse(model, states[texts], mask[texts], image.states[images])
    itm = F.cross_entropy(model.match(fused), (torch.arange(len(images), device=device) < len(own)).long())

    masked, labels = half_masked(model)(
        batch.input_ids, mask, sample_keys(SEED, INFO.epoch, batch.caption_id).to(device)
    )
    logits = model.mlm_head(fuse(model, text_states(model, masked, mask), mask, image.states))  # [B, L, V]
    mlm = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
    return {"loss": itc + itm + mlm, "itc": itc, "itm": itm, "mlm": mlm}


@contextmanager
def everything_kept() -> Iterator[None]:
    """Let all layers keep what they make, and make queries, keys and values one by one, as textbook blocks do."""

    def separate(layer: RecomputingLayer, states: Tensor) -> Tensor:
        """Queries, keys and values [B, N, 3 W]."""
        normed = layer.layernorm_before(states)
        return torch.cat([getattr(layer.attention, name)(normed) for name in ("q_proj", "k_proj", "v_proj")], dim=-1)

    with ExitStack() as patches:
        for module in (bert_layers, recomputing):
            patches.enter_context(
                patch.object(module, "recomputed", lambda function, *inputs, random=False: function(*inputs))
            )
        patches.enter_context(patch.object(RecomputingLayer, "_queries_keys_values", separate))
        yield


def captions_of(pairs: int) -> Tensor:
    """Tokens of each caption [B], distributed as in COCO."""
    lengths = 8 + torch.randn(pairs, generator=torch.Generator().manual_seed(SEED)).abs() * 5
    return lengths.clamp(max=24).long()


def build(size: str, pairs: int, side: str, judged: str = "warm") -> Callable[[], Losses]:
    """A step that trains one model again and again on one batch; of ours, what its judge knows is stated."""
    student, judge = (random_model(size, seed, dropout=0.0) for seed in (1, 2))
    batch = random_pairs(captions_of(pairs), side=student.image_encoder.image_size)
    if side != "truepair":
        student.train()
        judge.eval().requires_grad_(False)
        forward = everything_kept()(lambda: textbook_step(student, judge, batch))
    else:
        with tempfile.TemporaryDirectory() as folder:
            kept = kept_states(judge, batch, Path(folder)) if judged == "kept" else None
        step = mafa_step(student, judge, NONE_CONVERTED, kept=kept)
        assert step.ecm is not None and step.ecm.memory is not None
        memory = step.ecm.memory

        def forward() -> Losses:
            """The losses, with what the judge remembers."""
            if judged != "warm":
                memory.memory = VerdictMemory(memory.fingerprint)
            return step(batch, INFO).losses

    def train() -> Losses:
        """Losses; the gradients are in the student."""
        student.zero_grad()
        with sdpa_kernel(SDPBackend.MATH) if side == "plain" else nullcontext():
            losses = forward()
            if side == "truepair":
                release_free_memory()
            losses["loss"].backward()
        return {name: losses[name].detach() for name in ("itc", "itm", "mlm")}

    return train


def timed(step: Callable[[], Losses]) -> tuple[Losses, float]:
    start = time.process_time()
    return step(), time.process_time() - start


def compare(size: str, pairs: int, rounds: int, against: str, judged: str) -> None:
    """Let the two take turns."""
    sides = {side: build(size, pairs, side, judged) for side in (against, "truepair")}
    ratios, largest = [], 0.0
    for number in range(-1, rounds):  # the first turns warm up
        order = list(sides) if number % 2 else list(sides)[::-1]
        results = {side: timed(sides[side]) for side in order}
        (slow, slow_seconds), (fast, fast_seconds) = results[against], results["truepair"]
        differences = [float((slow[name] - fast[name]).abs()) for name in slow]
        if not all(difference <= 1e-4 for difference in differences):
            raise SystemExit(f"the losses are not equal: {slow}, {fast}")
        largest = max(largest, *differences)
        if number < 0:
            continue
        ratios.append(slow_seconds / fast_seconds)
        row = {"round": number, against: round(slow_seconds, 2), "truepair": round(fast_seconds, 2)}
        print(json.dumps({**row, "ratio": round(ratios[-1], 2)}), flush=True)
    low, median, high = min(ratios), statistics.median(ratios), max(ratios)
    figures = {"median_ratio": round(median, 2), "range": [round(low, 2), round(high, 2)]}
    facts = {"size": size, "pairs": pairs, "judge": judged}
    print(json.dumps({**facts, **figures, "largest_difference": largest}), flush=True)


def resident(field: str) -> float:
    """This process's memory by /proc in MB: VmRSS now, VmHWM at its peak.

    The peak of getrusage would begin with that of the process that started this one.
    """
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[field].split()[0]) * 1024 / 1e6


def measure_peak(size: str, pairs: int, side: str) -> None:
    """Build one side and train it twice; print the memory before, that of the gradients, and the peak, in MB."""
    step, before = build(size, pairs, side), resident("VmRSS")
    for _ in range(2):
        step()
    gradients = sum(weight.nbytes for weight in random_model(size, 1).parameters()) / 1e6
    print(json.dumps({"fixed_mb": round(before + gradients), "peak_mb": round(resident("VmHWM"))}))


def peak_of(size: str, pairs: int, side: str) -> dict[str, float]:
    """What `measure_peak` prints in a fresh process."""
    command = [sys.executable, __file__, "--size", size, "--pairs", str(pairs), "--peak", side]
    result = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures: dict[str, float] = json.loads(result)
    return figures


def compare_peaks(size: str, pairs: int, against: str) -> None:
    """Measure both sides, and print the ratio of the peaks, and that of what lies above the fixed part."""
    sides = {side: peak_of(size, pairs, side) for side in (against, "truepair")}
    theirs, ours = ([side["peak_mb"], side["peak_mb"] - side["fixed_mb"]] for side in sides.values())
    whole, above = (round(mine / other, 2) for mine, other in zip(ours, theirs, strict=True))
    print(json.dumps({"pairs": pairs, **sides, "ratio": whole, "ratio_above_fixed": above}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", default="small", help="named model size")
    parser.add_argument("--pairs", type=int, default=16, help="pairs of a batch")
    parser.add_argument("--rounds", type=int, default=4, help="turns of each side")
    parser.add_argument("--threads", type=int, default=1, help="threads of each side")
    parser.add_argument("--against", choices=["textbook", "plain"], default="textbook", help="the other side")
    parser.add_argument("--judge", choices=["warm", "cold", "kept"], default="warm", help="what our judge knows before")
    parser.add_argument("--peak", choices=SIDES, help="only print the memory of one side, in MB")
    parser.add_argument("--memory", action="store_true", help="compare memory alone")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.peak:
        measure_peak(arguments.size, arguments.pairs, arguments.peak)
        return
    compare_peaks(arguments.size, arguments.pairs, arguments.against)
    if not arguments.memory:
        compare(arguments.size, arguments.pairs, arguments.rounds, arguments.against, arguments.judge)


if __name__ == "__main__":
    main()
