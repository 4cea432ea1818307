"""The training step of truepair on a recording of the official MAFA program, composed as a recipe would compose it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tests.official_ecm import OFFICIAL, official_zones
from truepair.data.pairs import PairBatch
from truepair.data.preprocessing import OwnPreprocessing
from truepair.data.tokens import train_wordpiece
from truepair.data.transforms import TransformConfig
from truepair.engine.loop.step import StepInfo
from truepair.judges.base import JudgeConfig
from truepair.judges.itm import AlbefJudge, BatchView
from truepair.methods.ecm import Ecm, EcmConfig
from truepair.methods.encode import BatchEncoder
from truepair.methods.rules import RelationsConfig, RuleSet
from truepair.methods.step import ItcConfig, ObjectivesConfig, PretrainStep
from truepair.models.fusion.albef import AlbefModel
from truepair.objectives.mlm import TokenMasker

STEPS_PER_EPOCH = 10


class RecordedMasker(TokenMasker):
    """Gives the recorded masks to the rows of MLM, which come in the recorded order."""

    def __init__(self, masked_ids: Tensor, labels: Tensor, vocab_size: int) -> None:
        super().__init__(mask_id=103, special_ids=[0, 101, 102], vocab_size=vocab_size)
        self.masks = masked_ids, labels

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """The recorded masked ids and labels [R, L]."""
        if input_ids.shape != self.masks[0].shape:
            raise ValueError(f"{len(input_ids)} rows of MLM, the recording has {len(self.masks[0])}")
        return self.masks


class RecordedStep:
    """The student, con-D and batch of a recording under the official rules.

    Args:
        student: The recorded student.
        discriminator: The recorded con-D.
        batch: Tensors of ``batch.safetensors``.
        config: ``config`` of ``expected.json``.
    """

    def __init__(
        self, student: AlbefModel, discriminator: AlbefModel, batch: Mapping[str, Tensor], config: Mapping[str, Any]
    ) -> None:
        self.batch = _pairs(batch)
        self.itm_logits: list[Tensor] = []
        student.itm_head.register_forward_hook(lambda _, __, logits: self.itm_logits.append(logits.detach()))
        self.step = PretrainStep(
            student,
            BatchEncoder(student),
            ObjectivesConfig(itc=ItcConfig(smoothing=config["smoothing"], smoothing_start_epoch=1, key_gradient=False)),
            RuleSet(RelationsConfig(rules=[], symmetric=False, ledger=False)),
            masker=RecordedMasker(batch["mlm_ids_masked"], batch["mlm_labels"], config["vocab_size"]),
            ecm=_ecm(discriminator, config),
            seed=0,
        )

    def losses(self, epoch: int) -> dict[str, Tensor]:
        """Train on the batch in an epoch: the losses; gradients are left in the student, ITM logits in this object."""
        self.itm_logits.clear()
        self.step.zero_grad()
        info = StepInfo(epoch, epoch * STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH, STEPS_PER_EPOCH)
        losses = self.step(self.batch, info).losses
        losses["loss"].backward()
        return {name: losses[name].detach() for name in ("mlm", "itc", "itm")}


def _pairs(batch: Mapping[str, Tensor]) -> PairBatch:
    """The recorded pairs, no two of one image or caption."""
    rows = torch.arange(len(batch["image"]))
    return PairBatch(
        pixel_values=batch["image"],
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        index=rows,
        source_index=rows,
        image_id=rows,
        caption_id=rows,
        caption_key=rows,
        captions=[str(row) for row in rows.tolist()],
        reasons=[""] * len(rows),
    )


def _ecm(discriminator: AlbefModel, config: Mapping[str, Any]) -> Ecm:
    # Judge and student read the same pixels and tokens; which preprocessing made them is not recorded.
    same = OwnPreprocessing(
        train_wordpiece(["any"], 60, min_frequency=1),
        max_length=12,
        add_sep=False,
        normalise=True,
        transform=TransformConfig(size=config["image_size"], normalisation="none", rand_augment_ops=0),
    )
    judge = AlbefJudge(discriminator, BatchView(discriminator, same, same), name="recorded", fingerprint="recorded")
    zones = official_zones(config["low_threshold"], config["high_threshold"])
    asked = JudgeConfig(checkpoint="recorded", view="batch")
    return Ecm(EcmConfig(judge=asked, zones=zones, symmetric=False, **OFFICIAL), judge)
