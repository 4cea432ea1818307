"""The scores of a part of the images and captions."""

from torch import Tensor

from truepair.evaluation.scores import ScoreSource


class SubsetScores:
    """Scores of some images against some captions of a larger source, in slices.

    A slice of the part is cut from the slice of the whole that holds it; so the parts should lie close together.

    Args:
        source: scores of all images and captions.
        images: which images, ascending int64 [i].
        captions: which captions, ascending int64 [c].
    """

    def __init__(self, source: ScoreSource, images: Tensor, captions: Tensor) -> None:
        self.source = source
        self.images = images
        self.captions = captions

    def image_rows(self, start: int, stop: int) -> Tensor:
        """Scores of images ``start..stop - 1`` of the part against its captions, [stop - start, c]."""
        rows = self.images[start:stop]
        first = int(rows[0])
        block = self.source.image_rows(first, int(rows[-1]) + 1)
        return block[rows - first][:, self.captions]

    def caption_rows(self, start: int, stop: int) -> Tensor:
        """Scores of captions ``start..stop - 1`` of the part against its images, [stop - start, i]."""
        rows = self.captions[start:stop]
        first = int(rows[0])
        block = self.source.caption_rows(first, int(rows[-1]) + 1)
        return block[rows - first][:, self.images]
