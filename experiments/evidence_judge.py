"""How well the evidence judge knows hidden matches of concepts it never saw; each piece of evidence alone, and all.

Fitted on the bundled drawings of concepts with 5 or 6 drawings, tested on the training rows of those with 7 or more:

    python experiments/evidence_judge.py
"""

import time
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

from truepair.data.open import open_pairs
from truepair.data.splits import DataConfig
from truepair.data.table import PairTable
from truepair.data.transforms import TransformConfig
from truepair.evaluation.detectors import detector_metrics
from truepair.evaluation.truth import Truth
from truepair.judges.base import JudgeInputs
from truepair.judges.evidence import TERMS, EvidenceModel, EvidenceTables
from truepair.judges.evidence_fit import EvidenceConfig, fit_evidence
from truepair.methods.caches import StateCaches
from truepair.methods.recipe import ModelConfig, PretrainRecipe, TextConfig
from truepair.methods.student import build_student
from truepair.relations.pairs import same_pair
from truepair.relations.text import caption_key

RECIPE = PretrainRecipe(
    data=DataConfig(transform=TransformConfig(size=128, normalisation="encoder", rand_augment_ops=0)),
    text=TextConfig(tokenizer="minilm", max_length=32, add_sep=True, normalise=False),
    model=ModelConfig(
        image_checkpoint="efficientnet_lite0",
        text_checkpoint="minilm",
        options={"text_layers": 6, "fusion_layers": 2, "image_pooling": "mean", "text_pooling": "mean"},
        freeze_image=True,
        freeze_text=True,
        cache_images=True,
        cache_captions=True,
    ),
)


def tables_of(drawings: Callable[[int], bool]) -> tuple[PairTable, EvidenceTables]:
    """Training rows of the concepts with certain numbers of drawings, and their features."""
    sample = open_pairs("sample")
    sizes = Counter(sample.rows["group"])
    table = sample.select([row for row, group in enumerate(sample.rows["group"]) if drawings(sizes[group])])
    table = table.split("train")
    student = build_student(RECIPE, table, print)
    caches = StateCaches(RECIPE, student, print)
    table, images = caches.images(table)
    captions = sorted({row[0] for row in sample.rows["captions"]})
    texts = caches.captions(captions)
    run = JudgeInputs(
        table=table,
        preprocessing=student.preprocessing,
        model=student.model,
        image_cache=images,
        caption_cache=texts,
    )
    return table, EvidenceTables.of_run(run)


def report(title: str, scores: Tensor, labels: Tensor, *, thresholds: tuple[float, ...] = (0.5, 0.8)) -> None:
    """One line of figures of scores [P] and labels [P]."""
    found, matches = detector_metrics(scores, labels), int(labels.sum())
    line = f"| {title} | {len(labels):,} | {matches:,} | {found.auc:.4f} | {found.average_precision:.3f} |"
    for threshold in thresholds:
        above = scores >= threshold
        right = int((above & labels).sum())
        line += f" {right / max(int(above.sum()), 1):.2f} / {right / matches:.2f} |"
    print(line, flush=True)


def main() -> None:
    """Fit, measure, print a table in Markdown."""
    clean, clean_tables = tables_of(lambda count: 5 <= count <= 6)
    table, tables = tables_of(lambda count: count >= 7)
    start = time.perf_counter()
    model = fit_evidence(clean_tables, clean, EvidenceConfig())
    print(f"fitted on {len(clean)} pairs in {time.perf_counter() - start:.1f} s; tested on {len(table)}")
    keys = torch.tensor([caption_key(row[0]) for row in table.rows["captions"]])
    size = len(table)
    left, right = torch.arange(size).repeat_interleave(size), torch.arange(size).repeat(size)
    truth = Truth.from_table(table)
    assert truth is not None
    true = truth.matches(left, keys[right]).view(size, size)
    open_ = ~same_pair(torch.from_numpy(table.image_ids.copy()), keys)
    spaces = model.spaces.project(tables)
    evidence, scores = all_scores(model, spaces, size)
    print("| pairs judged by | pairs | matches | AUC | AP | precision / recall at 0.5 | at 0.8 |")
    print("|---|---|---|---|---|---|---|")
    report("cosine of images", (tables.images @ tables.images.T)[open_], true[open_], thresholds=())
    for number, term in enumerate(model.terms):
        report(f"{term} alone", evidence[..., number][open_], true[open_], thresholds=())
    report("all", scores[open_], true[open_])
    in_batches(scores, evidence[..., model.terms.index("image_to_text")], true, open_)


def all_scores(model: EvidenceModel, spaces: dict[str, Tensor], size: int) -> tuple[Tensor, Tensor]:
    """Evidence [N, N, T] and scores [N, N] of all pairs."""
    evidence, scores = [], []
    for rows in torch.arange(size).split(128):
        terms = [spaces[one][rows] @ spaces[other].T for one, other in (TERMS[term] for term in model.terms)]
        evidence.append(torch.stack(terms, dim=2))  # [R, N, T]
        scores.append(model.probabilities(evidence[-1].flatten(0, 1)).view(len(rows), size))
    return torch.cat(evidence), torch.cat(scores)


def in_batches(scores: Tensor, similarity: Tensor, true: Tensor, open_: Tensor) -> None:
    """Figures over random batches of 128: all off-diagonal pairs, and the nearest caption of each image and back."""
    generator = torch.Generator().manual_seed(0)
    every, nearest = [], []
    for _ in range(20):
        for rows in torch.randperm(len(scores), generator=generator).split(128)[:-1]:
            cells = (rows[:, None], rows)
            allowed, hard = open_[cells], similarity[cells].masked_fill(~open_[cells], -torch.inf)
            every.append(torch.stack([scores[cells][allowed], true[cells][allowed].float()]))
            chosen = torch.zeros_like(allowed).scatter(1, hard.argmax(dim=1, keepdim=True), True)
            chosen = chosen.scatter(0, hard.argmax(dim=0, keepdim=True), True) & allowed
            nearest.append(torch.stack([scores[cells][chosen], true[cells][chosen].float()]))
    for title, parts in (("all, random batches of 128", every), ("all, hardest of such batches", nearest)):
        judged = torch.cat(parts, dim=1)
        report(title, judged[0], judged[1] > 0)


if __name__ == "__main__":
    main()
