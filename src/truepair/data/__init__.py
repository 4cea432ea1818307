"""Image-text pairs from disk: formats, tables, transforms, tokenizers, batches."""

from truepair.data.collate import PairBatch, PairCollator
from truepair.data.dataset import PairDataset, PairSample, Visit
from truepair.data.images import BadImageError, load_image
from truepair.data.open import open_pairs
from truepair.data.randomness import keyed_generator, stable_hash
from truepair.data.source import SourceConfig
from truepair.data.substitution import Substitution, SubstitutionLog
from truepair.data.table import PairTable
from truepair.data.tokenizer import encode_captions, load_tokenizer, train_wordpiece
from truepair.data.transforms import ImageTransform, TransformConfig, build_transform

__all__ = [
    "BadImageError",
    "ImageTransform",
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
    "build_transform",
    "encode_captions",
    "keyed_generator",
    "load_image",
    "load_tokenizer",
    "open_pairs",
    "stable_hash",
    "train_wordpiece",
]
