"""BLIP-2 stage 2 is `Blip2ForConditionalGeneration` of transformers: its logits, loss, captions and files."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoProcessor,
    Blip2Config,
    Blip2ForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

from tests.judges.tiny_judges import save_blip2
from tests.models.tiny_language import KINDS, language_tokenizer, save_blip2_language, save_language_model
from truepair.data.open import open_pairs
from truepair.data.tasks.captioning import CaptionBatch
from truepair.errors import CheckpointError, ConfigError
from truepair.models import build_image_encoder
from truepair.models.checkpoints.blip2 import new_blip2
from truepair.models.checkpoints.blip2_language import (
    join_language_model,
    load_language_model,
    new_language_model,
    open_blip2_language,
)
from truepair.models.fusion.blip2 import open_blip2_folder
from truepair.models.fusion.blip2_language import Blip2LanguageModel
from truepair.models.fusion.language_adapter import add_language_lora
from truepair.models.open import blip2_stage, open_model

PROMPTS = ["a photo of", "a", "a small red"]
TEXTS = ["red square", "small", "large green square"]


@pytest.fixture(scope="module")
def folders(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    table, root = open_pairs(squares / "pairs.jsonl"), tmp_path_factory.mktemp("language")
    return {kind: save_blip2_language(root / kind, table, kind) for kind in KINDS}


def pixels() -> Tensor:
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def theirs(folder: Path) -> Any:
    """What transformers makes of a folder, of which it misses nothing."""
    model, told = Blip2ForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"]
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_logits_and_loss_are_those_of_transformers(folders: dict[str, Path], kind: str) -> None:
    (model, preprocessing), reference = open_blip2_language(folders[kind]), theirs(folders[kind])
    tokens, states = preprocessing.encode(TEXTS, PROMPTS), model.image_states(pixels())
    rows = torch.tensor([2, 0, 0])
    logits = model.logits(states, rows, model.text_states(tokens.input_ids), tokens.attention_mask)
    likelihoods = model.log_likelihoods(states, rows, *tokens)
    index, queries = reference.config.image_token_index, model.queries
    for row, image in enumerate(rows):
        length = int(tokens.attention_mask[row].sum())
        ids = torch.cat([torch.full((1, queries), index), tokens.input_ids[row : row + 1, :length]], dim=1)
        written = torch.cat([torch.zeros(queries, dtype=torch.bool), tokens.written[row, :length]])
        said = reference(pixels()[image : image + 1], ids, labels=ids.masked_fill(~written, -100))
        torch.testing.assert_close(logits[row, : length + 1], said.logits[0, queries - 1 :], atol=1e-5, rtol=1e-5)
        assert float(likelihoods[row]) == pytest.approx(-float(said.loss) * int(written.sum()), abs=1e-4)
    assert logits.std() > 0.1 and likelihoods.std() > 0.1


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_what_it_writes_is_what_transformers_writes(folders: dict[str, Path], kind: str) -> None:
    (model, preprocessing), reference = open_blip2_language(folders[kind]), theirs(folders[kind])
    states, rows, asked = model.image_states(pixels()), torch.arange(3), {"num_beams": 3, "length_penalty": 0.5}
    ours = {"beams": 3, "length_penalty": 0.5, "max_length": 8, "min_length": 2}
    limits = {"max_new_tokens": 8, "min_new_tokens": 2}
    bare = model.write(states, rows, *preprocessing.encode_prompts([""] * 3), **ours)
    generated = reference.generate(pixels(), **asked, **limits)[:, model.queries + 1 :]
    assert bare == [_until_end(row, preprocessing.end) for row in generated.tolist()]
    behind = model.write(states, rows, *preprocessing.encode_prompts(PROMPTS), **ours)
    processor = AutoProcessor.from_pretrained(folders[kind])
    for image, prompt in enumerate(PROMPTS):  # one by one, without padding
        read = processor(images=Image.new("RGB", (16, 16)), text=prompt, return_tensors="pt")
        said = reference.generate(
            pixels()[image : image + 1],
            input_ids=read["input_ids"],
            attention_mask=read["attention_mask"],
            **asked,
            **limits,
        )
        assert behind[image] == _until_end(said[0, read["input_ids"].shape[1] :].tolist(), preprocessing.end)
    assert len({*map(tuple, bare), *map(tuple, behind)}) > 3  # not one text whatever is asked


def _until_end(row: list[int], end: int) -> list[int]:
    return row[: row.index(end)] if end in row else row


def test_tokens_of_prompts_are_read_and_not_learned(folders: dict[str, Path]) -> None:
    _, preprocessing = open_blip2_language(folders["gpt2"])
    tokens, tokenizer = preprocessing.encode(TEXTS, ["a photo of", "", " a small red "]), preprocessing.tokenizer
    rows = [
        (tokenizer.convert_ids_to_tokens(ids[mask.bool()]), tokenizer.convert_ids_to_tokens(ids[written]))
        for ids, mask, written in zip(*tokens, strict=True)
    ]
    assert rows[0] == (["[CLS]", "a", "photo", "of", "red", "square", "[SEP]"], ["red", "square", "[SEP]"])
    assert rows[1] == (["[CLS]", "small", "[SEP]"], ["small", "[SEP]"])
    assert rows[2][0][:4] == ["[CLS]", "a", "small", "red"] and rows[2][1] == ["large", "green", "square", "[SEP]"]
    prompted = preprocessing.prompted("a photo of")
    assert all(
        torch.equal(*pair)
        for pair in zip(prompted.encode(TEXTS[:1]), preprocessing.encode(TEXTS[:1], ["a photo of"]), strict=True)
    )
    ids, mask = prompted.encode_prompts(["a photo of", ""])
    assert mask.sum(dim=1).tolist() == [4, 1] and ids[0].tolist() == tokens.input_ids[0, :4].tolist()


def test_a_text_that_is_cut_lacks_its_end(folders: dict[str, Path]) -> None:
    _, preprocessing = open_blip2_language(folders["gpt2"])
    short = preprocessing.__class__(**{**vars(preprocessing), "max_length": 3})
    ids = short.encode(["large green square"]).input_ids
    assert ids.shape == (1, 3) and preprocessing.end not in ids
    assert short.cut(["large green square", "small"]) == [0]


@torch.no_grad()
def test_the_queries_see_what_they_saw_in_the_first_stage(folders: dict[str, Path]) -> None:
    first, _ = open_blip2_folder(str(folders["opt"].with_name("opt-first")))
    model, _ = open_blip2_language(folders["opt"])
    states = first.image_states(pixels())
    queries = first.model.query_tokens.expand(3, -1, -1)
    read = first.model.qformer(query_embeds=queries, encoder_hidden_states=states).last_hidden_state
    torch.testing.assert_close(model.seen(states), model.model.language_projection(read))
    assert not any("intermediate.dense" in name for name in model.model.qformer.state_dict()), "that is for texts"


def test_a_language_model_that_rests_gets_no_gradient_and_no_dropout(folders: dict[str, Path]) -> None:
    model, preprocessing = open_blip2_language(folders["gpt2"])
    batch = _batch(preprocessing)
    model.train()
    assert not model.text_encoder.training and model.model.qformer.training
    model.loss(batch).backward()
    moved = {name.split(".")[1] for name, weight in model.named_parameters() if weight.grad is not None}
    assert moved == {"vision_model", "query_tokens", "qformer", "language_projection"}
    assert all(weight.grad is not None for name, weight in model.named_parameters() if "language_model" not in name)
    model.rest_language(False)
    assert model.text_encoder.training
    model.loss(batch).backward()
    assert all(weight.grad is not None for weight in model.parameters())


def _batch(preprocessing: Any) -> CaptionBatch:
    rows = torch.arange(3)
    ids, mask, written = preprocessing.encode(TEXTS)
    return CaptionBatch(pixels(), rows, rows, ids, mask, rows, TEXTS, written)


def test_the_token_of_images_is_never_the_likeliest(squares: Path, tmp_path: Path) -> None:
    """A vocabulary that grows by it gives it the mean of the other rows, so its logit is their mean."""
    table = open_pairs(squares / "pairs.jsonl")
    language, tokenizer = load_language_model(str(save_language_model(tmp_path / "gpt2", table)))
    before = language.get_input_embeddings().weight.detach().clone()
    first, images = open_blip2_folder(str(save_blip2(tmp_path / "first", table)))
    model, preprocessing = join_language_model(first, images.processor, language, tokenizer, "gpt2")
    table_now = model.text_encoder.get_input_embeddings().weight
    assert len(table_now) == len(before) + 1 == model.model.config.text_config.vocab_size
    assert torch.equal(table_now[:-1], before)
    with torch.no_grad():
        tokens = preprocessing.encode(TEXTS)
        embedded = model.text_states(tokens.input_ids)
        logits = model.eval().logits(model.image_states(pixels()), torch.arange(3), embedded, tokens.attention_mask)
    torch.testing.assert_close(logits[..., -1], logits[..., :-1].mean(dim=-1), atol=1e-4, rtol=1e-4)


def test_lora_is_saved_as_part_of_the_weights_and_goes_on_as_it_was(folders: dict[str, Path], tmp_path: Path) -> None:
    pytest.importorskip("peft")
    model, preprocessing = open_blip2_language(folders["llama"])
    torch.manual_seed(0)
    add_language_lora(model.text_encoder, rank=2, alpha=8, dropout=0.5)
    trained = [name for name, weight in model.text_encoder.named_parameters() if weight.requires_grad]
    assert trained and all("lora_" in name for name in trained) and not any("lm_head" in name for name in trained)
    model.train()
    layer = model.text_encoder.model.layers[0].mlp.up_proj
    assert layer.lora_dropout.training and not model.text_encoder.model.layers[0].training
    with torch.no_grad():
        for name, weight in model.text_encoder.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.3)
    model.eval().save_pretrained(tmp_path)
    preprocessing.save(tmp_path)
    tokens, states, rows = preprocessing.encode(TEXTS), model.image_states(pixels()), torch.arange(3)
    with torch.no_grad():
        expected = model.log_likelihoods(states, rows, *tokens)
        plain = open_blip2_language(folders["llama"])[0].log_likelihoods(states, rows, *tokens)
        assert (expected - plain).abs().max() > 0.1
        merged = open_blip2_language(tmp_path)[0]
        torch.testing.assert_close(merged.log_likelihoods(states, rows, *tokens), expected, atol=1e-4, rtol=1e-4)
        assert not any("lora" in name for name in merged.state_dict())
        theirs(tmp_path)
    again, own = Blip2LanguageModel.from_pretrained(tmp_path).state_dict(), model.state_dict()
    assert again.keys() == own.keys() and all(torch.equal(again[name], own[name]) for name in own)
    blank = model.blank()
    blank.load_state_dict(own)
    with pytest.raises(
        ConfigError,
        match=r"lora\.targets: no linear layer of the language model is called .nowhere.; it has c_attn, c_fc",
    ):
        add_language_lora(
            open_blip2_language(folders["gpt2"])[0].text_encoder, rank=2, alpha=8, dropout=0, targets=["nowhere"]
        )


@torch.no_grad()
def test_another_image_tower_is_saved_beside_the_rest(squares: Path, tmp_path: Path) -> None:
    table = open_pairs(squares / "pairs.jsonl")
    _, images = open_blip2_folder(str(save_blip2(tmp_path / "first", table)))
    torch.manual_seed(0)
    vision = build_image_encoder({"model_type": "conv_stem", "image_size": 16})
    first = new_blip2("tiny", {"num_query_tokens": 3}, 30, None, vision=vision)
    tokenizer = language_tokenizer(table)
    language = new_language_model({"model_type": "gpt2", **KINDS["gpt2"]}, tokenizer)
    model, preprocessing = join_language_model(first, images.processor, language, tokenizer, "gpt2")
    model.eval().save_pretrained(tmp_path / "model")
    preprocessing.save(tmp_path / "model")
    again, _ = open_blip2_language(tmp_path / "model")
    torch.testing.assert_close(again.seen(again.image_states(pixels())), model.seen(model.image_states(pixels())))


@torch.no_grad()
def test_a_language_model_without_start_padding_and_limit(squares: Path, tmp_path: Path) -> None:
    """Bloom has no position embeddings, Qwen no start token, GPT-2 no padding."""
    table = open_pairs(squares / "pairs.jsonl")
    tokenizer = language_tokenizer(table)
    language = new_language_model({"model_type": "bloom", "hidden_size": 32, "n_layer": 1, "n_head": 2}, tokenizer)
    language.config.bos_token_id, tokenizer.pad_token = None, None
    first, images = open_blip2_folder(str(save_blip2(tmp_path / "first", table)))
    model, preprocessing = join_language_model(first, images.processor, language, tokenizer, "bloom")
    model.eval().save_pretrained(tmp_path / "model")
    preprocessing.save(tmp_path / "model")
    assert preprocessing.start == preprocessing.end == 3 and model.longest > 10**9
    states, rows = model.image_states(pixels()), torch.arange(3)
    written = model.write(states, rows, *preprocessing.encode_prompts(["", "a photo of", ""]), beams=2, max_length=5)
    assert preprocessing.encode_prompts(["", "a"])[0][0].tolist() == [3, 3]
    again, read = open_blip2_language(tmp_path / "model")
    assert written == again.write(states, rows, *read.encode_prompts(["", "a photo of", ""]), beams=2, max_length=5)
    made = theirs(tmp_path / "model").generate(pixels(), num_beams=2, max_new_tokens=5)[:, model.queries + 1 :].tolist()
    assert [written[0], written[2]] == [_until_end(made[row], 3) for row in (0, 2)]


def test_encoders_and_decoders_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    sizes = {"d_model": 32, "d_ff": 32, "num_layers": 1, "num_heads": 2, "d_kv": 16, "vocab_size": 40}
    T5ForConditionalGeneration(T5Config(**sizes)).save_pretrained(tmp_path / "t5")
    with pytest.raises(ConfigError, match="the language model is a t5, which encodes and decodes; give one that only"):
        load_language_model(str(tmp_path / "t5"))
    config = Blip2Config.from_pretrained(folders["gpt2"]).to_dict() | {"text_config": T5Config(**sizes).to_dict()}
    Blip2ForConditionalGeneration(Blip2Config(**config)).save_pretrained(tmp_path / "flan")
    with pytest.raises(ConfigError, match="the language model is a t5, which encodes and decodes"):
        open_blip2_language(tmp_path / "flan")


def test_what_is_no_language_model_is_said(squares: Path, tmp_path: Path) -> None:
    tokenizer = language_tokenizer(open_pairs(squares / "pairs.jsonl"))
    with pytest.raises(ConfigError, match=r"model_type is 'gtp2' \(did you mean 'gpt2'\?\); give a kind of language"):
        new_language_model({"model_type": "gtp2"}, tokenizer)
    with pytest.raises(ConfigError, match="a gpt2 has no field 'n_embed'"):
        new_language_model({"model_type": "gpt2", "n_embed": 32}, tokenizer)
    with pytest.raises(ConfigError, match=r"vocab_size is that of the tokenizer; drop it"):
        new_language_model({"model_type": "gpt2", "vocab_size": 32}, tokenizer)
    with pytest.raises(ConfigError, match="no gpt2 can be made of them"):
        new_language_model({"model_type": "gpt2", "n_embd": 33, "n_head": 2}, tokenizer)
    with pytest.raises(ConfigError, match="is a blip-2, which transformers has no language model of"):
        load_language_model(str(save_blip2(tmp_path / "first", open_pairs(squares / "pairs.jsonl"))))
    with pytest.raises(CheckpointError, match="no model in"):
        load_language_model(str(tmp_path / "none"))


def test_folders_that_do_not_fit_together_are_said(folders: dict[str, Path], tmp_path: Path) -> None:
    assert [blip2_stage(folders["gpt2"]), blip2_stage(folders["gpt2"].with_name("gpt2-first"))] == [2, 1]
    with pytest.raises(ConfigError, match="is a BLIP-2 with a language model, which writes, and compares no pictures"):
        open_model(folders["gpt2"])
    model, preprocessing = open_blip2_language(folders["gpt2"])
    model.save_pretrained(tmp_path)
    preprocessing.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"image_token_index": 3}))
    with pytest.raises(CheckpointError, match="the queries stand at token 3, and its tokenizer that <image> is"):
        open_blip2_language(tmp_path)
    config["vision_config"]["image_size"] = 24
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError):
        open_blip2_language(tmp_path)


def test_a_model_of_transformers_without_our_settings_is_opened(folders: dict[str, Path], tmp_path: Path) -> None:
    """As it is on the hub: the processor beside it, and no prompt."""
    model = theirs(folders["opt"])
    model.save_pretrained(tmp_path)
    AutoProcessor.from_pretrained(folders["opt"]).save_pretrained(tmp_path)
    opened, preprocessing = open_blip2_language(tmp_path)
    assert (preprocessing.prompt, preprocessing.max_length, opened.queries) == ("", 32, 3)
    assert isinstance(opened.text_encoder, type(AutoModelForCausalLM.from_config(model.config.text_config)))
