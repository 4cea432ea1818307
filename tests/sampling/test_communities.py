"""Communities against slow, obvious references: the graph by loops, the cut by trying all of them."""

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array

from tests.sampling.pairs import make_features, run_epochs
from truepair.errors import ConfigError
from truepair.sampling.batches import GroupedBatches, SampledRows, SamplerConfig, describe_scaling
from truepair.sampling.communities import CommunitiesConfig, community_order, cut_graph, neighbour_graph
from truepair.sampling.grouped import GroupedBatchSampler, GroupedConfig
from truepair.sampling.hardness import HardnessConfig
from truepair.sampling.known import KnownMatches
from truepair.sampling.ranks import Ranks
from truepair.sampling.stream import GroupedStream


def graph_by_hand(similarity: torch.Tensor, skip: int, neighbours: int, forbidden: np.ndarray) -> list[list[float]]:
    size = len(similarity)
    weights = [[0.0] * size for _ in range(size)]
    for one in range(size):
        others = [other for other in range(size) if other != one and not forbidden[one, other]]
        others.sort(key=lambda other: -float(similarity[one, other]))
        for other in others[skip : skip + neighbours]:
            weights[one][other] += 1
            weights[other][one] += 1
    return weights


@settings(max_examples=40)
@given(st.integers(1, 20), st.integers(0, 6), st.integers(1, 8), st.booleans(), st.integers(0, 1000))
def test_the_graph_is_that_of_loops(size: int, skip: int, neighbours: int, queries: bool, seed: int) -> None:
    image, text = make_features(size, seed=seed)
    similarity = image @ text.T
    if queries:
        image = torch.stack([image, image.roll(1, dims=1)], dim=1)
        similarity = torch.maximum(similarity, image[:, 1] @ text.T)
    matches = np.random.default_rng(seed).random((size, size)) < 0.2
    matches |= matches.T
    found = neighbour_graph(image, text, skip, neighbours, matches)
    assert found.toarray().tolist() == graph_by_hand(similarity + similarity.T, skip, neighbours, matches)


def test_features_that_are_not_finite_are_nobodys_reason_to_fail() -> None:
    image, text = make_features(9)
    image[3] = torch.nan
    assert neighbour_graph(image, text, 1, 3).toarray().sum() == 2 * 9 * 3


@settings(max_examples=40)
@given(st.integers(0, 40), st.integers(1, 9), st.floats(0, 1), st.integers(0, 1000))
def test_communities_are_a_partition_into_equal_sizes(count: int, size: int, share: float, seed: int) -> None:
    weights = np.triu(np.random.default_rng(seed).random((count, count)) < share, 1).astype(float)
    graph = csr_array(weights + weights.T)
    sizes = sorted(map(len, cut_graph(graph, size)))
    assert sizes == sorted([size] * (count // size) + [count % size] * (count % size > 0)) or count == 0
    order = community_order(graph, size, np.random.default_rng(seed))
    assert sorted(order.tolist()) == list(range(count))


@pytest.mark.parametrize("seed", range(6))
def test_planted_communities_are_found_in_any_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    planted = rng.permutation(np.repeat(np.arange(8), 6))
    inside = planted[:, None] == planted
    weights = np.triu(np.where(inside, 2.0, rng.random((48, 48)) < 0.02), 1)
    graph = csr_array(weights + weights.T)
    assert sorted(sorted(part.tolist()) for part in cut_graph(graph, 6)) == sorted(
        np.flatnonzero(planted == number).tolist() for number in range(8)
    )
    order = community_order(graph, 6, rng)
    assert all(len(set(planted[order[first : first + 6]])) == 1 for first in range(0, 48, 6))


def test_a_cut_is_nearly_as_good_as_the_best_of_all() -> None:
    ratios = []
    for seed in range(20):
        image, text = make_features(12, clusters=3, seed=seed)
        weights = neighbour_graph(image, text, 0, 3).toarray()
        halves = [np.array(half) for half in combinations(range(12), 6)]
        kept = [weights[np.ix_(half, half)].sum() for half in halves]
        best = max(one + other for one, other in zip(kept, reversed(kept), strict=True))
        found = cut_graph(csr_array(weights), 6)
        ratios.append(sum(weights[np.ix_(part, part)].sum() for part in found) / best)
    assert min(ratios) > 0.7 and np.mean(ratios) > 0.9


def test_batches_are_communities_and_the_nearest_are_apart() -> None:
    image, text = make_features(240, dimension=16, clusters=12)
    config = GroupedConfig(
        queue_size=240, search_space=240, communities=CommunitiesConfig(skip=3, neighbours=8, size=4)
    )
    sampler = GroupedBatchSampler(240, 8, config=config)
    random, grouped = run_epochs(sampler, image, text, 2)
    weights = neighbour_graph(image, text, 3, 8).toarray()
    nearest = neighbour_graph(image, text, 0, 1).toarray()

    def inside(batches: list[list[int]], matrix: np.ndarray) -> float:
        return float(sum(matrix[np.ix_(batch, batch)].sum() for batch in batches) / matrix.sum())

    assert inside(grouped, weights) > 3 * inside(random, weights)
    walks = GroupedBatchSampler(240, 8, config=GroupedConfig(queue_size=240, search_space=240))
    walked = run_epochs(walks, image, text, 2)[1]
    assert inside(grouped, nearest) < inside(walked, nearest) / 2


def test_known_matches_are_no_neighbours() -> None:
    image, text = make_features(96, clusters=8)
    cosine = image @ text.T
    nearest = (cosine + cosine.T).fill_diagonal_(-9).argmax(dim=1).numpy()
    known = KnownMatches(pairs=np.stack([np.arange(96), nearest], axis=1))
    config = GroupedConfig(queue_size=96, search_space=48, communities=CommunitiesConfig(skip=0))
    sampler = GroupedBatchSampler(96, 8, config=config, known=known)
    for epoch in run_epochs(sampler, image, text, 3):
        assert not any(known.matrix(np.array(batch)).any() for batch in epoch)


def test_a_stream_is_cut_into_communities_too() -> None:
    image, text = make_features(100)
    config = GroupedConfig(queue_size=50, search_space=25, communities=CommunitiesConfig(skip=1, neighbours=4))
    stream = GroupedStream(iter(range(100)), lambda rows: (image[list(rows)], text[list(rows)]), 5, config=config)
    assert sorted(sample for batch in stream for sample in batch) == list(range(100))


def test_what_does_not_fit_is_one_line() -> None:
    rows = SampledRows(count=640, batch_size=8, seed=0, ranks=Ranks())
    with pytest.raises(ConfigError, match=r"size 3 does not divide a batch of 8 samples over all ranks"):
        GroupedBatches(SamplerConfig(kind="communities", communities=CommunitiesConfig(size=3)), rows)
    with pytest.raises(ConfigError, match=r"skip 79 leaves no neighbours in a search space of 80; give less than 79"):
        GroupedBatches(SamplerConfig(kind="communities", communities=CommunitiesConfig(skip=79)), rows)
    with pytest.raises(ConfigError, match=r"sampler.communities is for sampler.kind communities"):
        SamplerConfig(kind="grit", communities=CommunitiesConfig())
    with pytest.raises(ConfigError, match=r"are for the walk of sampler.kind grit"):
        SamplerConfig(kind="communities", hardness=HardnessConfig(quantile=0.5))
    with pytest.raises(ConfigError, match=r"sampler.communities.neighbours is 0"):
        CommunitiesConfig(neighbours=0)
    config = SamplerConfig(kind="communities")
    (line,) = describe_scaling(config, GroupedBatches(config, rows))
    assert line.startswith("Communities on 640 pairs: search_space 1,920 -> 80")
