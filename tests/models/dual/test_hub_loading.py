"""Checkpoints of hub models as they come: shards, old formats, half precision, damaged, incomplete, with own code."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPProcessor, PreTrainedConfig

from tests.data.makers import put, put_json
from tests.models.dual.families import CAPTIONS, FAMILIES, Family, bert_tokenizer, clip_processor, pictures
from truepair.errors import CheckpointError, ConfigError
from truepair.models.checkpoints.load import load_part
from truepair.models.open import open_model

FAMILY = {family.name: family for family in FAMILIES}
CLIP = FAMILY["clip"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP, left as it is."""
    return CLIP.save(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of it to do harm to."""
    return Path(shutil.copytree(whole, tmp_path / "clip"))


def features(folder: Path | str) -> tuple[Tensor, Tensor]:
    opened = open_model(folder)
    transform = opened.preprocessing.images()
    with torch.no_grad():
        images = opened.model.encode_images(torch.stack([transform(image) for image in pictures()])).features
        return images, opened.model.encode_texts(*opened.preprocessing.collator().encode(CAPTIONS)).features


def same(folder: Path | str, whole: Path, atol: float = 0.0) -> None:
    for found, expected in zip(features(folder), features(whole), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def refused(folder: Path, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as error:
        open_model(folder)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


def shards(folder: Path) -> None:
    CLIP.model().save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-0*.safetensors"))) > 2


def one_bin(folder: Path) -> None:
    torch.save(CLIP.model().state_dict(), folder / "pytorch_model.bin")


def bin_shards(folder: Path) -> None:
    weights = list(CLIP.model().state_dict().items())
    parts = {"pytorch_model-00001-of-00002.bin": weights[:9], "pytorch_model-00002-of-00002.bin": weights[9:]}
    for name, part in parts.items():
        torch.save(dict(part), folder / name)
    places = {key: name for name, part in parts.items() for key, _ in part}
    put_json(folder / "pytorch_model.bin.index.json", {"metadata": {"total_size": 1}, "weight_map": places})


@pytest.mark.parametrize("write", [shards, one_bin, bin_shards])
def test_weights_in_every_format(folder: Path, whole: Path, write: Callable[[Path], None]) -> None:
    (folder / "model.safetensors").unlink()
    write(folder)
    same(folder, whole)


class Bomb:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.trace),)


def test_a_pickle_runs_nothing(folder: Path, tmp_path: Path) -> None:
    (folder / "model.safetensors").unlink()
    trace = tmp_path / "ran"
    torch.save({"logit_scale": Bomb(trace)}, folder / "pytorch_model.bin")
    refused(folder, "no model could be loaded from")
    assert not trace.exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert trace.exists()  # this is what would have happened


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_trained_and_saved_in_full(folder: Path, whole: Path, dtype: torch.dtype) -> None:
    CLIP.model().to(dtype).save_pretrained(folder)
    assert json.loads((folder / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")
    opened = open_model(folder)
    assert {weight.dtype for weight in opened.model.parameters()} == {torch.float32}
    same(folder, whole, atol=0.05)
    opened.model.save_pretrained(folder)
    assert {value.dtype for value in load_file(folder / "model.safetensors").values()} == {torch.float32}
    assert json.loads((folder / "config.json").read_text())["dtype"] == "float32"


def test_missing_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["visual_projection.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    refused(folder, r"lacks weights of CLIPModel \(visual_projection.weight, ...\); give another")


def test_weights_of_another_size(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["visual_projection.weight"] = torch.zeros(5, 5)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    refused(folder, "no model could be loaded from")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.safetensors", b"no weights"),
        ("config.json", b"{"),
        ("config.json", b"[]"),
        ("config.json", b'{"model_type": "clip", "projection_dim": "eight"}'),
        ("preprocessor_config.json", b"{"),
        ("tokenizer.json", b"{"),
    ],
)
def test_damaged_files(folder: Path, name: str, content: bytes) -> None:
    put(folder / name, content)
    refused(folder, "no (model|image processor|tokenizer) could be loaded from .*; (give another|save the)")


def test_half_a_file(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    refused(folder, "no model could be loaded from")


@pytest.mark.parametrize("name", ["chinese_clip", "clip", "metaclip_2", "siglip", "siglip_2", "tipsv2", "vit_and_bert"])
def test_a_missing_tokenizer_is_not_made_up(name: str, tmp_path: Path) -> None:
    """Transformers makes one of nothing but special tokens."""
    FAMILY[name].model().save_pretrained(tmp_path)
    FAMILY[name].processor().save_pretrained(tmp_path)
    refused(tmp_path, "(has no tokenizer; save|no tokenizer could be loaded from .*; save) the (one|tokenizer) that")


def test_a_missing_image_processor(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()
    refused(folder, "no image processor could be loaded from .*; save the image processor that the model was trained")


@pytest.mark.parametrize("name", ["clip", "chinese_clip", "siglip_2", "vit_and_bert"])
def test_an_old_image_processor_that_does_not_say_what_it_is(name: str, tmp_path: Path) -> None:
    expected = features(FAMILY[name].save(tmp_path))
    file = tmp_path / "preprocessor_config.json"
    settings = json.loads(file.read_text())
    del settings["image_processor_type"]
    put_json(file, settings)
    for found, one in zip(features(tmp_path), expected, strict=True):
        assert torch.equal(found, one)


def test_the_older_name_of_image_processors(folder: Path, whole: Path) -> None:
    file = folder / "preprocessor_config.json"
    settings = json.loads(file.read_text())
    del settings["image_processor_type"]
    put_json(file, {**settings, "feature_extractor_type": "CLIPFeatureExtractor", "size": 16, "crop_size": 16})
    same(folder, whole)


def test_both_in_one_file_as_processors_save_themselves(tmp_path: Path, whole: Path) -> None:
    CLIP.model().save_pretrained(tmp_path)
    CLIPProcessor(CLIP.processor(), CLIP.tokenizer()).save_pretrained(tmp_path)
    same(tmp_path, whole)


def test_a_tokenizer_of_another_model(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    entries = config["text_config"]["vocab_size"]
    for file in folder.glob("*token*"):
        file.unlink()
    small = FAMILY["vit_and_bert"]
    small.save(folder)
    CLIP.tokenizer().save_pretrained(folder)
    refused(folder, rf"has a tokenizer of {entries} entries and a model of {len(bert_tokenizer())}; save the tokenizer")


def test_an_image_processor_of_another_model(folder: Path) -> None:
    clip_processor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    refused(
        folder, r"has a processor or a tokenizer that is not its model's \(Input image size \(32\*32\) doesn't match"
    )


CODE = """
import os
os.mkdir({trace!r})
from transformers import CLIPConfig as Config, CLIPModel as Own
"""


@pytest.mark.parametrize("part", ["model", "config", "image processor", "tokenizer"])
def test_code_of_a_checkpoint_is_never_run(folder: Path, tmp_path: Path, part: str) -> None:
    trace = tmp_path / "ran"
    put(folder / "own.py", CODE.format(trace=str(trace)))
    files = {"image processor": "preprocessor_config.json", "tokenizer": "tokenizer_config.json"}
    own = {
        "model": {"auto_map": {"AutoModel": "own.Own"}},
        "config": {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Own"}},
        "image processor": {"image_processor_type": "Own", "auto_map": {"AutoImageProcessor": "own.Own"}},
        "tokenizer": {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}},
    }
    file = folder / files.get(part, "config.json")
    put_json(file, json.loads(file.read_text()) | own[part])
    if part == "config":
        refused(folder, "needs code of its own for its model, and such code is never run; give a checkpoint of a kind")
    else:  # transformers knows the kind of model, and takes its own class for it
        open_model(folder)
    assert not trace.exists()


def test_kinds_that_are_no_dual_encoders(folder: Path) -> None:
    put_json(folder / "config.json", {"model_type": "blip"})
    with pytest.raises(ConfigError, match=r"clip: a model of kind 'blip' is no plain dual encoder; give one of align"):
        open_model(folder)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no model in .*nowhere: there is no such folder; check the path"):
        open_model(tmp_path / "nowhere")
    refused(tmp_path, "no model could be loaded from")


NAMED = """
import torch
from pathlib import Path
from tests.models.dual.test_hub_loading import features
for name in ("some/clip", "some/clip@main", "some/clip@{commit}"):
    for found, expected in zip(features(name), features(Path({whole!r})), strict=True):
        assert torch.equal(found, expected)
try:
    features("some/clip@other")
except Exception as error:
    print(type(error).__name__, error)
"""


def test_hub_names_are_found_in_the_ordinary_cache(whole: Path, tmp_path: Path) -> None:
    """Without a network, as the hub's own tools lay it out; a revision is named behind an @."""
    commit = "1" * 40
    put(tmp_path / "hub/models--some--clip/refs/main", commit)
    shutil.copytree(whole, tmp_path / f"hub/models--some--clip/snapshots/{commit}")
    done = subprocess.run(
        [sys.executable, "-c", NAMED.format(whole=str(whole), commit=commit)],
        env=os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == (
        "CheckpointError no model in some/clip@other, neither a folder nor a hub name in reach"
    )


def test_folders_may_have_an_at_in_their_name(whole: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / "clip@home")
    same(Path(folder), whole)

    class Named:
        @staticmethod
        def from_pretrained(name: str, *, trust_remote_code: bool, **options: str) -> tuple[str, dict[str, str]]:
            assert not trust_remote_code
            return name, options

    assert load_part(Named, str(folder)) == (str(folder), {})
    assert load_part(Named, "a/b@c") == ("a/b", {"revision": "c"})
    assert load_part(Named, "a/b") == ("a/b", {})


def test_a_library_that_is_not_installed_is_named() -> None:
    class Needing:
        @staticmethod
        def from_pretrained(_: str, **options: Any) -> None:
            raise ImportError("SiglipTokenizer requires the\nSentencePiece library")

    message = "no tokenizer could be loaded from a/b: SiglipTokenizer requires the SentencePiece library; install that"
    with pytest.raises(CheckpointError, match=message):
        load_part(Needing, "a/b", what="tokenizer")


def family_config(family: Family) -> PreTrainedConfig:
    return family.model().config


def test_what_the_published_configs_say_wrongly_is_made_here_too() -> None:
    """The padding of SigLIP's configs is not that of its tokenizer, the end token of CLIP's not the tokenizer's."""
    siglip = FAMILY["siglip_2"]
    assert family_config(siglip).text_config.pad_token_id != siglip.tokenizer().pad_token_id
    old = FAMILY["old_clip"]
    assert family_config(old).text_config.eos_token_id != old.tokenizer().eos_token_id
