"""Time of the GRIT walk, and what grouping a whole epoch costs. Prints one JSON line a row.

    python benchmarks/grit_order.py                      walks of 1920 samples, 1, 4 and 25 search spaces
    python benchmarks/grit_order.py --epoch 1000000      collect and plan an epoch of so many samples

Every row is CPU time of one thread (`--threads` for more), which the rest of the machine disturbs less than wall time.
Within a round all ways take turns; ratios are those of one round, given as median, lowest and highest.

  product     the bare similarity product of each search space, into the same memory each time
  grit        `grit_order`
  forbidden   `grit_order` that keeps five captions of an image out of one batch of 128
  quantile    `grit_order` at the quantile 0.99 instead of 1
  textbook    one sample at a time: soft-max both similarity matrices, zero the rows and columns of each used sample
"""

import argparse
import json
import platform
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from truepair.sampling.grit import grit_order
from truepair.sampling.grouped import GroupedBatchSampler, GroupedConfig

SAMPLES, DIMENSION, BATCH, TEMPERATURE = 1920, 256, 128, 0.07


def make_features(spaces: int, seed: int) -> tuple[Tensor, Tensor]:
    """Clustered features [spaces, SAMPLES, DIMENSION], normalised."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(100, DIMENSION, generator=generator)
    shown = centres[torch.randint(100, (spaces, SAMPLES), generator=generator)]
    sides = [shown + torch.randn(shown.shape, generator=generator) for _ in range(2)]
    return torch.nn.functional.normalize(sides[0], dim=-1), torch.nn.functional.normalize(sides[1], dim=-1)


def bare_product(image: Tensor, text: Tensor, out: Tensor) -> None:
    for one_image, one_text in zip(image, text, strict=True):
        torch.mm(one_image, one_text.T, out=out)


def textbook_walk(image: Tensor, text: Tensor) -> list[int]:
    """The walk of one search space as it is usually written, from its description."""
    to_text = (image @ text.T / TEMPERATURE).softmax(dim=1)  # [M, M]
    to_image = (text @ image.T / TEMPERATURE).softmax(dim=1)  # [M, M]
    order = [0]
    for step in range(len(image) - 1):
        here = order[-1]
        for matrix in (to_text, to_image):
            matrix[here], matrix[:, here] = 0, 0
        order.append(int((to_image if step % 2 else to_text)[here].argmax()))
    return order


def ways(spaces: int) -> dict[str, Callable[[], object]]:
    image, text = make_features(spaces, seed=0)
    out = torch.empty(SAMPLES, SAMPLES)
    one_image = torch.arange(SAMPLES) // 5
    forbidden = (one_image[:, None] == one_image).expand(spaces, -1, -1).contiguous()
    return {
        "product": lambda: bare_product(image, text, out),
        "grit": lambda: grit_order(image, text),
        "forbidden": lambda: grit_order(image, text, forbidden=forbidden, batch_size=BATCH),
        "quantile": lambda: grit_order(image, text, quantile=0.99),
        "textbook": lambda: textbook_walk(image[0], text[0]),  # of one space: more would take as long each
    }


def seconds(call: Callable[[], object]) -> float:
    begin = time.process_time()
    call()
    return time.process_time() - begin


def walks(rounds: int) -> Iterator[dict[str, object]]:
    for spaces in (1, 4, 25):
        calls = ways(spaces)
        taken: dict[str, list[float]] = {name: [] for name in calls}  # microseconds per sample
        for number in range(rounds + 1):  # the first round warms up
            names = list(calls) if number % 2 else list(reversed(calls))
            for name in names:
                samples = SAMPLES * (1 if name == "textbook" else spaces)
                spent = seconds(calls[name]) / samples * 1e6
                if number:
                    taken[name].append(spent)
        for name, times in taken.items():
            row: dict[str, object] = {
                "way": name,
                "spaces": spaces,
                "us_per_sample": round(statistics.median(times), 2),
            }
            for other in ("product", "grit"):
                ratios = sorted(own / reference for own, reference in zip(times, taken[other], strict=True))
                row[f"times_{other}"] = [
                    round(value, 2) for value in (statistics.median(ratios), ratios[0], ratios[-1])
                ]
            yield row


def resident_mib() -> float:
    """Most memory this process has held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def epoch(count: int, storage: str) -> Iterator[dict[str, object]]:
    """Collect and plan an epoch with the sizes of the papers: queue 48,000, search space 1,920, steps of 512."""
    rng = np.random.default_rng(0)
    before = resident_mib()
    begin = time.process_time()
    sampler = GroupedBatchSampler(count, 4 * BATCH, config=GroupedConfig(storage=storage))
    yield {"part": "random plan of epoch 0", "samples": count, "seconds": round(time.process_time() - begin, 2)}
    pool = torch.nn.functional.normalize(torch.from_numpy(rng.standard_normal((20_000, DIMENSION), np.float32)), dim=1)
    spent = []
    for step in range(sampler.steps):
        index = torch.from_numpy(sampler.step_samples(step))
        rows = torch.from_numpy(rng.integers(len(pool), size=(2, len(index))))
        begin = time.process_time()
        sampler.collect(index, pool[rows[0]], pool[rows[1]])
        spent.append(time.process_time() - begin)
    pauses = [value for value in spent[:-1] if value > 0.1]  # the steps at which the queue is full
    collecting = sum(spent[:-1]) - sum(pauses)
    for part, value in (("collect", collecting), ("walk", sum(pauses)), ("last walk, layout", spent[-1])):
        yield {
            "part": part,
            "samples": count,
            "seconds": round(value, 2),
            "us_per_sample": round(value / count * 1e6, 2),
        }
    yield {"part": "longest pause", "samples": count, "seconds": round(max(pauses, default=0.0), 2)}
    yield {"part": "memory", "samples": count, "peak_mib": round(resident_mib()), "before_mib": round(before)}


def processor() -> str:
    """The model of the processor, where the system tells."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--epoch", type=int, default=0, help="samples of an epoch to plan, instead of single walks")
    parser.add_argument("--storage", default="float32")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    machine = {"machine": processor(), "threads": options.threads, "torch": torch.__version__}
    rows = epoch(options.epoch, options.storage) if options.epoch else walks(options.rounds)
    for row in rows:
        print(json.dumps({**row, **machine}), flush=True)


if __name__ == "__main__":
    main()
