"""The model a run starts with: tokenizer, preprocessing, weights."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from transformers import BlipImageProcessor, PreTrainedTokenizerBase

from truepair.data.preprocessing import OwnPreprocessing
from truepair.data.table import PairTable, hash_ids
from truepair.data.tokens import load_tokenizer, train_wordpiece
from truepair.data.transforms import normalisation
from truepair.errors import CheckpointError, ConfigError, TruepairError, shortened
from truepair.methods.recipe import MODELS_OWN, ModelConfig, PretrainRecipe, TextConfig
from truepair.models.checkpoints.bert import albef_from_bert
from truepair.models.checkpoints.blip2 import QUERIES_DRAWN, new_blip2, part_queries
from truepair.models.dual.base import DualEncoder
from truepair.models.dual.freezing import Freezing, describe_trained, freeze
from truepair.models.dual.hub_preprocessing import HubPreprocessing
from truepair.models.dual.lora import add_lora
from truepair.models.encoders.images import load_image_encoder, resize_images
from truepair.models.encoders.minilm import minilm_folder
from truepair.models.fusion.albef import AlbefModel
from truepair.models.fusion.blip2 import CAPTION_TOKEN, Blip2FusionModel, caption_token
from truepair.models.fusion.config import AlbefConfig
from truepair.models.open import OpenedModel, open_model
from truepair.randomness import stable_hash
from truepair.relations.text import normalise_caption

_CORPUS = 100_000
"""Captions that a tokenizer is trained on; a million take half a minute, and give nearly the same pieces."""

Say = Callable[[str], None]


BuildStudent = Callable[[PretrainRecipe, PairTable, Say], OpenedModel]
"""Makes the model of a recipe for a table; see :func:`build_student`."""


def build_tokenizer(config: TextConfig, train: PairTable, say: Say) -> PreTrainedTokenizerBase:
    """Train a tokenizer on the training captions, or load one; of many captions, a share is enough to train it on."""
    if config.tokenizer == "train":
        texts = _corpus(train)
        used, every = len(texts), train.caption_count
        if used < every:
            say(f"the tokenizer is trained on {used:,} of {every:,} captions, and knows the characters of all")
        if config.normalise:
            texts = [normalise_caption(text) for text in texts]
        return train_wordpiece(texts, config.vocab_size)
    return load_tokenizer(minilm_folder() if config.tokenizer == "minilm" else config.tokenizer)


def _corpus(train: PairTable) -> list[str]:
    """All captions, or of many a share that their ids choose, and all others with a character that these do not have.

    Rows in another order give the same ones.
    """
    if train.caption_count <= _CORPUS:
        return list(train.captions())
    share = _CORPUS / train.caption_count
    chosen = hash_ids(train.caption_ids, stable_hash("tokenizer")) < int(share * 2**63)  # [C]
    starts = np.cumsum([0, *(len(block) for block in train.caption_blocks())])
    texts = list[str]()
    for start, block in zip(starts, train.caption_blocks(), strict=False):
        texts += block.filter(pa.array(chosen[start : start + len(block)])).to_pylist()
    another = _any_but(set().union(*texts))
    for start, block in zip(starts, train.caption_blocks(), strict=False):
        others = block.filter(pa.array(~chosen[start : start + len(block)]))
        texts += others.filter(pc.match_substring_regex(others, another)).to_pylist()
    return texts


def _any_but(characters: Iterable[str]) -> str:
    """A regular expression of Arrow for any character but these."""
    codes = np.unique(np.fromiter(map(ord, characters), np.int64))
    ranges = np.split(codes, np.flatnonzero(np.diff(codes) > 1) + 1)
    listed = "".join(f"\\x{{{part[0]:x}}}-\\x{{{part[-1]:x}}}" for part in ranges if len(part))
    return f"[^{listed}]" if listed else "(?s)."


def build_student(recipe: PretrainRecipe, train: PairTable, say: Say) -> OpenedModel:
    """The model that a recipe trains on a table, and its preprocessing; the same each time.

    Raises:
        ConfigError: options that do not exist or do not fit.
        CheckpointError: a checkpoint that is missing or does not fit.
    """
    opened = _whole_model(recipe, train, say)
    adapt(opened.model, recipe.model, say)
    return opened


def _whole_model(recipe: PretrainRecipe, train: PairTable, say: Say) -> OpenedModel:
    """The model that a recipe starts with, all of it to be trained."""
    if recipe.model.checkpoint is not None:
        seed_weights(recipe.loop.seed)  # for architectures that are named without weights
        return _trained_before(recipe, open_model(recipe.model.checkpoint, say), train, say)
    if recipe.text.tokenizer == MODELS_OWN or not recipe.data.transform.size:
        raise ConfigError(
            "text.tokenizer 'model' and data.transform.size 0 are those of a trained model; name it: "
            "--model.checkpoint FOLDER or a name on the hub"
        )
    tokenizer = build_tokenizer(recipe.text, train, say)
    seed_weights(recipe.loop.seed)
    if recipe.model.family == "blip2":
        return _new_blip2(recipe, tokenizer, say)
    model = _pretrained(recipe.model, tokenizer, say)
    if recipe.model.image_checkpoint is not None:
        resize_images(model, recipe.data.transform.size)  # the saved config says so, and caches are keyed by it
    return _of_own(model, _own_preprocessing(recipe, tokenizer))


def _trained_before(recipe: PretrainRecipe, opened: OpenedModel, train: PairTable, say: Say) -> OpenedModel:
    """A whole model, with its own tokenization or that of the recipe, and the recipe's augmentation.

    Raises:
        ConfigError: the recipe asks for tokens or pixels that it does not read.
        CheckpointError: its tokenizer is another one.
    """
    text, checkpoint, model = recipe.text, str(recipe.model.checkpoint), opened.model
    if text.tokenizer == MODELS_OWN:
        preprocessing = opened.preprocessing.adapted(recipe.data.transform, text.max_length)
    elif isinstance(opened.preprocessing, OwnPreprocessing):
        tokenizer = build_tokenizer(text, train, say)
        require_same_tokenizer(checkpoint, opened.preprocessing.tokenizer, tokenizer)
        preprocessing = _own_preprocessing(recipe, tokenizer)
    else:
        raise ConfigError(
            f"text.tokenizer is '{text.tokenizer}', but {checkpoint} reads tokens of its own; set it to model"
        )
    seed_weights(recipe.loop.seed)
    if isinstance(model, AlbefModel) and isinstance(preprocessing, OwnPreprocessing):
        before = model.image_encoder.image_size
        resize_images(model, preprocessing.transform.size)
        if model.image_encoder.image_size != before:
            say(
                f"{checkpoint}: position embeddings are interpolated from {before} to "
                f"{model.image_encoder.image_size} px"
            )
        return _of_own(model, preprocessing)
    say(
        f"{checkpoint} ({model.kind}): its own image processor and tokenizer, captions of up to "
        f"{preprocessing.max_length} tokens"
    )
    if isinstance(model, Blip2FusionModel) and part_queries(model.model.query_tokens):
        say(QUERIES_DRAWN.format(checkpoint))
    return OpenedModel(model, preprocessing)


def _new_blip2(recipe: PretrainRecipe, tokenizer: PreTrainedTokenizerBase, say: Say) -> OpenedModel:
    """A BLIP-2 of a recipe's sizes, with the ViT and the BERT that it names.

    Raises:
        ConfigError: The recipe reads captions otherwise than the tokenizer of such a model does.
    """
    config, text, transform = recipe.model, recipe.text, recipe.data.transform
    if not text.add_sep or text.normalise:
        raise ConfigError(
            "model.family 'blip2' reads captions as its tokenizer does; set text.add_sep to true and text.normalise to "
            "false"
        )
    if caption_token(tokenizer) is None:
        tokenizer.add_special_tokens({"bos_token": CAPTION_TOKEN})
    vision = None
    if config.image_checkpoint is not None:
        vision = load_image_encoder(config.image_checkpoint, image_size=transform.size)
    bert = minilm_folder() if config.text_checkpoint == "minilm" else config.text_checkpoint
    model = new_blip2(config.size, config.options, len(tokenizer), caption_token(tokenizer), vision=vision, bert=bert)
    made = model.model.config
    if made.vision_config.image_size != transform.size:
        raise ConfigError(
            f"data.transform.size is {transform.size}, and the image tower reads {made.vision_config.image_size} px; "
            "set model.options.vision_config.image_size to it"
        )
    if text.max_length > made.qformer_config.max_position_embeddings:
        raise ConfigError(
            f"text.max_length is {text.max_length}, but the Q-Former reads "
            f"{made.qformer_config.max_position_embeddings} tokens"
        )
    mean, std = normalisation(transform, None if vision is None else (vision.pixel_mean, vision.pixel_std))
    processor = BlipImageProcessor(
        size={"height": transform.size, "width": transform.size}, image_mean=list(mean), image_std=list(std)
    )
    say(f"a BLIP-2 of {model.vectors_per_image} queries: {_starts(config)}")
    if model.vision is not None:
        say(
            f"{config.image_checkpoint} is no ViT, which is all that transformers' class of BLIP-2 has for images: it "
            "stays what it is, and the saved folder is opened by truepair alone"
        )
    elif model.itm_product is not None:
        say(
            "model.options.itm_product: ITM also reads products of features, for which transformers' class of BLIP-2 "
            "has no place; what it says of pairs in the saved folder is without them"
        )
    return OpenedModel(model, HubPreprocessing(processor, tokenizer, text.max_length, transform))


def _starts(config: ModelConfig) -> str:
    """What a BLIP-2 starts from, in words."""
    image = "random weights" if config.image_checkpoint is None else config.image_checkpoint
    text = "random weights" if config.text_checkpoint is None else config.text_checkpoint
    return f"the image tower starts from {image}, the Q-Former from {text}"


def _own_preprocessing(recipe: PretrainRecipe, tokenizer: PreTrainedTokenizerBase) -> OwnPreprocessing:
    """The recipe's tokenization and image settings."""
    text = recipe.text
    return OwnPreprocessing(tokenizer, text.max_length, text.add_sep, text.normalise, recipe.data.transform)


def _of_own(model: AlbefModel, preprocessing: OwnPreprocessing) -> OpenedModel:
    """One of our models, whose image encoder says how pixels are normalised.

    Raises:
        ConfigError: it does not know so many tokens, or reads no captions of that length.
    """
    entries, longest, config = len(preprocessing.tokenizer), preprocessing.max_length, model.config
    if entries > config.vocab_size or longest > config.max_position_embeddings:
        raise ConfigError(
            f"the tokenizer has {entries} entries and captions up to {longest} tokens, but the model "
            f"{config.vocab_size} and {config.max_position_embeddings}; make text and model fit"
        )
    encoder = model.image_encoder
    return OpenedModel(model, replace(preprocessing, statistics=(encoder.pixel_mean, encoder.pixel_std)))


def adapt(model: DualEncoder, config: ModelConfig, say: Say) -> None:
    """Freeze what a recipe does not train, and put in the adapter that it trains instead; a line says how much moves.

    Raises:
        ConfigError: the model has no such parts, or cannot be adapted.
    """
    frozen = Freezing(
        image=config.freeze_image,
        text=config.freeze_text,
        image_blocks=config.freeze_image_blocks,
        text_blocks=config.freeze_text_blocks,
        train_only=config.train_only,
    )
    freeze(model, frozen)
    if config.lora is not None:
        add_lora(model, config.lora)
    if frozen != Freezing() or config.lora is not None:
        say(describe_trained(model))


def require_same_tokenizer(checkpoint: str, own: PreTrainedTokenizerBase, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a model whose own token ids mean other words than those of a tokenizer.

    Raises:
        CheckpointError: it was trained with another tokenizer.
    """
    if own.get_vocab() != tokenizer.get_vocab():
        raise CheckpointError(
            f"{checkpoint} was trained with another tokenizer ({len(own)} entries, here {len(tokenizer)}); set "
            "text.tokenizer to that folder, or, where training starts from it, to model"
        )


def seed_weights(seed: int) -> None:
    """Set the global generator, from which initial weights are drawn."""
    torch.manual_seed(stable_hash(seed, "initial weights"))


def _built(config: AlbefConfig) -> AlbefModel:
    try:
        return AlbefModel(config)
    except TruepairError:
        raise
    except Exception as error:  # transformers checks few values of its image encoders before it computes with them
        raise ConfigError(f"model.options: no model can be made of them: {shortened(error)}") from error


def _pretrained(config: ModelConfig, tokenizer: PreTrainedTokenizerBase, say: Say) -> AlbefModel:
    """A model of a recipe's sizes, with the encoders that it names."""
    options = dict(config.options)
    if "vocab_size" in options:
        raise ConfigError("model.options.vocab_size is that of the tokenizer; set text.vocab_size, or drop it")
    if config.image_checkpoint is not None:
        encoder = load_image_encoder(config.image_checkpoint)
        options["image_encoder"] = encoder.config
    if config.text_checkpoint is not None:
        source = minilm_folder() if config.text_checkpoint == "minilm" else config.text_checkpoint
        model, report = albef_from_bert(source, **options)
        say(str(report))
    else:
        model = _built(AlbefConfig.of_size(config.size, vocab_size=len(tokenizer), **options))
    if config.image_checkpoint is not None:
        model.image_encoder.load_state_dict(encoder.state_dict())
    return model
