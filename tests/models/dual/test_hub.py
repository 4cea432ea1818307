"""A transformers model as a dual encoder: states, gradients, freezing, caches, copies, temperature."""

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._dynamo.utils import counters
from transformers import BertConfig, BertModel, CLIPModel

from tests.models.dual.families import CAPTIONS, FAMILIES, Family, clip, pictures, siglip, tipsv2
from truepair.engine.distributed.accelerator import compile_layers
from truepair.engine.distributed.sharding import repeated_layers
from truepair.errors import ConfigError
from truepair.models import DualEncoder, FusionModel, HubDualEncoder
from truepair.models.encoders.fingerprint import encoder_fingerprint
from truepair.models.encoders.frozen_captions import cache_caption_states
from truepair.models.fusion.gallery import encode_captions, encode_images
from truepair.models.open import OpenedModel

FULL_LENGTH = ("siglip", "siglip2")
LOOKING_BACK = [family for family in FAMILIES if family.name in ("clip", "old_clip", "metaclip_2")]
SOME = [caption for caption in CAPTIONS if caption]  # TIPSv2 has no token for an empty one

Inputs = tuple[Tensor, Tensor, Tensor]


@pytest.fixture
def dual(opened: OpenedModel) -> HubDualEncoder:
    """A copy, free to be changed."""
    assert isinstance(opened.model, HubDualEncoder)
    return copy.deepcopy(opened.model)


@pytest.fixture
def inputs(opened: OpenedModel) -> Inputs:
    """Pixels of 4 pictures, token ids and mask of as many captions."""
    transform = opened.preprocessing.images()
    pixels = torch.stack([transform(image) for image in pictures()[:4]])
    return pixels, *opened.preprocessing.collator().encode(SOME[:4])


def loss(dual: HubDualEncoder, inputs: Inputs) -> Tensor:
    """A sigmoid loss of the pairs."""
    pixels, ids, mask = inputs
    images, texts = dual.encode_images(pixels).features, dual.encode_texts(ids, mask).features
    logits = images @ texts.T / dual.temperature + (0 if dual.bias is None else dual.bias)
    return -F.logsigmoid(logits * torch.eye(len(pixels)).mul(2).sub(1)).sum()


def gradients(dual: HubDualEncoder, inputs: Inputs) -> dict[str, Tensor]:
    dual.zero_grad()
    loss(dual, inputs).backward()
    return {name: weight.grad for name, weight in dual.model.named_parameters() if weight.grad is not None}


def library_gradients(dual: HubDualEncoder, family: Family) -> set[str]:
    """Names of the parameters that the library's own logits depend on."""
    images = family.processor()(images=pictures(), return_tensors="pt")
    captions = family.tokenizer()(SOME, return_tensors="pt", **family.texts)
    dual.zero_grad()
    dual.model(**images, **captions).logits_per_image.sum().backward()
    return {name for name, weight in dual.model.named_parameters() if weight.grad is not None}


def test_states_suffice_for_the_features(dual: HubDualEncoder, inputs: Inputs) -> None:
    pixels, ids, mask = inputs
    for whole, states, tower in (
        (dual.encode_images(pixels), dual.image_states(pixels), dual.image_tower(pixels)),
        (dual.encode_texts(ids, mask), dual.text_states(ids, mask), dual.text_tower(ids, mask)),
    ):
        assert torch.equal(whole.states, states) and torch.equal(states, tower) and states.shape[:2] == (4, 1)
    assert torch.equal(dual.project_image(dual.image_states(pixels)), dual.encode_images(pixels).features)
    assert torch.equal(dual.project_text(dual.text_states(ids, mask), mask), dual.encode_texts(ids, mask).features)


def test_padding_makes_no_difference(dual: HubDualEncoder, inputs: Inputs, opened: OpenedModel) -> None:
    """Where a model reads its padding, all captions have the same length, with whatever they are batched."""
    _, ids, mask = inputs
    features = dual.encode_texts(ids, mask).features
    for row, caption in enumerate(SOME[:4]):
        alone = dual.encode_texts(*opened.preprocessing.collator().encode([caption])).features
        torch.testing.assert_close(alone[0], features[row], rtol=0, atol=1e-5)
    if dual.model.config.model_type in FULL_LENGTH:
        assert mask.all() and ids.shape[1] == opened.preprocessing.max_length


def test_gradients_reach_what_the_library_trains(dual: HubDualEncoder, inputs: Inputs, family: Family) -> None:
    assert {id(weight) for weight in dual.parameters()} == {id(weight) for weight in dual.model.parameters()}
    everything = library_gradients(dual, family)
    bias = {"logit_bias"} & {name for name, _ in dual.model.named_parameters()}
    dual.train()
    assert set(gradients(dual, inputs)) == everything | bias
    for frozen, other in (("image", "text"), ("text", "image")):
        dual.freeze(image=frozen == "image", text=frozen == "text").train()
        towers = {"image": dual.model.vision_model, "text": dual.model.text_model}
        assert not towers[frozen].training and towers[other].training
        prefix = {"image": "vision_model.", "text": "text_model."}[frozen]
        trained = gradients(dual, inputs)
        assert set(trained) == {name for name in everything | bias if not name.startswith(prefix)}


def test_activations_can_be_recomputed(dual: HubDualEncoder, inputs: Inputs, family: Family) -> None:
    if family.name == "align":
        with pytest.raises(ValueError, match="does not support"):
            dual.gradient_checkpointing_enable({"use_reentrant": False})
        dual.freeze(image=True, text=False)  # what is not trained keeps nothing
    dual.train()
    torch.manual_seed(0)  # of dropout
    plain = gradients(dual, inputs)
    dual.gradient_checkpointing_enable({"use_reentrant": False})
    calls: list[int] = []
    for layer in repeated_layers(dual.model.text_model):
        linear = next(part for part in layer.modules() if isinstance(part, torch.nn.Linear))
        linear.register_forward_pre_hook(lambda *_: calls.append(1))
    torch.manual_seed(0)
    recomputed = gradients(dual, inputs)
    assert len(calls) == 2 * len(repeated_layers(dual.model.text_model)) > 0
    assert recomputed.keys() == plain.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(recomputed[name], gradient, rtol=1e-4, atol=1e-5, msg=name)


def test_compiled_layers_make_the_same_features(dual: HubDualEncoder, inputs: Inputs) -> None:
    pixels, ids, mask = inputs
    expected = dual.encode_images(pixels).features, dual.encode_texts(ids, mask).features
    torch.compiler.reset()
    counters.clear()
    layers = compile_layers(dual, backend="eager")
    found = dual.encode_images(pixels).features, dual.encode_texts(ids, mask).features
    assert layers > 0 and counters["stats"]["unique_graphs"] > 0
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", LOOKING_BACK, ids=lambda family: family.name, indirect=True)
def test_text_towers_that_look_back_are_given_no_mask(
    dual: HubDualEncoder, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, ids, mask = inputs
    assert not mask.all()  # some captions are padded
    masks: list[Tensor | None] = []
    attention = F.scaled_dot_product_attention

    def noting(*tensors: Tensor, attn_mask: Tensor | None = None, **settings: object) -> Tensor:
        masks.append(attn_mask)
        return attention(*tensors, attn_mask=attn_mask, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(F, "scaled_dot_product_attention", noting)
    found = dual.encode_texts(ids, mask).features
    assert masks and all(one is None for one in masks)
    # The library's own, with the mask: the same features and gradients.
    wanted = F.normalize(dual.model.get_text_features(input_ids=ids, attention_mask=mask).pooler_output, dim=-1)
    assert masks[-1] is not None
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    weights = [weight for weight in dual.model.text_model.parameters() if weight.requires_grad]
    pull = torch.randn(found.shape, generator=torch.Generator().manual_seed(0))
    for one, other in zip(
        *(torch.autograd.grad((features * pull).sum(), weights) for features in (found, wanted)), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_towers_can_be_cached(dual: HubDualEncoder, inputs: Inputs, opened: OpenedModel, tmp_path: Path) -> None:
    dual.freeze(image=True, text=True).train()
    encode = opened.preprocessing.collator().encode
    cache = cache_caption_states(dual.text_tower, SOME, encode, tmp_path)
    ids, mask = encode(SOME)
    expected = dual.encode_texts(ids, mask)
    states, _ = cache.gather(SOME)
    torch.testing.assert_close(states, expected.states, rtol=1e-2, atol=1e-2)  # kept in half precision
    torch.testing.assert_close(dual.project_text(states, mask), expected.features, rtol=1e-2, atol=5e-3)
    assert not dual.model.text_model.training


def test_keys_of_caches_follow_weights_alone(dual: HubDualEncoder, inputs: Inputs, opened: OpenedModel) -> None:
    for side in ("image_tower", "text_tower"):
        tower = getattr(dual, side)
        key = encoder_fingerprint(getattr(opened.model, side))
        assert encoder_fingerprint(tower) == encoder_fingerprint(tower.train()) == key
        with torch.no_grad():
            next(tower.parameters()).flatten()[0] += 1
        assert encoder_fingerprint(tower) != key


def test_galleries_hold_features_of_any_dual_encoder(dual: HubDualEncoder, inputs: Inputs) -> None:
    pixels, ids, mask = inputs
    images = encode_images(dual, pixels.split(2))
    captions = encode_captions(dual, SOME[:4], lambda texts: (ids[: len(texts)], mask[: len(texts)]), batch_size=4)
    torch.testing.assert_close(images.features, dual.encode_images(pixels).features)
    torch.testing.assert_close(captions.features, dual.encode_texts(ids, mask).features)


def test_copies_are_models_of_their_own(dual: HubDualEncoder, inputs: Inputs) -> None:
    pixels, ids, mask = inputs
    blank = dual.blank()
    blank.load_state_dict(dual.state_dict())
    for other in (blank.eval(), copy.deepcopy(dual)):
        assert torch.equal(other.encode_images(pixels).features, dual.encode_images(pixels).features)
        assert torch.equal(other.encode_texts(ids, mask).features, dual.encode_texts(ids, mask).features)
        assert not {id(weight) for weight in other.parameters()} & {id(weight) for weight in dual.parameters()}


def test_other_weights_can_be_saved(dual: HubDualEncoder, tmp_path: Path) -> None:
    """Those that several processes hold, put together, or their average."""
    weights = {name: 2 * value if value.is_floating_point() else value for name, value in dual.state_dict().items()}
    dual.save_pretrained(tmp_path, state_dict=weights)
    saved = HubDualEncoder.from_pretrained(tmp_path).state_dict()
    assert saved.keys() == weights.keys()
    for name, value in saved.items():
        assert torch.equal(value, weights[name]), name


@pytest.mark.parametrize(
    ("family", "scale", "kept"), [(clip, 1000.0, 100.0), (clip, 0.1, 1.0), (siglip, 121.51, 121.51)]
)
def test_scale_has_bounds_for_clip_alone(family: object, scale: float, kept: float) -> None:
    dual = HubDualEncoder(next(one for one in FAMILIES if one.build is family).model())
    torch.nn.init.constant_(dual.model.logit_scale, torch.tensor(scale).log())
    dual.clamp_temperature_()
    assert float(1 / dual.temperature.detach()) == pytest.approx(kept, rel=1e-4)
    assert dual.temperature.shape == () and (dual.bias is None or dual.bias.shape == ())


@pytest.mark.parametrize(("own", "kept"), [(2.0, 1.0), (0.001, 0.01), (0.5, 0.5)])
def test_a_temperature_has_the_same_bounds(own: float, kept: float) -> None:
    dual = HubDualEncoder(next(one for one in FAMILIES if one.build is tipsv2).model())
    torch.nn.init.constant_(dual.model.temperature, own)
    dual.clamp_temperature_()
    assert float(dual.temperature) == pytest.approx(kept)


def test_a_dual_encoder_is_no_fusion_model() -> None:
    dual = HubDualEncoder(FAMILIES[0].model())
    assert isinstance(dual, DualEncoder) and not isinstance(dual, FusionModel) and isinstance(dual.model, CLIPModel)


def test_a_model_of_another_kind_is_refused() -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    with pytest.raises(ConfigError, match=r"a model of kind 'bert' is no plain dual encoder; give one of align, "):
        HubDualEncoder(BertModel(BertConfig(**sizes, vocab_size=10)))
