import torch

from tests.evaluation.judge import random_matrix
from truepair.evaluation.scores import CaptionScores, MatrixScores, SubsetScores


def test_slices_are_those_of_the_cut_matrix():
    matrix = random_matrix(9, 11, seed=0)
    images, captions = torch.tensor([1, 4, 5, 8]), torch.tensor([0, 3, 10])
    part = SubsetScores(MatrixScores(matrix), images, captions)
    cut = matrix[images][:, captions]
    assert torch.equal(part.image_rows(0, 4), cut)
    assert torch.equal(part.image_rows(1, 3), cut[1:3])
    assert torch.equal(part.caption_rows(0, 3), cut.T)
    assert torch.equal(part.caption_rows(2, 3), cut.T[2:3])


def test_captions_have_the_scores_of_their_texts():
    matrix = random_matrix(4, 7, seed=1)
    texts = torch.tensor([0, 1, 2, 1, 5, 6, 0, 3, 5])
    scores = CaptionScores(MatrixScores(matrix), texts)
    assert torch.equal(scores.image_rows(1, 4), matrix[1:4][:, texts])
    for start in range(len(texts)):
        for stop in range(start + 1, len(texts) + 1):
            assert torch.equal(scores.caption_rows(start, stop), matrix.T[texts[start:stop]])
