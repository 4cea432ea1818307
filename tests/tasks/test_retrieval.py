"""The retrieval task, the audit and the page on a run of the tiny data set."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.tasks.test_pretraining import recipe_for, silent
from truepair.data.pairs import PairDataset
from truepair.errors import DataError
from truepair.evaluation.metrics import RetrievalProtocol
from truepair.judges.base import JudgeConfig
from truepair.methods.ecm import EcmConfig
from truepair.methods.recipe import PretrainRecipe
from truepair.relations.ledger import Ledger
from truepair.reports.facts import run_facts
from truepair.reports.run import ReportedRun, report_run, report_runs
from truepair.tasks.audit import audit_pairs
from truepair.tasks.evaluation import EvaluateConfig, evaluate_model
from truepair.tasks.examples import draw_examples
from truepair.tasks.pretraining import PretrainOutcome, pretrain
from truepair.tasks.retrieval import ImageSource, RetrievalTask


@pytest.fixture(scope="module")
def finished(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[PretrainOutcome, Path]:
    folder = tmp_path_factory.mktemp("run")
    return pretrain(recipe_for(squares, epochs=6), folder, silent), folder


def test_judge_agrees_with_the_model_on_each_pair(finished: tuple[PretrainOutcome, Path]) -> None:
    outcome = finished[0]
    assert outcome.test is not None
    judge = outcome.test.encode(outcome.model)
    images, captions = torch.tensor([3, 0, 3, 7]), torch.tensor([1, 5, 0, 11])
    found = judge(images, captions)
    dataset = PairDataset(outcome.test.images.table, outcome.test.images.transform)
    for image, caption, log_odds in zip(images, captions, found, strict=True):
        pixels = dataset[int(image)]["pixel_values"][None]
        ids, mask = outcome.collator.encode([outcome.test.truth.texts[int(caption)]])
        with torch.no_grad():
            logits = outcome.model(pixels, ids, mask).itm_logits[0]
        assert float(log_odds) == pytest.approx(float(logits[1] - logits[0]), abs=5e-3)  # float16 states


def test_truth_comes_from_the_groups(finished: tuple[PretrainOutcome, Path]) -> None:
    outcome = finished[0]
    assert outcome.test is not None
    truth = outcome.test.truth
    assert (truth.images, truth.captions) == (12, 24)  # both descriptions of each kind
    assert len(truth.own) == 12
    assert len(truth.true) == 24


def test_evaluate_gives_the_figures_of_the_run(finished: tuple[PretrainOutcome, Path], squares: Path) -> None:
    outcome, folder = finished
    config = EvaluateConfig(data=str(squares / "pairs.jsonl"), validation_split="test", output=str(folder / "out.json"))
    result = evaluate_model(folder / "model", config, silent)
    assert outcome.retrieval is not None
    assert result == outcome.retrieval
    assert (folder / "out.json").exists()


def test_audit_checks_suspects_against_the_truth(finished: tuple[PretrainOutcome, Path]) -> None:
    outcome = finished[0]
    audit = audit_pairs(outcome.model, outcome.collator, outcome.train_images, candidates=36)
    groups = list(outcome.train_images.table.rows["group"])
    texts = list(outcome.train_images.table.rows["captions"])
    assert {item.verdict for item in audit.suspects} == {"true", "false"}
    for item in audit.suspects:
        image, caption = item.suspect.image, item.suspect.caption
        assert texts[image] != texts[caption]
        assert (item.verdict == "true") == (groups[image] == groups[caption])
    probabilities = [item.suspect.probability or 0.0 for item in audit.suspects]
    assert min(probabilities) > 0.0
    assert probabilities == sorted(probabilities, reverse=True)
    assert audit.way == "ITM"


def test_examples_are_marked_by_the_truth(finished: tuple[PretrainOutcome, Path]) -> None:
    outcome = finished[0]
    assert outcome.test is not None
    judge = outcome.test.encode(outcome.model)
    similarity = outcome.test.similarity(judge)
    drawn = draw_examples(outcome.test, similarity, similarity, count=4, depth=24)
    true = set(map(tuple, outcome.test.truth.true.tolist()))
    own = set(map(tuple, outcome.test.truth.own.tolist()))
    assert len(drawn.pictures) == len(drawn.captions) == 4
    for example in drawn.pictures:
        assert sorted(answer.number for answer in example.answers) == list(range(24))
        for answer in example.answers:
            pair = (example.query, answer.number)
            assert answer.mark == ("own" if pair in own else "true" if pair in true else "wrong")


def test_the_page_tells_of_the_run(finished: tuple[PretrainOutcome, Path]) -> None:
    outcome, folder = finished
    report = report_run(outcome, folder, command="truepair pretrain squares.yaml")
    page = report.page.read_text(encoding="utf-8")
    assert report.page == folder / "report.html"
    for word in ("truepair pretrain squares.yaml", "Image to text", "ITM loss", "a small red square", "36 from"):
        assert word in page, word


def test_a_page_of_a_run_that_was_finished_before_invents_no_speed(finished: tuple[PretrainOutcome, Path]) -> None:
    outcome = finished[0]
    assert "pairs/s" in run_facts("Run", outcome, []).facts["Training time"]
    again = replace(outcome, run=replace(outcome.run, seconds=0.0, pairs_per_second=0.0))
    assert run_facts("Run", again, []).facts["Training time"] == "in an earlier call"


def test_itm_that_never_joins_has_no_say(squares: Path, tmp_path: Path) -> None:
    said: list[str] = []
    recipe = recipe_for(squares, epochs=1)  # ITM starts in the second epoch
    outcome = pretrain(recipe, tmp_path, said.append)
    assert [line for line in said if line.startswith("ITM is not trained: objectives.itm.start_epoch is 1")]
    assert outcome.retrieval is not None
    assert list(outcome.retrieval.ways) == ["similarity"]
    assert outcome.retrieval.combination is None
    config = EvaluateConfig(data=str(squares / "pairs.jsonl"), validation_split="test")
    assert evaluate_model(tmp_path / "model", config, silent) == outcome.retrieval  # the saved model says so, too
    report = report_run(outcome, tmp_path, command="truepair pretrain squares.yaml")
    assert report.audit.way == "similarity"
    similarities = [item.suspect.similarity for item in report.audit.suspects]
    assert similarities == sorted(similarities, reverse=True)
    page = report.page.read_text(encoding="utf-8")
    for word in (
        "ranked by their similarity in",
        "Its ITM was not trained",
        f"cosine {similarities[0]:.2f}",
        "by similarity,",
    ):
        assert word in page, word
    assert "ITM probability" not in page


def test_the_page_compares_runs_and_shows_what_a_judge_converted(
    finished: tuple[PretrainOutcome, Path], tmp_path: Path
) -> None:
    outcome, folder = finished
    managed = tmp_path / "managed"
    managed.mkdir()
    epoch = '{"kind": "epoch", "step": 9, "epoch": 0, "ecm/conversions_right": 1.0, "ecm/conversions_batch_true": 4.0}'
    (managed / "log.jsonl").write_text((folder / "log.jsonl").read_text() + epoch + "\n")
    rows = outcome.train_images.table.rows
    with Ledger(managed / "ledger") as ledger:  # row 0 shows what row 1 shows, and not what row 3 shows
        images, captions = ([rows[row]["image_id"] for row in (0, 0)], [rows[row]["caption_ids"][0] for row in (1, 3)])
        ids = (torch.tensor(images), torch.tensor(captions))
        ledger.record(*ids, torch.tensor([0.9, 0.85]), judge="judge:ab", epoch=2)
    by_judge = replace(outcome, recipe=PretrainRecipe(ecm=EcmConfig(judge=JudgeConfig(checkpoint="judge"))))
    arms = {"without": ReportedRun(outcome, folder), "with": ReportedRun(by_judge, managed)}
    report = report_runs(arms, tmp_path, command="truepair demo")
    assert report.page == tmp_path / "report.html"
    assert list(report.conversions) == ["with"]
    assert report.conversions["with"].verdicts.tolist() == ["true", "false"]
    page = report.page.read_text(encoding="utf-8")
    for text in (
        "(without)",
        "(with)",
        "in 2 ways",
        "2 distinct pairs",
        "Precision 50.0\N{NO-BREAK SPACE}%",
        "Recall 25.0\N{NO-BREAK SPACE}%",
        "judge 90.0\N{NO-BREAK SPACE}%",
        "epoch 3",
        "the model of the run\n  “<bdi>without</bdi>”",
        "those of the run “<bdi>with</bdi>”",
        "Run: without",
        "Conversions in an epoch",
    ):
        assert text in page, text


def test_an_unreadable_test_picture_is_an_error(
    finished: tuple[PretrainOutcome, Path], squares: Path, tmp_path: Path
) -> None:
    outcome = finished[0]
    assert outcome.test is not None
    for path in squares.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes() if path.name != "red-small-3.png" else b"")
    from truepair.data.open import open_pairs

    table = open_pairs(tmp_path / "pairs.jsonl", split="test")
    images = ImageSource(table, transform=outcome.test.images.transform)
    with pytest.raises(DataError, match=r"red-small-3\.png"):
        list(images.batches())


def test_the_evaluation_keeps_its_rankings_but_not_in_its_figures(finished: tuple[PretrainOutcome, Path]) -> None:
    outcome = finished[0]
    assert outcome.test is not None
    assert outcome.retrieval is not None
    again = outcome.test.rankings(outcome.test.encode(outcome.model), outcome.retrieval.combination)
    assert list(again) == list(outcome.retrieval.rankings) == list(outcome.retrieval.ways)
    for way, ranking in again.items():
        kept = outcome.retrieval.rankings[way]
        assert torch.equal(ranking.texts.image_rows(0, 12), kept.texts.image_rows(0, 12))
        assert torch.equal(ranking.texts.caption_rows(0, 24), kept.texts.caption_rows(0, 24))
        assert torch.equal(ranking.captions.image_rows(0, 12), kept.captions.image_rows(0, 12))
    sizes = {"images": 12, "own_captions": 12, "captions": 24}
    figures = outcome.retrieval.as_dict()
    assert list(figures) == ["source", "split", "ways", "combination", *sizes, "unreadable", "coco"]
    assert {name: figures[name] for name in sizes} == sizes
    assert figures["split"] == "test"


def test_one_gallery_serves_strict_and_lenient_scores(tmp_path: Path) -> None:
    from PIL import Image

    from truepair.data.open import open_pairs

    lines = []
    for name, group, family in (("a", "dog", "animal"), ("b", "dog", "animal"), ("c", "cat", "animal")):
        Image.new("RGB", (16, 16), len(lines)).save(tmp_path / f"{name}.png")
        lines.append(f'{{"image": "{name}.png", "captions": ["{name}"], "group": "{group}", "family": "{family}"}}')
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    table = open_pairs(tmp_path / "pairs.jsonl")
    near = {(0, 2), (1, 2), (2, 0), (2, 1)}
    for strict in (False, True):
        images = ImageSource(table, transform=lambda picture: picture)  # type: ignore[arg-type]
        task = RetrievalTask(None, images, RetrievalProtocol(leave_out_families=strict))  # type: ignore[arg-type]
        assert set(map(tuple, task.known.ignored.tolist())) == near
        assert set(map(tuple, task.truth.ignored.tolist())) == (near if strict else set())
        assert len(task.truth.true) == 5
