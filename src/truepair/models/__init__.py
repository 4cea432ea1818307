"""Encoders, the ALBEF model made of them, models of downstream tasks, and converters of published checkpoints."""

from truepair.models.albef import AlbefModel, AlbefOutput, Encoded
from truepair.models.answer_ranking import RankedAnswers
from truepair.models.answer_trie import AnswerTrie
from truepair.models.bert_checkpoint import BertReport, albef_from_bert, load_bert
from truepair.models.config import AlbefConfig
from truepair.models.fusion import ImageKeysValues
from truepair.models.image_encoder import build_image_encoder, load_image_encoder
from truepair.models.nlvr2 import Nlvr2Model
from truepair.models.official import load_official, to_official_names
from truepair.models.resize import resize_images
from truepair.models.two_image_fusion import Nlvr2Config
from truepair.models.vqa import VqaConfig, VqaModel

__all__ = [
    "AlbefConfig",
    "AlbefModel",
    "AlbefOutput",
    "AnswerTrie",
    "BertReport",
    "Encoded",
    "ImageKeysValues",
    "Nlvr2Config",
    "Nlvr2Model",
    "RankedAnswers",
    "VqaConfig",
    "VqaModel",
    "albef_from_bert",
    "build_image_encoder",
    "load_bert",
    "load_image_encoder",
    "load_official",
    "resize_images",
    "to_official_names",
]
