"""Time and memory of the contrastive losses, forward and backward, against the matrix products of a tiled softmax.

Usage: python benchmarks/contrastive_loss.py [--forms tiled sigmoid ...] [--sizes 1024 2048 4096 8192 16384]
       [--rounds 5] [--threads 2]

Prints one JSON line a row. ``ratio_to_floor`` is the median over rounds of the time divided by that of four bare
products of 2 B^2 D operations (logits, logits again, two gradients), measured in the same round. ``saved_mib`` counts
the distinct storages kept for the backward pass; ``peak_mib`` is the growth of resident memory in a fresh process. On
one thread CPU time is counted, which a busy machine changes less.

Recorded at B = 8192 on two idle cores of an AMD EPYC (Zen 3), torch 2.14, float32; floor 1.05 to 1.2 s:

    form                             ratio to floor             peak MiB   saved MiB
    albef, dense                     2.2 to 3.0 (busy)              1299   768, 544
    tiled                            1.15 to 1.28                     97          32
    tiled, smoothing and positives   1.04 times the line above       121          65
    tiled, SRCL                      1.98 to 2.46, median 2.1        177          65

The sigmoid loss at B = 8192, ``--threads 1`` on the same machine, all cores busy; floor 1.33 s of CPU time:

    siglip, dense as in transformers    2.25 to 2.47, median 2.4       1040         768
    sigmoid                             0.99                             80          16
    sigmoid, smoothing and positives    1.01                             80          16
    sigmoid, SRCL                       2.13 to 2.15                    112          16
    tiled (softmax)                     1.14 to 1.18                    120          32

With one other busy process the threads wait for each other after every operation: tiled 1.5 to 2.2, SRCL 2.5 to 3.9. On
one thread it makes no difference: tiled 1.2, SRCL 2.1.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from truepair.objectives import Direction, Regulation, RegulationConfig, contrastive_loss, sigmoid_loss
from truepair.relations import PairSet

DIM = 256
TEMPERATURE = 0.07
BIAS = -10.0
DENSE_LIMIT = 8192  # the dense forms of larger batches need more memory than a laptop has

Loss = Callable[[Tensor, Tensor], Tensor]


def features(size: int, seed: int) -> Tensor:
    """Normalised features [B, D]."""
    return F.normalize(torch.randn(size, DIM, generator=torch.Generator().manual_seed(seed)), dim=1)


def albef_loss(queries: Tensor, keys: Tensor) -> Tensor:
    """The form of the official programs: target matrices, two log-softmaxes."""
    logits = queries @ keys.T / TEMPERATURE
    targets = torch.eye(len(queries))
    i2t = -(F.log_softmax(logits, dim=1) * targets).sum(dim=1).mean()
    t2i = -(F.log_softmax(logits.T, dim=1) * targets).sum(dim=1).mean()
    return (i2t + t2i) / 2


def of_implementation(implementation: str) -> Loss:
    """InfoNCE."""
    return lambda q, k: contrastive_loss(q, k, TEMPERATURE, implementation=implementation).loss


def some_converted(size: int) -> Direction:
    """S-ITC with as many converted pairs as the batch has rows."""
    generator = torch.Generator().manual_seed(2)
    converted = PairSet(
        torch.randint(size, (size,), generator=generator),
        torch.randint(size, (size,), generator=generator),
        torch.ones(size),
        (size, size),
    )
    return Direction(PairSet.union(PairSet.diagonal(size, size), converted), smoothing=0.5)


def smoothed(size: int) -> Loss:
    rows = some_converted(size)
    return lambda q, k: contrastive_loss(q, k, TEMPERATURE, rows=rows, implementation="tiled").loss


def seeded(size: int) -> Regulation:
    """SRCL with a seed model: two more products than the floor."""
    return Regulation(RegulationConfig("softmax"), 0.5, features(size, 3), features(size, 4))


def regulated(size: int) -> Loss:
    regulation = seeded(size)
    return lambda q, k: contrastive_loss(q, k, TEMPERATURE, regulation=regulation, implementation="tiled").loss


def siglip_loss(queries: Tensor, keys: Tensor) -> Tensor:
    """The form of transformers: the matrix of signs, and of log-sigmoids."""
    signs = 2 * torch.eye(len(queries)) - 1
    return -F.logsigmoid(signs * (queries @ keys.T / TEMPERATURE + BIAS)).sum() / len(queries)


def of_sigmoid(rows: Direction | None = None, regulation: Regulation | None = None) -> Loss:
    """The sigmoid loss: three products, since its gradients are known in the forward pass."""
    return lambda q, k: sigmoid_loss(q, k, TEMPERATURE, BIAS, rows=rows, regulation=regulation, implementation="tiled")


FORMS: dict[str, Callable[[int], Loss]] = {
    "albef": lambda _: albef_loss,
    "dense": lambda _: of_implementation("dense"),
    "tiled": lambda _: of_implementation("tiled"),
    "tiled, smoothing and positives": smoothed,
    "tiled, SRCL": regulated,
    "siglip": lambda _: siglip_loss,
    "sigmoid": lambda _: of_sigmoid(),
    "sigmoid, smoothing and positives": lambda size: of_sigmoid(some_converted(size)),
    "sigmoid, SRCL": lambda size: of_sigmoid(regulation=seeded(size)),
}
STORES_LOGITS = ("albef", "dense", "siglip")


def seconds(work: Callable[[], object]) -> float:
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    work()
    return clock() - start


def four_products(queries: Tensor, keys: Tensor, buffer: Tensor) -> None:
    torch.mm(queries, keys.T, out=buffer)
    torch.mm(queries, keys.T, out=buffer)
    torch.mm(buffer, keys)
    torch.mm(buffer.T, queries)


def forward_backward(loss: Loss, queries: Tensor, keys: Tensor) -> None:
    queries, keys = queries.clone().requires_grad_(), keys.clone().requires_grad_()
    loss(queries, keys).backward()


def saved_mib(loss: Loss, queries: Tensor, keys: Tensor) -> float:
    """Distinct storages that autograd keeps, the features themselves left out."""
    queries, keys = queries.clone().requires_grad_(), keys.clone().requires_grad_()
    storages: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = loss(queries, keys)  # noqa: F841 - keeps the graph, so that no address is used twice
    for own in (queries, keys):
        storages.pop(own.untyped_storage().data_ptr(), None)
    return sum(storages.values()) / 2**20


def peak_mib(form: str, size: int, threads: int) -> float:
    """Growth of the peak of resident memory, in a process that does nothing else."""
    command = [sys.executable, __file__, "--peak", form, "--sizes", str(size), "--threads", str(threads)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def print_peak(form: str, size: int) -> None:
    queries, keys = features(size, 0), features(size, 1)
    forward_backward(FORMS[form](64), queries[:64], keys[:64])  # libraries are loaded now
    loss = FORMS[form](size)
    before = high_water_mib()
    forward_backward(loss, queries, keys)
    print(high_water_mib() - before)


def high_water_mib() -> float:
    """Peak resident memory of this process; ``ru_maxrss`` would be that of the parent, if larger."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) / 1024


def measure(forms: list[str], size: int, rounds: int, threads: int) -> None:
    """Some forms at one size; each round runs the floor and every form, in turning order."""
    queries, keys = features(size, 0), features(size, 1)
    losses = {name: FORMS[name](size) for name in forms if size <= DENSE_LIMIT or name not in STORES_LOGITS}
    buffer = torch.empty(size, size)
    work: dict[str, Callable[[], object]] = {"floor": lambda: four_products(queries, keys, buffer)}
    for name, loss in losses.items():
        work[name] = lambda loss=loss: forward_backward(loss, queries, keys)
    times: dict[str, list[float]] = {name: [] for name in work}
    for number in range(-1, rounds):  # the first round warms up
        names = list(work)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            taken = seconds(work[name])
            if number >= 0:
                times[name].append(taken)
    for name, loss in losses.items():
        ratios = [taken / floor for taken, floor in zip(times[name], times["floor"], strict=True)]
        to_tiled = {}
        if "tiled" in times:
            shares = [taken / tiled for taken, tiled in zip(times[name], times["tiled"], strict=True)]
            to_tiled = {"ratio_to_tiled": round(statistics.median(shares), 3)}
        row = {
            "size": size,
            "dim": DIM,
            "form": name,
            "seconds": round(statistics.median(times[name]), 4),
            "floor_seconds": round(statistics.median(times["floor"]), 4),
            "ratio_to_floor": round(statistics.median(ratios), 3),
            "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
            **to_tiled,
            "saved_mib": round(saved_mib(loss, queries, keys), 2),
            "peak_mib": round(peak_mib(name, size, threads), 1),
        }
        print(json.dumps(row), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 2048, 4096, 8192, 16384])
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--peak", choices=FORMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for size in options.sizes:
        if options.peak:
            print_peak(options.peak, size)
        else:
            measure(options.forms, size, options.rounds, options.threads)


if __name__ == "__main__":
    main()
