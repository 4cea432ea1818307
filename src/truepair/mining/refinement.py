"""Refinement: the score of a pair corrected by what its likely partners say."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from truepair.data.table import PairTable
from truepair.errors import CheckpointError, ConfigError, DataError
from truepair.evaluation.truth import Truth
from truepair.files import writing_file
from truepair.judges.calibration import fit_logistic
from truepair.judges.evidence import EvidenceModel, EvidenceTables, with_products
from truepair.judges.evidence_fit import EvidenceConfig
from truepair.mining.graph import FLOOR, Declared, PairGraph, agreement_of, graph_of, with_known
from truepair.models.encoders.fingerprint import combined_key

_FILE = "refinement.safetensors"

_EDGES = 65_536  # whose inputs are made at once


Matches = Callable[[Tensor, Tensor], Tensor]
"""Whether images of rows match captions of rows: (int64 [P], int64 [P]) -> bool [P]."""


@dataclass(frozen=True, kw_only=True)
class RefinementConfig:
    """How the refinement is fitted.

    Attributes:
        rounds: regressions, one after the other.
        neighbours: candidates kept of each row.
        folds: concepts are dealt into so many parts; a pair is scored by spaces that saw the parts of neither end.
        l2: penalty of the logistic regressions.
        seed: of dealing.

    Raises:
        ConfigError: a number out of range.
    """

    rounds: int = 3
    neighbours: int = 64
    folds: int = 6
    l2: float = 1e-2
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.rounds, self.neighbours) < 1 or self.folds < 3:
            raise ConfigError("a refinement needs at least 1 round, 1 neighbour and 3 folds")


@dataclass(frozen=True)
class Refinement:
    """Logistic regressions on second-order evidence, one after the other; each reads the scores of the one before.

    Attributes:
        centre: mean of each input of each round [K, Q].
        spread: standard deviation of each input [K, Q].
        weights: of the standardised inputs, and the constant [K, Q + 1].
        neighbours: candidates kept of each row.
        clean_pairs: how many pairs it was fitted on; a larger table has as many matches a row, among more others.
    """

    centre: Tensor
    spread: Tensor
    weights: Tensor
    neighbours: int
    clean_pairs: int

    @property
    def fingerprint(self) -> str:
        """Of everything a refined score depends on, but the graph."""
        return combined_key(**self._tensors())

    def refine(self, graph: PairGraph) -> PairGraph:
        """New scores of a graph's edges; those that fall out of the candidates on the way are gone.

        Args:
            graph: first-order candidates of a table, with the log-odds of the evidence model.
        """
        # As many matches a row as among the clean pairs, among more others: each is that much less likely.
        rarer = math.log((self.clean_pairs - 1) / max(graph.size - 1, 1))
        graph = graph.scored(graph.log_odds + rarer)
        for number in range(len(self.weights)):
            graph = with_known(graph).strongest(self.neighbours, FLOOR)
            graph = graph.scored(self._log_odds(number, agreement_of(graph)))
        return graph

    def _log_odds(self, number: int, evidence: Tensor) -> Tensor:
        """What a round says of edges [E], by their evidence [E, 5]; its products are made of some edges at a time."""
        found = torch.empty(len(evidence))
        for start in range(0, len(evidence), _EDGES):
            part = slice(start, start + _EDGES)
            inputs = (with_products(evidence[part]) - self.centre[number]) / self.spread[number]  # [_EDGES, Q]
            found[part] = inputs @ self.weights[number, :-1] + self.weights[number, -1]
        return found

    def save(self, folder: Path) -> None:
        """Write it beside the evidence model that makes the graphs.

        Raises:
            OSError: the disk refuses.
        """
        with writing_file(folder / _FILE, error=None) as file:
            file.write(save({name: tensor.contiguous() for name, tensor in self._tensors().items()}))

    @classmethod
    def load(cls, folder: Path) -> "Refinement":
        """Read what :meth:`save` wrote.

        Raises:
            CheckpointError: it is missing or damaged.
        """
        try:
            tensors = load_file(folder / _FILE)
            neighbours, clean_pairs = tensors.pop("counts").tolist()
            return cls(**tensors, neighbours=neighbours, clean_pairs=clean_pairs)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise CheckpointError(
                f"{folder} holds no refinement ({error}); fit it with truepair judge, on clean pairs"
            ) from error

    def _tensors(self) -> dict[str, Tensor]:
        counts = torch.tensor([self.neighbours, self.clean_pairs])
        return {"centre": self.centre, "spread": self.spread, "weights": self.weights, "counts": counts}


def fit_refinement(
    model: EvidenceModel,
    tables: EvidenceTables,
    table: PairTable,
    *,
    evidence: EvidenceConfig | None = None,
    config: RefinementConfig | None = None,
) -> Refinement:
    """Fit a refinement on the clean pairs that the evidence model was fitted on.

    Its graph has all clean pairs, as dense as the one to be refined; yet no score comes from spaces that knew a
    concept of the pair, since those of the training set will be new as well. Memory O(N^2).

    Args:
        model: fitted by :func:`fit_evidence` on the same pairs.
        tables: features of the clean pairs.
        table: the clean pairs, with a ``group`` column.
        evidence: how the model was fitted.
        config: how the refinement is.

    Raises:
        DataError: the groups are not declared, or too few.
    """
    config = config or RefinementConfig()
    truth = Truth.from_table(table)
    if truth is None or "group" not in table.rows.column_names:
        raise DataError(f"{table.name} does not state the group of each row; fit a refinement on clean data that does")
    log_odds = cross_fitted(model, tables, list(table.rows["group"]), evidence or EvidenceConfig(), config)
    declared = Declared.of_table(table)
    graph = graph_of(lambda rows, columns: log_odds[rows[:, None], columns], declared, config.neighbours)

    def matches(rows: Tensor, columns: Tensor) -> Tensor:
        """The known truth of cells."""
        return truth.matches(rows, declared.caption_keys[columns])

    return fit_rounds(graph, matches, config)


def cross_fitted(
    model: EvidenceModel,
    tables: EvidenceTables,
    groups: list[str],
    evidence: EvidenceConfig,
    config: RefinementConfig,
) -> Tensor:
    """Log-odds of all clean pairs, each from spaces fitted without the concepts of either end, symmetric [N, N].

    Raises:
        DataError: There are too few groups for the folds.
    """
    numbers = {name: number for number, name in enumerate(dict.fromkeys(groups))}
    group = torch.tensor([numbers[name] for name in groups])  # [N]
    if len(numbers) < 2 * config.folds:
        raise DataError(f"{len(numbers)} groups are too few for {config.folds} folds of a refinement; give more")
    generator = torch.Generator().manual_seed(config.seed)
    fold = (torch.randperm(len(numbers), generator=generator) % config.folds)[group]  # [N]
    found = torch.zeros(len(groups), len(groups))
    within: set[int] = set()
    for one, other in itertools.combinations(range(config.folds), 2):
        seen = ((fold != one) & (fold != other)).nonzero()[:, 0]
        spaces = evidence.spaces(tables.rows(seen), group[seen]).project(tables)
        blocks = [(one, other), *((part, part) for part in (one, other) if part not in within)]
        within |= {one, other}
        for left, right in blocks:
            rows, columns = ((fold == part).nonzero()[:, 0] for part in (left, right))
            block = model.log_odds(spaces, rows, columns)  # [R, M]
            if left == right:
                block = (block + block.T) / 2  # sums in another order differ in the last bit
            found[rows[:, None], columns] = block
            found[columns[:, None], rows] = block.T
    return found


def fit_rounds(
    graph: PairGraph, matches: Matches, config: RefinementConfig, counted: Tensor | None = None
) -> Refinement:
    """Fit the regressions on a graph whose truth is known.

    Args:
        graph: first-order candidates.
        matches: the truth.
        config: how.
        counted: rows whose edges among each other are looked at, bool [N]; None for all. The others still are
            partners, which leaves their own truth for a test.

    Raises:
        DataError: no candidate is a match, or all are.
    """
    rounds: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(config.rounds):
        kept = with_known(graph).strongest(config.neighbours, FLOOR)
        inputs = with_products(agreement_of(kept))  # [E, Q]
        used = ~kept.known
        if counted is not None:
            used &= counted[kept.rows] & counted[kept.columns]
        seen = inputs[used].double()
        centre, spread = seen.mean(dim=0), seen.std(dim=0).clamp(min=1e-6)
        labels = matches(kept.rows[used], kept.columns[used])
        weights = fit_logistic((seen - centre) / spread, labels, l2=config.l2).float()
        centre, spread = centre.float(), spread.float()
        rounds.append((centre, spread, weights))
        graph = kept.scored((inputs - centre) / spread @ weights[:-1] + weights[-1])
    centres, spreads, weights = (torch.stack(column) for column in zip(*rounds, strict=True))
    return Refinement(centres, spreads, weights, config.neighbours, graph.size)
