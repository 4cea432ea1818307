"""Checkpoint files of others as models with their preprocessing: ALBEF, GRIT-VLP, MAFA, BLIP and open_clip."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from transformers import BertTokenizer, BlipImageProcessor, PreTrainedTokenizerBase

from truepair.data.preprocessing import OwnPreprocessing, Preprocessing
from truepair.data.tokens import load_tokenizer
from truepair.data.transforms import NORMALISATIONS, TransformConfig
from truepair.errors import CheckpointError, ConfigError
from truepair.files import writing_folder
from truepair.models.checkpoints.blip import load_official_blip
from truepair.models.checkpoints.layouts import ALBEF, BLIP, OPEN_CLIP, Weights, find_weights
from truepair.models.checkpoints.official import load_official, shape_of
from truepair.models.checkpoints.open_clip import open_clip_of
from truepair.models.checkpoints.tensors import in_float32, read_checkpoint
from truepair.models.dual.base import DualEncoder
from truepair.models.encoders.images import resize_images
from truepair.models.fusion.blip import START_TOKEN, BlipFusionModel, BlipPreprocessing, start_of

Say = Callable[[str], None]

BERT = "bert-base-uncased"
"""The tokenizer of ALBEF, GRIT-VLP, MAFA and BLIP."""

_BERT_ENTRIES = 30522

_BESIDE = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")
"""Files of a tokenizer; beside a checkpoint, they are taken for its own."""

_HEAD = 64  # channels of an attention head, in every published ALBEF and BLIP

# Most tokens of a caption in the programs that evaluate retrieval: ALBEF's Retrieval.py and BLIP's train_retrieval.py.
_ALBEF_TOKENS, _BLIP_TOKENS = 30, 35

_PATCHES = "visual_encoder.patch_embed.proj.weight"

_DECODER_TOKEN = "[DEC]"  # what BLIP's caption decoder starts with; before [ENC] in its vocabulary


@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """What a checkpoint file does not say.

    Attributes:
        tokenizer: folder, vocab.txt or hub name of its tokenizer; None for files of one beside the checkpoint, and
            bert-base-uncased where there are none. Models of open_clip have their own.
        image_size: height and width of images, in pixels; position embeddings are interpolated. 0 for those that the
            checkpoint is of.
        max_length: most tokens of a caption; 0 for 30 (ALBEF, GRIT-VLP, MAFA) and 35 (BLIP), as their programs take.
        weights: which of several weights in the file, such as ``model_ema``; None for the trained ones themselves.
        heads: attention heads of each tower; 0 for 64 channels a head, as all published models have.
        architecture: name, or JSON file, of open_clip's architecture; None to tell it by the weights.
    """

    tokenizer: str | None = None
    image_size: int = 0
    max_length: int = 0
    weights: str | None = None
    heads: int = 0
    architecture: str | None = None

    def __post_init__(self) -> None:
        for name in ("image_size", "max_length", "heads"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name.replace('_', '-')} is {getattr(self, name)}; give 1 or more")


def open_checkpoint(
    file: str | Path, say: Say, options: ConvertOptions | None = None
) -> tuple[DualEncoder, Preprocessing]:
    """The model of a checkpoint file, in evaluation mode, and how captions and images reach it.

    Args:
        file: as its program or trainer wrote it; nothing in it is run.
        say: prints a line: what is taken, left out, interpolated, and taken for granted.
        options: what the file does not say.

    Raises:
        CheckpointError: it cannot be read, is of no known layout, or its tokenizer is not at hand.
        ConfigError: an option does not fit it.
    """
    asked = options or ConvertOptions()
    checkpoint = read_checkpoint(Path(file).expanduser())
    if checkpoint.classes:
        say(f"{checkpoint.file.name}: objects of {', '.join(checkpoint.classes)} in it are not made, and not needed")
    weights = find_weights(checkpoint, asked.weights, say)
    state, were = in_float32(weights.tensors)
    notes = (
        f"; {len(state):,} tensors",
        f"; {were} becomes float32" if were else "",
        f"; left out: {weights.left_out}" if weights.left_out else "",
    )
    say(f"{checkpoint.file.name}: {weights.title}{''.join(notes)}")
    if weights.layout == OPEN_CLIP:
        if asked.tokenizer is not None or asked.max_length:
            raise ConfigError("a model of open_clip has a tokenizer of its own; drop --tokenizer and --max-length")
        return open_clip_of(
            state,
            checkpoint.file,
            say,
            run=checkpoint.run,
            architecture=asked.architecture,
            heads=asked.heads,
            image_size=asked.image_size,
        )
    if asked.architecture is not None:
        raise ConfigError(f"--architecture is for models of open_clip, and {checkpoint.file} is of {weights.title}")
    patch = shape_of(state, _PATCHES, 4)[3]
    if asked.image_size % patch:
        raise ConfigError(
            f"image-size is {asked.image_size}, and {checkpoint.file} reads patches of {patch} px; give a "
            "multiple of that"
        )
    build = _blip if weights.layout == BLIP else _albef
    try:
        return build(weights, state, checkpoint.file, asked, say)
    except CheckpointError as error:
        if str(checkpoint.file) in str(error):
            raise
        raise CheckpointError(f"{checkpoint.file} looks like {weights.title}, but {error}") from error


def convert_checkpoint(file: str | Path, folder: Path, say: Say, options: ConvertOptions | None = None) -> None:
    """Write the model of a checkpoint file as a folder that every command takes.

    Args:
        file: as for `open_checkpoint`.
        folder: where; it must not exist, or be empty.
        say: prints a line.
        options: what the file does not say.

    Raises:
        CheckpointError: as for `open_checkpoint`, or the disk is full.
        ConfigError: the folder holds something, or an option does not fit.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is there, and not empty; give another folder, or remove it")
    model, preprocessing = open_checkpoint(file, say, options)
    with writing_folder(folder, error=CheckpointError) as aside:
        model.save_pretrained(aside)
        preprocessing.save(aside)


def _albef(
    weights: Weights, state: Mapping[str, Tensor], file: Path, asked: ConvertOptions, say: Say
) -> tuple[DualEncoder, Preprocessing]:
    prefix = "text_encoder.bert." if weights.layout == ALBEF else "text_encoder."
    vocabulary = shape_of(state, f"{prefix}embeddings.word_embeddings.weight")[0]
    tokenizer = _tokenizer(file, asked.tokenizer, vocabulary)
    image_heads, text_heads = _heads(state, prefix, file, asked.heads, say)
    mean, std = NORMALISATIONS["clip"]
    image_fields = {"num_attention_heads": image_heads, "pixel_mean": mean, "pixel_std": std}
    model = load_official(state, num_attention_heads=text_heads, image_encoder=image_fields)
    own = model.image_encoder.image_size
    size = asked.image_size or own
    resize_images(model, size)
    model.eval()
    length = _length(asked.max_length or _ALBEF_TOKENS, model.config.max_position_embeddings, file, say)
    transform = TransformConfig(size=size)
    _say_preprocessing(file, own, size, length, tokenizer, asked, say)
    return model, OwnPreprocessing(
        tokenizer, length, add_sep=False, normalise=True, transform=transform, statistics=(mean, std)
    )


def _blip(
    weights: Weights, state: Mapping[str, Tensor], file: Path, asked: ConvertOptions, say: Say
) -> tuple[DualEncoder, Preprocessing]:
    vocabulary = shape_of(state, "text_encoder.embeddings.word_embeddings.weight")[0]
    tokenizer = _tokenizer(file, asked.tokenizer, vocabulary)
    if len(tokenizer) == vocabulary - 2:
        tokenizer.add_tokens([_DECODER_TOKEN, START_TOKEN], special_tokens=True)
    elif start_of(tokenizer) != vocabulary - 1:
        say(
            f"{file.name}: the tokenizer has {len(tokenizer):,} entries, two less than the model's {vocabulary:,} are "
            f"expected; so there is no {START_TOKEN}, and ITM reads [CLS] in its place"
        )
    image_heads, text_heads = _heads(state, "text_encoder.", file, asked.heads, say)
    model = load_official_blip(state, image_heads=image_heads, text_heads=text_heads, image_size=asked.image_size)
    size = int(model.config.vision_config.image_size)
    own = _own_size(state)
    length = _length(asked.max_length or _BLIP_TOKENS, int(model.config.text_config.max_position_embeddings), file, say)
    mean, std = NORMALISATIONS["clip"]
    processor = BlipImageProcessor(size={"height": size, "width": size}, image_mean=list(mean), image_std=list(std))
    transform = TransformConfig(size=size, normalisation="encoder")
    _say_preprocessing(file, own, size, length, tokenizer, asked, say)
    made = BlipFusionModel(model, start_of(tokenizer)).eval()
    return made, BlipPreprocessing(processor, tokenizer, length, transform, clean=True)


def _own_size(state: Mapping[str, Tensor]) -> int:
    """Side of the images that the position embeddings are of, in pixels."""
    patches = shape_of(state, "visual_encoder.pos_embed", 3)[1] - 1
    return math.isqrt(patches) * shape_of(state, _PATCHES, 4)[3]


def _say_preprocessing(
    file: Path,
    own: int,
    size: int,
    length: int,
    tokenizer: PreTrainedTokenizerBase,
    asked: ConvertOptions,
    say: Say,
) -> None:
    if size != own:
        say(f"{file.name}: position embeddings are interpolated from {own} to {size} px")
    source = asked.tokenizer or tokenizer.name_or_path or BERT
    say(f"{file.name}: images of {size} px, normalised as for CLIP; captions of up to {length} tokens of {source}")


def _length(asked: int, longest: int, file: Path, say: Say) -> int:
    """Most tokens of a caption."""
    if asked > longest:
        say(f"{file.name}: captions of {longest} tokens, not {asked}: the model has no more positions")
    return min(asked, longest)


def _heads(state: Mapping[str, Tensor], prefix: str, file: Path, asked: int, say: Say) -> tuple[int, int]:
    """Attention heads of the image and the text tower, which weights do not show.

    Raises:
        CheckpointError: a width does not split into such heads.
    """
    widths = {
        "image": shape_of(state, _PATCHES, 4)[0],
        "text": shape_of(state, f"{prefix}embeddings.word_embeddings.weight")[1],
    }
    found = []
    for tower, width in widths.items():
        heads = asked or max(1, width // _HEAD)
        if width % heads or (not asked and width > _HEAD and width % _HEAD):
            raise CheckpointError(
                f"{file}: the {width} channels of the {tower} tower do not split into "
                f"{f'{heads} heads' if asked else 'heads of 64'}; give --heads N"
            )
        if width // heads != _HEAD:
            say(f"{file.name}: the {tower} tower has {heads} attention heads of {width // heads} channels (--heads N)")
        found.append(heads)
    return found[0], found[1]


def _tokenizer(file: Path, named: str | None, vocabulary: int) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint.

    Raises:
        CheckpointError: it is not at hand, or is that of another model.
    """
    beside = file.parent if any((file.parent / name).is_file() for name in _BESIDE) else None
    place = Path(named).expanduser() if named is not None else beside
    if place is None and vocabulary not in (_BERT_ENTRIES, _BERT_ENTRIES + 2):
        raise CheckpointError(
            f"{file} reads {vocabulary:,} tokens, which are not those of {BERT}; give the tokenizer that it was "
            f"trained with: truepair convert {file} OUT --tokenizer FOLDER"
        )
    try:
        found = _load_tokenizer(place if place is not None and place.exists() else named or BERT)
    except ConfigError as error:
        raise CheckpointError(
            f"the tokenizer of {file}, {named or place or BERT}, is not at hand and cannot be fetched; give its folder "
            f"or vocab.txt: truepair convert {file} OUT --tokenizer FOLDER, or put the vocab.txt of {BERT} beside the "
            "checkpoint"
        ) from error
    if len(found) > vocabulary:
        raise CheckpointError(
            f"the tokenizer {named or place or BERT} has {len(found):,} entries, and {file} reads {vocabulary:,}; give "
            f"the one that it was trained with: truepair convert {file} OUT --tokenizer FOLDER"
        )
    return found


def _load_tokenizer(place: str | Path) -> PreTrainedTokenizerBase:
    """A tokenizer from a folder of transformers, from a BERT's vocab.txt (or a folder with that alone), or by its name.

    Raises:
        ConfigError: there is none.
    """
    path = Path(place)
    vocabulary = path / "vocab.txt" if path.is_dir() else path
    alone = path.is_file() or not any((path / name).is_file() for name in _BESIDE[:2])
    if vocabulary.is_file() and alone:
        return BertTokenizer(vocab=str(vocabulary))
    return load_tokenizer(place)
