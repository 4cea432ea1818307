"""Keys of what captions and images become on their way to a model."""

from dataclasses import asdict

from truepair.data.preprocessing import Preprocessing
from truepair.models.fingerprint import combined_key

_PLAIN = ("size", "normalisation", "interpolation", "evaluation_resize")


def caption_input_key(preprocessing: Preprocessing) -> str:
    """Equal keys, equal tokens of any caption."""
    settings = {name: getattr(preprocessing, name) for name in ("max_length", "add_sep", "normalise")}
    return combined_key(tokenizer=preprocessing.tokenizer.get_vocab(), **settings)


def image_input_key(preprocessing: Preprocessing) -> str:
    """Equal keys, equal pixels of any unaugmented image; "encoder" normalisation also depends on the encoder."""
    settings = asdict(preprocessing.transform)
    return combined_key(**{name: settings[name] for name in _PLAIN})
