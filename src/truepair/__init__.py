"""truepair: vision-language training that does not punish the matches hiding among the negatives.

Import what you need from its rooms: ``truepair.relations``, ``truepair.objectives``, ``truepair.sampling``,
``truepair.data``, ``truepair.models``, ``truepair.evaluation``. The first three need nothing but torch, numpy and
pyarrow. ``truepair.Retriever`` makes vectors with any model; and once truepair is imported, transformers' ``AutoModel``
opens its models.
"""

from typing import TYPE_CHECKING, Any

from truepair.auto import register_when_needed

if TYPE_CHECKING:
    from truepair.tasks.retriever import Retriever

__all__ = ["Retriever", "__version__"]

__version__ = "0.1.0"

register_when_needed()


def __getattr__(name: str) -> Any:
    """Import the retriever when it is asked for: it loads torch and transformers."""
    if name != "Retriever":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from truepair.tasks.retriever import Retriever

    return Retriever
