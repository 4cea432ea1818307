"""What two pairs have in common, as the probability that the image of one matches the caption of the other."""

import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from truepair.errors import CheckpointError
from truepair.mining.evidence_spaces import EvidenceSpaces
from truepair.mining.evidence_tables import EvidenceTables
from truepair.models.fingerprint import combined_key

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

_DENSE = 64  # a cosine out of a matrix product costs so much less than one out of gathered rows
_SETTINGS = "evidence.json"
_TENSORS = "evidence.safetensors"
_LOGISTIC = ("centre", "spread", "weights")


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
        """Log-odds that (image of pair row, caption of pair column) match [P]; :meth:`score` before the sigmoid."""
        return self._log_odds(evidence_of(spaces, self.terms, rows, columns))

    def log_odds(self, spaces: dict[str, Tensor], rows: Tensor, columns: Tensor) -> Tensor:
        """Log-odds that pairs show the same, by products of matrices: the mean of both directions.

        Args:
            spaces: from ``EvidenceSpaces.project``.
            rows: some pairs [R].
            columns: others [M].

        Returns:
            float32 [R, M].
        """
        return (self._grid(spaces, rows, columns) + self._grid(spaces, columns, rows).T) / 2

    def _grid(self, spaces: dict[str, Tensor], rows: Tensor, columns: Tensor) -> Tensor:
        """Log-odds of images of rows and captions of columns [R, M], term by term: no [R, M, Q] is needed."""
        slopes = self.weights[:-1] / self.spread  # [Q]
        count = len(self.terms)
        products = dict(zip(itertools.combinations_with_replacement(range(count), 2), slopes[count:], strict=True))
        grids = [spaces[one][rows] @ spaces[other][columns].T for one, other in (TERMS[term] for term in self.terms)]
        total = (self.weights[-1] - slopes @ self.centre).expand_as(grids[0]).clone()
        for one, grid in enumerate(grids):
            factor = slopes[one].expand_as(grid).clone()
            for other in range(one, count):
                factor.addcmul_(products[one, other], grids[other])
            total.addcmul_(grid, factor)
        return total

    def _log_odds(self, evidence: Tensor) -> Tensor:
        standardised = (with_products(evidence) - self.centre) / self.spread  # [P, Q]
        return standardised @ self.weights[:-1] + self.weights[-1]

    def to(self, device: torch.device | str) -> "EvidenceModel":
        """The same model on another device."""
        spaces = EvidenceSpaces(**{name: tensor.to(device) for name, tensor in self.spaces.tensors().items()})
        centre, spread, weights = (getattr(self, name).to(device) for name in _LOGISTIC)
        return EvidenceModel(spaces, self.terms, centre, spread, weights, self.encoders)

    def save(self, folder: Path) -> None:
        """Write it as JSON and safetensors."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in self._tensors().items()}, folder / _TENSORS)
        settings = {"terms": self.terms, "encoders": self.encoders}
        (folder / _SETTINGS).write_text(json.dumps(settings, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "EvidenceModel":
        """Read what :meth:`save` wrote.

        Raises:
            CheckpointError: it is missing or damaged.
        """
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
