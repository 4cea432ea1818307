"""Exported towers compute what the model computes, and the README's program uses them."""

import math
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import load
from PIL import Image

from tests.models.folders import SAVERS, save_albef, save_clip
from truepair import Retriever
from truepair.cli.main import main
from truepair.data.preprocessing import OwnPreprocessing
from truepair.data.transforms import normalisation
from truepair.errors import CheckpointError, ConfigError
from truepair.models.checkpoints import onnx
from truepair.models.checkpoints.onnx import export_onnx
from truepair.models.open import open_model


@pytest.fixture(scope="module", params=SAVERS, ids=lambda save: save.__name__)
def folders(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model, and its export by the real command."""
    save: Callable[[Path], Path] = request.param
    model = save(tmp_path_factory.mktemp("model"))
    out = tmp_path_factory.mktemp("export") / "out"
    main(["export", str(model), str(out)])
    return model, out


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(("rows", "length"), [(1, 3), (1, 12), (5, 7), (5, 1)])
def test_the_files_compute_what_the_model_does(folders: tuple[Path, Path], rows: int, length: int) -> None:
    opened = open_model(folders[0])
    model, size = opened.model.eval(), opened.preprocessing.images()(Image.new("RGB", (40, 40))).shape
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(rows, *size, generator=generator)
    ids = torch.randint(5, 30, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, max(1, length - 2) :] = 0
    with torch.inference_mode():
        images, texts = model.encode_images(pixels).features, model.encode_texts(ids, mask).features
    (found,) = session(folders[1] / "image.onnx").run(None, {"pixel_values": pixels.numpy()})
    np.testing.assert_allclose(found, images, rtol=0, atol=1e-4)
    (found,) = session(folders[1] / "text.onnx").run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
    np.testing.assert_allclose(found, texts, rtol=0, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_a_file_holds_its_own_tower_alone(folders: tuple[Path, Path]) -> None:
    model = open_model(folders[0]).model
    whole = sum(weight.numel() for weight in model.parameters())
    files = [folders[1] / name for name in ("image.onnx", "text.onnx")]
    weights = [sum(math.prod(one.dims) for one in load(file).graph.initializer) for file in files]
    assert min(weights) > 1000 and sum(weights) < whole + 2000  # and constants of shapes
    assert all(b"site-packages" not in file.read_bytes() for file in files)  # nor any path of this machine


def readme_program(folder: Path) -> str:
    return "".join(re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL))


def run_program(folder: Path) -> dict[str, Callable[..., np.ndarray]]:
    names: dict[str, Callable[..., np.ndarray]] = {}
    before = Path.cwd()
    os.chdir(folder)
    try:
        exec(compile(readme_program(folder), "README.md", "exec"), names)
    finally:
        os.chdir(before)
    return names


CAPTIONS = ["A small, red square.", "blue", "the man's (large) green square " * 4]


def compare(model: Path, out: Path, picture: Path) -> None:
    names = run_program(out)
    retriever = Retriever.load(model, device="cpu")
    np.testing.assert_allclose(names["encode_image"](picture), retriever.encode_images([picture]), rtol=0, atol=1e-4)
    np.testing.assert_allclose(names["encode_texts"](CAPTIONS), retriever.encode_texts(CAPTIONS), rtol=0, atol=1e-4)


def test_the_program_of_the_readme_makes_the_vectors_of_the_model(folders: tuple[Path, Path], tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 67, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    if (folders[0] / "open_clip_config.json").exists():
        assert readme_program(folders[1]) == ""  # open_clip's own tokenizer is not written out
    else:
        compare(*folders, tmp_path / "noise.png")


def test_the_program_knows_every_way_of_our_preprocessing(tmp_path: Path) -> None:
    own = OwnPreprocessing.load(save_albef(tmp_path))
    crop = replace(own.transform, evaluation_resize="crop", interpolation="bilinear", normalisation="imagenet")
    own = replace(own, add_sep=True, normalise=False, transform=crop)
    (tmp_path / "README.md").write_text(
        "```python\nimport numpy as np\nfrom PIL import Image\nfrom transformers import AutoTokenizer\n"
        f"{onnx._reading(own)}\n```"
    )
    names = run_program(tmp_path)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 67, 3), np.uint8))
    step = (
        1 / 255 / min(normalisation(crop, own.statistics)[1])
    )  # the program resizes by Pillow, which rounds a few pixels the other way
    np.testing.assert_allclose(names["pixels"](picture)[0], own.images()(picture), rtol=0, atol=1.01 * step)
    for found, expected in zip(names["tokens"](CAPTIONS), own.collator().encode(CAPTIONS), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_mistakes_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = open_model(save_clip(tmp_path / "clip"))
    with pytest.raises(ConfigError, match=r"clip is there, and is no former export; give another folder"):
        export_onnx(opened, tmp_path / "clip", name="clip")
    with pytest.raises(SystemExit):
        main(["export", str(tmp_path / "clip")])
    assert capsys.readouterr().err == "truepair: give the model and a folder: truepair export MODEL FOLDER\n"
    monkeypatch.setattr(onnx, "_write", lambda *_: None)
    monkeypatch.setattr(onnx, "_difference", lambda *_: float("nan"))
    with pytest.raises(CheckpointError, match="the export of clip differs by nan from the model"):
        export_onnx(opened, tmp_path / "out", name="clip")
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(onnx, "find_spec", lambda name: None if name == "onnxruntime" else name)
    with pytest.raises(ConfigError, match=r'export needs onnxruntime: pip install "truepair\[onnx\]"'):
        export_onnx(opened, tmp_path / "out", name="clip")
