"""How many conversions were right, and how many false negatives were found, where the truth is known."""

import torch

from truepair.data.collate import PairBatch
from truepair.mining.pair_truth import PairTruth
from truepair.relations.identity import same_pair
from truepair.relations.pairs import PairSet


class ConversionTruth:
    """Precision and recall of the conversions, counted over the batches since the last :meth:`reset`.

    A false negative is an off-diagonal (image, caption) of a batch that is true. Pairs of one image id or one caption
    text are known to everyone, and not counted.

    Args:
        truth: of the training table.

    Attributes:
        counts: pairs converted, those of them that are true, true pairs that were judged, true pairs in all.
    """

    def __init__(self, truth: PairTruth) -> None:
        self.truth = truth
        self.reset()

    def reset(self) -> None:
        """Count from zero again."""
        self.counts: dict[str, int] = dict.fromkeys(("converted", "right", "judged_true", "batch_true"), 0)

    def add(self, batch: PairBatch, converted: PairSet, judged: PairSet | None = None) -> None:
        """Count a batch.

        Args:
            batch: B pairs.
            converted: the (image row, text row) cells that became positives, ``Connections.converted`` [B, B].
            judged: the cells that the judge was asked about, ``CandidateScores.judged``; None if it judged all.
        """
        hidden = self.truth.hidden_matches(batch)  # [B, B]
        known = same_pair(batch.image_id, batch.caption_key)  # [B, B]
        cells = converted.distinct()
        cells = cells.where(~known[cells.rows, cells.columns])
        seen = hidden if judged is None else hidden & judged.mask()
        for name, count in (
            ("converted", torch.tensor(len(cells))),
            ("right", hidden[cells.rows, cells.columns].sum()),
            ("judged_true", seen.sum()),
            ("batch_true", hidden.sum()),
        ):
            self.counts[name] += int(count)

    def figures(self) -> dict[str, float]:
        """Figures for the log; a share without anything to count is left out.

        Returns:
            ``conversion_precision``: of the converted pairs, how many are true. ``conversion_recall_judged``: of the
            true pairs that the judge was asked about, how many were converted. ``conversion_recall``: of all true pairs
            of the batches. And the counts they are made of.
        """
        counts = self.counts
        shares = {
            "conversion_precision": ("right", "converted"),
            "conversion_recall_judged": ("right", "judged_true"),
            "conversion_recall": ("right", "batch_true"),
        }
        figures = {name: counts[part] / counts[whole] for name, (part, whole) in shares.items() if counts[whole]}
        return {**figures, **{f"conversions_{name}": float(count) for name, count in counts.items()}}
