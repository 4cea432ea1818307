"""Operations and CPU seconds of one step of BLIP-2's first stage per pair, beside a textbook step with the same losses.

    python benchmarks/blip2_step.py --size base   # Q-Former of BERT-base, 32 queries, 257 states of a ViT-L; 4 GB

ITC + ITM + ITG, forward and backward, on image states that are there (the vision tower is frozen and cached), with
random weights. One JSON line a way, and the ratio of each to ours:

    ours       the real `PretrainStep`: keys and values once an image, the queries' pass of ITC shared with ITG
    looks back keys and values for each row of ITM; ITG looks back at the queries' keys and values of ITC (LAVIS)
    textbook   three passes of transformers' Q-Former, and keys and values for each row of each

A multiplication and an addition are two operations; only matrix products count, as torch's FlopCounterMode counts them.
Seconds are of one thread, the shortest of some steps; the ways take turns.
"""

import argparse
import json
import time

import torch
from mafa_step import INFO, SEED, random_pairs
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from truepair.data.pairs import PairBatch
from truepair.methods.encode import BatchEncoder
from truepair.methods.rules import RelationsConfig, RuleSet
from truepair.methods.step import ItcConfig, ItgConfig, MlmConfig, ObjectivesConfig, PretrainStep
from truepair.models import Blip2FusionModel
from truepair.models.checkpoints.blip2 import new_blip2
from truepair.models.dual.base import ImageKeysValues
from truepair.models.fusion.blip import with_start

VOCABULARY, START = 30523, 30522


class LooksBack(Blip2FusionModel):
    """Each row of ITM has a copy of its image's states, and makes keys and values of it."""

    def read_images(self, states: Tensor) -> tuple[Tensor, ImageKeysValues]:
        """Keys and values of the queries, and the states themselves."""
        features, keys_values = super().read_images(states)
        return features, keys_values._replace(keys=(states,), values=(states,))

    def fuse(
        self,
        text_states: Tensor,
        attention_mask: Tensor,
        keys_values: ImageKeysValues,
        image_rows: Tensor | None = None,
        *,
        cls_only: bool = False,
    ) -> Tensor:
        """Transformers' Q-Former over all rows."""
        assert image_rows is not None
        queries = self.model.query_tokens.expand(len(text_states), -1, -1)  # [R, Q, D]
        count = queries.shape[1]
        fused: Tensor = self.model.qformer(
            query_embeds=torch.cat([queries, text_states[:, :, queries.shape[2] :]], dim=1),
            query_length=count,
            attention_mask=torch.cat([attention_mask.new_ones(len(queries), count), attention_mask], dim=1),
            encoder_hidden_states=keys_values.keys[0][image_rows],
        ).last_hidden_state[:, :count]
        return fused


class Textbook(LooksBack):
    """The same for each row of ITG, which reads the queries anew."""

    def read_images(self, states: Tensor) -> tuple[Tensor, ImageKeysValues]:
        """The states themselves; nothing of this pass is used again."""
        queries = self.model.query_tokens.expand(len(states), -1, -1)  # [I, Q, D]
        read = self.model.qformer(query_embeds=queries, encoder_hidden_states=states).last_hidden_state
        features = torch.nn.functional.normalize(self.model.vision_projection(read), dim=-1)
        return features, ImageKeysValues((states,), (states,))

    def predict_next(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        keys_values: ImageKeysValues,
        image_rows: Tensor,
        positions: Tensor,
    ) -> Tensor:
        """Transformers' Q-Former over all rows, with the causal mask."""
        queries = self.model.query_tokens.expand(len(input_ids), -1, -1)  # [R, Q, D]
        count = queries.shape[1]
        place = torch.arange(count + input_ids.shape[1])
        sees = (place[None] < count) | ((place[:, None] >= place[None]) & (place[:, None] >= count))
        shown = torch.cat([attention_mask.new_ones(len(input_ids), count), attention_mask], dim=1).bool()
        hidden = ~(sees[None] & shown[:, None])
        states = self.model.qformer(
            query_embeds=self.model.embeddings(input_ids=with_start(input_ids, self.start), query_embeds=queries),
            query_length=count,
            attention_mask=torch.zeros(hidden.shape).masked_fill(hidden, torch.finfo(torch.float32).min)[:, None],
            encoder_hidden_states=keys_values.keys[0][image_rows],
        ).last_hidden_state[:, count:]
        logits: Tensor = self.itg_head(states[positions], self.model.embeddings.word_embeddings.weight)
        return logits


WAYS = {"ours": Blip2FusionModel, "looks back": LooksBack, "textbook": Textbook}


class GivenStates:
    """Image states [B, N, W] as a cache would hand them out."""

    def __init__(self, states: Tensor) -> None:
        self.states = states

    def visit(self, rows: Tensor, epoch: int, seed: int) -> Tensor:
        """Those of some rows."""
        return self.states[rows]


def random_model(size: str) -> Blip2FusionModel:
    """A BLIP-2 of a named size without dropout, so that all ways have one loss; its vision tower does not run."""
    torch.manual_seed(SEED)
    qformer = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    options = {"qformer_config": qformer, "vision_config": {"num_hidden_layers": 0}}
    made = new_blip2(size, options, VOCABULARY, START)
    made.model.vision_model.requires_grad_(False)
    return made


def step_of(way: type[Blip2FusionModel], made: Blip2FusionModel, batch: PairBatch) -> PretrainStep:
    """The step of stage 1 with one way to fuse; the weights of all ways are the same ones."""
    model = way(made.model, START)
    model.itg_head = made.itg_head
    config = made.model.config.vision_config
    shape = (len(batch), (config.image_size // config.patch_size) ** 2 + 1, config.hidden_size)
    states = torch.randn(shape, generator=torch.Generator().manual_seed(SEED))
    encoder = BatchEncoder(model, image_cache=GivenStates(states))  # type: ignore[arg-type]
    objectives = ObjectivesConfig(itc=ItcConfig(smoothing=0.1), mlm=MlmConfig(weight=0.0), itg=ItgConfig(weight=1.0))
    return PretrainStep(model, encoder, objectives, RuleSet(RelationsConfig(ledger=False)), seed=SEED).train()


def run(step: PretrainStep, batch: PairBatch) -> float:
    """Forward and backward; returns the loss."""
    step.zero_grad()
    loss = step(batch, INFO).losses["loss"]
    loss.backward()
    return float(loss.detach())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", default="base", help="named model size")
    parser.add_argument("--batch", type=int, default=4, help="pairs")
    parser.add_argument("--tokens", type=int, default=25, help="tokens of the longest caption")
    parser.add_argument("--varied", action="store_true", help="captions of 7 tokens up, instead of all alike")
    parser.add_argument("--repeats", type=int, default=3, help="steps of each way; the shortest counts")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    lengths = torch.full((arguments.batch,), arguments.tokens)
    if arguments.varied:
        lengths = torch.linspace(7, arguments.tokens, arguments.batch).long()
    batch = random_pairs(lengths, side=1)
    made = random_model(arguments.size)
    steps = {name: step_of(way, made, batch) for name, way in WAYS.items()}
    operations, losses, seconds = {}, {}, dict.fromkeys(steps, float("inf"))
    for name, step in steps.items():
        with FlopCounterMode(display=False) as total, sdpa_kernel(SDPBackend.MATH):  # the fused kernel is not counted
            losses[name] = run(step, batch)
        operations[name] = total.get_total_flops() / len(batch) / 1e9
    assert max(losses.values()) - min(losses.values()) < 1e-3, losses
    for _ in range(arguments.repeats):
        for name, step in steps.items():
            begin = time.process_time()
            run(step, batch)
            seconds[name] = min(seconds[name], time.process_time() - begin)
    for name in steps:
        figures = {"gflop_per_pair": operations[name], "gflop_ratio": operations[name] / operations["ours"]}
        figures |= {"cpu_seconds": seconds[name], "seconds_ratio": seconds[name] / seconds["ours"]}
        print(json.dumps({"way": name, **{key: round(value, 3) for key, value in figures.items()}}), flush=True)


if __name__ == "__main__":
    main()
