"""The model that a recipe starts from."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import ViTConfig, ViTModel

from truepair.data.open import open_pairs
from truepair.data.splits import DataConfig
from truepair.data.transforms import TransformConfig
from truepair.errors import CheckpointError, ConfigError
from truepair.methods.recipe import ModelConfig, PretrainRecipe, TextConfig
from truepair.methods.student import build_student, build_tokenizer


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    """A pre-trained image encoder for images of 16 px."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    ViTModel(ViTConfig(image_size=16, patch_size=8, **sizes)).save_pretrained(tmp_path / "vit")
    return tmp_path / "vit"


def test_the_config_states_the_size_of_the_images_that_a_pretrained_encoder_is_given(squares: Path, vit: Path) -> None:
    source = str(squares / "pairs.jsonl")
    recipe = PretrainRecipe(
        data=DataConfig(sources=[source], transform=TransformConfig(size=32)),
        text=TextConfig(vocab_size=100, max_length=10),
        model=ModelConfig(size="tiny", image_checkpoint=str(vit), freeze_image=True),
    )
    model = build_student(recipe, open_pairs(source), lambda line: None).model
    assert model.config.image_encoder["image_size"] == 32
    assert model.image_encoder.image_size == 32


def test_a_model_and_a_tokenizer_that_do_not_belong_together_are_one_line(squares: Path, tmp_path: Path) -> None:
    source = str(squares / "pairs.jsonl")
    recipe = PretrainRecipe(
        data=DataConfig(sources=[source]),
        text=TextConfig(vocab_size=100, max_length=10),
        model=ModelConfig(size="tiny"),
    )
    table = open_pairs(source)
    student = build_student(recipe, table, lambda line: None)
    student.model.save_pretrained(tmp_path / "model")
    student.preprocessing.save(tmp_path / "model")
    further = replace(recipe, model=ModelConfig(checkpoint=str(tmp_path / "model")))
    other = table.select([row for row, text in enumerate(table.values("captions")) if "red" in text[0]])
    with pytest.raises(CheckpointError, match=r"another tokenizer .*; set text\.tokenizer to that folder"):
        build_student(further, other, lambda line: None)
    own = replace(further, text=replace(recipe.text, tokenizer=str(tmp_path / "model")))
    assert len(build_student(own, other, lambda line: None).preprocessing.tokenizer) == student.model.config.vocab_size
    with pytest.raises(ConfigError, match=r"'train' makes tokens that minilm does not know; set text\.tokenizer"):
        replace(recipe, model=ModelConfig(text_checkpoint="minilm"))


def test_a_tokenizer_is_trained_on_a_share_of_many_captions(squares: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = open_pairs(str(squares / "pairs.jsonl"))
    config, lines = TextConfig(vocab_size=100, max_length=10), list[str]()
    whole = build_tokenizer(config, table, lines.append)
    assert not lines
    monkeypatch.setattr("truepair.methods.student._CORPUS", table.caption_count // 2)
    tokenizer = build_tokenizer(config, table, lines.append)
    assert re.fullmatch(r"the tokenizer is trained on \d+ of \d+ captions, and knows the characters of all", lines[0])
    assert tokenizer.get_vocab() == build_tokenizer(config, table.select(range(len(table))[::-1]), print).get_vocab()
    pieces = {piece for piece in whole.get_vocab() if len(piece.removeprefix("##")) == 1}
    assert pieces <= tokenizer.get_vocab().keys()
