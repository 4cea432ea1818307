import copy
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from tests.models.dual import tiny_open_clip as tiny
from truepair.data.transforms import TransformConfig
from truepair.engine.distributed.accelerator import compile_layers
from truepair.errors import CheckpointError, ConfigError
from truepair.models import OpenClipDualEncoder
from truepair.models.dual.open_clip import OpenClipPreprocessing
from truepair.models.encoders.fingerprint import caption_input_key, encoder_fingerprint, image_input_key
from truepair.models.encoders.frozen_captions import cache_caption_states
from truepair.models.fusion.gallery import encode_captions, encode_images
from truepair.models.open import open_model

open_clip = pytest.importorskip("open_clip", reason="needs open_clip: pip install 'truepair[open_clip]'")


class Opened(NamedTuple):
    """A folder of open_clip's, its model as that library makes it, and the same in this package."""

    folder: Path
    library: Any
    dual: OpenClipDualEncoder
    preprocessing: OpenClipPreprocessing

    @property
    def family(self) -> str:
        return self.folder.name

    def images(self) -> Tensor:
        return tiny.pixels_of(self.library)

    def encode(self) -> tuple[Tensor, Tensor]:
        return self.preprocessing.collator().encode(tiny.CAPTIONS)


def opened(family: Callable[[Path], dict[str, Any]], folder: Path) -> Opened:
    target = folder / family.__name__
    library = tiny.made(family(folder), target)
    model, preprocessing = vars(open_model(target)).values()
    assert isinstance(model, OpenClipDualEncoder) and isinstance(preprocessing, OpenClipPreprocessing)
    return Opened(target, library.eval(), model, preprocessing)


@pytest.fixture(params=tiny.FAMILIES, ids=lambda family: family.__name__)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Opened:
    return opened(request.param, tmp_path)


def librarys_own(model: Any, pixels: Tensor, source: str) -> tuple[Tensor, Tensor]:
    """Features as open_clip makes them, of captions as its tokenizer pads them."""
    ids = open_clip.get_tokenizer(source)(tiny.CAPTIONS)
    return model.encode_image(pixels, normalize=True), model.encode_text(ids, normalize=True)


@torch.no_grad()
def test_features_are_those_of_the_library(case: Opened) -> None:
    pixels = case.images()
    images, texts = librarys_own(case.library, pixels, f"local-dir:{case.folder}")
    assert images.std(dim=0).min() > 1e-3 and texts.std(dim=0).min() > 1e-3  # they tell inputs apart
    torch.testing.assert_close(case.dual.encode_images(pixels).features, images, rtol=0, atol=1e-6)
    torch.testing.assert_close(case.dual.encode_texts(*case.encode()).features, texts, rtol=0, atol=1e-6)
    assert images.shape[1] == texts.shape[1] == case.dual.embed_dim
    assert torch.equal(1 / case.dual.temperature, case.library.logit_scale.exp())
    bias = case.dual.bias
    assert (bias is None) == (case.family != "siglip") and (bias is None or float(bias) == -10)


@torch.no_grad()
def test_states_suffice_for_the_features(case: Opened) -> None:
    pixels, (ids, mask), dual = case.images(), case.encode(), case.dual
    for whole, states, tower in (
        (dual.encode_images(pixels), dual.image_states(pixels), dual.image_tower(pixels)),
        (dual.encode_texts(ids, mask), dual.text_states(ids, mask), dual.text_tower(ids, mask)),
    ):
        assert torch.equal(whole.states, states) and torch.equal(states, tower) and states.shape[1] == 1
    assert torch.equal(dual.project_image(dual.image_states(pixels)), dual.encode_images(pixels).features)
    assert torch.equal(dual.project_text(dual.text_states(ids, mask), mask), dual.encode_texts(ids, mask).features)


@torch.no_grad()
def test_captions_are_no_longer_than_what_is_read(case: Opened) -> None:
    ids, mask = case.encode()
    features = case.dual.encode_texts(ids, mask).features
    if case.family in ("siglip", "coca"):  # padding is read
        assert ids.shape[1] == 24 and mask.all()
        with pytest.raises(ConfigError, match=r"captions of 9 tokens for a model that reads 24, padding too"):
            case.dual.encode_texts(ids[:, :9], mask[:, :9])
        return
    assert ids.shape[1] < 24 and not mask.all()
    # What stands on the padding, and how much there is of it, makes no difference.
    longer = F.pad(ids.masked_fill(mask == 0, 7), (0, 3), value=9), F.pad(mask, (0, 3))
    torch.testing.assert_close(case.dual.encode_texts(*longer).features, features, rtol=0, atol=1e-6)
    whole = open_clip.get_tokenizer(f"local-dir:{case.folder}")(tiny.CAPTIONS)
    torch.testing.assert_close(
        case.dual.encode_texts(whole, torch.ones_like(whole)).features, features, rtol=0, atol=1e-6
    )


def test_long_captions_are_cut_as_the_library_cuts_them(case: Opened) -> None:
    long = ["red square " * 40, "a dot"]
    ids, mask = case.preprocessing.collator().encode(long)
    own = open_clip.get_tokenizer(f"local-dir:{case.folder}")(long)
    assert ids.shape[1] == 24 and torch.equal(ids[0], own[0])
    assert torch.equal(ids[1][mask[1] == 1], own[1][: int(mask[1].sum())])


def test_gradients_reach_all_that_is_trained(case: Opened) -> None:
    pixels, (ids, mask), dual = case.images(), case.encode(), case.dual.train()
    ids, mask = ids[:3], mask[:3]

    def trained() -> set[str]:
        """Names of parameters that a sigmoid loss of three pairs gives a gradient."""
        dual.zero_grad()
        images, texts = dual.encode_images(pixels).features, dual.encode_texts(ids, mask).features
        logits = images @ texts.T / dual.temperature + (0 if dual.bias is None else dual.bias)
        F.logsigmoid(logits * torch.eye(3).mul(2).sub(1)).sum().backward()
        return {name for name, weight in dual.model.named_parameters() if weight.grad is not None}

    everything = {name for name, _ in dual.model.named_parameters() if not name.startswith("text_decoder.")}
    assert trained() == everything
    projections = {
        "clip": {"visual.proj", "text_projection"},
        "resnet": {"text_projection"},
        "custom_text": {"visual.head.proj.weight", "text.text_projection"},
        "siglip": {"text.text_projection.weight", "text.text_projection.bias"},
        "bert": {"visual.proj", "text.proj.0.weight", "text.proj.2.weight"},
        "coca": {"visual.proj", "text.text_projection"},
    }[case.family]
    of_images = {name for name in everything if name.startswith("visual.")}
    of_texts = everything - of_images - {"logit_scale", "logit_bias"}
    for frozen, tower in (("image", of_images), ("text", of_texts)):
        dual.freeze(image=frozen == "image", text=frozen == "text").train()
        assert trained() == everything - (tower - projections)
        resting = dual.image_tower if frozen == "image" else dual.text_tower
        assert not any(module.training for module in resting.modules() if not isinstance(module, torch.nn.Identity))


def test_saved_folder_is_read_by_the_library_alone(case: Opened, tmp_path: Path) -> None:
    target = tmp_path / "saved"
    state = {name: value + 0 for name, value in case.dual.state_dict().items()}
    case.dual.save_pretrained(target, state_dict=state)
    case.preprocessing.save(target)
    again, _, transform = open_clip.create_model_and_transforms(f"local-dir:{target}", require_pretrained=True)
    assert type(again) is type(case.library)
    pixels = case.images()
    mine = librarys_own(case.library, pixels, f"local-dir:{case.folder}")
    for one, other in zip(librarys_own(again.eval(), pixels, f"local-dir:{target}"), mine, strict=True):
        assert torch.equal(one, other)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in case.library.state_dict().items())
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    assert torch.equal(case.preprocessing.images()(picture), transform(picture))


def test_reopened_model_is_the_same(case: Opened, tmp_path: Path) -> None:
    case.dual.save_pretrained(tmp_path / "saved")
    case.preprocessing.save(tmp_path / "saved")
    again = OpenClipDualEncoder.from_pretrained(tmp_path / "saved", use_safetensors=True, local_files_only=True)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in case.dual.state_dict().items())
    model, preprocessing = vars(open_model(tmp_path / "saved")).values()
    for tower in ("image_tower", "text_tower"):
        assert encoder_fingerprint(getattr(model, tower)) == encoder_fingerprint(getattr(case.dual, tower))
    assert caption_input_key(preprocessing) == caption_input_key(case.preprocessing)
    assert image_input_key(preprocessing) == image_input_key(case.preprocessing)
    assert preprocessing.image_settings(train=True) == case.preprocessing.image_settings(train=True)


def test_images_are_those_of_the_model(case: Opened) -> None:
    picture = Image.fromarray(np.full((50, 70, 3), (255, 128, 0), dtype=np.uint8))
    size = case.dual.image_size
    expected = (np.array([255, 128, 0]) / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.3, 0.4]
    for train in (False, True):
        pixels = case.preprocessing.images(train=train)(picture)
        assert pixels.shape == (3, size, size) and pixels.dtype == torch.float32
        if not train:
            np.testing.assert_allclose(pixels[:, 0, 0], expected, atol=1e-5)
    assert case.preprocessing.transform.interpolation == "bilinear"


def test_recipes_augment_and_cut(case: Opened) -> None:
    asked = TransformConfig(size=0, normalisation="encoder", crop_scale=(0.9, 1.0), flip=0.0)
    adapted = case.preprocessing.adapted(asked, 0)
    kept = {"size": case.dual.image_size, "interpolation": "bilinear"}
    assert adapted.transform == replace(asked, **kept) and adapted.max_length == 24
    if case.family in ("siglip", "coca"):
        with pytest.raises(ConfigError, match=r"text\.max_length is 8, but .* padded to 24 tokens; set it to 0"):
            case.preprocessing.adapted(asked, 8)
    else:
        ids, _ = case.preprocessing.adapted(asked, 4).collator().encode(tiny.CAPTIONS)
        own = open_clip.get_tokenizer(f"local-dir:{case.folder}")(tiny.CAPTIONS, context_length=4)
        assert torch.equal(ids[2], own[2])
    with pytest.raises(ConfigError, match=r"text\.max_length is 30, but the model reads at most 24 tokens"):
        case.preprocessing.adapted(asked, 30)
    with pytest.raises(ConfigError, match=r"data\.transform\.size is 16, but the model reads \d+ px"):
        case.preprocessing.adapted(replace(asked, size=16), 0)


def test_copies_follow_their_own_weights(case: Opened) -> None:
    duplicate = copy.deepcopy(case.dual)
    before = case.dual.encode_images(case.images()).features
    with torch.no_grad():
        for weight in duplicate.parameters():
            weight.mul_(1.5)
    assert torch.equal(case.dual.encode_images(case.images()).features, before)
    assert not torch.allclose(duplicate.encode_images(case.images()).features, before)


def test_blank_models_take_the_weights(case: Opened) -> None:
    blank = case.dual.blank()
    assert type(blank.model) is type(case.library)
    blank.load_state_dict(case.dual.state_dict())
    for one, other in zip(
        (blank.eval().encode_images(case.images()), blank.encode_texts(*case.encode())),
        (case.dual.encode_images(case.images()), case.dual.encode_texts(*case.encode())),
        strict=True,
    ):
        assert torch.equal(one.features, other.features)
    assert blank.model.visual.preprocess_cfg == case.dual.model.visual.preprocess_cfg


def test_checkpointing_changes_no_gradient(case: Opened) -> None:
    case.dual.eval()  # no dropout
    gradients = []
    for again in (False, True):
        if again and case.family == "resnet":
            with pytest.raises(ValueError, match=r"a ResNet of open_clip cannot compute its activations again"):
                case.dual.gradient_checkpointing_enable()
            return
        if again:
            key = encoder_fingerprint(case.dual.image_tower)
            case.dual.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            assert encoder_fingerprint(case.dual.image_tower) == key
        case.dual.zero_grad()
        features = case.dual.encode_images(case.images()).features, case.dual.encode_texts(*case.encode()).features
        sum((part * torch.arange(part.shape[1])).sum() for part in features).backward()
        gradients.append([weight.grad for weight in case.dual.parameters() if weight.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_towers_can_be_cached_and_galleries_hold_features(case: Opened, tmp_path: Path) -> None:
    dual = case.dual.freeze(image=True, text=True)
    encode = case.preprocessing.collator().encode
    cache = cache_caption_states(dual.text_tower, tiny.CAPTIONS, encode, tmp_path / "cache")
    states, _ = cache.gather(tiny.CAPTIONS)
    expected = dual.encode_texts(*case.encode())
    torch.testing.assert_close(states, expected.states, rtol=1e-2, atol=1e-2)  # kept in half precision
    images = encode_images(dual, case.images().split(2))
    captions = encode_captions(dual, tiny.CAPTIONS, encode, batch_size=3)
    torch.testing.assert_close(images.features, dual.encode_images(case.images()).features)
    torch.testing.assert_close(captions.features, expected.features)


def test_temperature_has_bounds_for_clip_alone(tmp_path: Path) -> None:
    for family, scale, kept in ((tiny.clip, 7.0, 100.0), (tiny.coca, -1.0, 1.0), (tiny.siglip, 4.8, 121.51)):
        dual = opened(family, tmp_path).dual
        torch.nn.init.constant_(dual.model.logit_scale, scale)
        dual.clamp_temperature_()
        assert float(1 / dual.temperature.detach()) == pytest.approx(kept, rel=1e-4)
        assert dual.temperature.shape == ()
    dual = opened(tiny.clip, tmp_path).dual
    torch.nn.init.constant_(dual.model.logit_scale, 7.0).requires_grad_(False)
    dual.clamp_temperature_()  # one that is not trained stays what it is
    assert float(dual.model.logit_scale) == 7.0


def architecture(folder: Path, name: str) -> Path:
    """A JSON file of an architecture, as users of open_clip have them."""
    file = folder / f"{name}.json"
    file.write_text(json.dumps(tiny.clip(folder)))
    return file


@pytest.mark.parametrize("kind", ["trainer", "plain", "safetensors"])
def test_checkpoints_by_architecture_and_file(tmp_path: Path, kind: str) -> None:
    library = tiny.made(tiny.clip(tmp_path), tmp_path / "whole")
    weights = library.state_dict()
    file = tmp_path / ("weights.safetensors" if kind == "safetensors" else "epoch_3.pt")
    if kind == "safetensors":
        save_file(weights, file)
    elif kind == "plain":
        torch.save(weights, file)
    else:
        parts = {f"module.{name}": value for name, value in weights.items()}
        torch.save({"epoch": 3, "name": "run", "state_dict": parts, "optimizer": {"state": {}}}, file)
    json_file = architecture(tmp_path, f"tiny-{kind}")
    for name in (f"open_clip:{json_file}:{file}", f"open_clip:tiny-{kind}:{file}"):
        with pytest.warns(UserWarning, match=r"does not say how images are normalised .* those of CLIP"):
            dual = open_model(name).model
        assert all(torch.equal(value, weights[name[6:]]) for name, value in dual.state_dict().items())
    random = open_model(f"open_clip:{json_file}:random").model
    assert not torch.equal(random.model.visual.proj, weights["visual.proj"])
    random.save_pretrained(tmp_path / "saved")
    assert open_model(f"local-dir:{tmp_path / 'saved'}").model.embed_dim == 16


def test_weights_that_hold_code_are_refused(tmp_path: Path) -> None:
    class Bad:
        def __reduce__(self) -> Any:
            return print, ("was run",)

    torch.save({"state_dict": Bad()}, tmp_path / "bad.pt")
    ignored = pytest.warns(UserWarning, match="normalised")
    with ignored, pytest.raises(CheckpointError, match=r"no open_clip model could be loaded from .*bad\.pt") as refused:
        open_model(f"open_clip:{architecture(tmp_path, 'tiny-bad')}:{tmp_path / 'bad.pt'}")
    assert "\n" not in str(refused.value)


def test_code_of_a_tokenizer_is_not_run(tmp_path: Path) -> None:
    config = tiny.bert(tmp_path)
    tiny.made(config, tmp_path / "model")
    config["text_cfg"]["tokenizer_kwargs"] = {"trust_remote_code": True}
    (tmp_path / "model/open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    with pytest.raises(ConfigError, match=r"wants to run code that comes with its tokenizer"):
        open_model(tmp_path / "model")


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"open_clip has no model ViT-B-33 \(did you mean 'ViT-B-32'\?\)"):
        open_model("open_clip:ViT-B-33:laion2b_s34b_b79k")
    with pytest.raises(
        ConfigError, match=r"ViT-B-32: no weights are named; append a checkpoint file, 'random' to .* laion2b_s34b_b79k"
    ):
        open_model("open_clip:ViT-B-32")
    with pytest.raises(ConfigError, match=r"ViT-B-32:laion: laion is neither a file nor weights"):
        open_model("open_clip:ViT-B-32:laion")
    with pytest.raises(ConfigError, match=r"another activation; give open_clip:ViT-B-32-quickgelu:openai"):
        open_model("open_clip:ViT-B-32:openai")
    with pytest.raises(ConfigError, match=r"nowhere\.json is no architecture of open_clip"):
        open_model(f"open_clip:{tmp_path}/nowhere.json:random")
    with pytest.raises(ConfigError, match=r"open_clip has another model RN50; rename .*RN50\.json"):
        open_model(f"open_clip:{architecture(tmp_path, 'RN50')}:random")
    with pytest.raises(CheckpointError, match=r"no open_clip model could be loaded from local-dir:.*nowhere"):
        open_model(f"local-dir:{tmp_path}/nowhere")
    tiny.made(tiny.clip(tmp_path), tmp_path / "clip")
    (tmp_path / "clip/open_clip_pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"no open_clip model could be loaded from .*weights") as missing:
        open_model(tmp_path / "clip")
    assert "\n" not in str(missing.value)
    (tmp_path / "clip/open_clip_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"the open_clip_config\.json of .*clip describes no model"):
        open_model(tmp_path / "clip")


def test_users_without_the_library_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(ConfigError, match=r"pip install 'truepair\[open_clip\]'"):
        open_model("open_clip:ViT-B-32:laion2b_s34b_b79k")


def test_images_that_are_not_square_are_refused(tmp_path: Path) -> None:
    config = tiny.clip(tmp_path)
    config["vision_cfg"] = tiny.VIT | {"image_size": [32, 48]}
    tiny.made(config, tmp_path / "wide")
    with pytest.raises(ConfigError, match=r"reads images of 32 x 48 pixels; give one that reads square ones"):
        open_model(tmp_path / "wide")


@pytest.mark.slow
def test_compiled_layers_are_equal(tmp_path: Path) -> None:
    case = opened(tiny.clip, tmp_path)
    expected = case.dual.encode_images(case.images()).features, case.dual.encode_texts(*case.encode()).features
    names = list(case.dual.state_dict())
    assert compile_layers(case.dual, backend="eager") == 4
    assert list(case.dual.state_dict()) == names
    found = case.dual.encode_images(case.images()).features, case.dual.encode_texts(*case.encode()).features
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
