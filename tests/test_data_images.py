"""Reading images, from whatever people have."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from swinkit.data import find_images, read_image
from swinkit.errors import DataError, InputError


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def gradient(height: int = 6, width: int = 9) -> Image.Image:
    return Image.fromarray((np.arange(height * width).reshape(height, width) * 255 // (height * width - 1)).astype(np.uint8))


def test_every_kind_of_source_gives_the_same_image(tmp_path: Path) -> None:
    image = gradient()
    path = tmp_path / "a.png"
    image.save(path)
    with path.open("rb") as file:
        results = [read_image(source, "L") for source in (path, str(path), path.read_bytes(), file, image, np.asarray(image))]
    results.append(read_image(np.asarray(image) / 255, "L"))
    results.append(read_image((np.asarray(image) / np.float32(255))[..., None], "L"))
    for result in results:
        assert result.mode == "L"
        np.testing.assert_array_equal(np.asarray(result), np.asarray(image))


def test_a_picture_lying_on_its_side_is_put_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert read_image(encoded(gradient(6, 9), "JPEG", exif=exif)).size == (6, 9)


# What was stored with each EXIF orientation, as numpy sees it, from the upright picture.
STORED = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].T,
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_every_exif_orientation_is_put_upright(orientation: int, kind: str) -> None:
    upright = np.asarray(gradient(6, 9))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    data = encoded(stored, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    np.testing.assert_array_equal(np.asarray(read_image(data, "L")), upright)


def test_a_damaged_exif_block_does_no_harm() -> None:
    data = encoded(gradient(), "PNG", exif=b"Exif\x00\x00II*\x00\xff\xff\xff\x00junk")
    assert read_image(data).size == (9, 6)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_is_laid_on_white(mode: str) -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
    image.putpixel((1, 0), (0, 0, 0, 0))
    data = encoded(image.convert(mode), "PNG")
    np.testing.assert_array_equal(np.asarray(read_image(data)), [[[0, 0, 0], [255, 255, 255]]])
    np.testing.assert_array_equal(np.asarray(read_image(data, "L")), [[0, 255]])


def test_half_transparent_red_is_pink() -> None:
    assert read_image(Image.new("RGBA", (1, 1), (255, 0, 0, 128))).getpixel((0, 0)) == (255, 127, 127)


def test_a_palette_whose_transparency_is_a_table() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.putpixel((1, 0), 1)
    data = encoded(image, "PNG", transparency=bytes([0, 255]))
    np.testing.assert_array_equal(np.asarray(read_image(data)), [[[255, 255, 255], [10, 20, 30]]])


def test_cmyk() -> None:
    assert read_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF")).getpixel((3, 3)) == (255, 0, 0)


@pytest.mark.parametrize("cmyk", [(0, 255, 255, 0), (255, 0, 0, 0), (20, 60, 100, 40), (0, 0, 0, 255)])
def test_cmyk_jpeg_of_adobe_whose_values_are_stored_inverted(cmyk: tuple[int, ...]) -> None:
    data = encoded(Image.new("CMYK", (16, 16), cmyk), "JPEG", quality=100)
    assert b"Adobe" in data
    expected = [(255 - ink) * (255 - cmyk[3]) / 255 for ink in cmyk[:3]]
    np.testing.assert_allclose(read_image(data).getpixel((8, 8)), expected, atol=3)


def test_ycck_jpeg() -> None:
    stored = (150, 90, 170, 255)
    data = bytearray(encoded(Image.new("CMYK", (16, 16), tuple(255 - value for value in stored)), "JPEG", quality=100))
    # The last byte of the Adobe segment says what the four channels are: 0 CMYK, 2 luma, two chromas and black.
    assert data[data.index(b"Adobe") + 11] == 0
    data[data.index(b"Adobe") + 11] = 2
    luma, blue, red = stored[0], stored[1] - 128, stored[2] - 128
    inks = [luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue]
    np.testing.assert_allclose(read_image(bytes(data)).getpixel((8, 8)), [255 - ink for ink in inks], atol=3)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_and_not_clipped(kind: str) -> None:
    values = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    read = read_image(encoded(Image.fromarray(values), kind), "L")
    np.testing.assert_array_equal(np.asarray(read), [[0, 1, 128, 255]])
    np.testing.assert_array_equal(np.asarray(read_image(values, "L")), [[0, 1, 128, 255]])
    dark = read_image(encoded(Image.fromarray(values[:, :2]), kind), "L")
    np.testing.assert_array_equal(np.asarray(dark), [[0, 1]])


def png_of_16_bits(pixels: np.ndarray, colour_type: int) -> bytes:
    """A PNG as Pillow cannot write it: pixels (H, W, channels) uint16; colour type 2 RGB, 4 grey with alpha, 6 RGBA."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, colour_type, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    parts = (struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_16_bit_colour_png_keeps_its_high_bytes() -> None:
    pixels = np.array([[[0, 65535, 32896], [257, 25700, 51400]]], np.uint16)
    expected = [[[0, 255, 128], [1, 100, 200]]]
    np.testing.assert_array_equal(np.asarray(read_image(png_of_16_bits(pixels, 2))), expected)
    opaque = np.concatenate([pixels, np.full((1, 2, 1), 65535, np.uint16)], 2)
    np.testing.assert_array_equal(np.asarray(read_image(png_of_16_bits(opaque, 6))), expected)
    faint = np.array([[[25700, 65535], [0, 0]]], np.uint16)
    np.testing.assert_array_equal(np.asarray(read_image(png_of_16_bits(faint, 4), "L")), [[100, 255]])


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "GIF"])
def test_black_and_white(kind: str) -> None:
    values = np.random.default_rng(0).integers(0, 2, (5, 11)).astype(bool)
    image = Image.fromarray(values)
    assert image.mode == "1"
    np.testing.assert_array_equal(np.asarray(read_image(encoded(image, kind), "L")), values * 255)


@pytest.mark.parametrize(("kind", "mode"), [("BMP", "RGB"), ("BMP", "L"), ("BMP", "P"), ("GIF", "P"), ("PNG", "P"), ("PPM", "RGB")])
def test_colours_survive(kind: str, mode: str) -> None:
    image = Image.new("RGB", (4, 3), (250, 120, 10))
    image.paste((3, 200, 90), (2, 0, 4, 3))
    image = image.quantize(4) if mode == "P" else image.convert(mode)
    np.testing.assert_array_equal(np.asarray(read_image(encoded(image, kind))), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 25700]], np.int32), [[0, 100]]),
        (np.array([[-100, 0, 100]], np.int32), [[0, 128, 255]]),
        (np.array([[0, 0.5, 1]], np.float32), [[0, 128, 255]]),
        (np.array([[0, 100, 255]], np.float32), [[0, 100, 255]]),
        (np.array([[-2, 0, 2]], np.float32), [[0, 128, 255]]),
        (np.array([[-3, -3]], np.float32), [[0, 0]]),
    ],
)
def test_modes_i_and_f_are_scaled(values: np.ndarray, expected: list[list[int]]) -> None:
    np.testing.assert_array_equal(np.asarray(read_image(encoded(Image.fromarray(values), "TIFF"), "L")), expected)


def test_the_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for kind, options in (("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        with Image.open(io.BytesIO(data)) as opened:
            assert opened.n_frames == 2
        assert read_image(data).getpixel((0, 0)) == (255, 0, 0), kind


def test_the_content_decides_and_not_the_suffix(tmp_path: Path) -> None:
    for name in ("a.JPG", "b.png", "c.Jpeg", "d"):
        (tmp_path / name).write_bytes(encoded(gradient(), "PNG"))
        np.testing.assert_array_equal(np.asarray(read_image(tmp_path / name, "L")), np.asarray(gradient()))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP"])
def test_a_file_cut_short_is_one_sentence_with_its_path(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    data = encoded(Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)), kind)
    path = tmp_path / "half.img"
    for part in (0.1, 0.5, 0.9):
        path.write_bytes(data[: int(len(data) * part)])
        with pytest.raises(InputError, match=r"half\.img") as caught:
            read_image(path)
        assert "\n" not in str(caught.value)


def test_what_is_no_image_says_so(tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("not a picture")
    with pytest.raises(InputError, match=r"notes\.jpg is not an image"):
        read_image(tmp_path / "notes.jpg")
    with pytest.raises(InputError, match="the given 3 bytes"):
        read_image(b"abc")
    with pytest.raises(InputError, match="missing"):
        read_image(tmp_path / "gone.jpg")
    with pytest.raises(InputError, match="a folder"):
        read_image(tmp_path)
    with pytest.raises(InputError, match="not list"):
        read_image([1, 2])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'CMYK'"):
        read_image(gradient(), "CMYK")


def test_a_decompression_bomb_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gradient(40, 40).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match=r"bomb\.png claims more pixels than is safe"):
        read_image(tmp_path / "bomb.png")


@pytest.mark.parametrize(
    ("array", "complaint"),
    [
        (np.zeros((3, 8, 8), np.uint8), r"\(3, 8, 8\)"),
        (np.zeros((8,), np.uint8), r"\(8,\)"),
        (np.zeros((0, 8), np.uint8), r"\(0, 8\)"),
        (np.zeros((8, 8), np.int64), "int64"),
        (np.full((8, 8), 200.0), "goes from 200 to 200"),
        (np.full((8, 8), np.nan), "nan"),
    ],
)
def test_arrays_that_are_no_image(array: np.ndarray, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        read_image(array)


def test_float_pixels_that_are_not_finite_are_refused() -> None:
    with pytest.raises(InputError, match="not finite"):
        read_image(Image.fromarray(np.array([[0, np.inf]], np.float32)))


def test_reading_leaves_no_file_open(tmp_path: Path) -> None:
    gradient().save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", "L")
    (tmp_path / "a.png").unlink()
    assert image.getpixel((8, 5)) == 255


def test_find_images(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpg", "deep/er/c.webp", ".hidden.png", ".cache/d.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    names = [str(path.relative_to(tmp_path)) for path in find_images(tmp_path)]
    assert names == ["a.jpg", "b.PNG", "deep/er/c.webp"]
    assert find_images([tmp_path / "b.PNG", str(tmp_path / "*.*"), tmp_path / "a.jpg"]) == [tmp_path / "a.jpg", tmp_path / "b.PNG"]
    assert find_images(str(tmp_path / "**" / "*.webp")) == [tmp_path / "deep/er/c.webp"]
    assert find_images(tmp_path / "notes.txt") == [tmp_path / "notes.txt"]


def test_find_images_says_what_it_did_not_find(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match="gone does not exist"):
        find_images([tmp_path / "gone"])
    with pytest.raises(DataError, match="holds no image file"):
        find_images(tmp_path)
    with pytest.raises(DataError, match=r"\*\.txt matches no image"):
        find_images(str(tmp_path / "*.txt"))
