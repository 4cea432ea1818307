"""Refining the scores of a whole table by what likely partners say; a method of our own."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from truepair.errors import CheckpointError
from truepair.mining.agreement import FLOOR, agreement_of, with_known
from truepair.mining.evidence_model import with_products
from truepair.mining.pair_graph import PairGraph
from truepair.models.fingerprint import combined_key

_FILE = "refinement.safetensors"


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
            inputs = (with_products(agreement_of(graph)) - self.centre[number]) / self.spread[number]  # [E, Q]
            graph = graph.scored(inputs @ self.weights[number, :-1] + self.weights[number, -1])
        return graph

    def save(self, folder: Path) -> None:
        """Write it beside the evidence model that makes the graphs."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in self._tensors().items()}, folder / _FILE)

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
