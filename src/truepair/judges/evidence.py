"""The evidence judge: what images and captions of two pairs have in common."""

import json
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from truepair.data.pairs import PairBatch
from truepair.devices import sent
from truepair.errors import CheckpointError, ConfigError, DataError
from truepair.files import require_whole, write_json, writing_file
from truepair.judges.base import JudgeConfig, JudgeInputs
from truepair.models.encoders.fingerprint import caption_input_key, combined_key, encoder_fingerprint, image_input_key
from truepair.models.encoders.frozen_captions import CaptionStates
from truepair.models.encoders.frozen_images import ImageStates
from truepair.models.encoders.minilm import sentence_vectors

TERMS = {
    "images": ("image", "image"),
    "texts": ("text", "text"),
    "image_to_text": ("predicted", "caption"),
    "text_to_image": ("caption", "predicted"),
    "captions": ("caption", "caption"),
    "predictions": ("predicted", "predicted"),
    "dual_image_to_text": ("dual_image", "dual_text"),
    "dual_text_to_image": ("dual_text", "dual_image"),
}
"""Each piece of evidence on (image i, caption j): a cosine of pair i in one space and pair j in another."""


_BATCH = 256
_DENSE = 64  # a cosine out of a matrix product costs so much less than one out of gathered rows
_EDGES = 2048  # pairs scored at once: what is gathered of them stays in a core's own memory
_COLUMNS = 2048  # columns of a grid scored at once
_PROJECTED = 1024  # rows projected at once
_SETTINGS = "evidence.json"
_TENSORS = "evidence.safetensors"
JUDGE_SEAL = "judge.sha256.json"
"""Sums of the files of a judge, which belong together."""

_LOGISTIC = ("centre", "spread", "weights")


@dataclass(frozen=True)
class EvidenceTables:
    """Features of the N pairs of a table, row by row.

    Attributes:
        images: pooled image features, L2-normalised float32 [N, F].
        texts: pooled caption features, L2-normalised float32 [N, G].
        encoders: key of the encoders and of their preprocessing; features of other encoders cannot be compared.
        dual_images: image features of a trained dual encoder, L2-normalised [N, E]; None for none.
        dual_texts: its text features [N, E].
    """

    images: Tensor
    texts: Tensor
    encoders: str
    dual_images: Tensor | None = None
    dual_texts: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    @classmethod
    def of_run(cls, run: JudgeInputs) -> Self:
        """The means of a run's cached states; each row counts with its first caption.

        Raises:
            ConfigError: the run has no caches.
        """
        preprocessing = run.preprocessing
        if run.model is None or preprocessing is None or run.image_cache is None or run.caption_cache is None:
            raise ConfigError(
                "a judge of kind 'evidence' needs frozen features; set model.cache_images and model.cache_captions"
            )
        encoders = combined_key(
            image=encoder_fingerprint(run.model.image_tower),
            text=encoder_fingerprint(run.model.text_tower),
            pixels=image_input_key(preprocessing),
            tokens=caption_input_key(preprocessing),
        )
        captions = [row[0] for row in run.table.values("captions")]
        return cls(pooled_images(run.image_cache), pooled_captions(run.caption_cache, captions), encoders)

    def rows(self, rows: Tensor) -> "EvidenceTables":
        """Some rows of the tables [R]."""
        dual = [None if table is None else table[rows] for table in (self.dual_images, self.dual_texts)]
        return EvidenceTables(self.images[rows], self.texts[rows], self.encoders, *dual)


def pooled_images(cache: ImageStates) -> Tensor:
    """The L2-normalised mean of the states of each plain image of a table [N, F]."""
    parts = [cache[start : start + _BATCH].mean(dim=1) for start in range(0, len(cache), _BATCH)]
    return F.normalize(torch.cat(parts), dim=1)


def pooled_captions(cache: CaptionStates, captions: list[str]) -> Tensor:
    """The L2-normalised mean of the token states of each caption [N, G]."""
    parts = [cache.gather(captions[start : start + _BATCH]) for start in range(0, len(captions), _BATCH)]
    return torch.cat([sentence_vectors(states, mask) for states, mask in parts])


@dataclass(frozen=True)
class EvidenceSpaces:
    """Linear maps of pooled features, fitted in closed form.

    The metrics are linear discriminant analysis: directions in which images (captions) of one concept agree and those
    of different concepts differ count most. The cross map is ridge regression from image to caption features, the
    simplest of dual encoders.

    Attributes:
        image_mean: [F].
        image_metric: [F, A].
        text_mean: [G].
        text_metric: [G, B].
        cross_map: [F, G].
    """

    image_mean: Tensor
    image_metric: Tensor
    text_mean: Tensor
    text_metric: Tensor
    cross_map: Tensor

    @classmethod
    def fit(
        cls,
        tables: EvidenceTables,
        groups: Tensor,
        *,
        image_width: int,
        text_width: int,
        shrinkage: float,
        ridge: float,
    ) -> "EvidenceSpaces":
        """Fit on clean pairs.

        Args:
            tables: their features.
            groups: concept of each pair, int64 [N].
            image_width: A, most directions of the image metric.
            text_width: B, of the text metric.
            shrinkage: share of the identity in the covariance within concepts.
            ridge: penalty of the cross map.

        Raises:
            DataError: no concept has two pairs, or there is but one concept.
        """
        images, texts = tables.images.double(), tables.texts.double()
        image_mean, text_mean = images.mean(dim=0), texts.mean(dim=0)
        images, texts = images - image_mean, texts - text_mean
        # scikit-learn's Ridge solves the same; two lines of torch need no copy of the features to numpy and back.
        penalised = images.T @ images + ridge * torch.eye(images.shape[1], dtype=torch.float64)
        return cls(
            image_mean.float(),
            _discriminant(images, groups, image_width, shrinkage),
            text_mean.float(),
            _discriminant(texts, groups, text_width, shrinkage),
            torch.cholesky_solve(images.T @ texts, torch.linalg.cholesky(penalised)).float().contiguous(),
        )

    def project(self, tables: EvidenceTables) -> dict[str, Tensor]:
        """Normalised features of each pair in each space, [N, width] each."""
        widths = {
            "image": self.image_metric.shape[1],
            "text": self.text_metric.shape[1],
            "caption": len(self.text_mean),
            "predicted": self.cross_map.shape[1],
        }
        spaces = {name: tables.images.new_empty(len(tables), width) for name, width in widths.items()}
        for start in range(0, len(tables), _PROJECTED):
            rows = slice(start, start + _PROJECTED)
            images, texts = tables.images[rows] - self.image_mean, tables.texts[rows] - self.text_mean
            spaces["image"][rows] = F.normalize(images @ self.image_metric, dim=1)
            spaces["text"][rows] = F.normalize(texts @ self.text_metric, dim=1)
            spaces["caption"][rows] = F.normalize(texts, dim=1)
            spaces["predicted"][rows] = F.normalize(images @ self.cross_map, dim=1)
        if tables.dual_images is not None and tables.dual_texts is not None:
            spaces["dual_image"] = F.normalize(tables.dual_images, dim=1)
            spaces["dual_text"] = F.normalize(tables.dual_texts, dim=1)
        return spaces

    def tensors(self) -> dict[str, Tensor]:
        """The maps by their names, each [input width, output width] or [width]."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True)
class _Quadratic:
    """A quadratic form of C cosines.

    Attributes:
        cosines: of pair i in one space and pair j in another.
        constant: for cosines of 0.
        linear: factor of each [C].
        products: factors of products of two, and of squares; 0 below the diagonal [C, C].
    """

    cosines: tuple[tuple[str, str], ...]
    constant: float
    linear: list[float]
    products: list[list[float]]

    def values(self, cosines: list[Tensor]) -> Tensor:
        """Its values for cosines of any shape, C of them, term by term: no tensor of all products is needed."""
        total = torch.full_like(cosines[0], self.constant)
        factor = torch.empty_like(total)
        for one, cosine in enumerate(cosines):
            factor.fill_(self.linear[one])
            for other in range(one, len(cosines)):
                factor.add_(cosines[other], alpha=self.products[one][other])
            total.addcmul_(cosine, factor)
        return total


@dataclass(frozen=True)
class EvidenceModel:
    """Logistic regression on the evidence, its squares and products.

    Attributes:
        spaces: where the two pairs are compared.
        terms: names of the evidence used, among ``TERMS``.
        centre: mean of each input [Q].
        spread: standard deviation of each input [Q].
        weights: of the standardised inputs, and the constant [Q + 1].
        encoders: key of the encoders whose features it reads.
    """

    spaces: EvidenceSpaces
    terms: tuple[str, ...]
    centre: Tensor
    spread: Tensor
    weights: Tensor
    encoders: str

    @property
    def fingerprint(self) -> str:
        """Of everything a score depends on, but the features."""
        return combined_key(terms=list(self.terms), encoders=self.encoders, **self._tensors())

    def score(self, spaces: dict[str, Tensor], left: Tensor, right: Tensor) -> Tensor:
        """Match probabilities of (image of pair left, caption of pair right).

        Args:
            spaces: from ``EvidenceSpaces.project``.
            left: pairs whose images are meant [P].
            right: pairs whose captions are meant [P].

        Returns:
            float32 [P].
        """
        return self.probabilities(evidence_of(spaces, self.terms, left, right))

    def probabilities(self, evidence: Tensor) -> Tensor:
        """Match probabilities [P] of evidence [P, T], in the order of the terms."""
        return self._log_odds(evidence).sigmoid()

    def edge_log_odds(self, spaces: dict[str, Tensor], rows: Tensor, columns: Tensor) -> Tensor:
        """Log-odds that pairs show the same, one by one: the mean of both directions, as :meth:`log_odds` has it.

        Args:
            spaces: from ``EvidenceSpaces.project``.
            rows: one pair of each edge [P].
            columns: the other [P].

        Returns:
            float32 [P].
        """
        form = self._both_ways
        used = {space for cosine in form.cosines for space in cosine}
        parts = []
        for left, right in zip(rows.split(_EDGES), columns.split(_EDGES), strict=True):
            at_left, at_right = ({name: spaces[name][some] for name in used} for some in (left, right))
            parts.append(form.values([(at_left[one] * at_right[other]).sum(dim=1) for one, other in form.cosines]))
        return torch.cat(parts)

    def log_odds(self, spaces: dict[str, Tensor], rows: Tensor, columns: Tensor) -> Tensor:
        """Log-odds that pairs show the same, by products of matrices: the mean of both directions.

        Args:
            spaces: from ``EvidenceSpaces.project``.
            rows: some pairs [R].
            columns: others [M].

        Returns:
            float32 [R, M].
        """
        form = self._both_ways
        used = {space for cosine in form.cosines for space in cosine}
        left = {name: spaces[name][rows] for name in used}
        right = {name: spaces[name][columns] for name in used}
        found = torch.empty(len(rows), len(columns), device=self.weights.device)
        for start in range(0, len(columns), _COLUMNS):
            part = slice(start, start + _COLUMNS)
            found[:, part] = form.values([left[one] @ right[other][part].T for one, other in form.cosines])
        return found

    @cached_property
    def _both_ways(self) -> "_Quadratic":
        """The mean of both directions, whose cosines are the same but for the order of their two spaces."""
        terms = [TERMS[term] for term in self.terms]
        cosines = list(dict.fromkeys([*terms, *((other, one) for one, other in terms)]))
        slopes = self.weights[:-1] / self.spread  # [Q]
        linear, products = torch.zeros(len(cosines)), torch.zeros(len(cosines), len(cosines))
        one, other = torch.triu_indices(len(terms), len(terms))
        for direction in (terms, [(other, one) for one, other in terms]):
            place = torch.tensor([cosines.index(cosine) for cosine in direction])  # [T]
            linear.index_add_(0, place, slopes[: len(terms)].cpu() / 2)
            first, last = torch.minimum(place[one], place[other]), torch.maximum(place[one], place[other])
            products.index_put_((first, last), slopes[len(terms) :].cpu() / 2, accumulate=True)
        constant = float(self.weights[-1] - slopes @ self.centre)
        return _Quadratic(tuple(cosines), constant, linear.tolist(), products.tolist())

    def _log_odds(self, evidence: Tensor) -> Tensor:
        standardised = (with_products(evidence) - self.centre) / self.spread  # [P, Q]
        return standardised @ self.weights[:-1] + self.weights[-1]

    def to(self, device: torch.device | str) -> "EvidenceModel":
        """The same model on another device."""
        spaces = EvidenceSpaces(**{name: tensor.to(device) for name, tensor in self.spaces.tensors().items()})
        centre, spread, weights = (getattr(self, name).to(device) for name in _LOGISTIC)
        return EvidenceModel(spaces, self.terms, centre, spread, weights, self.encoders)

    def save(self, folder: Path) -> None:
        """Write it as JSON and safetensors, into a folder of :func:`truepair.files.writing_together`.

        Raises:
            OSError: the disk refuses.
        """
        with writing_file(folder / _TENSORS, error=None) as file:
            file.write(save({name: tensor.contiguous() for name, tensor in self._tensors().items()}))
        write_json(folder / _SETTINGS, {"terms": self.terms, "encoders": self.encoders}, error=None)

    @classmethod
    def load(cls, folder: Path) -> "EvidenceModel":
        """Read what :meth:`save` wrote.

        Raises:
            CheckpointError: it is missing or damaged, or of another call than the refinement beside it.
        """
        require_whole(folder, JUDGE_SEAL, "fit the judge again with truepair judge", error=CheckpointError)
        try:
            settings = json.loads((folder / _SETTINGS).read_text(encoding="utf-8"))
            tensors = load_file(folder / _TENSORS)
            centre, spread, weights = (tensors.pop(name) for name in _LOGISTIC)
            spaces = EvidenceSpaces(**tensors)
            return cls(spaces, tuple(settings["terms"]), centre, spread, weights, settings["encoders"])
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise CheckpointError(f"{folder} holds no evidence judge ({error}); fit one with truepair judge") from error

    def _tensors(self) -> dict[str, Tensor]:
        return self.spaces.tensors() | {name: getattr(self, name) for name in _LOGISTIC}


def terms_of(tables: EvidenceTables) -> tuple[str, ...]:
    """The evidence that tables allow."""
    with_dual = tables.dual_images is not None and tables.dual_texts is not None
    return tuple(name for name in TERMS if with_dual or not name.startswith("dual"))


def evidence_of(spaces: dict[str, Tensor], terms: tuple[str, ...], left: Tensor, right: Tensor) -> Tensor:
    """The evidence on some (image of pair, caption of pair), float32 [P, number of terms]."""
    pairs = [TERMS[term] for term in terms]
    left_rows, left_of = left.unique(return_inverse=True)  # [U], [P]
    right_rows, right_of = right.unique(return_inverse=True)  # [V], [P]
    if len(left_rows) * len(right_rows) <= _DENSE * len(left):  # many pairs of few rows: products of matrices
        grids = (spaces[one][left_rows] @ spaces[other][right_rows].T for one, other in pairs)  # [U, V] each
        return torch.stack([grid[left_of, right_of] for grid in grids], dim=1)
    used = {space for pair in pairs for space in pair}
    at_left, at_right = ({name: spaces[name][rows] for name in used} for rows in (left, right))
    return torch.stack([(at_left[one] * at_right[other]).sum(dim=1) for one, other in pairs], dim=1)


def with_products(evidence: Tensor) -> Tensor:
    """Evidence [P, T], its squares and its products [P, T + T (T + 1) / 2]."""
    one, other = torch.triu_indices(evidence.shape[1], evidence.shape[1], device=evidence.device)
    return torch.cat([evidence, evidence[:, one] * evidence[:, other]], dim=1)


class EvidenceJudge:
    """Judges (image i, caption j) by all of pairs i and j: their images, their captions, and each across.

    A score is a few dot products of features that were computed once, so it is not worth remembering. Nor would a
    memory by ids be right: the verdict on an image depends on the caption it is paired with.

    Args:
        model: the fitted model.
        tables: features of the training table; ``PairBatch.source_index`` numbers its rows.
        name: for logs.
        device: where features are kept and scores computed.

    Raises:
        CheckpointError: the features are of other encoders than the model was fitted on.
    """

    repeatable = False

    def __init__(
        self, model: EvidenceModel, tables: EvidenceTables, *, name: str, device: torch.device | str = "cpu"
    ) -> None:
        if tables.encoders != model.encoders:
            raise CheckpointError(f"{name} was fitted on features of other encoders than this run's; fit it again")
        self.model = model.to(device)
        self.device = torch.device(device)
        self.spaces = {part: features.to(device) for part, features in model.spaces.project(tables).items()}
        self.name = name
        self.fingerprint = combined_key(model=model.fingerprint, images=tables.images, texts=tables.texts)

    def score(self, batch: PairBatch, images: Tensor, texts: Tensor) -> Tensor:
        """Match probabilities [P], see ``Judge.score``; of own pairs they say nothing."""
        left, right = (sent(batch.source_index[rows], self.device) for rows in (images, texts))
        with torch.no_grad():
            return self.model.score(self.spaces, left, right).to(images.device)


def open_evidence(config: JudgeConfig, run: JudgeInputs, device: torch.device | str) -> EvidenceJudge:
    """Open a folder that ``EvidenceModel.save`` wrote, on the cached features of a run.

    Raises:
        CheckpointError: there is none, or it was fitted on other encoders.
        ConfigError: the run has no cached features.
    """
    model, tables = EvidenceModel.load(Path(config.checkpoint)), EvidenceTables.of_run(run)
    return EvidenceJudge(model, tables, name=f"evidence {config.checkpoint}", device=device)


def _discriminant(centred: Tensor, groups: Tensor, width: int, shrinkage: float) -> Tensor:
    """Directions of linear discriminant analysis, the best first, scaled to unit spread within groups [F, A].

    ``LinearDiscriminantAnalysis`` of scikit-learn finds others: it weighs concepts by their numbers of pairs, and
    shrinks the covariance between concepts too.
    """
    _, group = groups.unique(return_inverse=True)  # [N]
    counts = torch.bincount(group)  # [C]
    if len(counts) < 2 or int(counts.max()) < 2:
        raise DataError("evidence is fitted on groups of several rows each; give more rows of one group")
    sums = torch.zeros(len(counts), centred.shape[1], dtype=centred.dtype).index_add(0, group, centred)
    means = sums / counts[:, None]  # [C, F]
    within = centred - means[group]
    covariance = within.T @ within / len(centred)  # [F, F]
    level = covariance.diagonal().mean().clamp(min=1e-12)
    covariance = (1 - shrinkage) * covariance + shrinkage * level * torch.eye(len(covariance), dtype=centred.dtype)
    spread = torch.linalg.cholesky(covariance)  # [F, F]
    whitened = torch.linalg.solve_triangular(spread, means.T, upper=False)  # [F, C]
    # Of the C means, not of their F x F scatter: the same directions from a matrix that is far smaller as a rule.
    directions, _, _ = torch.linalg.svd(whitened, full_matrices=False)  # [F, min(F, C)]
    found: Tensor = torch.linalg.solve_triangular(spread.T, directions[:, : min(width, len(counts) - 1)], upper=True)
    return found.float().contiguous()  # as it will be read from a file
