"""An adapter is what peft writes and reads, whatever the family; merged it is an ordinary model."""

import json
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers.integrations.peft
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, CLIPImageProcessor, PreTrainedModel

from tests.models.dual.test_freezing import trained
from tests.models.dual.tiny_hub import FAMILIES, clip, inputs, librarys_own, seeded, siglip
from tests.models.tiny_albef import tiny_model
from truepair.data.tokens import train_wordpiece
from truepair.data.transforms import TransformConfig
from truepair.errors import CheckpointError, ConfigError
from truepair.models import HubDualEncoder
from truepair.models.dual.adapter import base_of, has_adapter, is_adapter
from truepair.models.dual.freezing import Freezing, describe_trained, freeze
from truepair.models.dual.hub_preprocessing import HubPreprocessing
from truepair.models.dual.lora import LoraSettings, add_lora, merge_adapter, open_adapter
from truepair.models.open import open_model

SMALL = LoraSettings(rank=4, alpha=8)


def base_folder(family: Any, folder: Path) -> Path:
    """A checkpoint as a library would save it."""
    seeded(family).save_pretrained(folder)
    preprocessing().save(folder)
    return folder


def preprocessing() -> HubPreprocessing:
    tokenizer = train_wordpiece(["a red square", "a blue dot"], 40, min_frequency=1)
    tokenizer.model_max_length = 12
    processor = CLIPImageProcessor(size={"height": 16, "width": 16}, do_center_crop=False)
    return HubPreprocessing(processor, tokenizer, 12, TransformConfig(size=16, normalisation="encoder"))


def adapted(base: Path, settings: LoraSettings = SMALL) -> HubDualEncoder:
    """A model with an adapter that says something: as if it had been trained."""
    torch.manual_seed(3)
    model = HubDualEncoder.from_pretrained(base)
    add_lora(model, settings)
    for weight in model.parameters():
        if weight.requires_grad:
            nn.init.normal_(weight, std=0.3)
    return model.eval()


def saved(model: HubDualEncoder, folder: Path) -> Path:
    model.save_pretrained(folder)
    preprocessing().save(folder)
    return folder


def features(model: PreTrainedModel) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return librarys_own(model.eval(), *inputs())


def require_equal(one: PreTrainedModel, other: PreTrainedModel, atol: float = 1e-6) -> None:
    for left, right in zip(features(one), features(other), strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=atol)


@pytest.fixture(params=FAMILIES, ids=lambda family: family.__name__)
def family(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_a_fresh_adapter_changes_nothing_and_is_all_that_is_trained(family: Any, tmp_path: Path) -> None:
    base = base_folder(family, tmp_path / "base")
    model = HubDualEncoder.from_pretrained(base)
    add_lora(model, SMALL)
    assert type(model.model) is type(seeded(family))  # the user's class
    require_equal(model.model, seeded(family))
    model.train()
    names = trained(model)
    # Two matrices beside each of the six linear layers of the two blocks of each tower; the second is zero at first,
    # so that the first has a gradient that is zero, but has one.
    assert len(names) == 2 * 2 * 6 * 2 and all(".lora_A." in name or ".lora_B." in name for name in names)
    assert names == {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert all(any(f".{kind}.{number}." in name for kind in ("layer", "layers") for number in (0, 1)) for name in names)
    assert "projections and all else 0 of" in describe_trained(model)


def test_peft_and_the_librarys_class_read_it(family: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = base_folder(family, tmp_path / "base")
    model = adapted(base)
    assert max((a - b).abs().max() for a, b in zip(features(model.model), features(seeded(family)), strict=True)) > 0.01
    folder = saved(model, tmp_path / "adapter")
    assert is_adapter(folder) and not is_adapter(base) and base_of(folder) == str(base)
    assert not (folder / "model.safetensors").exists() and not (folder / "config.json").exists()
    kind = type(model.model)
    of_peft = peft.PeftModel.from_pretrained(kind.from_pretrained(base), folder)
    require_equal(of_peft.base_model.model, model.model)
    # Some versions of transformers refuse every released peft; what they would read is the same.
    monkeypatch.setattr(transformers.integrations.peft, "check_peft_version", lambda **_: None)
    require_equal(kind.from_pretrained(folder), model.model)
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == preprocessing().tokenizer.get_vocab()
    again = HubDualEncoder.from_pretrained(folder)
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())
    blank = again.blank()  # what weights that are spread over processes are put together in
    blank.load_state_dict(again.state_dict())
    require_equal(blank.model, model.model)
    assert {n for n, w in again.named_parameters() if w.requires_grad} == {
        n for n, w in model.named_parameters() if w.requires_grad
    }
    assert json.loads((folder / "adapter_config.json").read_text()) == json.loads(
        (saved(again, tmp_path / "again") / "adapter_config.json").read_text()
    )


def test_merged_it_is_an_ordinary_folder(family: Any, tmp_path: Path) -> None:
    base = base_folder(family, tmp_path / "base")
    model = adapted(base)
    folder = saved(model, tmp_path / "adapter")
    merge_adapter(folder, tmp_path / "merged")
    whole, loading = AutoModel.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert type(whole) is type(model.model) and not any(loading.values())
    require_equal(whole, model.model, atol=1e-5)
    opened = open_model(folder)
    assert isinstance(opened.model, HubDualEncoder) and not has_adapter(opened.model.model)
    require_equal(opened.model.model, whole, atol=1e-6)
    assert isinstance(opened.preprocessing, HubPreprocessing)
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").get_vocab() == preprocessing().tokenizer.get_vocab()
    before = seeded(family).state_dict()
    unchanged = {name for name, value in whole.state_dict().items() if torch.equal(value, before[name])}
    assert any("embed" in name for name in unchanged) and "logit_scale" in unchanged


def test_projections_are_trained_and_saved_if_asked_for(tmp_path: Path) -> None:
    base = base_folder(clip, tmp_path / "base")
    model = adapted(base, LoraSettings(rank=4, alpha=8, projections=True)).train()
    names = trained(model)
    whole = {name for name in names if "lora" not in name}
    assert {name.split(".")[1] for name in whole} == {"visual_projection", "text_projection"} and len(whole) == 2
    assert model.embed_dim == 8
    folder = saved(model, tmp_path / "adapter")
    of_peft = peft.PeftModel.from_pretrained(type(model.model).from_pretrained(base), folder)
    require_equal(of_peft.base_model.model, model.model)
    require_equal(HubDualEncoder.from_pretrained(folder).model, model.model)
    require_equal(open_adapter(folder)[0].model, model.model, atol=1e-5)


def test_targets_are_endings_of_names(tmp_path: Path) -> None:
    base = base_folder(siglip, tmp_path / "base")
    model = adapted(base, LoraSettings(rank=2, targets=["q_proj", "mlp.fc1"]))
    beside = {name.partition(".lora_")[0] for name, _ in model.named_parameters() if ".lora_" in name}
    assert {name.rpartition(".")[2] for name in beside} == {"q_proj", "fc1"} and len(beside) == 8
    assert not any(".head." in name for name in beside)  # behind the blocks
    with pytest.raises(ConfigError) as error:
        adapted(base, LoraSettings(targets=["q_pro"]))
    assert str(error.value) == (
        "model.lora.targets: no linear layer of the blocks is called 'q_pro' (did you mean 'q_proj'?); there are fc1, "
        "fc2, k_proj, out_proj, q_proj, v_proj"
    )


def test_frozen_blocks_get_none(tmp_path: Path) -> None:
    base = base_folder(clip, tmp_path / "base")
    model = HubDualEncoder.from_pretrained(base)
    freeze(model, Freezing(image=True, text_blocks=1))
    add_lora(model, SMALL)
    beside = {name.partition(".lora_")[0] for name, _ in model.named_parameters() if ".lora_" in name}
    assert len(beside) == 6 and all("text_model.encoder.layers.1." in name for name in beside)
    model.train()
    assert not model.model.vision_model.training and not model.model.text_model.encoder.layers[0].training
    freeze(model := HubDualEncoder.from_pretrained(base), Freezing(image=True, text=True))
    with pytest.raises(ConfigError, match=r"^model.lora: the towers have no block that is not frozen; freeze less"):
        add_lora(model, SMALL)


def test_the_temperature_rests_even_where_it_would_be_clamped(tmp_path: Path) -> None:
    model = seeded(clip)
    nn.init.constant_(model.logit_scale, 7.0)
    model.save_pretrained(tmp_path / "base")
    adapter = adapted(tmp_path / "base")
    adapter.clamp_temperature_()
    assert float(adapter.model.logit_scale) == 7.0


def test_without_peft_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = base_folder(clip, tmp_path / "base")
    folder = saved(adapted(base), tmp_path / "adapter")
    monkeypatch.setitem(sys.modules, "peft", None)
    for use in (lambda: add_lora(HubDualEncoder.from_pretrained(base), SMALL), lambda: open_model(folder)):
        with pytest.raises(ConfigError, match=r"^LoRA needs peft; run pip install 'truepair\[peft\]'$"):
            use()


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^model.lora is for models of other libraries, not for AlbefModel; l"):
        add_lora(tiny_model(), SMALL)
    unsaved = HubDualEncoder(seeded(clip))
    with pytest.raises(ConfigError, match=r"^model.lora adapts a whole model that has a folder or a hub name"):
        add_lora(unsaved, SMALL)
    base = base_folder(siglip, tmp_path / "base")
    with pytest.raises(ConfigError, match=r"^model.lora.projections: SiglipModel has no projections that are layers"):
        adapted(base, LoraSettings(projections=True))
    with pytest.raises(CheckpointError, match=r"base holds no adapter; there is nothing to merge$"):
        merge_adapter(base, tmp_path / "merged")
    for fields, line in (({"rank": 0}, "model.lora.rank is 0"), ({"dropout": 1.0}, "model.lora.dropout is 1.0")):
        with pytest.raises(ConfigError, match=f"^{line}"):
            LoraSettings(**fields)  # type: ignore[arg-type]


def test_an_adapter_that_does_not_fit_is_told(tmp_path: Path) -> None:
    base = base_folder(clip, tmp_path / "base")
    folder = saved(adapted(base), tmp_path / "adapter")
    model, _ = open_adapter(folder)
    with pytest.raises(ConfigError, match=r"^model.lora adapts a whole model that has a folder or a hub name"):
        add_lora(model, SMALL)  # its base would not be what was merged
    settings = json.loads((folder / "adapter_config.json").read_text())

    def state(**changed: Any) -> None:
        (folder / "adapter_config.json").write_text(json.dumps(settings | changed))

    state(target_modules=["q_proj"])
    for read in (open_adapter, HubDualEncoder.from_pretrained):
        with pytest.raises(CheckpointError, match=r"^no adapter could be loaded from .*: it was made for anoth"):
            read(folder)
    state(base_model_name_or_path=str(tmp_path / "gone"))
    with pytest.raises(CheckpointError) as error:
        open_adapter(folder)
    assert f"needs its base {tmp_path / 'gone'}, which could not be opened" in str(error.value)
    assert "\n" not in str(error.value)
    state(base_model_name_or_path=None)
    with pytest.raises(CheckpointError, match=r"does not say which model it adapts; set base_model_name_or_path in"):
        open_adapter(folder)
    (folder / "adapter_model.safetensors").write_bytes(b"no tensors")
    state()
    with pytest.raises(CheckpointError, match=r"^no adapter could be loaded from .*; give another$"):
        open_adapter(folder)
