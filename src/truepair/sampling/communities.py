"""Batches of communities: samples that are alike among themselves, found in the graph of who is whose neighbour.

The idea is that of B3 (NeurIPS 2025): the most similar others of a sample are often matches, so its neighbours are
those of rank ``skip`` on; the graph is cut into communities of one size, and batches are made of whole communities.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array
from torch import Tensor

from truepair.errors import ConfigError
from truepair.relations.similarity import similarities
from truepair.sampling.known import KnownMatches
from truepair.sampling.plan import Indices
from truepair.sampling.ranks import Ranks
from truepair.sampling.spaces import share_spaces
from truepair.settings import Natural, Positive, check_settings

_ROUNDS = 60  # of the power iteration that looks for a cut; more make no better cuts


@dataclass(frozen=True, kw_only=True)
class CommunitiesConfig:
    """How the graph of a search space is made and cut.

    Attributes:
        skip: Most similar others of a sample that are no neighbours, since they are often matches (p).
        neighbours: How many of the next are (K).
        size: Samples of a community; a batch is made of as many as fill it. Left out, each batch is one.
    """

    skip: Natural = 2
    neighbours: Positive = 10
    size: Positive | None = None

    def __post_init__(self) -> None:
        check_settings(self, "sampler.communities")

    def members(self, group_size: int) -> int:
        """Samples of a community, for groups of a size.

        Raises:
            ConfigError: A group is not made of whole communities.
        """
        size = self.size or group_size
        if group_size % size:
            raise ConfigError(
                f"sampler.communities.size {size} does not divide a batch of {group_size} samples over all ranks; give "
                "a divisor of it"
            )
        return size

    def require_neighbours(self, search_space: int) -> None:
        """Refuse to skip all others of a search space.

        Raises:
            ConfigError: None is left.
        """
        if self.skip >= search_space - 1:
            raise ConfigError(
                f"sampler.communities.skip {self.skip} leaves no neighbours in a search space of {search_space}; give "
                f"less than {search_space - 1}"
            )


@torch.no_grad()
def neighbour_graph(
    image: Tensor, text: Tensor, skip: int, neighbours: int, forbidden: NDArray[np.bool_] | None = None
) -> csr_array:
    """Who is whose neighbour in a search space.

    Args:
        image: Normalised image features [M, D], or [M, Q, D] of a model with queries.
        text: Normalised text features [M, D].
        skip: Most similar others that are no neighbours.
        neighbours: How many of the next are.
        forbidden: Who is nobody's neighbour and is not counted, symmetric bool [M, M].

    Returns:
        Symmetric float64 [M, M]: 1 where one of two is a neighbour of the other by the sum of both cosines, 2 where
        each is; 0 on the diagonal. Features that are not finite count as zeros.
    """
    image, text = (torch.nan_to_num(part.float(), nan=0.0, posinf=0.0, neginf=0.0) for part in (image, text))
    size = len(text)
    cosine = similarities(image, text)
    similarity = (cosine + cosine.T).fill_diagonal_(-torch.inf)  # [M, M]
    if forbidden is not None:
        similarity[torch.from_numpy(forbidden).to(similarity.device)] = -torch.inf
    ranked = similarity.topk(min(skip + neighbours, size), dim=1)
    values, columns = ranked.values[:, skip:].cpu(), ranked.indices[:, skip:].cpu()  # [M, <= K] each
    real = values > -torch.inf
    rows = torch.arange(size)[:, None].expand_as(columns)[real].numpy()
    directed = csr_array((np.ones(len(rows)), (rows, columns[real].numpy())), shape=(size, size))
    return csr_array(directed + directed.T)


def cut_graph(graph: csr_array, size: int) -> list[Indices]:
    """Cut a graph into communities of a size, the last may be smaller, so that few edges are cut.

    It is halved again and again, each time where the second eigenvector of the normalised graph says (spectral
    bisection; Pothen, Simon and Liou 1990), in whole communities.

    Args:
        graph: Symmetric weights [M, M], 0 on the diagonal.
        size: Samples of a community.

    Returns:
        The members of each community, int64, all M once.
    """
    waiting, found = [np.arange(graph.shape[0])], []
    while waiting:
        members = waiting.pop()
        parts = -(-len(members) // size)
        if parts <= 1:
            found.append(members)
            continue
        order = members[np.argsort(_second_vector(graph[members][:, members]), kind="stable")]
        left = parts // 2 * size
        waiting += [order[left:], order[:left]]
    return found


def _second_vector(graph: csr_array) -> NDArray[np.float64]:
    """About the second eigenvector of a graph, scaled by degree [n]: who is on which side of a good cut.

    Power iteration from a start that is always the same: it ends after as many rounds whatever the graph, and where
    several cuts are as good, any of them will do.
    """
    degree = np.asarray(graph.sum(axis=1)).ravel()
    scale = 1 / np.sqrt(np.maximum(degree, 1.0))
    normal = diags_array(scale) @ graph @ diags_array(scale)
    first = np.sqrt(degree)
    first /= max(float(np.linalg.norm(first)), 1e-30)
    vector = np.random.default_rng(0).standard_normal(len(degree))
    for _ in range(_ROUNDS):
        vector = vector + normal @ vector  # eigenvalues from 0 to 2: none of a negative one wins
        vector -= first * (first @ vector)
        vector /= max(float(np.linalg.norm(vector)), 1e-30)
    return np.asarray(vector * scale)


def community_order(graph: csr_array, size: int, rng: np.random.Generator) -> Indices:
    """Order a search space so that each run of ``size`` samples is a community, in random order, int64 [M]."""
    communities = cut_graph(graph, size)
    whole = [members for members in communities if len(members) == size]
    rest = [members for members in communities if len(members) < size]
    chosen = [whole[place] for place in rng.permutation(len(whole))]
    return np.concatenate([*chosen, *rest]).astype(np.int64)


def part_spaces(
    spaces: Sequence[Indices],
    firsts: Sequence[int],
    image: Tensor,
    text: Tensor,
    config: CommunitiesConfig,
    *,
    samples: Indices,
    group_size: int,
    known: KnownMatches | None = None,
    ranks: Ranks | None = None,
) -> list[Indices]:
    """Bring each search space of a window into an order of communities.

    Args:
        spaces: Positions in the window, int64 [M] each.
        firsts: A sample of each: its place says in which order communities come.
        image: Normalised image features of the window [n, D].
        text: Normalised text features of the window [n, D].
        config: How the graph is made and cut.
        samples: What ``known`` calls the samples of the window, int64 [n].
        group_size: Length of the slices of an order that become groups.
        known: Matches that are no neighbours.
        ranks: Ranks that hold the same window and share the work.

    Returns:
        The positions of each space in their order, int64 [M] each; the same on every rank.
    """
    size = config.members(group_size)

    def order(numbers: Sequence[int]) -> dict[int, Indices]:
        """The communities of some spaces, one after the other."""
        ordered = {}
        for number in numbers:
            positions = spaces[number]
            where = torch.from_numpy(positions).to(image.device)
            forbidden = None if known is None else known.matrix(samples[positions])
            graph = neighbour_graph(image[where], text[where], config.skip, config.neighbours, forbidden)
            ordered[number] = positions[community_order(graph, size, np.random.default_rng(firsts[number]))]
        return ordered

    return share_spaces(spaces, ranks or Ranks(), order)
