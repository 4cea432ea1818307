"""Data sets for VQA and NLVR2, in their official layouts, made from the bundled drawings."""

from truepair.data.sample_tasks.nlvr2 import write_sample_nlvr2
from truepair.data.sample_tasks.vqa import write_sample_vqa

__all__ = ["write_sample_nlvr2", "write_sample_vqa"]
