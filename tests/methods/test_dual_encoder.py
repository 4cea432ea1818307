"""A model of the hub that knows nothing of this package trains with everything that manages false negatives."""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from transformers import AutoModel, CLIPImageProcessor, CLIPModel, VisionTextDualEncoderModel

from tests.engine.stopping import die_in_step
from tests.models.dual.tiny_hub import clip, seeded, siglip, vit_and_bert
from truepair.data.identity import match_keys
from truepair.data.open import open_pairs
from truepair.data.pairs import PairDataset
from truepair.data.preprocessing import Preprocessing
from truepair.data.tokens import train_wordpiece
from truepair.data.transforms import TransformConfig
from truepair.engine.logs.log import read_log
from truepair.engine.loop.config import LoopConfig
from truepair.engine.loop.loop import TrainingLoop
from truepair.engine.loop.optimizer import OptimizerConfig
from truepair.engine.loop.step import StepInfo
from truepair.errors import ConfigError
from truepair.methods.encode import BatchEncoder, MicroBatches
from truepair.methods.frozen import FrozenOnBatch
from truepair.methods.momentum import MomentumConfig, MomentumModel
from truepair.methods.rules import RelationsConfig, RuleSet
from truepair.methods.srcl import SrclConfig, SrclWeights
from truepair.methods.step import ItcConfig, ItmConfig, MlmConfig, ObjectivesConfig, PretrainStep
from truepair.models import DualEncoder, HubDualEncoder
from truepair.models.dual.hub_preprocessing import HubPreprocessing
from truepair.objectives.srcl import RegulationConfig
from truepair.relations.ledger import Ledger, read_verdicts
from truepair.sampling.batches import SamplerConfig

ITC = ItcConfig(smoothing=0.3, smoothing_start_epoch=1)  # S-ITC
ITC_ALONE = ObjectivesConfig(itc=ITC, itm=ItmConfig(weight=0.0), mlm=MlmConfig(weight=0.0))
SLOW = MomentumConfig(queue_size=12, decay=0.9)
GRIT = SamplerConfig(kind="grit", queue_size=24, search_space=12)


def encoder(family: Any = clip) -> HubDualEncoder:
    """A tiny model, with dropout nowhere: a batch taken in parts must be the batch taken whole."""
    return HubDualEncoder(seeded(family))


def preprocessing() -> HubPreprocessing:
    processor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    texts = ["a small red square", "green square, middle", "a large blue square", "white square, small"]
    tokenizer = train_wordpiece(texts, 40, min_frequency=1)
    return HubPreprocessing(
        processor, tokenizer, 9, TransformConfig(size=16, normalisation="encoder", rand_augment_ops=0)
    )


@dataclass
class HubRun:
    """Two epochs on the squares: mined rules, GRIT, SRCL by a frozen model, S-ITC, a momentum model if asked for."""

    squares: Path
    folder: Path
    family: Any = clip
    micro_batch: int = 0
    momentum: bool = False
    loss: Literal["softmax", "sigmoid"] = "softmax"
    loop: dict[str, Any] = field(default_factory=dict)

    def student(self) -> tuple[DualEncoder, Preprocessing]:
        """What is trained, and how captions and images reach it."""
        return encoder(self.family), preprocessing()

    def guide(self) -> DualEncoder:
        """Another model of the same captions and images, for SRCL and for a rule."""
        return encoder(vit_and_bert)

    def build(self) -> TrainingLoop:
        table = open_pairs(self.squares / "pairs.jsonl").split("train")
        model, own = self.student()
        parts = BatchEncoder(model, parts=MicroBatches(self.micro_batch))
        rules = [
            {"detector": "same_image", "action": "relabel"},
            {"detector": "same_caption", "action": "relabel"},
            {"detector": "recorded", "ledger": str(self._mined(table)), "zone": "match", "action": "relabel"},
            {"detector": "guide", "margin": 0.02, "action": "mask"},
        ]
        frozen = FrozenOnBatch(BatchEncoder(self.guide(), parts=MicroBatches(self.micro_batch)))
        srcl = SrclConfig(weights=RegulationConfig("tempered"), alpha=0.7, seed_model="seed")
        step = PretrainStep(
            model,
            parts,
            replace(ITC_ALONE, itc=replace(ITC, loss=self.loss)),
            RuleSet(RelationsConfig(rules=rules, guide_model="guide")),
            srcl=None if self.momentum else SrclWeights(srcl, frozen),
            momentum=MomentumModel(parts, MomentumConfig(queue_size=12, decay=0.9), len(table))
            if self.momentum
            else None,
            guide=frozen,
            ledger=Ledger(self.folder / "ledger"),
        )
        settings: dict[str, Any] = {"epochs": 2, "batch_size": 12, "workers": 0, "log_every": 1, "cpu": True}
        return TrainingLoop(
            step,
            PairDataset(table, own.images(train=True)),
            own,
            own.collator(),
            loop=LoopConfig(**settings | {"checkpoint_every": 1, "micro_batch": self.micro_batch} | self.loop),
            optimizer=OptimizerConfig(learning_rate=0.01, warmup_steps=1),
            run_folder=self.folder,
            sampler=GRIT,
            keys=match_keys(table, "draw"),
        )

    def _mined(self, table: Any) -> Path:
        """A ledger that finds the shades of one square; made once."""
        folder = self.folder.parent / "mined"
        if not folder.exists():
            groups, ids = table.values("group"), table.values("caption_ids")
            cells = [(i, j) for i in range(len(table)) for j in range(len(table)) if i != j and groups[i] == groups[j]]
            images = torch.tensor([int(table.image_ids[i]) for i, _ in cells])
            with Ledger(folder) as ledger:
                captions = torch.tensor([ids[j][0] for _, j in cells])
                ledger.record(images, captions, torch.full((len(cells),), 0.9), judge="mined:squares")
        return folder


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModel.from_pretrained(folder / "model").state_dict()


def stop_and_go_on(run: HubRun) -> TrainingLoop:
    """Train, break off in the fifth step, and go on from the checkpoint."""
    die_in_step(run.build(), 5)
    resumed = run.build()
    resumed.run()
    return resumed


@pytest.mark.parametrize(("momentum", "loss"), [(False, "softmax"), (True, "softmax"), (True, "sigmoid")])
def test_a_clip_trains_resumes_and_goes_home_as_itself(
    squares: Path, tmp_path: Path, momentum: bool, loss: Literal["softmax", "sigmoid"]
) -> None:
    before = {name: value.clone() for name, value in encoder().model.state_dict().items()}
    whole_run = HubRun(squares, tmp_path / "whole", momentum=momentum, loss=loss).build()
    whole_run.run()
    resumed_run = stop_and_go_on(HubRun(squares, tmp_path / "stopped", momentum=momentum, loss=loss))
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert (tmp_path / "whole/log.jsonl").read_bytes() == (tmp_path / "stopped/log.jsonl").read_bytes()
    biases = [run.bare_step.own_bias for run in (whole_run, resumed_run)]  # type: ignore[attr-defined]
    if loss == "sigmoid":
        assert torch.equal(*biases) and biases[0] != -10.0
        logged = [record for record in read_log(tmp_path / "whole/log.jsonl") if record["kind"] == "step"]
        assert len({record["bias"] for record in logged}) == len(logged) and "mi_bound" not in logged[0]
    else:
        assert biases == [None, None]
    moved = {name.split(".")[0] for name in whole if not torch.equal(whole[name], before[name])}
    assert {"vision_model", "text_model", "visual_projection", "text_projection", "logit_scale"} <= moved
    assert isinstance(CLIPModel.from_pretrained(tmp_path / "whole/model"), CLIPModel)  # no truepair needed
    heard = read_verdicts(tmp_path / "whole/ledger")
    assert set(heard["judge"].to_pylist()) == {"mined:squares"} and len(heard) > 10


@pytest.mark.parametrize("momentum", [False, True])
def test_parts_of_a_batch_have_the_gradients_of_the_whole(squares: Path, tmp_path: Path, momentum: bool) -> None:
    gradients = []
    for micro_batch in (0, 5):
        loop = HubRun(squares, tmp_path / str(micro_batch), micro_batch=micro_batch, momentum=momentum).build()
        batch = loop.collate(loop.dataset.__getitems__(list(range(12))))  # type: ignore[attr-defined]
        output = loop.bare_step(batch, StepInfo(epoch=1, step=4, total_steps=6, steps_per_epoch=3))
        output.losses["loss"].backward()
        gradients.append({name: weight.grad for name, weight in loop.model.named_parameters()})
    for name, gradient in gradients[0].items():
        difference = (gradients[1][name] - gradient).norm()
        assert difference <= 1e-4 * gradient.norm() + 1e-7, name


@pytest.mark.parametrize("family", [vit_and_bert, siglip])
def test_other_families_train(squares: Path, tmp_path: Path, family: Any) -> None:
    before = {name: value.clone() for name, value in encoder(family).model.state_dict().items()}
    HubRun(squares, tmp_path / "run", family=family, loop={"epochs": 1}).build().run()
    after = weights(tmp_path / "run")
    assert sum(not torch.equal(after[name], before[name]) for name in after) > len(after) / 2
    if family is vit_and_bert:
        assert isinstance(
            VisionTextDualEncoderModel.from_pretrained(tmp_path / "run/model"), VisionTextDualEncoderModel
        )


def test_a_siglip_learns_the_bias_it_has(squares: Path, tmp_path: Path) -> None:
    before = encoder(siglip).model.logit_bias.detach().clone()
    loop = HubRun(squares, tmp_path / "run", family=siglip, loss="sigmoid", loop={"epochs": 1}).build()
    assert loop.bare_step.own_bias is None  # type: ignore[attr-defined]
    loop.run()
    assert not torch.equal(weights(tmp_path / "run")["logit_bias"], before)
    last = [record for record in read_log(tmp_path / "run/log.jsonl") if record["kind"] == "step"][-1]
    assert math.isfinite(last["loss"]) and last["bias"] != float(before)


def test_losses_that_fuse_are_refused_in_one_line() -> None:
    model = encoder()
    with pytest.raises(ConfigError, match=r"set objectives\.itm\.weight and objectives\.mlm\.weight to 0"):
        PretrainStep(model, BatchEncoder(model), ObjectivesConfig(), RuleSet(RelationsConfig()))
