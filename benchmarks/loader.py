"""Images per second of one core, with full augmentation: PairDataset next to plain Pillow and torchvision.

    python benchmarks/loader.py                                        # the bundled sample at 64 pixels
    python benchmarks/loader.py --data dataset_flickr8k.json --size 192

Both sides decode the same encoded images, crop, flip, apply RandAugment (2, 7) and normalise to float32. Ours also
looks up the row, draws a caption, keys all randomness by sample, and may decode a JPEG at reduced scale. The two take
turns in one process, and are timed in seconds of CPU time, because a machine may be busy otherwise. One JSON line a
round, and one for the median and range of the ratio.
"""

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

from truepair.data import PairDataset, TransformConfig, build_transform, open_pairs
from truepair.data.images import read_bytes
from truepair.data.pairs import PairSample
from truepair.data.transforms import NORMALISATIONS, AlbefRandAugment
from truepair.sampling.batches import Visit

BATCH = 50


def plain_transform(config: TransformConfig) -> v2.Compose:
    mean, std = NORMALISATIONS[config.normalisation]
    return v2.Compose(
        [
            v2.RandomResizedCrop(config.size, scale=config.crop_scale, interpolation=InterpolationMode.BICUBIC),
            v2.RandomHorizontalFlip(config.flip),
            AlbefRandAugment(config.rand_augment_ops, config.rand_augment_level),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(mean, std),
        ]
    )


def images_per_second(read: Callable[[range], object], count: int) -> float:
    start = time.process_time()
    for first in range(0, count, BATCH):
        read(range(first, min(first + BATCH, count)))
    return count / (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="sample", help="anything open_pairs takes")
    parser.add_argument("--size", type=int, default=64, help="side of the image tensor in pixels")
    parser.add_argument("--images", type=int, default=400, help="images of one turn")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each side")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    table = open_pairs(arguments.data)
    count = min(arguments.images, len(table))
    config = TransformConfig(size=arguments.size)
    dataset = PairDataset(table, build_transform(config, train=True))
    plain = plain_transform(config)
    # Both read files from the page cache; the plain side gets them as bytes, which is in its favour.
    encoded = [read_bytes(table.rows[index]["image"]) for index in range(count)]

    def read_plain(rows: range) -> list[torch.Tensor]:
        return [plain(Image.open(io.BytesIO(encoded[row])).convert("RGB")) for row in rows]

    def read_ours(rows: range, epoch: int = 0) -> list[PairSample]:
        return dataset.__getitems__([Visit(epoch, row) for row in rows])

    images_per_second(read_ours, count)
    images_per_second(read_plain, count)
    ratios = []
    for number in range(arguments.rounds):
        ours = images_per_second(partial(read_ours, epoch=number), count)
        theirs = images_per_second(read_plain, count)
        ratios.append(ours / theirs)
        print(json.dumps({"round": number, "ours": round(ours), "plain": round(theirs), "ratio": round(ratios[-1], 3)}))
    low, median, high = min(ratios), statistics.median(ratios), max(ratios)
    summary = {"data": table.name, "size": arguments.size, "images": count, "rounds": arguments.rounds}
    print(json.dumps({**summary, "median_ratio": round(median, 3), "range": [round(low, 3), round(high, 3)]}))


if __name__ == "__main__":
    main()
