"""The page where a person moves the query: in a real browser, against the arrays of Python."""

import shutil

import numpy as np
import pytest
import torch

from small_models import small
from swinkit.checkpoints.files import write_atomic
from swinkit.explain.interactive import body, script, style
from swinkit.explain.mapping import attention_tokens
from swinkit.explain.page import Section, page
from swinkit.explain.recording import record
from swinkit.explain.subject import subject
from test_explain_model import picture

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytest.importorskip("playwright", reason="playwright is missing")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")
SIZE = (27, 35)  # neither square nor divisible: shifted, padded and merged from odd maps


@pytest.fixture(scope="module")
def recording():
    torch.manual_seed(0)
    model = small()
    model.preprocess = {"size": list(SIZE), "mean": [0.5] * 3, "std": [0.25] * 3}
    looked = subject(model, picture())
    return record(model, looked.x), looked.picture


@pytest.fixture(scope="module")
def path(recording, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "page.html"
    part = body(*recording, (13, 17), (1, 1))
    write_atomic(path, page("Attention", [Section("Attention", body=part)], scripts=[script()], styles=[style()]))
    return path


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def tab(browser, path):
    context = browser.new_context(viewport={"width": 1000, "height": 800}, offline=True)
    tab = context.new_page()
    trouble = []
    tab.on("console", lambda message: trouble.append(message.text))
    tab.on("pageerror", lambda error: trouble.append(str(error)))
    tab.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else trouble.append(request.url))
    tab.goto(path.as_uri())
    tab.wait_for_selector("#attention-stage[data-drawn]")
    yield tab
    context.close()
    assert trouble == []


def drawn(tab):
    """What the page says that it shows, and its map."""
    return tab.get_attribute("#attention-stage", "data-drawn"), tab.evaluate("swinkitAttention.map()")


def wait_for(tab, value):
    tab.wait_for_selector(f'#attention-stage[data-drawn="{value}"]')


def same(recording, place, token, head, shown):
    """Whether a map of the page is Python's, as exactly as a byte a value allows."""
    block = recording.block(place)
    wanted = attention_tokens(block, token, head)
    (H, W), real = block.grid, wanted[: block.grid[0], : block.grid[1]]
    assert (shown["rows"], shown["columns"]) == (H, W)
    np.testing.assert_allclose(np.reshape(shown["values"], (H, W)), real, atol=real.max() / 100)
    np.testing.assert_allclose(shown["padding"], wanted.sum() - real.sum(), atol=0.02)


def click(tab, y, x):
    """On a pixel of the picture."""
    box = tab.locator("#attention-stage").bounding_box()
    tab.mouse.click(box["x"] + (x + 0.5) / SIZE[1] * box["width"], box["y"] + (y + 0.5) / SIZE[0] * box["height"])


def test_every_block_head_and_query_is_pythons(tab, recording):
    recorded, _ = recording
    pixels = [(0, 0), (26, 34), (13, 2), (7, 30)]
    for index, (place, block) in enumerate(recorded.blocks.items()):
        side = 2 * 2 ** place[0]
        for head, (y, x) in zip([None, 0, 1, None], pixels, strict=True):
            token = (y // side, x // side)
            number = -1 if head is None else head
            state = {"head": number, "query": [y, x]}
            tab.evaluate(
                "async ([i, s]) => { Object.assign(swinkitAttention.state, s); await swinkitAttention.choose(i); }", [index, state]
            )
            wait_for(tab, f"{place[0]}.{place[1]}/{number}/{token[0]},{token[1]}")
            same(recorded, place, token, head, drawn(tab)[1])
            assert block.heads + 1 == tab.locator("#attention-heads button").count()


def test_a_click_and_the_arrow_keys_move_the_query(tab, recording):
    recorded, _ = recording
    before = drawn(tab)[1]["values"]
    click(tab, 2, 33)
    wait_for(tab, "1.1/-1/0,8")
    same(recorded, (1, 1), (0, 8), None, drawn(tab)[1])
    assert drawn(tab)[1]["values"] != before
    tab.keyboard.press("ArrowDown")
    wait_for(tab, "1.1/-1/1,8")
    tab.keyboard.press("ArrowLeft")
    wait_for(tab, "1.1/-1/1,7")
    same(recorded, (1, 1), (1, 7), None, drawn(tab)[1])
    for _ in range(3):
        tab.keyboard.press("ArrowUp")
    wait_for(tab, "1.1/-1/0,7")


def test_dragging_moves_the_query(tab):
    box = tab.locator("#attention-stage").bounding_box()
    tab.mouse.move(box["x"] + 5, box["y"] + 5)
    tab.mouse.down()
    tab.mouse.move(box["x"] + box["width"] - 5, box["y"] + box["height"] - 5, steps=4)
    wait_for(tab, "1.1/-1/6,8")
    tab.mouse.up()
    tab.mouse.move(box["x"] + 5, box["y"] + 5)
    assert drawn(tab)[0] == "1.1/-1/6,8"


def test_the_keyboard_alone_reaches_blocks_and_heads(tab, recording):
    recorded, _ = recording
    tab.locator("#attention-block").focus()
    tab.keyboard.press("ArrowUp")
    tab.keyboard.press("ArrowUp")
    wait_for(tab, "0.1/-1/6,8")
    tab.locator("#attention-heads button").nth(2).focus()
    tab.keyboard.press("Enter")
    wait_for(tab, "0.1/1/6,8")
    same(recorded, (0, 1), (6, 8), 1, drawn(tab)[1])
    assert tab.locator('#attention-heads button[aria-pressed="true"]').get_attribute("aria-label") == "head 1"
    assert "Row 6, column 8 of 14 x 18 tokens" in tab.inner_text("#attention-words")


def test_frames_show_the_pieces_of_a_window_on_the_seam(tab):
    click(tab, 0, 0)
    wait_for(tab, "1.1/-1/0,0")
    boxes = tab.eval_on_selector_all(
        "#attention-lines rect.piece", "all => all.map(r => ['y', 'x', 'height', 'width', 'class'].map(n => r.getAttribute(n)))"
    )
    # Tokens of 4 pixels; 7 x 9 of them padded to 8 x 12: the corner's window holds rows 0, 1, 6 and columns 0, 1 (10 and 11 are padding).
    whole = {(y, x, h, w) for y, x, h, w, _ in boxes}
    assert whole == {("0", "0", "8", "8"), ("24", "0", "3", "8")}
    assert [kind for y, *_, kind in boxes if y == "24"] == ["piece apart"]


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1000, "dark")])
def test_it_fits_a_phone_and_either_theme(browser, path, width, scheme):
    tab = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    tab.goto(path.as_uri())
    tab.wait_for_selector("#attention-stage[data-drawn]")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.locator("#attention-stage").bounding_box()["width"] > 300
    colours = tab.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    ink, paper = (int(colour.split("(")[1].split(",")[0]) for colour in colours)
    assert (ink < paper) == (scheme == "light")
    tab.close()


def test_colours_are_those_of_python(tab, recording):
    recorded, shown = recording
    from swinkit.explain.blending import blend
    from swinkit.explain.mapping import attention_map

    values = attention_map(recorded, (13, 17), (1, 1)).values
    wanted = blend(shown, values / values.max())
    pixels = tab.evaluate("[...document.getElementById('attention-canvas').getContext('2d').getImageData(0, 0, 35, 27).data]")
    found = np.reshape(pixels, (*SIZE, 4))[..., :3]
    assert np.abs(found - wanted.astype(int)).mean() < 4


def test_the_command_writes_a_page_by_default(tmp_path, monkeypatch, capsys):
    from swinkit.cli import run

    monkeypatch.chdir(tmp_path)
    picture().save("photo.png")
    command = [
        "explain",
        "swin_pico_patch2_window4_32",
        "photo.png",
        "--method",
        "attention",
        "bias",
        "--query",
        "3",
        "20",
        "--block",
        "0.1",
    ]
    assert run(command) == 0
    printed = capsys.readouterr()
    assert "weights are random" not in printed.out
    assert "random" in printed.err
    text = (tmp_path / "photo.explained.html").read_text()
    assert text.count("<section") == 2
    assert '"query": [3, 20]' in text
    assert run(command) == 1
    assert "exists already" in capsys.readouterr().err
    assert run([*command, "--out", "figures", "--json"]) == 0
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"attention.png", "attention-blocks.png", "bias.png"}
