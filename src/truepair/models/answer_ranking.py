"""Ranking a list of answers to questions by the decoder's likelihood, each distinct beginning read once."""

from typing import NamedTuple

import torch
from torch import Tensor

from truepair.errors import ConfigError
from truepair.models.answer_decoder import AnswerDecoder, Past, QuestionKeysValues
from truepair.models.answer_trie import AnswerTrie

_HEAD_ROWS = 512
"""States whose vocabulary logits are computed at once: 512 x 30,522 floats are 62 MB."""


class RankedAnswers(NamedTuple):
    """The candidates of Q questions, best first; equal ones in order of the list."""

    answers: Tensor
    """Numbers in the answer list, int64 [Q, k]."""
    scores: Tensor
    """Log-likelihood of each answer, its end token included, plus its prior, float32 [Q, k]."""


@torch.inference_mode()
def rank_answers(
    decoder: AnswerDecoder,
    questions: QuestionKeysValues,
    trie: AnswerTrie,
    *,
    candidates: int = 128,
    prior: Tensor | None = None,
) -> RankedAnswers:
    """Rank answers in two steps, as ALBEF does: the answers whose first token is the likeliest are scored in full.

    All beginnings of a question's candidates are read in one pass, as a tree: each node sees its own way from the root
    and nothing else. ALBEF repeats the question for each candidate, and counts the first token twice; here the score is
    the likelihood of the answer.

    Args:
        decoder: in evaluation mode.
        questions: Q of them.
        trie: the answer list.
        candidates: k, answers of each question that are scored in full; a shorter list is taken whole.
        prior: added to the log-likelihoods in both steps, [Q, A].

    Raises:
        ConfigError: if ``candidates`` is not positive.
    """
    if candidates < 1:
        raise ConfigError(f"ranking needs at least one candidate, got {candidates}")
    device = questions.mask.device
    trie = trie.to(device)
    rows = len(questions.mask)
    root = decoder(trie.tokens[:1].expand(rows, 1), questions)
    everyone = torch.arange(rows, device=device)
    first = decoder.logits(root.states[:, 0], questions, everyone).float().log_softmax(dim=1)  # [Q, V]
    by_first_token = first[:, trie.tokens[trie.paths[:, 0]]]  # [Q, A]
    if prior is not None:
        by_first_token = by_first_token + prior
    order = by_first_token.sort(dim=1, descending=True, stable=True).indices
    chosen = order[:, : min(candidates, len(trie))].sort(dim=1).values  # [Q, k]
    paths = trie.paths[chosen]  # [Q, k, T]
    wanted = torch.zeros(rows, len(trie.tokens), dtype=torch.bool, device=device)
    wanted.scatter_(1, paths.flatten(1), True)  # [Q, N]
    scores = _later_tokens(decoder, questions, trie, wanted, root.past)  # [Q, N]
    scores = torch.where(trie.depths == 1, first[:, trie.tokens], scores)
    scores[:, 0] = 0.0  # paths are padded with the root
    total = scores.gather(1, paths.flatten(1)).view(paths.shape).sum(dim=2)  # [Q, k]
    if prior is not None:
        total = total + prior.gather(1, chosen)
    ranked = total.sort(dim=1, descending=True, stable=True)
    return RankedAnswers(chosen.gather(1, ranked.indices), ranked.values)


def _later_tokens(
    decoder: AnswerDecoder, questions: QuestionKeysValues, trie: AnswerTrie, wanted: Tensor, past: Past
) -> Tensor:
    """Log-probability of each wanted node's token after its parents, from the second token on; [Q, N], else 0."""
    read = wanted & trie.inner
    read[:, 0] = False  # the root has been read
    slots = read.cumsum(dim=1) - 1  # [Q, N] place of each node among those its question reads
    most = int(read.sum(dim=1).max())
    nodes = read.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices[:, :most]  # [Q, M]
    used = read.gather(1, nodes)  # [Q, M]
    seen = trie.visible[nodes[:, :, None], nodes[:, None, :]] & used[:, None, :]  # [Q, M, M]
    root = seen.new_ones(*nodes.shape, 1)
    mask = torch.cat([root, seen], dim=2)[:, None]  # [Q, 1, M, 1 + M]
    decoded = decoder(trie.tokens[nodes], questions, past=past, positions=trie.depths[nodes], mask=mask)
    states = decoded.states.flatten(0, 1)  # [Q * M, D]
    # One edge for each wanted node behind the first token, sorted by the state that predicts it.
    question, node = (wanted & (trie.depths > 1)).nonzero().unbind(1)  # [E], [E]
    state = question * most + slots[question, trie.parents[node]]  # [E]
    order = state.argsort(stable=True)
    question, node, state = question[order], node[order], state[order]
    distinct, place = state.unique_consecutive(return_inverse=True)  # [P], [E]
    scores = torch.zeros(wanted.shape, device=states.device)
    for start in range(0, len(distinct), _HEAD_ROWS):
        part = distinct[start : start + _HEAD_ROWS]
        logs = decoder.logits(states[part], questions, part // most).float().log_softmax(dim=1)  # [p, V]
        first, last = torch.searchsorted(place, place.new_tensor([start, start + _HEAD_ROWS])).tolist()
        edges = slice(first, last)
        scores[question[edges], node[edges]] = logs[place[edges] - start, trie.tokens[node[edges]]]
    return scores
