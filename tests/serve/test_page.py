"""The page at `/` in a real browser: every way in leads to answers and to the viewer, by keys and on a phone as well."""

from __future__ import annotations

import base64
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import hierax
from hierax.serve import Settings
from hierax.serve.page import _FILES, EXAMPLES, HERE

from ..browsers import PHONE, browser, opened, pictured, violations
from .conftest import served

PICTURES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def chromium():
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A server with a store of three images."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "photos").mkdir()
    for name in ("heart.jpg", "star.jpg", "waves.jpg"):
        shutil.copy(PICTURES / name, folder / "photos")
    hierax.embed(folder / "photos", folder / "store", progress=False, workers=0)
    with served(Settings(store=str(folder / "store"))) as found:
        yield found


@pytest.fixture
def page(stored, chromium):
    with opened(chromium, stored.url, viewport={"width": 1300, "height": 900}) as found:
        found.locator("#licence", has_text="Licence of the weights").wait_for()
        yield found
        assert not found.faults
        assert all(address.startswith((stored.url, "data:", "blob:")) for address in found.asked)


def shown(page, count=1):
    """Wait until there are answers and a viewer of so many images."""
    page.locator("#viewer[data-ready=yes]").wait_for()
    page.locator("#viewer figure").nth(count - 1).wait_for()


def test_example__answers_and_viewer(page, stored):
    """An example that needs anything but a click, or an answer that is not the server's, convinces nobody."""
    page.get_by_role("button", name="heart").press("Enter")
    shown(page)
    image = page.request.get(f"{stored.url}/page/heart.jpg").body()
    wanted = stored.post("/classify?top_k=5", image, "image/jpeg").json()
    rows = page.locator(".classes li").all_inner_texts()
    assert [row.split("\n")[0] for row in rows] == [guess["label"] for guess in wanted]
    assert wanted[0]["label"] == "heart"
    assert page.locator("#told").inner_text().startswith("heart.jpg: heart")
    near = page.locator(".near li").all_inner_texts()
    assert len(near) == 3
    assert {text.split()[-1] for text in near} == {"heart.jpg", "star.jpg", "waves.jpg"}
    page.wait_for_function("() => [...document.querySelectorAll('.near img')].every((image) => image.naturalWidth > 0)")
    page.set_viewport_size({"width": 1300, "height": 1500})
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    pictured(page, "serve-page.png")
    programs = page.locator(".programs").inner_text()
    assert f"curl {stored.url}/classify" in programs
    assert "hierax.load(" in programs


def test_viewer__is_that_of_the_file(page, stored):
    """The server's maps must give the cosines that NumPy gives of /features."""
    page.locator("#file").set_input_files([PICTURES / "ring.png", PICTURES / "star.jpg"])
    shown(page, 2)
    page.get_by_role("radio", name=re.compile("stage4")).check()
    page.locator(".facts", has_text="stage4:").wait_for()
    first, second = page.locator("#viewer canvas").nth(0), page.locator("#viewer canvas").nth(1)
    for canvas, key in ((first, "Enter"), (second, "End")):
        canvas.focus()
        for each in ("Home", "PageUp", key):
            page.keyboard.press(each)
    page.locator("p.against", has_text="B star.jpg, row 0, column 2").wait_for()
    maps = hierax.load().features([PICTURES / "ring.png", PICTURES / "star.jpg"])["stage4"]
    a, b = maps[0, :, 0, 0], maps[1, :, 0, 2]
    said = float(page.locator("output.value").inner_text().replace("\u2212", "-"))
    assert abs(said - a @ b / np.linalg.norm(a) / np.linalg.norm(b)) <= 0.01


def test_drop_and_paste(page):
    """Ctrl+V and a drop anywhere on the page are what people try first."""
    data = base64.b64encode((PICTURES / "star.jpg").read_bytes()).decode()
    for kind, name in (("paste", "pasted.jpg"), ("drop", "dropped.jpg")):
        page.evaluate(
            """([kind, name, data]) => {
              const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
              const transfer = new DataTransfer();
              transfer.items.add(new File([bytes], name, {type: "image/jpeg"}));
              const options = {bubbles: true, cancelable: true};
              document.querySelector("footer").dispatchEvent(kind === "drop"
                ? new DragEvent(kind, {...options, dataTransfer: transfer})
                : new ClipboardEvent(kind, {...options, clipboardData: transfer}));
            }""",
            [kind, name, data],
        )
        page.locator("#told", has_text=f"{name}: star").wait_for()


def test_broken__is_told_and_the_next_works(page, tmp_path):
    """A page that hangs after a broken file, or shows the answer of the one before, is worse than an error."""
    bad = tmp_path / "bad<b>.jpg"
    bad.write_bytes(b"nothing")
    page.locator("#file").set_input_files([bad])
    page.locator("#told.wrong").wait_for()
    assert "image" in page.locator(".answer").inner_text()
    assert bad.name in page.locator(".answer").inner_text()
    page.faults.clear()  # the browser's own line about the status 422
    page.get_by_role("button", name="star").click()
    shown(page)
    assert page.locator("#told").inner_text().startswith("star.jpg: star")


def test_more_than_fit__are_told(page, tmp_path):
    """Images that go missing without a word are looked for by whoever dropped them."""
    names = ["heart.jpg", "star.jpg", "waves.jpg", "ring.png", "heart.jpg", "star.jpg"]
    for number, name in enumerate(names):
        shutil.copy(PICTURES / name, tmp_path / f"{number}{Path(name).suffix}")
    page.locator("#file").set_input_files(sorted(tmp_path.iterdir()))
    page.locator("#told", has_text="At most 4 images are shown together: the first 2 left out.").wait_for()
    assert page.locator(".answer h3").all_inner_texts() == ["2.jpg", "3.png", "4.jpg", "5.jpg"]
    shown(page, 4)


def test_tab__reaches_every_way_in(page):
    """An input that only a mouse finds."""
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
    assert {"file", "camera", "beside", "heart", "waves"} <= set(reached)
    page.get_by_role("checkbox", name="beside those shown").press(" ")
    for name in ("ring", "waves"):
        page.get_by_role("button", name=name).press("Enter")
        page.locator("#told", has_text=f"{name}.jpg:").wait_for()
    shown(page, 2)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page__is_accessible(stored, chromium, scheme):
    """Before and after an answer, light and dark, on a phone: no serious violation, and nothing beyond the edge."""
    with opened(chromium, stored.url, color_scheme=scheme, viewport=PHONE) as page:
        page.locator("#licence", has_text="Licence of the weights").wait_for()
        assert violations(page) == []
        page.get_by_role("button", name="spiral").click()
        shown(page)
        assert violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        if scheme == "dark":
            page.evaluate("scrollTo(0, document.querySelector('#answers').offsetTop - 60)")
            pictured(page, "serve-page-phone.png")


def test_files__no_other_name_leads_anywhere(stored):
    """A name that is joined to a folder serves the whole disk."""
    for name in ("..%2f__init__.py", "__init__.py", "index.html", "%2e%2e/%2e%2e/app.py", "heart", "heart.jpg.jpg"):
        assert stored.client.get(f"/page/{name}").status_code == 404
    for name in (*_FILES, *(f"{each}.jpg" for each in EXAMPLES)):
        reply = stored.client.get(f"/page/{name}")
        assert reply.status_code == 200
        assert "default-src 'none'" in reply.headers["content-security-policy"]
    text = (HERE / "index.html").read_text()
    assert set(re.findall(r'(?:src|href)="page/([^"]+)"', text)) <= {*_FILES, *(f"{each}.jpg" for each in EXAMPLES)}
    assert not re.search(r"https?://", "".join(path.read_text() for path in (HERE / "index.html", *_FILES.values())))


def test_view__refuses(stored):
    """Maps of many images are packed in memory together; a stage that does not exist is named."""
    image = (PICTURES / "star.jpg").read_bytes()
    many = stored.client.post("/view", files=[("file", ("a.jpg", image, "image/jpeg"))] * 5)
    assert many.status_code == 413
    wrong = stored.post("/view?stage=stage9", image)
    assert wrong.status_code == 422
    assert "stage1, stage2, stage3, stage4" in wrong.json()["error"]


def test_camera__waits_for_a_picture(page):
    """A camera that starts slowly gives an empty canvas, which the server refuses as no image."""
    page.evaluate(
        """() => {
          window.slow = Object.assign(document.createElement("canvas"), {width: 320, height: 240});
          slow.getContext("2d");
          slow.captured = slow.captureStream(0);
          navigator.mediaDevices.getUserMedia = async () => slow.captured;
        }"""
    )
    page.get_by_role("button", name="Camera").click()
    take = page.get_by_role("button", name="Take the picture")
    page.locator("#shot[open]").wait_for()
    assert take.is_disabled()
    page.evaluate(
        """() => new Promise((done) => {
          const take = document.querySelector("#take");
          const frame = () => {
            if (!take.disabled) return done();
            slow.getContext("2d").fillRect(0, 0, 320, 240);
            slow.captured.getVideoTracks()[0].requestFrame();
            requestAnimationFrame(frame);
          };
          frame();
        })"""
    )
    take.press("Enter")
    shown(page)
    assert page.locator("#told").inner_text().startswith("camera.jpg")


def test_key__is_asked_for_once(stored, chromium):
    """A page that needs the key before it can ask for it is locked; one without classes still shows the maps."""

    def guarded(route):
        if route.request.headers.get("authorization") != "Bearer open sesame":
            route.fulfill(status=401, json={"error": "The key is another.", "error_type": "Unauthorized"})
        elif route.request.url.endswith("/v2"):
            told = route.fetch().json()
            route.fulfill(json={**told, "store": None, "model": {**told["model"], "classes": 0}})
        else:
            route.continue_()

    with opened(chromium, "about:blank", viewport=PHONE, has_touch=True, is_mobile=True) as page:
        page.route(re.compile("/(v2|classify|search|view)$"), guarded)
        page.goto(stored.url)
        page.get_by_label("This server asks for a key").fill("wrong")
        page.get_by_role("button", name="Use it").tap()
        page.locator("#told.wrong", has_text="The key is another.").wait_for()
        page.get_by_label("This server asks for a key").fill("open sesame")
        page.get_by_role("button", name="Use it").tap()
        page.locator("#licence", has_text="Licence of the weights").wait_for()
        assert "$KEY" in page.locator(".programs").inner_text()
        assert "open sesame" not in page.content()
        page.get_by_role("button", name="Camera").tap()
        page.get_by_role("button", name="Take the picture").tap()
        page.locator("#told", has_text="camera.jpg was read").wait_for()
        shown(page)
        canvas = page.locator("#viewer canvas").first
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        page.touchscreen.tap(box["x"] + box["width"] * 0.9, box["y"] + box["height"] * 0.1)
        page.locator("p.probe", has_text="row 0, column 5").wait_for()  # a finger points, and pins nothing
        assert page.get_by_role("button", name="Pin", exact=True).get_attribute("aria-pressed") == "false"
