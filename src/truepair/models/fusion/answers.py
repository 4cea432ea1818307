"""Answers: ranked out of a list, or decoded along a trie."""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from truepair.errors import ConfigError, DataError
from truepair.models.fusion.answer_decoder import AnswerDecoder, Past, QuestionKeysValues

# States whose vocabulary logits are computed at once: 512 x 30,522 floats are 62 MB.
_HEAD_ROWS = 512


class AnswerTrie:
    """The A answers of a list as a tree of N nodes.

    Node 0 is the root, the start token; a path from it to a leaf spells an answer.

    Args:
        answers: tokens of each answer, the end token last, the start token left out.
        start: the start token.

    Raises:
        DataError: an answer without a token of its own, or no answers.

    Attributes:
        tokens: token of each node, int64 [N].
        parents: node before each node, int64 [N]; that of the root is the root.
        depths: tokens before each node, int64 [N].
        inner: whether other nodes follow, bool [N].
        paths: nodes of each answer after the root, int64 [A, T], 0 behind the end.
    """

    def __init__(self, answers: Sequence[Sequence[int]], start: int) -> None:
        if not answers:
            raise DataError("there are no answers to rank; check the answer list")
        tokens, parents, depths = [start], [0], [0]
        places: dict[tuple[int, int], int] = {}
        rows: list[list[int]] = []
        for number, answer in enumerate(answers):
            if len(answer) < 2:
                raise DataError(f"answer {number} of the answer list has no token; take it out")
            node, row = 0, []
            for depth, token in enumerate(answer, 1):
                child = places.setdefault((node, token), len(tokens))
                if child == len(tokens):
                    tokens.append(token)
                    parents.append(node)
                    depths.append(depth)
                node = child
                row.append(node)
            rows.append(row)
        self.tokens, self.parents, self.depths = torch.tensor(tokens), torch.tensor(parents), torch.tensor(depths)
        self.inner = torch.zeros(len(tokens), dtype=torch.bool)
        self.inner[self.parents] = True
        self.paths = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64)
        for number, row in enumerate(rows):
            self.paths[number, : len(row)] = torch.tensor(row)

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def visible(self) -> Tensor:
        """Whether a node sees another: itself and those on its way to the root, bool [N, N]."""
        seen = torch.eye(len(self.tokens), dtype=torch.bool)
        for depth in range(1, int(self.depths.max()) + 1):
            nodes = (self.depths == depth).nonzero()[:, 0]
            seen[nodes] |= seen[self.parents[nodes]]
        return seen

    def to(self, device: torch.device) -> "AnswerTrie":
        """The same tree on another device."""
        if self.tokens.device == device:
            return self
        moved = object.__new__(AnswerTrie)
        for name in ("tokens", "parents", "depths", "inner", "paths", "visible"):
            setattr(moved, name, getattr(self, name).to(device))
        return moved


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
    every_question = torch.arange(rows, device=device)
    first = decoder.logits(root.states[:, 0], questions, every_question).float().log_softmax(dim=1)  # [Q, V]
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
