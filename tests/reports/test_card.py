"""The card says what the run's files say, and the hub's own parser reads it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard

from truepair.data.open import open_pairs
from truepair.data.source import SourceConfig
from truepair.data.splits import DataConfig
from truepair.errors import CheckpointError
from truepair.evaluation.metrics import evaluate_retrieval
from truepair.judges.base import JudgeConfig
from truepair.methods.ecm import EcmConfig
from truepair.methods.recipe import ModelConfig, PretrainRecipe
from truepair.methods.rules import RelationsConfig
from truepair.relations.ledger import Ledger
from truepair.reports.card import MARK, write_card
from truepair.tasks.retrieval import RetrievalResult, build_truth


@pytest.fixture
def run(squares: Path, tmp_path: Path) -> tuple[Path, PretrainRecipe]:
    """A finished run, made up: two ledgers, figures of a test split, a log of two epochs."""
    folder = tmp_path / "squares-clip"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text(json.dumps({"model_type": "clip"}))
    table = open_pairs(squares / "pairs.jsonl")
    test = build_truth(table.split("test"))
    scores = torch.randn(test.images, test.captions, generator=torch.Generator().manual_seed(0))
    metrics = evaluate_retrieval(scores, test)
    ways = {"similarity": metrics}
    figures = RetrievalResult("pairs", "test", ways, None, test.images, 12, test.captions).as_dict()
    (folder / "retrieval.json").write_text(json.dumps(figures))
    counts = {"relations/same_caption/relabel": 7.0, "false_negative_rate": 0.1}
    epochs = [{"kind": "epoch", "step": step, "epoch": step, **counts} for step in (0, 1)]
    (folder / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in epochs))

    train = table.split("train")
    groups, captions = train.values("group"), train.values("caption_ids")
    same = [(i, j) for i in range(len(train)) for j in range(len(train)) if i != j and groups[i] == groups[j]]
    other = [(i, j) for i in range(6) for j in range(30, 32)]

    def record(ledger: Path, cells: list[tuple[int, int]], judge: str, probability: float) -> None:
        with Ledger(ledger) as opened:
            images = torch.tensor([int(train.image_ids[i]) for i, _ in cells])
            texts = torch.tensor([captions[j][0] for _, j in cells])
            opened.record(images, texts, torch.full((len(cells),), probability), judge=judge)

    mined = tmp_path / "mined" / "ledger"
    record(mined, same[:9], "mined:0123", 0.9)
    record(mined, same[9:11], "mined:0123", 0.2)
    record(mined, other[:4], "person:anna", 1.0)
    record(folder / "ledger", [*same[:6], *other[:2]], "judge:4567", 0.99)
    rules = [
        {"detector": "same_caption", "action": "relabel"},
        {"detector": "recorded", "ledger": str(mined), "zone": "match", "action": "relabel"},
    ]
    recipe = PretrainRecipe(
        data=DataConfig(sources=[str(squares / "pairs.jsonl")]),
        model=ModelConfig(checkpoint="openai/clip-vit-base-patch32"),
        relations=RelationsConfig(rules=rules),
        ecm=EcmConfig(judge=JudgeConfig(kind="itm", checkpoint="somewhere")),
    )
    return folder, recipe


def written(run: tuple[Path, PretrainRecipe], **changes: Any) -> tuple[ModelCard, str]:
    folder, recipe = run
    path = write_card(folder, replace(recipe, **changes), command="truepair train clip pairs.jsonl")
    assert path == folder / "model" / "README.md"
    return ModelCard.load(path), path.read_text()


def test_the_hub_reads_its_metadata(run: tuple[Path, PretrainRecipe]) -> None:
    card, _ = written(run)
    data = card.data
    assert data.base_model == "openai/clip-vit-base-patch32" and data.library_name == "transformers"
    assert data.pipeline_tag == "zero-shot-image-classification"
    assert data.tags == ["truepair", "image-text-retrieval", "contrastive-learning", "clip"]
    assert data.model_name == "squares-clip" and data.datasets is None
    figures = json.loads((run[0] / "retrieval.json").read_text())["ways"]["similarity"]
    values = {result.metric_name: result.metric_value for result in data.eval_results}
    assert len(values) == 12 and {result.dataset_name for result in data.eval_results} == {"pairs.jsonl"}
    for direction, words in (("i2t", "image to text"), ("t2i", "text to image")):
        usual = values[f"R@1, {words}, ranked by similarity (usual protocol: a picture's own captions alone count)"]
        assert usual == round(figures[f"naive_{direction}"]["recall_at_1"]["value"], 4)
        aware = next(v for name, v in values.items() if name.startswith(f"R@5, {words}") and "truth-aware" in name)
        assert aware == round(figures[direction]["recall_at_5"]["value"], 4)


def test_it_says_who_found_what_with_which_precision(run: tuple[Path, PretrainRecipe]) -> None:
    _, text = written(run)
    assert (
        "| rule `same_caption`, action `relabel` | 14 cells of batches, over all epochs | no precision stated |" in text
    )
    assert "| judge `mined:0123` in the ledger `mined` | 9 pairs, zone match | no precision stated |" in text
    assert "| 1 person in the ledger `mined` | 4 pairs, zone match | judged by eye |" in text
    assert (
        "| the run's judge | 8 pairs became matches | 75.0\N{NO-BREAK SPACE}% of the 8 whose truth the data know |"
        in text
    )


def test_it_states_data_command_versions_and_base(run: tuple[Path, PretrainRecipe]) -> None:
    _, text = written(run)
    assert "| training | 36 | 36 |" in text and "| test | 12 | 12 |" in text
    assert "fine-tuned from [openai/clip-vit-base-patch32](https://huggingface.co/openai/clip-vit-base-patch32)" in text
    assert "The licence of the model it came from is not known here." in text
    assert "Retrieval on 12 pictures with 12 captions of their own (24 texts are known of them), split `test`" in text
    assert "```\ntruepair train clip pairs.jsonl\n```" in text and "transformers 5" in text
    assert str(run[0].parent) not in text  # no path of this machine


def test_sources_of_each_split_are_named(run: tuple[Path, PretrainRecipe], squares: Path, tmp_path: Path) -> None:
    paths = []
    for name in ("one", "two"):
        lines = (squares / "pairs.jsonl").read_text().replace('"image": "', f'"image": "{squares}/')
        paths.append(tmp_path / f"{name}.jsonl")
        paths[-1].write_text(lines)
    one, two = (SourceConfig(source=str(path), allow_outside_root=True) for path in paths)
    card, text = written(run, data=DataConfig(train=[one], test=[two, "owner/name"]), ecm=None)
    assert "Pairs from one.jsonl, two.jsonl, owner/name" in text and card.data.datasets == ["owner/name"]
    assert {(found.dataset_name, found.dataset_split) for found in card.data.eval_results} == {
        ("two.jsonl, owner/name", "all")
    }


def test_a_base_in_a_folder_hands_on_its_licence(run: tuple[Path, PretrainRecipe], tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (base / "README.md").write_text("---\nlicense: mit\nbase_model: someone/model\n---\n# Base\n")
    card, text = written(run, model=ModelConfig(checkpoint=str(base)))
    assert card.data.license == "mit" and card.data.base_model == "someone/model"
    assert "fine-tuned from the folder `base`" in text and "came from is mit" in text
    (base / "README.md").write_text("---\n: no yaml: [\n---\n")
    assert written(run, model=ModelConfig(checkpoint=str(base)))[0].data.license is None


def test_what_is_not_there_is_said(run: tuple[Path, PretrainRecipe], tmp_path: Path) -> None:
    (run[0] / "retrieval.json").unlink()
    (run[0] / "log.jsonl").unlink()
    shutil.rmtree(tmp_path / "mined")
    shutil.rmtree(run[0] / "ledger")
    _, text = written(run)
    assert "The data had no test split, so nothing was measured." in text
    assert "| the ledger `mined` | it could not be read again | no precision stated |" in text
    rules = RelationsConfig(rules=[])
    _, text = written(run, relations=rules, ecm=None, data=DataConfig(sources=["gone.csv"]))
    assert "Pairs from gone.csv, which could not be read again when this card was written." in text
    assert "None were looked for: every undeclared pair was a negative." in text


def test_other_libraries_are_named(run: tuple[Path, PretrainRecipe]) -> None:
    model = run[0] / "model"
    for file, library, words in (
        ("open_clip_config.json", "open_clip", "Open_clip opens it as `local-dir:FOLDER`"),
        ("adapter_config.json", "peft", "Peft opens it as an adapter of its base model"),
    ):
        (model / file).write_text("{}")
        card, text = written(run)
        assert card.data.library_name == library and words in text
        (model / file).unlink()
    (model / "config.json").write_text(json.dumps({"model_type": "truepair-albef"}))
    card, text = written(run)
    assert card.data.pipeline_tag == "feature-extraction" and "after `import truepair`" in text


def test_a_card_of_the_users_stays(run: tuple[Path, PretrainRecipe], tmp_path: Path) -> None:
    folder, recipe = run
    card, _ = written(run)
    assert MARK in card.content and written(run)[1] == card.content  # ours is written again, the same
    (folder / "model" / "README.md").write_text("# Mine")
    assert write_card(folder, recipe, command="x") is None
    assert (folder / "model" / "README.md").read_text() == "# Mine"
    with pytest.raises(CheckpointError, match="has no model yet; run its command to the end first"):
        write_card(tmp_path, recipe, command="x")
