"""Image, text and fusion encoders, the ALBEF model made of them, and converters of published checkpoints."""

from truepair.models.albef import AlbefModel, AlbefOutput, Encoded
from truepair.models.bert_checkpoint import BertReport, albef_from_bert, load_bert
from truepair.models.config import AlbefConfig
from truepair.models.fusion import ImageKeysValues
from truepair.models.image_encoder import build_image_encoder, load_image_encoder
from truepair.models.official import load_official, to_official_names

__all__ = [
    "AlbefConfig",
    "AlbefModel",
    "AlbefOutput",
    "BertReport",
    "Encoded",
    "ImageKeysValues",
    "albef_from_bert",
    "build_image_encoder",
    "load_bert",
    "load_image_encoder",
    "load_official",
    "to_official_names",
]
