"""Similarity of a dual encoder as a judge, calibrated to probabilities."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerBase

from truepair.data.pairs import PairBatch, PairCollator
from truepair.data.preprocessing import Preprocessing
from truepair.data.table import PairTable
from truepair.errors import CheckpointError, ConfigError, DataError
from truepair.evaluation.truth import Truth
from truepair.files import write_json
from truepair.judges.base import JudgeConfig, JudgeInputs, PairReader, PlainImages, Read
from truepair.judges.calibration import fit_logistic
from truepair.models.checkpoints.load import load_albef, load_hub_model, load_part, processor_key, processor_transform
from truepair.models.encoders.fingerprint import caption_input_key, combined_key, encoder_fingerprint, image_input_key
from truepair.models.encoders.images import image_transform
from truepair.models.fusion.albef import AlbefModel
from truepair.models.fusion.config import AlbefConfig
from truepair.relations.text import caption_key


class FeatureReader(Protocol):
    """Reads the features by which a dual encoder compares plain images and captions.

    Attributes:
        fingerprint: of weights and preprocessing.
    """

    fingerprint: str

    def image_features(self, rows: Tensor) -> Tensor:
        """Features of the images of rows [R] of the table, L2-normalised float32 [R, E]."""
        ...

    def text_features(self, captions: Sequence[str]) -> Tensor:
        """Features of T captions, L2-normalised float32 [T, E]."""
        ...


class HubFeatures:
    """Features of CLIP, SigLIP and what else has ``get_image_features`` and ``get_text_features``.

    Args:
        model: it is put into evaluation mode and gets no gradient.
        tokenizer: its own.
        images: reads images through its own processor.
        fingerprint: of weights and preprocessing.
    """

    def __init__(
        self, model: Any, tokenizer: PreTrainedTokenizerBase, images: PlainImages, *, fingerprint: str
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.images = images
        self.fingerprint = fingerprint

    @torch.inference_mode()
    def image_features(self, rows: Tensor) -> Tensor:
        """Features of images, see ``FeatureReader.image_features``."""
        found = self.model.get_image_features(pixel_values=self.images(rows).to(self.model.device))
        return F.normalize(_pooled(found).float(), dim=1)

    @torch.inference_mode()
    def text_features(self, captions: Sequence[str]) -> Tensor:
        """Features of captions, see ``FeatureReader.text_features``."""
        # SigLIP was trained on full-length padding, without a mask; to CLIP the padding makes no difference.
        length = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(
            list(captions), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        return F.normalize(_pooled(self.model.get_text_features(**tokens.to(self.model.device))).float(), dim=1)


class AlbefFeatures:
    """The features that ITC of our own model compares.

    Args:
        model: it is put into evaluation mode and gets no gradient.
        collator: its tokenization.
        images: reads images through its own preprocessing.
        fingerprint: of weights and preprocessing.
    """

    def __init__(self, model: AlbefModel, collator: PairCollator, images: PlainImages, *, fingerprint: str) -> None:
        self.model = model.eval().requires_grad_(False)
        self.collator = collator
        self.images = images
        self.fingerprint = fingerprint

    @torch.inference_mode()
    def image_features(self, rows: Tensor) -> Tensor:
        """Features of images, see ``FeatureReader.image_features``."""
        features: Tensor = self.model.encode_images(self.images(rows).to(self.model.device)).features
        return features.float()

    @torch.inference_mode()
    def text_features(self, captions: Sequence[str]) -> Tensor:
        """Features of captions, see ``FeatureReader.text_features``."""
        ids, mask = (part.to(self.model.device) for part in self.collator.encode(captions))
        features: Tensor = self.model.encode_texts(ids, mask).features
        return features.float()


def open_feature_reader(checkpoint: str, table: PairTable, device: torch.device | str) -> FeatureReader:
    """Open a folder of ours, or any dual encoder of transformers by folder or name.

    Args:
        checkpoint: folder or name on the hub.
        table: the images it will be asked about, by row.
        device: where it runs.

    Raises:
        CheckpointError: there is none, it is damaged, or it is no dual encoder.
    """
    settings, _ = load_part(_Settings, checkpoint)
    if settings.get("model_type") == AlbefConfig.model_type:
        return _open_albef(Path(checkpoint), table, device)
    model = load_hub_model(AutoModel, checkpoint).to(device)
    if not hasattr(model, "get_image_features") or not hasattr(model, "get_text_features"):
        raise CheckpointError(
            f"{checkpoint} is a {type(model).__name__}, not a dual encoder; give CLIP, SigLIP or such"
        )
    processor, tokenizer = load_part(AutoImageProcessor, checkpoint), load_part(AutoTokenizer, checkpoint)
    fingerprint = combined_key(model=encoder_fingerprint(model), inputs=processor_key(processor, tokenizer))
    images = PlainImages(table, processor_transform(processor))
    return HubFeatures(model, tokenizer, images, fingerprint=fingerprint)


class _Settings:
    """The config file of a checkpoint, read like a model."""

    from_pretrained = PretrainedConfig.get_config_dict


def _open_albef(folder: Path, table: PairTable, device: torch.device | str) -> AlbefFeatures:
    own, model = Preprocessing.load(folder), load_albef(folder).to(device)
    fingerprint = combined_key(
        model=encoder_fingerprint(model), images=image_input_key(own), captions=caption_input_key(own)
    )
    images = PlainImages(table, image_transform(own.transform, model.image_encoder, train=False))
    return AlbefFeatures(model, own.collator(), images, fingerprint=fingerprint)


def _pooled(output: Any) -> Tensor:
    """The features, which transformers returns as they are or as the ``pooler_output`` of an output."""
    features: Tensor = getattr(output, "pooler_output", output)
    return features


FILE = "calibration.json"

_BATCH = 64

_ROWS = 512  # rows of a similarity matrix held at once


@dataclass(frozen=True)
class DualCalibration:
    """probability = sigmoid(scale * cosine + bias).

    Attributes:
        scale: weight of the cosine.
        bias: constant.
        prior: share of matches among the candidates that the probability is meant for.
        fingerprint: of the dual encoder it was fitted for.
        matches: number of matches it was fitted on.
        non_matches: number of non-matches.
    """

    scale: float
    bias: float
    prior: float
    fingerprint: str
    matches: int
    non_matches: int

    def probabilities(self, cosines: Tensor) -> Tensor:
        """Match probabilities of cosines, of the same shape."""
        return (self.scale * cosines + self.bias).sigmoid()

    def save(self, file: Path) -> None:
        """Write it as JSON."""
        write_json(file, asdict(self))

    @classmethod
    def load(cls, file: Path, fingerprint: str) -> "DualCalibration":
        """Read what :meth:`save` wrote.

        Args:
            file: the JSON file.
            fingerprint: of the dual encoder in use.

        Raises:
            ConfigError: there is no such file: a similarity is no probability, and no default would be right.
            CheckpointError: it cannot be read, or was fitted for another encoder.
        """
        if not file.is_file():
            raise ConfigError(f"{file} is missing; fit it (fit_dual_calibration), or give ecm.judge.calibration")
        try:
            found = cls(**json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{file} is not a calibration ({error}); fit it again") from error
        if found.fingerprint != fingerprint:
            raise CheckpointError(f"{file} was fitted for another encoder or preprocessing; fit it again")
        return found


def fit_dual_calibration(
    encoder: FeatureReader,
    table: PairTable,
    *,
    hard: int = 4,
    random: int = 4,
    prior: float = 0.5,
    seed: int = 0,
) -> DualCalibration:
    """Fit on a clean table: its own pairs against captions that are known not to be true of an image.

    Half of the non-matches are the captions nearest to an image, since those are what a judge is asked about.

    Args:
        encoder: opened on this table.
        table: clean pairs with truth (``names`` or ``group``); the first caption of each row is taken.
        hard: nearest false captions of each image.
        random: random false captions of each image.
        prior: share of matches among the candidates to be judged; an ITM head is trained on a third to a half.
        seed: of the random ones.

    Raises:
        DataError: the table states no truth, or has no false pair.
        ConfigError: numbers out of range.
    """
    if hard < 0 or random < 0 or hard + random < 1 or not 0 < prior < 1:
        raise ConfigError("a calibration needs hard + random of at least 1, and a prior between 0 and 1")
    truth = Truth.from_table(table)
    if truth is None:
        raise DataError(f"{table.name} states no truth (names or group); a calibration needs clean data that does")
    captions = [row[0] for row in table.rows["captions"]]
    keys = torch.tensor([caption_key(caption) for caption in captions])
    rows = torch.arange(len(table))
    images = torch.cat([encoder.image_features(part).cpu() for part in rows.split(_BATCH)])
    texts = torch.cat([encoder.text_features(captions[i : i + _BATCH]).cpu() for i in range(0, len(captions), _BATCH)])
    generator = torch.Generator().manual_seed(seed)
    positives = (images * texts).sum(dim=1)  # [N]
    negatives = torch.cat(
        [
            _false_cosines(images[part], texts, ~_true(truth, part, keys), hard, random, generator)
            for part in rows.split(_ROWS)
        ]
    )
    cosines = torch.cat([positives, negatives])
    labels = torch.arange(len(cosines)) < len(positives)
    if not len(negatives):
        raise DataError(f"every caption of {table.name} is true of every image; a calibration needs false pairs too")
    weights = torch.where(labels, prior / len(positives), (1 - prior) / len(negatives))
    spread = cosines.std().clamp(min=1e-6)  # the penalty expects inputs of scale 1
    weight, constant = fit_logistic(((cosines - cosines.mean()) / spread)[:, None], labels, weights).tolist()
    scale = weight / float(spread)
    bias = constant - scale * float(cosines.mean())
    return DualCalibration(scale, bias, prior, encoder.fingerprint, len(positives), len(negatives))


def _true(truth: Truth, rows: Tensor, keys: Tensor) -> Tensor:
    """Which captions are true of the images of some rows [R, N]."""
    size = (len(rows), len(keys))
    return truth.matches(rows[:, None].expand(size).flatten(), keys[None, :].expand(size).flatten()).view(size)


def _false_cosines(
    images: Tensor, texts: Tensor, false: Tensor, hard: int, random: int, generator: torch.Generator
) -> Tensor:
    """Cosines of some images with their nearest and with random false captions [<= R * (hard + random)]."""
    cosines = images @ texts.T  # [R, N]
    nearest = cosines.masked_fill(~false, -torch.inf).topk(min(hard, len(texts)), dim=1).values
    lots = torch.rand(cosines.shape, generator=generator).masked_fill(~false, -1.0).topk(min(random, len(texts)), dim=1)
    drawn = cosines.gather(1, lots.indices).masked_fill(lots.values < 0, -torch.inf)
    found = torch.cat([nearest, drawn], dim=1).flatten()
    return found[found.isfinite()]


class DualJudge(PairReader):
    """Calibrated cosine of plain image and caption.

    Args:
        encoder: the dual encoder.
        calibration: from cosine to probability.
        name: for logs.
        device: where the encoder runs.
    """

    repeatable = True
    pairs_at_once = 65_536

    def __init__(
        self, encoder: FeatureReader, calibration: DualCalibration, *, name: str, device: torch.device | str
    ) -> None:
        self.encoder = encoder
        self.calibration = calibration
        self.name = name
        self.fingerprint = combined_key(encoder=encoder.fingerprint, scale=calibration.scale, bias=calibration.bias)
        self._device = torch.device(device)

    @property
    def device(self) -> torch.device:
        """Where pairs are read."""
        return self._device

    def encode(self, batch: PairBatch, image_rows: Tensor, text_rows: Tensor) -> Read:
        """Features of some images and captions, see ``PairReader.encode``."""
        images = self.encoder.image_features(batch.source_index[image_rows].cpu())  # [U, E]
        texts = self.encoder.text_features([batch.captions[row] for row in text_rows.tolist()])  # [V, E]
        return lambda image, text: self.calibration.probabilities((images[image] * texts[text]).sum(dim=1))


def open_dual(config: JudgeConfig, run: JudgeInputs, device: torch.device | str) -> DualJudge:
    """Open a dual encoder and its calibration.

    Raises:
        CheckpointError: the encoder or its calibration does not exist, is damaged, or is for something else.
        ConfigError: there is no calibration.
    """
    encoder = open_feature_reader(config.checkpoint, run.table, device)
    file = Path(config.checkpoint) / FILE if config.calibration is None else Path(config.calibration)
    calibration = DualCalibration.load(file, encoder.fingerprint)
    return DualJudge(encoder, calibration, name=f"dual {config.checkpoint}", device=device)
