"""A pre-training recipe: everything a run depends on, as data."""

from dataclasses import dataclass, field
from typing import Any, Literal

from truepair.data.labelled import LabelledConfig
from truepair.data.splits import DataConfig
from truepair.engine.loop.config import LoopConfig
from truepair.errors import ConfigError
from truepair.evaluation.metrics import RetrievalProtocol
from truepair.methods.ecm import EcmConfig
from truepair.methods.momentum import MomentumConfig
from truepair.methods.rules import RelationsConfig
from truepair.methods.srcl import SrclConfig
from truepair.methods.step import ObjectivesConfig
from truepair.methods.towers import TowerOptimizerConfig
from truepair.models.dual.lora import LoraSettings
from truepair.sampling.batches import SamplerConfig
from truepair.settings import Natural, Positive, Share, check_settings

MODELS_OWN = "model"
"""The tokenizer of a recipe that leaves the tokenization to the model that training starts from."""


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """How captions become tokens.

    Attributes:
        tokenizer: "train" trains a WordPiece on the training captions, "minilm" takes MiniLM-L6's, "model" the whole
            tokenization of the model that training starts from; else a name or a folder.
        vocab_size: largest vocabulary of a trained tokenizer.
        max_length: most tokens of a caption, special tokens included (ALBEF: 25 in pre-training); 0 for as many as the
            model that training starts from was trained with.
        add_sep: end captions with [SEP]; ALBEF's have none.
        normalise: lower-case and strip punctuation first, as ALBEF does.
    """

    tokenizer: str = "train"
    vocab_size: Positive = 8192
    max_length: Natural = 25
    add_sep: bool = False
    normalise: bool = True

    def __post_init__(self) -> None:
        check_settings(self, "text")
        if not self.max_length and self.tokenizer != MODELS_OWN:
            raise ConfigError(f"text.max_length is {self.max_length}; give the most tokens of a caption")


@dataclass(frozen=True, kw_only=True)
class InterpolateConfig:
    """Weights between those of the start and the trained ones (WiSE-FT: Wortsman et al. 2022).

    A model that is fine-tuned gains on its own data and forgets others; between start and end lie models that keep most
    of both. Figures along the way are measured on validation data alone.

    Attributes:
        alphas: share of the trained weights at each measured point: 0 is the start, 1 the trained model.
        alpha: save the model at this share; absent for the trained model.
        choose: save the model at the share where the mean of these validation figures is highest, such as
            [t2i_r@1, zero_shot_top1]; empty for not choosing.
    """

    alphas: list[Share] = field(default_factory=lambda: [0.0, 0.25, 0.5, 0.75, 1.0])
    alpha: Share | None = None
    choose: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_settings(self, "model.interpolate")
        if self.alpha is not None and self.choose:
            raise ConfigError("model.interpolate.alpha and choose both say which model is saved; give one")
        if self.choose and not self.alphas:
            raise ConfigError("model.interpolate.choose has nothing to choose from; give alphas")


@dataclass(frozen=True, kw_only=True)
class ZeroShotConfig(LabelledConfig):
    """The guard against forgetting: zero-shot classification before training, with each validation and at the end.

    Attributes:
        largest_fall: a line is said when top-1 falls by more than this share of the images; 0.02 for two points.
    """

    largest_fall: Share = 0.02

    def __post_init__(self) -> None:
        check_settings(self, "zero_shot")
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which model is trained.

    Attributes:
        family: what is built where no checkpoint is named: "albef", or "blip2" for the first stage of BLIP-2.
        size: named size to start from: tiny, small or base.
        options: fields that replace the size's: of ``AlbefConfig``, among them ``image_encoder``; for "blip2"
            ``num_query_tokens``, ``image_text_hidden_size``, and fields of ``vision_config`` and ``qformer_config``.
        checkpoint: folder, name or checkpoint file of a whole model to start from; size and options are not used then.
        image_checkpoint: folder or name of pre-trained image encoder weights, "efficientnet_lite0" for the small one;
            "blip2" keeps the class of transformers with a ViT alone.
        text_checkpoint: folder or name of a BERT whose layers start text and fusion encoder, "minilm" for MiniLM-L6;
            for "blip2" the Q-Former.
        freeze_image: do not train the image encoder.
        freeze_text: do not train the text encoder (the fusion encoder is trained).
        freeze_image_blocks: do not train the embeddings and so many first blocks of the image encoder; 0 for none.
        freeze_text_blocks: do not train the embeddings and so many first blocks of the text encoder; 0 for none.
        train_only: "norms" trains, of the two encoders, no more than the scale and shift of their norms; "all" trains
            all that is not frozen.
        lora: train small matrices beside the layers of the encoders (LoRA), and nothing else; absent for none.
        cache_images: compute the frozen image encoder's states once and train on them.
        cache_sources: let the cache hold every image of the sources, not only those of a split: many runs on parts of
            them share it.
        pool_images: cache only the mean of an image's states, for runs of ITC alone with ``image_pooling`` "mean".
        image_views: how many views of each image the cache holds: the plain one, then augmented ones.
        cache_captions: compute the frozen text encoder's states once per caption. MLM still runs it, on masked
            captions.
        cache_folder: where caches are kept; a folder of the user's cache when absent.
        cache_check: whether a picture has changed since its states were computed is told by "times", name, size and
            time of change of its file, or by all its "bytes", which are then read each time.
        interpolate: measure models between the start and the trained one, and save one of them if told to; absent for
            none.
    """

    family: Literal["albef", "blip2"] = "albef"
    size: str = "tiny"
    options: dict[str, Any] = field(default_factory=dict)
    checkpoint: str | None = None
    image_checkpoint: str | None = None
    text_checkpoint: str | None = None
    freeze_image: bool = False
    freeze_text: bool = False
    freeze_image_blocks: Natural = 0
    freeze_text_blocks: Natural = 0
    train_only: Literal["all", "norms"] = "all"
    lora: LoraSettings | None = None
    cache_images: bool = False
    cache_sources: bool = False
    pool_images: bool = False
    image_views: Positive = 1
    cache_captions: bool = False
    cache_folder: str | None = None
    cache_check: Literal["times", "bytes"] = "times"
    interpolate: InterpolateConfig | None = None

    def __post_init__(self) -> None:
        if self.family not in ("albef", "blip2"):
            raise ConfigError(f"model.family is {self.family!r}; give 'albef' or 'blip2'")
        if self.interpolate is not None and self.checkpoint is None:
            raise ConfigError("model.interpolate needs a start that was trained; set model.checkpoint, or drop it")
        if self.interpolate is not None and self.lora is not None:
            raise ConfigError("model.interpolate mixes whole models, not the adapter of model.lora; give one of both")
        if self.cache_images and not self.freeze_image:
            raise ConfigError("model.cache_images needs model.freeze_image: states of a moving encoder go stale")
        if self.cache_captions and not self.freeze_text:
            raise ConfigError("model.cache_captions needs model.freeze_text: states of a moving encoder go stale")
        if (self.cache_sources or self.pool_images) and not self.cache_images:
            raise ConfigError("model.cache_sources and model.pool_images say what model.cache_images keeps; set it too")
        if self.lora is not None and self.train_only != "all":
            raise ConfigError("model.train_only trains the norms and model.lora none of them; give one of both")
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
        ecm: conversion of false negatives that a judge finds in the batch (MAFA); absent for none.
        srcl: regulation of the negatives by similarity (SRCL); absent for none.
        momentum: momentum model, queue and distillation (ALBEF); absent for none.
        optimizer: how the weights move.
        loop: how long and how.
        evaluation: how the figures are measured.
        zero_shot: labelled images that tell whether the model forgets; absent for none.
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
    optimizer: TowerOptimizerConfig = field(default_factory=TowerOptimizerConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    evaluation: RetrievalProtocol = field(default_factory=RetrievalProtocol)
    zero_shot: ZeroShotConfig | None = None

    def __post_init__(self) -> None:
        if self.srcl is not None and self.momentum is not None and self.momentum.queue_size:
            raise ConfigError("srcl weighs pairs of the batch only; set momentum.queue_size to 0, or drop one of both")
        hardness = self.sampler.hardness
        if hardness.below is not None and hardness.ledger is None and self.ecm is None:
            raise ConfigError(
                "sampler.hardness.below keeps pairs apart that match by somebody's verdict; give "
                "sampler.hardness.ledger, the ledger of truepair mine, or an ecm section with a judge"
            )
        between = self.model.interpolate
        if between is not None and (between.alpha is not None or between.choose) and not self.loop.save:
            raise ConfigError(
                "model.interpolate.alpha and choose say which model is saved; set loop.save, or drop them"
            )
        words = self.model.text_checkpoint
        if words is not None and self.model.checkpoint is None and self.text.tokenizer == "train":
            raise ConfigError(
                f"text.tokenizer 'train' makes tokens that {words} does not know; set text.tokenizer to it"
            )
        if self.ecm is not None and self.ecm.judge.view == "batch" and self.model.cache_images:
            raise ConfigError("ecm.judge.view 'batch' needs images, which model.cache_images does without")
        if self.ecm is not None and not self.ecm.symmetric and self.relations.symmetric:
            raise ConfigError("ecm.symmetric false needs relations.symmetric false, or both directions convert")
        if self.model.pool_images and (self.objectives.fused or self.model.options.get("image_pooling") != "mean"):
            raise ConfigError(
                "model.pool_images needs objectives.itm.weight 0, objectives.mlm.weight 0 and image_pooling 'mean' in "
                "model.options; drop it, or set them"
            )
        if (self.relations.asking_for("judged") is not None) != (self.ecm is not None and self.ecm.ask == "rules"):
            raise ConfigError("relations.rules: detector 'judge' and ecm.ask 'rules' go together; give both or none")
        follower = self.relations.asking_for("momentum")
        if self.momentum is None and follower is not None:
            raise ConfigError(f"relations.rules: detector '{follower}' needs a momentum section")


def trains_itm(recipe: PretrainRecipe) -> bool:
    """Whether the ITM head is trained at all."""
    return recipe.objectives.itm.due(recipe.loop.epochs - 1)


def untrained_losses(recipe: PretrainRecipe) -> list[str]:
    """One line for each loss that the recipe asks for, and that comes too late."""
    return [
        f"{name.upper()} is not trained: objectives.{name}.start_epoch is {part.start_epoch}, and the run ends after "
        f"{recipe.loop.epochs} epochs"
        for name, part in recipe.objectives.fused.items()
        if not part.due(recipe.loop.epochs - 1)
    ]
