"""The page in a real browser, against a server that says what a test wants."""

import io
import random
import re
import shutil
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from PIL import Image

pytest.importorskip("fastapi", reason="the server needs the extra 'serve'")
sync_playwright = pytest.importorskip("playwright.sync_api", reason="the page is tested with playwright").sync_playwright

import serving  # noqa: E402
from page_server import GUESSES, HOSTILE, MODELS, Running, Told, make_app  # noqa: E402
from swinkit.serve import Settings, create_app  # noqa: E402
from swinkit.serve.page import page as html  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
browser_only = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)")
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True, "color_scheme": "dark"}
WATCH = (
    "window.violations = []; addEventListener('securitypolicyviolation', (e) => violations.push(`${e.violatedDirective} ${e.blockedURI}`));"
)
REFUSED = re.compile(r"Failed to load resource: the server responded with a status of")
BUSY = (503, "The queue is full.", {"Retry-After": "1"})


def png(size=(60, 40), pixels=b""):
    content = io.BytesIO()
    image = Image.frombytes("RGB", size, pixels) if pixels else Image.new("RGB", size, (200, 50, 40))
    image.save(content, "PNG")
    return content.getvalue()


def upload(name="boot.png", content=None, kind="image/png"):
    return {"name": name, "mimeType": kind, "buffer": png() if content is None else content}


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def server():
    told = Told()
    with Running(make_app(told)) as address:
        yield told, address


@pytest.fixture
def told(server):
    server[0].__dict__.update(Told().__dict__)
    return server[0]


class Tab:
    """A page of the browser, and what it asked for and complained about."""

    def __init__(self, browser, **options):
        self.page = browser.new_context(**options).new_page()
        self.page.add_init_script(WATCH)
        self.page.set_default_timeout(20_000)
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).netloc if request.url.startswith("http") else "local"))
        self.page.on("filechooser", lambda chooser: chooser.set_files([upload("chosen.png")]))
        self.page.on("console", lambda message: self.trouble.append(message.text))
        self.page.on("pageerror", lambda error: self.trouble.append(str(error)))

    @contextmanager
    def at(self, address):
        """At the end it is held to its promises: no other host, no broken policy, no error."""
        self.hosts, self.trouble = set(), []
        self.page.goto(address)
        self.page.evaluate("sessionStorage.clear()")
        yield self.page
        assert self.hosts <= {urlsplit(address).netloc, "local"}
        assert [text for text in self.trouble if not REFUSED.match(text)] == []
        assert self.page.evaluate("violations") == []


@pytest.fixture(scope="module")
def tab(browser):
    return Tab(browser, viewport={"width": 1200, "height": 850})


@pytest.fixture
def opened(tab, server, told):
    return lambda: tab.at(server[1])


def give(page, *files):
    page.set_input_files("#files", list(files))


def done(page, count=1):
    page.wait_for_function("(n) => document.querySelectorAll('.guesses').length === n", arg=count)


def fits(page):
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@browser_only
def test_a_picture_is_named(opened, told):
    with opened() as page:
        assert page.title() == page.inner_text("h1") == "clothes"
        assert "10 classes" in page.inner_text("#lead")
        assert "Nothing leaves this server" in page.inner_text("#lead")
        give(page, upload())
        done(page)
        rows = page.locator(".guesses li")
        assert [row.split("\n")[0].strip() for row in rows.all_inner_texts()] == list(GUESSES)
        assert rows.locator("span").all_inner_texts()[::4] == ["93.2\u00a0%", "<\u20090.1\u00a0%"]
        assert float(rows.first.locator("i").evaluate("(bar) => bar.style.getPropertyValue('--v')")) == GUESSES["Ankle boot"]
        assert page.inner_text(".timing").startswith("24 ms at the server: 1.3 decoding, 2.0 waiting, 20 computing. ")
        assert page.inner_text("#status") == "boot.png: Ankle boot, 93.2\u00a0%. 1 of 1 done."
        assert page.get_attribute("#status", "aria-live") == "polite"
        assert told.names == ["boot.png"]


@browser_only
def test_several_pictures_a_text_file_among_them(opened, told):
    told.gate.clear()
    with opened() as page:
        give(page, *(upload(f"{number}.png") for number in range(4)), upload("notes.txt", b"hello", "text/plain"))
        page.wait_for_function("() => document.body.innerText.match(/Looking/g).length === 2")
        told.gate.set()
        done(page, 4)
        failure = page.locator(".card", has_text="notes.txt")
        failure.locator(".failed").wait_for()
        assert "notes.txt is not an image that is read here." in failure.inner_text()
        assert "req-7" in failure.inner_text()
        assert page.inner_text("#progress") == "5 pictures, 1 without an answer"
        assert page.locator("h3").all_inner_texts() == ["0.png", "1.png", "2.png", "3.png", "notes.txt"]
        assert told.most_at_once == 2
        page.click("text=Clear")
        assert page.locator(".card").count() == 0
        assert not page.is_visible("#results")


@browser_only
@pytest.mark.parametrize("way", ["paste", "drop"])
def test_a_picture_is_pasted_or_dropped(opened, told, way):
    with opened() as page:
        page.evaluate(
            """([way, bytes]) => {
                const given = new DataTransfer();
                given.items.add(new File([new Uint8Array(bytes)], "image.png", {type: "image/png"}));
                document.body.dispatchEvent(way === "paste"
                    ? new ClipboardEvent("paste", {clipboardData: given, bubbles: true, cancelable: true})
                    : new DragEvent("drop", {dataTransfer: given, bubbles: true, cancelable: true}));
            }""",
            [way, list(png())],
        )
        done(page)
        assert told.names == ["image.png"]


@browser_only
def test_pasted_words_are_answered_with_words(opened, told):
    with opened() as page:
        page.evaluate(
            """() => { const given = new DataTransfer(); given.setData("text/plain", "https://example.org/cat.png");
            document.body.dispatchEvent(new ClipboardEvent("paste", {clipboardData: given, bubbles: true})); }"""
        )
        assert page.inner_text("#notice-says") == "No picture was pasted; a file or a copied picture can be."
        assert told.names == []


@browser_only
def test_under_overload_it_says_so_and_tries_again(opened, told):
    told.refusals = [BUSY]
    with opened() as page:
        give(page, upload())
        page.wait_for_selector("#notice")
        assert re.fullmatch(r"The server is busy\. Trying again in [12] s\.", page.inner_text("#notice-says"))
        assert "busy" in page.inner_text("#status")
        assert page.locator("progress").count() == 1
        done(page)
        assert not page.is_visible("#notice")
        assert told.names == ["boot.png"] * 2


@browser_only
def test_a_server_that_stays_busy_is_left_alone(opened, told):
    told.refusals = [(503, "The queue is full.", {"Retry-After": "600"})] * 6
    with opened() as page:
        give(page, upload())
        for tries in range(2, 7):
            page.click("text=Try now")
            page.wait_for_function(
                "(n) => performance.getEntriesByType('resource').filter((e) => /predict/.test(e.name)).length >= n", arg=tries
            )
        page.wait_for_selector(".failed")
        assert "The queue is full." in page.inner_text(".card")
        assert not page.is_visible("#notice")
        page.click(".again")
        done(page)


@browser_only
def test_what_waits_is_stopped_and_removed(opened, told):
    told.gate.clear()
    with opened() as page:
        give(page, *(upload(f"{number}.png") for number in range(5)))
        page.click("text=Stop")
        assert page.locator(".card", has_text="Stopped").count() == 5
        page.click("[aria-label='Remove 4.png']")
        assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Remove 3.png"
        told.gate.set()
        page.click("[aria-label='Ask about 0.png now']")
        done(page)
        assert page.inner_text(".card:has(.guesses) h3") == "0.png"
        assert "4.png" not in told.names


@browser_only
def test_a_long_list_is_cut(opened):
    with opened() as page:
        give(page, *(upload(f"{number}.png") for number in range(63)))
        assert page.locator(".card").count() == 60
        assert page.inner_text("#notice-says") == "This page holds 60 pictures at a time; 3 of the 63 were left out."


@browser_only
def test_without_a_mouse(opened, told):
    with opened() as page:
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "model"
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "choose"
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        page.keyboard.press("Enter")
        done(page)
        reached = []
        for _ in range(8):
            page.keyboard.press("Tab")
            reached.append(page.evaluate("document.activeElement.getAttribute('aria-label') || document.activeElement.textContent"))
            if reached[-1] == "Show evidence on chosen.png":
                page.keyboard.press("Space")
                page.wait_for_selector("img[alt='Where the model looked for Ankle boot']")
        assert reached[:4] == ["Clear", "Show evidence on chosen.png", "Evidence for the class", "Remove chosen.png"]
        assert "Ankle boot" in told.asked


@browser_only
def test_the_overlay_follows_the_class_and_goes_away(opened, told):
    with opened() as page:
        give(page, upload())
        done(page)
        before = page.get_attribute(".thumb img", "src")
        page.click("text=Show evidence")
        page.select_option(".look select", "Sneaker")
        page.wait_for_selector("img[alt='Where the model looked for Sneaker']")
        assert page.get_attribute(".thumb img", "src") != before
        page.click("text=Show picture")
        assert page.get_attribute(".thumb img", "src") == before
        page.select_option("#model", index=1)
        page.wait_for_function("() => document.querySelector('.timing')?.textContent.includes('By <img')")
        assert page.locator("text=Show evidence").count() == 0
        assert told.asked == ["clothes", "Ankle boot", "Sneaker", HOSTILE]


@browser_only
def test_hostile_names_are_text(opened):
    with opened() as page:
        page.select_option("#model", index=1)
        give(page, upload(f"{HOSTILE}.png"))
        done(page)
        assert page.inner_text("h3") == f"{HOSTILE}.png"
        assert page.locator(".guesses bdi").all_inner_texts()[1] == HOSTILE
        assert page.inner_text("h1") == page.title() == HOSTILE
        assert page.inner_text("#about") == MODELS[1]["about"]
        assert page.locator("img").count() == 1


@browser_only
def test_a_token_is_asked_for_and_kept(opened, told):
    told.token = "let-me-in"
    with opened() as page:
        for token, says in (("wrong", "It is kept until this tab is closed."), ("let-me-in", "It did not take the last one.")):
            page.wait_for_function("(says) => document.activeElement.id === 'token' && document.body.textContent.includes(says)", arg=says)
            page.keyboard.type(token)
            page.keyboard.press("Enter")
        page.wait_for_function("() => document.title === 'clothes'")
        give(page, upload())
        done(page)
        page.reload()
        page.wait_for_function("() => document.title === 'clothes'")
        assert not page.is_visible("#unlock")
        assert "let-me-in" not in page.content()


@browser_only
def test_on_a_phone(browser, server, told):
    with Tab(browser, **PHONE).at(server[1]) as page:
        assert page.is_visible("text=Take a photo")
        assert page.get_attribute("#camera", "capture") == "environment"
        assert fits(page)
        give(page, upload(f"{'long' * 40}.png", png(size=(900, 300))))
        done(page)
        page.tap("text=Show evidence")
        page.wait_for_selector(".look select")
        assert fits(page)
        give(page, upload("two.png"), upload("notes.txt", b"hello"))
        done(page, 2)
        page.wait_for_selector(".failed")
        assert fits(page)
        small = page.evaluate(
            "[...document.querySelectorAll('button, select')].filter((e) => e.offsetHeight && e.offsetHeight < 40).length"
        )
        assert small == 0


@browser_only
def test_everything_has_an_accessible_name(opened):
    with opened() as page:
        give(page, upload(), upload("notes.txt", b"hello"))
        done(page)
        page.wait_for_selector(".failed")
        page.click("text=Show evidence")
        nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
        nodes = [node for node in nodes if not node["ignored"]]
        roles = {"button", "combobox", "textbox", "link", "progressbar", "list", "heading", "option", "image"}
        nameless = [node["role"]["value"] for node in nodes if node["role"]["value"] in roles and not node.get("name", {}).get("value")]
        # The list of cards is named by its section.
        assert nameless in ([], ["list"])
        assert {"main", "contentinfo", "banner", "region", "status"} <= {node["role"]["value"] for node in nodes}


@browser_only
def test_dark_is_dark_and_motion_can_be_switched_off(opened):
    with opened() as page:
        page.emulate_media(color_scheme="dark", reduced_motion="reduce")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 23, 27)"
        give(page, upload())
        done(page)
        assert page.evaluate("document.getAnimations().length") == 0
        page.emulate_media(color_scheme="light", reduced_motion="no-preference")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(251, 250, 247)"


@browser_only
def test_the_real_server_serves_it(tab):
    noise = png(pixels=random.Random(0).randbytes(60 * 40 * 3))
    colours = serving.Told()
    app = create_app({"by-colour": colours, HOSTILE: serving.Told()}, settings=Settings(access_log=False, decoders=1, token="let-me-in"))
    with Running(app) as address, tab.at(address) as page:
        page.wait_for_function("() => document.activeElement.id === 'token'")
        assert "by-colour" not in page.content()
        page.keyboard.type("let-me-in")
        page.keyboard.press("Enter")
        page.wait_for_function("() => document.title === 'by-colour'")
        assert page.inner_text("#lead").startswith("Give it a picture, and it says which of 5 classes it is.")
        assert page.text_content("#words") == "ant · bee · cat · dog · elk"
        give(page, upload("red.png"), upload("notes.txt", b"hello", "text/plain"), upload("cut.png", noise[: len(noise) // 2]))
        done(page)
        page.wait_for_function("() => document.querySelectorAll('.failed').length === 2")
        assert page.inner_text(".guesses li:first-child bdi") == "elk"
        assert "notes.txt is not an image that is read here" in page.inner_text(".card:nth-child(2)")
        assert "cut.png is broken or cut short" in page.inner_text(".card:nth-child(3)")
        assert colours.batches == [1]


def test_the_page_is_small_and_loads_nothing():
    text = html(MODELS)
    assert len(text.encode()) < 40_000
    assert not re.search(r"""(src|href)=(?!["']?data:)|url\(|@import|https?://""", re.sub(r"<script type=.*?</script>", "", text))
    assert not re.search(r"<[^>]+\s(style|on\w+)=", re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL))
    assert text.count("{{nonce}}") == 3
    assert text.count("</script>") == 2


def test_models_are_told_to_the_page_alone_where_they_are_given():
    assert '<script type="application/json" id="facts" nonce="{{nonce}}">[]</script>' in html([])
    assert "clothes" not in html([])
