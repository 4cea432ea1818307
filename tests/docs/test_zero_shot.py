"""docs/zero-shot.md: its recipes are recipes, and its commands have the options that it names."""

import re
import shlex
from pathlib import Path

import yaml

from truepair.cli.arguments import lay_recipe
from truepair.cli.options import CommandParser
from truepair.cli.tasks import TASKS
from truepair.data.labelled import TEMPLATES
from truepair.methods.recipe import PretrainRecipe

PAGE = (Path(__file__).parents[2] / "docs" / "zero-shot.md").read_text(encoding="utf-8")


def test_the_recipes_can_be_read() -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    recipe = lay_recipe(PretrainRecipe, [("docs/zero-shot.md", yaml.safe_load(block)) for block in blocks])
    assert recipe.zero_shot is not None and recipe.zero_shot.largest_fall == 0.02
    assert recipe.model.interpolate is not None and recipe.model.interpolate.choose == ["t2i_r@1", "zero_shot_top1"]


def test_the_commands_can_be_read() -> None:
    commands = re.findall(r"^truepair evaluate zero-shot (.*)$", PAGE, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        _, *words = shlex.split(command, comments=True)
        CommandParser("truepair evaluate zero-shot", TASKS["zero-shot"].evaluation.section).read(words)


def test_every_set_of_templates_is_named() -> None:
    assert all(f"`{name}`" in PAGE for name in TEMPLATES)
