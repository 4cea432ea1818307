"""torch.compile for the layers of a model."""

import os
import shutil

from torch import nn

from truepair.errors import ConfigError
from truepair.training.layers import repeated_layers

# Layers of one kind share what is compiled. Kinds, training and evaluation, and lengths of captions are its variants.
_MOST_VARIANTS = 64


def compile_layers(model: nn.Module, *, backend: str = "inductor") -> int:
    """Compile the repeated layers of a model in place; names of weights stay.

    Layer by layer, and not the whole model: a layer is compiled once, however often it is repeated, and the choice of
    rows and lengths between the layers stays in Python. It happens when a layer is first called.

    Args:
        model: Holds transformer layers.
        backend: Of torch.compile.

    Returns:
        How many layers there are.

    Raises:
        ConfigError: There is no C++ compiler, or nothing to compile.
    """
    if backend == "inductor" and not has_compiler():
        raise ConfigError("loop.compile needs a C++ compiler; install g++ or clang++, or leave loop.compile out")
    layers = repeated_layers(model)
    if not layers:
        raise ConfigError(f"loop.compile: {type(model).__name__} has no transformer layers; leave it out")
    from torch._dynamo import config  # takes a second to import

    config.recompile_limit = max(config.recompile_limit, _MOST_VARIANTS)
    for layer in layers:
        layer.compile(backend=backend)
    return len(layers)


def has_compiler() -> bool:
    """Whether there is a C++ compiler: $CXX, g++ or clang++."""
    return any(shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++") if name)
