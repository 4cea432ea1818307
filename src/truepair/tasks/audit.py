"""The audit of a training set: undeclared pairs that the model takes for matches, and what the known truth says."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from truepair.data.pairs import PairCollator
from truepair.evaluation.detectors import SuspectPrecision, precision_at
from truepair.evaluation.truth import Truth, Verdict
from truepair.mining.suspects import Suspect, find_suspects
from truepair.models.dual.base import DualEncoder
from truepair.models.fusion.gallery import EncodedImages, GalleryMatcher, encode_captions, encode_images
from truepair.tasks.retrieval import ImageSource


@dataclass(frozen=True)
class AuditedSuspect:
    """A suspected false negative, and what is known of it.

    Attributes:
        suspect: the pair, by rows of the audited table.
        verdict: "true" match, "near" (same family), "false", or "unknown" where the data set knows no truth.
    """

    suspect: Suspect
    verdict: Verdict


@dataclass(frozen=True)
class Audit:
    """The suspected false negatives of a set of pairs.

    Attributes:
        suspects: the strongest first.
        precision: of the first 50 and 200 suspects; near-matches count as wrong.
        way: what ranked them: "ITM", or "similarity" where ITM was not trained.
        tied: undeclared pairs that are no suspects, since the model gives them the score of all the others.
        unreadable: rows that were left out since their picture cannot be read, and why.
    """

    suspects: list[AuditedSuspect]
    precision: list[SuspectPrecision]
    way: Literal["ITM", "similarity"] = "ITM"
    tied: int = 0
    unreadable: Mapping[int, str] = field(default_factory=dict)

    @property
    def ties(self) -> str:
        """A line on pairs that are no suspects for their ties; empty where there are none."""
        if not self.tied:
            return ""
        return (
            f"{self.tied:,} undeclared pairs of the training set are no suspects: to {self.way} they are like all "
            "others, as to a model that tells no pictures, or no captions, apart"
        )


def audit_pairs(
    model: DualEncoder, collator: PairCollator, images: ImageSource, *, candidates: int = 8, limit: int = 1000
) -> Audit:
    """Find and check the suspected false negatives of a table; each row counts with its first caption.

    ITM ranks them if the model's was trained, else similarity.

    Args:
        model: the judge; put into evaluation mode.
        collator: the tokenization the model was trained with.
        images: the pairs, with pixels or cached states.
        candidates: neighbours of each row that may be suspects, in each direction.
        limit: how many suspects to keep.
    """
    model.eval()
    table = images.table
    captions = [row[0] for row in table.rows["captions"]]
    unreadable: dict[int, str] = {}
    encoded = encode_images(model, images.batches(unreadable), are_states=images.are_states)
    rows = torch.tensor([row for row in range(len(table)) if row not in unreadable])  # [n]
    judge = GalleryMatcher(
        model,
        EncodedImages(encoded.states[rows], encoded.features[rows]),
        encode_captions(model, [captions[row] for row in rows.tolist()], collator.encode),
    )
    keys = [table.caption_key(captions[row]) for row in rows.tolist()]
    by_itm = model.itm_trained
    image_ids = table.picture_keys[rows.numpy()].tolist()
    found, tied = find_suspects(judge, image_ids, keys, candidates=candidates, limit=limit, by_itm=by_itm)
    found_keys = torch.tensor([keys[suspect.caption] for suspect in found], dtype=torch.int64)
    found = [replace(one, image=int(rows[one.image]), caption=int(rows[one.caption])) for one in found]
    pictures = torch.tensor([suspect.image for suspect in found], dtype=torch.int64)
    verdicts = Truth.of_table(table).verdicts(pictures, found_keys)
    suspects = [AuditedSuspect(suspect, verdict) for suspect, verdict in zip(found, verdicts.tolist(), strict=True)]
    flags = [None if item.verdict == "unknown" else item.verdict == "true" for item in suspects]
    return Audit(suspects, precision_at(flags), "ITM" if by_itm else "similarity", tied, unreadable)
