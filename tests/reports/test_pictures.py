import base64
import io

from PIL import Image

from truepair.reports import PictureBook


def decoded(book, key):
    header, _, content = book.uris[key].partition(",")
    assert header == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_equal_pictures_share_a_key():
    book = PictureBook()
    first = book.add(Image.new("RGB", (40, 40), "red"))
    assert book.add(Image.new("RGB", (40, 40), "red")) == first
    assert book.add(Image.new("RGB", (40, 40), "blue")) != first
    assert len(book.uris) == 2


def test_large_pictures_shrink_and_keep_their_shape():
    book = PictureBook(side=50)
    assert decoded(book, book.add(Image.new("RGB", (400, 200)))).size == (50, 25)
    assert decoded(book, book.add(Image.new("RGB", (20, 10)))).size == (20, 10)


def test_the_callers_picture_is_left_alone():
    picture = Image.new("RGB", (400, 200))
    PictureBook(side=50).add(picture)
    assert picture.size == (400, 200)


def test_transparency_becomes_white():
    book = PictureBook()
    for mode, colour in (("RGBA", (255, 0, 0, 0)), ("LA", (0, 0))):
        shown = decoded(book, book.add(Image.new(mode, (16, 16), colour))).convert("RGB")
        assert min(shown.getpixel((8, 8))) > 250
    palette = Image.new("P", (16, 16), 0)
    palette.putpalette([10, 20, 30] * 256)
    palette.info["transparency"] = 0
    assert min(decoded(book, book.add(palette)).convert("RGB").getpixel((8, 8))) > 250
