"""What reading a foreign or damaged model or tokenizer may raise, in one line. No code beside it is ever run."""

from pickle import UnpicklingError

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from truepair.errors import shortened

LOADING_ERRORS = (
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    UnpicklingError,
    ValueError,
    SafetensorError,
    StrictDataclassError,
)


def why_not_loaded(error: BaseException) -> str:
    """Why a part of a model could not be loaded, without the advice of other libraries to run what is in its folder."""
    text = str(error)
    if "trust_remote_code" in text:
        return "it needs code of its own, and such code is never run; give one of a kind that transformers knows"
    if isinstance(error, UnpicklingError) or "weights_only" in text:
        return "its weights are a pickle that may run code, which is never opened; give a folder with model.safetensors"
    return shortened(text).rstrip(".") or type(error).__name__
