"""Runs whose model is mostly at rest: with an adapter, with frozen blocks. They resume, in parts, with copies."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import nn
from transformers import CLIPImageProcessor, CLIPModel, PreTrainedModel

from tests.engine.stopping import die_in_step
from tests.models.dual.tiny_hub import clip, inputs, librarys_own, seeded, vit_and_bert
from truepair.data.open import open_pairs
from truepair.data.pairs import PairDataset
from truepair.data.tokens import train_wordpiece
from truepair.data.transforms import TransformConfig
from truepair.engine.loop.config import LoopConfig
from truepair.engine.loop.loop import TrainingLoop
from truepair.engine.loop.step import StepInfo
from truepair.methods.encode import BatchEncoder, MicroBatches
from truepair.methods.momentum import MomentumConfig, MomentumModel
from truepair.methods.rules import RelationsConfig, RuleSet
from truepair.methods.step import ItcConfig, ItmConfig, MlmConfig, ObjectivesConfig, PretrainStep
from truepair.methods.towers import TowerOptimizerConfig
from truepair.models import HubDualEncoder, merge_adapter
from truepair.models.dual.freezing import Freezing, freeze
from truepair.models.dual.hub_preprocessing import HubPreprocessing
from truepair.models.dual.lora import LoraSettings, add_lora
from truepair.models.open import open_model

ITC_ALONE = ObjectivesConfig(itc=ItcConfig(), itm=ItmConfig(weight=0.0), mlm=MlmConfig(weight=0.0))
TEXTS = ["a small red square", "green square, middle", "a large blue square", "white square, small"]


@dataclass
class AdaptedRun:
    """Two epochs of three steps on the squares, by a model that starts from a checkpoint on disk."""

    squares: Path
    folder: Path
    family: Any = clip
    lora: LoraSettings | None = field(default_factory=lambda: LoraSettings(rank=4, alpha=8))
    freezing: Freezing = field(default_factory=Freezing)
    micro_batch: int = 0
    momentum: bool = False
    loop: dict[str, Any] = field(default_factory=dict)

    @property
    def base(self) -> Path:
        """The checkpoint that the run starts from."""
        folder = self.folder.parent / "base"
        if not folder.exists():
            seeded(self.family).save_pretrained(folder)
            self.preprocessing().save(folder)
        return folder

    def preprocessing(self) -> HubPreprocessing:
        tokenizer = train_wordpiece(TEXTS, 40, min_frequency=1)
        tokenizer.model_max_length = 9
        processor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
        plain = TransformConfig(size=16, normalisation="encoder", rand_augment_ops=0)
        return HubPreprocessing(processor, tokenizer, 9, plain)

    def build(self) -> TrainingLoop:
        table = open_pairs(self.squares / "pairs.jsonl").split("train")
        torch.manual_seed(7)
        model = HubDualEncoder.from_pretrained(self.base)
        freeze(model, self.freezing)
        if self.lora is not None:
            add_lora(model, self.lora)
        parts = BatchEncoder(model, parts=MicroBatches(self.micro_batch))
        slow = MomentumModel(parts, MomentumConfig(queue_size=12, decay=0.9), len(table)) if self.momentum else None
        preprocessing = self.preprocessing()
        settings: dict[str, Any] = {"epochs": 2, "batch_size": 12, "workers": 0, "log_every": 1, "cpu": True}
        return TrainingLoop(
            PretrainStep(model, parts, ITC_ALONE, RuleSet(RelationsConfig()), momentum=slow),
            PairDataset(table, preprocessing.images(train=True)),
            preprocessing,
            preprocessing.collator(),
            loop=LoopConfig(**settings | {"checkpoint_every": 1, "micro_batch": self.micro_batch} | self.loop),
            optimizer=TowerOptimizerConfig(learning_rate=0.01, warmup_share=0.2, layer_decay=0.8),
            run_folder=self.folder,
        )


def features(model: PreTrainedModel) -> list[torch.Tensor]:
    with torch.no_grad():
        return list(librarys_own(model.eval(), *inputs()))


@pytest.mark.parametrize("options", [{}, {"momentum": True}, {"micro_batch": 5}], ids=["plain", "momentum", "parts"])
def test_a_run_with_an_adapter_resumes_to_the_bit_and_leaves_what_peft_reads(
    squares: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    lora = LoraSettings(rank=4, alpha=8, dropout=0.1)
    options = {"lora": lora, "loop": {"average_decay": 0.5}, **options}
    whole = AdaptedRun(squares, tmp_path / "whole", **options).build()
    whole.run()
    stopped = AdaptedRun(squares, tmp_path / "stopped", **options)
    die_in_step(stopped.build(), 5)
    stopped.build().run()
    for name in ("log.jsonl", "model/adapter_model.safetensors", "model/adapter_config.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "stopped" / name).read_bytes(), name
    folder = tmp_path / "whole/model"
    before = seeded(clip)
    trained = whole.model.model
    assert all(
        torch.equal(value, before.state_dict()[name.replace(".base_layer", "")])
        for name, value in trained.state_dict().items()
        if "lora" not in name
    )  # all else rests, the temperature as well
    assert max((a - b).abs().max() for a, b in zip(features(trained), features(before), strict=True)) > 1e-3
    of_peft = peft.PeftModel.from_pretrained(CLIPModel.from_pretrained(tmp_path / "base"), folder)
    for one, other in zip(features(of_peft.base_model.model), features(trained), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    merge_adapter(folder, tmp_path / "whole/merged")
    opened = open_model(folder)
    for model in (CLIPModel.from_pretrained(tmp_path / "whole/merged"), opened.model.model):  # type: ignore[union-attr]
        for one, other in zip(features(model), features(trained), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    assert not (folder / "model.safetensors").exists()


def test_the_copy_of_a_model_with_an_adapter_shares_what_rests(squares: Path, tmp_path: Path) -> None:
    loop = AdaptedRun(squares, tmp_path / "run", momentum=True).build()
    step = loop.bare_step
    assert isinstance(step, PretrainStep) and step.momentum is not None
    own = {id(weight) for weight in step.momentum.model.parameters()} - {id(w) for w in loop.model.parameters()}
    assert len(own) == sum(weight.requires_grad for weight in loop.model.parameters()) == 2 * 2 * 6 * 2
    assert all("lora" in name for name in step.momentum.tensors() if not name.startswith("queue."))


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=4, alpha=8)], ids=["blocks", "lora"])
def test_parts_of_a_batch_have_the_gradients_of_the_whole(
    squares: Path, tmp_path: Path, lora: LoraSettings | None
) -> None:
    gradients = []
    for micro_batch in (0, 5):
        freezing = Freezing(image_blocks=1, text_blocks=1)
        run = AdaptedRun(squares, tmp_path / str(micro_batch), lora=lora, freezing=freezing, micro_batch=micro_batch)
        loop = run.build()
        for name, weight in loop.model.named_parameters():
            if "lora_B" in name:
                nn.init.constant_(weight, 0.02)
        batch = loop.collate(loop.dataset.__getitems__(list(range(12))))  # type: ignore[attr-defined]
        output = loop.bare_step(batch, StepInfo(epoch=1, step=4, total_steps=6, steps_per_epoch=3))
        output.losses["loss"].backward()
        gradients.append({n: w.grad for n, w in loop.model.named_parameters() if w.requires_grad})
    assert gradients[0] and not any(".0." in name for name in gradients[0])
    for name, gradient in gradients[0].items():
        assert gradient is not None and gradient.norm() > 0, name
        assert (gradients[1][name] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-7, name


def test_frozen_blocks_do_not_move_and_the_run_resumes(squares: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "family": vit_and_bert,
        "lora": None,
        "freezing": Freezing(image_blocks=1, text_blocks=2),
        "momentum": True,
    }
    whole = AdaptedRun(squares, tmp_path / "whole", **options).build()
    whole.run()
    die_in_step(AdaptedRun(squares, tmp_path / "stopped", **options).build(), 5)
    resumed = AdaptedRun(squares, tmp_path / "stopped", **options).build()
    resumed.run()
    after, before = whole.model.model.state_dict(), seeded(vit_and_bert).state_dict()
    assert all(torch.equal(value, resumed.model.model.state_dict()[name]) for name, value in after.items())
    still = {name for name, value in after.items() if torch.equal(value, before[name])}
    of_text = ("text_model.embeddings.", "text_model.encoder.layer.")
    of_image = ("vision_model.embeddings.", "vision_model.layers.0.")
    assert still == {name for name in after if name.startswith((*of_text, *of_image))}
