"""Re-ranking with ITM: image keys and values once per image, against image states repeated for each pair.

    python benchmarks/rerank.py                         # 200 images, the 64 best captions of each, size "small"

Pair by pair is how the official programs do it: for each image, its states are repeated for its k captions, keys and
values are computed from the copies, and all tokens of all captions go through all layers. Ours is `GalleryMatcher` as
`score_candidates` calls it. Both read the same encoded images and captions; weights are random, caption lengths are
those of COCO (8 to 24 tokens, mostly near 12). The two take turns in one process, on the same images, and are timed in
seconds of CPU time. One JSON line a round, and one for the median and range of the ratio.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from truepair.evaluation.reranking import score_candidates
from truepair.models.fusion.albef import AlbefModel
from truepair.models.fusion.config import AlbefConfig
from truepair.models.fusion.gallery import (
    EncodedCaptions,
    EncodedImages,
    GalleryMatcher,
    encode_captions,
    encode_images,
)
from truepair.relations.pairs import PairSet


def gallery(model: AlbefModel, images: int, captions: int) -> GalleryMatcher:
    generator = torch.Generator().manual_seed(0)
    side = model.image_encoder.image_size
    batches = (torch.randn(10, 3, side, side, generator=generator) for _ in range(-(-images // 10)))
    lengths = (8 + torch.randn(captions, generator=generator).abs() * 5).clamp(max=24).long()  # [T]
    ids = torch.randint(1000, 30000, (captions, int(lengths.max())), generator=generator)
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()  # [T, L]
    return GalleryMatcher(
        model,
        encode_images(model, batches),
        encode_captions(model, [""] * captions, lambda _: (ids * mask, mask)),
    )


@torch.inference_mode()
def pair_by_pair(model: AlbefModel, images: EncodedImages, captions: EncodedCaptions, tops: Tensor) -> Tensor:
    """Log-odds [I, k] of the candidates `tops` [I, k] of the first I images, with repeated image states."""
    scores = []
    for image, top in enumerate(tops):
        repeated = images.states[image].float().expand(len(top), -1, -1).contiguous()  # [k, N, W]
        fused = model.fuse(captions.states[top].float(), captions.mask[top], model.image_keys_values(repeated))
        features = images.features[image].expand(len(top), -1)
        logits = model.match(fused, features, captions.features[top])  # [k, 2]
        scores.append(logits[:, 1] - logits[:, 0])
    return torch.stack(scores)


def shared(judge: GalleryMatcher, tops: Tensor) -> Tensor:
    """The same log-odds by the library."""
    ordered = tops.sort(dim=1)
    rows = torch.arange(len(tops)).repeat_interleave(tops.shape[1])
    pairs = PairSet(
        rows, ordered.values.flatten(), torch.zeros(tops.numel()), (len(tops), len(judge.captions.features))
    )
    scores = score_candidates(pairs, judge).view(tops.shape)
    return torch.empty_like(scores).scatter_(1, ordered.indices, scores)


def timed(work: Callable[[], Tensor]) -> tuple[Tensor, float]:
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", default="small", help="named model size")
    parser.add_argument("--images", type=int, default=200, help="images to re-rank for, in all rounds together")
    parser.add_argument("--captions", type=int, default=1000, help="captions of the gallery")
    parser.add_argument("--top", type=int, default=64, help="candidates of each image")
    parser.add_argument("--rounds", type=int, default=10, help="turns of each side")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = AlbefModel(AlbefConfig.of_size(arguments.size)).eval()
    each = arguments.images // arguments.rounds
    whole = gallery(model, arguments.images, arguments.captions)
    ratios, largest = [], 0.0
    for number in range(-1, arguments.rounds):  # the first turns warm up, on two images
        part = slice(number * each, (number + 1) * each) if number >= 0 else slice(0, 2)
        images = EncodedImages(whole.images.states[part], whole.images.features[part])
        judge = GalleryMatcher(model, images, whole.captions)
        tops = (images.features @ whole.captions.features.T).topk(arguments.top, dim=1).indices  # [I, k]
        slow, slow_seconds = timed(lambda j=judge, t=tops: pair_by_pair(model, j.images, j.captions, t))
        fast, fast_seconds = timed(lambda j=judge, t=tops: shared(j, t))
        if number < 0:
            continue
        ratios.append(slow_seconds / fast_seconds)
        largest = max(largest, float((slow - fast).abs().max()))
        row = {"round": number, "images": each, "repeated": round(slow_seconds, 2), "shared": round(fast_seconds, 2)}
        print(json.dumps({**row, "ratio": round(ratios[-1], 2)}), flush=True)
    low, median, high = min(ratios), statistics.median(ratios), max(ratios)
    summary = {"size": arguments.size, "images": each * arguments.rounds, "top": arguments.top}
    figures = {"median_ratio": round(median, 2), "range": [round(low, 2), round(high, 2)]}
    print(json.dumps({**summary, **figures, "largest_difference": largest}))


if __name__ == "__main__":
    main()
