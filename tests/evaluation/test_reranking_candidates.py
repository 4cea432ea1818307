import pytest
import torch

from tests.evaluation.judge import Judge, random_matrix
from truepair.errors import ConfigError, DataError
from truepair.evaluation import MatrixScores, find_candidates, score_candidates


def test_union_of_both_directions_each_pair_once():
    #                           caption: 0    1    2
    similarity = MatrixScores(torch.tensor([[0.9, 0.1, 0.8], [0.7, 0.2, 0.6]]))
    found = find_candidates(similarity, 2, 3, 1)
    # Both images want caption 0; captions 0 and 2 want image 0, caption 1 wants image 1.
    pairs = list(zip(found.pairs.rows.tolist(), found.pairs.columns.tolist(), strict=True))
    assert pairs == [(0, 0), (0, 2), (1, 0), (1, 1)]
    assert found.for_image.tolist() == [True, False, True, False]
    assert found.for_caption.tolist() == [True, True, False, True]
    assert found.pairs.values.tolist() == pytest.approx([0.9, 0.8, 0.7, 0.2])


def test_places_are_taken_by_the_captions_of_the_gallery():
    #                           text: 0    1    2    3
    similarity = MatrixScores(torch.tensor([[0.9, 0.8, 0.7, 1.0], [0.1, 0.2, 0.3, 0.0]]))
    listed = torch.tensor([0, 1, 0, 2, 2])  # texts 0 and 2 twice; text 3 is not in the gallery
    found = find_candidates(similarity, 2, 4, 3, listed=listed)
    pairs = zip(found.pairs.rows.tolist(), found.pairs.columns.tolist(), found.for_image.tolist(), strict=True)
    wanted = {(row, column) for row, column, mine in pairs if mine}
    assert wanted == {(0, 0), (0, 1), (1, 2), (1, 1)}
    assert found.pairs.values.tolist() == similarity.matrix[found.pairs.rows, found.pairs.columns].tolist()
    assert found.for_caption.all(), "each text has two pictures to choose from, and three places"


def test_more_candidates_than_the_gallery_holds():
    assert len(find_candidates(MatrixScores(random_matrix(3, 4, 0)), 3, 4, 100).pairs) == 12


def test_chunks_keep_the_pairs_of_an_image_together():
    judge = Judge(random_matrix(6, 10, 0))
    candidates = find_candidates(MatrixScores(random_matrix(6, 10, 1)), 6, 10, 3)
    largest = int(torch.bincount(candidates.pairs.rows).max())
    score_candidates(candidates.pairs, judge, chunk_size=largest)
    images_of_calls = [{image for image, _ in call} for call in judge.calls]
    assert len(judge.calls) > 1
    assert sum(len(images) for images in images_of_calls) == 6  # no image is in two calls


def test_faults_of_the_judge_are_named():
    candidates = find_candidates(MatrixScores(torch.eye(3)), 3, 3, 2)
    with pytest.raises(DataError, match="NaN"):
        score_candidates(candidates.pairs, lambda images, captions: torch.full((len(images),), torch.nan))
    with pytest.raises(DataError, match=r"returned \(1,\) scores"):
        score_candidates(candidates.pairs, lambda images, captions: torch.zeros(1))


def test_k_must_be_positive():
    with pytest.raises(ConfigError, match="k = 0"):
        find_candidates(MatrixScores(torch.eye(3)), 3, 3, 0)
