"""Whatever is sent as an image: an answer or a 400 or 413 with a sentence, never a 500, and the numbers of Predictor."""

import io
import random
import struct
import threading
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from serving import Told, forms, picture, problem, running, small_predictor, wait_for
from swinkit.data.images import decode
from swinkit.data.transforms import Preprocess, eval_transform, framed
from swinkit.serve import Settings, pictures
from swinkit.serve.bodies import Body, Budget, Upload, clean_name
from swinkit.serve.metrics import Metrics
from swinkit.serve.models import Served
from swinkit.serve.pixels import Pixels
from swinkit.serve.problems import ApiError

OCTETS = {"Content-Type": "application/octet-stream"}


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    return small_predictor(tmp_path_factory.mktemp("images") / "model")


@pytest.fixture(scope="module")
def client(predictor):
    with running(predictor) as (client, _):
        yield client


def png(width, height, rows, depth=8, kind=2):
    """A PNG whose header and data say what they are told to."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def rotated():
    """A picture on its side, and how it is meant."""
    image = Image.open(io.BytesIO(picture(size=(60, 40))))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a secret place"
    return saved(image, "JPEG", exif=exif, quality=95)


def saved(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def sixteen_bits():
    return saved(Image.fromarray(np.random.RandomState(0).randint(0, 65535, (40, 36)).astype(np.uint16)))


def animation():
    frames = [Image.open(io.BytesIO(picture(seed, (36, 40)))) for seed in range(3)]
    return saved(frames[0], "GIF", save_all=True, append_images=frames[1:])


def clear():
    image = Image.open(io.BytesIO(picture())).convert("RGBA")
    image.putalpha(90)
    return saved(image)


GOOD = {
    "PNG": picture,
    "JPEG": lambda: picture(kind="JPEG"),
    "progressive": lambda: picture(kind="JPEG", progressive=True),
    "WebP": lambda: picture(kind="WEBP"),
    "BMP": lambda: picture(kind="BMP"),
    "GIF": lambda: picture(kind="GIF"),
    "animated GIF": animation,
    "CMYK": lambda: picture(mode="CMYK", kind="JPEG"),
    "16 bit": sixteen_bits,
    "palette": lambda: picture(mode="P"),
    "grey": lambda: picture(mode="L"),
    "black and white": lambda: picture(mode="1"),
    "transparent": clear,
    "1 x 1": lambda: picture(size=(1, 1)),
    "rotated": rotated,
}


@pytest.mark.parametrize("make", GOOD.values(), ids=GOOD)
def test_every_kind_has_predictors_numbers(client, predictor, make):
    content = make()
    answer = client.post("/predict", content=content, headers=OCTETS)
    assert answer.status_code == 200
    guesses = answer.json()["results"][0]["predictions"]
    assert tuple(guess["probability"] for guess in guesses) == predictor(content).scores
    assert "secret" not in answer.text


def test_rotation_is_honoured(client, predictor):
    content = rotated()
    upright = Image.open(io.BytesIO(content)).transpose(Image.Transpose.ROTATE_270)
    said = client.post("/predict", content=content, headers=OCTETS).json()["results"][0]["predictions"]
    assert tuple(guess["probability"] for guess in said) == predictor(np.asarray(upright)).scores
    assert tuple(guess["probability"] for guess in said) != predictor(np.asarray(Image.open(io.BytesIO(content)))).scores


BAD = {
    "empty": (b"", 400),
    "text": (b"Dear Sir or Madam, " * 50, 400),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>', 400),
    "TIFF": (saved(Image.new("RGB", (9, 9)), "TIFF"), 400),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", 400),
    "half a PNG": (picture()[:600], 400),
    "a PNG's head": (picture()[:20], 400),
    "half a JPEG": (picture(kind="JPEG")[:400], 400),
    "half a WebP": (picture(kind="WEBP")[:300], 400),
    "half a GIF": (picture(kind="GIF")[:900], 400),
    "20,000 x 20,000": (png(20000, 20000, b"\0" * 1000), 413),
    "9,000 x 9,000": (png(9000, 9000, b"\0" * 1000), 413),
    "2,000,000,000 wide": (png(2 * 10**9, 2, b"\0" * 1000), 413),
    "nothing high": (png(4, 0, b""), 400),
}


@pytest.mark.parametrize(("content", "status"), BAD.values(), ids=BAD)
def test_what_is_no_image_is_refused_with_a_sentence(client, content, status):
    answer = client.post("/predict", content=content, headers=OCTETS)
    assert problem(answer) == (status, "bad_image" if status == 400 else "too_many_pixels")
    assert "object at 0x" not in answer.text
    assert client.post("/predict", files=forms(picture(), content)).status_code == status


def test_a_bomb_of_zeros_is_refused_by_its_header_or_decoded_within_the_limit(client):
    assert problem(client.post("/predict", content=png(8000, 8000, bytes(8000 * 24001)), headers=OCTETS)) == (413, "too_many_pixels")
    assert client.post("/predict", content=png(2000, 2000, bytes(2000 * 6001)), headers=OCTETS).status_code == 200
    more = png(40, 40, bytes(10**7))
    assert client.post("/predict", content=more, headers=OCTETS).status_code == 200, "what is beyond the last row is not read"


def test_a_jpeg_of_thousands_of_scans_is_refused():
    content = picture(kind="JPEG", progressive=True)
    scan = content.index(b"\xff\xda")
    many = content[:scan] + content[scan : content.index(b"\xff\xda", scan + 2)] * 300 + content[scan:]
    with pytest.raises(ApiError, match="more than 200 scans"):
        pictures.open_picture(Upload("a.jpg", many), 0, Told.preprocess, 10**6)
    assert pictures.open_picture(Upload("a.jpg", content), 0, Told.preprocess, 10**6).size == (40, 36)


def test_lines_that_resizing_would_make_huge_are_refused():
    with pytest.raises(ApiError, match="brought to the model's size") as refused:
        pictures.open_picture(Upload(None, picture(size=(5000, 1))), 0, Told.preprocess, 10**5)
    assert refused.value.status == 413
    assert pictures.resized_pixels((5000, 1), Told.preprocess) == 5000 * 64


def test_damaged_files_never_make_a_500(client):
    chance = random.Random(0)
    kinds = [picture(kind=kind) for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP")] + [rotated(), animation()]
    for number in range(210):
        content = bytearray(kinds[number % len(kinds)])
        for _ in range(chance.choice((1, 3, 30))):
            content[chance.randrange(len(content) if number % 3 else 60)] = chance.randrange(256)
        del content[chance.choice((len(content), chance.randrange(len(content)))) :]
        answer = client.post("/predict", content=bytes(content), headers=OCTETS)
        assert answer.status_code in (200, 400, 413), (number, answer.text)
        if answer.status_code != 200:
            problem(answer)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("photo.jpg", "photo.jpg"),
        (b"../../etc/passwd", "passwd"),
        ("C:\\photos\\me.png", "me.png"),
        ("a\r\nSet-Cookie: x", "a\\r\\nSet-Cookie: x"),
        ("猫.png", "猫.png"),
        (b"\xff.png", "\ufffd.png"),
        ("x" * 500, "x" * 120),
        ("", None),
        ("dir/", None),
        (None, None),
    ],
)
def test_names_are_cleaned(given, kept):
    assert clean_name(given) == kept


@pytest.mark.parametrize("crop_pct", [1.0, 0.875])
@pytest.mark.parametrize("size", [(8, 8), (24, 24), (9, 16)])
def test_a_framed_image_is_small_and_prepared_the_same(size, crop_pct):
    preprocess = Preprocess(size=size, mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=crop_pct)
    for width, height in [(40, 36), (301, 77), (77, 302), (200, 9), (9, 203), (5, 5), (25, 24), (30, 31), (1, 90)]:
        image = Image.open(io.BytesIO(picture(size=(width, height))))
        small = framed(image, preprocess)
        assert torch.equal(eval_transform(preprocess)(small), eval_transform(preprocess)(image)), (width, height)
        assert all(got <= want / crop_pct + 4 for got, want in zip(small.size, size[::-1], strict=True))


def test_explanations_wait_as_small_images(predictor):
    served = Served("m", predictor, Settings(), Metrics())
    assert max(served.frame(Image.open(io.BytesIO(picture(size=(900, 500))))).size) < 40
    served.batcher.close(1)


def test_huge_images_are_decoded_one_at_a_time_and_small_ones_do_not_keep_them_out():
    pixels, most, done = Pixels(100), [], []
    before, go = threading.Event(), threading.Event()

    def decode(count):
        with pixels.holding(count):
            most.append(pixels.used)
            before.set()
            go.wait(20)
            done.append(count)

    threads = [threading.Thread(target=decode, args=(10,))]
    threads[0].start()
    assert before.wait(20)
    threads.append(threading.Thread(target=decode, args=(1000,)))
    threads[1].start()
    wait_for(pixels._turn.locked)
    threads += [threading.Thread(target=decode, args=(60,)) for _ in range(2)]
    for thread in threads[2:]:
        thread.start()
    assert most == [10]
    go.set()
    for thread in threads:
        thread.join(20)
    assert done[:2] == [10, 1000]
    assert max(most) == 100
    assert pixels.used == 0


def test_decoding_stays_within_the_pixels_of_all_threads(predictor, monkeypatch):
    used = []
    monkeypatch.setattr(pictures, "decode", lambda *given: used.append(served[1].service.pixels.used) or decode(*given))
    with running(predictor, max_pixels=3000, decoders=4) as served:
        client = served[0]
        assert client.post("/predict", files=forms(*[picture(seed) for seed in range(8)])).status_code == 200
        assert problem(client.post("/predict", files=forms(picture(), picture()[:600])))[0] == 400
        wait_for(lambda: served[1].service.pixels.used == 0)
    assert len(used) >= 9
    assert set(used) <= {40 * 36, 40 * 36 * 2}, "one or two at a time, and never uncounted"


def test_a_body_counts_until_it_is_freed_and_is_held_once():
    budget = Budget(10)
    body = Body(budget)
    body.add(b"abc", 10)
    body.add(b"defg", 10)
    assert (body.whole(), len(body.content), budget.used) == (b"abcdefg", 0, 7)
    with pytest.raises(ApiError, match="Too many uploads"):
        Body(budget).add(b"1234", 10)
    body.free()
    body.free()
    assert budget.used == 0
