"""From a checkpoint file of another program to a folder, by the command, and what the folder computes."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.checkpoints.official_files import (
    albef,
    albef_state,
    blip,
    blip_state,
    retrieval_state,
    save_tokenizer,
)
from tests.models.folders import CAPTIONS, tokenizer
from tests.models.tiny_albef import batch
from truepair.cli.main import main
from truepair.data.preprocessing import OwnPreprocessing
from truepair.data.transforms import NORMALISATIONS
from truepair.errors import CheckpointError
from truepair.models.checkpoints.convert import ConvertOptions, open_checkpoint
from truepair.models.encoders.images import resize_images
from truepair.models.fusion.albef import AlbefModel
from truepair.models.fusion.blip import BlipFusionModel, BlipPreprocessing
from truepair.models.open import OpenedModel, open_model, open_own


class Options:
    """Stands for a class of another program, whose objects lie in its checkpoints."""

    def __init__(self) -> None:
        self.rate = 0.1


class EasyDict(dict[str, Any]):
    """The same, for one that is a dictionary."""


def convert(file: Path, folder: Path, *options: str) -> OpenedModel:
    """The folder that the command makes, opened."""
    main(["convert", str(file), str(folder), "--tokenizer", str(save_tokenizer(file.parent / "bert")), *options])
    return open_model(folder)


def wrapped(state: dict[str, Tensor], wrapper: str) -> Any:
    """A state dict as programs wrap it."""
    ema = {name: value + 1 if value.is_floating_point() else value for name, value in state.items()}
    options = argparse.Namespace(lr=1e-4, config=EasyDict(image_res=256), path=Path("x"), own=Options())
    return {
        "bare": state,
        "model": {"model": state, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}, "config": {}, "epoch": 29},
        "state_dict": {"state_dict": state, "args": options},
        "module.": {"module": {f"module.{name}": value for name, value in state.items()}},
        "_orig_mod.": {"state_dict": {f"module._orig_mod.{name}": value for name, value in state.items()}},
        "compiled part": {name.replace("_encoder.", "_encoder._orig_mod."): value for name, value in state.items()},
        "lightning": {
            "state_dict": {f"model.{name}": v for name, v in state.items()},
            "pytorch-lightning_version": "2",
        },
        "nested": {"model": {"state_dict": state}, "args": options},
        "ema": {"model_ema": ema, "model": state},
        "ema alone": {"model_ema": state, "epoch": 3},
        "parameters": {"model": {name: torch.nn.Parameter(v, requires_grad=False) for name, v in state.items()}},
    }[wrapper]


WRAPPERS = [
    "bare",
    "model",
    "state_dict",
    "module.",
    "_orig_mod.",
    "compiled part",
    "lightning",
    "nested",
    "ema",
    "ema alone",
    "parameters",
]


@torch.no_grad()
def features(model: AlbefModel) -> list[Tensor]:
    """Of images and captions, and logits of ITM."""
    output = model(*batch())
    return [output.image.features, output.text.features, output.itm_logits]


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_albef_before_fine_tuning_in_every_wrapper(wrapper: str, tmp_path: Path) -> None:
    model = albef()
    torch.save(wrapped(albef_state(model), wrapper), tmp_path / "ALBEF.pth")
    opened = convert(tmp_path / "ALBEF.pth", tmp_path / "out")
    assert isinstance(opened.model, AlbefModel)
    assert all(torch.equal(one, other) for one, other in zip(features(opened.model), features(model), strict=True))
    assert torch.equal(opened.model.temperature, model.temperature)
    assert opened.model.mlm_head is not None and opened.model.itm_trained


def test_albef_for_retrieval_in_half_precision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = albef().half()
    torch.save({"model": retrieval_state(model)}, tmp_path / "mscoco.pth")
    opened = convert(tmp_path / "mscoco.pth", tmp_path / "out")
    assert isinstance(opened.model, AlbefModel) and opened.model.mlm_head is None
    for one, other in zip(features(opened.model), features(model.float()), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    said = capsys.readouterr().err
    assert "mscoco.pth: ALBEF, GRIT-VLP or MAFA, fine-tuned for retrieval" in said
    assert "float16 becomes float32; left out: " in said and "of a momentum model, 4 of queues" in said
    assert "images of 16 px, normalised as for CLIP; captions of up to 30 tokens" in said


def test_the_older_format_and_safetensors_are_read(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model = albef()
    state = {name: value.clone() for name, value in albef_state(model).items()}
    torch.save(
        {"model": state, "args": argparse.Namespace(a=1)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False
    )
    save_file(state, tmp_path / "new.safetensors")
    for name in ("old.pth", "new.safetensors"):
        opened = convert(tmp_path / name, tmp_path / f"out-{name}")
        assert isinstance(opened.model, AlbefModel)
        assert torch.equal(features(opened.model)[2], features(model)[2])


def test_the_preprocessing_is_the_official_one(tmp_path: Path) -> None:
    torch.save(albef_state(albef()), tmp_path / "ALBEF.pth")
    own = convert(tmp_path / "ALBEF.pth", tmp_path / "out").preprocessing
    assert isinstance(own, OwnPreprocessing)
    assert (own.max_length, own.add_sep, own.normalise) == (30, False, True)  # [CLS] and words, without [SEP]
    assert (own.transform.size, own.transform.normalisation) == (16, "clip")
    assert (own.transform.interpolation, own.transform.evaluation_resize) == ("bicubic", "squash")
    assert own.statistics == NORMALISATIONS["clip"]
    ids, _ = own.collator().encode(["A small, red square!"])
    named = tokenizer(40).convert_ids_to_tokens(ids[0].tolist())
    assert named[0] == "[CLS]" and "".join(named[1:]).replace("##", "") == "asmallredsquare"


def test_of_several_weights_the_trained_ones_are_taken_and_others_can_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = albef()
    torch.save(wrapped(albef_state(model), "ema"), tmp_path / "both.pth")
    trained = convert(tmp_path / "both.pth", tmp_path / "out").model
    assert "the weights under model are taken; it also has model_ema (--weights NAME)" in capsys.readouterr().err
    average = convert(tmp_path / "both.pth", tmp_path / "ema", "--weights", "model_ema").model
    assert isinstance(trained, AlbefModel) and isinstance(average, AlbefModel)
    assert torch.equal(trained.image_projection.weight, model.image_projection.weight)
    assert torch.equal(average.image_projection.weight, model.image_projection.weight + 1)
    with pytest.raises(CheckpointError, match=r"has no weights 'model_em' .did you mean 'model_ema'.*; it has model_e"):
        open_checkpoint(tmp_path / "both.pth", print, ConvertOptions(weights="model_em"))


@torch.no_grad()
def test_positions_are_interpolated_and_it_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = albef()
    torch.save(albef_state(model), tmp_path / "ALBEF.pth")
    opened = convert(tmp_path / "ALBEF.pth", tmp_path / "out", "--image-size", "32")
    assert "position embeddings are interpolated from 16 to 32 px" in capsys.readouterr().err
    pixels = torch.randn(2, 3, 32, 32)
    resize_images(model, 32)
    assert torch.equal(opened.model.encode_images(pixels).features, model.eval().encode_images(pixels).features)
    assert opened.preprocessing.images()(picture()).shape == (3, 32, 32)

    torch.save(blip_state(blip()), tmp_path / "blip.pth")
    opened = convert(tmp_path / "blip.pth", tmp_path / "blip", "--image-size", "32")
    states = blip().vision_model(pixel_values=pixels, interpolate_pos_encoding=True).last_hidden_state
    torch.testing.assert_close(opened.model.image_states(pixels), states)
    assert opened.preprocessing.images()(picture()).shape == (3, 32, 32)


def picture() -> Any:
    from PIL import Image

    return Image.new("RGB", (40, 30), (200, 30, 90))


@torch.no_grad()
@pytest.mark.parametrize("base", [False, True], ids=["retrieval", "base"])
def test_blip_computes_what_transformers_does(base: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = blip()
    torch.save({"model": blip_state(model, base=base)}, tmp_path / "model_base_retrieval_coco.pth")
    opened = convert(tmp_path / "model_base_retrieval_coco.pth", tmp_path / "out")
    assert ("of the caption decoder" in capsys.readouterr().err) == base
    made, own = opened.model, opened.preprocessing
    assert isinstance(made, BlipFusionModel) and isinstance(own, BlipPreprocessing)
    assert made.temperature.item() == pytest.approx(0.05) and made.kind == "BlipForImageTextRetrieval"
    pixels = torch.randn(len(CAPTIONS), 3, 16, 16)
    ids, mask = own.collator().encode(CAPTIONS)
    images, texts = made.encode_images(pixels), made.encode_texts(ids, mask)
    expected = model(ids, pixels, use_itm_head=False, attention_mask=mask).itm_score
    torch.testing.assert_close(images.features @ texts.features.T, expected)
    ids[:, 0] = 41  # [ENC], the last of the vocabulary
    logits = model(ids, pixels, use_itm_head=True, attention_mask=mask).itm_score
    fused = made.fuse(texts.states, mask, made.image_keys_values(images.states), cls_only=True)
    torch.testing.assert_close(made.match(fused), logits)
    assert logits.std() > 0.01


def test_blips_preprocessing_is_the_official_one(tmp_path: Path) -> None:
    torch.save(blip_state(blip()), tmp_path / "blip.pth")
    own = convert(tmp_path / "blip.pth", tmp_path / "out").preprocessing
    pixels = own.images()(picture())
    mean, std = (torch.tensor(values) for values in NORMALISATIONS["clip"])
    expected = (torch.tensor([200, 30, 90]) / 255 - mean) / std
    torch.testing.assert_close(pixels.mean(dim=(1, 2)), expected, rtol=0, atol=1e-3)
    assert pixels.shape == (3, 16, 16) and own.max_length == 35
    clean, odd = own.tokenization(["a small red square"])[0], own.tokenization(['A  "small" (red) SQUARE.'])[0]
    assert clean == odd and clean[0] == 2 and clean[-1] == 3  # [CLS] and [SEP]
    assert len(own.tokenization(["a " * 50])[0]) == 32  # thirty words, as BLIP's programs cut captions
    assert own.cut(["a " * 50, "a dog"]) == [0]


def test_blips_folder_is_one_of_transformers_and_saves_its_temperature(tmp_path: Path) -> None:
    from transformers import AutoProcessor, BlipForImageTextRetrieval

    torch.save(blip_state(blip()), tmp_path / "blip.pth")
    opened = convert(tmp_path / "blip.pth", tmp_path / "out")
    again = BlipForImageTextRetrieval.from_pretrained(tmp_path / "out")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in blip().state_dict().items())
    AutoProcessor.from_pretrained(tmp_path / "out")
    assert isinstance(opened.model, BlipFusionModel)
    with torch.no_grad():
        opened.model.temp.fill_(0.2)
    opened.model.save_pretrained(tmp_path / "trained")
    opened.preprocessing.save(tmp_path / "trained")
    assert open_model(tmp_path / "trained").model.temperature.item() == pytest.approx(0.2)
    twin = opened.model.blank()
    twin.load_state_dict(opened.model.state_dict())
    assert twin.temperature.item() == pytest.approx(0.2)


def test_a_tokenizer_is_a_folder_a_vocabulary_or_lies_beside_the_file(tmp_path: Path) -> None:
    torch.save(albef_state(albef()), tmp_path / "ALBEF.pth")
    entries = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "square"]
    (tmp_path / "vocab.txt").write_text("\n".join(entries) + "\n")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "vocab.txt").write_text("\n".join(entries) + "\n")
    for named in (None, str(tmp_path / "vocab.txt"), str(tmp_path / "other")):
        _, own = open_checkpoint(tmp_path / "ALBEF.pth", print, ConvertOptions(tokenizer=named))
        assert own.tokenization(["A red square."]) == [[2, 5, 6, 7]]
    _, own = open_own(tmp_path / "ALBEF.pth", print)
    assert own.tokenization(["A red square."]) == [[2, 5, 6, 7]]


def test_what_is_said_of_a_tokenizer_that_is_not_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.save(albef_state(albef()), tmp_path / "ALBEF.pth")
    with pytest.raises(CheckpointError, match="reads 60 tokens, which are not those of bert-base-uncased; give the"):
        open_checkpoint(tmp_path / "ALBEF.pth", print)
    nowhere = ConvertOptions(tokenizer=str(tmp_path / "nowhere"))
    with pytest.raises(
        CheckpointError, match=r"is not at hand and cannot be fetched; give its folder or vocab\.t"
    ) as caught:
        open_checkpoint(tmp_path / "ALBEF.pth", print, nowhere)
    assert "\n" not in str(caught.value)
    torch.save(albef_state(albef(vocab_size=20)), tmp_path / "small.pth")
    many = ConvertOptions(tokenizer=str(save_tokenizer(tmp_path / "bert")))
    with pytest.raises(CheckpointError, match=r"has 40 entries, and .* reads 20; give the one that it was trained"):
        open_checkpoint(tmp_path / "small.pth", print, many)


def test_heads_of_other_widths_are_said_and_can_be_stated(tmp_path: Path) -> None:
    from tests.models.tiny_albef import VIT, tiny_model

    narrow = tiny_model(
        image_encoder=VIT | {"num_attention_heads": 4, "layer_norm_eps": 1e-6}, max_position_embeddings=40
    )
    torch.save(albef_state(narrow), tmp_path / "narrow.pth")
    lines: list[str] = []
    bert = str(save_tokenizer(tmp_path / "bert"))
    open_checkpoint(tmp_path / "narrow.pth", lines.append, ConvertOptions(tokenizer=bert))
    assert any("the image tower has 1 attention heads of 24 channels (--heads N)" in line for line in lines)
    made, _ = open_checkpoint(tmp_path / "narrow.pth", lines.append, ConvertOptions(tokenizer=bert, heads=4))
    assert isinstance(made, AlbefModel)
    assert all(torch.equal(one, other) for one, other in zip(features(made), features(narrow), strict=True))
    with pytest.raises(CheckpointError, match="24 channels of the image tower do not split into 5 heads; give --heads"):
        open_checkpoint(tmp_path / "narrow.pth", lines.append, ConvertOptions(tokenizer=bert, heads=5))


def test_a_name_that_does_not_belong_there_is_told_with_the_file_and_the_layout(tmp_path: Path) -> None:
    bert = str(save_tokenizer(tmp_path / "bert"))
    torch.save({**albef_state(albef()), "vision_gate.weight": torch.ones(1)}, tmp_path / "tcl.pth")
    message = (
        r"tcl\.pth looks like ALBEF, .* before fine-tuning, but .* 1 names that ALBEF has not: vision_gate\.weight"
    )
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(tmp_path / "tcl.pth", print, ConvertOptions(tokenizer=bert))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.pth", "out"], "there is no file nowhere.pth; check the path"),
        (["ALBEF.pth"], "give the checkpoint and a new folder"),
        (["ALBEF.pth", "taken"], "taken is there, and not empty; give another folder, or remove it"),
        (["ALBEF.pth", "out", "--image-size", "-1"], "image-size is -1; give 1 or more"),
        (["ALBEF.pth", "out", "--image-size", "30"], "reads patches of 8 px; give a multiple of that"),
        (["ALBEF.pth", "out", "--architecture", "ViT-B-32"], "--architecture is for models of open_clip"),
        (["ALBEF.pth", "out", "--tokeniser", "x"], "did you mean"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(albef_state(albef()), "ALBEF.pth")
    save_tokenizer(Path("taken"))
    with pytest.raises(SystemExit):
        main(["convert", *words])
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("truepair: ") and message in last
    assert not Path("out").exists()


def test_a_file_that_is_missing_is_not_sought_on_the_hub() -> None:
    with pytest.raises(CheckpointError, match=r"there is no checkpoint file ALBEF\.pth; check the path"):
        open_model("ALBEF.pth")


def test_a_file_without_a_listener_warns(tmp_path: Path) -> None:
    torch.save(albef_state(albef()), tmp_path / "ALBEF.pth")
    for file in save_tokenizer(tmp_path / "bert").iterdir():
        file.rename(tmp_path / file.name)
    with pytest.warns(UserWarning, match="ALBEF.pth: ALBEF, GRIT-VLP or MAFA before fine-tuning"):
        assert isinstance(open_model(tmp_path / "ALBEF.pth").model, AlbefModel)
