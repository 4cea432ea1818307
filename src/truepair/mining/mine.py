"""False negatives of a whole table, found once and offline."""

from dataclasses import dataclass

from torch import Tensor

from truepair.errors import CheckpointError, ConfigError
from truepair.evaluation.truth import PairTruth
from truepair.judges.evidence import EvidenceModel, EvidenceTables
from truepair.mining.graph import Declared, exact_graph, searched_graph
from truepair.mining.refinement import Refinement
from truepair.models.encoders.fingerprint import combined_key


@dataclass(frozen=True)
class MiningConfig:
    """What counts, and from which size on neighbour search proposes.

    Attributes:
        low: least probability worth recording.
        high: least probability of a match; between the two a pair is doubtful.
        exact_rows: up to so many rows every pair is scored; the candidates of more are found by neighbour search.
    """

    low: float = 0.1
    high: float = 0.5
    exact_rows: int = 30_000

    def __post_init__(self) -> None:
        if not 0.0 < self.low <= self.high <= 1.0:
            raise ConfigError(f"mining needs 0 < low <= high <= 1, but low is {self.low:g} and high {self.high:g}")


@dataclass(frozen=True)
class MinedPairs:
    """Undeclared pairs of a table that probably match, in both directions.

    Attributes:
        images: row whose image is meant, int64 [P].
        captions: row whose caption is meant [P].
        scores: probability of a match [P], float32.
        fingerprint: of everything they depend on.
    """

    images: Tensor
    captions: Tensor
    scores: Tensor
    fingerprint: str

    def __len__(self) -> int:
        return len(self.images)

    def above(self, least: float) -> "MinedPairs":
        """Those with at least some probability."""
        kept = self.scores >= least
        return MinedPairs(self.images[kept], self.captions[kept], self.scores[kept], self.fingerprint)

    def matches(self, truth: PairTruth, declared: Declared) -> Tensor:
        """Which of them are known to match, bool [P]."""
        return truth.matches(self.images, declared.caption_keys[self.captions])


def mine_pairs(
    model: EvidenceModel,
    refinement: Refinement,
    tables: EvidenceTables,
    declared: Declared,
    config: MiningConfig | None = None,
) -> MinedPairs:
    """Find the probable matches among the undeclared pairs of a table.

    Time O(N^2) up to ``exact_rows``, about O(N^1.5) beyond; memory O(N * neighbours) beside the features.

    Args:
        model: scores pairs one by one.
        refinement: corrects the scores by what likely partners say.
        tables: features of the N pairs.
        declared: ids and captions of the pairs.
        config: what counts.

    Raises:
        CheckpointError: the features are of other encoders than the model was fitted on.
    """
    config = config or MiningConfig()
    if tables.encoders != model.encoders:
        raise CheckpointError("the judge was fitted on features of other encoders than this recipe's; fit it again")
    spaces = model.spaces.project(tables)
    propose = exact_graph if len(declared) <= config.exact_rows else searched_graph
    graph = refinement.refine(propose(model, spaces, declared, refinement.neighbours))
    scores = graph.log_odds.sigmoid()
    kept = (scores >= config.low) & ~graph.known
    key = combined_key(
        model=model.fingerprint, refinement=refinement.fingerprint, images=tables.images, texts=tables.texts
    )
    return MinedPairs(graph.rows[kept], graph.columns[kept], scores[kept], key)
