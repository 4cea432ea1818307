"""The audit of a training set: undeclared pairs that the model takes for matches, and what the known truth says."""

from dataclasses import dataclass
from typing import Literal

from truepair.data.collate import PairCollator
from truepair.data.table import PairTable
from truepair.evaluation.suspects import SuspectPrecision, precision_at
from truepair.mining.suspects import Suspect, find_suspects
from truepair.models.albef import AlbefModel
from truepair.models.gallery import PairJudge, encode_captions, encode_images
from truepair.relations.text import caption_key, normalise_caption
from truepair.tasks.images import ImageSource

Verdict = Literal["true", "near", "false", "unknown"]


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
        suspects: the most probable first.
        precision: of the first 50 and 200 suspects; near-matches count as wrong.
    """

    suspects: list[AuditedSuspect]
    precision: list[SuspectPrecision]


def audit_pairs(
    model: AlbefModel, collator: PairCollator, images: ImageSource, *, candidates: int = 8, limit: int = 1000
) -> Audit:
    """Find and check the suspected false negatives of a table; each row counts with its first caption.

    Args:
        model: the judge; put into evaluation mode.
        collator: the tokenization the model was trained with.
        images: the pairs, with pixels or cached states.
        candidates: neighbours of each row that ITM reads, in each direction.
        limit: how many suspects to keep.
    """
    model.eval()
    table = images.table
    captions = [row[0] for row in table.rows["captions"]]
    judge = PairJudge(
        model,
        encode_images(model, images.batches(), are_states=images.are_states),
        encode_captions(model, captions, collator.encode),
    )
    keys = [caption_key(caption) for caption in captions]
    found = find_suspects(judge, list(table.rows["image_id"]), keys, candidates=candidates, limit=limit)
    known = _Truth(table, captions)
    suspects = [AuditedSuspect(suspect, known.verdict(suspect)) for suspect in found]
    flags = [None if item.verdict == "unknown" else item.verdict == "true" for item in suspects]
    return Audit(suspects, precision_at(flags))


class _Truth:
    """What the table's truth columns say of a pair of its rows."""

    def __init__(self, table: PairTable, captions: list[str]) -> None:
        columns = set(table.rows.column_names)
        self.names = list(table.rows["names"]) if "names" in columns else None
        self.families = list(table.rows["family"]) if "family" in columns else None
        self.texts = [normalise_caption(caption) for caption in captions]

    def verdict(self, suspect: Suspect) -> Verdict:
        """What is known of a suspect."""
        if self.names is None or self.names[suspect.image] is None:
            return "unknown"
        if self.texts[suspect.caption] in {normalise_caption(name) for name in self.names[suspect.image]}:
            return "true"
        if self.families is not None:
            family = self.families[suspect.image]
            if family is not None and family == self.families[suspect.caption]:
                return "near"
        return "false"
