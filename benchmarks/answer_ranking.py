"""Ranking an answer list: beginnings read once as a tree, against each candidate by itself.

    python benchmarks/answer_ranking.py                 # 3,129 answers, 128 candidates a question, size "small"

One by one is how the official program does it: the states of each question are repeated for its candidates, keys and
values are computed from the copies, and all tokens of all candidates go through the decoder and the vocabulary head.
Ours is `rank_answers`. Weights are random; most answers are one token, and first tokens repeat as they do in VQA v2.
The official side is given the candidates and need not find them. The two take turns in one process, and are timed in
seconds of CPU time. One JSON line a round, and one for the median and range of the ratio.
"""

import argparse
import json
import statistics
import time

import torch
from torch import Tensor

from truepair.models.fusion.albef import AlbefModel
from truepair.models.fusion.answer_decoder import AnswerDecoder
from truepair.models.fusion.answers import AnswerTrie, rank_answers
from truepair.models.fusion.config import AlbefConfig
from truepair.models.fusion.vqa import VqaModel

START, END = 101, 102
FIRST_TOKENS = 1200


def answer_list(count: int, generator: torch.Generator) -> list[list[int]]:
    """Distinct answers of one (half of them), two (a third) or three tokens, and the end token."""
    answers: dict[tuple[int, ...], None] = {}
    while len(answers) < count:
        length = (1, 1, 1, 2, 2, 3)[int(torch.randint(6, (), generator=generator))]
        first = 1000 + int(torch.randint(FIRST_TOKENS, (), generator=generator))
        rest = torch.randint(1000, 30000, (length - 1,), generator=generator).tolist()
        answers[(first, *rest, END)] = None
    return [list(answer) for answer in answers]


@torch.inference_mode()
def one_by_one(decoder: AnswerDecoder, states: Tensor, answers: list[list[int]], chosen: Tensor) -> Tensor:
    """Log-likelihood of the chosen answers [Q, k] to questions [Q, L, D]."""
    width = max(map(len, answers)) + 1
    scores = []
    for question, numbers in zip(states, chosen.tolist(), strict=True):
        ids = torch.zeros(len(numbers), width, dtype=torch.int64)  # [k, T]
        for row, number in enumerate(numbers):
            ids[row, : len(answers[number]) + 1] = torch.tensor([START, *answers[number]])
        repeated = question.expand(len(numbers), -1, -1).contiguous()  # [k, L, D]
        source = decoder.question_keys_values(repeated, torch.ones(repeated.shape[:2]))
        logs = decoder.head(decoder(ids[:, :-1], source).states).log_softmax(dim=2)  # [k, T - 1, V]
        targets = ids[:, 1:]
        scores.append((logs.gather(2, targets[:, :, None])[:, :, 0] * (targets > 0)).sum(dim=1))
    return torch.stack(scores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", default="small", help="named model size")
    parser.add_argument("--questions", type=int, default=8, help="questions of a batch")
    parser.add_argument("--answers", type=int, default=3129, help="answers of the list")
    parser.add_argument("--candidates", type=int, default=128, help="answers scored in full")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = VqaModel.from_albef(AlbefModel(AlbefConfig.of_size(arguments.size))).eval()
    decoder = model.answer_decoder
    generator = torch.Generator().manual_seed(0)
    answers = answer_list(arguments.answers, generator)
    trie = AnswerTrie(answers, start=START)
    ratios, largest = [], 0.0
    for number in range(-1, arguments.rounds):  # the first turns warm up
        states = torch.randn(arguments.questions, 9, model.config.hidden_size, generator=generator)  # [Q, L, D]
        begin = time.process_time()
        with torch.inference_mode():
            questions = decoder.question_keys_values(states, torch.ones(states.shape[:2]))
        ranked = rank_answers(decoder, questions, trie, candidates=arguments.candidates)
        middle = time.process_time()
        scores = one_by_one(decoder, states, answers, ranked.answers)
        seconds = middle - begin, time.process_time() - middle
        if number < 0:
            continue
        ratios.append(seconds[1] / seconds[0])
        largest = max(largest, float((scores - ranked.scores).abs().max()))
        row = {"round": number, "tree": round(seconds[0], 2), "one_by_one": round(seconds[1], 2)}
        print(json.dumps({**row, "ratio": round(ratios[-1], 2)}), flush=True)
    low, median, high = min(ratios), statistics.median(ratios), max(ratios)
    summary = {"size": arguments.size, "answers": len(trie), "candidates": arguments.candidates}
    figures = {"median_ratio": round(median, 2), "range": [round(low, 2), round(high, 2)]}
    print(json.dumps({**summary, **figures, "largest_difference": largest}))


if __name__ == "__main__":
    main()
