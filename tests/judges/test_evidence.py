import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from datasets import Dataset

from tests.judges.given import batch_of
from tests.judges.tiny_judges import preprocessing_of
from tests.models.tiny_albef import tiny_model
from truepair.data.open import open_pairs
from truepair.data.pairs import PairDataset
from truepair.data.table import PairTable
from truepair.data.transforms import build_transform
from truepair.errors import CheckpointError, ConfigError, DataError
from truepair.judges.base import JudgeConfig, JudgeInputs
from truepair.judges.evidence import TERMS, EvidenceJudge, EvidenceModel, EvidenceTables, with_products
from truepair.judges.evidence_fit import EvidenceConfig, fit_evidence
from truepair.judges.open import open_judge
from truepair.models.encoders.frozen_captions import cache_caption_states
from truepair.models.encoders.frozen_images import cache_image_states

CONFIG = EvidenceConfig(image_width=12, text_width=8, hard=4, sampled=20_000)


def made_up(concepts: int, seed: int, *, dual: bool = False, drawings: int = 5) -> tuple[PairTable, EvidenceTables]:
    """Concepts with several drawings and captions; their features are noisy views of what they show."""
    generator = torch.Generator().manual_seed(seed)
    shared = torch.Generator().manual_seed(99)  # how concepts look is the same for all tables
    look, word = (torch.randn(10, width, generator=shared) for width in (20, 16))
    rows = torch.arange(concepts).repeat_interleave(drawings)
    size = len(rows)
    concept = torch.randn(concepts, 10, generator=generator)[rows]
    nuisance = 4 * torch.randn(size, 1, generator=generator) * torch.ones(20)  # one loud direction that says nothing
    images = concept @ look + nuisance + 1.5 * torch.randn(size, 20, generator=generator)
    texts = concept @ word + 1.5 * torch.randn(size, 16, generator=generator)
    dual_images, dual_texts = (
        F.normalize(concept + 0.7 * torch.randn(size, 10, generator=generator), dim=1) if dual else None
        for _ in range(2)
    )
    columns = {
        "image": [{"bytes": b"", "path": None}] * size,
        "image_id": list(range(size)),
        "captions": [[f"concept {seed} {row} seen as {place % 4}"] for place, row in enumerate(rows.tolist())],
        "caption_ids": [[place] for place in range(size)],
        "split": ["train"] * size,
        "group": [f"{seed} {row}" for row in rows.tolist()],
    }
    tables = EvidenceTables(F.normalize(images, dim=1), F.normalize(texts, dim=1), "features", dual_images, dual_texts)
    return PairTable(Dataset.from_dict(columns), "made up"), tables


def all_pairs(table: PairTable) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Image row, caption row and truth of all undeclared pairs."""
    groups, captions = list(table.rows["group"]), [row[0] for row in table.rows["captions"]]
    size = len(table)
    cells = [(i, j) for i in range(size) for j in range(size) if captions[i] != captions[j]]
    left, right = torch.tensor(cells).T
    return left, right, torch.tensor([groups[i] == groups[j] for i, j in cells])


def average_precision(scores: torch.Tensor, labels: torch.Tensor) -> float:
    places = labels[scores.argsort(descending=True)].nonzero()[:, 0]
    return float(((torch.arange(len(places)) + 1) / (places + 1)).mean())


@pytest.mark.parametrize("dual", [False, True])
def test_it_beats_each_piece_of_evidence_on_new_concepts_and_is_calibrated(dual: bool) -> None:
    clean, clean_tables = made_up(80, seed=1, dual=dual)
    table, tables = made_up(60, seed=2, dual=dual)
    model = fit_evidence(clean_tables, clean, CONFIG)
    assert len(model.terms) == (8 if dual else 6)
    judge = EvidenceJudge(model, tables, name="evidence")
    batch = batch_of(torch.arange(len(table)))
    left, right, labels = all_pairs(table)
    scores = judge.score(batch, left, right)
    together = average_precision(scores, labels)
    for term in model.terms:
        one, other = TERMS[term]
        alone = average_precision((judge.spaces[one][left] * judge.spaces[other][right]).sum(dim=1), labels)
        assert together > alone + 0.05, term
    # The density of matches is 4/299 here and 4/399 in the clean data.
    assert float(scores.mean()) == pytest.approx(4 / 399, rel=0.4)
    confident = scores > 0.5
    assert float(labels[confident].float().mean()) == pytest.approx(float(scores[confident].mean()), abs=0.15)


def test_the_prior_can_be_stated() -> None:
    clean, tables = made_up(40, seed=1)
    left, right, _ = all_pairs(clean)
    found = []
    for prior in (None, 0.2):
        model = fit_evidence(tables, clean, EvidenceConfig(image_width=12, text_width=8, prior=prior))
        found.append(model.score(model.spaces.project(tables), left, right).double().logit(eps=1e-12))
    shift = found[1] - found[0]  # the log-odds of the priors differ by 3.0
    assert float(shift.median()) > 1.5 and float((shift > 0).float().mean()) > 0.95


def test_scores_follow_the_rows_of_the_batch() -> None:
    clean, clean_tables = made_up(40, seed=1)
    _, tables = made_up(20, seed=2)
    judge = EvidenceJudge(fit_evidence(clean_tables, clean, CONFIG), tables, name="evidence")
    everything = batch_of(torch.arange(100))
    rows = torch.tensor([17, 93, 4])
    images, texts = torch.tensor([0, 1, 2, 0]), torch.tensor([1, 2, 0, 2])
    scores = judge.score(batch_of(rows), images, texts)
    torch.testing.assert_close(scores, judge.score(everything, rows[images], rows[texts]))
    diagonal = torch.arange(99)  # many rows, few pairs: gathered, not multiplied
    one_by_one = [judge.score(everything, row[None], row[None] + 1) for row in diagonal]
    torch.testing.assert_close(judge.score(everything, diagonal, diagonal + 1), torch.cat(one_by_one))
    assert judge.score(everything, images[:0], texts[:0]).shape == (0,) and not judge.repeatable


def test_inputs_are_the_evidence_and_its_products() -> None:
    assert with_products(torch.tensor([[2.0, 3.0, 5.0]])).tolist() == [[2, 3, 5, 4, 6, 10, 9, 15, 25]]


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    clean, tables = made_up(40, seed=1)
    model = fit_evidence(tables, clean, CONFIG)
    model.save(tmp_path / "judge")
    loaded = EvidenceModel.load(tmp_path / "judge")
    assert loaded.fingerprint == model.fingerprint == fit_evidence(tables, clean, CONFIG).fingerprint
    left, right, _ = all_pairs(clean)
    expected = model.score(model.spaces.project(tables), left, right)
    assert torch.equal(loaded.score(loaded.spaces.project(tables), left, right), expected)
    (tmp_path / "judge" / "evidence.json").write_text("{}")
    with pytest.raises(CheckpointError, match="holds no evidence judge"):
        EvidenceModel.load(tmp_path / "judge")
    other = EvidenceTables(tables.images, tables.texts, "others")
    with pytest.raises(CheckpointError, match="features of other encoders"):
        EvidenceJudge(model, other, name="judge")


def test_it_opens_on_the_caches_of_a_run(squares: Path, tmp_path: Path) -> None:
    table = open_pairs(squares / "pairs.jsonl")
    student, own = tiny_model(), preprocessing_of(table)
    plain = PairDataset(table, build_transform(own.transform, train=False), captions="first")
    captions = [row[0] for row in table.rows["captions"]]
    run = JudgeInputs(
        table=table,
        preprocessing=own,
        model=student,
        image_cache=cache_image_states(student.image_encoder, plain, tmp_path),
        caption_cache=cache_caption_states(student.text_encoder, captions, own.collator().encode, tmp_path),
    )
    fit_evidence(EvidenceTables.of_run(run), table, CONFIG).save(tmp_path / "judge")
    config = JudgeConfig(checkpoint=str(tmp_path / "judge"), kind="evidence")
    judge = open_judge(config, run)
    assert isinstance(judge, EvidenceJudge)
    expected = student.image_states(torch.stack([plain[5]["pixel_values"]])).mean(dim=1)
    image = EvidenceTables.of_run(run).images[5:6]
    torch.testing.assert_close(image, F.normalize(expected, dim=1).detach(), atol=2e-3, rtol=0)
    batch = own.collator()([plain[row] for row in (3, 17, 40)])
    scores = judge.score(batch, torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0]))
    assert scores.shape == (3,) and bool(((scores >= 0) & (scores <= 1)).all())
    with pytest.raises(ConfigError, match="needs frozen features"):
        open_judge(config, JudgeInputs(table=table, preprocessing=own))
    settings = json.loads((tmp_path / "judge" / "evidence.json").read_text())
    (tmp_path / "judge" / "evidence.json").write_text(json.dumps({**settings, "encoders": "others"}))
    with pytest.raises(CheckpointError, match="features of other encoders"):
        open_judge(config, run)


def test_data_that_cannot_be_fitted_is_named() -> None:
    clean, tables = made_up(40, seed=1)
    plain = PairTable(clean.rows.remove_columns(["group"]), "plain")
    with pytest.raises(DataError, match=r"plain states no groups; .* 'truepair mine' and 'truepair review'"):
        fit_evidence(tables, plain, CONFIG)
    gaps = ["" if row % 4 else name for row, name in enumerate(clean.values("group"))]
    some = PairTable(plain.rows.add_column("group", [name or None for name in gaps]), "some")
    with pytest.raises(DataError, match="150 of 200 rows of some state no group; fill in the column"):
        fit_evidence(tables, some, CONFIG)
    few = clean.select(range(20))
    with pytest.raises(DataError, match="4 groups, too few"):
        fit_evidence(tables.rows(torch.arange(20)), few, CONFIG)
    singles = clean.select(range(0, 200, 5))
    with pytest.raises(DataError, match=r"each of the 40 rows of .* is a group of its own"):
        fit_evidence(tables.rows(torch.arange(0, 200, 5)), singles, CONFIG)
    for wrong in ({"folds": 1}, {"prior": 1.0}, {"shrinkage": 0.0}, {"hard": 0}):
        with pytest.raises(ConfigError):
            EvidenceConfig(**wrong)  # type: ignore[arg-type]
