"""Figures of training on a GPU, and the wheels that a GPU machine without a network needs; `gpu_check.sh` calls it.

    python scripts/gpu_check.py figures [--tiny] [--seconds 300] [--output benchmarks/gpu.md]
    python scripts/gpu_check.py missing                  # required packages that are not installed here
    python scripts/gpu_check.py wheels FOLDER [NAME ...] # download them, in the versions that are installed here

Pairs a second, peak memory, and the share of the card's dense bf16 peak that the model's own operations make up
(activations that are computed twice count once). Models have random weights, pixels and tokens are random and on the
device, weights are float32 under bf16 autocast, AdamW is fused on both sides:

    CLIP ViT-B/16     224 px, 77 tokens: transformers' model in this package's step, open_clip's model and loss
    MAFA base         256 px, 25 tokens at most: this package's step, a textbook step (benchmarks/step_time.py)

Each batch is tried whole; where it does not fit, with gradient checkpointing and in micro-batches.
"""

import argparse
import gc
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FIGURE_SECONDS = 6.0  # of the steps that are timed
MOST_STEPS = 30
LEAST_LEFT = 15.0  # seconds that a figure is begun with

# Dense bf16 TFLOP/s with float32 sums, from the makers' data sheets; the first pattern that fits counts.
PEAKS = [
    (r"B200", 2250.0),
    (r"GH200|H200", 989.0),
    (r"H100 PCIe", 756.0),
    (r"H100 NVL", 835.0),
    (r"H100", 989.0),
    (r"A100", 312.0),
    (r"L40S", 362.0),
    (r"L40\b", 181.0),
    (r"L4\b", 121.0),
    (r"A10G", 70.0),
    (r"RTX 4090", 165.0),
    (r"RTX 3090", 71.0),
]

# Not part of the project's own needs, but of its check.
CHECKED_WITH = ["pytest", "pytest-timeout", "open_clip_torch", "peft"]
# Of these and of all they need, a machine with a GPU has its own builds.
ITS_OWN = ["torch", "torchvision", "transformers", "accelerate", "peft"]


def needed(roots: Sequence[str]) -> set[str]:
    """Names of installed distributions that some need, themselves included; extras as the roots name them."""
    from packaging.requirements import Requirement

    found: set[str] = set()
    queue = [Requirement(root) for root in roots]
    while queue:
        requirement = queue.pop()
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        try:
            wants = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            wants = []
        fresh = name not in found
        found.add(name)
        for want in map(Requirement, wants):
            extras = requirement.extras or {""}
            if (fresh or requirement.extras) and (
                want.marker is None or any(want.marker.evaluate({"extra": extra}) for extra in extras)
            ):
                inner = re.sub(r"[-_.]+", "-", want.name).lower()
                if inner not in found:
                    queue.append(want)
    return found


def own_needs() -> list[str]:
    """What the project and its check ask for, as requirements."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *CHECKED_WITH]


def installed(name: str) -> bool:
    """Whether there is a distribution of a name."""
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def missing() -> list[str]:
    """Required distributions that are not installed here.

    What a missing one needs in turn cannot be known here; so these, where the check was written, are named too.
    """
    behind = ["docstring-parser", "typeshed-client", "dill", "multiprocess", "ftfy", "wcwidth"]
    return sorted(name for name in {*needed(own_needs()), *behind} if not installed(name))


def download(folder: Path, names: Sequence[str]) -> None:
    """Download wheels, each in the version installed here, for the Python of the machine with the GPU."""
    wanted = sorted(names or needed(own_needs()) - needed(ITS_OWN))
    python = os.environ.get("PLATFORM_PYTHON", f"{sys.version_info.major}.{sys.version_info.minor}")
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(39, 16, -1)] + ["manylinux2014_x86_64"]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", python, "--implementation", "cp", "--dest", str(folder)]
    command += [part for name in platforms for part in ("--platform", name)]
    subprocess.run([*command, *(f"{n}=={importlib.metadata.version(n)}" for n in wanted)], check=True)
    print(f"{len(wanted)} wheels for Python {python} in {folder}: {' '.join(wanted)}")


@dataclass(frozen=True)
class Mode:
    """How the activations of a batch are held."""

    name: str
    checkpointing: bool = False
    micro_batch: int = 0


@dataclass(frozen=True)
class Trained:
    """A model on its device with a batch."""

    loss: Callable[[], Any]
    """The loss, a scalar with gradient."""
    train: Callable[[], Any]
    """One whole optimizer step."""


@dataclass(frozen=True)
class Arm:
    """One side of a comparison."""

    model: str
    side: str
    modes: tuple[Mode, ...]
    build: Callable[[int, Mode], Trained]
    """From the pairs of a batch and the mode."""


@dataclass(frozen=True)
class Sizes:
    """Which models and batches are measured."""

    clip: dict[str, Any]
    open_clip: dict[str, Any]
    mafa: str
    batches: tuple[int, ...]
    micro_batch: int


def sizes(tiny: bool) -> Sizes:
    """The published sizes, or some that take a second."""
    import open_clip

    if not tiny:
        # Of openai/clip-vit-base-patch16; all else is the default of CLIPConfig.
        clip: dict[str, Any] = {"vision_config": {"patch_size": 16}, "projection_dim": 512}
        return Sizes(clip, dict(open_clip.get_model_config("ViT-B-16")), "base", (256, 1024, 4096), 128)
    widths = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**widths, "vocab_size": 100, "max_position_embeddings": 8, "eos_token_id": 99}
    vision = {**widths, "image_size": 32, "patch_size": 16}
    theirs = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 2, "head_width": 16},
        "text_cfg": {"context_length": 8, "vocab_size": 100, "width": 32, "heads": 2, "layers": 2},
    }
    return Sizes({"vision_config": vision, "text_config": text, "projection_dim": 16}, theirs, "tiny", (4, 6), 2)


def arms(size: Sizes, device: Any, folder: Path) -> Iterator[Arm]:
    """Both models, each side by side with another implementation."""
    import open_clip
    import torch
    from transformers import CLIPConfig, CLIPModel

    sys.path.insert(0, str(ROOT / "benchmarks"))
    import step_time
    from mafa_step import INFO, NONE_CONVERTED, mafa_step, random_model, random_pairs

    from truepair.data.pairs import PairBatch
    from truepair.engine.distributed.accelerator import build_accelerator, prepare_step
    from truepair.engine.loop.config import LoopConfig
    from truepair.engine.loop.optimizer import OptimizerConfig
    from truepair.engine.loop.update import OptimizerStep
    from truepair.methods.encode import BatchEncoder, MicroBatches
    from truepair.methods.rules import RelationsConfig, RuleSet
    from truepair.methods.step import ItmConfig, MlmConfig, ObjectivesConfig, PretrainStep
    from truepair.models import HubDualEncoder

    whole, checkpointed = Mode("whole"), Mode("gradient checkpointing", checkpointing=True)
    parts = Mode(f"micro-batches of {size.micro_batch}", micro_batch=size.micro_batch)

    def ours(step: PretrainStep, batch: PairBatch, mode: Mode) -> Trained:
        """A step as the loop takes it."""
        config = LoopConfig(
            batch_size=max(len(batch), mode.micro_batch + 1),
            precision="bf16",
            cpu=device.type == "cpu",
            gradient_checkpointing=mode.checkpointing,
            micro_batch=mode.micro_batch,
        )
        accelerator, optimizer = build_accelerator(config, folder), OptimizerConfig()
        prepared, stepper = prepare_step(step, config, optimizer, accelerator)
        update = OptimizerStep(prepared, stepper, accelerator, optimizer, None)

        def train() -> None:
            """One step, whose loss must be finite."""
            if not update.take([batch], INFO, dict).finite:
                raise SystemExit(f"a loss or gradient is not finite ({type(step.model).__name__}, {mode.name})")

        return Trained(lambda: step(batch, INFO).losses["loss"], train)

    def theirs(model: torch.nn.Module, loss: Callable[[], Any]) -> Trained:
        """A plain loop around a model and its loss."""
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, fused=True)

        def train() -> None:
            """One step."""
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device.type, torch.bfloat16):
                value = loss()
            value.backward()
            optimizer.step()

        return Trained(loss, train)

    def clip_batch(pairs: int, config: Any) -> PairBatch:
        """Different images and captions of full length."""
        text, side = config.text_config, config.vision_config.image_size
        rows = torch.arange(pairs, device=device)
        ids = torch.randint(1, text.eos_token_id, (pairs, text.max_position_embeddings), device=device)
        ids[:, -1] = text.eos_token_id
        return PairBatch(
            pixel_values=torch.randn(pairs, 3, side, side, device=device),
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            index=rows,
            source_index=rows,
            image_id=rows,
            caption_id=rows,
            caption_key=rows,
            captions=[""] * pairs,
            reasons=[""] * pairs,
        )

    def clip_ours(pairs: int, mode: Mode) -> Trained:
        with device:
            model = HubDualEncoder(CLIPModel(CLIPConfig(**size.clip)))
        alone = ObjectivesConfig(itm=ItmConfig(weight=0.0), mlm=MlmConfig(weight=0.0))
        encoder = BatchEncoder(model, parts=MicroBatches(mode.micro_batch))
        step = PretrainStep(model, encoder, alone, RuleSet(RelationsConfig(ledger=False))).train()
        return ours(step, clip_batch(pairs, model.model.config), mode)

    def clip_theirs(pairs: int, mode: Mode) -> Trained:
        with device:
            model = open_clip.CLIP(**size.open_clip).train()
        model.set_grad_checkpointing(mode.checkpointing)
        batch, loss = clip_batch(pairs, CLIPConfig(**size.clip)), open_clip.ClipLoss()
        return theirs(model, lambda: loss(*model(batch.pixel_values, batch.input_ids)))

    def mafa_ours(pairs: int, mode: Mode) -> Trained:
        student, judge = (random_model(size.mafa, seed, dropout=0.0).to(device) for seed in (1, 2))
        batch = random_pairs(step_time.captions_of(pairs), side=student.image_encoder.image_size).to(device)
        step = mafa_step(student, judge, NONE_CONVERTED, micro_batch=mode.micro_batch)
        return ours(step, batch, mode)

    def mafa_textbook(pairs: int, mode: Mode) -> Trained:
        student, judge = (random_model(size.mafa, seed, dropout=0.0).to(device) for seed in (1, 2))
        student.train()
        judge.eval().requires_grad_(False)
        batch = random_pairs(step_time.captions_of(pairs), side=student.image_encoder.image_size).to(device)
        forward = step_time.everything_kept()(lambda: step_time.textbook_step(student, judge, batch))
        return theirs(student, lambda: forward()["loss"])

    yield Arm("CLIP ViT-B/16", "truepair", (whole, checkpointed, parts), clip_ours)
    yield Arm("CLIP ViT-B/16", "open_clip", (whole, checkpointed), clip_theirs)
    yield Arm(f"MAFA {size.mafa}", "truepair", (whole, checkpointed, parts), mafa_ours)
    yield Arm(f"MAFA {size.mafa}", "textbook", (whole,), mafa_textbook)


def gflop_per_pair(arm: Arm) -> float:
    """Operations of matrix products and convolutions per pair, forward and backward, once the judge remembers."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    pairs = 4
    trained, counter = arm.build(pairs, arm.modes[0]), FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH):  # fused kernels that compute the scores again would count them again
        trained.loss()
        with counter:
            trained.loss().backward()
    return counter.get_total_flops() / pairs / 1e9


def measure(arm: Arm, pairs: int, mode: Mode, device: Any) -> tuple[float, float | None] | None:
    """Pairs a second, and peak memory in GiB (None without a GPU); None where memory does not suffice."""
    import torch

    on_gpu = device.type == "cuda"
    wait = torch.cuda.synchronize if on_gpu else nullcontext
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()

    def seconds(steps: int) -> float:
        """Of some steps."""
        wait()
        started = time.perf_counter()
        for _ in range(steps):
            trained.train()
        wait()
        return time.perf_counter() - started

    found = None
    try:
        trained = arm.build(pairs, mode)
        seconds(1)  # kernels are chosen, the optimizer's averages made
        steps = max(1, min(MOST_STEPS, int(FIGURE_SECONDS / seconds(1)))) if on_gpu else 1
        speed = steps * pairs / seconds(steps)
        found = speed, torch.cuda.max_memory_allocated() / 2**30 if on_gpu else None
    except torch.OutOfMemoryError:
        pass
    trained = None
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
    return found


def peak_of(device: Any) -> tuple[float, str]:
    """Dense bf16 TFLOP/s of the device, and where the number is from."""
    import torch

    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor()
    known = next((peak for pattern, peak in PEAKS if re.search(pattern, name)), None)
    if known is not None and device.type == "cuda":
        return known, "data sheet"
    side = 8192 if device.type == "cuda" else 256
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        product = left @ right
        float(product[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best / 1e12, f"measured, a product of two {side} x {side} matrices"


def table(size: Sizes, device: Any, peak: float, until: float) -> Iterator[str]:
    """The rows of the table, one by one as they are measured."""
    yield "| model | side | batch | how | pairs/s | peak memory, GiB | GFLOP per pair | share of bf16 peak |"
    yield "|---|---|---|---|---|---|---|---|"
    with tempfile.TemporaryDirectory() as folder:
        every = list(arms(size, device, Path(folder)))
        gflop = {(arm.model, arm.side): gflop_per_pair(arm) for arm in every}
        gc.collect()
        for pairs in size.batches:  # small ones first: time may run out
            for arm in every:
                work = gflop[arm.model, arm.side]
                for mode in arm.modes:
                    row = f"| {arm.model} | {arm.side} | {pairs:,} | {mode.name} |"
                    if time.monotonic() > until - LEAST_LEFT:
                        yield f"{row} no time left | | {work:.3g} | |"
                        break
                    found = measure(arm, pairs, mode, device)
                    if found is None:
                        yield f"{row} out of memory | | {work:.3g} | |"
                        continue
                    speed, memory = found
                    held = "" if memory is None else f"{memory:.1f}"
                    yield f"{row} {speed:,.0f} | {held} | {work:.3g} | {speed * work / 10 / peak:.1f} % |"
                    if device.type == "cuda" and mode is arm.modes[0]:
                        break  # on a CPU every way is tried, to try its code


def page(size: Sizes, device: Any, seconds: float, tests: str) -> Iterator[str]:
    """The page of figures, line by line."""
    import torch

    until = time.monotonic() + seconds
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    versions = [f"{n} {importlib.metadata.version(n)}" for n in ("torch", "transformers", "accelerate", "peft")]
    versions.append(f"open_clip {importlib.metadata.version('open_clip_torch')}")
    commit = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True)
    peak, source = peak_of(device)
    yield f"# Training on one {name}"
    yield ""
    yield (
        f"`scripts/gpu_check.sh`, {date.today()}, commit {commit.stdout.strip() or 'unknown'}, Python "
        f"{platform.python_version()}, {', '.join(versions)}. Tests marked `gpu`: {tests}."
    )
    yield ""
    yield (
        f"Random weights, random pixels and tokens on the device; float32 weights, bf16 autocast, fused AdamW. Peak: "
        f"{peak:,.3g} TFLOP/s dense bf16 ({source})."
    )
    yield ""
    yield from table(size, device, peak, until)


def figures(arguments: argparse.Namespace) -> None:
    """Print the page, and write it to a file where it is asked for or measured on a GPU."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not arguments.tiny:
        print("no figures: there is no GPU here")
        return
    tests = {None: "not run", 0: "passed"}.get(arguments.tests, f"failed (status {arguments.tests})")
    lines = []
    for line in page(sizes(arguments.tiny), device, arguments.seconds, tests):
        print(line, flush=True)
        lines.append(line)
    places = [arguments.output] if arguments.output else [] if arguments.tiny else [ROOT / "benchmarks/gpu.md"]
    if os.environ.get("OUT"):
        places.append(Path(os.environ["OUT"]) / "gpu.md")
    for place in places:
        place.write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"written to {place}", file=sys.stderr)


def main() -> None:
    """Do one of the three."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("missing")
    wheels = commands.add_parser("wheels")
    wheels.add_argument("folder", type=Path)
    wheels.add_argument("names", nargs="*", help="only these")
    measured = commands.add_parser("figures")
    measured.add_argument("--tiny", action="store_true", help="tiny models, on any device")
    measured.add_argument("--seconds", type=float, default=300.0, help="time for all of them")
    measured.add_argument("--tests", type=int, help="exit status of the tests, for the page")
    measured.add_argument("--output", type=Path, help="file to write; with --tiny none by default")
    arguments = parser.parse_args()
    match arguments.command:
        case "missing":
            print(" ".join(missing()))
        case "wheels":
            download(arguments.folder, arguments.names)
        case _:
            figures(arguments)


if __name__ == "__main__":
    main()
