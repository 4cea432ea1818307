"""The programs in `examples` run as a user runs them, on small models, and train what they say."""

import contextlib
import io
import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModel, CLIPModel

from tests.models.dual import tiny_open_clip
from tests.models.folders import save_siglip
from tests.tasks.own_pairs import save_clip, write_list
from truepair.cli.main import main
from truepair.data.open import open_pairs
from truepair.models.open import open_model
from truepair.relations.ledger import Ledger, read_ledger

FOLDER = Path(__file__).parents[2] / "examples"
PROGRAMS = sorted(FOLDER.glob("*.py"))
LONGEST = 80


def run(name: str, *words: object, patch: pytest.MonkeyPatch) -> str:
    """What a program prints and logs."""
    printed = io.StringIO()
    patch.setattr(sys, "argv", [name, *map(str, words)])
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    return printed.getvalue()


@pytest.fixture(scope="module")
def pairs(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_list(squares, tmp_path_factory.mktemp("pairs") / "pairs.csv")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_clip(tmp_path_factory.mktemp("models") / "clip")


def kinds(pairs: Path) -> dict[int, str]:
    """Size and colour of each picture by its id."""
    table = open_pairs(pairs)
    names = (Path(image["path"]).stem.rsplit("-", 1)[0] for image in table.values("image"))
    return dict(zip(table.image_ids.tolist(), names, strict=True))


@pytest.fixture(scope="module")
def ledger(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every pair of one kind of square is a match; none that ids or captions declare in another way."""
    table, of = open_pairs(pairs), kinds(pairs)
    captions = {ids[0]: of[image] for ids, image in zip(table.values("caption_ids"), table.image_ids, strict=True)}
    matches = [(image, caption) for image in of for caption in captions if of[image] == captions[caption]]
    images, texts = torch.tensor(matches).T
    with Ledger(tmp_path_factory.mktemp("verdicts") / "ledger") as written:
        written.record(images, texts, torch.full((len(matches),), 0.9), judge="mined:test")
    return written.folder


def changed(before: Path, after: Path) -> float:
    """The share of the weights that training moved."""
    start, end = (AutoModel.from_pretrained(folder).state_dict() for folder in (before, after))
    return sum(not torch.equal(start[name], end[name]) for name in start) / len(start)


def test_every_program_is_short_and_is_run_here() -> None:
    assert len(PROGRAMS) == 6
    here = Path(__file__).read_text(encoding="utf-8")
    for program in PROGRAMS:
        assert len(program.read_text(encoding="utf-8").splitlines()) <= LONGEST, program.name
        assert f'run("{program.stem}"' in here.replace("\n        ", ""), program.name


@pytest.mark.parametrize("with_ledger", [False, True])
def test_clip_on_csv(
    pairs: Path, clip: Path, ledger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_ledger: bool
) -> None:
    words = [pairs, clip, tmp_path, "--epochs", "12", "--batch_size", "8", "--learning_rate", "1e-3", "--workers", "0"]
    printed = run("clip_on_csv", *words, *(["--ledger", ledger] if with_ledger else []), patch=monkeypatch)
    steps = [(float(loss), int(found)) for loss, found in re.findall(r"loss ([\d.]+), (\d+) matches", printed)]
    assert len(steps) == 12 * 3
    assert sum(loss for loss, _ in steps[-5:]) < sum(loss for loss, _ in steps[:5])
    assert changed(clip, tmp_path) > 0.5
    assert isinstance(open_model(tmp_path).model.inner, CLIPModel)
    assert (sum(found for _, found in steps) > 0) == with_ledger  # no two of the pairs have one picture or text


def test_open_clip_trainer(
    pairs: Path, ledger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("open_clip_train", reason="needs open_clip: pip install 'truepair[open_clip]'")
    start = tiny_open_clip.made(tiny_open_clip.clip(tmp_path), tmp_path / "model").state_dict()
    words = [pairs, f"local-dir:{tmp_path / 'model'}", ledger, tmp_path / "trained.pt"]
    words += ["--epochs", "8", "--batch-size", "8", "--lr", "1e-3", "--warmup", "1", "--workers", "0"]
    words += ["--precision", "fp32", "--log-every-n-steps", "1"]
    with caplog.at_level("INFO"):
        run("open_clip_trainer", *words, patch=monkeypatch)
    losses = [float(loss) for loss in re.findall(r" Loss: ([\d.]+)", caplog.text)]
    assert len(losses) == 8 * 3
    assert sum(losses[-5:]) < sum(losses[:5])
    end = torch.load(tmp_path / "trained.pt", weights_only=True)["state_dict"]
    assert end.keys() == start.keys()
    assert sum(not torch.equal(start[name], end[name]) for name in start) > len(start) / 2


def test_the_loss_for_open_clip_is_its_own_where_nothing_matches(pairs: Path, ledger: Path) -> None:
    open_clip = pytest.importorskip("open_clip", reason="needs open_clip: pip install 'truepair[open_clip]'")
    loss = runpy.run_path(str(FOLDER / "open_clip_trainer.py"))["MatchLoss"](str(ledger))
    images, texts = (F.normalize(torch.randn(6, 16), dim=1) for _ in range(2))
    scale, bias = torch.tensor(14.0), torch.tensor(-10.0)
    strangers = torch.stack([torch.arange(6), torch.arange(6)]).T  # nobody has spoken of these ids
    ours = loss(images, texts, scale, strangers)["contrastive_loss"]
    torch.testing.assert_close(ours, open_clip.ClipLoss()(images, texts, scale))
    ours = loss(images, texts, scale, strangers, bias)["contrastive_loss"]
    torch.testing.assert_close(ours, open_clip.loss.SigLipLoss()(images, texts, scale, bias))

    table, of = open_pairs(pairs), kinds(pairs)
    rows = [row for row, image in enumerate(table.image_ids.tolist()) if of[image] in ("red-small", "blue-large")][:6]
    ids = torch.tensor([(table.rows[row]["image_id"], table.rows[row]["caption_ids"][0]) for row in rows])
    same = torch.tensor([[of[one] == of[other] for other in ids[:, 0].tolist()] for one in ids[:, 0].tolist()])
    targets = same / same.sum(dim=1, keepdim=True)
    logits = scale * images @ texts.T
    expected = (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2
    assert same.sum() > 6
    torch.testing.assert_close(loss(images, texts, scale, ids)["contrastive_loss"], expected)


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_transformers_trainer(
    pairs: Path, clip: Path, ledger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    model = clip if family == "clip" else save_siglip(tmp_path / "siglip")
    words = ["--pairs", pairs, "--model", model, "--ledger", ledger, "--output_dir", tmp_path / "out", "--use_cpu"]
    words += ["--num_train_epochs", "12", "--per_device_train_batch_size", "8", "--learning_rate", "1e-3"]
    words += ["--report_to", "none", "--logging_steps", "3", "--save_strategy", "no", "--disable_tqdm", "true"]
    printed = run("transformers_trainer", *words, patch=monkeypatch)
    losses = [float(loss) for loss in re.findall(r"'loss': '?([\d.]+)", printed)]
    assert len(losses) == 12 and sum(losses[-3:]) < sum(losses[:3])
    assert changed(model, tmp_path / "out") > 0.5
    open_model(tmp_path / "out")  # with its processor and tokenizer


def test_sentence_transformers(
    pairs: Path, clip: Path, ledger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = pytest.importorskip("sentence_transformers", reason="needs sentence-transformers 6")
    printed = run("sentence_transformers_ledger", pairs, clip, ledger, tmp_path, 8, 8, 1e-3, patch=monkeypatch)
    losses = [float(loss) for loss in re.findall(r"'loss': '?([\d.]+)", printed)]
    assert sum(losses[-5:]) < sum(losses[:5])
    assert int(re.findall(r"(\d+) matches", printed)[0]) > 0
    vectors = library.SentenceTransformer(str(tmp_path)).encode(["a small red square"])
    assert vectors.shape == (1, 8) and np.isfinite(vectors).all()


def test_sentence_transformers_on_an_export(
    pairs: Path, clip: Path, ledger: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = pytest.importorskip("sentence_transformers", reason="needs sentence-transformers 6")
    words = ["--format", "sentence-transformers", "--data", pairs, "--high", "0.5"]
    main(["export", *map(str, [ledger, tmp_path / "training", *words])])
    words = [tmp_path / "training", clip, tmp_path / "model", 8, 8, 1e-3]
    printed = run("sentence_transformers_export", *words, patch=monkeypatch)
    losses = [float(loss) for loss in re.findall(r"'loss': '?([\d.]+)", printed)]
    assert sum(losses[-5:]) < sum(losses[:5])
    assert library.SentenceTransformer(str(tmp_path / "model")).encode(["a small red square"]).shape == (1, 8)


def test_own_judge(pairs: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = run("own_judge", pairs, clip, tmp_path / "verdicts", 12, patch=monkeypatch)
    verdicts, of = read_ledger(tmp_path / "verdicts"), kinds(pairs)
    assert set(verdicts["judge"].to_pylist()) == {"colours"}
    table = open_pairs(pairs)
    shown = {ids[0]: of[image] for ids, image in zip(table.values("caption_ids"), table.image_ids, strict=True)}
    for image, caption, probability in zip(
        *(verdicts[name].to_pylist() for name in verdicts.column_names[:2]),
        verdicts["probability"].to_pylist(),
        strict=True,
    ):
        same = of[image].split("-")[0] == shown[caption].split("-")[0]
        assert probability == pytest.approx(0.95 if same else 0.0)
    assert f"{len(verdicts)} candidates" in printed and 0 < (verdicts["probability"].to_numpy() > 0.5).sum() < len(
        verdicts
    )
