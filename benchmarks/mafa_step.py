"""A MAFA step on random weights and pairs, composed as the recipe `mafa` does it; for the benchmarks of a step."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from truepair.data.pairs import PairBatch
from truepair.data.preprocessing import OwnPreprocessing
from truepair.data.tokens import train_wordpiece
from truepair.data.transforms import TransformConfig
from truepair.engine.loop.step import StepInfo
from truepair.judges.base import JudgeConfig
from truepair.judges.itm import AlbefJudge, BatchView
from truepair.judges.memory import MemorisedJudge, VerdictMemory
from truepair.methods.ecm import Ecm, EcmConfig
from truepair.methods.encode import BatchEncoder, MicroBatches
from truepair.methods.rules import RelationsConfig, RuleSet
from truepair.methods.step import ItcConfig, MlmConfig, ObjectivesConfig, PretrainStep
from truepair.models.encoders.frozen import FrozenStates, StateBlock
from truepair.models.encoders.frozen_images import ImageStates
from truepair.models.fusion.albef import AlbefModel
from truepair.models.fusion.config import AlbefConfig
from truepair.objectives.mlm import MaskingConfig, TokenMasker
from truepair.relations.zones import Zones

MASK_ID, SPECIAL_IDS = 103, (0, 100, 101, 102, 103)
SEED = 0
INFO = StepInfo(epoch=1, step=10, total_steps=20, steps_per_epoch=10)  # epoch 1: S-ITC smooths
NONE_CONVERTED = {"zones": Zones(1.0, 1.0)}
ALL_CONVERTED = {"zones": Zones(0.0, 0.0), "once": False}  # found from both sides: twice, as in the official program


def random_model(size: str, seed: int, *, dropout: float = 0.1) -> AlbefModel:
    """An ALBEF of a named size."""
    torch.manual_seed(seed)
    return AlbefModel(AlbefConfig.of_size(size, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout))


def random_pairs(lengths: torch.Tensor, *, side: int) -> PairBatch:
    """B pairs of different images and captions; `lengths` [B] are the captions' tokens, `side` the images' pixels."""
    generator = torch.Generator().manual_seed(SEED)
    rows = torch.arange(len(lengths))
    ids = torch.randint(1000, 30000, (len(rows), int(lengths.max())), generator=generator)  # [B, L]
    ids[:, 0] = 101  # [CLS]
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()  # [B, L]
    return PairBatch(
        pixel_values=torch.randn(len(rows), 3, side, side, generator=generator),
        input_ids=ids * mask,
        attention_mask=mask,
        index=rows,
        source_index=rows,
        image_id=rows,
        caption_id=rows,
        caption_key=rows,
        captions=[str(row) for row in rows.tolist()],
        reasons=[""] * len(rows),
    )


def half_masked(model: AlbefModel) -> TokenMasker:
    """Hides half of the tokens."""
    return TokenMasker(MASK_ID, SPECIAL_IDS, model.config.vocab_size, MaskingConfig(probability=0.5))


class KeptView(BatchView):
    """The batch's tokens, and in place of its pixels the states that the judge's image encoder made of them before."""

    def __init__(self, model: AlbefModel, own: OwnPreprocessing, kept: ImageStates) -> None:
        super().__init__(model, own, own)
        self.kept = kept

    def image_states(self, batch: PairBatch, rows: Tensor) -> Tensor:
        """Kept states of the images of some rows [U, N, W]."""
        return self.kept[batch.source_index[rows]]


def kept_states(judge: AlbefModel, batch: PairBatch, folder: Path) -> ImageStates:
    """What the judge's image encoder makes of a batch, on disk as `ecm.judge.cache_images` keeps it."""
    with torch.inference_mode():
        states = judge.eval().image_states(batch.pixel_values)  # [B, N, W]
    rows, shape = len(states), tuple(states.shape[1:])
    found = FrozenStates.open_or_compute(
        folder, "benchmark", rows, shape, lambda first: iter([StateBlock(states[first:])])
    )
    return ImageStates((found,), batch.source_index)


def mafa_step(
    student: AlbefModel,
    judge: AlbefModel,
    rules: Mapping[str, Any],
    *,
    micro_batch: int = 0,
    kept: ImageStates | None = None,
) -> PretrainStep:
    """The step of the recipe; the judge reads the batch, or kept states of its images, and remembers its verdicts."""
    same = OwnPreprocessing(
        train_wordpiece(["any"], 60, min_frequency=1),
        max_length=25,
        add_sep=False,
        normalise=True,
        transform=TransformConfig(size=judge.image_encoder.image_size),
    )
    view = BatchView(judge, same, same) if kept is None else KeptView(judge, same, kept)
    itm_judge = AlbefJudge(judge, view, name="random", fingerprint="random")
    remembering = MemorisedJudge(itm_judge, VerdictMemory(itm_judge.fingerprint))
    masker = half_masked(student)
    objectives = ObjectivesConfig(
        itc=ItcConfig(key_gradient=False, smoothing=0.5, smoothing_start_epoch=1),
        mlm=MlmConfig(masking=masker.config),
    )
    asked = JudgeConfig(checkpoint="random", view="batch", memory=True)
    ecm = Ecm(EcmConfig(judge=asked, **rules), remembering)
    kept = RuleSet(RelationsConfig(ledger=False))
    encoder = BatchEncoder(student, parts=MicroBatches(micro_batch))
    return PretrainStep(student, encoder, objectives, kept, masker=masker, ecm=ecm, seed=SEED).train()
