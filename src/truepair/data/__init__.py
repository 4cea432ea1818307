"""Image-text pairs from disk: formats, tables, transforms, tokenizers, batches."""

from truepair.data.collate import PairBatch, PairCollator
from truepair.data.dataset import PairDataset, PairSample, Visit
from truepair.data.images import BadImageError, load_image
from truepair.data.judgements import JudgedCaptions, Judgement, judged_captions, read_judgements
from truepair.data.nlvr2 import Nlvr2Collator, Nlvr2Dataset
from truepair.data.nlvr2_batch import Nlvr2Batch
from truepair.data.nlvr2_source import Nlvr2Source, Nlvr2Table, open_nlvr2
from truepair.data.open import open_pairs
from truepair.data.randomness import keyed_generator, stable_hash
from truepair.data.source import SourceConfig
from truepair.data.substitution import Substitution, SubstitutionLog
from truepair.data.table import PairTable
from truepair.data.tokenizer import encode_captions, load_tokenizer, train_wordpiece
from truepair.data.transforms import ImageTransform, TransformConfig, build_transform
from truepair.data.vqa import VqaCollator, VqaDataset
from truepair.data.vqa_batch import VqaBatch
from truepair.data.vqa_source import VqaSource, VqaTable, load_answer_list, open_vqa

__all__ = [
    "BadImageError",
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
    "Visit",
    "VqaBatch",
    "VqaCollator",
    "VqaDataset",
    "VqaSource",
    "VqaTable",
    "build_transform",
    "encode_captions",
    "judged_captions",
    "keyed_generator",
    "load_answer_list",
    "load_image",
    "load_tokenizer",
    "open_nlvr2",
    "open_pairs",
    "open_vqa",
    "read_judgements",
    "stable_hash",
    "train_wordpiece",
]
