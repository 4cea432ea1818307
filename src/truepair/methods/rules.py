"""Relations of a batch in training: the recipe's rules, applied to what a step knows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from truepair.errors import ConfigError
from truepair.methods.encode import StepView, full_precision
from truepair.objectives.srcl import Regulation, RegulationConfig, normalised_weights
from truepair.randomness import keyed_uniform, sample_keys
from truepair.relations.actions import Action, Keep, Mask, Relabel, Reweight, Skip, Smooth
from truepair.relations.batch import BatchRelations, Rule
from truepair.relations.detectors import (
    Detector,
    GuideSimilarity,
    JudgedScore,
    LowWeight,
    MomentumSimilarity,
    RandomPairs,
    RecordedVerdict,
    SameCaption,
    SameGroup,
    SameImage,
    Signals,
)
from truepair.relations.ledger import VerdictIndex, read_ledger
from truepair.relations.pairs import PairSet

Indices = NDArray[np.int64]

ENCODERS = "encoders"
"""As ``guide_model``: the means of the run's own frozen states."""


@dataclass(frozen=True, kw_only=True)
class RuleConfig:
    """What to look for, and what to do about it. Of several rules that find a pair, the first counts.

    Attributes:
        detector: same_image, same_caption, same_group (what clean data declares), recorded (a ledger), guide (another
            dual encoder), weight (a low weight in SRCL), momentum (the momentum model), con_d (a discriminator that
            judges all pairs) or random (a control).
        action: keep (a negative), mask (left out), relabel (a match), reweight, swap (no ITM negative) or smooth (a
            share of the target).
        ledger: Folder or file of the verdicts, for "recorded".
        ledger_actions: Recorded actions that count; when empty all but keep, which says that a pair does not match.
        margin: For "guide" and "momentum": how far below the own pair's similarity still counts.
        strategy: "absolute" or "relative" margin.
        compare: For "guide": "across" compares image i with text j, "images" image i with image j, "texts" text i with
            text j; then 1 takes the place of the own pair's similarity.
        low: For "con_d": least score that counts.
        high: For "con_d" and "weight": scores and weights from here on do not count.
        rate: For "random": share of all pairs.
        floor: For "reweight": least weight.
        share: For "smooth": share of the target, where the own pair has 1.
    """

    detector: str
    action: str
    ledger: str | None = None
    ledger_actions: list[str] = field(default_factory=list)
    margin: float = 0.05
    strategy: str = "absolute"
    compare: str = "across"
    low: float = 0.8
    high: float = 2.0
    rate: float = 0.0
    floor: float = 0.0
    share: float = 0.5

    def __post_init__(self) -> None:
        if self.detector not in _DETECTORS:
            raise ConfigError(f"relations.rules: no detector '{self.detector}'; give one of {', '.join(_DETECTORS)}")
        if self.action not in _ACTIONS:
            raise ConfigError(f"relations.rules: no action '{self.action}'; give one of {', '.join(_ACTIONS)}")
        if self.detector == "recorded" and self.ledger is None:
            raise ConfigError(
                "relations.rules: detector 'recorded' needs ledger, the folder of an earlier run's ledger"
            )
        for action in self.ledger_actions:
            if action not in _ACTIONS:
                raise ConfigError(f"relations.rules: ledger_actions has '{action}'; give some of {', '.join(_ACTIONS)}")

    def build(self) -> Rule:
        """The rule; a ledger is read."""
        return Rule(_DETECTORS[self.detector](self), _ACTIONS[self.action](self))


def _same_pairs() -> list[RuleConfig]:
    return [RuleConfig(detector=name, action="relabel") for name in ("same_image", "same_caption")]


@dataclass(frozen=True, kw_only=True)
class RelationsConfig:
    """Which pairs of a batch are known or suspected to match.

    Attributes:
        rules: In the order of precedence. The default makes pairs of one image id or one caption text matches.
        symmetric: A finding holds in both directions of ITC, whichever side found it.
        guide_model: Folder or name of the model that the detectors "guide" and "weight" ask. "encoders" is the means of
            the run's own frozen states, as they come: images compare with images, texts with texts.
        weights: Form and sharpness of the weights that the detector "weight" looks at.
        extra_rows: Most relabelled pairs that ITM and MLM read as further positives, as a share of the batch; which
            ones is drawn by lot. Pairs of one caption text are not read again.
        ledger: Keep every verdict in the run folder, in ``ledger/``.
    """

    rules: list[RuleConfig] = field(default_factory=_same_pairs)
    symmetric: bool = True
    guide_model: str | None = None
    weights: RegulationConfig = field(default_factory=RegulationConfig)
    extra_rows: float = 1.0
    ledger: bool = True

    def __post_init__(self) -> None:
        if self.extra_rows < 0:
            raise ConfigError(f"relations.extra_rows is {self.extra_rows}; give 0 or more")
        guided = [rule for rule in self.rules if rule.detector in ("guide", "weight")]
        if guided and self.guide_model is None:
            name = guided[0].detector
            raise ConfigError(f"relations.rules: detector '{name}' needs relations.guide_model, a trained model")
        if self.guide_model == ENCODERS and not all(rule.compare in ("images", "texts") for rule in guided):
            raise ConfigError(
                "relations.guide_model 'encoders' compares no image with a text; give rules of detector 'guide' with "
                "compare 'images' or 'texts', or a trained model"
            )

    @property
    def finds(self) -> bool:
        """Whether a rule speaks of pairs that their ids and texts do not already declare."""
        return any(rule.detector not in ("same_image", "same_caption", "same_group") for rule in self.rules)


class Relator:
    """Applies the recipe's rules.

    Args:
        config: The rules.
        groups: What each row of the training table shows, int64 [N]; for the detector "same_group".

    Raises:
        ConfigError: A rule asks for groups that the data does not state.
    """

    def __init__(self, config: RelationsConfig, groups: Tensor | None = None) -> None:
        self.config = config
        by_group = any(rule.detector == SameGroup.name for rule in config.rules)
        if by_group and groups is None:
            raise ConfigError("relations.rules: detector 'same_group' needs a group column, which the data has not")
        self.groups = groups if by_group else None
        self.rules = [rule.build() for rule in config.rules]

    def recorded(self, image_ids: Indices, caption_ids: Indices) -> list[str]:
        """One line for each ledger: what it says of the training pairs.

        Args:
            image_ids: Of the training pairs, int64 [N].
            caption_ids: Of all their captions, int64 [M].

        Raises:
            ConfigError: A ledger has verdicts, but on none of these pairs.
        """
        lines = []
        for config, rule in zip(self.config.rules, self.rules, strict=True):
            if not isinstance(rule.detector, RecordedVerdict):
                continue
            actions = f" of action {' or '.join(config.ledger_actions)}" if config.ledger_actions else ""
            count = len(rule.detector.verdicts)
            known = rule.detector.verdicts.about(image_ids, caption_ids)
            if count and not known:
                raise ConfigError(
                    f"{config.ledger}: none of its {count:,} verdicts{actions} is about a training pair; it is of "
                    "other data"
                )
            lines.append(f"{config.ledger}: {known:,} of {count:,} verdicts{actions} are about training pairs")
        return lines

    def relate(
        self,
        view: StepView,
        *,
        guide: tuple[Tensor, Tensor] | None = None,
        momentum: tuple[Tensor, Tensor] | None = None,
        judged: PairSet | None = None,
    ) -> BatchRelations:
        """What is known about the pairs of a batch.

        Args:
            view: The batch of all ranks.
            guide: Image and text features of the guide model [B, G].
            momentum: Those of the momentum model [B, E].
            judged: con-D's scores of the cells it was asked about [B, B].
        """
        guide_images, guide_texts = _full_precision(guide)
        by_image, by_text = self._weights(guide_images, guide_texts)
        momentum_images, momentum_texts = _full_precision(momentum)
        evidence = Signals(
            image_ids=view.batch.image_id,
            caption_ids=view.batch.caption_id,
            caption_keys=view.batch.caption_key,
            groups=None if self.groups is None else self.groups.to(view.batch.image_id.device)[view.batch.source_index],
            guide_images=guide_images,
            guide_texts=guide_texts,
            momentum_images=momentum_images,
            momentum_texts=momentum_texts,
            judged=judged,
            weights_by_image=by_image,
            weights_by_text=by_text,
        )
        with torch.autocast(view.image_features.device.type, enabled=False):
            return BatchRelations.detect(evidence, self.rules, symmetric=self.config.symmetric)

    def _weights(self, images: Tensor | None, texts: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """The weights of both directions as images by texts [B, B], by the guide's similarity, if a rule asks."""
        if images is None or texts is None or not any(rule.detector.name == LowWeight.name for rule in self.rules):
            return None, None
        similarity = images @ texts.T  # [B, B]
        logs = Regulation(self.config.weights).log_weights(slice(None), slice(None), similarity)
        others = ~torch.eye(len(images), dtype=torch.bool, device=images.device)
        by_image, by_text = normalised_weights(logs, others), normalised_weights(logs.T, others).T
        return by_image + 2.0 * ~others, by_text + 2.0 * ~others  # own pairs are no candidates

    def extra_matches(self, relations: BatchRelations, view: StepView, seed: int) -> PairSet:
        """Relabelled pairs that ITM and MLM read as further positives: those of another text, by lot if too many."""
        keys = view.batch.caption_key
        matches = relations.matches()
        matches = matches.where(keys[matches.rows] != keys[matches.columns])
        most = round(self.config.extra_rows * view.size)
        if len(matches) <= most:
            return matches
        lots = keyed_uniform(sample_keys(seed, view.info.step, matches.linear), 1).squeeze(1)  # [P]
        return matches.where(torch.argsort(lots)[:most].sort().values)


def _full_precision(features: tuple[Tensor, Tensor] | None) -> tuple[Tensor | None, Tensor | None]:
    return (None, None) if features is None else (full_precision(features[0]), full_precision(features[1]))


_DETECTORS: Mapping[str, Callable[[RuleConfig], Detector]] = {
    "same_image": lambda _: SameImage(),
    "same_caption": lambda _: SameCaption(),
    "same_group": lambda _: SameGroup(),
    "recorded": lambda rule: RecordedVerdict(
        VerdictIndex.from_table(
            read_ledger(str(rule.ledger)), actions=rule.ledger_actions or sorted({*_ACTIONS} - {"keep"})
        )
    ),
    "guide": lambda rule: GuideSimilarity(rule.margin, rule.strategy, rule.compare),  # type: ignore[arg-type]
    "weight": lambda rule: LowWeight(rule.high),
    "random": lambda rule: RandomPairs(rule.rate),
    "momentum": lambda rule: MomentumSimilarity(rule.margin, rule.strategy),  # type: ignore[arg-type]
    "con_d": lambda rule: JudgedScore(rule.low, rule.high),
}

_ACTIONS: Mapping[str, Callable[[RuleConfig], Action]] = {
    "keep": lambda _: Keep(),
    "mask": lambda _: Mask(),
    "relabel": lambda _: Relabel(),
    "reweight": lambda rule: Reweight(rule.floor),
    "swap": lambda _: Skip(),
    "smooth": lambda rule: Smooth(rule.share),
}
