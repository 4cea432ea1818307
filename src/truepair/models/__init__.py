"""Models: what compares images and texts, and what reads them together.

- `dual`: the two protocols, `DualEncoder` and `FusionModel`, and any CLIP or SigLIP of transformers or of
  open_clip as a dual encoder.
- `fusion`: ALBEF, BLIP and BLIP-2, which are `FusionModel`s, the models of downstream tasks made of ALBEF's parts, a
  BLIP-2 with a language model, and galleries.
- `encoders`: image encoders by name, MiniLM, and states of frozen encoders kept on disk.
- `checkpoints`: models from folders and hub names, from a BERT, from checkpoint files of other programs, and to the
  official ALBEF names.
"""

from transformers import AutoConfig, AutoModel

from truepair.models.checkpoints.bert import BertReport, albef_from_bert, load_bert
from truepair.models.checkpoints.convert import ConvertOptions, convert_checkpoint, open_checkpoint
from truepair.models.checkpoints.official import load_official, to_official_names
from truepair.models.dual.base import DualEncoder, Encoded, FusionModel, ImageKeysValues
from truepair.models.dual.hub import HubDualEncoder
from truepair.models.dual.lora import merge_adapter, open_adapter
from truepair.models.dual.open_clip import OpenClipDualEncoder
from truepair.models.encoders.images import build_image_encoder, load_image_encoder, resize_images
from truepair.models.fusion.albef import AlbefModel, AlbefOutput
from truepair.models.fusion.answers import AnswerTrie, RankedAnswers
from truepair.models.fusion.blip import BlipFusionModel
from truepair.models.fusion.blip2 import Blip2FusionModel
from truepair.models.fusion.blip2_language import Blip2LanguageModel
from truepair.models.fusion.captioning import CaptionConfig, CaptionModel
from truepair.models.fusion.config import AlbefConfig
from truepair.models.fusion.nlvr2 import Nlvr2Config, Nlvr2Model
from truepair.models.fusion.vqa import VqaConfig, VqaModel

AutoConfig.register(AlbefConfig.model_type, AlbefConfig, exist_ok=True)
AutoModel.register(AlbefConfig, AlbefModel, exist_ok=True)

__all__ = [
    "AlbefConfig",
    "AlbefModel",
    "AlbefOutput",
    "AnswerTrie",
    "BertReport",
    "Blip2FusionModel",
    "Blip2LanguageModel",
    "BlipFusionModel",
    "CaptionConfig",
    "CaptionModel",
    "ConvertOptions",
    "DualEncoder",
    "Encoded",
    "FusionModel",
    "HubDualEncoder",
    "ImageKeysValues",
    "Nlvr2Config",
    "Nlvr2Model",
    "OpenClipDualEncoder",
    "RankedAnswers",
    "VqaConfig",
    "VqaModel",
    "albef_from_bert",
    "build_image_encoder",
    "convert_checkpoint",
    "load_bert",
    "load_image_encoder",
    "load_official",
    "merge_adapter",
    "open_adapter",
    "open_checkpoint",
    "resize_images",
    "to_official_names",
]
