"""Image-text pairs from disk: formats, tables, transforms, tokenizers, batches."""

from truepair.data.images import BadImageError, load_image
from truepair.data.judgements import JudgedCaptions, Judgement, judged_captions, read_judgements
from truepair.data.open import open_pairs
from truepair.data.pairs import PairBatch, PairCollator, PairDataset, PairSample, Substitution, SubstitutionLog
from truepair.data.source import SourceConfig
from truepair.data.table import PairTable
from truepair.data.tasks.captioning import (
    CaptionBatch,
    CaptionCollator,
    CaptionDataConfig,
    CaptionDataset,
    CaptionTable,
)
from truepair.data.tasks.nlvr2 import Nlvr2Batch, Nlvr2Collator, Nlvr2Dataset, Nlvr2Source, Nlvr2Table, open_nlvr2
from truepair.data.tasks.vqa import VqaBatch, VqaCollator, VqaDataset
from truepair.data.tasks.vqa_source import VqaSource, VqaTable, load_answer_list, open_vqa
from truepair.data.tokens import load_tokenizer, tokenize_captions, train_wordpiece
from truepair.data.transforms import ImageTransform, TransformConfig, build_transform

__all__ = [
    "BadImageError",
    "CaptionBatch",
    "CaptionCollator",
    "CaptionDataConfig",
    "CaptionDataset",
    "CaptionTable",
    "ImageTransform",
    "JudgedCaptions",
    "Judgement",
    "Nlvr2Batch",
    "Nlvr2Collator",
    "Nlvr2Dataset",
    "Nlvr2Source",
    "Nlvr2Table",
    "PairBatch",
    "PairCollator",
    "PairDataset",
    "PairSample",
    "PairTable",
    "SourceConfig",
    "Substitution",
    "SubstitutionLog",
    "TransformConfig",
    "VqaBatch",
    "VqaCollator",
    "VqaDataset",
    "VqaSource",
    "VqaTable",
    "build_transform",
    "judged_captions",
    "load_answer_list",
    "load_image",
    "load_tokenizer",
    "open_nlvr2",
    "open_pairs",
    "open_vqa",
    "read_judgements",
    "tokenize_captions",
    "train_wordpiece",
]
