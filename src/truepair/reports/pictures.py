"""Pictures of a page, small and each only once."""

import base64
import hashlib
import io

from PIL import Image


class PictureBook:
    """Collects the pictures of a page; equal pictures share a key, however often they are added."""

    def __init__(self, side: int = 96, quality: int = 80) -> None:
        """Start an empty book.

        Args:
            side: longest side of a stored picture, in pixels; smaller pictures keep their size.
            quality: of the WebP encoding, 0 to 100.
        """
        self.side = side
        self.quality = quality
        self.uris: dict[str, str] = {}

    def add(self, picture: Image.Image) -> str:
        """Store a picture and return its key. Transparent parts become white, as the model saw them."""
        picture = _on_white(picture)
        picture.thumbnail((self.side, self.side), Image.Resampling.LANCZOS)
        encoded = io.BytesIO()
        picture.save(encoded, "WEBP", quality=self.quality, method=4)
        content = encoded.getvalue()
        key = hashlib.blake2b(content, digest_size=8).hexdigest()
        self.uris.setdefault(key, "data:image/webp;base64," + base64.b64encode(content).decode("ascii"))
        return key


def _on_white(picture: Image.Image) -> Image.Image:
    """An RGB copy with a white ground."""
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    ground = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(ground, picture).convert("RGB")
