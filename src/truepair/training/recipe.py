"""A pre-training recipe: everything a run depends on, as data."""

from dataclasses import dataclass, field
from typing import Any

from truepair.data.source import SourceConfig
from truepair.data.transforms import TransformConfig
from truepair.errors import ConfigError
from truepair.evaluation.protocol import RetrievalProtocol
from truepair.training.batches import SamplerConfig
from truepair.training.connecting import EcmConfig
from truepair.training.loop_config import LoopConfig
from truepair.training.momentum import MomentumConfig
from truepair.training.optimizer import OptimizerConfig
from truepair.training.regulating import SrclConfig
from truepair.training.relating import RelationsConfig
from truepair.training.step import ObjectivesConfig


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the pairs come from.

    Attributes:
        sources: files, folders or hub names, concatenated; "sample" is the bundled sample. Instead of a name, the
            fields of ``SourceConfig`` say how a source is to be read.
        train_split: split to train on; empty for all rows.
        validation_split: split for validation figures and for choosing how to combine scores; empty for none.
        test_split: split for the final figures; empty for none.
        captions: "draw" draws one of an image's captions per visit, "first" takes the first, "pairs" visits every one.
        min_group_size: keep only rows whose group has this many rows over all splits (needs a ``group`` column); 0 for
            all.
        max_group_size: keep only rows whose group has at most this many; 0 for all.
        groups: draw this many of the groups that are left; 0 for all.
        group_seed: which ones are drawn, and which share of them.
        other_groups: take all groups that the settings above leave out instead: clean pairs for judges and seed models,
            which then share no group with a run that is otherwise the same.
        group_share: keep only this share of the groups, chosen by a hash of their names.
        drawings: keep at most this many training rows of a group; 0 for all.
        unseen_share: share of the groups of a size that fits that no run trains on, whatever its seed, ``other_groups``
            included; the final figures are measured on all their rows as well.
        transform: image size and augmentation.
        max_bad_fraction: largest share of unreadable images that a run puts up with.
    """

    sources: list[str | SourceConfig] = field(default_factory=lambda: ["sample"])
    train_split: str = "train"
    validation_split: str = "val"
    test_split: str = "test"
    captions: str = "draw"
    min_group_size: int = 0
    max_group_size: int = 0
    groups: int = 0
    group_seed: int = 0
    other_groups: bool = False
    group_share: float = 1.0
    drawings: int = 0
    unseen_share: float = 0.0
    transform: TransformConfig = field(default_factory=TransformConfig)
    max_bad_fraction: float = 0.05

    def __post_init__(self) -> None:
        if self.captions not in ("draw", "first", "pairs"):
            raise ConfigError(f"data.captions is '{self.captions}'; give draw, first or pairs")
        if not 0.0 < self.group_share <= 1.0:
            raise ConfigError(f"data.group_share is {self.group_share}; give a number above 0, up to 1")
        if not 0.0 <= self.unseen_share < 1.0:
            raise ConfigError(f"data.unseen_share is {self.unseen_share}; give a number from 0 to below 1")
        for name in ("min_group_size", "max_group_size", "groups", "drawings"):
            if getattr(self, name) < 0:
                raise ConfigError(f"data.{name} is {getattr(self, name)}; give 0 or more")
        if not self.sources:
            raise ConfigError("data.sources is empty; name at least one file, folder or hub name")


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """How captions become tokens.

    Attributes:
        tokenizer: "train" trains a WordPiece on the training captions, "minilm" takes MiniLM-L6's; else a name or a
            folder.
        vocab_size: largest vocabulary of a trained tokenizer.
        max_length: most tokens of a caption, special tokens included (ALBEF: 25 in pre-training).
        add_sep: end captions with [SEP]; ALBEF's have none.
        normalise: lower-case and strip punctuation first, as ALBEF does.
    """

    tokenizer: str = "train"
    vocab_size: int = 8192
    max_length: int = 25
    add_sep: bool = False
    normalise: bool = True


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which model is trained.

    Attributes:
        size: named size to start from: tiny, small or base.
        options: fields of ``AlbefConfig`` that replace the size's, among them ``image_encoder``.
        checkpoint: folder or name of a whole model to start from; size and options are not used then.
        image_checkpoint: folder or name of pre-trained image encoder weights, "efficientnet_lite0" for the small one.
        text_checkpoint: folder or name of a BERT whose layers start text and fusion encoder, "minilm" for MiniLM-L6.
        freeze_image: do not train the image encoder.
        freeze_text: do not train the text encoder (the fusion encoder is trained).
        cache_images: compute the frozen image encoder's states once and train on them.
        cache_sources: let the cache hold every image of the sources, not only those of a split: many runs on parts of
            them share it.
        pool_images: cache only the mean of an image's states, for runs of ITC alone with ``image_pooling`` "mean".
        image_views: how many views of each image the cache holds: the plain one, then augmented ones.
        cache_captions: compute the frozen text encoder's states once per caption. MLM still runs it, on masked
            captions.
        cache_folder: where caches are kept; a folder of the user's cache when absent.
    """

    size: str = "tiny"
    options: dict[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None
    image_checkpoint: str | None = None
    text_checkpoint: str | None = None
    freeze_image: bool = False
    freeze_text: bool = False
    cache_images: bool = False
    cache_sources: bool = False
    pool_images: bool = False
    image_views: int = 1
    cache_captions: bool = False
    cache_folder: str | None = None

    def __post_init__(self) -> None:
        if self.cache_images and not self.freeze_image:
            raise ConfigError("model.cache_images needs model.freeze_image: states of a moving encoder go stale")
        if self.cache_captions and not self.freeze_text:
            raise ConfigError("model.cache_captions needs model.freeze_text: states of a moving encoder go stale")
        if (self.cache_sources or self.pool_images) and not self.cache_images:
            raise ConfigError("model.cache_sources and model.pool_images say what model.cache_images keeps; set it too")
        if self.image_views > 1 and not self.cache_images:
            raise ConfigError(
                "model.image_views is for model.cache_images; images that are read anew are augmented anew"
            )


@dataclass(frozen=True, kw_only=True)
class PretrainRecipe:
    """A pre-training run.

    Attributes:
        data: where the pairs come from.
        text: how captions become tokens.
        model: which model is trained.
        sampler: who meets in a batch.
        objectives: what a step trains.
        relations: which pairs are known or suspected to match, and what becomes of them.
        ecm: conversion of false negatives that a discriminator finds (MAFA); absent for none.
        srcl: regulation of the negatives by similarity (SRCL); absent for none.
        momentum: momentum model, queue and distillation (ALBEF); absent for none.
        optimizer: how the weights move.
        loop: how long and how.
        evaluation: how the figures are measured.
    """

    data: DataConfig = field(default_factory=DataConfig)
    text: TextConfig = field(default_factory=TextConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    objectives: ObjectivesConfig = field(default_factory=ObjectivesConfig)
    relations: RelationsConfig = field(default_factory=RelationsConfig)
    ecm: EcmConfig | None = None
    srcl: SrclConfig | None = None
    momentum: MomentumConfig | None = None
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    evaluation: RetrievalProtocol = field(default_factory=RetrievalProtocol)

    def __post_init__(self) -> None:
        if self.srcl is not None and self.momentum is not None and self.momentum.queue_size:
            raise ConfigError("srcl weighs pairs of the batch only; set momentum.queue_size to 0, or drop one of both")
        words = self.model.text_checkpoint
        if words is not None and self.model.checkpoint is None and self.text.tokenizer == "train":
            raise ConfigError(
                f"text.tokenizer 'train' makes tokens that {words} does not know; set text.tokenizer to it"
            )
        if self.ecm is not None and self.ecm.discriminator.view == "batch" and self.model.cache_images:
            raise ConfigError("ecm.discriminator.view 'batch' needs images, which model.cache_images does without")
        if self.ecm is not None and not self.ecm.zones.symmetric and self.relations.symmetric:
            raise ConfigError("ecm.zones.symmetric false needs relations.symmetric false, or both directions convert")
        fused = self.objectives.itm.weight > 0 or self.objectives.mlm.weight > 0
        if self.model.pool_images and (fused or self.model.options.get("image_pooling") != "mean"):
            raise ConfigError(
                "model.pool_images needs objectives.itm.weight 0, objectives.mlm.weight 0 and image_pooling 'mean' in "
                "model.options; drop it, or set them"
            )
        by_judge = any(rule.detector == "con_d" for rule in self.relations.rules)
        if by_judge != (self.ecm is not None and self.ecm.judge == "rules"):
            raise ConfigError("relations.rules: detector 'con_d' and ecm.judge 'rules' go together; give both or none")
        if self.momentum is None and any(rule.detector == "momentum" for rule in self.relations.rules):
            raise ConfigError("relations.rules: detector 'momentum' needs a momentum section")
