"""The model a run starts with: tokenizer, preprocessing, weights."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from truepair.data.preprocessing import PREPROCESSING_FILE, Preprocessing
from truepair.data.table import PairTable
from truepair.data.tokens import load_tokenizer, train_wordpiece
from truepair.errors import CheckpointError, ConfigError
from truepair.methods.recipe import ModelConfig, PretrainRecipe, TextConfig
from truepair.models.checkpoints.bert import albef_from_bert
from truepair.models.checkpoints.load import load_albef
from truepair.models.encoders.images import load_image_encoder, resize_images
from truepair.models.encoders.minilm import minilm_folder
from truepair.models.fusion.albef import AlbefModel
from truepair.models.fusion.config import AlbefConfig
from truepair.randomness import stable_hash
from truepair.relations.text import normalise_caption

Say = Callable[[str], None]


@dataclass(frozen=True)
class Student:
    """A run's model before its first step, and how captions and images reach it."""

    model: AlbefModel
    preprocessing: Preprocessing


BuildStudent = Callable[[PretrainRecipe, PairTable, Say], Student]
"""Makes the model of a recipe for a table; see :func:`build_student`."""


def build_tokenizer(config: TextConfig, train: PairTable) -> PreTrainedTokenizerBase:
    """Train a tokenizer on the training captions, or load one."""
    if config.tokenizer == "train":
        texts = [caption for captions in train.values("captions") for caption in captions]
        if config.normalise:
            texts = [normalise_caption(text) for text in texts]
        return train_wordpiece(texts, config.vocab_size)
    return load_tokenizer(minilm_folder() if config.tokenizer == "minilm" else config.tokenizer)


def build_preprocessing(recipe: PretrainRecipe, tokenizer: PreTrainedTokenizerBase) -> Preprocessing:
    """The recipe's tokenization and image settings."""
    text = recipe.text
    return Preprocessing(tokenizer, text.max_length, text.add_sep, text.normalise, recipe.data.transform)


def build_student(recipe: PretrainRecipe, train: PairTable, say: Say) -> Student:
    """The model that a recipe trains on a table, and its preprocessing; the same each time.

    Raises:
        ConfigError: options that do not exist or do not fit.
        CheckpointError: a checkpoint that is missing or does not fit.
    """
    tokenizer = build_tokenizer(recipe.text, train)
    start = recipe.model.checkpoint
    if start is not None and Path(start, PREPROCESSING_FILE).exists():
        require_same_tokenizer(start, Preprocessing.load(Path(start)).tokenizer, tokenizer)
    seed_weights(recipe.loop.seed)
    model = build_model(recipe.model, recipe.text, tokenizer, say)
    if recipe.model.checkpoint is not None or recipe.model.image_checkpoint is not None:
        resize_images(model, recipe.data.transform.size)  # the saved config says so, and caches are keyed by it
    return Student(model, build_preprocessing(recipe, tokenizer))


def require_same_tokenizer(checkpoint: str, own: PreTrainedTokenizerBase, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a model whose own token ids mean other words than those of a tokenizer.

    Raises:
        CheckpointError: it was trained with another tokenizer.
    """
    if own.get_vocab() != tokenizer.get_vocab():
        raise CheckpointError(
            f"{checkpoint} was trained with another tokenizer ({len(own)} entries, here {len(tokenizer)}); set "
            "text.tokenizer to that folder"
        )


def seed_weights(seed: int) -> None:
    """Set the global generator, from which initial weights are drawn."""
    torch.manual_seed(stable_hash(seed, "initial weights"))


def build_model(config: ModelConfig, text: TextConfig, tokenizer: PreTrainedTokenizerBase, say: Say) -> AlbefModel:
    """Build the model of a recipe, and say what is loaded and what starts fresh.

    Raises:
        ConfigError: options that do not exist or do not fit.
        CheckpointError: a checkpoint that is missing or does not fit.
    """
    model = _pretrained(config, tokenizer, say) if config.checkpoint is None else load_albef(config.checkpoint)
    if len(tokenizer) > model.config.vocab_size or text.max_length > model.config.max_position_embeddings:
        raise ConfigError(
            f"the tokenizer has {len(tokenizer)} entries and captions up to {text.max_length} tokens, but the model "
            f"{model.config.vocab_size} and {model.config.max_position_embeddings}; make text and model fit"
        )
    return model


def _pretrained(config: ModelConfig, tokenizer: PreTrainedTokenizerBase, say: Say) -> AlbefModel:
    """A model of a recipe's sizes, with the encoders that it names."""
    options = dict(config.options)
    if config.image_checkpoint is not None:
        encoder = load_image_encoder(config.image_checkpoint)
        options["image_encoder"] = encoder.config
    if config.text_checkpoint is not None:
        source = minilm_folder() if config.text_checkpoint == "minilm" else config.text_checkpoint
        model, report = albef_from_bert(source, **options)
        say(str(report))
    else:
        model = AlbefModel(AlbefConfig.of_size(config.size, vocab_size=len(tokenizer), **options))
    if config.image_checkpoint is not None:
        model.image_encoder.load_state_dict(encoder.state_dict())
    return model
