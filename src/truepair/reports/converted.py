"""What the page shows of converted pairs, as plain typed data."""

from dataclasses import dataclass

from truepair.tasks.marks import Verdict


@dataclass(frozen=True, kw_only=True)
class ConvertedCard:
    """A converted pair: a picture and the caption of another picture, which the judge took for a match.

    Attributes:
        picture: key of the picture.
        own_caption: the caption it was declared with.
        caption: the caption that became true of it too.
        caption_picture: key of the picture that caption was declared with.
        score: the judge's match probability, between 0 and 1.
        epoch: when it was first converted, from 1.
        verdict: what the known truth says.
    """

    picture: str
    own_caption: str
    caption: str
    caption_picture: str
    score: float
    epoch: int
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class ConvertedPairs:
    """The converted pairs of one run.

    Attributes:
        run: its name; empty for the only one.
        count: distinct pairs.
        judged: of how many the truth is known.
        true: how many of these match.
        recall: of the false negatives that met in a batch, the share that was converted; None where not known.
        cards: pairs drawn by lot.
    """

    run: str
    count: int
    judged: int
    true: int
    recall: float | None
    cards: list[ConvertedCard]

    @property
    def precision(self) -> float | None:
        """Share of matches among the pairs whose truth is known; None if it is known of none."""
        return self.true / self.judged if self.judged else None
