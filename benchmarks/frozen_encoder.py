"""Ways to run EfficientNet-Lite0 over images on a CPU: how fast, and how far from the published network.

Prints one JSON line a way: CPU milliseconds an image (the best of several rounds, so that other load on the machine
matters little), images per second of wall time in that round, and the largest difference of any state, relative to the
largest state.

    python benchmarks/frozen_encoder.py            # 128 px, one thread
    python benchmarks/frozen_encoder.py --threads 2

Recorded at 128 px on one core of an AMD EPYC (Zen 3: AVX2, no bf16 instructions), torch 2.14, on a machine busy
otherwise, so in CPU milliseconds only:

    published network                                  batch 16    19.1
      channels last                                    batch 16    15.0
      batch normalisation folded                       batch 16    14.0
      folded, channels last                            batch 16     8.2
    ours (folded, channels last, no padded copies)     batch 16     6.8
      torch.jit.freeze on top                          batch 16     6.0 (deprecated; within noise of ours when repeated)
      bfloat16 autocast                                batch 16   219   (and 6e-2 off)
      other batches: 1: 13.8, 4: 9.9, 8: 9.3, 32: 8.5, 64: 9.1, 128: 9.8

All but bfloat16 are within 5e-6 of the published network. Cutting the batch into smaller ones for the first stages,
whose maps are the largest, gained nothing at 16 images and brought 64 to the speed of 16.
"""

import argparse
import copy
import json
import time
from collections.abc import Callable

import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from truepair.models.encoders.efficientnet import EfficientNetLite0, EfficientNetLite0Config, imagenet_weights_file

Encode = Callable[[Tensor], Tensor]


def published(image_size: int) -> EfficientNet:
    network = EfficientNet.from_name("efficientnet-lite0", image_size=image_size)
    network.load_state_dict(torch.load(imagenet_weights_file(), weights_only=True))
    return network.eval()


def folded(network: EfficientNet) -> EfficientNet:
    """The published network with its batch normalisation folded and activations in place."""
    network = copy.deepcopy(network)
    pairs = [(network, "_conv_stem", "_bn0"), (network, "_conv_head", "_bn1")]
    for block in network._blocks:
        pairs += [(block, "_expand_conv", "_bn0"), (block, "_depthwise_conv", "_bn1"), (block, "_project_conv", "_bn2")]
    for module, convolution, norm in pairs:
        if hasattr(module, convolution):
            setattr(module, convolution, fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm)))
            setattr(module, norm, nn.Identity())
    for module in network.modules():
        if isinstance(module, nn.ReLU6):
            module.inplace = True
    return network


def states_of(network: EfficientNet, memory_format: torch.memory_format = torch.contiguous_format) -> Encode:
    network = copy.deepcopy(network).to(memory_format=memory_format)

    def encode(pixels: Tensor) -> Tensor:
        maps: Tensor = network.extract_features(pixels.contiguous(memory_format=memory_format))
        return maps.flatten(2).transpose(1, 2)

    return encode


def ways(image_size: int, batch: int) -> dict[str, tuple[Encode, int]]:
    """Each way by name, and the size of its batches."""
    network = published(image_size)
    ours = EfficientNetLite0(EfficientNetLite0Config(image_size=image_size)).freeze()
    frozen = torch.jit.freeze(torch.jit.trace(ours, torch.zeros(batch, 3, image_size, image_size)))

    def bf16(pixels: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return ours(pixels).float()

    return {
        "published": (states_of(network), batch),
        "published, channels last": (states_of(network, torch.channels_last), batch),
        "folded": (states_of(folded(network)), batch),
        "folded, channels last": (states_of(folded(network), torch.channels_last), batch),
        "ours (folded, channels last, no padded copies)": (ours, batch),
        "ours, torch.jit.freeze": (frozen, batch),
        "ours, bfloat16": (bf16, batch),
        **{f"ours, batch {size}": (ours, size) for size in (1, 4, 8, 32, 64, 128)},
    }


def best_round(encode: Encode, pixels: Tensor, rounds: int) -> tuple[float, float]:
    """CPU and wall seconds of the round that took the least CPU time."""
    times = []
    for _ in range(rounds + 2):
        cpu, wall = time.process_time(), time.perf_counter()
        encode(pixels)
        times.append((time.process_time() - cpu, time.perf_counter() - wall))
    return min(times[2:])


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=12)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    size = arguments.image_size
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(arguments.batch, 3, size, size, generator=generator)
    expected = states_of(published(size))(probe)
    for name, (encode, batch) in ways(size, arguments.batch).items():
        pixels = torch.randn(batch, 3, size, size, generator=generator)
        cpu, wall = best_round(encode, pixels, arguments.rounds)
        row = {
            "way": name,
            "batch": batch,
            "cpu_ms_per_image": round(1e3 * cpu / batch, 2),
            "images_per_second": round(batch / wall, 1),
            "difference": float(f"{((encode(probe) - expected).abs().max() / expected.abs().max()):.1e}"),
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
