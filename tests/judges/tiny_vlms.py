"""Tiny vision-language models with random weights, processor and tokenizer included, as users would have them."""

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    GemmaConfig,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    SiglipImageProcessor,
    SiglipVisionConfig,
)

from tests.judges.tiny_judges import PIXELS, WIDTHS
from truepair.data.table import PairTable

WORDS = {**WIDTHS, "initializer_range": 0.3, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2}
SPECIAL = ["<pad>", "<s>", "</s>", "<image>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
SPECIAL += ["<|image_pad|>", "<|video_pad|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}{% if c.type == 'image' %}MARK"
    "{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def byte_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that writes yes and no, in their spellings, as words."""
    whole = Tokenizer(models.BPE())
    whole.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    whole.decoder = decoders.ByteLevel()
    spellings = [f"{word} {word}" for word in ("yes", "Yes", "YES", "no", "No", "NO")] * 9
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=SPECIAL, initial_alphabet=alphabet)
    whole.train_from_iterator([*texts, *spellings], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=whole, pad_token="<pad>", bos_token="<s>", eos_token="</s>", additional_special_tokens=SPECIAL
    )


def _texts(table: PairTable) -> PreTrainedTokenizerFast:
    return byte_tokenizer(text for captions in table.rows["captions"] for text in captions)


def save_llava(folder: Path, table: PairTable) -> Path:
    """A LLaVA without a chat template."""
    tokenizer = _texts(table)
    vision = CLIPVisionConfig(**WIDTHS, image_size=16, patch_size=8, initializer_range=0.5, projection_dim=8)
    text = LlamaConfig(**WORDS, vocab_size=len(tokenizer), num_key_value_heads=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlavaConfig(vision_config=vision, text_config=text, image_token_id=3, vision_feature_layer=-1)
        LlavaForConditionalGeneration(config).save_pretrained(folder)
    images = CLIPImageProcessor(**PIXELS, do_resize=True, do_center_crop=False)
    LlavaProcessor(
        images, tokenizer, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1
    ).save_pretrained(folder)
    return folder


def save_qwen2_vl(folder: Path, table: PairTable) -> Path:
    """A Qwen2-VL: patches of all pictures in one row, and positions in three directions."""
    tokenizer = _texts(table)
    text = {**WORDS, "vocab_size": len(tokenizer), "num_key_value_heads": 1}
    text["rope_parameters"] = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    vision = {"depth": 2, "embed_dim": 24, "hidden_size": 32, "num_heads": 2, "patch_size": 4, "mlp_ratio": 2}
    ids = {"image_token_id": 8, "video_token_id": 9, "vision_start_token_id": 6, "vision_end_token_id": 7}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = Qwen2VLConfig(text_config=text, vision_config=vision | {"initializer_range": 0.3}, **ids)
        Qwen2VLForConditionalGeneration(config).save_pretrained(folder)
    sizes = {"shortest_edge": 8 * 8, "longest_edge": 32 * 32}
    images = Qwen2VLImageProcessor(patch_size=4, merge_size=2, temporal_patch_size=2, size=sizes)
    template = TEMPLATE.replace("MARK", "<|vision_start|><|image_pad|><|vision_end|>")
    videos = Qwen2VLVideoProcessor(patch_size=4, merge_size=2, temporal_patch_size=2)
    Qwen2VLProcessor(images, tokenizer, videos, chat_template=template).save_pretrained(folder)
    return folder


def save_idefics3(folder: Path, table: PairTable) -> Path:
    """An Idefics3: a picture is cut into as many tiles as its shape asks for."""
    tokenizer = _texts(table)
    vision = {**WIDTHS, "image_size": 16, "patch_size": 4, "initializer_range": 0.5}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        text = LlamaConfig(**WORDS, vocab_size=len(tokenizer) + 8, num_key_value_heads=1, pad_token_id=0)
        config = Idefics3Config(vision_config=vision, text_config=text, image_token_id=3, scale_factor=2)
        Idefics3ForConditionalGeneration(config).save_pretrained(folder)
    images = Idefics3ImageProcessor(size={"longest_edge": 32}, max_image_size={"longest_edge": 16})
    template = TEMPLATE.replace("MARK", "<image>")
    Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=template).save_pretrained(folder)
    return folder


def save_paligemma(folder: Path, table: PairTable) -> Path:
    """A PaliGemma: its question reads itself both ways, and there is no chat."""
    tokenizer = _texts(table)
    vision = SiglipVisionConfig(**WIDTHS, image_size=16, patch_size=8, initializer_range=0.5, vision_use_head=False)
    images = SiglipImageProcessor(size={"height": 16, "width": 16}, image_seq_length=4)
    processor = PaliGemmaProcessor(images, tokenizer)
    text = GemmaConfig(**WORDS, vocab_size=len(tokenizer), num_key_value_heads=1, head_dim=16, pad_token_id=0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = PaliGemmaConfig(vision_config=vision, text_config=text, image_token_index=3, projection_dim=32)
        PaliGemmaForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
