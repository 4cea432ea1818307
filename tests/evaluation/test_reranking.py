from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evaluation.judge import Judge, random_matrix
from truepair.errors import ConfigError
from truepair.evaluation import (
    ITM_ALONE,
    Combination,
    MatrixScores,
    RerankedScores,
    Truth,
    choose_combination,
    evaluate_retrieval,
    find_candidates,
    score_candidates,
)


def slow_ranking(similarity, judged, k):
    """Candidate order of one query: the k most similar by the judge, the rest by similarity."""
    by_similarity = sorted(range(len(similarity)), key=lambda j: -similarity[j])
    return sorted(by_similarity[:k], key=lambda j: -judged[j]) + by_similarity[k:]


@settings(max_examples=60)
@given(
    images=st.integers(1, 9),
    captions=st.integers(1, 9),
    k=st.integers(1, 12),
    seed=st.integers(0, 999),
    block_size=st.integers(1, 10),
    chunk_size=st.integers(1, 30),
)
def test_order_equals_the_slow_one_and_each_pair_is_scored_once(images, captions, k, seed, block_size, chunk_size):
    similarity, judged = random_matrix(images, captions, seed), random_matrix(images, captions, seed + 1)
    source, judge = MatrixScores(similarity), Judge(judged)
    candidates = find_candidates(source, images, captions, k, block_size=block_size)
    scores = score_candidates(candidates.pairs, judge, chunk_size=chunk_size)

    asked = Counter(pair for call in judge.calls for pair in call)
    top_of_images = {(i, c) for i in range(images) for c in similarity[i].argsort(descending=True)[:k].tolist()}
    top_of_captions = {(i, c) for c in range(captions) for i in similarity[:, c].argsort(descending=True)[:k].tolist()}
    assert asked == Counter(top_of_images | top_of_captions)
    assert max(len(call) for call in judge.calls) <= chunk_size

    reranked = RerankedScores(source, candidates, scores)
    for image, row in enumerate(reranked.image_rows(0, images)):
        expected = slow_ranking(similarity[image].tolist(), judged[image].tolist(), k)
        assert row.argsort(descending=True).tolist() == expected
    for caption, row in enumerate(reranked.caption_rows(0, captions)):
        expected = slow_ranking(similarity[:, caption].tolist(), judged[:, caption].tolist(), k)
        assert row.argsort(descending=True).tolist() == expected


def test_slices_are_those_of_the_whole():
    similarity = MatrixScores(random_matrix(12, 20, 0))
    candidates = find_candidates(similarity, 12, 20, 4)
    reranked = RerankedScores(similarity, candidates, torch.randn(len(candidates.pairs)))
    whole = torch.cat([reranked.image_rows(start, start + 3) for start in range(0, 12, 3)])
    assert whole.equal(reranked.image_rows(0, 12))
    whole = torch.cat([reranked.caption_rows(start, start + 5) for start in range(0, 20, 5)])
    assert whole.equal(reranked.caption_rows(0, 20))


def test_a_tie_of_the_judge_stays_a_tie():
    similarity = torch.tensor([[0.9, 0.8, 0.1]])
    candidates = find_candidates(MatrixScores(similarity), 1, 3, 2)
    scores = torch.where(candidates.pairs.columns < 2, 0.5, -1.0)
    row = RerankedScores(MatrixScores(similarity), candidates, scores).image_rows(0, 1)[0]
    assert row[0] == row[1] > row[2]


def test_order_survives_scores_that_differ_by_one_bit():
    similarity = torch.tensor([[1e6, 2e6, 3.0, 3.0000002]])
    close = torch.tensor([1.0, 1.0000001])
    candidates = find_candidates(MatrixScores(similarity), 1, 4, 2)
    wanted = candidates.for_image
    scores = torch.zeros(len(candidates.pairs)).masked_scatter(wanted, close)
    row = RerankedScores(MatrixScores(similarity), candidates, scores).image_rows(0, 1)[0]
    assert row.argsort(descending=True).tolist() == [1, 0, 3, 2]


def test_candidates_come_first_even_among_negative_similarities():
    similarity = MatrixScores(torch.tensor([[-5.0, -6.0, -7.0]]))
    candidates = find_candidates(similarity, 1, 3, 1)
    row = RerankedScores(similarity, candidates, torch.full((3,), -100.0)).image_rows(0, 1)[0]
    assert row.argsort(descending=True).tolist() == [0, 1, 2]


def test_itm_alone_and_similarity_alone():
    similarity, log_odds = random_matrix(8, 8, 0), random_matrix(8, 8, 1)
    candidates = find_candidates(MatrixScores(similarity), 8, 8, 8)
    itm = score_candidates(candidates.pairs, Judge(log_odds))
    truth = Truth(8, 8, torch.arange(8)[:, None].expand(8, 2))

    def figures(scores):
        return evaluate_retrieval(scores, truth, resamples=0).as_dict()

    alone = RerankedScores(MatrixScores(similarity), candidates, ITM_ALONE.apply(candidates.pairs, itm))
    assert figures(alone) == figures(log_odds)
    similar = Combination(similarity_weight=14.0, itm_weight=0.0).apply(candidates.pairs, itm)
    assert figures(RerankedScores(MatrixScores(similarity), candidates, similar)) == figures(similarity)
    both = Combination(similarity_weight=2.0, itm_weight=3.0).apply(candidates.pairs, itm)
    assert figures(RerankedScores(MatrixScores(similarity), candidates, both)) == figures(2 * similarity + 3 * log_odds)


def test_choice_finds_the_weight_that_hides_both_errors():
    # Similarity and ITM are the truth plus independent noise: only their sum is right everywhere.
    size = 40
    noise = random_matrix(size, size, 3) * 0.6
    similarity, log_odds = torch.eye(size) + noise, torch.eye(size) - noise
    truth = Truth(size, size, torch.arange(size)[:, None].expand(size, 2))
    candidates = find_candidates(MatrixScores(similarity), size, size, size)
    itm = score_candidates(candidates.pairs, Judge(log_odds))
    chosen, trials = choose_combination(MatrixScores(similarity), truth, candidates, itm, temperature=1.0)
    assert chosen == Combination(1.0, 1.0)
    assert trials[-1].combination == ITM_ALONE
    best = max(trials, key=lambda trial: trial.recall_at_1)
    assert best.combination == chosen
    assert best.recall_at_1 == 1
    assert trials[0].recall_at_1 < 1


def test_choice_leans_on_similarity_when_itm_adds_nothing():
    truth = Truth(5, 5, torch.arange(5)[:, None].expand(5, 2))
    source = MatrixScores(torch.eye(5))
    candidates = find_candidates(source, 5, 5, 5)
    chosen, _ = choose_combination(source, truth, candidates, torch.zeros(len(candidates.pairs)), temperature=0.1)
    assert chosen == Combination(10.0, 0.0)


def test_bad_settings():
    source = MatrixScores(torch.eye(3))
    candidates = find_candidates(source, 3, 3, 1)
    with pytest.raises(ConfigError, match="candidate pairs"):
        RerankedScores(source, candidates, torch.zeros(1))
    with pytest.raises(ConfigError, match="temperature must be positive"):
        choose_combination(source, Truth(3, 3, torch.tensor([[0, 0]])), candidates, torch.zeros(3), temperature=0)
