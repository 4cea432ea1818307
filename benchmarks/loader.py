"""Images per second of one core: PairDataset next to plain Pillow, to itself before, and to open_clip and webdataset.

    python benchmarks/loader.py                                        # the bundled sample at 64 pixels
    python benchmarks/loader.py --data dataset_flickr8k.json --size 192
    python benchmarks/loader.py --data dataset_flickr8k.json --size 192 --peers

All sides decode the same encoded images, crop, flip, apply RandAugment (2, 7), normalise to float32 and make batches of
50. `former` is PairDataset with the transform it had before it worked on tensors; all else that has become faster since
is in it too. `decoding` only opens files and decodes them, as ours does: what it takes, no change to the rest can save.
With --peers (optional extra `peers`) they only crop, from 0.9 of the area, as open_clip does; its transform is a side,
alone and in a pipeline of webdataset, whose shard is on disk. Ours also looks up the row, draws a caption, keys all
randomness by sample, may decode a JPEG at reduced scale, and decodes others by simplejpeg.

The sides take turns in one process, and are timed in seconds of CPU time, because a machine may be busy otherwise. One
JSON line a round, and one for the median and range of each ratio of speeds: ours to each, and decoding to `former`.
"""

import argparse
import io
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image
from pillow_path import former_transform, pillow_transform
from torch import Tensor

from truepair.data import PairDataset, PairTable, TransformConfig, build_transform, open_pairs
from truepair.data.images import read_bytes
from truepair.data.pairs import stacked
from truepair.data.pixels import decoder_name, load_part
from truepair.data.transforms import NORMALISATIONS, PixelTransform
from truepair.sampling.batches import Visit

BATCH = 50


Read = Callable[[range, int], Tensor]
"""Reads a batch of rows in some epoch: pixels [B, 3, H, W], or [B] from what only decodes."""


def images_per_second(read: Read, count: int, epoch: int) -> float:
    start = time.process_time()
    for first in range(0, count, BATCH):
        read(range(first, min(first + BATCH, count)), epoch)
    return count / (time.process_time() - start)


def read_pairs(dataset: PairDataset, rows: range, epoch: int) -> Tensor:
    return stacked([sample["pixel_values"] for sample in dataset.__getitems__([Visit(epoch, row) for row in rows])])


def decode_only(table: PairTable, transform: PixelTransform, rows: range, epoch: int) -> Tensor:
    cells = [table.rows[row]["image"] for row in rows]
    return torch.tensor([load_part(cell, transform.choose).shape[0] for cell in cells])


def peers(config: TransformConfig, encoded: list[bytes], folder: Path) -> dict[str, Read]:
    """How open_clip reads rows, and webdataset from a shard that is written here; both with open_clip's transform."""
    import webdataset
    from open_clip.transform import image_transform

    mean, std = NORMALISATIONS[config.normalisation]
    transform = image_transform(config.size, is_train=True, mean=mean, std=std)
    shard = folder / "pictures-000000.tar"
    with webdataset.TarWriter(str(shard)) as writer:
        for row, data in enumerate(encoded):
            writer.write({"__key__": f"{row:06}", "jpg": data, "txt": "a caption"})
    stream = webdataset.DataPipeline(
        webdataset.SimpleShardList(str(shard)),
        webdataset.tarfile_to_samples(),
        webdataset.decode("pilrgb"),
        webdataset.rename(image="jpg", text="txt"),
        webdataset.map_dict(image=transform),
        webdataset.to_tuple("image", "text"),
    ).repeat()
    samples = iter(stream)
    return {
        "open_clip": lambda rows, epoch: torch.stack([transform(Image.open(io.BytesIO(encoded[row]))) for row in rows]),
        "webdataset": lambda rows, epoch: torch.stack([next(samples)[0] for _ in rows]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="sample", help="anything open_pairs takes")
    parser.add_argument("--size", type=int, default=64, help="side of the image tensor in pixels")
    parser.add_argument("--images", type=int, default=400, help="images of one turn")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each side")
    parser.add_argument("--smallest-crop", type=float, default=0.2, help="least share of the area that a crop keeps")
    parser.add_argument("--peers", action="store_true", help="only crop, from 0.9, next to open_clip and webdataset")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    table = open_pairs(arguments.data)
    count = min(arguments.images, len(table))
    config = TransformConfig(size=arguments.size, crop_scale=(arguments.smallest_crop, 1.0))
    if arguments.peers:
        config = replace(config, crop_scale=(0.9, 1.0), flip=0.0, rand_augment_ops=0)
    plain = pillow_transform(config)
    # All read files from the page cache; the other sides get them as bytes, which is in their favour.
    encoded = [read_bytes(table.rows[index]["image"]) for index in range(count)]

    transform = build_transform(config, train=True)
    with TemporaryDirectory() as folder:
        sides: dict[str, Read] = {
            "ours": partial(read_pairs, PairDataset(table, transform)),
            "former": partial(read_pairs, PairDataset(table, former_transform(config))),
            "plain": lambda rows, epoch: torch.stack(
                [plain(Image.open(io.BytesIO(encoded[row])).convert("RGB")) for row in rows]
            ),
            "decoding": partial(decode_only, table, transform),
        }
        if arguments.peers:
            sides |= peers(config, encoded, Path(folder))
        for read in sides.values():
            images_per_second(read, count, 0)
        ratios: dict[str, list[float]] = {f"ours to {name}": [] for name in sides if name != "ours"}
        ratios["decoding to former"] = []
        for number in range(arguments.rounds):
            speeds = {name: images_per_second(read, count, number) for name, read in sides.items()}
            for name, found in ratios.items():
                one, other = name.split(" to ")
                found.append(speeds[one] / speeds[other])
            print(json.dumps({"round": number} | {name: round(speed) for name, speed in speeds.items()}))
    summary = {"data": table.name, "size": arguments.size, "crop": config.crop_scale[0], "images": count}
    print(json.dumps({**summary, "decoder": decoder_name(), "rounds": arguments.rounds}))
    for name, found in ratios.items():
        line = {"median": round(statistics.median(found), 3), "range": [round(min(found), 3), round(max(found), 3)]}
        print(json.dumps({"ratio": name, **line}))


if __name__ == "__main__":
    main()
