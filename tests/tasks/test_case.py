"""Captions that differ in case alone: different to a model whose tokenizer tells case apart, and to no other."""

import json
from pathlib import Path

import pytest
import torch

from tests.models.dual.families import FAMILIES
from tests.tasks.doctor.test_doctor import doctor, write_list
from truepair.cli.main import main
from truepair.data.identity import match_keys
from truepair.data.open import open_pairs
from truepair.data.pairs import PairDataset
from truepair.data.table import PairTable
from truepair.data.tokens import tells_case
from truepair.evaluation.truth import Truth
from truepair.mining.gallery import Gallery
from truepair.mining.graph import Declared
from truepair.models.open import open_model

TEXTS = ("US troops", "us troops", "A red dot.", "a red dot", "a red dot 5 mm", "a red dot 5 MM")
PAIRS = [{"image": f"{number}.png", "caption": text, "split": "test"} for number, text in enumerate(TEXTS)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """A model that tells case apart, and one that does not."""
    names = {True: "metaclip_2", False: "clip"}
    folder = tmp_path_factory.mktemp("models")
    by_name = {family.name: family for family in FAMILIES}
    return {cased: by_name[name].save(folder / name) for cased, name in names.items()}


def test_the_tokenizer_says_whether_case_is_told_apart(models: dict[bool, Path]) -> None:
    for cased, folder in models.items():
        assert tells_case(open_model(folder).preprocessing.tokenization) is cased


@pytest.mark.parametrize("cased", [False, True])
def test_everything_that_compares_captions_goes_by_it(cased: bool, tmp_path: Path) -> None:
    table = open_pairs(write_list(tmp_path, PAIRS)).read_by_case(cased)
    texts = len(TEXTS) if cased else 3
    pairs = [table, table.select([0, 1, 2, 3, 4, 5]), table.split("test"), table.as_pairs(), table.with_split("val")]
    for made in (*pairs, PairTable.concat([table]), table.also_skipped([])):
        assert made.cased is cased
        assert len(set(match_keys(made, "first")[:, 1])) == texts
    assert len({sample["caption_key"] for sample in PairDataset(table)}) == texts  # type: ignore[attr-defined]
    assert len(Gallery.of_table(table).texts) == texts
    assert len(Declared.of_table(table).caption_keys.unique()) == texts
    truth = Truth.of_table(table)
    assert truth.captions == truth.without_ignored().captions == texts
    keys = torch.tensor([table.caption_key(text) for text in TEXTS])
    assert truth.matches(torch.arange(6), keys).all()
    assert truth.matches(torch.tensor([0]), keys[[1]]).item() is not cased


def test_the_doctor_counts_spellings_of_one_text_as_the_model_reads_them(
    models: dict[bool, Path], tmp_path: Path
) -> None:
    pairs = write_list(tmp_path, PAIRS)
    assert doctor(tmp_path, pairs, "--no-pictures")["same_caption_groups"] == 3
    for cased, model in models.items():
        found = doctor(tmp_path, pairs, "--model", str(model))
        assert found["same_caption_groups"] == (0 if cased else 3)


def test_evaluation_counts_texts_as_the_model_reads_them(models: dict[bool, Path], tmp_path: Path) -> None:
    pairs = write_list(tmp_path, PAIRS)
    for cased, model in models.items():
        main(["evaluate", str(model), "--data", pairs, "--output", str(tmp_path / "figures.json")])
        figures = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
        assert (figures["own_captions"], figures["captions"]) == (6, 6 if cased else 3)


def test_training_knows_matches_as_the_model_reads_them(
    models: dict[bool, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = write_list(tmp_path, [row | {"split": "train"} for row in PAIRS])
    settings = ["--loop.epochs=1", "--loop.batch_size=6", "--loop.workers=0", "--loop.cpu=true"]
    for cased, model in models.items():
        run = ["--run-folder", str(tmp_path / str(cased)), "--model.checkpoint", str(model)]
        main(["train", "clip", pairs, *run, *settings])
        shown = " ".join(capsys.readouterr().err.split())
        assert f"rule same_caption, relabel: {0 if cased else 6} pairs of batches" in shown
