import math

import pytest
import torch

from truepair.models.fusion.answer_decoder import CopyHead

TOKENS = torch.tensor([[4, -1, 2, 4], [-1, -1, -1, -1]])
"""The first question has token 4 twice; of the second, nothing can be copied."""


def head() -> CopyHead:
    torch.manual_seed(0)
    return CopyHead(8)


def test_a_token_has_the_share_of_its_vocabulary_score_and_its_places() -> None:
    copying, states, questions = head(), torch.randn(3, 8), torch.randn(2, 4, 8)
    logits, rows = torch.randn(3, 6), torch.tensor([0, 1, 0])
    found = copying(logits, states, copying.keys(questions, TOKENS), rows).softmax(dim=1)
    for state, question in enumerate(rows.tolist()):
        weights = logits[state].exp().tolist()
        for place, token in enumerate(TOKENS[question].tolist()):
            if token < 0:
                continue
            before = questions[question, place - 1] if place else torch.zeros(8)
            key = copying.key(torch.cat([questions[question, place], before]))
            weights[token] += math.exp((copying.query(states[state]) @ key).item() / math.sqrt(8))
        expected = torch.tensor(weights) / sum(weights)
        torch.testing.assert_close(found[state], expected)


def test_where_nothing_can_be_copied_the_logits_stay() -> None:
    copying, logits = head(), torch.randn(1, 6)
    source = copying.keys(torch.randn(2, 4, 8), TOKENS)
    assert torch.equal(copying(logits, torch.randn(1, 8), source, torch.tensor([1])), logits)


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_gradients_are_finite(scale: float) -> None:
    copying = head()
    states, logits = (torch.randn(2, 8) * scale).requires_grad_(), torch.randn(2, 6).requires_grad_()
    source = copying.keys(torch.randn(2, 4, 8), TOKENS)
    loss = -copying(logits, states, source, torch.tensor([0, 1])).log_softmax(dim=1)[:, 4].sum()
    loss.backward()
    for part in (states, logits, copying.query.weight, copying.key.weight):
        assert part.grad is not None and bool(part.grad.isfinite().all())
    assert not bool(states.grad[1].any()), "nothing to copy"
    if scale == 1.0:
        assert bool((logits.grad != 0).all()) and bool((states.grad[0] != 0).all())
