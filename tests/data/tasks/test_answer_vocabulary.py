"""Tokens of answers, numbered anew."""

import torch

from truepair.data.tasks.vqa import AnswerVocabulary

IDS = torch.tensor([[2, 9, 3], [2, 7, 9], [2, 3, 0]])
MASK = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 1, 0]])


def test_places_are_those_of_the_tokens() -> None:
    vocabulary = AnswerVocabulary.of_answers(IDS, MASK, padding=0)
    assert vocabulary.tokens == [0, 2, 3, 7, 9] and len(vocabulary) == 5
    assert torch.equal(torch.tensor(vocabulary.tokens)[vocabulary.places(IDS)], IDS)


def test_answers_with_other_tokens_are_not_known() -> None:
    vocabulary = AnswerVocabulary([0, 2, 3, 9])
    assert vocabulary.known(IDS, MASK).tolist() == [True, False, True]
    assert vocabulary.places(torch.tensor([7, 100, 9])).tolist() == [-1, -1, 3]
