import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    AltCLIPConfig,
    AltCLIPModel,
    AutoImageProcessor,
    AutoTokenizer,
    BertConfig,
    BertModel,
    ChineseCLIPConfig,
    ChineseCLIPModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    MetaClip2Config,
    MetaClip2Model,
    PreTrainedModel,
    SiglipConfig,
    SiglipModel,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    ViTConfig,
)

from truepair.data.tokens import tokenize_captions, train_wordpiece
from truepair.data.transforms import TransformConfig
from truepair.errors import CheckpointError, ConfigError
from truepair.models import DualEncoder, FusionModel, HubDualEncoder
from truepair.models.dual.hub import HubPreprocessing, open_hub
from truepair.models.encoders.frozen_captions import cache_caption_states
from truepair.models.fusion.gallery import encode_captions, encode_images

WIDTHS = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
# Large enough that nothing vanishes in the noise.
VISION = {**WIDTHS, "image_size": 16, "patch_size": 8, "initializer_range": 0.2}
END, PAD = 3, 0
TEXT = {**WIDTHS, "vocab_size": 40, "max_position_embeddings": 12, "initializer_range": 0.2}
TEXT |= {"bos_token_id": 2, "eos_token_id": END, "pad_token_id": PAD}


def clip() -> PreTrainedModel:
    return CLIPModel(CLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=8))


def metaclip_2() -> PreTrainedModel:
    return MetaClip2Model(MetaClip2Config(text_config=TEXT, vision_config=VISION, projection_dim=8))


def chinese_clip() -> PreTrainedModel:
    return ChineseCLIPModel(ChineseCLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=8))


def altclip() -> PreTrainedModel:
    text = {**TEXT, "project_dim": 8, "max_position_embeddings": 14}  # positions start behind that of the padding
    return AltCLIPModel(AltCLIPConfig(text_config=text, vision_config=VISION, projection_dim=8))


def vit_and_bert() -> PreTrainedModel:
    vision, text = ViTConfig(**VISION), BertConfig(**TEXT)
    return VisionTextDualEncoderModel(
        VisionTextDualEncoderConfig.from_vision_text_configs(vision, text, projection_dim=8)
    )


def siglip() -> PreTrainedModel:
    text = {**TEXT, "projection_size": 24}
    return SiglipModel(SiglipConfig(text_config=text, vision_config=VISION))


FAMILIES = [clip, metaclip_2, chinese_clip, altclip, vit_and_bert, siglip]
Family = Callable[[], PreTrainedModel]


@pytest.fixture(params=FAMILIES, ids=lambda family: family.__name__)
def model(request: pytest.FixtureRequest) -> PreTrainedModel:
    return seeded(request.param)


def seeded(family: Family) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return family().eval()


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Pixels [3, 3, 16, 16], token ids and mask [3, 7] of captions of 7, 5 and 4 tokens, the last one the end."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 40, (3, 7), generator=generator)
    mask = torch.ones_like(ids)
    for row, length in enumerate((7, 5, 4)):
        ids[row, 0], ids[row, length - 1] = 2, END
        ids[row, length:], mask[row, length:] = PAD, 0
    return torch.randn(3, 3, 16, 16, generator=generator), ids, mask


def librarys_own(model: PreTrainedModel, pixels: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Features as transformers makes them; for SigLIP as its tokenizer would pad the captions."""
    if isinstance(model, SiglipModel):
        text = model.get_text_features(input_ids=F.pad(ids, (0, 12 - ids.shape[1]), value=PAD))
    else:
        text = model.get_text_features(input_ids=ids, attention_mask=mask)
    image = model.get_image_features(pixel_values=pixels)
    return F.normalize(image.pooler_output, dim=1), F.normalize(text.pooler_output, dim=1)


def test_features_are_those_of_the_library(model: PreTrainedModel) -> None:
    pixels, ids, mask = inputs()
    dual = HubDualEncoder(model)
    images, texts = librarys_own(model, pixels, ids, mask)
    assert images.std(dim=0).min() > 1e-3 and texts.std(dim=0).min() > 1e-3  # they tell inputs apart
    torch.testing.assert_close(dual.encode_images(pixels).features, images, rtol=0, atol=1e-6)
    torch.testing.assert_close(dual.encode_texts(ids, mask).features, texts, rtol=0, atol=1e-6)
    output = model(
        pixel_values=pixels,
        input_ids=F.pad(ids, (0, 12 - ids.shape[1]), value=PAD) if dual.bias is not None else ids,
        attention_mask=mask if dual.bias is None else None,
    )
    logits = images @ texts.T / dual.temperature + (0 if dual.bias is None else dual.bias)
    torch.testing.assert_close(logits, output.logits_per_image, rtol=1e-4, atol=1e-4)
    assert images.shape[1] == dual.embed_dim


def test_states_suffice_for_the_features(model: PreTrainedModel) -> None:
    pixels, ids, mask = inputs()
    dual = HubDualEncoder(model)
    for whole, states, tower in (
        (dual.encode_images(pixels), dual.image_states(pixels), dual.image_tower(pixels)),
        (dual.encode_texts(ids, mask), dual.text_states(ids, mask), dual.text_tower(ids, mask)),
    ):
        assert torch.equal(whole.states, states) and torch.equal(states, tower) and states.shape[:2] == (3, 1)
    assert torch.equal(dual.project_image(dual.image_states(pixels)), dual.encode_images(pixels).features)
    assert torch.equal(dual.project_text(dual.text_states(ids, mask), mask), dual.encode_texts(ids, mask).features)
    # What stands on the padding, and how much there is of it, makes no difference.
    longer = F.pad(ids.masked_fill(mask == 0, 7), (0, 2), value=9), F.pad(mask, (0, 2))
    if isinstance(model, CLIPModel | MetaClip2Model | SiglipModel | VisionTextDualEncoderModel):
        torch.testing.assert_close(dual.encode_texts(*longer).features, dual.encode_texts(ids, mask).features)


def test_gradients_reach_all_that_is_trained(model: PreTrainedModel) -> None:
    pixels, ids, mask = inputs()
    dual = HubDualEncoder(model).train()
    assert {id(parameter) for parameter in dual.parameters()} == {id(parameter) for parameter in model.parameters()}

    def trained() -> set[str]:
        """Names of parameters that a sigmoid loss of three pairs gives a gradient."""
        dual.zero_grad()
        images, texts = dual.encode_images(pixels).features, dual.encode_texts(ids, mask).features
        logits = images @ texts.T / dual.temperature + (0 if dual.bias is None else dual.bias)
        F.logsigmoid(logits * torch.eye(3).mul(2).sub(1)).sum().backward()
        return {name for name, weight in model.named_parameters() if weight.grad is not None}

    everything = {name for name, _ in model.named_parameters()}
    assert trained() == everything and model.logit_scale.grad.abs() > 1e-3
    for frozen, other in (("image", "text"), ("text", "image")):
        dual.freeze(image=frozen == "image", text=frozen == "text").train()
        towers = {"image": model.vision_model, "text": model.text_model}
        assert not towers[frozen].training and towers[other].training
        prefix = {"image": "vision_model.", "text": "text_model."}[frozen]
        assert trained() == {name for name in everything if not name.startswith(prefix)}


def test_saved_folder_is_an_ordinary_one(model: PreTrainedModel, tmp_path: Path) -> None:
    tokenizer = train_wordpiece(["a red square", "a blue dot"], 40, min_frequency=1)
    processor = CLIPImageProcessor(size={"height": 16, "width": 16}, do_center_crop=False)
    HubDualEncoder(model).save_pretrained(tmp_path)
    HubPreprocessing(processor, tokenizer, 12, TransformConfig(size=16)).save(tmp_path)
    again, loading = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(loading.values())
    arrays = inputs()
    for one, other in zip(librarys_own(again, *arrays), librarys_own(model, *arrays), strict=True):
        assert torch.equal(one, other)
    assert AutoTokenizer.from_pretrained(tmp_path).get_vocab() == tokenizer.get_vocab()
    assert AutoImageProcessor.from_pretrained(tmp_path).size == processor.size
    found, preprocessing = open_hub(tmp_path)
    found.eval()
    assert type(found.model) is type(model) and preprocessing.max_length in (12, 13)  # AltCLIP's has one position more
    assert torch.equal(found.encode_images(arrays[0]).features, HubDualEncoder(model).encode_images(arrays[0]).features)


def test_towers_can_be_cached(model: PreTrainedModel, tmp_path: Path) -> None:
    captions = ["a red square", "a dot", "a small blue dot"]
    tokenizer = train_wordpiece(captions, 40, min_frequency=1)

    def encode(texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        return tokenize_captions(tokenizer, texts, max_length=12)

    dual = HubDualEncoder(model).freeze(image=True, text=True).train()
    cache = cache_caption_states(dual.text_tower, captions, encode, tmp_path)
    ids, mask = encode(captions)
    expected = dual.encode_texts(ids, mask)
    states, _ = cache.gather(captions)
    torch.testing.assert_close(states, expected.states, rtol=1e-3, atol=1e-3)  # kept in half precision
    torch.testing.assert_close(dual.project_text(states, mask), expected.features, rtol=1e-2, atol=1e-3)
    assert not dual.model.text_model.training


def test_galleries_hold_features_of_any_dual_encoder(model: PreTrainedModel) -> None:
    pixels, ids, mask = inputs()
    dual = HubDualEncoder(model)
    images = encode_images(dual, pixels.split(2))
    captions = encode_captions(dual, ["a", "b", "c"], lambda _: (ids, mask), batch_size=2)
    torch.testing.assert_close(images.features, dual.encode_images(pixels).features)
    torch.testing.assert_close(captions.features, dual.encode_texts(ids, mask).features)


def test_code_of_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    model = seeded(clip)
    HubDualEncoder(model).save_pretrained(tmp_path)
    (tmp_path / "own.py").write_text("raise SystemExit('was run')")
    config = json.loads((tmp_path / "config.json").read_text())
    for kind, auto_map in (("clip", {"AutoModel": "own.Own"}), ("own", {"AutoConfig": "own.Config"})):
        settings = config | {"model_type": kind, "auto_map": auto_map}
        (tmp_path / "config.json").write_text(json.dumps(settings))
        if kind == "clip":
            assert type(HubDualEncoder.from_pretrained(tmp_path).model) is CLIPModel
        else:
            with pytest.raises(CheckpointError, match=r"no model could be loaded from"):
                HubDualEncoder.from_pretrained(tmp_path)


def test_temperature_has_bounds_for_clip_alone() -> None:
    for family, scale, kept in ((clip, 7.0, 100.0), (clip, -1.0, 1.0), (siglip, 4.8, 121.51)):
        dual = HubDualEncoder(seeded(family))
        torch.nn.init.constant_(dual.model.logit_scale, scale)
        dual.clamp_temperature_()
        assert float(1 / dual.temperature.detach()) == pytest.approx(kept, rel=1e-4)
        assert dual.temperature.shape == () and (dual.bias is None or dual.bias.shape == ())


def test_a_dual_encoder_is_no_fusion_model() -> None:
    dual = HubDualEncoder(seeded(clip))
    assert isinstance(dual, DualEncoder) and not isinstance(dual, FusionModel)


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a BertModel has no get_image_features, so it is no dual encoder"):
        HubDualEncoder(BertModel(BertConfig(**TEXT)))
    with pytest.raises(CheckpointError, match=r"no model in .*nowhere, neither a folder nor a hub name"):
        HubDualEncoder.from_pretrained(tmp_path / "nowhere")
    seeded(clip).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError) as missing:
        open_hub(tmp_path)
    assert "\n" not in str(missing.value)
