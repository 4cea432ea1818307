"""What a model, or a mined folder, adds to an examination."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.models.folders import save_clip
from tests.tasks.doctor.test_doctor import doctor
from truepair.data.images import load_image
from truepair.data.splits import DataConfig
from truepair.engine.logs.progress import counting
from truepair.tasks.doctor import by_model
from truepair.tasks.doctor.by_model import estimate_by_mined, examine_by_model
from truepair.tasks.doctor.config import DoctorConfig
from truepair.tasks.doctor.diagnosis import FalseNegatives
from truepair.tasks.doctor.examine import examine

COLOURS = {"red": (220, 10, 10), "green": (10, 220, 10), "blue": (10, 10, 220)}


class Colours:
    """A model that knows colours: vectors are a picture's mean colour, and the colour that a text names."""

    embed_dim = 3

    def encode_images(self, cells: Any) -> np.ndarray:
        return self._normal([np.asarray(load_image(cell)).mean(axis=(0, 1)) for cell in cells])

    def encode_texts(self, texts: Any) -> np.ndarray:
        return self._normal([next(rgb for name, rgb in COLOURS.items() if name in text) for text in texts])

    def _normal(self, vectors: Any) -> np.ndarray:
        found = np.asarray(vectors, np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)


def coloured(folder: Path) -> str:
    """Thirty pictures of three colours with true captions, but for one; one cannot be read."""
    generator, lines = np.random.default_rng(0), []
    for number in range(30):
        name = list(COLOURS)[number % 3]
        noise = generator.normal(0, 25, (40, 40, 3)) + COLOURS[name]
        Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
        said = "blue" if number == 0 else name
        lines.append({"image": f"{number}.png", "captions": [f"a {said} thing, number {'abcdefghij'[number // 3]}"]})
    (folder / "7.png").write_bytes(b"no picture")
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return str(folder / "pairs.jsonl")


def test_a_model_finds_captions_that_do_not_fit_and_counts_false_negatives(tmp_path: Path) -> None:
    config = DoctorConfig(data=DataConfig(sources=[coloured(tmp_path)]), batch=10, near=0.95)
    before, patient = examine(config, print, counting)
    found = examine_by_model(before, patient, Colours(), counting)  # type: ignore[arg-type]
    mismatched = next(one for one in found.findings if one.key == "mismatched")
    assert mismatched.count == 1 and mismatched.examples[0].files[0].endswith("0.png")
    assert mismatched.examples[0].text.startswith("a blue thing, number a (cosine 0.")
    near = next(one for one in found.findings if one.key == "near_by_model")
    assert near.count == 3  # one group for each colour
    negatives = found.false_negatives
    assert negatives.certain == pytest.approx(2 / (30 * 29) * 90, abs=1e-4)  # one text is that of two pictures
    assert negatives.cells == 90
    assert negatives.estimated is not None and 5 < negatives.estimated < 25  # half of the 30 of one colour


def test_the_command_takes_a_model_and_reads_with_its_tokenizer(squares: Path, tmp_path: Path) -> None:
    model = save_clip(tmp_path / "clip")
    found = doctor(tmp_path, str(squares / "pairs.jsonl"), "--model", str(model), "--near", "1.0")
    assert found["mismatched"] is not None and found["near_by_model"] is not None
    assert found["tokenizer"] == f"{model}, 12 tokens" and found["false_negatives"]["estimated"] is not None


def test_mined_pairs_estimate_false_negatives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cells of probability 1/2 and 3/4 among 4 pictures and 5 captions."""
    mined = SimpleNamespace(prior=np.log([1.0, 3.0]), paths=["a"] * 4, texts=["b"] * 5)
    monkeypatch.setattr(by_model.Candidates, "load", lambda folder: mined)
    found = estimate_by_mined(FalseNegatives(3, 6, 2.0), tmp_path)
    assert found.estimated == pytest.approx(2 + 1.25 / 20 * 4) and "mined in" in found.by
