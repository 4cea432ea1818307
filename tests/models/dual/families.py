"""Small checkpoints of every family, made by the library's own classes: model, image processor and tokenizer."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image
from tokenizers import normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    AlignConfig,
    AlignModel,
    AltCLIPConfig,
    AltCLIPModel,
    BaseImageProcessor,
    BertConfig,
    BertTokenizer,
    ChineseCLIPConfig,
    ChineseCLIPImageProcessor,
    ChineseCLIPModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    Dinov2Config,
    EfficientNetImageProcessor,
    GemmaTokenizer,
    MetaClip2Config,
    MetaClip2Model,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    RobertaConfig,
    RobertaTokenizer,
    Siglip2Config,
    Siglip2ImageProcessor,
    Siglip2Model,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    TimmWrapperConfig,
    Tipsv2Config,
    Tipsv2ImageProcessor,
    Tipsv2Model,
    Tipsv2Tokenizer,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    ViTConfig,
    ViTImageProcessor,
    XLMRobertaTokenizer,
)

from tests.data.makers import noise
from truepair.data.tokens import train_wordpiece

WORDS = ["A red square", "a small blue dot on green ground", "zwei grüne Kreise", "两只狗在雪地里", "café, naïve!"]
CAPTIONS = [*WORDS, "", "A LOUD Caption", "🙂 emoji", "one two three four five six seven eight nine ten " * 9]

WIDTHS = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
# Large enough that nothing vanishes in the noise.
RANGE = {"initializer_range": 0.2}
VISION = {**WIDTHS, **RANGE, "image_size": 16, "patch_size": 8}
POSITIONS = 20
SQUARE = {"height": 16, "width": 16}

Layout = dict[str, Any]


def pictures() -> list[Image.Image]:
    """Of odd sizes: wide, high, tiny, a single row, grey."""
    sizes = ((40, 30), (17, 51), (5, 7), (33, 2), (64, 64))
    return [*(noise(number, size) for number, size in enumerate(sizes)), Image.new("RGB", (20, 31), "grey")]


def bert_tokenizer(**options: Any) -> PreTrainedTokenizerBase:
    return BertTokenizer(vocab=train_wordpiece(WORDS, 80, min_frequency=1).get_vocab(), **options)


def bpe(specials: list[str], suffix: str = "") -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a byte-level BPE; a trained one would differ from process to process."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("r", "e"), ("s", "m"), ("sm", "a"), ("l", f"l{suffix}"), ("d", "o"), ("do", f"t{suffix}")]
    pieces = [*letters, *(letter + suffix for letter in letters), *(left + right for left, right in merges)]
    return {piece: number for number, piece in enumerate(dict.fromkeys([*specials, *pieces]))}, merges


def clip_tokenizer(**options: Any) -> PreTrainedTokenizerBase:
    """CLIP's pads with its end token, which has the highest id."""
    vocabulary, merges = bpe([], "</w>")
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    return CLIPTokenizer(vocab=vocabulary, merges=merges, **options)


def roberta_tokenizer(**options: Any) -> PreTrainedTokenizerBase:
    vocabulary, merges = bpe(["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    return RobertaTokenizer(vocab=vocabulary, merges=merges, **options)


def xlm_tokenizer(**options: Any) -> PreTrainedTokenizerBase:
    letters = sorted({letter for text in WORDS for letter in text if letter != " "})
    pieces = [*("<s>", "<pad>", "</s>", "<unk>", "<mask>"), "▁", "▁a", "▁dot", *letters]
    scores = [(piece, 0.0 if place < 5 else -1.0 - 0.1 * place) for place, piece in enumerate(pieces)]
    return XLMRobertaTokenizer(vocab=scores, **options)


def gemma_pieces() -> dict[str, int]:
    letters = sorted({letter for text in WORDS for letter in text.lower() if letter != " "})
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    pieces = [*specials, *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *letters]
    return {piece: number for number, piece in enumerate(pieces)}


def gemma_tokenizer(**options: Any) -> PreTrainedTokenizerBase:
    """As the published SigLIP 2: lower-cased, padded on the right up to 64 tokens, no mask."""
    settings = {"padding_side": "right", "model_input_names": ["input_ids"], "model_max_length": POSITIONS}
    tokenizer = GemmaTokenizer(vocab=gemma_pieces(), merges=[], **settings | options)
    backend = tokenizer.backend_tokenizer
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), backend.normalizer])
    backend.post_processor = processors.TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    return tokenizer


def sentencepiece_tokenizer(**options: Any) -> PreTrainedTokenizerBase:
    """As the published SigLIP: lower-cased, without punctuation, padded with its end token, no mask."""
    from sentencepiece import SentencePieceTrainer
    from transformers import SiglipTokenizer

    with TemporaryDirectory() as folder:
        stem = Path(folder, "spiece")
        SentencePieceTrainer.train(
            sentence_iterator=iter(WORDS * 20),
            model_prefix=str(stem),
            vocab_size=70,
            hard_vocab_limit=False,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            minloglevel=2,
        )
        settings = {"model_input_names": ["input_ids"], "model_max_length": POSITIONS}
        return SiglipTokenizer(f"{stem}.model", **settings | options)


def tips_tokenizer(**options: Any) -> PreTrainedTokenizerBase:
    return Tipsv2Tokenizer(vocab=gemma_pieces(), merges=[], model_max_length=POSITIONS, **options)


def clip_processor(**options: Any) -> BaseImageProcessor:
    return CLIPImageProcessor(**{"size": {"shortest_edge": 16}, "crop_size": SQUARE} | options)


def patch_processor(**options: Any) -> BaseImageProcessor:
    return Siglip2ImageProcessor(**{"patch_size": 4, "max_num_patches": 12} | options)


def text_config(tokenizer: PreTrainedTokenizerBase, **options: Any) -> Layout:
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    ids = {name: number for name, number in ids.items() if number is not None}
    padding = {"pad_token_id": tokenizer.pad_token_id, "max_position_embeddings": POSITIONS}
    return {**WIDTHS, **RANGE, "vocab_size": len(tokenizer), **ids, **padding} | options


@dataclass(frozen=True)
class Family:
    """How a family is made, and how its model card uses it.

    Attributes:
        name: in the names of tests.
        build: the model for a tokenizer.
        tokenizer: its tokenizer.
        processor: its image processor.
        texts: how its model card calls the tokenizer.
        longest: most tokens of a caption that it reads.
    """

    name: str
    build: Callable[[PreTrainedTokenizerBase], PreTrainedModel]
    tokenizer: Callable[..., PreTrainedTokenizerBase]
    processor: Callable[[], BaseImageProcessor]
    texts: Layout = field(default_factory=lambda: {"padding": True, "truncation": True, "max_length": POSITIONS})
    longest: int = POSITIONS

    def model(self, *, dropout: bool = True) -> PreTrainedModel:
        """The same weights each time; with or without the dropout that is usual for it."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = self.build(self.tokenizer()).eval()
        for config in (model.config.text_config, model.config.vision_config) if not dropout else ():
            for name in [name for name in config.to_dict() if "drop" in name]:
                setattr(config, name, 0.0)
        return model

    def save(self, folder: Path, *, dropout: bool = True) -> Path:
        """Write the three as they are on the hub."""
        self.model(dropout=dropout).save_pretrained(folder)
        self.processor().save_pretrained(folder)
        self.tokenizer().save_pretrained(folder)
        return folder


FULL: Layout = {"padding": "max_length", "truncation": True, "max_length": POSITIONS}


def clip(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    return CLIPModel(CLIPConfig(text_config=text_config(tokenizer), vision_config=VISION, projection_dim=8))


def old_clip(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """OpenAI's published configs name an end token that is not theirs; the highest id is taken for it."""
    text = text_config(tokenizer, eos_token_id=2)
    return CLIPModel(CLIPConfig(text_config=text, vision_config=VISION, projection_dim=8))


def metaclip_2(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    text = text_config(tokenizer)
    return MetaClip2Model(MetaClip2Config(text_config=text, vision_config=VISION, projection_dim=8))


def chinese_clip(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    text = text_config(tokenizer)
    return ChineseCLIPModel(ChineseCLIPConfig(text_config=text, vision_config=VISION, projection_dim=8))


def altclip(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    text = text_config(tokenizer, project_dim=8, max_position_embeddings=POSITIONS + 2)
    return AltCLIPModel(AltCLIPConfig(text_config=text, vision_config=VISION, projection_dim=8))


def align(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """Its image tower needs pictures that five halvings leave something of; texts are cut at 64 tokens."""
    vision = {"image_size": 64, "hidden_dim": 32, "width_coefficient": 0.1, "depth_coefficient": 0.1}
    text = text_config(tokenizer, max_position_embeddings=80)
    return settled(AlignModel(AlignConfig(text_config=text, vision_config=vision, projection_dim=32)))


def align_processor() -> BaseImageProcessor:
    sizes = {"size": {"height": 70, "width": 72}, "crop_size": {"height": 64, "width": 64}}
    return EfficientNetImageProcessor(**sizes, do_center_crop=True, rescale_offset=True)


def siglip(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The published configs name another padding than that of their tokenizer."""
    text = text_config(tokenizer, projection_size=24, pad_token_id=1)
    return SiglipModel(SiglipConfig(text_config=text, vision_config=VISION))


def siglip_2(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    vision = {**WIDTHS, **RANGE, "num_patches": 16, "patch_size": 4}
    text = text_config(tokenizer, projection_size=24, pad_token_id=1)
    return Siglip2Model(Siglip2Config(text_config=text, vision_config=vision))


def tipsv2(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    return Tipsv2Model(Tipsv2Config(text_config=text_config(tokenizer), vision_config=VISION))


def composed(vision: PreTrainedConfig, text: PreTrainedConfig) -> PreTrainedModel:
    config = VisionTextDualEncoderConfig.from_vision_text_configs(vision, text, projection_dim=8)
    return VisionTextDualEncoderModel(config)


def vit_and_bert(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    return composed(ViTConfig(**VISION), BertConfig(**text_config(tokenizer)))


def clip_and_roberta(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    text = RobertaConfig(**text_config(tokenizer, max_position_embeddings=POSITIONS + 2))
    return composed(CLIPVisionConfig(**VISION), text)


def dinov2_and_bert(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    return composed(Dinov2Config(**VISION, layerscale_value=1.0), BertConfig(**text_config(tokenizer)))


def timm_and_bert(tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """A timm tower states its width in the config, as the composed model asks for it."""
    vision = TimmWrapperConfig(architecture="tf_efficientnet_lite0", hidden_size=1280)
    return settled(composed(vision, BertConfig(**text_config(tokenizer))))


def settled(model: PreTrainedModel) -> PreTrainedModel:
    """With statistics of batch norms as of random images; without, a deep tower's signal vanishes."""
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = 1.0
    with torch.no_grad():
        model.train().vision_model(torch.randn(8, 3, 64, 64))
    return model


FAMILIES = [
    Family("clip", clip, clip_tokenizer, clip_processor),
    Family("old_clip", old_clip, clip_tokenizer, clip_processor),
    Family("metaclip_2", metaclip_2, xlm_tokenizer, clip_processor),
    Family(
        "chinese_clip",
        chinese_clip,
        bert_tokenizer,
        lambda: ChineseCLIPImageProcessor(size={"shortest_edge": 16}, crop_size=SQUARE),
    ),
    Family("altclip", altclip, xlm_tokenizer, clip_processor),
    Family(
        "align",
        align,
        bert_tokenizer,
        align_processor,
        {"padding": "max_length", "truncation": True, "max_length": 64},
        64,
    ),
    Family("siglip", siglip, gemma_tokenizer, lambda: SiglipImageProcessor(size=SQUARE), FULL),
    Family(
        "siglip_2", siglip_2, gemma_tokenizer, lambda: Siglip2ImageProcessor(patch_size=4, max_num_patches=12), FULL
    ),
    Family("tipsv2", tipsv2, tips_tokenizer, lambda: Tipsv2ImageProcessor(size=SQUARE), FULL),
    Family("vit_and_bert", vit_and_bert, bert_tokenizer, lambda: ViTImageProcessor(size=SQUARE)),
    Family("clip_and_roberta", clip_and_roberta, roberta_tokenizer, clip_processor),
    Family("dinov2_and_bert", dinov2_and_bert, bert_tokenizer, clip_processor),
]
NEEDING = {
    "timm": Family("timm_and_bert", timm_and_bert, bert_tokenizer, clip_processor),
    "sentencepiece": Family(
        "siglip_1", siglip, sentencepiece_tokenizer, lambda: SiglipImageProcessor(size=SQUARE), FULL
    ),
}
"""Families that need a package which truepair does not install."""


def library_features(
    model: PreTrainedModel,
    processor: BaseImageProcessor,
    tokenizer: PreTrainedTokenizerBase,
    texts: Layout,
) -> tuple[Tensor, Tensor, Tensor]:
    """Features of the pictures and the captions, L2-normalised, and the logits, all without truepair."""
    images = processor(images=pictures(), return_tensors="pt")
    captions = tokenizer(CAPTIONS, return_tensors="pt", **texts)
    with torch.no_grad():
        features = [
            model.get_image_features(**images).pooler_output,
            model.get_text_features(**captions).pooler_output,
        ]
        logits = model(**images, **captions).logits_per_image
    image, text = (torch.nn.functional.normalize(feature, dim=1) for feature in features)
    return image, text, logits
