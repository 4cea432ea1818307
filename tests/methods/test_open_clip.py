"""Models of open_clip train with everything that manages false negatives, and go home as what they are."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.methods.test_dual_encoder import HubRun, stop_and_go_on
from tests.models.dual import tiny_open_clip as tiny
from truepair.data.open import open_pairs
from truepair.data.preprocessing import Preprocessing
from truepair.data.splits import DataConfig
from truepair.data.transforms import TransformConfig
from truepair.engine.loop.config import LoopConfig
from truepair.engine.loop.step import StepInfo
from truepair.methods.recipe import ModelConfig, PretrainRecipe, TextConfig
from truepair.methods.student import build_student
from truepair.models import DualEncoder
from truepair.models.open import open_model

open_clip = pytest.importorskip("open_clip", reason="needs open_clip: pip install 'truepair[open_clip]'")

AUGMENTATION = TransformConfig(size=0, normalisation="encoder", crop_scale=(0.9, 1.0), rand_augment_ops=0)


@dataclass
class OpenClipRun(HubRun):
    """The run of a transformers model, with one of open_clip."""

    family: Callable[[Path], dict[str, Any]] = tiny.clip

    def student(self) -> tuple[DualEncoder, Preprocessing]:
        opened = open_model(self._model("student", self.family(self.folder.parent)))
        return opened.model, opened.preprocessing.adapted(AUGMENTATION, 0)

    def guide(self) -> DualEncoder:
        """A smaller one, which reads the same captions and images."""
        config = self.family(self.folder.parent)
        return open_model(self._model("guide", {**config, "embed_dim": config["embed_dim"] // 2})).model

    def _model(self, name: str, config: dict[str, Any]) -> Path:
        target = self.folder.parent / name
        if not target.exists():
            tiny.made(config, target)
        return target


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Of a trained model, as open_clip alone reads it."""
    model = open_clip.create_model(f"local-dir:{folder / 'model'}", require_pretrained=True)
    return dict(model.state_dict())


@pytest.mark.parametrize("momentum", [False, True])
def test_a_model_trains_resumes_and_goes_home_as_itself(squares: Path, tmp_path: Path, momentum: bool) -> None:
    run = OpenClipRun(squares, tmp_path / "whole", momentum=momentum)
    before = {name: value.clone() for name, value in run.student()[0].model.state_dict().items()}
    run.build().run()
    stop_and_go_on(replace(run, folder=tmp_path / "stopped"))
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert (tmp_path / "whole/log.jsonl").read_bytes() == (tmp_path / "stopped/log.jsonl").read_bytes()
    moved = {name for name in whole if not torch.equal(whole[name], before[name])}
    assert {"visual.proj", "visual.conv1.weight", "text_projection", "token_embedding.weight", "logit_scale"} <= moved
    assert open_model(tmp_path / "whole").preprocessing.max_length == 24  # the run folder finds its model


def test_weights_at_random_are_those_of_the_seed(squares: Path, tmp_path: Path) -> None:
    file = tmp_path / "tiny-seeded.json"
    file.write_text(json.dumps(tiny.clip(tmp_path)))
    table = open_pairs(squares / "pairs.jsonl").split("train")

    def first(seed: int) -> torch.Tensor:
        recipe = PretrainRecipe(
            data=DataConfig(transform=AUGMENTATION),
            text=TextConfig(tokenizer="model", max_length=0),
            model=ModelConfig(checkpoint=f"open_clip:{file}:random"),
            loop=LoopConfig(seed=seed),
        )
        torch.rand(3)
        weight: torch.Tensor = build_student(recipe, table, lambda line: None).model.model.visual.proj
        return weight

    assert torch.equal(first(1), first(1)) and not torch.equal(first(1), first(2))


@pytest.mark.parametrize("family", [tiny.bert, tiny.coca], ids=lambda family: family.__name__)
def test_other_kinds_train(squares: Path, tmp_path: Path, family: Any) -> None:
    run = OpenClipRun(squares, tmp_path / "run", family=family, loop={"epochs": 1})
    before = {name: value.clone() for name, value in run.student()[0].model.state_dict().items()}
    run.build().run()
    after = weights(tmp_path / "run")
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    decoder = {name for name in after if name.startswith("text_decoder.")}
    assert len(moved) > 0.7 * (len(after) - len(decoder)) and not moved & decoder


def test_parts_of_a_batch_have_the_gradients_of_the_whole(squares: Path, tmp_path: Path) -> None:
    gradients = []
    for micro_batch in (0, 5):
        loop = OpenClipRun(squares, tmp_path / str(micro_batch), micro_batch=micro_batch).build()
        batch = loop.collate(loop.dataset.__getitems__(list(range(12))))  # type: ignore[attr-defined]
        output = loop.bare_step(batch, StepInfo(epoch=1, step=4, total_steps=6, steps_per_epoch=3))
        output.losses["loss"].backward()
        gradients.append({name: weight.grad for name, weight in loop.model.named_parameters()})
    for name, gradient in gradients[0].items():
        difference = (gradients[1][name] - gradient).norm()
        assert difference <= 1e-4 * gradient.norm() + 1e-7, name
