"""What detectors may look at."""

from dataclasses import dataclass, fields

from torch import Tensor

from truepair.errors import ConfigError
from truepair.relations.pairs import PairSet


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A batch of B pairs and what is known about it. Only the ids are needed by all; the rest as the detectors ask.

    Attributes:
        image_ids: Image id of each pair, int64 [B].
        caption_ids: Caption id of each pair, int64 [B].
        caption_keys: Key of each normalised caption text, int64 [B].
        groups: What each pair shows, where that is declared, int64 [B]; below 0 where it is not.
        guide_images: Image features of a frozen dual encoder, L2-normalised [B, G].
        guide_texts: Text features of the same [B, G].
        momentum_images: Image features of the momentum model, L2-normalised [B, E].
        momentum_texts: Text features of the same [B, E].
        judged: con-D's match probability of the (image row, text row) cells it was asked about [B, B].
        weights_by_image: SRCL's weight of each text as a negative of each image [B, B].
        weights_by_text: Its weight of each image as a negative of each text, in the same layout [B, B].
    """

    image_ids: Tensor  # [B]
    caption_ids: Tensor  # [B]
    caption_keys: Tensor | None = None  # [B]
    groups: Tensor | None = None  # [B]
    guide_images: Tensor | None = None  # [B, G]
    guide_texts: Tensor | None = None  # [B, G]
    momentum_images: Tensor | None = None  # [B, E]
    momentum_texts: Tensor | None = None  # [B, E]
    judged: PairSet | None = None
    weights_by_image: Tensor | None = None  # [B, B]
    weights_by_text: Tensor | None = None  # [B, B]

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor) and len(value) != self.size:
                raise ValueError(f"{field.name} has {len(value)} rows, the batch has {self.size} pairs.")
        if self.judged is not None and self.judged.shape != (self.size, self.size):
            raise ValueError(f"judged is of shape {self.judged.shape}, the batch has {self.size} pairs.")

    @property
    def size(self) -> int:
        """Number of pairs B."""
        return len(self.image_ids)

    def tensor(self, name: str, asked_by: str) -> Tensor:
        """A tensor a detector cannot do without.

        Raises:
            ConfigError: If the batch does not carry it.
        """
        value: Tensor | None = getattr(self, name)
        if value is None:
            raise ConfigError(f"Detector {asked_by!r} needs {name}, which this run lacks; drop the detector.")
        return value
