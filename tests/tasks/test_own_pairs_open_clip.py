"""The recipe `clip` trains a model of open_clip on a user's list, which is evaluated by the name of its run."""

import json
from pathlib import Path

import pytest
import torch

from tests.engine.processes import run_ranks
from tests.models.dual import tiny_open_clip as tiny
from tests.tasks.own_pairs import write_list
from tests.tasks.test_own_pairs import OnRanks, recipe_of, steps
from truepair.models.open import open_model
from truepair.tasks.pretraining import pretrain

open_clip = pytest.importorskip("open_clip", reason="needs open_clip: pip install 'truepair[open_clip]'")


@pytest.fixture
def pairs(squares: Path, tmp_path: Path) -> Path:
    return write_list(squares, tmp_path / "pairs.csv")


def test_frozen_towers_are_cached(pairs: Path, tmp_path: Path) -> None:
    before = tiny.made(tiny.coca(tmp_path), tmp_path / "coca").state_dict()
    words = ["--model.freeze_image", "--model.cache_images", "--model.freeze_text", "--model.cache_captions"]
    options = [part for word in words for part in (word, "true")]
    recipe = recipe_of(["clip"], pairs, tmp_path / "coca", *options, "--model.cache_folder", str(tmp_path / "cache"))
    said: list[str] = []
    pretrain(recipe, tmp_path / "run", said.append)
    assert any("its own image processor and tokenizer, captions of up to 24 tokens" in line for line in said)
    model = open_model(tmp_path / "run").model
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name[6:]])}
    assert moved == {"model.visual.proj", "model.text.text_projection", "model.logit_scale"}
    assert json.loads((tmp_path / "run/retrieval.json").read_text())["images"] == 12


@pytest.mark.parametrize("shard", ["false", "true"])
def test_two_ranks_have_the_losses_of_one(pairs: Path, tmp_path: Path, shard: str) -> None:
    tiny.made(tiny.clip(tmp_path), tmp_path / "clip")
    words = ["--loop.evaluate_every", "0"]
    pretrain(recipe_of(["clip"], pairs, tmp_path / "clip", *words), tmp_path / "one", lambda _: None)
    both = recipe_of(["clip"], pairs, tmp_path / "clip", *words, "--loop.batch_size", "4", "--loop.shard", shard)
    assert run_ranks([OnRanks(both, tmp_path / "two")] * 2, limit=280) == [0, 0]
    for one, other in zip(steps(tmp_path / "one"), steps(tmp_path / "two"), strict=True):
        assert one["itc"] == pytest.approx(other["itc"], rel=1e-5)
    one, two = (open_model(tmp_path / name).model.state_dict() for name in ("one", "two"))
    for name, value in one.items():
        if name.endswith("in_proj_bias"):  # softmax does not see that of keys: what moves it is rounding
            continue
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4, msg=name)
