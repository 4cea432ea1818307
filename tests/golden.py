"""Check this implementation against recordings of what the official programs compute.

Usage: python tests/golden.py PATH...

A folder is one recorded MAFA pre-training step: student, con-D, batch, and all that was computed from them. A file is a
recorded GRIT walk.
For each recorded quantity the largest error is printed, relative to the largest recorded magnitude of that quantity.
All is computed in float32, as it was recorded, but for the gradient of the temperature, which is computed in float64:
it is a sum whose terms cancel (their magnitudes add up to 40 to 160 times the sum), so in float32 its error depends on
the processor, and reached 1.04e-4 on one.
Exit status 0 when all are within 1e-4, 1 when one is not, 2 when a path cannot be read.
"""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))  # run as a program, it is no part of a package

from tests.golden_grit import check_grit_order
from tests.golden_step import RecordedStep
from tests.official_ecm import OFFICIAL, official_order, official_zones, positives
from truepair.errors import TruepairError
from truepair.models.checkpoints.official import load_official, official_names
from truepair.models.dual.base import Encoded, ImageKeysValues
from truepair.models.fusion.albef import AlbefModel
from truepair.objectives.contrastive import Direction, contrastive_loss
from truepair.objectives.ecm import Connections, connect
from truepair.objectives.itm import HardNegatives, hardest_negatives, itm_loss
from truepair.objectives.mlm import mlm_loss
from truepair.relations.zones import Zones

TOLERANCE = 1e-4
CANCELLING = "gradient of temp"
SMOOTHING_STARTS = 1  # the official program smooths from its second epoch on


@dataclass(frozen=True)
class Check:
    """One recorded quantity, and how far off the same quantity is here."""

    name: str
    error: float

    @property
    def passed(self) -> bool:
        return self.error <= TOLERANCE  # a NaN does not pass

    def __str__(self) -> str:
        return f"{'PASS' if self.passed else 'FAIL'}  {self.error:9.2e}  {self.name}"


class AlbefStep:
    """A recorded step, and the same step here. All quantities are computed when first asked for.

    Args:
        folder: The recording.
        dtype: What the step here is computed in.
    """

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        record = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
        self.config: dict[str, Any] = record["config"]
        self.expected: dict[str, Any] = record["expected"]
        batch = load_file(folder / "batch.safetensors")
        self.batch = {name: part.to(dtype) if part.is_floating_point() else part for name, part in batch.items()}
        self.size = len(self.batch["image"])
        self.student = self._load(folder / "model.safetensors").to(dtype)
        self.discriminator = self._load(folder / "discriminator.safetensors").to(dtype)

    def _load(self, file: Path) -> AlbefModel:
        heads, dropout = self.config["heads"], self.config["dropout"]
        return load_official(
            file,
            image_encoder={"num_attention_heads": heads, "layer_norm_eps": self.config["vision_layer_norm_eps"]},
            num_attention_heads=heads,
            layer_norm_eps=self.config["text_layer_norm_eps"],
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )

    @cached_property
    def image(self) -> Encoded:
        return self.student.encode_images(self.batch["image"])

    @cached_property
    def text(self) -> Encoded:
        return self.student.encode_texts(self.batch["input_ids"], self.batch["attention_mask"])

    @cached_property
    def candidates(self) -> HardNegatives:
        """Hardest and second-hardest text of each image, and image of each text."""
        return hardest_negatives(self.image.features @ self.text.features.T / self.student.temperature)

    @cached_property
    def verdicts(self) -> tuple[Tensor, Tensor]:
        """Con-D's match probability of each image and its hardest text, and of each text and its hardest image."""
        model, own = self.discriminator, torch.arange(self.size)
        with torch.no_grad():
            keys_values = model.image_keys_values(model.image_states(self.batch["image"]))
            states = model.text_states(self.batch["input_ids"], self.batch["attention_mask"])
            i2t = self._match(model, own, self.candidates.i2t[:, 0], keys_values, states)
            t2i = self._match(model, self.candidates.t2i[:, 0], own, keys_values, states)
        return i2t.softmax(dim=1)[:, 1], t2i.softmax(dim=1)[:, 1]

    def _match(
        self, model: AlbefModel, images: Tensor, texts: Tensor, keys_values: ImageKeysValues, text_states: Tensor
    ) -> Tensor:
        mask = self.batch["attention_mask"][texts]
        return model.match(model.fuse(text_states[texts], mask, keys_values, images))

    @cached_property
    def connections(self) -> Connections:
        """What ECM makes of the verdicts under the official rules."""
        return connect(self.candidates, *self.verdicts, self.zones, **OFFICIAL)

    @property
    def zones(self) -> Zones:
        """Thresholds of the recording."""
        return official_zones(self.config["low_threshold"], self.config["high_threshold"])

    @property
    def itm_order(self) -> Tensor:
        """ITM rows in the official order."""
        return official_order(self.connections, *self.verdicts, self.zones)

    @cached_property
    def keys_values(self) -> ImageKeysValues:
        return self.student.image_keys_values(self.image.states)

    @cached_property
    def itm_logits(self) -> Tensor:
        """Logits of all ITM rows in the official order."""
        order, pairs = self.itm_order, self.connections.pairs
        images, texts = pairs.images[order], pairs.texts[order]
        return self._match(self.student, images, texts, self.keys_values, self.text.states)

    @cached_property
    def loss_itm(self) -> Tensor:
        return itm_loss(self.itm_logits, self.connections.pairs.labels[self.itm_order])

    @cached_property
    def mlm_texts(self) -> Tensor:
        """The text of each MLM row: the pairs, conversions found per image, conversions found per text."""
        return torch.cat([torch.arange(self.size), self.connections.converted.columns])

    @cached_property
    def loss_mlm(self) -> Tensor:
        images = torch.cat([torch.arange(self.size), self.connections.converted.rows])
        labels, mask = self.batch["mlm_labels"], self.batch["attention_mask"][self.mlm_texts]
        states = self.student.text_states(self.batch["mlm_ids_masked"], mask)
        fused = self.student.fuse(states, mask, self.keys_values, images)
        predicted = labels != -100
        return mlm_loss(self.student.predict_tokens(fused, predicted), labels[predicted])

    def loss_itc(self, smoothing: float) -> Tensor:
        """S-ITC: a conversion is one more positive of its own row only, and keys get no gradient."""
        return contrastive_loss(
            self.image.features,
            self.text.features,
            self.student.temperature,
            rows=Direction(positives(self.connections, "i2t", symmetric=False), smoothing),
            columns=Direction(positives(self.connections, "t2i", symmetric=False), smoothing),
            key_gradient=False,
        ).loss

    def grad_norm(self, official: str) -> Tensor:
        """Norm of the gradient of a parameter, given by its official name."""
        parameters = dict(self.student.named_parameters())
        grads = [parameters[name].grad for name in official_names(self.student.config)[official]]
        return torch.stack([grad.norm() for grad in grads if grad is not None]).norm()


def feature_checks(step: AlbefStep) -> Iterator[Check]:
    yield compare("image_feat", step.image.features, step.batch["image_feat"])
    yield compare("text_feat", step.text.features, step.batch["text_feat"])


def mining_checks(step: AlbefStep) -> Iterator[Check]:
    yield compare_ids("hard_i2t_top2", step.candidates.i2t, step.batch["hard_i2t_top2"])
    yield compare_ids("hard_t2i_top2", step.candidates.t2i, step.batch["hard_t2i_top2"])
    yield compare("cond_score_i2t", step.verdicts[0], step.batch["cond_score_i2t"])
    yield compare("cond_score_t2i", step.verdicts[1], step.batch["cond_score_t2i"])
    for zone, count in step.expected["zones"].items():
        found = step.connections.counts[f"i2t/{zone}"] + step.connections.counts[f"t2i/{zone}"]
        yield compare_ids(f"zones: {zone}", found, torch.tensor(count))


def pair_checks(step: AlbefStep) -> Iterator[Check]:
    logits, recorded = step.itm_logits, step.batch["itm_logits"]
    yield compare("itm_logits of the positives", logits[: step.size], recorded[: step.size])
    yield compare("itm_logits", logits, recorded)
    yield compare_ids("mlm_ids_in", step.batch["input_ids"][step.mlm_texts], step.batch["mlm_ids_in"])
    labels, masked = step.batch["mlm_labels"], step.batch["mlm_ids_masked"]
    # The draw itself is given; what can be checked is that labels mean here what they mean there.
    yield compare_ids("mlm_labels", torch.where(labels == -100, masked, labels), step.batch["mlm_ids_in"])


def loss_checks(step: AlbefStep) -> Iterator[Check]:
    for epoch in (0, 1):
        recorded = step.expected[f"epoch{epoch}"]
        itc = step.loss_itc(step.config["smoothing"] if epoch >= SMOOTHING_STARTS else 0.0)
        for name, loss in (("loss_mlm", step.loss_mlm), ("loss_itc", itc), ("loss_itm", step.loss_itm)):
            yield compare(f"epoch {epoch}: {name}", loss, torch.tensor(recorded[name]))
        step.student.zero_grad()
        (step.loss_mlm + itc + step.loss_itm).backward(retain_graph=True)
        for name, norm in recorded["grad_norms"].items():
            yield compare(f"epoch {epoch}: gradient of {name}", step.grad_norm(name), torch.tensor(norm))


def trained_checks(step: AlbefStep) -> Iterator[Check]:
    """The same numbers from the step that training takes, composed of its parts as a recipe composes it."""
    trained = RecordedStep(step.student, step.discriminator, step.batch, step.config)
    for epoch in (0, 1):
        recorded = step.expected[f"epoch{epoch}"]
        for name, loss in trained.losses(epoch).items():
            yield compare(f"step, epoch {epoch}: loss_{name}", loss, torch.tensor(recorded[f"loss_{name}"]))
        for name, norm in recorded["grad_norms"].items():
            yield compare(f"step, epoch {epoch}: gradient of {name}", step.grad_norm(name), torch.tensor(norm))
        # The step reads the pairs in an order of its own.
        logits = torch.cat(trained.itm_logits).sort(dim=0).values
        yield compare(f"step, epoch {epoch}: itm_logits", logits, step.batch["itm_logits"].sort(dim=0).values)


STEP_CHECKS: tuple[Callable[[AlbefStep], Iterator[Check]], ...] = (
    feature_checks,
    mining_checks,
    pair_checks,
    loss_checks,
    trained_checks,
)


def compare(name: str, found: Tensor, recorded: Tensor) -> Check:
    """Largest absolute difference, relative to the largest recorded magnitude."""
    if found.shape != recorded.shape:
        return Check(f"{name}: shape {list(found.shape)}, recorded {list(recorded.shape)}", float("inf"))
    difference, scale = (found.detach() - recorded).abs().max(), recorded.abs().max()
    return Check(name, float(difference / scale.clamp(min=torch.finfo(torch.float32).tiny)))


def compare_ids(name: str, found: Tensor, recorded: Tensor) -> Check:
    """Share of entries that differ."""
    if found.shape != recorded.shape:
        return Check(f"{name}: shape {list(found.shape)}, recorded {list(recorded.shape)}", float("inf"))
    return Check(name, float((found != recorded).double().mean()))


def check(path: Path) -> list[Check]:
    """All checks of one recording.

    Raises:
        TruepairError, SafetensorError, OSError, ValueError, KeyError: when the recording cannot be read.
    """
    if path.is_dir():
        step, precise = AlbefStep(path), AlbefStep(path, torch.float64)
        in_float64 = {result.name: result for checks in (loss_checks, trained_checks) for result in checks(precise)}
        results = [result for checks in STEP_CHECKS for result in checks(step)]
        return [in_float64[result.name] if CANCELLING in result.name else result for result in results]
    return [Check(name, error) for name, error in check_grit_order(path)]


def main(paths: list[str]) -> int:
    """Print the checks of all recordings."""
    if not paths:
        print(__doc__)
        return 2
    status = 0
    for path in map(Path, paths):
        print(path)
        try:
            results = check(path)
        except (TruepairError, SafetensorError, OSError, ValueError, KeyError) as error:
            print(f"ERROR {type(error).__name__}: {error}")
            status = 2
            continue
        for result in results:
            print(f"  {result}")
        worst = max(results, key=lambda result: result.error)
        failed = sum(not result.passed for result in results)
        print(f"  {len(results)} checks, {failed} failed; largest error {worst.error:.2e} ({worst.name})")
        status = max(status, int(failed > 0))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
