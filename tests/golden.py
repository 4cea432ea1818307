"""Check this implementation against recordings of what the official programs compute.

Usage: python tests/golden.py PATH...

A folder with `expected.json` is one MAFA pre-training step: student, con-D, batch, and all that was computed from them.
For each recorded quantity the largest error is printed, relative to the largest recorded magnitude of that quantity.
Exit status 0 when all are within 1e-4, 1 when one is not, 2 when a path cannot be read.
"""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from truepair.errors import TruepairError
from truepair.models.albef import AlbefModel, Encoded
from truepair.models.official import load_official, official_names
from truepair.objectives.contrastive import contrastive_loss
from truepair.objectives.direction import Direction
from truepair.objectives.masking import mlm_loss
from truepair.objectives.matching import hardest_negatives, itm_loss
from truepair.relations.pairs import PairSet

TOLERANCE = 1e-4
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


class Pairs(NamedTuple):
    """Rows of fusion: which image meets which text."""

    images: Tensor  # [R]
    texts: Tensor  # [R]


class AlbefStep:
    """A recorded step, and the same step here. All quantities are computed when first asked for."""

    def __init__(self, folder: Path) -> None:
        record = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
        self.config: dict[str, Any] = record["config"]
        self.expected: dict[str, Any] = record["expected"]
        self.batch = load_file(folder / "batch.safetensors")
        self.size = len(self.batch["image"])
        self.student = self._load(folder / "model.safetensors")
        self.discriminator = self._load(folder / "discriminator.safetensors")

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
        return self.student.encode_image(self.batch["image"])

    @cached_property
    def text(self) -> Encoded:
        return self.student.encode_text(self.batch["input_ids"], self.batch["attention_mask"])

    @cached_property
    def tops(self) -> tuple[Tensor, Tensor]:
        """Hardest and second-hardest text of each image, and image of each text, [B, 2] each."""
        scores = self.image.feature @ self.text.feature.T / self.student.temperature
        found = hardest_negatives(scores)
        return found.i2t, found.t2i

    @cached_property
    def judged(self) -> tuple[Pairs, Pairs]:
        """The pairs that con-D judges: per text its hardest image, per image its hardest text."""
        own = torch.arange(self.size)
        i2t, t2i = self.tops
        return Pairs(t2i[:, 0], own), Pairs(own, i2t[:, 0])

    @cached_property
    def verdicts(self) -> tuple[Tensor, Tensor]:
        """Con-D's probabilities of `judged`: text side [B], image side [B]."""
        model = self.discriminator
        with torch.no_grad():
            keys_values = model.image_keys_values(model.image_states(self.batch["image"]))
            states = model.text_states(self.batch["input_ids"], self.batch["attention_mask"])
            logits = [self._match(model, pairs, keys_values, states) for pairs in self.judged]
        return logits[0].softmax(dim=1)[:, 1], logits[1].softmax(dim=1)[:, 1]

    def _match(self, model: AlbefModel, pairs: Pairs, keys_values: Any, text_states: Tensor) -> Tensor:
        mask = self.batch["attention_mask"][pairs.texts]
        return model.match(model.fuse(text_states[pairs.texts], mask, keys_values, pairs.images))

    @cached_property
    def zones(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Which of the judged pairs fall in each zone, text side [B] and image side [B]; both bounds are strict."""
        low, high = self.config["low_threshold"], self.config["high_threshold"]
        text, image = self.verdicts
        return {
            "below": (text < low, image < low),
            "between": ((text > low) & (text < high), (image > low) & (image < high)),
            "above": (text > high, image > high),
        }

    @cached_property
    def itm_pairs(self) -> tuple[Pairs, Tensor]:
        """Rows of ITM in the official order, and their labels [3B]."""
        own = torch.arange(self.size)
        second = Pairs(self.tops[1][:, 1], own), Pairs(own, self.tops[0][:, 1])
        groups = [(own, own, 1)]
        for zone, sides, label in (("below", self.judged, 0), ("above", self.judged, 1), ("between", second, 0)):
            for pairs, chosen in zip(sides, self.zones[zone], strict=True):
                groups.append((pairs.images[chosen], pairs.texts[chosen], label))
        images, texts = torch.cat([group[0] for group in groups]), torch.cat([group[1] for group in groups])
        labels = torch.cat([torch.full_like(group[0], group[2]) for group in groups])
        return Pairs(images, texts), labels

    @cached_property
    def keys_values(self) -> Any:
        return self.student.image_keys_values(self.image.states)

    @cached_property
    def itm_logits(self) -> Tensor:
        return self._match(self.student, self.itm_pairs[0], self.keys_values, self.text.states)

    @cached_property
    def mlm_pairs(self) -> Pairs:
        """Rows of MLM in the official order: the pairs, conversions found per image, conversions found per text."""
        own = torch.arange(self.size)
        (text_side, image_side), (by_text, by_image) = self.judged, self.zones["above"]
        images = torch.cat([own, image_side.images[by_image], text_side.images[by_text]])
        return Pairs(images, torch.cat([own, image_side.texts[by_image], text_side.texts[by_text]]))

    @cached_property
    def loss_mlm(self) -> Tensor:
        labels, mask = self.batch["mlm_labels"], self.batch["attention_mask"][self.mlm_pairs.texts]
        states = self.student.text_states(self.batch["mlm_ids_masked"], mask)
        fused = self.student.fuse(states, mask, self.keys_values, self.mlm_pairs.images)
        predicted = labels != -100
        return mlm_loss(self.student.predict_tokens(fused, predicted), labels[predicted])

    @cached_property
    def loss_itm(self) -> Tensor:
        return itm_loss(self.itm_logits, self.itm_pairs[1])

    def loss_itc(self, smoothing: float) -> Tensor:
        """S-ITC: a conversion is one more positive of its own row only, and keys get no gradient."""
        (text_side, image_side), (by_text, by_image) = self.judged, self.zones["above"]
        i2t = self._positives(torch.nonzero(by_image).squeeze(1), image_side.texts[by_image])
        t2i = self._positives(torch.nonzero(by_text).squeeze(1), text_side.images[by_text])
        return contrastive_loss(
            self.image.feature,
            self.text.feature,
            self.student.temperature,
            rows=Direction(i2t, smoothing),
            columns=Direction(t2i, smoothing),
            key_gradient=False,
        ).loss

    def _positives(self, rows: Tensor, columns: Tensor) -> PairSet:
        shape = (self.size, self.size)
        return PairSet.union(PairSet.diagonal(*shape), PairSet(rows, columns, torch.ones(len(rows)), shape))

    def grad_norm(self, official: str) -> Tensor:
        """Norm of the gradient of a parameter, given by its official name."""
        parameters = dict(self.student.named_parameters())
        grads = [parameters[name].grad for name in official_names(self.student.config)[official]]
        return torch.stack([grad.norm() for grad in grads if grad is not None]).norm()


def feature_checks(step: AlbefStep) -> Iterator[Check]:
    yield compare("image_feat", step.image.feature, step.batch["image_feat"])
    yield compare("text_feat", step.text.feature, step.batch["text_feat"])


def mining_checks(step: AlbefStep) -> Iterator[Check]:
    i2t, t2i = step.tops
    yield compare_ids("hard_i2t_top2", i2t, step.batch["hard_i2t_top2"])
    yield compare_ids("hard_t2i_top2", t2i, step.batch["hard_t2i_top2"])
    yield compare("cond_score_t2i", step.verdicts[0], step.batch["cond_score_t2i"])
    yield compare("cond_score_i2t", step.verdicts[1], step.batch["cond_score_i2t"])
    for zone, count in step.expected["zones"].items():
        found = sum(int(side.sum()) for side in step.zones[zone])
        yield compare_ids(f"zones: {zone}", torch.tensor([found]), torch.tensor([count]))


def pair_checks(step: AlbefStep) -> Iterator[Check]:
    logits, recorded = step.itm_logits, step.batch["itm_logits"]
    yield compare("itm_logits of the positives", logits[: step.size], recorded[: step.size])
    yield compare("itm_logits", logits, recorded)
    yield compare_ids("mlm_ids_in", step.batch["input_ids"][step.mlm_pairs.texts], step.batch["mlm_ids_in"])
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


STEP_CHECKS: tuple[Callable[[AlbefStep], Iterator[Check]], ...] = (
    feature_checks,
    mining_checks,
    pair_checks,
    loss_checks,
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
        TruepairError, OSError, ValueError, KeyError: when the recording cannot be read.
    """
    if path.is_dir():
        step = AlbefStep(path)
        return [result for checks in STEP_CHECKS for result in checks(step)]
    raise TruepairError(f"{path} is no folder with a recorded step.")


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
