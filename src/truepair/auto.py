"""Makes transformers know our models by name, without importing transformers before somebody needs it."""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.abc import Loader

ALBEF = "truepair-albef"
"""``model_type`` in the config of our models."""

_CONFIGS = "transformers.models.auto.configuration_auto"


def register_when_needed() -> None:
    """Let ``AutoConfig`` and ``AutoModel`` open our models: now, or as soon as transformers' list of configs is there.

    The classes themselves are imported when such a config is read; ``truepair.models`` registers them.
    """
    if _CONFIGS in sys.modules:
        _register_stand_in(sys.modules[_CONFIGS])
    elif not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())


def _register_stand_in(configs: ModuleType) -> None:
    """Register a config that becomes the real one when it is read."""
    if ALBEF in configs.CONFIG_MAPPING:
        return
    from transformers import PreTrainedConfig

    class AlbefConfigOnDemand(PreTrainedConfig):
        """Reads as :class:`truepair.models.AlbefConfig`."""

        model_type = ALBEF

        @classmethod
        def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
            """The real config of these fields; its module registers the model as well."""
            from truepair.models import AlbefConfig

            return AlbefConfig.from_dict(config_dict, **kwargs)

    configs.AutoConfig.register(ALBEF, AlbefConfigOnDemand)


class _AfterImport:
    """A finder of modules that registers when the one with the list of configs has been imported.

    It has no base class: importing that takes longer than all of this.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec that the other finders find, with a loader that registers at its end; None for other modules."""
        if fullname != _CONFIGS:
            return None
        from importlib.util import find_spec

        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Registering(spec.loader)  # type: ignore[assignment]  # a loader, without the base class
        return spec


class _Registering:
    """A loader that registers our stand-in after its module has been executed."""

    def __init__(self, loader: "Loader") -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the loader does."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Give the module its own loader back, execute as that does, then register."""
        assert module.__spec__ is not None
        module.__loader__ = module.__spec__.loader = self.loader
        self.loader.exec_module(module)
        _register_stand_in(module)
