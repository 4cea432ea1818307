"""What a training run has that its judge may use."""

from dataclasses import dataclass

from truepair.data.preprocessing import Preprocessing
from truepair.data.table import PairTable
from truepair.models.albef import AlbefModel
from truepair.models.frozen_captions import CaptionStates
from truepair.models.frozen_images import ImageStates


@dataclass(frozen=True, kw_only=True)
class RunInputs:
    """What a training run has that its judge may use.

    Attributes:
        table: the table that batches are drawn from; ``PairBatch.source_index`` numbers its rows.
        preprocessing: how captions and images reach the student.
        model: the student, whose frozen encoders the caches are of; needed with a cache, and with "encoder"
            normalisation by a judge of the batches as they are.
        image_cache: states of the table's images, from the student's frozen image encoder.
        caption_cache: states of the table's captions, from the student's frozen text encoder.
        pooled: the cache holds the mean of an image's states only; enough to compare, not to fuse.
    """

    table: PairTable
    preprocessing: Preprocessing
    model: AlbefModel | None = None
    image_cache: ImageStates | None = None
    caption_cache: CaptionStates | None = None
    pooled: bool = False
