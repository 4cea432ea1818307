"""Zero-shot classification by a tiny CLIP: its figures are those of the libraries' own ways."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    PreTrainedModel,
)

from tests.models.dual.tiny_hub import TEXT, VISION, seeded
from truepair.cli.main import main
from truepair.data.labelled import LabelledConfig, read_templates
from truepair.data.left_out import LeftOut
from truepair.data.tokens import train_wordpiece
from truepair.data.transforms import TransformConfig
from truepair.errors import DataError
from truepair.models import HubDualEncoder
from truepair.models.dual.hub_preprocessing import HubPreprocessing
from truepair.models.open import open_model
from truepair.tasks.zero_shot import ZeroShotTask, forgetting

LONGEST = 32
TEXTS = ["a photo of a small red square", "green square, middle", "a large blue square", "art of the white square"]


def silent(line: str) -> None:
    pass


def readable_clip() -> PreTrainedModel:
    """A CLIP that reads whole prompts."""
    text = {**TEXT, "vocab_size": 60, "max_position_embeddings": LONGEST}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=8))


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a CLIP with random weights, as transformers writes it."""
    folder = tmp_path_factory.mktemp("clip")
    processor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    tokenizer = train_wordpiece(TEXTS, 60, min_frequency=1)
    HubDualEncoder(seeded(readable_clip)).save_pretrained(folder)
    HubPreprocessing(processor, tokenizer, LONGEST, TransformConfig(size=16, normalisation="encoder")).save(folder)
    return folder


@pytest.fixture(scope="session")
def kinds(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 48 squares in folders by their kind: 12 classes, such as ``small_red_square``."""
    folder = tmp_path_factory.mktemp("kinds")
    for file in squares.glob("*.png"):
        colour, size, shade = file.stem.split("-")
        target = folder / f"{size}_{colour}_square" / f"{shade}.png"
        target.parent.mkdir(exist_ok=True)
        shutil.copy(file, target)
    return folder


def task(folder: Path, data: Path, **fields: Any) -> tuple[ZeroShotTask, HubDualEncoder]:
    opened = open_model(folder)
    config = LabelledConfig(data=str(data), workers=0, **fields)
    assert isinstance(opened.model, HubDualEncoder)
    return ZeroShotTask(config, opened.preprocessing, LeftOut(silent)), opened.model


class AsOpenClip:
    """A transformers model with the methods that open_clip's classifier calls."""

    def __init__(self, model: CLIPModel) -> None:
        self.model = model

    def encode_text(self, tokens: Any, normalize: bool) -> Tensor:
        features = self.model.get_text_features(**tokens).pooler_output
        return torch.nn.functional.normalize(features, dim=-1) if normalize else features


class Tokens(dict[str, Tensor]):
    def to(self, device: Any) -> "Tokens":
        return self


def test_figures_are_those_of_open_clip_and_of_transformers(tiny_clip: Path, kinds: Path) -> None:
    open_clip = pytest.importorskip("open_clip")
    measured, model = task(tiny_clip, kinds, templates="clip7", batch_size=5)
    result = measured.evaluate(model)
    own = CLIPModel.from_pretrained(tiny_clip).eval()
    tokenizer, processor = AutoTokenizer.from_pretrained(tiny_clip), AutoImageProcessor.from_pretrained(tiny_clip)

    def tokens(texts: list[str]) -> Tokens:
        options: dict[str, Any] = {"padding": True, "truncation": True, "max_length": LONGEST, "return_tensors": "pt"}
        return Tokens(tokenizer(texts, return_token_type_ids=False, **options))

    folders = sorted(path for path in kinds.iterdir())
    names = [folder.name.replace("_", " ") for folder in folders]
    templates = [template.format for template in read_templates("clip7")]
    with torch.no_grad():
        classifier = open_clip.build_zero_shot_classifier(AsOpenClip(own), tokens, names, templates)  # [E, C]
        torch.testing.assert_close(measured._class_features(model), classifier.T, rtol=0, atol=1e-6)
        hits, first_five, by_class = [], [], []
        for label, folder in enumerate(folders):
            of_class = []
            for file in sorted(folder.iterdir()):
                pixels = processor(images=Image.open(file).convert("RGB"), return_tensors="pt")["pixel_values"]
                feature = own.get_image_features(pixel_values=pixels).pooler_output[0]
                order = (feature / feature.norm() @ classifier).argsort(descending=True).tolist()
                of_class.append(order[0] == label)
                first_five.append(label in order[:5])
            by_class.append(np.mean(of_class))
            hits += of_class
    assert result.top_1.value == pytest.approx(np.mean(hits))
    assert result.top_5 is not None and result.top_5.value == pytest.approx(np.mean(first_five))
    assert result.class_mean == pytest.approx(np.mean(by_class))
    assert [figure.top_1 for figure in result.per_class] == pytest.approx(by_class)
    assert (result.images, result.classes, result.templates, result.unreadable) == (48, 12, 7, 0)
    assert 0 < np.mean(hits) < 1


def test_one_prompt_is_transformers_own_zero_shot(tiny_clip: Path, kinds: Path) -> None:
    """The most probable prompt, as CLIPModel's logits have it."""
    measured, model = task(tiny_clip, kinds)
    own = CLIPModel.from_pretrained(tiny_clip).eval()
    tokenizer, processor = AutoTokenizer.from_pretrained(tiny_clip), AutoImageProcessor.from_pretrained(tiny_clip)
    names = measured.images.names
    tokens = tokenizer([f"a photo of a {name}." for name in names], padding=True, return_tensors="pt")
    hits = []
    for row, label in enumerate(measured.images.labels):
        pixels = processor(images=measured.images.table.image(row), return_tensors="pt")
        with torch.no_grad():
            logits = own(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"], **pixels)
        hits.append(int(logits.logits_per_image.argmax()) == label)
    assert measured.evaluate(model).top_1.value == pytest.approx(np.mean(hits))


def test_images_that_cannot_be_read_are_left_out_the_same_for_every_model(
    tiny_clip: Path, kinds: Path, tmp_path: Path
) -> None:
    shutil.copytree(kinds, tmp_path / "kinds")
    broken = tmp_path / "kinds" / "small_red_square"
    (broken / "0.png").write_bytes(b"")
    (broken / "1.png").write_bytes(b"no image")
    opened, lines = open_model(tiny_clip), list[str]()
    guard = ZeroShotTask(
        LabelledConfig(data=str(tmp_path / "kinds"), workers=2, batch_size=3),
        opened.preprocessing,
        LeftOut(lines.append),
    )
    first, again = guard.evaluate(opened.model), guard.evaluate(opened.model)
    assert first == again
    assert (first.images, first.unreadable) == (46, 2)
    assert {figure.name: figure.images for figure in first.per_class}["small red square"] == 2
    assert sum("left out: image " in line for line in lines) == 2
    assert lines[-3] == "left out: 2 of 48 pictures of kinds (train) cannot be read"
    (broken / "2.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"an image of kinds cannot be read any more: image .*2\.png is empty"):
        guard.evaluate(opened.model)


def test_a_set_without_a_readable_image_is_an_error(tiny_clip: Path, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(b"")
    measured, model = task(tiny_clip, tmp_path)
    with pytest.raises(DataError, match=r"none of the images of .* can be read; the first: image .*x\.png is empty"):
        measured.evaluate(model)


def test_prompts_that_may_be_cut_are_said(tiny_clip: Path, kinds: Path) -> None:
    opened, lines = open_model(tiny_clip), list[str]()
    short = opened.preprocessing.adapted(TransformConfig(size=0, normalisation="encoder"), 12)
    ZeroShotTask(LabelledConfig(data=str(kinds)), short, LeftOut(lines.append))
    assert lines[-1] == "12 of 12 prompts fill all 12 tokens that the model reads: some are cut"


def test_a_fall_is_said_and_a_small_one_is_not() -> None:
    before = {"zero_shot_top1": 0.61}
    line = forgetting(before, {"zero_shot_top1": 0.423}, largest_fall=0.02)
    assert line is not None and line.startswith("zero-shot top-1 fell from 61.0% to 42.3%: the model forgets; lower ")
    assert forgetting(before, {"zero_shot_top1": 0.6}, largest_fall=0.02) is None
    assert forgetting(before, {"zero_shot_top1": 0.9}, largest_fall=0.0) is None


def test_the_command(tiny_clip: Path, kinds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    templates = tmp_path / "own.txt"
    templates.write_text("a {}\nart of the {}\n")
    words = ["--data", str(kinds), "--templates", str(templates), "--output", str(tmp_path / "figures.json")]
    main(["evaluate", "zero-shot", str(tiny_clip), *words])
    shown = capsys.readouterr()
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["images"], figures["classes"], figures["templates"]) == (48, 12, 2)
    assert len(figures["per_class"]) == 12
    assert f"{figures['top_1']['value']:.1%}" in shown.out and "chance 8.3%" in shown.out
    assert "Classes recognised worst" in shown.out
    assert "zero-shot: 48 images of" in shown.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "zero_shot", "MODEL"], "there is no task 'zero_shot' (did you mean 'zero-shot'?)"),
        (["evaluate", "zero-shot", "MODEL"], "data"),
        (["evaluate", "zero-shot", "MODEL", "--data", "nowhere/at/all.csv"], "no such file or folder"),
        (["evaluate", "zero-shot", "MODEL", "--data", "KINDS", "--templates", "foto"], "did you mean 'photo'?"),
        (["finetune", "zero-shot", "paper"], "there is no task 'zero-shot'"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], message: str, tiny_clip: Path, kinds: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"MODEL": str(tiny_clip), "KINDS": str(kinds)}
    with pytest.raises(SystemExit) as stopped:
        main([places.get(word, word) for word in words])
    assert stopped.value.code == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("truepair: ") and message in last
