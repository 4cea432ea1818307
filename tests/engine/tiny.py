"""The smallest thing the loop can train: two linear towers on made-up vectors, with state of its own."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, dropout, normalize
from transformers import PretrainedConfig, PreTrainedModel

from truepair.engine.loop.config import LoopConfig
from truepair.engine.loop.loop import RunResult, TrainingLoop
from truepair.engine.loop.optimizer import OptimizerConfig
from truepair.engine.loop.step import StepInfo, StepOutput, TrainingStep
from truepair.randomness import stable_hash
from truepair.sampling.batches import SamplerConfig, Visit
from truepair.sampling.ranks import Ranks

COUNT = 36
WIDTH = 8


@dataclass
class TinyBatch:
    index: Tensor
    source_index: Tensor
    reasons: list[str]
    image: Tensor
    text: Tensor

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> "TinyBatch":
        return replace(self, image=self.image.to(device), text=self.text.to(device))


class TinyDataset:
    """Vectors that depend on the sample, the epoch and nothing else; sample 5 may be poisoned."""

    def __init__(self, poisoned_epoch: int = -1) -> None:
        self.poisoned_epoch = poisoned_epoch

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, visit: Visit) -> dict[str, Any]:
        def vector(*keys: int) -> Tensor:
            return torch.randn(WIDTH, generator=torch.Generator().manual_seed(stable_hash(*keys) % 2**60))

        shared = vector(0, visit.index)
        image = shared + 0.3 * vector(1, visit.index, visit.epoch)
        if visit == (self.poisoned_epoch, 5):
            image = image * torch.nan
        return {"index": visit.index, "image": image, "text": shared + 0.3 * vector(2, visit.index)}


def collate(samples: list[dict[str, Any]]) -> TinyBatch:
    index = torch.tensor([sample["index"] for sample in samples])
    image, text = (torch.stack([sample[name] for sample in samples]) for name in ("image", "text"))
    return TinyBatch(index, index, [""] * len(samples), image, text)


class TinyConfig(PretrainedConfig):
    model_type = "tiny_towers"


class TinyModel(PreTrainedModel):
    config_class = TinyConfig

    def __init__(self, config: TinyConfig) -> None:
        super().__init__(config)
        self.image = nn.Linear(WIDTH, WIDTH)
        self.text = nn.Linear(WIDTH, WIDTH)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        pass


class TinyStep(TrainingStep):
    """ITC with dropout; keeps the features of its last batch, and counts batches."""

    def __init__(self, model: TinyModel) -> None:
        super().__init__(model)
        self.register_buffer("queue", torch.zeros(WIDTH))
        self.batches = 0
        self.begun = self.closed = 0

    def forward(self, batch: TinyBatch, info: StepInfo) -> StepOutput:
        image = normalize(self.model.image(dropout(batch.image, 0.2, self.training)), dim=1)
        text = normalize(self.model.text(batch.text) + 0.1 * self.queue, dim=1)
        logits = 5 * image @ text.T
        target = torch.arange(len(logits))
        loss = cross_entropy(logits, target) + cross_entropy(logits.T, target)
        self.batches += 1
        return StepOutput({"loss": loss, "itc": loss}, image.detach(), text.detach())

    def after_update(self, info: StepInfo) -> None:
        self.queue.mul_(0.5).add_(self.model.image.bias.detach())

    def save_state(self, folder: Path) -> None:
        if Ranks.current().rank == 0:
            save_file({"queue": self.queue, "batches": torch.tensor(self.batches)}, folder / "queue.safetensors")

    def load_state(self, folder: Path) -> None:
        state = load_file(folder / "queue.safetensors")
        self.queue.copy_(state["queue"])
        self.batches = int(state["batches"])

    def epoch_figures(self, epoch: int) -> dict[str, float]:
        figures = {"batches": float(self.batches)}
        self.batches = 0
        return figures

    def begin(self) -> None:
        self.begun += 1

    def close(self) -> None:
        self.closed += 1


class Nothing:
    """Stands for the preprocessing that is saved beside a model."""

    def save(self, folder: Path) -> None:
        (folder / "preprocessing.json").write_text("{}")


def accuracy(model: TinyModel) -> dict[str, float]:
    """Share of images whose own text is the nearest."""
    batch = collate([TinyDataset()[Visit(99, index)] for index in range(COUNT)])
    with torch.no_grad():
        image, text = model.image(batch.image), model.text(batch.text)
        nearest = (normalize(image, dim=1) @ normalize(text, dim=1).T).argmax(dim=1)
    return {"accuracy": float((nearest == batch.index).float().mean())}


GRIT = SamplerConfig(kind="grit", queue_size=20, search_space=12)
RANDOM = SamplerConfig(kind="random")


@dataclass(frozen=True)
class TinyRun:
    """A run: 36 pairs in batches of 4, two batches a step, so 5 steps an epoch."""

    folder: Path
    loop: dict[str, Any] = field(default_factory=dict)
    sampler: SamplerConfig = GRIT
    poisoned_epoch: int = -1
    learning_rate: float = 0.05
    evaluator: Callable[[TinyModel], dict[str, float]] | None = accuracy
    step: Callable[[TinyModel], TrainingStep] = TinyStep

    def build(self) -> TrainingLoop:
        torch.manual_seed(0)
        settings: dict[str, Any] = {"epochs": 3, "batch_size": 4, "accumulate": 2, "workers": 0, "log_every": 1}
        settings |= {"cpu": True, "checkpoint_every": 3, "average_decay": 0.9}
        return TrainingLoop(
            self.step(TinyModel(TinyConfig())),
            TinyDataset(self.poisoned_epoch),
            Nothing(),
            collate,
            loop=LoopConfig(**settings | self.loop),
            optimizer=OptimizerConfig(learning_rate=self.learning_rate, warmup_steps=2, clip_norm=1.0),
            run_folder=self.folder,
            sampler=self.sampler,
            keys=np.arange(COUNT)[:, None] // 2,
            labels=np.arange(COUNT) // 3,
            evaluator=self.evaluator,
        )

    def go(self) -> RunResult:
        return self.build().run()

    def last_checkpoint(self) -> Path:
        return max((self.folder / "checkpoints").glob("step-*"))


def remains(folder: Path) -> dict[str, bytes]:
    """What a finished run leaves that must not depend on how often it was stopped."""
    names = ["log.jsonl", "model/model.safetensors", "bad_batches.jsonl"]
    found = {name: (folder / name).read_bytes() for name in names if (folder / name).exists()}
    last = max((folder / "checkpoints").glob("step-*"))
    return found | {"checkpoint": last.name.encode() + (last / "manifest.json").read_bytes()}
