"""The same pictures and captions in several layouts: the same figures, and those of papers to the digit."""

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from tests.data.makers import noise
from tests.judges.tiny_judges import save_clip
from tests.tasks import task_sets
from tests.tasks.task_sets import write_checkpoint
from tests.tasks.test_pretraining import recipe_for, silent
from truepair.cli.main import main
from truepair.data.images import load_image
from truepair.data.open import open_pairs
from truepair.data.source import SourceConfig
from truepair.models.open import OpenedModel, open_model
from truepair.tasks.evaluation import EvaluateConfig, evaluate_model
from truepair.tasks.pretraining import pretrain

PICTURES, EACH = 40, 5
WORDS = sorted(set(task_sets.WORDS[0].split()))
Pairs = list[tuple[str, list[str]]]
"""Names of pictures with their captions."""


def pairs_of(texts: Sequence[str]) -> Pairs:
    return [(f"{i:03d}.png", list(texts[EACH * i : EACH * (i + 1)])) for i in range(len(texts) // EACH)]


def repeated() -> Pairs:
    """As remote-sensing sets are: less than half of the captions are distinct, some are repeated within a picture."""
    generator = np.random.default_rng(0)
    distinct = [f"{a} {b} {c}" for a, b, c in generator.choice(WORDS, (70, 3))]
    return pairs_of([str(text) for text in generator.choice(distinct, PICTURES * EACH)])


def different() -> Pairs:
    """Two that differ in nothing but punctuation are two captions, and one text to those who know the truth."""
    generator = np.random.default_rng(1)
    made = dict.fromkeys(" ".join(words) for words in generator.choice(WORDS, (4 * PICTURES * EACH, 4)))
    texts = list(made)[: PICTURES * EACH]
    texts[-1] = f"{texts[0]} ."
    return pairs_of(texts)


def write_nested(folder: Path, pairs: Pairs) -> Path:
    lines = [json.dumps({"image": name, "captions": captions, "split": "test"}) for name, captions in pairs]
    file = folder / "nested.jsonl"
    file.write_text("\n".join(lines))
    return file


def write_csv(folder: Path, pairs: Pairs) -> Path:
    file = folder / "flat.csv"
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["image", "caption", "split"])
        writer.writerows((name, caption, "test") for name, captions in pairs for caption in captions)
    return file


def write_csv_by_caption(folder: Path, pairs: Pairs) -> Path:
    """First captions of all pictures, then their second ones; paths are spelled in two ways."""
    file = folder / "by_caption.csv"
    rows = [(f"./{name}" if n % 2 else name, captions[n], "test") for n in range(EACH) for name, captions in pairs]
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([("image", "caption", "split"), *rows])
    return file


def write_albef(folder: Path, pairs: Pairs) -> Path:
    rows = [
        {"image": name, "caption": caption, "image_id": 7 * number}
        for number, (name, captions) in enumerate(pairs)
        for caption in captions
    ]
    file = folder / "albef.json"
    file.write_text(json.dumps(rows))
    return file


def write_albef_with_an_id_a_row(folder: Path, pairs: Pairs) -> Path:
    rows = [{"image": name, "caption": caption} for name, captions in pairs for caption in captions]
    file = folder / "albef_rows.json"
    file.write_text(json.dumps([row | {"image_id": number} for number, row in enumerate(rows)]))
    return file


def write_copies(folder: Path, pairs: Pairs) -> Path:
    """A file of its own for each caption, as exports of tables have it."""
    rows = []
    for name, captions in pairs:
        for number, caption in enumerate(captions):
            copy = f"copies/{number}_{name}"
            (folder / "copies").mkdir(exist_ok=True)
            (folder / copy).write_bytes((folder / name).read_bytes())
            rows.append((copy, caption, "test"))
    file = folder / "copies.csv"
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([("image", "caption", "split"), *rows])
    return file


def write_links(folder: Path, pairs: Pairs) -> Path:
    """Several links to each picture; each line states an id of its own."""
    (folder / "links").mkdir(exist_ok=True)
    rows = []
    for name, captions in pairs:
        for number, caption in enumerate(captions):
            link = folder / "links" / f"{number}_{name}"
            if not link.is_symlink():
                link.symlink_to(folder / name)
            rows.append({"image": f"links/{link.name}", "caption": caption, "image_id": len(rows), "split": "test"})
    file = folder / "links.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def write_parquet(folder: Path, pairs: Pairs) -> Path:
    """The bytes of each picture beside each caption, as data sets of the hub have it."""
    rows = [((folder / name).read_bytes(), caption) for name, captions in pairs for caption in captions]
    file = folder / "rows.parquet"
    pq.write_table(pa.table({"image": [image for image, _ in rows], "caption": [text for _, text in rows]}), file)
    return file


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(PICTURES):
        noise(number, (16, 16)).save(folder / f"{number:03d}.png")
    return folder


@pytest.fixture(scope="module")
def albef(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("albef") / "model")


@pytest.fixture(scope="module")
def clip(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("clip"), open_pairs(write_nested(photos, repeated())))


def evaluate(model: Path, data: Path, tmp_path: Path, *options: str) -> dict[str, Any]:
    output = tmp_path / f"{data.stem}.json"
    main(["evaluate", str(model), "--data", str(data), "--output", str(output), *options])
    figures: dict[str, Any] = json.loads(output.read_text())
    return figures


@pytest.mark.parametrize(
    "write",
    [
        write_csv,
        write_csv_by_caption,
        write_albef,
        write_albef_with_an_id_a_row,
        write_copies,
        write_links,
        write_parquet,
    ],
    ids=lambda write: write.__name__,
)
def test_one_caption_a_line_gives_the_figures_of_the_nested_layout(
    write: Callable[[Path, Pairs], Path],
    albef: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    nested = evaluate(albef, write_nested(photos, repeated()), tmp_path)
    assert "pictures; each counts once" not in capsys.readouterr().err
    flat = evaluate(albef, write(photos, repeated()), tmp_path)
    assert "200 rows are 40 pictures; each counts once, with all its captions" in capsys.readouterr().err
    for name in ("images", "own_captions", "captions", "ways"):
        assert flat[name] == nested[name], name
    assert (flat["images"], flat["own_captions"]) == (40, 200)
    assert flat["captions"] < 80
    assert set(flat["ways"]) == {"similarity", "ITM"}


def test_validation_and_the_runs_own_figures_are_those_of_the_nested_layout(squares: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (squares / "pairs.jsonl").read_text().splitlines()]
    flat = [
        row | {"image": str(squares / row["image"]), "captions": [caption]}
        for row in rows
        for caption in ([*row["captions"], "a square"] if row["split"] == "test" else row["captions"])
    ]
    nested = [row | {"captions": [*row["captions"], "a square"]} if row["split"] == "test" else row for row in rows]
    outcomes, said = {}, []
    for name, layout in (("flat", flat), ("nested", [row | {"image": str(squares / row["image"])} for row in nested])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "pairs.jsonl").write_text("\n".join(map(json.dumps, layout)))
        recipe = recipe_for(tmp_path / name, epochs=2)
        source = {"source": recipe.data.sources[0], "image_root": str(squares), "derive_ids": True}
        outcomes[name] = _run(recipe, source, tmp_path / "runs" / name, said.append)
    assert outcomes["flat"] == outcomes["nested"]
    told = "merged: pairs, test: 24 rows are 12 pictures; each counts once, with all its captions"
    assert any(line.startswith(told) for line in said)


def _run(recipe: Any, source: dict[str, str], folder: Path, say: Callable[[str], None]) -> Any:
    """Figures of validation by epoch, and of the test split."""
    recipe = replace(recipe, data=replace(recipe.data, sources=[SourceConfig(**source)]))
    folder.mkdir(parents=True)
    outcome = pretrain(recipe, folder, say)
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    validation = [
        {name: value for name, value in line.items() if "@" in name} for line in lines if line["kind"] == "validation"
    ]
    assert outcome.retrieval is not None
    assert all("naive_i2t_r@1" in figures for figures in validation)
    return validation, outcome.retrieval.ways, outcome.retrieval.images


def features(opened: OpenedModel, photos: Path, pairs: Pairs) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of all pictures [I, E] and all stated captions [C, E]."""
    transform = opened.preprocessing.images()
    pixels = torch.stack([transform(load_image({"path": str(photos / name)})) for name, _ in pairs])
    texts = [caption for _, captions in pairs for caption in captions]
    ids, mask = opened.preprocessing.collator().encode(texts)
    model = opened.model.eval()
    with torch.no_grad():
        images = model.project_image(model.image_states(pixels))
        captions = model.project_text(model.text_states(ids, mask), mask)
    return F.normalize(images, dim=1), F.normalize(captions, dim=1)


def ranks_of_papers(scores: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ranks as the evaluation programs of papers find them: sort each row, look for the captions (or the image)."""
    of_image = []
    for image, row in enumerate(scores):
        order = np.argsort(row)[::-1]
        of_image.append(min(np.where(order == EACH * image + own)[0][0] for own in range(EACH)))
    of_caption = []
    for caption, column in enumerate(scores.T):
        of_caption.append(np.where(np.argsort(column)[::-1] == caption // EACH)[0][0])
    return np.array(of_image), np.array(of_caption)


@pytest.mark.parametrize("kind", ["albef", "clip"])
def test_naive_figures_are_those_of_papers_to_the_digit(
    kind: str, photos: Path, request: pytest.FixtureRequest
) -> None:
    folder, pairs = request.getfixturevalue(kind), different()
    result = evaluate_model(folder, EvaluateConfig(data=str(write_csv(photos, pairs))), silent)
    assert (result.own_captions, result.captions) == (200, 199)
    images, captions = features(open_model(folder), photos, pairs)
    of_image, of_caption = ranks_of_papers((images @ captions.T).double().numpy())
    found = result.ways["similarity"]
    for table, ranks in ((found.naive_i2t, of_image), (found.naive_t2i, of_caption)):
        for depth in (1, 5, 10):
            assert getattr(table, f"recall_at_{depth}").value == np.mean(ranks < depth)
        assert table.queries == len(ranks)


def test_repeated_captions_are_candidates_of_their_own(clip: Path, photos: Path) -> None:
    pairs = repeated()
    result = evaluate_model(clip, EvaluateConfig(data=str(write_csv(photos, pairs))), silent)
    images, captions = features(open_model(clip), photos, pairs)
    texts = [caption for _, own in pairs for caption in own]
    first = [texts.index(text) for text in texts]
    scores = (images @ captions.T).double().numpy()[:, first]  # copies tie to the last bit
    generator = np.random.default_rng(0)
    drawn = []
    for _ in range(200):  # nobody can know the order of copies: take many
        shaken = scores + 1e-12 * generator.random(scores.shape)
        drawn.append([np.mean(ranks_of_papers(shaken)[0] < depth) for depth in (1, 5, 10)])
    naive = result.ways["similarity"].naive_i2t
    for place, depth in enumerate((1, 5, 10)):
        spread = np.std(np.array(drawn)[:, place]) / 200**0.5
        assert getattr(naive, f"recall_at_{depth}").value == pytest.approx(
            np.mean(drawn, axis=0)[place], abs=4 * spread
        )
    assert result.ways["similarity"].naive_t2i.queries == 200


def test_a_model_of_transformers_is_measured_like_ours(
    clip: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = evaluate(clip, write_csv(photos, repeated()), tmp_path)
    assert list(figures["ways"]) == ["similarity"]
    shown = capsys.readouterr().out
    assert "flat.csv, test: 40 pictures, 200 captions" in " ".join(shown.split())
    assert "any true match" in shown
    assert "usual protocol" in shown


def test_itm_re_ranks_the_top_of_all_stated_captions(albef: Path, photos: Path) -> None:
    pairs = different()
    result = evaluate_model(albef, EvaluateConfig(data=str(write_nested(photos, pairs))), silent)
    opened = open_model(albef)
    images, captions = features(opened, photos, pairs)
    similarity = (images @ captions.T).numpy()
    transform = opened.preprocessing.images()
    pixels = torch.stack([transform(load_image({"path": str(photos / name)})) for name, _ in pairs])
    ids, mask = opened.preprocessing.collator().encode([caption for _, own in pairs for caption in own])
    i2t, t2i = np.full(similarity.shape, -100.0), np.full(similarity.shape, -100.0)
    with torch.no_grad():
        for image in range(PICTURES):
            logits = opened.model(pixels[[image]].expand(len(ids), -1, -1, -1), ids, mask).itm_logits
            odds = (logits[:, 1] - logits[:, 0]).numpy()
            top = np.argsort(similarity[image])[::-1][:16]
            i2t[image, top] = odds[top]
            wanted = [c for c in range(len(ids)) if image in np.argsort(similarity[:, c])[::-1][:16]]
            t2i[image, wanted] = odds[wanted]
    found = result.ways["ITM"]
    of_image, of_caption = ranks_of_papers(i2t)[0], ranks_of_papers(t2i)[1]
    for depth in (1, 5, 10):  # states are kept in half precision, which may swap neighbours
        name = f"recall_at_{depth}"
        assert getattr(found.naive_i2t, name).value == pytest.approx(np.mean(of_image < depth), abs=1.5 / PICTURES)
        assert getattr(found.naive_t2i, name).value == pytest.approx(np.mean(of_caption < depth), abs=4 / 200)
