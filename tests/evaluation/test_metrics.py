import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evaluation import oracle
from truepair.errors import DataError
from truepair.evaluation import FeatureScores, Truth, evaluate_retrieval

FIGURES = ("recall_at_1", "recall_at_5", "recall_at_10", "map_at_r", "r_precision", "median_rank")


def pairs(*items):
    return torch.tensor(items, dtype=torch.int64).reshape(-1, 2)


@st.composite
def problems(draw):
    """A score matrix with many ties, and three consistent relations with at least one own pair."""
    images, captions = draw(st.integers(1, 7)), draw(st.integers(1, 9))
    levels = draw(st.sampled_from([2, 4, 1000]))
    score = st.integers(0, levels)
    matrix = draw(st.lists(st.lists(score, min_size=captions, max_size=captions), min_size=images, max_size=images))
    pair = st.tuples(st.integers(0, images - 1), st.integers(0, captions - 1))
    own = draw(st.lists(pair, min_size=1, max_size=9))  # a pair that occurs twice: the same text, stated again
    true = draw(st.sets(pair, max_size=12))
    ignored = draw(st.sets(pair, max_size=8)) - set(own) - true
    return matrix, own, true, ignored


def truth_of(matrix, own, true, ignored):
    return Truth(len(matrix), len(matrix[0]), pairs(*own), pairs(*true), pairs(*ignored))


@settings(max_examples=150)
@given(problem=problems(), block_size=st.integers(1, 10))
def test_equals_brute_force(problem, block_size):
    matrix, own, true, ignored = problem
    scores = torch.tensor(matrix, dtype=torch.float32)
    found = evaluate_retrieval(scores, truth_of(*problem), block_size=block_size, resamples=0).as_dict()
    for table, expected in oracle.retrieval(matrix, own, true, ignored).items():
        for figure, value in expected.items():
            got = found[table][figure]
            assert (got["value"] if isinstance(got, dict) else got) == pytest.approx(value, abs=1e-12), (table, figure)


@settings(max_examples=60)
@given(problem=problems())
def test_recall_rises_with_depth(problem):
    found = evaluate_retrieval(torch.tensor(problem[0]), truth_of(*problem), resamples=0)
    for table in (found.i2t, found.t2i, found.naive_i2t, found.naive_t2i):
        assert table.recall_at_1.value <= table.recall_at_5.value <= table.recall_at_10.value <= 1
        assert 0 <= table.map_at_r.value <= table.r_precision.value <= 1


@settings(max_examples=60)
@given(problem=problems(), seed=st.integers(0, 99))
def test_order_of_the_gallery_is_irrelevant(problem, seed):
    matrix, *relations = problem
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(matrix), generator=generator)
    columns = torch.randperm(len(matrix[0]), generator=generator)
    where_row, where_column = rows.argsort().tolist(), columns.argsort().tolist()
    moved = [[(where_row[i], where_column[c]) for i, c in relation] for relation in relations]
    scores = torch.tensor(matrix)
    before = evaluate_retrieval(scores, truth_of(*problem), resamples=0)
    after = evaluate_retrieval(scores[rows][:, columns], truth_of(matrix, *moved), resamples=0)
    for table, same in zip(before.as_dict().values(), after.as_dict().values(), strict=True):
        for figure in FIGURES:
            assert table[figure]["value"] == pytest.approx(same[figure]["value"])


@settings(max_examples=60)
@given(problem=problems(), data=st.data())
def test_more_truth_never_lowers_recall(problem, data):
    matrix, own, true, ignored = problem
    # A pair in a row and a column that already ask something, so that the number of queries stays.
    known = sorted(set(own) | true)
    image, caption = data.draw(st.sampled_from(known))[0], data.draw(st.sampled_from(known))[1]
    more = true | {(image, caption)}
    before = evaluate_retrieval(torch.tensor(matrix), truth_of(matrix, own, true, ignored), resamples=0)
    after = evaluate_retrieval(torch.tensor(matrix), truth_of(matrix, own, more, ignored - more), resamples=0)
    for name in ("i2t", "t2i"):
        for figure in ("recall_at_1", "recall_at_5", "recall_at_10"):
            assert getattr(getattr(after, name), figure).value >= getattr(getattr(before, name), figure).value


def test_hand_made_matrix():
    #                       caption: 0    1    2    3
    scores = torch.tensor(
        [
            [0.9, 0.8, 0.1, 0.0],  # image 0 owns 0; 1 is true too
            [0.7, 0.2, 0.6, 0.1],  # image 1 owns 2
            [0.3, 0.4, 0.2, 0.5],
        ]
    )  # image 2 owns 1
    truth = Truth(3, 4, own=pairs((0, 0), (1, 2), (2, 1)), true=pairs((0, 1)))
    found = evaluate_retrieval(scores, truth, resamples=0)
    # Images: 0 is right at once; 1 finds caption 0 first; 2 finds caption 3 first.
    assert found.i2t.recall_at_1.value == pytest.approx(1 / 3)
    assert found.i2t.median_rank.value == 2
    assert found.i2t.map_at_r.value == pytest.approx(1 / 3)
    # Captions 0, 1, 2 find a true image first. Caption 1 has two true images (0, 2), and they are the first two.
    assert found.t2i.recall_at_1.value == 1
    assert found.t2i.map_at_r.value == 1
    assert found.t2i.queries == 3
    assert found.t2i.left_out == 1
    # Naively caption 1 belongs to image 2 alone, which comes second.
    assert found.naive_t2i.recall_at_1.value == pytest.approx(2 / 3)
    assert found.naive_t2i.median_rank.value == 1


def test_ap_at_r_of_a_known_list():
    # One image, R = 3, ranking: right, wrong, right, right. AP@3 = (1/1 + 2/3) / 3; R-Precision = 2/3.
    truth = Truth(1, 4, own=pairs((0, 0)), true=pairs((0, 2), (0, 3)))
    found = evaluate_retrieval(torch.tensor([[4.0, 3.0, 2.0, 1.0]]), truth, resamples=0)
    assert found.i2t.map_at_r.value == pytest.approx((1 + 2 / 3) / 3)
    assert found.i2t.r_precision.value == pytest.approx(2 / 3)


def test_constant_scores_earn_nothing():
    own = pairs(*((i, i) for i in range(20)))
    for value in (0.0, 1.0, -torch.inf):
        found = evaluate_retrieval(torch.full((20, 20), value), Truth(20, 20, own), resamples=0)
        for table in (found.i2t, found.t2i, found.naive_i2t, found.naive_t2i):
            assert table.recall_at_10.value == 0
            assert table.median_rank.value == 20
            assert table.map_at_r.value == 0
            assert table.chance_recall_at_1 == pytest.approx(1 / 20)


def test_a_tie_between_two_matches_costs_nothing():
    truth = Truth(1, 3, own=pairs((0, 0)), true=pairs((0, 1)))
    found = evaluate_retrieval(torch.tensor([[2.0, 2.0, 1.0]]), truth, resamples=0)
    assert found.i2t.map_at_r.value == 1


def test_ignored_pairs_leave_the_ranking_of_the_truth_but_not_of_the_naive_protocol():
    scores = torch.tensor([[3.0, 9.0, 1.0], [0.0, 1.0, 0.0]])
    truth = Truth(2, 3, own=pairs((0, 0), (1, 1)), ignored=pairs((0, 1)))
    found = evaluate_retrieval(scores, truth, resamples=0)
    assert found.i2t.recall_at_1.value == 1
    assert found.i2t.chance_recall_at_1 == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert found.naive_i2t.recall_at_1.value == 0.5


def test_candidates_of_the_naive_protocol_are_the_captions_that_are_stated():
    scores = torch.tensor([[3.0, 9.0, 9.0], [0.0, 1.0, 9.0]])  # caption 2 is a name that no image has as a caption
    found = evaluate_retrieval(scores, Truth(2, 3, own=pairs((0, 0), (1, 1)), true=pairs((0, 2))), resamples=0)
    assert found.naive_i2t.recall_at_1.value == 0.5
    assert found.naive_i2t.chance_recall_at_1 == 0.5
    assert found.naive_t2i.queries == 2


def test_the_scores_of_the_caller_stay_as_they_are():
    scores = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    before = scores.clone()
    truth = Truth(6, 8, pairs(*((i, i) for i in range(6)), (0, 6), (1, 7)), ignored=pairs((2, 3)))
    evaluate_retrieval(scores, truth, resamples=0)
    assert torch.equal(scores, before)


def test_minus_infinity_ranks_below_the_rest_but_above_what_is_ignored():
    scores = torch.tensor([[-torch.inf, -torch.inf, 1.0]])
    truth = Truth(1, 3, own=pairs((0, 0)), ignored=pairs((0, 1)))
    assert evaluate_retrieval(scores, truth, resamples=0).i2t.median_rank.value == 2


def test_shared_text_asks_once_for_the_truth_and_once_for_each_owner_naively():
    scores = torch.tensor([[5.0, 0.0], [4.0, 1.0]])
    truth = Truth(2, 2, own=pairs((0, 0), (1, 0), (1, 1)))
    found = evaluate_retrieval(scores, truth, resamples=0)
    assert (found.t2i.queries, found.naive_t2i.queries) == (2, 3)
    assert found.t2i.recall_at_1.value == 1
    assert found.naive_t2i.recall_at_1.value == pytest.approx(2 / 3)


def test_features_are_scored_in_slices():
    generator = torch.Generator().manual_seed(0)
    images, captions = torch.randn(30, 8, generator=generator), torch.randn(50, 8, generator=generator)
    own = pairs(*((i, i) for i in range(30)))
    sizes = []

    class Watched(FeatureScores):
        def image_rows(self, start, stop):
            sizes.append(stop - start)
            return super().image_rows(start, stop)

    sliced = evaluate_retrieval(Watched(images, captions), Truth(30, 50, own), block_size=7)
    whole = evaluate_retrieval(images @ captions.T, Truth(30, 50, own))
    assert sliced.as_dict() == whole.as_dict()
    assert sum(sizes) == 60  # once among texts, once among stated captions
    assert max(sizes) == 7


def test_bootstrap_is_seeded_and_covers_a_binomial_share():
    right = torch.arange(400) < 100  # exactly a quarter of the queries is right
    scores = torch.zeros(400, 400).fill_diagonal_(1.0)
    scores[~right] = torch.rand(300, 400, generator=torch.Generator().manual_seed(1))
    scores[~right, ~right] = -1.0
    truth = Truth(400, 400, pairs(*((i, i) for i in range(400))))
    first = evaluate_retrieval(scores, truth, seed=3).i2t.recall_at_1
    assert first == evaluate_retrieval(scores, truth, seed=3).i2t.recall_at_1
    assert first != evaluate_retrieval(scores, truth, seed=4).i2t.recall_at_1
    assert first.value == 0.25
    # Binomial standard error of a quarter of 400: 2.17 points; 1.96 of them on either side.
    assert first.low == pytest.approx(0.25 - 0.0424, abs=0.006)
    assert first.high == pytest.approx(0.25 + 0.0424, abs=0.006)


def test_no_resamples_means_no_interval():
    found = evaluate_retrieval(torch.eye(3), Truth(3, 3, pairs((0, 0), (1, 1), (2, 2))), resamples=0)
    assert found.i2t.recall_at_1.low == found.i2t.recall_at_1.value == found.i2t.recall_at_1.high == 1


def ranks_of_papers(matrix, own):
    """Ranks of the evaluation program that papers use: sort each row of scores, find the best own caption in it."""
    scores = np.array([[matrix[i][c] for _, c in own] for i in range(len(matrix))])  # [I, C]
    of_image = []
    for image, row in enumerate(scores):
        order = np.argsort(row)[::-1]
        of_image.append(min(np.where(order == place)[0][0] for place, (i, _) in enumerate(own) if i == image))
    of_caption = []
    for place, (image, _) in enumerate(own):
        order = np.argsort(scores[:, place])[::-1]
        of_caption.append(np.where(order == image)[0][0])
    return np.array(of_image), np.array(of_caption)


def test_naive_figures_are_those_of_papers_to_the_digit():
    generator = np.random.default_rng(0)
    own = [(image, 5 * image + place) for image in range(150) for place in range(5)]
    matrix = generator.normal(size=(150, 750))
    for image, caption in own:
        matrix[image, caption] += 2.0
    found = evaluate_retrieval(torch.tensor(matrix), Truth(150, 750, pairs(*own)), resamples=0)
    for table, ranks in zip((found.naive_i2t, found.naive_t2i), ranks_of_papers(matrix, own), strict=True):
        for depth in (1, 5, 10):
            assert getattr(table, f"recall_at_{depth}").value == np.mean(ranks < depth)
        assert table.median_rank.value == np.median(ranks) + 1
        assert table.queries == len(ranks)


def repeated_captions():
    """150 pictures with five captions each out of 341 texts, as remote-sensing sets are, and scores of the texts."""
    generator = np.random.default_rng(1)
    texts = np.concatenate([np.arange(341), generator.integers(0, 60, 750 - 341)])
    own = [(place // 5, int(text)) for place, text in enumerate(generator.permutation(texts))]
    matrix = generator.normal(size=(150, 341))
    for image, text in own:
        matrix[image, text] += 1.5
    return matrix, own


def test_repeated_texts_are_candidates_and_queries_of_their_own():
    matrix, own = repeated_captions()
    assert (len(own), len({text for _, text in own})) == (750, 341)
    found = evaluate_retrieval(torch.tensor(matrix), Truth(150, 341, pairs(*own)), resamples=0)
    for name, expected in oracle.retrieval(matrix.tolist(), own, set(), set()).items():
        for figure, value in expected.items():
            got = getattr(getattr(found, name), figure)
            assert getattr(got, "value", got) == pytest.approx(value, abs=1e-12), (name, figure)
    assert (found.naive_i2t.queries, found.naive_t2i.queries, found.t2i.queries) == (150, 750, 341)
    # Merging equal texts makes the gallery less than half as large, and its copies nobody's rivals: far too good.
    assert found.i2t.recall_at_10.value > found.naive_i2t.recall_at_10.value + 0.05


def test_captions_of_one_text_are_in_the_order_of_a_sort_in_the_mean():
    matrix, own = repeated_captions()
    found = evaluate_retrieval(torch.tensor(matrix), Truth(150, 341, pairs(*own)), resamples=0).naive_i2t
    generator = np.random.default_rng(2)
    by_order = []
    for _ in range(20):
        order = generator.permutation(len(own))
        columns = np.array([own[place][1] for place in order])
        noise = 1e-9 * generator.normal(size=(len(matrix), len(own)))  # decides ties, and nothing else
        scores = matrix[:, columns] + noise
        shuffled = [(own[place][0], column) for column, place in enumerate(order)]
        by_order.append([np.mean(ranks_of_papers(scores, shuffled)[0] < depth) for depth in (1, 5, 10)])
    for depth, mean, spread in zip((1, 5, 10), np.mean(by_order, axis=0), np.std(by_order, axis=0), strict=True):
        assert getattr(found, f"recall_at_{depth}").value == pytest.approx(mean, abs=4 * spread / 20**0.5 + 1e-9)


def test_a_tie_of_one_text_is_a_chance_and_a_tie_of_two_texts_a_miss():
    scores = torch.tensor([[2.0, 2.0, 0.0]])
    one = evaluate_retrieval(scores.repeat(2, 1), Truth(2, 3, pairs((0, 0), (1, 0))), resamples=0)
    assert one.naive_i2t.recall_at_1.value == 0.5  # two captions of one text: either may come first
    assert one.naive_i2t.median_rank.value == 1.5
    two = evaluate_retrieval(scores.repeat(2, 1), Truth(2, 3, pairs((0, 0), (1, 1))), resamples=0)
    assert two.naive_i2t.recall_at_1.value == 0.0


def test_result_is_json():
    found = evaluate_retrieval(torch.eye(3), Truth(3, 3, pairs((0, 0))), resamples=10)
    again = json.loads(json.dumps(found.as_dict()))
    assert again["i2t"]["left_out"] == 2
    assert again["t2i"]["recall_at_1"]["value"] == 1


@pytest.mark.parametrize(
    ("scores", "own", "message"),
    [
        (torch.eye(2), pairs(), "no query has a true match"),
        (torch.eye(3), pairs((0, 0)), "2 images and 2 captions"),
        (torch.tensor([[0.0, float("nan")], [0.0, 0.0]]), pairs((0, 0)), "NaN"),
    ],
)
def test_refuses_what_would_mean_nothing(scores, own, message):
    with pytest.raises(DataError, match=message):
        evaluate_retrieval(scores, Truth(2, 2, own))
