"""The examples of docs/training.md run as they stand, and its tables name fields that exist."""

import re
from dataclasses import fields
from pathlib import Path

from truepair.engine.loop.config import LoopConfig
from truepair.sampling.batches import SamplerConfig

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")


def test_examples_run() -> None:
    examples = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert len(examples) == 2
    for example in examples:
        exec(compile(example, "training.md", "exec"), {})


def test_fields_exist() -> None:
    for room, config in (("loop", LoopConfig), ("sampler", SamplerConfig)):
        named = set(re.findall(rf"(?<!\.)\b{room}\.(\w+)", PAGE))
        assert named
        assert named <= {field.name for field in fields(config)}
