"""Time and memory of the fusion encoder when several rows share an image. Prints one JSON line a row.

Three ways to give each row the keys and values of its image:
  recompute  image states are copied to each row, and keys and values computed from the copies (the official programs);
  gather     keys and values are computed once per image, then copied to each row;
  packed     keys and values are computed once per image, and read by all its rows together (`RowGroups`; what is used).

Rows are those of a MAFA step: the positives, two negatives and one masked row for each of B pairs. With "skewed"
negatives a few popular images are the negative of most texts. One fusion layer, without dropout. Times are CPU seconds
of one thread, so that other programs on the machine disturb them little.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from truepair.models.dual.base import ImageKeysValues
from truepair.models.fusion.config import AlbefConfig
from truepair.models.fusion.fusion_encoder import FusionEncoder

# Name, pairs, image states, their width, tokens, width, heads.
SHAPES = (
    ("demo", 128, 16, 1280, 16, 384, 12),
    ("patches", 64, 65, 384, 16, 384, 12),
    ("base", 16, 257, 768, 25, 768, 12),
)


def negatives(pairs: int, skewed: bool, generator: torch.Generator) -> Tensor:
    """An image for each text [B]; skewed: drawn in proportion to 1, 1/2, 1/3, ..."""
    weights = 1.0 / torch.arange(1, pairs + 1) if skewed else torch.ones(pairs)
    return torch.multinomial(weights, pairs, replacement=True, generator=generator)


def ways(
    fusion: FusionEncoder, image: Tensor, text: Tensor, mask: Tensor, rows: Tensor
) -> dict[str, Callable[[], Tensor]]:
    def gather() -> Tensor:
        keys, values = fusion.image_keys_values(image)
        copied = ImageKeysValues(tuple(k[rows] for k in keys), tuple(v[rows] for v in values))
        return fusion(text, mask, copied)

    return {
        "recompute": lambda: fusion(text, mask, fusion.image_keys_values(image[rows])),
        "gather": gather,
        "packed": lambda: fusion(text, mask, fusion.image_keys_values(image), rows),
    }


def kept_bytes(forward: Callable[[], Tensor]) -> int:
    """Bytes that the forward pass keeps for the backward pass, each storage counted once."""
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = forward()
    del output
    return sum(storages.values())


def seconds(forward: Callable[[], Tensor], repeats: int) -> float:
    """Shortest CPU time of a forward and backward pass."""
    times = []
    for _ in range(repeats + 1):  # the first one warms up
        begin = time.process_time()
        forward().sum().backward()
        times.append(time.process_time() - begin)
    return min(times[1:])


def measure(repeats: int) -> Iterator[dict[str, object]]:
    for name, pairs, patches, image_width, tokens, width, heads in SHAPES:
        config = AlbefConfig(hidden_size=width, num_attention_heads=heads, intermediate_size=4 * width, fusion_layers=1)
        generator = torch.Generator().manual_seed(0)
        fusion = FusionEncoder(config, image_width).eval()
        for skewed in (False, True):
            own = torch.arange(pairs)
            rows = torch.cat([own, negatives(pairs, skewed, generator), own, own])
            image = torch.randn(pairs, patches, image_width, generator=generator, requires_grad=True)
            text = torch.randn(len(rows), tokens, width, generator=generator, requires_grad=True)
            mask = torch.ones(len(rows), tokens)
            for way, forward in ways(fusion, image, text, mask, rows).items():
                yield {
                    "shape": name,
                    "rows": len(rows),
                    "negatives": "skewed" if skewed else "even",
                    "way": way,
                    "cpu_seconds": round(seconds(forward, repeats), 4),
                    "kept_mb": round(kept_bytes(forward) / 1e6, 1),
                }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="passes per row; the shortest counts")
    torch.set_num_threads(1)
    for row in measure(parser.parse_args().repeats):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
