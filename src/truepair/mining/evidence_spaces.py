"""Spaces in which two pairs are compared, learned from clean pairs."""

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from truepair.errors import DataError
from truepair.mining.evidence_tables import EvidenceTables


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
        images, texts = tables.images - self.image_mean, tables.texts - self.text_mean
        spaces = {
            "image": images @ self.image_metric,
            "text": texts @ self.text_metric,
            "caption": texts,
            "predicted": images @ self.cross_map,
        }
        if tables.dual_images is not None and tables.dual_texts is not None:
            spaces |= {"dual_image": tables.dual_images, "dual_text": tables.dual_texts}
        return {name: F.normalize(features, dim=1) for name, features in spaces.items()}

    def tensors(self) -> dict[str, Tensor]:
        """The maps by their names."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def _discriminant(centred: Tensor, groups: Tensor, width: int, shrinkage: float) -> Tensor:
    """Directions of linear discriminant analysis, the best first, scaled to unit spread within groups [F, A]."""
    _, group = groups.unique(return_inverse=True)  # [N]
    counts = torch.bincount(group)  # [C]
    if len(counts) < 2 or int(counts.max()) < 2:
        raise DataError("evidence is fitted on concepts with several pairs each; give clean data with a group column")
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
