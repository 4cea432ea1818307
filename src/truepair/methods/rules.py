"""The rules of a recipe in training: which pairs of a batch are taken for matches, and what is done about them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from truepair.errors import ConfigError
from truepair.methods.encode import EncodedBatch
from truepair.objectives.srcl import Regulation, RegulationConfig, normalised_weights
from truepair.randomness import keyed_uniform, sample_keys
from truepair.relations.batch import BatchRelations
from truepair.relations.detectors import (
    Detector,
    LowWeight,
    Recorded,
    SameCaption,
    SameImage,
    Signal,
    Signals,
)
from truepair.relations.ledger import Ledger, VerdictIndex
from truepair.relations.pairs import PairSet
from truepair.relations.rules import Rule, apply_rules
from truepair.relations.similarity import similarities
from truepair.settings import Weight, check_settings

ENCODERS = "encoders"
"""As ``guide_model``: the means of the run's own frozen states."""


def _same_pairs() -> list[dict[str, Any]]:
    return [{"detector": name, "action": "relabel"} for name in (SameImage.name, SameCaption.name)]


@dataclass(frozen=True, kw_only=True)
class RelationsConfig:
    """Which pairs of a batch are known or suspected to match.

    Attributes:
        rules: In the order of precedence: of several that find a pair the first counts. Each states a detector
            (same_image, same_caption, same_group, recorded, judge, guide, momentum, weight or random), an action (keep,
            mask, relabel, reweight, skip or smooth) and what fields these have; docs/methods.md lists them. The default
            makes pairs of one image id or one caption text matches.
        symmetric: A finding holds in both directions of ITC, whichever side found it.
        guide_model: Folder or name of the model that the detectors "guide" and "weight" ask. "encoders" is the means of
            the run's own frozen states, as they come: images compare with images, texts with texts.
        weights: Form and sharpness of the weights that the detector "weight" looks at.
        extra_rows: Most relabelled pairs that ITM and MLM read as further positives, as a share of the batch; which
            ones is drawn at random. Pairs of one caption text are not read again; 1.0 costs up to half a step.
        ledger: Keep every verdict that the run hears in the run folder, in ``ledger/``.
        unjudged: Go on with a mined ledger of which nobody has judged any pair: its suspects get shares of the target,
            none becomes a match.

    Raises:
        ConfigError: A rule that does not exist, or that needs what the recipe does not name.
    """

    rules: list[dict[str, Any]] = field(default_factory=_same_pairs)
    symmetric: bool = True
    guide_model: str | None = None
    weights: RegulationConfig = field(default_factory=RegulationConfig)
    extra_rows: Weight = 0.25
    ledger: bool = True
    unjudged: bool = False

    def __post_init__(self) -> None:
        check_settings(self, "relations")
        # Written out, so that a rule says the same with a default stated or left out: run folders are compared by it.
        object.__setattr__(self, "rules", [rule.stated() for rule in self.built])
        guided = [detector for detector in self.detectors if {"guide", "weights"} & {*detector.needs}]
        if guided and self.guide_model is None:
            name = guided[0].name
            raise ConfigError(f"relations.rules: detector '{name}' needs relations.guide_model, a trained model")
        if self.guide_model == ENCODERS and not all(getattr(one, "compare", "across") != "across" for one in guided):
            raise ConfigError(
                "relations.guide_model 'encoders' compares no image with a text; give rules of detector 'guide' with "
                "compare 'images' or 'texts', or a trained model"
            )

    @cached_property
    def built(self) -> list[Rule]:
        """The rules.

        Raises:
            ConfigError: One of them does not exist as stated.
        """
        built = []
        for number, stated in enumerate(self.rules):
            try:
                built.append(Rule.of(stated))
            except ConfigError as error:
                raise ConfigError(f"relations.rules[{number}]: {error}") from error
        return built

    @property
    def detectors(self) -> list[Detector]:
        """What the rules look for."""
        return [rule.detector for rule in self.built]

    def asking_for(self, signal: str) -> str | None:
        """Name of the first detector that reads a signal; None if none does."""
        return next((detector.name for detector in self.detectors if signal in detector.needs), None)

    @property
    def finds(self) -> bool:
        """Whether a rule speaks of pairs that their ids and texts do not already declare."""
        return not all(detector.declared for detector in self.detectors)


def _to(rule: Rule) -> str:
    """What a rule of recorded verdicts does, after how many it does it to."""
    assert isinstance(rule.detector, Recorded)
    return f"to {rule.action.name}" if rule.detector.by is None else f"by {rule.detector.by} to {rule.action.name}"


class RuleSet:
    """The rules of a run, applied to one batch after another.

    Args:
        config: The rules of the recipe.
        more: Further rules, behind them.
        groups: What each row of the training table shows, int64 [N]; for the detector "same_group".
        pictures: Image id of each row and key of its picture, int64 [N] each, where pictures may have copies: a verdict
            on one holds for all.

    Raises:
        ConfigError: A rule asks for groups that the data does not state.
        DataError: A ledger that a rule names cannot be read.
    """

    def __init__(
        self,
        config: RelationsConfig,
        more: list[Rule] | None = None,
        groups: Tensor | None = None,
        pictures: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None,
    ) -> None:
        self.config = config
        self.rules = [*config.built, *(more or [])]
        grouping = config.asking_for("groups")
        if grouping is not None and groups is None:
            raise ConfigError(f"relations.rules: detector '{grouping}' needs a group column, which the data has not")
        self.groups = groups
        self.needs = {name for rule in self.rules for name in rule.detector.needs}
        recorded = [rule.detector for rule in self.rules if isinstance(rule.detector, Recorded)]
        self.indices: dict[str, VerdictIndex] = {detector.ledger: detector.verdicts for detector in recorded}
        if pictures is not None:
            self.indices = {ledger: index.of_pictures(*pictures) for ledger, index in self.indices.items()}
            for detector in recorded:
                detector.hear(self.indices[detector.ledger])
        people = [said for index in self.indices.values() if len(said := index.people())]
        self.people = VerdictIndex.merged(people) if people else None

    def about(self, image_ids: NDArray[np.int64], caption_ids: NDArray[np.int64]) -> list[str]:
        """One line for each ledger that rules read: how many of its verdicts are about training pairs, zone by zone.

        Args:
            image_ids: Of the training pairs, int64 [N].
            caption_ids: Of all their captions, int64 [M].

        Raises:
            ConfigError: A ledger has verdicts, but on none of these pairs.
        """
        lines = []
        for ledger, index in self.indices.items():
            about = index.about(image_ids, caption_ids)
            if len(about) and not about.any():
                raise ConfigError(
                    f"{ledger}: none of its {len(about):,} verdicts is about a training pair; it is of other data"
                )
            known = torch.from_numpy(index.probabilities)
            counts = [
                f"{int((about & index.said_by(found.by) & found.contains(known).numpy()).sum()):,} {_to(rule)}"
                for rule in self.rules
                if isinstance(found := rule.detector, Recorded) and found.ledger == ledger
            ]
            total = f"{int(about.sum()):,} of {len(about):,} verdicts are about training pairs"
            lines.append(f"{ledger}: {total}: {', '.join(counts)}")
        return lines

    def relate(self, encoded: EncodedBatch, signals: Mapping[str, Callable[[], Signal]]) -> BatchRelations:
        """What the rules find in a batch.

        Args:
            encoded: The batch of all ranks.
            signals: Functions that compute what rules may read beside ids, texts and groups: "guide", "momentum" and
                "judged", see :class:`Signals`; called only if a rule asks.
        """
        batch, given = encoded.batch, dict(signals)
        given["caption_keys"] = lambda: batch.caption_key
        if "guide" in given:
            given["weights"] = lambda: self._weights(*found.both("guide", LowWeight.name))
        if self.groups is not None:
            groups = self.groups.to(batch.image_id.device)
            given["groups"] = lambda: groups[batch.source_index]
        found = Signals(batch.image_id, batch.caption_id, **given)
        with torch.autocast(encoded.device.type, enabled=False):
            return apply_rules(self.rules, found, symmetric=self.config.symmetric)

    def record(self, ledger: Ledger, encoded: EncodedBatch) -> None:
        """Note in the run's own ledger which recorded verdicts it has heard, each once."""
        for index in self.indices.values():
            index.record(ledger, encoded.batch.image_id, encoded.batch.caption_id, encoded.info.epoch)

    def extra_matches(self, relations: BatchRelations, encoded: EncodedBatch, seed: int) -> PairSet:
        """Relabelled pairs that ITM and MLM read as further positives: those of another text, random ones if too many.

        Args:
            relations: What the rules found.
            encoded: The batch.
            seed: Seed of the run.

        Returns:
            (image row, text row) cells [B, B].
        """
        keys = encoded.batch.caption_key
        matches = relations.matches()
        matches = matches.where(keys[matches.rows] != keys[matches.columns])
        most = round(self.config.extra_rows * encoded.size)
        if len(matches) <= most:
            return matches
        lots = keyed_uniform(sample_keys(seed, encoded.info.step, matches.linear), 1).squeeze(1)  # [P]
        return matches.where(torch.argsort(lots)[:most].sort().values)

    def _weights(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """SRCL's weights of both directions by the guide's similarity, as images by texts [B, B]."""
        similarity = similarities(images, texts)  # [B, B]
        logs = Regulation(self.config.weights).log_weights(slice(None), slice(None), similarity)
        others = ~torch.eye(len(images), dtype=torch.bool, device=images.device)
        by_image, by_text = normalised_weights(logs, others), normalised_weights(logs.T, others).T
        return by_image + 2.0 * ~others, by_text + 2.0 * ~others  # own pairs are no candidates
