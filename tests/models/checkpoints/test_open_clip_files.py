"""Checkpoint files of open_clip's trainer."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.models.dual import tiny_open_clip as tiny
from truepair.cli.main import main
from truepair.errors import CheckpointError, ConfigError
from truepair.models import OpenClipDualEncoder
from truepair.models.checkpoints.convert import ConvertOptions, open_checkpoint
from truepair.models.open import open_model

open_clip = pytest.importorskip("open_clip", reason="needs open_clip: pip install 'truepair[open_clip]'")


def plain(folder: Path) -> dict[str, Any]:
    """A CLIP as it is inferred from sizes: heads of 64 channels, no quick GELU."""
    vision = {"image_size": 32, "layers": 2, "width": 64, "head_width": 64, "patch_size": 8}
    text = {"context_length": 24, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2}
    return {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text}


def trained(model: Any, file: Path, name: str = "2026_01_01-model_none-lr_0.001-b_8", **more: Any) -> Path:
    """A file as the trainer writes it from several processes."""
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    torch.save({"epoch": 1, "name": name, "state_dict": state, "optimizer": {}, "scaler": {"scale": 1.0}, **more}, file)
    return file


@torch.no_grad()
def assert_same(opened: Any, library: Any) -> None:
    """It computes what the library does."""
    model, own = opened
    assert isinstance(model, OpenClipDualEncoder)
    pixels = tiny.pixels_of(library)
    torch.testing.assert_close(model.encode_images(pixels).features, library.encode_image(pixels, normalize=True))
    ids = open_clip.tokenizer.SimpleTokenizer(context_length=24)(tiny.CAPTIONS)
    texts = model.encode_texts(*own.collator().encode(tiny.CAPTIONS)).features
    torch.testing.assert_close(texts, library.encode_text(ids, normalize=True), rtol=0, atol=1e-5)


def test_a_clip_of_any_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    library = tiny.made(plain(tmp_path), tmp_path / "made").eval()
    main(["convert", str(trained(library, tmp_path / "epoch_1.pt")), str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert "epoch_1.pt: open_clip; " in said and "no architecture of open_clip has these shapes" in said
    assert "with 1 and 1 attention heads" in said and "it does not say how images are normalised" in said
    assert_same(vars(open_model(tmp_path / "out")).values(), library)
    assert json.loads((tmp_path / "out" / "open_clip_config.json").read_text())["model_cfg"]["embed_dim"] == 16


def test_an_architecture_may_be_named_or_a_file(tmp_path: Path) -> None:
    config = tiny.clip(tmp_path)  # with quick GELU, which weights do not show
    library = tiny.made(config, tmp_path / "made").eval()
    file = trained(library.half(), tmp_path / "epoch_1.pt")
    (tmp_path / "quick.json").write_text(json.dumps(config))
    options = ConvertOptions(architecture=str(tmp_path / "quick.json"))
    assert_same(open_checkpoint(file, print, options), library.float())
    with pytest.raises(CheckpointError, match=r"does not fit its architecture: .*; name another: --architecture NAME"):
        open_checkpoint(file, print, ConvertOptions(architecture="ViT-B-32"))
    with pytest.raises(ConfigError, match=r"open_clip has no architecture ViT-B-33 .did you mean"):
        open_checkpoint(file, print, ConvertOptions(architecture="ViT-B-33"))
    with pytest.raises(ConfigError, match="has a tokenizer of its own; drop --tokenizer"):
        open_checkpoint(file, print, ConvertOptions(max_length=3))


def test_an_architecture_of_the_library_is_told_by_its_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = plain(tmp_path)
    for name in ("Tiny-8", "Tiny-8-quickgelu"):
        (tmp_path / f"{name}.json").write_text(json.dumps({**config, "quick_gelu": "quick" in name}))
        open_clip.add_model_config(tmp_path / f"{name}.json")
    try:
        library = tiny.made(config, tmp_path / "made").eval()
        lines: list[str] = []
        assert_same(open_checkpoint(trained(library, tmp_path / "epoch_1.pt"), lines.append), library)
        assert "epoch_1.pt: Tiny-8 of open_clip, by its shapes; Tiny-8-quickgelu have the same shapes" in lines[1]
        file = trained(library, tmp_path / "epoch_2.pt", name="2026-model_Tiny-8-quickgelu-lr_0.1-b_8-j_4-p_amp")
        model, _ = open_checkpoint(file, lines.append)
        assert isinstance(model, OpenClipDualEncoder) and model.config["quick_gelu"]
        assert "Tiny-8-quickgelu of open_clip, as the name of its run says" in " ".join(lines)
    finally:
        for name in ("Tiny-8", "Tiny-8-quickgelu"):
            del open_clip.factory._MODEL_CONFIGS[name]


def test_a_config_beside_the_file_says_it(tmp_path: Path) -> None:
    library = tiny.made(tiny.clip(tmp_path), tmp_path / "made").eval()
    config = json.loads((tmp_path / "made" / "open_clip_config.json").read_text())
    config["preprocess_cfg"] = {**config.get("preprocess_cfg", {}), "mean": [0.5] * 3, "resize_mode": "squash"}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    lines: list[str] = []
    model, own = open_checkpoint(trained(library, tmp_path / "epoch_1.pt"), lines.append)
    assert_same((model, own), library)
    assert "the architecture is that of the open_clip_config.json beside it" in " ".join(lines)
    assert "taken are those of open_clip_config.json (mean 0.5, 0.5, 0.5; squash)" in lines[-1]


@torch.no_grad()
def test_positions_are_interpolated(tmp_path: Path) -> None:
    library = tiny.made(plain(tmp_path), tmp_path / "made").eval()
    lines: list[str] = []
    file = trained(library, tmp_path / "epoch_1.pt")
    model, own = open_checkpoint(file, lines.append, ConvertOptions(image_size=64))
    assert "position embeddings are interpolated from 32 to 64 px" in " ".join(lines)
    pixels = torch.zeros(1, 3, 64, 64)
    assert model.encode_images(pixels).features.shape == (1, 16) and own.images()(tiny_picture()).shape[1:] == (64, 64)


def tiny_picture() -> Image.Image:
    return Image.new("RGB", (40, 30))


def test_a_real_architecture_is_told(tmp_path: Path) -> None:
    from truepair.models.checkpoints.open_clip import architecture_of

    lines: list[str] = []
    for name, also in (("ViT-B-32", "ViT-B-32-quickgelu"), ("RN50", "RN50-quickgelu"), ("coca_ViT-B-32", "")):
        config = open_clip.get_model_config(name)
        kind = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CLIP
        with torch.device("meta"):
            state = kind(**{key: value for key, value in config.items() if key != "custom_text"}).state_dict()
        found, _ = architecture_of(state, tmp_path / "x.pt", lines.append, "", None, 0)
        assert found == name and also in lines[-1]
