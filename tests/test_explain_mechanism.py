"""The mechanism: every array against an independent computation, the page and the files as a person gets them."""

import json
import re
from html.parser import HTMLParser
from itertools import pairwise, product
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

import swinkit
from swinkit.cli import run
from swinkit.errors import ConfigError, InputError
from swinkit.explain.mechanism import NAMES, chapters, cost, draw, html, index, masks, merging, partition, receptive, shift, windows
from swinkit.explain.mechanism.geometry import geometry
from swinkit.explain.mechanism.proof import by_regions, prove, regions_of
from swinkit.explain.mechanism.sample import picture_of
from swinkit.model import window_attention

SIZES = [
    {"size": 56, "window": 7},
    {"size": (50, 75), "window": (3, 5)},
    {"size": (33, 61), "window": 4, "shift": (1, 3), "patch": (4, 7)},
    {"size": (20, 44), "window": (5, 4), "shift": (0, 2)},
    {"size": 28, "window": 7},
    {"size": 16, "window": 2, "shift": 0},
]
SMALL = {"size": (30, 44), "window": (3, 4)}


@pytest.fixture(scope="module")
def made():
    return chapters(**SMALL)


@pytest.fixture(scope="module")
def text(made):
    return html(made)


@pytest.fixture(params=SIZES, ids=str)
def sizes(request):
    return geometry(**request.param)


def test_tokens_hold_the_pixels_of_their_patch():
    sizes = geometry(size=(10, 15), window=2, patch=(4, 6))
    picture = np.random.RandomState(0).randint(0, 256, (10, 15, 3)).astype(np.uint8)
    tokens = partition.tokens_of(picture, sizes)
    assert tokens.shape == (3, 3, 3, 4, 6)
    for r, c, channel, y, x in product(*map(range, tokens.shape)):
        row, column = 4 * r + y, 6 * c + x
        assert tokens[r, c, channel, y, x] == (picture[row, column, channel] if row < 10 and column < 15 else 0)
    assert np.array_equal(partition.mosaic(tokens)[:10, :15], picture)


def test_windows_are_numbered_row_by_row(sizes):
    found = windows.token_numbers(sizes)
    (H, W), (h, w) = sizes.grid, sizes.window
    for number, (i, j) in enumerate(np.ndindex(*sizes.windows)):
        for token, (y, x) in enumerate(np.ndindex(h, w)):
            r, c = i * h + y, j * w + x
            assert found[number, token] == (r * W + c if r < H and c < W else -1)


def test_pieces_travel_to_the_opposite_edges(sizes):
    (H, W), (down, right) = sizes.padded, sizes.shift
    places, rolled, before = shift.places_rolled(sizes), shift.sides_rolled(sizes), shift.sides_unrolled(sizes)
    for r, c in np.ndindex(H, W):
        assert tuple(places[r, c]) == ((r + down) % H, (c + right) % W)
        assert before[r, c] == 2 * (r < down) + (c < right)
        assert rolled[r, c] == before[(r + down) % H, (c + right) % W]


def test_masks_allow_exactly_the_pairs_of_one_irregular_window(sizes):
    """Two tokens of a rolled window may see each other where the moved windows, laid over the map as it was, hold both."""
    _, found = masks.masks_of(sizes)
    places = windows.cut(shift.places_rolled(sizes), sizes.window)
    home = (places - np.array(sizes.shift)) // np.array(sizes.window)  # G, N, 2
    assert np.array_equal(found, (home[:, :, None] == home[:, None]).all(-1))
    kinds = masks.kinds(sizes)
    assert sum(len(kind.windows) for kind in kinds) == len(found)
    assert len(kinds) == np.prod([1 + (moved > 0) for moved in sizes.shift])


def test_regions_cover_the_map_once(sizes):
    regions = regions_of(sizes.padded, sizes.window, sizes.shift)
    places = sorted(place for region in regions.values() for place in region)
    assert places == list(np.ndindex(*sizes.padded))
    for region in regions.values():
        spread = np.ptp(np.array(region), axis=0) + 1
        assert (spread <= sizes.window).all()
        assert spread.prod() == len(region)  # a rectangle
    assert len(regions) == np.prod([count + (moved > 0) for count, moved in zip(sizes.windows, sizes.shift, strict=True)])


def test_masked_attention_is_attention_in_each_region(sizes):
    proof = prove(sizes)
    assert proof.masked < 1e-13
    moved = any(sizes.shift)
    assert (proof.unmasked > 0.1) == moved
    assert not moved or (proof.error_map > 1e-6).any()


def test_the_proof_notices_a_wrong_seam(monkeypatch):
    """A shift that rolls but masks elsewhere must not pass."""
    sizes = geometry(**SIZES[0])

    def wrong(qkv, bias, *, window, shift, scale):
        return window_attention(qkv, bias, window=window, shift=(shift[0], shift[1] - 1 if shift[1] else 0), scale=scale)

    monkeypatch.setattr("swinkit.explain.mechanism.proof.window_attention", wrong)
    assert prove(sizes).masked > 0.1


def test_attention_by_regions_is_softmax_attention():
    """On one window without a shift: the formula, token by token."""
    sizes = geometry(size=8, window=2, shift=0, patch=4)
    qkv, table = torch.randn(2, 2, 3, 2, 8, dtype=torch.float64), torch.randn(3, 3, 2, dtype=torch.float64)
    out = by_regions(qkv, table, sizes)
    for i, k in product(np.ndindex(2, 2), range(2)):
        scores = [qkv[i][0, k] @ qkv[j][1, k] / 8**0.5 + table[i[0] - j[0] + 1, i[1] - j[1] + 1, k] for j in np.ndindex(2, 2)]
        share = torch.stack(scores).softmax(0)
        expected = sum(s * qkv[j][2, k] for s, j in zip(share, np.ndindex(2, 2), strict=True))
        assert torch.allclose(out[i][k], expected, atol=1e-12)


@pytest.mark.parametrize("window", [(3, 3), (2, 5), (7, 7), (1, 4)])
def test_index_by_double_loop(window):
    h, w = window
    found, table = index.index_of(window), index.table_of(window)
    for (i, (y, x)), (j, (v, u)) in product(enumerate(np.ndindex(h, w)), repeat=2):
        row = (y - v + h - 1) * (2 * w - 1) + x - u + w - 1
        assert found[i, j] == row
        assert table[y - v + h - 1, x - u + w - 1] == row
    assert sorted(table.flatten()) == list(range((2 * h - 1) * (2 * w - 1)))


def test_the_naive_sum_collides_and_the_index_does_not():
    naive, table = index.naive_of((3, 3)), index.table_of((3, 3))
    one, other = (np.add(offset, 2) for offset in index.COLLISION)
    assert naive[tuple(one)] == naive[tuple(other)] == 7
    assert (table[tuple(one)], table[tuple(other)]) == (23, 19)


@pytest.mark.parametrize("grid", [(4, 4), (6, 2), (3, 5), (1, 1)])
def test_merging_order_is_that_of_strided_slices(grid):
    tokens = np.random.RandomState(0).randint(1, 100, (*grid, 3)).astype(np.float32)
    x = np.pad(tokens, ((0, grid[0] % 2), (0, grid[1] % 2), (0, 0)))
    slices = [x[0::2, 0::2], x[1::2, 0::2], x[0::2, 1::2], x[1::2, 1::2]]
    assert np.array_equal(merging.merged(tokens), np.concatenate(slices, -1))
    assert [eval(name, {"x": x}).tobytes() for name in merging.SLICES] == [one.tobytes() for one in slices]


@pytest.mark.parametrize("given", [SIZES[1], SIZES[2], {"size": 56, "window": 7, "shift": (2, 0)}], ids=str)
@pytest.mark.parametrize("token", [(0, 0), (7, 8), None])
def test_the_first_blocks_see_their_windows(given, token):
    sizes = geometry(**given)
    (H, W), (h, w), (down, right) = sizes.grid, sizes.window, sizes.shift
    first, second = receptive.fields(sizes, token=token)[:2]
    r, c = first.token
    window = np.zeros((H, W), bool)
    window[r // h * h : (r // h + 1) * h, c // w * w : (c // w + 1) * w] = True
    assert np.array_equal(first.seen, window)
    moved = [(y, x) for y, x in np.ndindex(H, W) if (y - down) // h == (r - down) // h and (x - right) // w == (c - right) // w]
    seen = {(y // h, x // w) for y, x in moved}
    # Padding takes part too: a padded token of the moved window has no gradient of its own, and so adds nothing.
    assert np.array_equal(second.seen, np.array([[(y // h, x // w) in seen for x in range(W)] for y in range(H)]))


def test_fields_grow_and_the_shift_is_why():
    sizes = geometry(size=112, window=7)
    moving, still = receptive.fields(sizes), receptive.fields(sizes, shifted=False)
    assert [field.count for field in moving[:2]] == [49, 196]
    assert [field.count for field in still[:2]] == [49, 49]
    for before, after in pairwise(moving):
        assert not (before.seen & ~after.seen).any()
    assert [field.shift for field in moving] == [(0, 0), (3, 3), (0, 0), (3, 3), (0, 0), (0, 0), (0, 0), (0, 0)][: len(moving)]


@pytest.mark.parametrize(("grid", "window"), [((14, 14), (7, 7)), ((6, 15), (3, 5)), ((28, 28), (28, 28))])
def test_equations_count_what_the_layer_does(grid, window):
    """Equation 2, equation 1 where the window is the map, and by hand: q, k, v and output; scores and their sums."""
    found = cost.counted(grid, window, dim=32, heads=4)
    tokens, inside = grid[0] * grid[1], window[0] * window[1]
    assert found == tokens * 32 * 3 * 32 + tokens * 32 * 32 + 2 * tokens * inside * 32
    assert found == cost.window_msa(grid, window, 32)
    assert grid != window or found == cost.msa(grid, 32)


def test_padding_costs_whole_windows():
    padded = cost.cost_of((13, 10), (7, 7))
    assert padded.scores == 3 * 14 * 14 * 49
    assert padded.operations == 4 * 130 * 96**2 + 2 * 49 * 14 * 14 * 96


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"size": 24}, "7\xa0×\xa07 tokens is larger than the map of 6\xa0×\xa06"),
        ({"window": 7, "shift": 7}, "shift of 7\xa0×\xa07 tokens is not smaller than the window"),
        ({"window": (7, 12), "shift": (3, 12)}, "at most 6\xa0×\xa011"),
        ({"size": 4096}, "Give a smaller size or window"),
        ({"size": 100_000, "patch": 1000, "window": 7}, "at most 64 can be drawn"),
        ({"size": 0}, "size is 0; expected a whole number"),
        ({"shift": -1}, "shift is -1"),
        ({"window": "7"}, "window is '7'"),
        ({"size": (1, 2, 3)}, "expected a whole number or a"),
    ],
)
def test_sizes_that_cannot_be_are_refused(given, says):
    with pytest.raises(ConfigError, match=re.escape(says)):
        geometry(**given)


def test_the_shift_is_dropped_by_the_policy():
    covered = geometry(size=28, window=7)
    assert (covered.shift, covered.dropped, covered.asked_shift) == ((0, 0), True, (3, 3))
    assert shift.policies(covered) == {"official": (0, 0), "dense": (3, 3), "per_axis": (0, 0)}
    assert shift.policies(geometry(size=(28, 56), window=7)) == {"official": (0, 0), "dense": (3, 3), "per_axis": (0, 3)}
    assert not geometry(size=56, window=7, shift=0).dropped


def test_any_picture_is_cut_to_size(tmp_path):
    Image.new("RGB", (300, 100), (10, 200, 30)).save(tmp_path / "green.png")
    assert picture_of((20, 44), tmp_path / "green.png").tolist() == np.full((20, 44, 3), (10, 200, 30)).tolist()
    assert np.array_equal(picture_of((20, 44)), picture_of((20, 44)))
    with pytest.raises(InputError):
        picture_of((20, 44), tmp_path / "none.png")


class Page(HTMLParser):
    """What a page refers to, its headings, ids and alternative texts."""

    def __init__(self, text):
        super().__init__()
        self.references, self.headings, self.ids, self.images, self.loaded = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.references += [values[name] for name in ("href", "src", "xlink:href") if name in values]
        self.headings += [tag] if re.fullmatch(r"h\d", tag) else []
        self.ids += [values["id"]] if "id" in values else []
        self.images += [values.get("aria-label", "")] if values.get("role") == "img" else []
        self.loaded += [tag] if tag in ("script", "link", "iframe", "object") else []


def test_the_page_is_whole_and_loads_nothing(text):
    page = Page(text)
    assert len(text.encode()) < 2_000_000
    assert all(reference.startswith(("#", "data:image/png;base64,")) for reference in page.references)
    assert {reference[1:] for reference in page.references if reference.startswith("#")} <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)
    assert not re.search(r"https?://|url\((?!#)|@import", text)
    assert page.loaded == []
    assert page.headings == ["h1", *["h2"] * len(NAMES)]
    assert len(page.images) == len(NAMES)
    assert all(len(alt) > 40 for alt in page.images)
    assert f"{prove(geometry(**SMALL)).masked:.1e}" in text


def test_svgs_in_the_page_take_its_colours(text):
    drawings = re.findall(r"<svg viewBox.*?</svg>", text, re.DOTALL)
    assert len(drawings) == len(NAMES)
    for drawing in drawings:
        assert "var(--ink)" in drawing
        assert "DejaVu" not in drawing
        assert "#1d1f25" not in drawing
        ElementTree.fromstring(drawing.replace("xlink:href", "href"))


def test_chapters_have_all_words(made):
    assert tuple(chapter.name for chapter in made) == NAMES
    for chapter in made:
        assert chapter.caption
        assert chapter.alt
        assert "paper" in " ".join(chapter.text)
    json.dumps([dict(chapter.facts) for chapter in made])


def test_draw_writes_valid_files_and_never_over_others(tmp_path, monkeypatch, made):
    few = [chapter for chapter in made if chapter.name in ("windows", "cost")]
    monkeypatch.setattr("swinkit.explain.mechanism.chapters", lambda **_: few)
    monkeypatch.setattr("swinkit.explain.mechanism.NAMES", tuple(chapter.name for chapter in few))
    paths = draw(tmp_path / "figures", formats=("png", "svg"), **SMALL)
    assert [path.name for path in paths] == ["windows.png", "windows.svg", "cost.png", "cost.svg"]
    for path in paths:
        if path.suffix == ".png":
            with Image.open(path) as image:
                image.verify()
                assert min(image.size) > 400
        else:
            assert ElementTree.parse(path).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    before = {path: path.read_bytes() for path in paths}
    with pytest.raises(InputError, match=r"windows\.png exists already; .*--overwrite"):
        draw(tmp_path / "figures", **SMALL)
    with pytest.raises(InputError, match="is a file"):
        draw(paths[0], **SMALL)
    with pytest.raises(InputError, match="'jpg'; expected png or svg"):
        draw(tmp_path / "other", formats=("jpg",), **SMALL)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "figures"]
    draw(tmp_path / "figures", formats=("svg",), overwrite=True, **SMALL)
    assert {path: path.read_bytes() for path in paths} == before


def test_the_verb(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["explain", "mechanism", "--size", "16", "20", "--window", "2", "--shift", "1", "1"]
    assert run([*command, "--json"]) == 0
    said = capsys.readouterr()
    facts = json.loads(said.out)
    assert facts["files"] == ["mechanism.html"]
    assert facts["grid"] == [4, 5]
    assert facts["mask_difference"] < 1e-13
    assert "written  mechanism.html" in said.err
    assert run(command) == 1
    assert "mechanism.html exists already" in capsys.readouterr().err
    assert run(["explain", "mechanism", "--window", "7", "--shift", "9"]) == 1
    assert run(["explain", "mechanism", "--size", "1", "2", "3"]) == 1
    assert run(["explain", "mechanism", "--colour", "red"]) == 2
    assert run(["explain"]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mechanism.html"]


def test_the_module_is_called_like_the_verb():
    assert callable(swinkit.explain)
    assert callable(swinkit.explain.mechanism)
    assert swinkit.explain.mechanism.draw is draw


def test_figures_do_not_depend_on_a_persons_settings():
    import matplotlib

    from swinkit.explain.figures import render

    plain = render(merging.draw_merging(), "svg")
    with matplotlib.rc_context({"font.size": 30, "axes.titlecolor": "red", "svg.fonttype": "path", "savefig.dpi": 10}):
        assert render(merging.draw_merging(), "svg") == plain
