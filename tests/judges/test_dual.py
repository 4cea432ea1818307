from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoImageProcessor, AutoTokenizer, BertConfig, BertModel, CLIPModel

from tests.judges.tiny_judges import WIDTHS, preprocessing_of, save_albef, save_clip
from truepair.data.open import open_pairs
from truepair.data.pairs import PairDataset
from truepair.data.table import PairTable
from truepair.data.transforms import build_transform
from truepair.errors import CheckpointError, ConfigError, DataError
from truepair.judges.base import JudgeConfig, JudgeInputs
from truepair.judges.calibration import DualCalibration, fit_dual_calibration
from truepair.judges.dual import DualFeatures
from truepair.judges.open import open_judge
from truepair.models.checkpoints.load import load_albef
from truepair.models.open import open_model


@pytest.fixture(scope="module")
def table(squares: Path) -> PairTable:
    return open_pairs(squares / "pairs.jsonl")


class KnownFeatures:
    """Features by group, with noise: cosines of matches and non-matches overlap."""

    fingerprint = "00" * 16

    def __init__(self, table: PairTable, noise: float) -> None:
        generator = torch.Generator().manual_seed(0)
        groups = list(table.rows["group"])
        centre = dict(zip(sorted(set(groups)), torch.randn(len(set(groups)), 8, generator=generator), strict=True))
        means = torch.stack([centre[group] for group in groups])
        self.images = F.normalize(means + noise * torch.randn(means.shape, generator=generator), dim=1)
        self.texts = {row[0]: F.normalize(mean, dim=0) for row, mean in zip(table.rows["captions"], means, strict=True)}

    def image_features(self, rows: Tensor) -> Tensor:
        return self.images[rows]

    def text_features(self, captions: Sequence[str]) -> Tensor:
        return torch.stack([self.texts[caption] for caption in captions])


def test_probabilities_are_right_on_average(table: PairTable) -> None:
    encoder = KnownFeatures(table, noise=0.8)
    for prior in (0.5, 0.1):
        found = fit_dual_calibration(encoder, table, hard=0, random=40, prior=prior)
        cosines = encoder.images @ encoder.text_features([row[0] for row in table.rows["captions"]]).T
        groups = list(table.rows["group"])
        true = torch.tensor([[one == other for other in groups] for one in groups])
        probabilities = found.probabilities(cosines)
        # A logistic fit reproduces the share of its positives exactly.
        mean = prior * probabilities.diagonal().mean() + (1 - prior) * probabilities[~true].mean()
        assert float(mean) == pytest.approx(prior, abs=0.01)
        assert found.scale > 0 and (found.matches, found.non_matches) == (48, 48 * 40)
        assert probabilities[true].mean() > 3 * probabilities[~true].mean()


def test_hard_captions_make_it_more_careful(table: PairTable) -> None:
    encoder = KnownFeatures(table, noise=0.8)
    hard, easy = (fit_dual_calibration(encoder, table, hard=h, random=4 - h) for h in (4, 0))
    cosine = torch.tensor(0.7)
    assert hard.probabilities(cosine) < easy.probabilities(cosine)


@pytest.mark.parametrize("kind", ["clip", "albef"])
def test_scores_are_calibrated_cosines(kind: str, table: PairTable, tmp_path: Path) -> None:
    folder = (save_clip if kind == "clip" else save_albef)(tmp_path / "judge", table)
    config = JudgeConfig(checkpoint=str(folder), kind="dual")
    run = JudgeInputs(table=table, preprocessing=preprocessing_of(table, max_length=4))
    with pytest.raises(ConfigError, match=r"calibration\.json is missing; fit it"):
        open_judge(config, run)
    encoder = DualFeatures(open_model(folder), table, "cpu")
    calibration = fit_dual_calibration(encoder, table)
    calibration.save(folder / "calibration.json")
    assert DualCalibration.load(folder / "calibration.json", encoder.fingerprint) == calibration

    rows = [40, 3, 17]
    dataset = PairDataset(table, captions="first")
    batch = run.preprocessing.collator()([dataset[row] for row in rows])
    images, texts = torch.tensor([0, 2, 2, 1]), torch.tensor([1, 0, 2, 2])
    scores = open_judge(config, run).score(batch, images, texts)
    cosines = expected_cosines(kind, folder, table, rows, batch.captions)
    torch.testing.assert_close(scores, torch.sigmoid(calibration.scale * cosines + calibration.bias)[images, texts])
    assert not scores.is_inference()


def expected_cosines(kind: str, folder: Path, table: PairTable, rows: list[int], captions: list[str]) -> Tensor:
    """Cosines [3, 3], from the models' own forward pass."""
    if kind == "clip":
        model = CLIPModel.from_pretrained(folder).eval()
        processor, tokenizer = AutoImageProcessor.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        pixels = processor(images=[table.image(row) for row in rows], return_tensors="pt")
        output = model(**tokenizer(captions, padding=True, return_tensors="pt"), **pixels)
        return (output.image_embeds @ output.text_embeds.T).detach()
    albef = load_albef(folder).eval()
    own = preprocessing_of(table)
    plain = PairDataset(table, build_transform(own.transform, train=False), captions="first")
    batch = own.collator()([plain[row] for row in rows])
    assert batch.pixel_values is not None
    output = albef(batch.pixel_values, batch.input_ids, batch.attention_mask)
    cosines: Tensor = (output.image.features @ output.text.features.T).detach()
    return cosines


def test_mistakes_are_named(table: PairTable, tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    found = fit_dual_calibration(KnownFeatures(table, 0.5), table)
    found.save(file)
    with pytest.raises(CheckpointError, match="another encoder"):
        DualCalibration.load(file, "11" * 16)
    file.write_text("{}")
    with pytest.raises(CheckpointError, match="is not a calibration"):
        DualCalibration.load(file, "00" * 16)
    preprocessing_of(table).tokenizer.save_pretrained(tmp_path / "bert")
    BertModel(BertConfig(**WIDTHS, vocab_size=60)).save_pretrained(tmp_path / "bert")
    with pytest.raises(ConfigError, match="a model of kind 'bert' is no plain dual encoder"):
        open_model(tmp_path / "bert")
    untold = PairTable(table.rows.remove_columns(["group", "names"]), "untold")
    with pytest.raises(DataError, match="untold states no truth"):
        fit_dual_calibration(KnownFeatures(table, 0.5), untold)
    with pytest.raises(ConfigError, match="prior"):
        fit_dual_calibration(KnownFeatures(table, 0.5), table, prior=1.0)
