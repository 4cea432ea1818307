"""Bad and odd images, each through open_pairs and PairDataset."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.data.makers import encoded, mean_colour, noise, picture, put, put_jsonl, tiff
from truepair.data import BadImageError, ImageTransform, PairDataset, load_image, open_pairs
from truepair.errors import DataError


def opened(tmp_path, content, name="odd.png", **options):
    """The image of a row whose file has this content, as the dataset reads it."""
    put(tmp_path / "good.png", picture("green"))
    put(tmp_path / name, content)
    source = put_jsonl(tmp_path / "x.jsonl", [{"image": f, "caption": "x"} for f in (name, "good.png")])
    images = []
    dataset = PairDataset(open_pairs(source), ImageTransform(images.append), substitutes=0, **options)
    dataset[0]
    return images[0]


def png(width, height, bits, kind, data):
    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def png_header(width, height):
    return png(width, height, 8, 2, b"\0" * 10)


class TestUnreadable:
    def test_missing(self, tmp_path):
        put(tmp_path / "good.png", picture())
        entries = [{"image": name, "caption": "x"} for name in ("gone.png", "good.png")]
        dataset = PairDataset(open_pairs(put_jsonl(tmp_path / "x.jsonl", entries)), ImageTransform(abs), substitutes=0)

        with pytest.raises(BadImageError, match=r"gone\.png is missing; check image_root"):
            dataset[0]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", r"odd\.png is empty \(0 bytes\)"),
            (b"<html>404</html>", "is not an image of a known format"),
            (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "is not an image of a known format"),
            (encoded(noise(0))[:-200], "is damaged"),
            (encoded(noise(0), "JPEG")[:-300], "is damaged"),
            (encoded(noise(0), "WEBP")[:-100], "is damaged|is not an image"),
            (encoded(noise(0), "GIF")[:-500], "is damaged"),
            (encoded(noise(0))[:20], "is damaged|is not an image"),
            (encoded(Image.new("F", (4, 4), -0.5), "TIFF"), "has F pixels below 0 or beyond 16 bits"),
            (encoded(Image.new("F", (4, 4), float("nan")), "TIFF"), "has F pixels below 0 or beyond 16 bits"),
            (
                encoded(Image.new("F", (4, 4), 1.5), "TIFF"),
                r"has floats of up to 1\.5, and nothing says which is white",
            ),
            (encoded(Image.new("I", (4, 4), 1 << 20), "TIFF"), "has I pixels below 0 or beyond 16 bits"),
            (tiff(np.zeros((4, 4, 3), np.float32), photometric=2), "is a TIFF of a kind that is not read"),
        ],
    )
    def test_each_is_a_typed_error(self, tmp_path, content, message):
        with pytest.raises(BadImageError, match=message) as error:
            opened(tmp_path, content)
        assert isinstance(error.value, DataError) and "\n" not in str(error.value)

    def test_a_folder_in_place_of_a_file(self, tmp_path):
        (tmp_path / "odd").mkdir()

        with pytest.raises(BadImageError, match="cannot be read"):
            load_image({"path": str(tmp_path / "odd")})

    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    def test_huge_by_the_header_alone(self, tmp_path):
        # The file has 70 bytes.
        with pytest.raises(BadImageError, match="has 10000 x 9000 pixels; shrink it"):
            opened(tmp_path, png_header(10_000, 9_000))

    def test_far_beyond_huge(self, tmp_path):
        with pytest.raises(BadImageError, match="is too large to decode safely"):
            opened(tmp_path, png_header(60_000, 60_000))

    def test_the_limit_is_an_option(self, tmp_path):
        assert opened(tmp_path, encoded(noise(0, (10, 10))), max_pixels=100).size == (10, 10)
        with pytest.raises(BadImageError, match=r"raise max_pixels \(99\)"):
            opened(tmp_path, encoded(noise(0, (10, 10))), max_pixels=99)


class TestModes:
    def test_cmyk(self, tmp_path):
        image = opened(tmp_path, encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"), "odd.jpg")

        assert image.mode == "RGB"
        assert np.abs(np.subtract(image.getpixel((5, 5)), (255, 0, 0))).max() <= 2

    def test_sixteen_bits_are_scaled_and_not_clipped(self, tmp_path):
        levels = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)

        image = opened(tmp_path, encoded(Image.fromarray(levels)))

        assert [image.getpixel((x, 0)) for x in range(4)] == [(v, v, v) for v in (0, 1, 128, 255)]

    @pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
    def test_sixteen_bits_are_scaled_by_those_in_use(self, tmp_path, bits):
        white = (1 << bits) - 1
        levels = np.array([[0, white // 2, white]], dtype=np.uint16)

        image = opened(tmp_path, encoded(Image.fromarray(levels)))

        assert [image.getpixel((x, 0))[0] for x in range(3)] == [0, 127, 255]

    @pytest.mark.parametrize("bits", [8, 12, 16])
    @pytest.mark.parametrize("kind", [2, 6])
    def test_sixteen_bit_colours_are_scaled_by_those_in_use(self, tmp_path, bits, kind):
        white, channels = (1 << bits) - 1, 3 if kind == 2 else 4
        rows = np.full((2, 2, channels), 0xFFFF, dtype=">u2")
        rows[0, :, :3] = [[white, 0, 0], [0, white // 2, 0]]
        rows[1, :, :3] = [[0, 0, white], [white, white, white]]

        image = opened(tmp_path, png(2, 2, 16, kind, b"".join(b"\0" + row.tobytes() for row in rows)))

        expected = [[(255, 0, 0), (0, 127, 0)], [(0, 0, 255), (255, 255, 255)]]
        assert [[image.getpixel((x, y)) for x in range(2)] for y in range(2)] == expected

    @pytest.mark.parametrize("white", [1023, 4095, 65535])
    @pytest.mark.parametrize("kind", ["rgb", "rgba", "planar", "cmyk", "grey", "inverted"])
    @pytest.mark.parametrize(("order", "deflate"), [("<", False), (">", False), ("<", True)])
    def test_sixteen_bit_tiffs_are_scaled_by_those_in_use(self, tmp_path, white, kind, order, deflate):
        shades = np.array([[0.0, 0.25], [0.5, 1.0]])
        planes = {"rgb": 3, "rgba": 4, "planar": 3, "cmyk": 4}.get(kind)
        values = shades if planes is None else np.stack([shades, shades.T, shades[::-1], shades][:planes], axis=2)
        right = values.copy()
        if kind == "rgba":
            values[..., 3], right = 1.0, right[..., :3]
        elif kind == "cmyk":
            values[..., 3], right = 0.0, 1 - right[..., :3]
        elif kind == "inverted":
            right = 1 - right
        stored = np.round(values * white).astype(np.uint16)
        photometric = {"cmyk": 5, "grey": 1, "inverted": 0}.get(kind, 2)
        content = tiff(stored, photometric=photometric, order=order, planar=kind == "planar", deflate=deflate)
        if (kind == "planar" and deflate and white < 65535) or (kind == "inverted" and order == ">"):
            with pytest.raises(BadImageError, match=r"is a (dark TIFF of 16 bits|TIFF of a kind that is not read)"):
                opened(tmp_path, content, "odd.tif")
            return

        pixels = np.array(opened(tmp_path, content, "odd.tif"), float) / 255

        assert np.abs(pixels - (right if right.ndim == 3 else right[..., None])).max() < 0.005

    @pytest.mark.parametrize("white", [4095, 65535])
    @pytest.mark.parametrize("opaque", [4095, 65535])
    def test_sixteen_bit_grey_with_alpha(self, tmp_path, white, opaque):
        shades = np.array([[0, white // 4, white]])
        stored = np.stack([shades, np.full_like(shades, opaque)], axis=2).astype(">u2")

        image = opened(tmp_path, png(3, 1, 16, 4, b"\0" + stored.tobytes()))

        seen = np.array(image, float)[0, :, 0] / 255
        over_white = [0, 0.25, 1] if opaque >= white else [0.9375, 0.953, 1]  # an alpha of 12 bits is nearly none
        assert np.abs(seen - over_white).max() < 0.005

    @pytest.mark.parametrize("white", [1.0, 255.0, 4095.0, 65535.0])
    def test_floats_from_nothing_to_one_or_as_integers(self, tmp_path, white):
        stored = np.array([[0.0, 0.25, 1.0]], np.float32) * white

        image = opened(tmp_path, tiff(stored.astype(np.float32), photometric=1), "odd.tif")

        assert [image.getpixel((x, 0))[0] for x in range(3)] == [0, 64, 255]

    def test_thirtytwo_bits_within_sixteen(self, tmp_path):
        image = opened(tmp_path, encoded(Image.new("I", (4, 4), 65535), "TIFF"))

        assert image.getpixel((0, 0)) == (255, 255, 255)

    def test_palette(self, tmp_path):
        image = opened(tmp_path, encoded(picture("blue").convert("P", palette=Image.Palette.ADAPTIVE)))

        assert (image.mode, image.getpixel((0, 0))) == ("RGB", (30, 30, 220))

    @pytest.mark.parametrize("mode", ["RGBA", "LA", "WebP", "P"])
    def test_transparent_parts_lie_over_white(self, tmp_path, mode):
        drawn = Image.new("RGBA", (8, 8), (10, 10, 10, 255))
        drawn.paste((10, 10, 10, 0), (0, 0, 4, 8))
        if mode == "P":
            paletted = Image.new("P", (8, 8), 0)
            paletted.putpalette([10, 10, 10, 60, 60, 60])
            paletted.putpixel((0, 0), 1)
            data = encoded(paletted, transparency=1)
        elif mode == "WebP":
            data = encoded(drawn, "WEBP", lossless=True)
        else:
            data = encoded(drawn.convert(mode))

        image = opened(tmp_path, data)

        assert image.mode == "RGB"
        assert image.getpixel((0, 0)) == (255, 255, 255)
        assert image.getpixel((7, 7)) == (10, 10, 10)

    def test_half_transparent(self, tmp_path):
        image = opened(tmp_path, encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 128))))

        assert image.getpixel((0, 0)) == (127, 127, 127)

    def test_grey_and_one_bit(self, tmp_path):
        assert opened(tmp_path, encoded(Image.new("L", (4, 4), 99))).getpixel((0, 0)) == (99, 99, 99)
        assert opened(tmp_path, encoded(Image.new("1", (4, 4), 1))).getpixel((0, 0)) == (255, 255, 255)

    @pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
    def test_the_first_frame_of_an_animation(self, tmp_path, kind):
        options = {"lossless": True} if kind == "WEBP" else {}
        frames = encoded(picture("red"), kind, save_all=True, append_images=[picture("blue")], **options)

        assert opened(tmp_path, frames).getpixel((0, 0)) == (220, 30, 30)

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_rotated_as_exif_says(self, tmp_path, orientation):
        upright = Image.new("RGB", (32, 16), (250, 250, 250))
        upright.paste((220, 30, 30), (0, 0, 16, 8))
        undo = {2: [0], 3: [3], 4: [1], 5: [5], 6: [2], 7: [6], 8: [4]}
        stored = upright
        for step in undo.get(orientation, []):
            stored = stored.transpose(Image.Transpose(step))
        exif = Image.Exif()
        exif[0x0112] = orientation

        image = opened(tmp_path, encoded(stored, "JPEG", exif=exif, quality=95), "odd.jpg")

        assert image.size == (32, 16)
        assert np.abs(np.array(image, float) - np.array(upright, float)).mean() < 4


class TestReducedScale:
    def test_a_jpeg_is_decoded_smaller_but_not_too_small(self, tmp_path):
        path = put(tmp_path / "big.jpg", encoded(noise(3, (400, 320)).resize((800, 640)), "JPEG"))

        sizes = [load_image({"path": str(path)}, min_side=side).size for side in (50, 80, 160, 161, 640, 700)]

        assert sizes == [(100, 80), (100, 80), (200, 160), (400, 320), (800, 640), (800, 640)]

    def test_it_looks_the_same(self, tmp_path):
        smooth = noise(3, (10, 8)).resize((800, 640), Image.Resampling.BICUBIC)
        stored = {"bytes": encoded(smooth, "JPEG", quality=95)}

        reduced = np.array(load_image(stored, min_side=100).resize((100, 80), Image.Resampling.BICUBIC), float)
        full = np.array(load_image(stored).resize((100, 80), Image.Resampling.BICUBIC), float)

        assert np.abs(reduced - full).mean() < 2

    def test_a_rotated_one(self, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6
        stored = {"bytes": encoded(noise(3, (800, 640)), "JPEG", exif=exif)}

        assert load_image(stored, min_side=100).size == (160, 200)

    def test_other_formats_are_decoded_in_full(self):
        assert load_image({"bytes": encoded(noise(3, (80, 64)))}, min_side=8).size == (80, 64)


def test_a_changed_archive_is_noticed(tmp_path):
    path = put(tmp_path / "x.tar", encoded(picture()))

    with pytest.raises(BadImageError, match=r"image at byte 10 of .*x\.tar ends early"):
        load_image({"path": str(path), "offset": 10, "size": 10_000})


def test_a_row_without_an_image():
    with pytest.raises(BadImageError, match="neither image bytes nor an image path"):
        load_image({"bytes": None, "path": None})


def test_colours_survive(tmp_path):
    assert mean_colour(opened(tmp_path, encoded(picture("green")))) == (30, 200, 30)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=150)
@given(kind=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000"]), data=st.data())
def test_damage_of_any_kind_is_a_typed_error_or_harmless(kind, data):
    content = bytearray(encoded(noise(1, (12, 9)), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))

    try:
        image = load_image({"bytes": bytes(content)}, max_pixels=10_000_000)
    except BadImageError as error:
        assert "\n" not in str(error)
    else:
        assert image.mode == "RGB"
