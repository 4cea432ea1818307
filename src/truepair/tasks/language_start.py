"""What a task starts from where a language model writes: a BLIP-2 of the first stage and a language model, or both."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from truepair.data.tokens import starting_tokenizer, train_wordpiece
from truepair.data.transforms import TransformConfig
from truepair.errors import ConfigError
from truepair.methods.student import Say, seed_weights
from truepair.models.checkpoints.blip2 import QUERIES_DRAWN, part_queries
from truepair.models.checkpoints.blip2_language import (
    join_language_model,
    load_language_model,
    new_language_model,
    open_blip2_language,
)
from truepair.models.fusion.blip2 import open_blip2_folder
from truepair.models.fusion.blip2_language import Blip2LanguageModel
from truepair.models.fusion.language_adapter import add_language_lora
from truepair.models.fusion.language_preprocessing import LanguagePreprocessing
from truepair.models.open import blip2_stage, model_folder
from truepair.tasks.start import LanguageConfig, StartConfig


def writes(name_or_folder: str | Path) -> bool:
    """Whether a trained model writes by a language model: a BLIP-2 of the second stage.

    Raises:
        ConfigError: it is a BLIP-2 of the first stage, which writes nothing.
        CheckpointError: there is no such model.
    """
    stage = blip2_stage(name_or_folder)
    if stage == 1:
        raise ConfigError(
            f"{name_or_folder} is a BLIP-2 of the first stage, which has no language model; train it with one first: "
            "truepair train captioning blip2 (or vqa) with model.checkpoint and model.language.checkpoint"
        )
    return stage == 2


def load_language_start(
    config: StartConfig, texts: Callable[[], Iterable[str]], seed: int, say: Say
) -> tuple[Blip2LanguageModel, LanguagePreprocessing]:
    """Load or make the model that a recipe starts from.

    Args:
        config: what to start from: a BLIP-2.
        texts: the training texts, for the tokenizer of a language model that starts from random weights.
        seed: seed of the run; the global generator is set from it, for all weights that start fresh.
        say: prints a line.

    Raises:
        ConfigError: settings that mean nothing here, or no language model.
        CheckpointError: something cannot be loaded.
    """
    _require_fitting(config)
    name, language = str(model_folder(config.checkpoint)), config.language or LanguageConfig()
    rests = "rests" if language.freeze else "is trained, too"
    rests += "" if language.lora is None else f" but for LoRA of rank {language.lora.rank}"
    stated = language.checkpoint or language.options
    if blip2_stage(name) == 2:
        if stated:
            raise ConfigError(f"{name} has a language model; leave out model.language.checkpoint and options")
        model, preprocessing = open_blip2_language(name)
        seed_weights(seed)
        say(f"{name}: a BLIP-2 of {model.queries} queries, whose language model {rests}")
    else:
        if not stated:
            raise ConfigError(
                f"{name} is a BLIP-2 of the first stage, which has no language model; name one with "
                "model.language.checkpoint, such as facebook/opt-125m"
            )
        first, images = open_blip2_folder(name)
        seed_weights(seed)
        writer, tokenizer, what = _language_model(language, texts)
        if writer.config.bos_token_id is None:
            say(f"{what} has no start token: its end token stands before each caption in its place")
        model, preprocessing = join_language_model(first, images.processor, writer, tokenizer, what)
        say(f"{name}, a BLIP-2 of {model.queries} queries, and {what}, which {rests}; a layer between them is new")
    if part_queries(model.model.query_tokens):
        say(QUERIES_DRAWN.format(name))
    if model.vision is not None:
        say(
            "its image tower is no ViT, which is all that transformers' class of BLIP-2 has for images: the saved "
            "folder is opened by truepair alone"
        )
    model.rest_language(language.freeze)
    if language.lora is not None:
        add_language_lora(model.text_encoder, **asdict(language.lora))
    return model, _adapted(config, name, model, preprocessing.prompted(language.prompt))


def _require_fitting(config: StartConfig) -> None:
    """Refuse settings that a BLIP-2 has no use for.

    Raises:
        ConfigError: there is one.
    """
    if config.freeze_text or config.cache_texts:
        raise ConfigError(
            "model.freeze_text and model.cache_texts are of a text encoder; of a BLIP-2, model.language.freeze says "
            "whether the language model rests"
        )
    if config.fresh or config.options:
        raise ConfigError("model.fresh and model.options are for models of truepair, and not for a BLIP-2; drop them")


def _language_model(
    language: LanguageConfig, texts: Callable[[], Iterable[str]]
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    """The language model that a recipe names or describes, its tokenizer, and what it is in words."""
    if language.checkpoint:
        model, tokenizer = load_language_model(language.checkpoint)
        return model, tokenizer, language.checkpoint
    corpus = [*texts(), *([language.prompt] if language.prompt else [])]
    tokenizer = starting_tokenizer(train_wordpiece(corpus, language.vocab_size))
    model = new_language_model(language.options, tokenizer)
    return model, tokenizer, f"a {model.config.model_type} of random weights"


def _adapted(
    config: StartConfig, name: str, model: Blip2LanguageModel, preprocessing: LanguagePreprocessing
) -> LanguagePreprocessing:
    """The augmentation and length of a recipe.

    Raises:
        ConfigError: the model does not read such pixels, or so many tokens.
    """
    transform, size = config.transform or preprocessing.transform, preprocessing.transform.size
    _require_pixels(transform, size)
    length = config.max_length or preprocessing.max_length
    if length > model.longest:
        raise ConfigError(
            f"model.max_length is {length}, but the language model of {name} reads {model.longest} tokens beside the "
            f"{model.queries} queries"
        )
    return replace(preprocessing, transform=replace(transform, size=size), max_length=length)


def _require_pixels(transform: TransformConfig, size: int) -> None:
    """Refuse pixels that a BLIP-2 does not read.

    Raises:
        ConfigError: a recipe asks for them.
    """
    if transform.size not in (0, size):
        raise ConfigError(f"model.transform.size is {transform.size}, but the model reads {size} px; set it to 0")
    if transform.normalisation != "encoder":
        raise ConfigError(
            f"model.transform.normalisation is '{transform.normalisation}', but the model has its own; set it to "
            "encoder"
        )
