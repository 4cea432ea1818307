"""The models that a study's runs start from."""

import copy

import torch
from torch import Tensor

from truepair.data.table import PairTable
from truepair.training.build import Say, Student, build_student
from truepair.training.recipe import PretrainRecipe


class StudentMemory:
    """Builds students; one that starts as the last one did is a copy of it.

    The arms of a study start alike, seed by seed, and to load and draw all weights takes a tenth of a short run.
    """

    def __init__(self) -> None:
        self._last: tuple[object, Student, Tensor] | None = None

    def build(self, recipe: PretrainRecipe, train: PairTable, say: Say) -> Student:
        """See :func:`truepair.training.build.build_student`; torch's generator is left as that would leave it."""
        if recipe.text.tokenizer == "train":  # depends on the captions as well
            return build_student(recipe, train, say)
        start = (recipe.model, recipe.text, recipe.data.transform, recipe.loop.seed)
        if self._last is None or self._last[0] != start:
            self._last = None  # so that there are never three
            self._last = start, build_student(recipe, train, say), torch.get_rng_state()
        _, student, random_state = self._last
        torch.set_rng_state(random_state)
        return Student(copy.deepcopy(student.model), student.preprocessing)
