import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.models.tiny_albef import tiny_model
from truepair.errors import CheckpointError, ConfigError
from truepair.models.checkpoints.official import load_official, official_names, to_official_names

RECORDING = Path(__file__).parents[2] / "data" / "golden" / "albef_step_1"
HEADS = {"num_attention_heads": 4, "image_encoder": {"num_attention_heads": 4}}


@pytest.fixture
def student() -> dict[str, Tensor]:
    return load_file(RECORDING / "model.safetensors")


@pytest.mark.parametrize("file", ["model.safetensors", "discriminator.safetensors"])
def test_to_our_names_and_back_changes_nothing(file: str) -> None:
    recorded = load_file(RECORDING / file)
    back = to_official_names(load_official(RECORDING / file, **HEADS))
    assert back.keys() == recorded.keys()
    assert all(torch.equal(back[name], recorded[name]) for name in recorded)


def test_sizes_are_read_off_the_tensors() -> None:
    model = load_official(RECORDING, hidden_dropout_prob=0.3, **HEADS)
    recorded = json.loads((RECORDING / "expected.json").read_text())["config"]
    config = model.config
    assert (config.text_layers, config.fusion_layers) == (recorded["text_layers"], recorded["fusion_layers"])
    assert (config.hidden_size, config.embed_dim) == (recorded["width"], recorded["embed_dim"])
    assert (config.vocab_size, config.max_position_embeddings) == (recorded["vocab_size"], recorded["max_positions"])
    assert model.image_encoder.image_size == recorded["image_size"]
    assert config.tie_word_embeddings
    assert config.hidden_dropout_prob == 0.3
    assert not model.training


def test_a_bare_bert_without_heads_is_a_discriminator() -> None:
    model = load_official(RECORDING / "discriminator.safetensors", **HEADS)
    assert model.mlm_head is None
    assert not model.config.contrastive_head


def test_a_retrieval_checkpoint_has_a_bare_bert_and_projections(student: dict[str, Tensor]) -> None:
    bare = {name.replace(".bert.", "."): tensor for name, tensor in student.items() if ".cls." not in name}
    model = load_official(bare, **HEADS)
    assert model.mlm_head is None
    assert torch.equal(model.image_projection.weight, student["vision_proj.weight"])


def test_momentum_copies_and_queues_are_ignored(student: dict[str, Tensor]) -> None:
    extra = {"visual_encoder_m.cls_token": torch.ones(1), "text_encoder_m.bert.x": torch.ones(1)}
    extra |= {"vision_proj_m.weight": torch.ones(1), "text_proj_m.bias": torch.ones(1)}
    extra |= {name: torch.ones(1) for name in ("image_queue", "text_queue", "idx_queue", "queue_ptr")}
    load_official({**student, **extra}, **HEADS)


@pytest.mark.parametrize(
    "name",
    ["visual_encoder.blocks.0.attn.extra", "text_encoder.bert.pooler.dense.weight", "image_queue_2", "itm_head.scale"],
)
def test_an_unknown_name_is_an_error(name: str, student: dict[str, Tensor]) -> None:
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_official({**student, name: torch.ones(1)}, **HEADS)


def test_every_name_is_needed(student: dict[str, Tensor]) -> None:
    config = load_official(student, **HEADS).config
    for name in official_names(config):
        with pytest.raises(CheckpointError, match=r"no |lacks |names that ALBEF has not"):
            load_official({key: tensor for key, tensor in student.items() if key != name}, **HEADS)


def test_a_wrong_shape_is_an_error(student: dict[str, Tensor]) -> None:
    for name, shape in (("itm_head.bias", (3,)), ("visual_encoder.blocks.1.attn.qkv.weight", (2, 64))):
        with pytest.raises(CheckpointError, match="does not fit"):
            load_official({**student, name: torch.zeros(shape)}, **HEADS)
    with pytest.raises(CheckpointError, match="dimensions"):
        load_official({**student, "visual_encoder.pos_embed": torch.zeros(3)}, **HEADS)


def test_heads_that_cannot_be_guessed_must_be_stated(student: dict[str, Tensor]) -> None:
    assert load_official(student).config.num_attention_heads == 1  # 64 channels, as one head of the usual width
    with pytest.raises(CheckpointError, match="num_attention_heads"):
        load_official(to_official_names(tiny_model()))


def test_two_names_of_one_bias_must_agree(student: dict[str, Tensor]) -> None:
    name = "text_encoder.cls.predictions.decoder.bias"
    with pytest.raises(CheckpointError, match="twin"):
        load_official({**student, name: student[name] + 1}, **HEADS)


def test_an_untied_vocabulary_stays_untied(student: dict[str, Tensor]) -> None:
    name = "text_encoder.cls.predictions.decoder.weight"
    model = load_official({**student, name: student[name] + 1}, **HEADS)
    assert torch.equal(model.mlm_head.decoder.weight, student[name] + 1)
    words = model.text_encoder.embeddings.word_embeddings.weight
    assert torch.equal(words, student["text_encoder.bert.embeddings.word_embeddings.weight"])


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_pth_file_of_plain_tensors_is_read(wrapped: bool, student: dict[str, Tensor], tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pth"
    torch.save({"model": student, "epoch": 3} if wrapped else student, file)
    model = load_official(file, **HEADS)
    assert torch.equal(model.itm_head.linear.weight, student["itm_head.weight"])


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "damaged.safetensors").write_bytes(b"\x00" * 100)
    (tmp_path / "damaged.pth").write_bytes(b"no checkpoint")
    (tmp_path / "empty.pth").write_bytes(b"")
    save_file({"a": torch.ones(1)}, tmp_path / "other.safetensors")
    for name in ("list.pth", "damaged.safetensors", "damaged.pth", "empty.pth", "missing.pth"):
        with pytest.raises(CheckpointError, match=name) as caught:
            load_official(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="not an official checkpoint"):
        load_official(tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_official(tmp_path)


@pytest.mark.parametrize(
    "fields",
    [
        {"itm_product": True},
        {"text_pooling": "mean"},
        {"projection": "mlp"},
        {"image_encoder": {"model_type": "conv_stem"}},
    ],
)
def test_what_albef_cannot_hold_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="official"):
        to_official_names(tiny_model(**fields))


def test_our_own_models_go_there_and_back() -> None:
    model = tiny_model()
    heads = {"num_attention_heads": 4, "image_encoder": {"num_attention_heads": 2}}
    back = load_official(to_official_names(model), **heads).state_dict()
    assert all(torch.equal(tensor, back[name]) for name, tensor in model.state_dict().items())
