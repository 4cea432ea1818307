"""A training step of BLIP-2: each loss is that of a slow loop, with everything that manages false negatives."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from transformers import Blip2Config, Blip2ForImageTextRetrieval

from tests.judges.given import GivenJudge
from tests.methods.steps import ecm, info, of_rank, pairs, verdicts
from tests.methods.test_dual_encoder import HubRun, encoder, preprocessing, stop_and_go_on
from tests.sampling.gloo import GlooPool
from truepair.data.pairs import PairBatch
from truepair.data.preprocessing import Preprocessing
from truepair.engine.logs.log import read_log
from truepair.errors import ConfigError
from truepair.methods.ecm import Ecm
from truepair.methods.encode import BatchEncoder, MicroBatches
from truepair.methods.frozen import FrozenOnBatch
from truepair.methods.momentum import MomentumConfig, MomentumModel
from truepair.methods.rules import RelationsConfig, RuleSet
from truepair.methods.srcl import SrclConfig, SrclWeights
from truepair.methods.step import ItcConfig, ItgConfig, ItmConfig, MlmConfig, ObjectivesConfig, PretrainStep
from truepair.models import Blip2FusionModel
from truepair.models.dual.base import DualEncoder
from truepair.objectives.srcl import RegulationConfig, normalised_weights
from truepair.sampling.grit import grit_order
from truepair.sampling.ranks import Ranks

NOTHING = ObjectivesConfig(itm=ItmConfig(weight=0.0), mlm=MlmConfig(weight=0.0))
STAGE_1 = ObjectivesConfig(
    itc=ItcConfig(smoothing=0.3, key_gradient=False),
    itm=ItmConfig(),
    mlm=MlmConfig(weight=0.0),
    itg=ItgConfig(weight=0.5),
)
IDS = [3, 5, 2, 9, 4, 11]


def blip2(seed: int = 0, *, size: int = 64, vocabulary: int = 40, start: int | None = 4) -> Blip2FusionModel:
    """A tiny model without dropout, whose queries differ widely."""
    widths = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = widths | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "max_position_embeddings": 20}
    text |= {"vocab_size": vocabulary, "use_qformer_text_input": True, "initializer_range": 0.3}
    vision = {**widths, "hidden_size": 24, "image_size": size, "patch_size": size // 2, "initializer_range": 0.3}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = Blip2Config(vision_config=vision, qformer_config=text, num_query_tokens=3, image_text_hidden_size=8)
        model = Blip2ForImageTextRetrieval(config)
        torch.nn.init.normal_(model.query_tokens)
        return Blip2FusionModel(model, start)


def batch_of() -> PairBatch:
    made = pairs(IDS)
    return replace(made, input_ids=made.input_ids % 40)


def step_of(objectives: ObjectivesConfig, micro_batch: int = 0, **parts: Any) -> PretrainStep:
    model = blip2(size=batch_of().pixel_values.shape[-1]).double()  # type: ignore[union-attr]
    encoder = BatchEncoder(model, parts=MicroBatches(micro_batch))
    rules = parts.pop("rules", RuleSet(RelationsConfig()))
    return PretrainStep(model, encoder, objectives, rules, seed=5, **parts).train()


def frozen(seed: int = 11) -> FrozenOnBatch:
    return FrozenOnBatch(BatchEncoder(blip2(seed, size=batch_of().pixel_values.shape[-1]).double()))  # type: ignore[union-attr]


def features(step: PretrainStep) -> tuple[Tensor, Tensor]:
    model, batch = step.model, batch_of()
    assert batch.pixel_values is not None
    images = model.encode_images(batch.pixel_values).features
    return images, model.encode_texts(batch.input_ids, batch.attention_mask).features


def best(images: Tensor, texts: Tensor) -> Tensor:
    """Similarity of each image and text by its best query, one by one [I, T]."""
    return torch.stack([torch.stack([(image @ text).max() for text in texts]) for image in images])


def test_itc_compares_the_best_queries_under_s_itc_and_without_gradient_of_the_keys() -> None:
    step = step_of(replace(NOTHING, itc=ItcConfig(smoothing=0.3, key_gradient=False)))
    output = step(batch_of(), info())
    output.losses["loss"].backward()
    found = {name: weight.grad for name, weight in step.model.named_parameters() if weight.grad is not None}

    other = step_of(NOTHING)
    images, texts = features(other)
    target = 0.7 * torch.eye(6, dtype=torch.float64) + 0.3 / 6
    by_image = best(images, texts.detach()) / other.model.temperature
    by_text = best(images.detach(), texts).T / other.model.temperature
    halves = [-(target * logits.log_softmax(dim=1)).sum(dim=1).mean() for logits in (by_image, by_text)]
    expected = torch.stack(halves).mean()
    expected.backward()
    torch.testing.assert_close(output.losses["itc"], expected)
    for name, weight in other.model.named_parameters():
        if weight.grad is not None:
            torch.testing.assert_close(found[name], weight.grad, atol=1e-9, rtol=1e-6)
    assert found["model.query_tokens"].abs().sum() > 0 and found["temp"].abs() > 0


def test_each_direction_is_drawn_to_the_other() -> None:
    step = step_of(replace(NOTHING, itc=ItcConfig(consistency=0.2, key_gradient=False)))
    logits = best(*features(step)) / step.model.temperature
    by_image, by_text = logits.log_softmax(dim=1), logits.T.log_softmax(dim=1)
    contrast = -(by_image.diagonal() + by_text.diagonal()).mean() / 2
    drawn = -((by_text.exp() * by_image).sum(dim=1) + (by_image.exp() * by_text).sum(dim=1)).mean() / 2
    torch.testing.assert_close(step(batch_of(), info()).losses["itc"], contrast + 0.2 * drawn)


def test_srcl_weighs_by_the_best_queries_of_student_and_seed_model() -> None:
    config = SrclConfig(weights=RegulationConfig("softmax", delta=2.0), alpha=0.4, seed_model="seed")
    step = step_of(NOTHING, srcl=SrclWeights(config, frozen()))
    loss = step(batch_of(), info()).losses["itc"]
    similarity = best(*features(step))
    guide = frozen().encoder.model
    batch = batch_of()
    assert batch.pixel_values is not None
    seed = best(
        guide.encode_images(batch.pixel_values).features,
        guide.encode_texts(batch.input_ids, batch.attention_mask).features,
    )
    others = ~torch.eye(6, dtype=torch.bool)
    losses = []
    for own, theirs in ((similarity, seed), (similarity.T, seed.T)):
        mixed = 0.4 * theirs.exp() + 0.6 * own.exp()
        weights = normalised_weights(2.0 / mixed, others) + torch.eye(6)
        logits = own / step.model.temperature
        losses.append(((weights * logits.exp()).sum(dim=1).log() - logits.diagonal()).mean())
    torch.testing.assert_close(loss, torch.stack(losses).mean().detach(), check_dtype=False, rtol=1e-5, atol=1e-6)


def test_a_guide_with_queries_finds_what_its_similarities_say() -> None:
    rules = [{"detector": "guide", "margin": 0.05, "action": "mask"}]
    step = step_of(NOTHING, rules=RuleSet(RelationsConfig(rules=rules, guide_model="guide")), guide=frozen())
    loss = step(batch_of(), info()).losses["itc"]
    guide, batch = frozen().encoder.model, batch_of()
    assert batch.pixel_values is not None
    said = best(
        guide.encode_images(batch.pixel_values).features,
        guide.encode_texts(batch.input_ids, batch.attention_mask).features,
    )
    bar = said.diagonal() - 0.05
    masked = ((said > bar[:, None]) | (said > bar[None, :])) & ~torch.eye(6, dtype=torch.bool)
    assert 0 < masked.sum() < 30
    logits = best(*features(step)) / step.model.temperature
    logits = logits.masked_fill(masked, -torch.inf)
    halves = [(part.logsumexp(dim=1) - part.diagonal()).mean() for part in (logits, logits.T)]
    torch.testing.assert_close(loss, torch.stack(halves).mean().detach())
    alone = RuleSet(RelationsConfig(rules=[rules[0] | {"compare": "images"}], guide_model="guide"))
    with pytest.raises(ConfigError, match="this guide has several queries"):
        step_of(NOTHING, rules=alone, guide=frozen())(batch_of(), info())


def test_itm_and_itg_are_those_of_pairs_read_one_by_one() -> None:
    step = step_of(STAGE_1)
    output = step(batch_of(), info())
    model, batch = step.model, batch_of()
    assert isinstance(model, Blip2FusionModel) and batch.pixel_values is not None
    similarity = best(*features(step)).masked_fill(torch.eye(6, dtype=torch.bool), -torch.inf)
    cells = [(row, row, 1) for row in range(6)]
    cells += [(row, int(similarity[row].argmax()), 0) for row in range(6)]
    cells += [(int(similarity[:, row].argmax()), row, 0) for row in range(6)]
    losses, words = [], []
    for image, text, label in cells:
        length = int(batch.attention_mask[text].sum())
        ids = batch.input_ids[text : text + 1, :length]
        pixels = batch.pixel_values[image : image + 1]
        said: Any = model.model(pixels, ids, torch.ones_like(ids), use_image_text_matching_head=True)
        losses.append(F.cross_entropy(said.logits_per_image, torch.tensor([label])))
    for row in range(6):
        length = int(batch.attention_mask[row].sum())
        keys_values = model.image_keys_values(model.image_states(batch.pixel_values[row : row + 1]))
        for place in range(length - 1):
            ids = batch.input_ids[row : row + 1, : place + 1]
            last = torch.zeros_like(ids, dtype=torch.bool)
            last[0, -1] = True
            logits = model.predict_next(ids, torch.ones_like(ids), keys_values, torch.zeros(1, dtype=torch.int64), last)
            words.append(F.cross_entropy(logits, batch.input_ids[row, place + 1 : place + 2], label_smoothing=0.1))
    torch.testing.assert_close(output.losses["itm"], torch.stack(losses).mean())
    torch.testing.assert_close(output.losses["itg"], torch.stack(words).mean())
    total = output.losses["itc"] + output.losses["itm"] + 0.5 * output.losses["itg"]
    torch.testing.assert_close(output.losses["loss"], total)


def test_ecm_is_heard_by_itc_itm_and_itg() -> None:
    plain, heard = (
        step_of(STAGE_1, ecm=None if judge is None else Ecm(ecm(low=0.3, high=0.5), judge))(batch_of(), info()).losses
        for judge in (None, GivenJudge(verdicts()))
    )
    assert all(plain[name].item() != heard[name].item() for name in ("itc", "itm", "itg"))
    silent = step_of(STAGE_1, ecm=Ecm(ecm(low=0.3, high=0.5, places=["itm"]), GivenJudge(verdicts())))
    only_itm = silent(batch_of(), info()).losses
    assert all(only_itm[name].item() == pytest.approx(plain[name].item()) for name in ("itc", "itg"))


def test_parts_of_a_batch_have_the_gradients_of_the_whole() -> None:
    gradients = []
    for micro_batch in (0, 4):
        step = step_of(STAGE_1, micro_batch, ecm=Ecm(ecm(low=0.3, high=0.5), GivenJudge(verdicts())))
        step(batch_of(), info()).losses["loss"].backward()
        gradients.append({name: weight.grad for name, weight in step.model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient is not None, name
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-9, rtol=1e-6)


def train_on_rank(_: None) -> tuple[dict[str, float], dict[str, NDArray[np.float64]]]:
    """Losses and gradients of this rank's share of a step, meaned over the ranks."""
    here = Ranks.current()
    judge = Ecm(ecm(low=0.3, high=0.5), GivenJudge(verdicts()), rank=here.rank, ranks=here.count)
    objectives = replace(STAGE_1, itc=replace(STAGE_1.itc, consistency=0.2))
    config = SrclConfig(weights=RegulationConfig("tempered"), alpha=0.4, seed_model="seed")
    step = step_of(objectives, ecm=judge, srcl=SrclWeights(config, frozen()))
    losses = step(of_rank(batch_of(), here.rank, here.count), info()).losses
    losses["loss"].backward()
    parts = {name: losses[name].detach().clone() for name in ("loss", "itc", "itm", "itg")}
    gradients = {name: weight.grad for name, weight in step.named_parameters() if weight.grad is not None}
    dist.all_reduce_coalesced([*gradients.values(), *parts.values()])
    return (
        {name: float(value) / here.count for name, value in parts.items()},
        {name: gradient.div(here.count).numpy() for name, gradient in gradients.items()},
    )


def test_two_ranks_train_as_one(tmp_path: Path) -> None:
    pool = GlooPool(tmp_path, preload="truepair.methods.build")
    ((alone, expected),) = pool.run(train_on_rank, None, 1)
    for losses, gradients in pool.run(train_on_rank, None, 2):
        assert losses == pytest.approx(alone, rel=1e-9)
        assert gradients.keys() == expected.keys()
        for name, gradient in expected.items():
            assert np.linalg.norm(gradients[name] - gradient) <= 1e-9 * np.linalg.norm(gradient) + 1e-12, name
    pool.close()


def test_grit_walks_by_the_best_queries() -> None:
    generator = torch.Generator().manual_seed(3)
    images = F.normalize(torch.randn(2, 9, 3, 5, generator=generator), dim=-1)
    texts = F.normalize(torch.randn(2, 9, 5, generator=generator), dim=-1)
    for space in range(2):
        similarity, order = best(images[space], texts[space]), [0]
        for place in range(1, 9):
            row = similarity[order[-1]] if place % 2 else similarity[:, order[-1]]
            order.append(max(set(range(9)) - set(order), key=lambda one: float(row[one])))
        assert grit_order(images, texts)[space].tolist() == order == grit_order(images[space], texts[space]).tolist()


def test_what_it_cannot_train_is_refused_in_a_line() -> None:
    with pytest.raises(ConfigError, match="momentum model keeps one vector an image; leave the momentum section out"):
        MomentumModel(BatchEncoder(blip2()), MomentumConfig(), 100)
    with pytest.raises(ConfigError, match=r"CLIPModel writes no captions, as ITG does; set objectives.itg.weight to 0"):
        PretrainStep(
            encoder(),
            BatchEncoder(encoder()),
            replace(NOTHING, itg=ItgConfig(weight=1.0)),
            RuleSet(RelationsConfig()),
        )


class Blip2Run(HubRun):
    """The run of a CLIP, with a BLIP-2 whose seed model and guide is another one."""

    def student(self) -> tuple[DualEncoder, Preprocessing]:
        """What is trained, and how captions and images reach it."""
        return blip2(size=16), preprocessing()

    def guide(self) -> DualEncoder:
        """Another BLIP-2."""
        return blip2(3, size=16)


def test_it_trains_with_grit_srcl_a_guide_and_a_mined_ledger_and_resumes_bit_for_bit(
    squares: Path, tmp_path: Path
) -> None:
    Blip2Run(squares, tmp_path / "whole").build().run()
    stop_and_go_on(Blip2Run(squares, tmp_path / "stopped"))
    whole, resumed = (
        Blip2ForImageTextRetrieval.from_pretrained(tmp_path / name / "model").state_dict()
        for name in ("whole", "stopped")
    )
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert (tmp_path / "whole/log.jsonl").read_bytes() == (tmp_path / "stopped/log.jsonl").read_bytes()
    steps = [record for record in read_log(tmp_path / "whole/log.jsonl") if record["kind"] == "step"]
    assert all({"mi_bound", "itc", "temperature"} <= record.keys() for record in steps)
