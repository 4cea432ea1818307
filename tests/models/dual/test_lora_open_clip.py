"""Models of open_clip with an adapter: peft reads it over the library's own model; merged it is open_clip's again."""

from pathlib import Path

import peft
import pytest
import torch
from torch import Tensor, nn

from tests.models.dual import tiny_open_clip as tiny
from tests.models.dual.test_lora import SMALL
from tests.models.dual.test_open_clip import Opened, librarys_own, open_clip, opened
from truepair.errors import ConfigError
from truepair.models import OpenClipDualEncoder, merge_adapter
from truepair.models.dual.adapter import base_of
from truepair.models.dual.freezing import Freezing, freeze
from truepair.models.dual.lora import LoraSettings, add_lora
from truepair.models.dual.open_clip_source import source_of
from truepair.models.open import open_model


@pytest.fixture(params=tiny.FAMILIES, ids=lambda family: family.__name__)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Opened:
    return opened(request.param, tmp_path)


def features(case: Opened, model: OpenClipDualEncoder) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        model.eval()
        return model.encode_images(case.images()).features, model.encode_texts(*case.encode()).features


def perturbed(model: OpenClipDualEncoder) -> set[str]:
    """Names of what is trained, after it has been given weights as if it had been."""
    torch.manual_seed(3)
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    for weight in trained.values():
        nn.init.normal_(weight, std=0.2)
    return set(trained)


def test_an_adapter_goes_home_and_is_merged(case: Opened, tmp_path: Path) -> None:
    before = features(case, case.dual)
    add_lora(case.dual, SMALL)
    for one, other in zip(features(case, case.dual), before, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    names = perturbed(case.dual)
    assert names and all(".lora_" in name for name in names)
    after = features(case, case.dual)
    assert any((one - other).abs().max() > 1e-2 for one, other in zip(after, before, strict=True))
    folder = tmp_path / "adapter"
    case.dual.save_pretrained(folder)
    case.preprocessing.save(folder)
    assert base_of(folder) == str(case.folder) and not (folder / "open_clip_config.json").exists()

    bare = open_clip.create_model(f"local-dir:{case.folder}").eval()
    of_peft = peft.PeftModel.from_pretrained(bare, folder).eval().base_model.model
    merge_adapter(folder, tmp_path / "merged")
    with torch.no_grad():
        for model, within in (
            (of_peft, 1e-6),
            (open_clip.create_model(f"local-dir:{tmp_path / 'merged'}").eval(), 1e-5),
        ):
            own = librarys_own(model, case.images(), f"local-dir:{case.folder}")
            for one, other in zip(own, after, strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=within)
    again = OpenClipDualEncoder.from_pretrained(folder)
    assert all(torch.equal(value, case.dual.state_dict()[name]) for name, value in again.state_dict().items())
    again.blank().load_state_dict(again.state_dict())
    whole = open_model(folder).model
    assert isinstance(whole, OpenClipDualEncoder) and whole.state_dict().keys() == opened_keys(case)
    for one, other in zip(features(case, whole), after, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    with pytest.raises(ConfigError, match=r"^model.lora adapts a whole model that has a folder or a hub name"):
        add_lora(whole, SMALL)


def opened_keys(case: Opened) -> object:
    return OpenClipDualEncoder.from_pretrained(case.folder).state_dict().keys()


def test_attention_of_torch_rests_to_the_bit(tmp_path: Path) -> None:
    case = opened(tiny.FAMILIES[0], tmp_path)
    before = {name: value.clone() for name, value in case.dual.state_dict().items()}
    add_lora(case.dual, SMALL)
    names = perturbed(case.dual)
    assert not any(".attn." in name for name in names)
    case.dual.train()
    for _ in range(3):
        case.dual.encode_images(case.images()).features.sum().backward()
        case.dual.encode_texts(*case.encode()).features.sum().backward()
    after = {name.replace(".base_layer", ""): value for name, value in case.dual.state_dict().items()}
    assert all(torch.equal(after[name], value) for name, value in before.items())
    with pytest.raises(ConfigError, match=r"model.lora.targets: no linear layer of the blocks is called 'attn'"):
        add_lora(opened(tiny.FAMILIES[0], tmp_path / "b").dual, LoraSettings(targets=["attn"]))
    with pytest.raises(ConfigError, match=r"has no projections that are layers"):
        add_lora(opened(tiny.FAMILIES[0], tmp_path / "c").dual, LoraSettings(projections=True))


def test_first_blocks_are_frozen(case: Opened) -> None:
    model = case.dual
    freeze(model, Freezing(text_blocks=1))
    model.train()
    frozen = {name for name, weight in model.named_parameters() if not weight.requires_grad}
    assert any("embed" in name for name in frozen) and not any("visual" in name for name in frozen)
    model.encode_texts(*case.encode()).features.sum().backward()
    assert all(weight.grad is None for weight in model.parameters() if not weight.requires_grad)
    assert any(weight.grad is not None for weight in model.text_tower.parameters())


def test_a_base_is_named_so_that_it_is_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("weights.pt").touch()
    Path("own").mkdir()
    for given, expected in {
        "open_clip:ViT-B-32:random": "",
        "open_clip:ViT-B-32:weights.pt": f"open_clip:ViT-B-32:{tmp_path / 'weights.pt'}",
        "open_clip:ViT-B-32:laion2b_s34b_b79k": "open_clip:ViT-B-32:laion2b_s34b_b79k",
        "local-dir:own": str(tmp_path / "own"),
        "own": str(tmp_path / "own"),
        "hf-hub:laion/some": "hf-hub:laion/some",
    }.items():
        assert source_of(given).origin == expected
