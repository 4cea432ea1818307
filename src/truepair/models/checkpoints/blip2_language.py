"""A BLIP-2 of the second stage: a whole one from its folder, or one of the first stage before a language model."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForCausalLM,
    BaseImageProcessor,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    Blip2QFormerModel,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from truepair.data.preprocessing import PREPROCESSING_FILE
from truepair.data.tokens import WholeTokenizer
from truepair.data.transforms import TransformConfig
from truepair.errors import CheckpointError, ConfigError, nearest, shortened
from truepair.models.checkpoints.load import load_hub_model, load_part
from truepair.models.dual.hub_preprocessing import image_side
from truepair.models.fusion.blip2 import Blip2FusionModel
from truepair.models.fusion.blip2_language import Blip2LanguageModel, require_decoder
from truepair.models.fusion.language_preprocessing import IMAGE_TOKEN, LanguagePreprocessing

_MAX_LENGTH = 32  # tokens of a caption with its prompt, as in BLIP-2's programs

_SPREAD = 0.02  # of the layer between the Q-Former and the language model, which starts at random


def is_blip2_language(settings: Mapping[str, Any]) -> bool:
    """Whether a config is that of a BLIP-2 with a language model."""
    return settings.get("model_type") == "blip-2" and Blip2ForConditionalGeneration.__name__ in (
        settings.get("architectures") or ()
    )


def open_blip2_language(name_or_folder: str | Path) -> tuple[Blip2LanguageModel, LanguagePreprocessing]:
    """Load a BLIP-2 with its language model, image processor and tokenizer.

    Raises:
        CheckpointError: One of them is missing or damaged, or they do not fit together.
        ConfigError: Its language model is no decoder.
    """
    name = str(name_or_folder)
    model = Blip2LanguageModel.from_pretrained(name, merged=True)
    processor = load_part(AutoImageProcessor, name, what="image processor")
    tokenizer = load_part(WholeTokenizer, name, what="tokenizer")
    config = model.model.config
    image = tokenizer.get_vocab().get(IMAGE_TOKEN)
    if config.image_token_index is None or image not in (None, config.image_token_index):
        raise CheckpointError(
            f"{name}: its config says that the queries stand at token {config.image_token_index}, and its tokenizer "
            f"that {IMAGE_TOKEN} is {image}; save its Blip2Processor beside it, and set image_token_index to that"
        )
    made = _preprocessing(name, model, processor, tokenizer)
    own = Path(name, PREPROCESSING_FILE)
    if own.is_file():
        settings = json.loads(own.read_text(encoding="utf-8"))
        transform = settings["transform"] | {"crop_scale": tuple(settings["transform"]["crop_scale"])}
        made = _preprocessing(
            name,
            model,
            processor,
            tokenizer,
            prompt=settings["prompt"],
            max_length=settings["max_length"],
            transform=TransformConfig(**transform),
        )
    return model.eval(), made


def load_language_model(name_or_folder: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a language model that reads from left to right, with its tokenizer.

    Raises:
        CheckpointError: One of both is missing or damaged.
        ConfigError: It encodes what it reads, as T5 does, or is none.
    """
    config = load_part(AutoConfig, name_or_folder)
    require_decoder(config)
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise ConfigError(
            f"{name_or_folder} is a {config.model_type}, which transformers has no language model of; give one such as "
            "facebook/opt-125m"
        )
    model = load_hub_model(AutoModelForCausalLM, name_or_folder, dtype=torch.float32)
    return model, load_part(WholeTokenizer, name_or_folder, what="tokenizer")


def new_language_model(options: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A language model with random weights.

    Args:
        options: ``model_type``, such as gpt2, and fields of its config.
        tokenizer: has a start token and an end token.

    Raises:
        ConfigError: There is no such kind, or it cannot have these fields.
    """
    kind, fields = options.get("model_type"), {name: value for name, value in options.items() if name != "model_type"}
    known = [config.model_type for config in AutoModelForCausalLM._model_mapping]
    if kind not in known:
        raise ConfigError(
            f"model.language.options.model_type is {kind!r}{nearest(str(kind), known)}; give a kind of language model "
            "that transformers knows, such as gpt2 or opt"
        )
    if "vocab_size" in fields:
        raise ConfigError("model.language.options.vocab_size is that of the tokenizer; drop it")
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    try:
        config = AutoConfig.for_model(kind, vocab_size=len(tokenizer), **ids, **fields)
        unknown = [name for name in fields if not hasattr(type(config)(), name)]
        if unknown:
            raise ConfigError(f"model.language.options: a {kind} has no field '{unknown[0]}'")
        require_decoder(config)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    except ConfigError:
        raise
    except Exception as error:  # transformers checks few values before it computes with them
        raise ConfigError(f"model.language.options: no {kind} can be made of them: {shortened(error)}") from error
    return model


def join_language_model(
    first: Blip2FusionModel,
    processor: BaseImageProcessor,
    language: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
) -> tuple[Blip2LanguageModel, LanguagePreprocessing]:
    """A BLIP-2 of the second stage, of one of the first stage and a language model, which both become part of it.

    The layer between both is drawn from the global generator. What the Q-Former has for texts is left out.

    Args:
        first: The first stage.
        processor: Its image processor.
        language: The language model.
        tokenizer: Of the language model; the token of images is added to it.
        name: Of the language model, for messages.

    Raises:
        ConfigError: The language model has no end token, or its tokenizer ends each text by itself.
        CheckpointError: The tokenizer is another model's.
    """
    stage, text_config = first.model.config, language.config
    if text_config.eos_token_id is None:
        raise ConfigError(f"{name} has no eos_token_id, so that no caption would end; give another language model")
    if text_config.bos_token_id is None:
        text_config.bos_token_id = _first(text_config.eos_token_id)
    _require_rows(name, len(tokenizer), language.get_input_embeddings().weight.shape[0])
    queries = int(first.model.query_tokens.shape[1])
    Blip2Processor(processor, tokenizer, num_query_tokens=queries)  # adds the token of images
    _grow(language, len(tokenizer))
    qformer = stage.qformer_config.to_dict() | {"use_qformer_text_input": False}
    config = Blip2Config(
        vision_config=stage.vision_config.to_dict(),
        qformer_config=qformer,
        text_config=text_config.to_dict(),
        num_query_tokens=queries,
        image_text_hidden_size=stage.image_text_hidden_size,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
    )
    with torch.device("meta"):  # all its parts are replaced
        model: Any = Blip2ForConditionalGeneration(config)
    width, wide = config.qformer_config.hidden_size, config.text_config.hidden_size
    model.vision_model = first.model.vision_model
    model.query_tokens = nn.Parameter(first.model.query_tokens.detach().clone())
    model.qformer = Blip2QFormerModel(config.qformer_config)
    kept = set(model.qformer.state_dict())
    model.qformer.load_state_dict({n: t for n, t in first.model.qformer.state_dict().items() if n in kept})
    model.language_projection = nn.Linear(width, wide)
    nn.init.normal_(model.language_projection.weight, std=_SPREAD)
    nn.init.zeros_(model.language_projection.bias)
    language.config = model.config.text_config
    # As transformers' class reads the folder again: what was asked of the language model alone is not asked here.
    language.generation_config = GenerationConfig.from_model_config(language.config)
    model.language_model = language
    made = Blip2LanguageModel(model, first.vision)
    return made, _preprocessing(name, made, processor, tokenizer)


def _preprocessing(
    name: str,
    model: Blip2LanguageModel,
    processor: BaseImageProcessor,
    tokenizer: PreTrainedTokenizerBase,
    *,
    prompt: str = "",
    max_length: int = 0,
    transform: TransformConfig | None = None,
) -> LanguagePreprocessing:
    """How images and texts reach a model.

    Args:
        name: Of it, for messages.
        model: The model.
        processor: Its image processor.
        tokenizer: Of its language model.
        prompt: What is read before each text.
        max_length: Most tokens; 0 for as many as BLIP-2's programs read.
        transform: Augmentation of training; none known where absent.

    Raises:
        CheckpointError: They do not fit together.
    """
    config = model.model.config
    text_config, side = config.text_config, image_side(processor)
    if side != config.vision_config.image_size:
        raise CheckpointError(
            f"{name} has an image processor of {side} px and a model of {config.vision_config.image_size}; set its "
            "size to that"
        )
    _require_rows(name, len(tokenizer), text_config.vocab_size)
    ends = model.ends
    if tokenizer("a")["input_ids"][-1] in ends:
        raise ConfigError(
            f"the tokenizer of {name} ends each text with {tokenizer.decode(ends)}, and nothing would follow a prompt; "
            "give a language model whose tokenizer does not"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token_id = ends[0]
    start = _first(text_config.bos_token_id)
    return LanguagePreprocessing(
        processor,
        tokenizer,
        max_length or min(_MAX_LENGTH, model.longest),
        transform or TransformConfig(size=side, normalisation="encoder"),
        start=ends[0] if start is None else start,
        end=ends[0],
        queries=model.queries,
        prompt=prompt,
    )


def _require_rows(name: str, entries: int, rows: int) -> None:
    """Refuse a tokenizer with more entries than a language model has rows.

    Raises:
        CheckpointError: It has.
    """
    if entries > rows:
        raise CheckpointError(
            f"{name} has a tokenizer of {entries} entries and a language model of {rows}; save the tokenizer that the "
            "model was trained with beside it"
        )


@torch.no_grad()
def _grow(language: PreTrainedModel, entries: int) -> None:
    """Make room for the tokens that were added to a tokenizer, if there is none.

    A new one is the mean of those that were there: as likely as they are on average, it is never written.
    """
    before = language.get_input_embeddings().weight.shape[0]
    if entries <= before:
        return
    language.resize_token_embeddings(entries, mean_resizing=False)
    for table in {language.get_input_embeddings(), language.get_output_embeddings()}:
        table.weight[before:] = table.weight[:before].mean(dim=0)
        bias = getattr(table, "bias", None)
        if bias is not None:
            bias[before:] = bias[:before].mean()


def _first(ids: int | list[int] | None) -> int | None:
    """One of the ids that a config has for start or end."""
    return ids[0] if isinstance(ids, list) else ids
