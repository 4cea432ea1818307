"""False negatives of a whole table, found once and offline."""

from collections.abc import Callable
from dataclasses import dataclass

from truepair.errors import CheckpointError, ConfigError
from truepair.judges.evidence import EvidenceModel, EvidenceTables
from truepair.mining.graph import Declared, exact_graph, searched_graph
from truepair.mining.refinement import Refinement
from truepair.models.encoders.fingerprint import combined_key
from truepair.relations.pairs import PairSet


@dataclass(frozen=True)
class MiningConfig:
    """What counts, and from which size on neighbour search proposes.

    Attributes:
        low: least probability worth recording.
        high: least probability of a match; between the two a pair is doubtful.
        exact_rows: up to so many rows every pair is scored; the candidates of more are found by neighbour search.

    Raises:
        ConfigError: thresholds out of range or out of order.
    """

    low: float = 0.1
    high: float = 0.5
    exact_rows: int = 30_000

    def __post_init__(self) -> None:
        if not 0.0 < self.low <= self.high <= 1.0:
            raise ConfigError(f"mining needs 0 < low <= high <= 1, but low is {self.low:g} and high {self.high:g}")


def mine_pairs(
    model: EvidenceModel,
    refinement: Refinement,
    tables: EvidenceTables,
    declared: Declared,
    config: MiningConfig | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> PairSet:
    """Find the probable matches among the undeclared pairs of a table, in both directions.

    Time O(N^2); beyond ``exact_rows`` of a search among vectors alone, or less of it. Memory O(N * neighbours) beside
    the features.

    Args:
        model: scores pairs one by one.
        refinement: corrects the scores by what likely partners say.
        tables: features of the N pairs.
        declared: ids and captions of the pairs.
        config: what counts.
        say: takes a line on what was searched, where not every pair is scored.

    Returns:
        Cells (image row, caption row) of the N x N table; values are the probabilities of a match, float32.

    Raises:
        CheckpointError: the features are of other encoders than the model was fitted on.
    """
    config = config or MiningConfig()
    if tables.encoders != model.encoders:
        raise CheckpointError("the judge was fitted on features of other encoders than this recipe's; fit it again")
    spaces = model.spaces.project(tables)
    if len(declared) <= config.exact_rows:
        graph = exact_graph(model, spaces, declared, refinement.neighbours)
    else:
        graph, recall = searched_graph(model, spaces, declared, refinement.neighbours)
        say(f"of {len(declared):,} rows, those that neighbour search proposed are scored: {recall:.0%} of the nearest")
    graph = refinement.refine(graph)
    scores = graph.log_odds.sigmoid()
    kept = (scores >= config.low) & ~graph.known
    return PairSet(graph.rows[kept], graph.columns[kept], scores[kept], (graph.size, graph.size))


def mining_fingerprint(model: EvidenceModel, refinement: Refinement, tables: EvidenceTables) -> str:
    """Key of everything that mined scores depend on."""
    return combined_key(
        model=model.fingerprint, refinement=refinement.fingerprint, images=tables.images, texts=tables.texts
    )
