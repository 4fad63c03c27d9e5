"""The page in a real browser, with the service and bundled models behind it."""

import os
import re
import shutil
import subprocess
import sys
import urllib.request
import zipfile
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Route, expect, sync_playwright
from skimage import data

import refusion

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: .ci/browser installs it"),
]

SOON = 60_000
"""Milliseconds that a restoration may take on a busy core."""

DROP = """async ([files, type]) => {
  const transfer = new DataTransfer();
  for (const [name, address] of files) {
    const bytes = Uint8Array.from(atob(address), (letter) => letter.charCodeAt(0));
    transfer.items.add(new File([bytes], name));
  }
  const target = document.querySelector("#drop");
  const options = {bubbles: true, cancelable: true};
  if (type === "paste") {
    target.dispatchEvent(new ClipboardEvent("paste", {...options, clipboardData: transfer}));
  } else {
    target.dispatchEvent(new DragEvent("dragover", {...options, dataTransfer: transfer}));
    target.dispatchEvent(new DragEvent("drop", {...options, dataTransfer: transfer}));
  }
}"""


NAMELESS = """() => {
  const texts = (node) => [
    node.getAttribute("aria-label"),
    node.getAttribute("aria-labelledby"),
    node.textContent.trim(),
    node.closest("label")?.textContent.trim(),
  ];
  const live = ["status", "alert"];
  return [...document.querySelectorAll("button, a, input, select, progress, [role]")]
    .filter((node) => node.checkVisibility() && !live.includes(node.getAttribute("role")))
    .filter((node) => !texts(node).some(Boolean))
    .map((node) => node.outerHTML);
}"""


REMEMBER_FORM = """() => {
  const send = XMLHttpRequest.prototype.send;
  XMLHttpRequest.prototype.send = function (form) {
    const text = (value) => (value instanceof File ? value.name : value);
    window.sentForm = Object.fromEntries([...form].map(([name, value]) => [name, text(value)]));
    send.call(this, form);
  };
}"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a service of its own."""
    folder = tmp_path_factory.mktemp("service")
    command = [sys.executable, "-m", "refusion", "serve", "--no-open", "--port", "0", "--threads", "1"]
    source = str(Path(refusion.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source, "PYTHONUNBUFFERED": "1"}
    command += ["--data", str(folder / "data"), "--device", "cpu"]
    with (
        (folder / "log").open("w+") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            found = re.search(r"http://\S+:\d+/", process.stdout.readline())
            log.seek(0)
            assert found, log.read()
            yield found[0]
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


Open = Callable[..., Page]


@pytest.fixture
def opened(browser: Browser, service: str) -> Iterator[Open]:
    """Opens the page on an empty list; in the end, no error was told, and no other host asked."""
    complaints: list[str] = []
    contexts = []

    def start(**settings: object) -> Page:
        context = browser.new_context(**{"locale": "en-US", "accept_downloads": True} | settings)  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: complaints.append(message.text) if _is_error(message) else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request", lambda asked: complaints.append(asked.url) if _foreign(asked.url, service) else None
        )
        page.goto(service)
        expect(page.locator(".card")).to_have_count(11, timeout=SOON)
        return page

    urllib.request.urlopen(urllib.request.Request(f"{service}api/v1/jobs", method="DELETE")).close()
    yield start
    for context in contexts:
        context.close()
    assert complaints == []


def _is_error(message: ConsoleMessage) -> bool:
    """Return whether the console tells an error, but for a refusal by the service, which the page tells."""
    refusal = re.search(r"responded with a status of (400|415)", message.text)
    return message.type == "error" and refusal is None


def _foreign(address: str, service: str) -> bool:
    return not address.startswith((service, "blob:", "data:"))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A few pictures by name: JPEG, PNG with 16 bits, a large one, two views, a text."""
    folder = tmp_path_factory.mktemp("photographs")
    coffee, cat = data.coffee()[:256, :320], data.chelsea()[:240, :320]
    Image.fromarray(coffee).save(folder / "coffee.jpg", quality=92)
    Image.fromarray(cat).save(folder / "cat.png")
    deep = Image.fromarray((cat[..., 0].astype(np.uint16) * 257)[:100, :120])
    deep.save(folder / "deep.png")
    Image.fromarray(np.tile(data.astronaut(), (4, 4, 1))).save(folder / "large.jpg")
    left, right, _ = data.stereo_motorcycle()
    for name, view in (("left", left), ("right", right)):
        Image.fromarray(view[:60, :80]).save(folder / f"scene_{name}.png")
    (folder / "notes.txt").write_text("no picture")
    return {path.name: path for path in folder.iterdir()}


def _encoded(path: Path) -> list[str]:
    return [path.name, b64encode(path.read_bytes()).decode()]


@contextmanager
def changing(page: Page, script: str) -> Iterator[None]:
    """Expect that the value of a script differs afterwards."""
    before = page.evaluate(script)
    yield
    assert page.evaluate(script) != before


def add(page: Page, *paths: Path) -> None:
    page.set_input_files("#files", list(paths))


def row(page: Page, name: str) -> Locator:
    return page.locator(".row", has=page.get_by_text(name, exact=True))


def choose(page: Page, task: str) -> None:
    page.get_by_role("radio", name=task, exact=True).check()


def restore(page: Page, *paths: Path) -> None:
    """Restore pictures, and wait until all are done."""
    add(page, *paths)
    page.locator("#restore").click()
    expect(page.locator(".row[data-kind=done]")).to_have_count(len(paths), timeout=SOON)


def pinch(page: Page, selector: str) -> None:
    """Draw two fingers apart on an element."""
    box = page.locator(selector).bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    fingers = page.context.new_cdp_session(page)
    for kind, apart in (("touchStart", 40), ("touchMove", 60), ("touchMove", 120), ("touchEnd", 0)):
        points = [{"x": x + side * apart, "y": y, "id": i} for i, side in enumerate((-1, 1))] if apart else []
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})


def dropped(page: Page, paths: list[Path], how: str = "drop") -> None:
    page.evaluate(DROP, [[_encoded(path) for path in paths], how])


def test_two_pictures_are_dropped_restored_and_downloaded(
    opened: Open, photographs: dict[str, Path], tmp_path: Path
) -> None:
    page = opened()
    expect(page.locator("#restore")).to_be_disabled()
    dropped(page, [photographs[name] for name in ("coffee.jpg", "cat.png", "notes.txt")])
    expect(page.locator("#passed-over")).to_contain_text(".txt")
    expect(page.locator("#restore")).to_have_text("Restore 2 pictures")
    page.locator("#restore").click()
    expect(page.locator(".row[data-kind=done]")).to_have_count(2, timeout=SOON)
    expect(page.locator("#summary")).to_have_text("2 of 2 done")
    assert page.locator(".row .name").all_inner_texts() == ["coffee.jpg", "cat.png"]
    with page.expect_download() as download:
        row(page, "coffee.jpg").get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == "coffee.jpg"
    download.value.save_as(tmp_path / "coffee.jpg")
    assert refusion.read(tmp_path / "coffee.jpg").size == (320, 256)
    with page.expect_download() as download:
        page.locator("#download-all").click()
    assert sorted(zipfile.ZipFile(download.value.path()).namelist()) == ["cat.png", "coffee.jpg"]


def test_depth_is_kept_and_another_format_can_be_asked_for(
    opened: Open, photographs: dict[str, Path]
) -> None:
    page = opened()
    restore(page, photographs["deep.png"])
    with page.expect_download() as download:
        page.get_by_role("link", name="Download: deep.png").click()
    assert refusion.read(download.value.path()).depth == 16
    page.locator("#advanced summary").click()
    page.locator("#suffix").select_option(".webp")
    add(page, photographs["cat.png"])
    page.locator("#restore").click()
    link = page.get_by_role("link", name="Download: cat.png")
    expect(link).to_be_visible(timeout=SOON)
    with page.expect_download() as download:
        link.click()
    assert download.value.suggested_filename == "cat.webp"


def test_a_self_ensemble_can_be_asked_for_and_is_kept_in_the_next_version(
    opened: Open, photographs: dict[str, Path]
) -> None:
    page = opened()
    page.locator("#advanced summary").click()
    page.locator("#self-ensemble").check()
    restore(page, photographs["cat.png"])
    page.locator(".thumb").click()
    page.locator("#viewer-again").click()
    for samples, of_all in (("", True), ("2", False)):  # samples are of one orientation
        page.locator("#again [name=samples]").fill(samples)
        with page.expect_request(lambda asked: asked.method == "POST") as asked:
            page.locator("#again button[type=submit]").click()
        assert ('"self_ensemble":true' in asked.value.post_data) is of_all
        expect(page.locator("#again-state")).to_contain_text("Done", timeout=SOON)


def test_progress_is_told_one_is_cancelled_and_tried_again_and_then_all(
    opened: Open, photographs: dict[str, Path]
) -> None:
    page = opened()
    page.locator("#advanced summary").click()
    page.locator("#steps").fill("40")
    add(page, photographs["large.jpg"], photographs["coffee.jpg"], photographs["cat.png"])
    page.locator("#restore").click()
    large, coffee = row(page, "large.jpg"), row(page, "coffee.jpg")
    expect(large.locator(".state")).to_contain_text(re.compile(r"Step \d+ of 40 · about"), timeout=SOON)
    expect(coffee.locator(".state")).to_contain_text("Waiting")
    expect(page).to_have_title(re.compile(r"\(0/3\)"))
    page.get_by_role("button", name="Cancel: large.jpg").click()
    expect(large).to_have_attribute("data-kind", "cancelled", timeout=SOON)
    page.get_by_role("button", name="Try again: large.jpg").click()
    expect(large).to_have_attribute("data-kind", re.compile("waiting|running"))
    page.locator("#cancel-all").click()
    expect(page.locator(".row[data-kind=waiting], .row[data-kind=running]")).to_have_count(0, timeout=SOON)
    page.on("dialog", lambda dialog: dialog.accept())
    page.locator("#remove-all").click()
    expect(page.locator(".row")).to_have_count(0)


def test_pictures_that_come_before_the_service_is_ready_wait_for_it(
    opened: Open, photographs: dict[str, Path]
) -> None:
    page = opened()
    asked: list[Route] = []
    page.route("**/api/v1/service", lambda route: asked.append(route))  # not answered yet
    page.reload()
    expect(page.locator("#choose-files")).to_have_text("Choose pictures")
    add(page, photographs["cat.png"])
    expect(page.locator(".card")).to_have_count(0)
    expect(page.locator("#passed-over")).to_be_empty()
    for route in asked:
        route.continue_()
    expect(row(page, "cat.png")).to_be_visible()
    expect(page.locator("#passed-over")).to_be_empty()


HOLD_ANSWERS = """() => {
  const released = new Promise((resolve) => { window.releaseAnswers = resolve; });
  Object.defineProperty(XMLHttpRequest.prototype, "onload", {
    set(heard) { this.addEventListener("load", (event) => released.then(() => heard.call(this, event))); },
  });
}"""
"""Lets no answer to what is sent arrive until `releaseAnswers` is called."""


def test_a_picture_stands_in_the_list_once_when_its_job_is_told_before_the_answer(
    opened: Open, photographs: dict[str, Path]
) -> None:
    page = opened()
    page.evaluate(HOLD_ANSWERS)
    add(page, photographs["cat.png"])
    page.locator("#restore").click()
    expect(row(page, "cat.png")).to_have_attribute("data-kind", "done", timeout=SOON)
    expect(page.locator("#summary")).to_have_text("1 of 1 done")
    page.evaluate("releaseAnswers()")
    expect(page.locator("#restore")).to_be_disabled()
    expect(page.locator("#go-hint")).to_have_text("Add a picture first.")
    expect(row(page, "cat.png")).to_have_attribute("data-kind", "done")


def test_a_file_that_is_no_picture_is_told_beside_it(
    opened: Open, photographs: dict[str, Path], tmp_path: Path
) -> None:
    page = opened()
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(photographs["coffee.jpg"].read_bytes()[:300])
    add(page, broken, photographs["cat.png"])
    page.locator("#restore").click()
    done = page.locator(".row[data-kind=done]")  # for a moment what is sent stands beside its job
    expect(done).to_have_count(1, timeout=SOON)
    expect(done.locator(".name")).to_have_text("cat.png")
    failed = row(page, "broken.jpg")
    expect(failed).to_have_attribute("data-kind", "failed", timeout=SOON)
    expect(failed.locator(".error")).not_to_be_empty()


def test_the_viewer_slides_zooms_pans_and_flips(opened: Open, photographs: dict[str, Path]) -> None:
    page = opened()
    restore(page, photographs["coffee.jpg"])
    page.locator(".thumb").click()
    divider, panes = page.locator("#split"), page.locator("#panes")
    expect(divider).to_be_focused()
    expect(divider).to_have_attribute("aria-valuenow", "50")
    page.keyboard.press("ArrowRight")
    expect(divider).to_have_attribute("aria-valuenow", "52")
    box = panes.bounding_box()
    assert box is not None
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 0.52 * box["width"], middle)
    page.mouse.down()
    page.mouse.move(box["x"] + 0.25 * box["width"], middle, steps=4)
    page.mouse.up()
    expect(divider).to_have_attribute("aria-valuenow", "25")
    page.keyboard.press("Space")
    expect(divider).to_have_attribute("aria-valuenow", "100")
    page.keyboard.press("Space")
    expect(divider).to_have_attribute("aria-valuenow", "0")

    scale = page.locator("#viewer-scale")
    page.keyboard.press("1")
    expect(scale).to_have_text("100 %")
    page.mouse.move(box["x"] + 40, middle)
    for _ in range(8):
        page.mouse.wheel(0, -300)
    expect(scale).not_to_have_text("100 %")
    transforms = "[...document.querySelectorAll('.pane img')].map((image) => image.style.transform)"
    assert len(set(page.evaluate(transforms))) == 1
    page.locator(".pane.left").focus()
    with changing(page, transforms):
        page.keyboard.press("ArrowRight")
    page.locator("#viewer [data-mode=side]").first.click()
    assert len(set(page.evaluate(transforms))) == 1
    left, right = page.locator(".pane.left").bounding_box(), page.locator(".pane.right").bounding_box()
    assert left is not None
    assert right is not None
    assert left["width"] == pytest.approx(right["width"], abs=1)
    assert left["x"] < right["x"]
    page.keyboard.press("0")
    page.keyboard.press("Escape")
    expect(page.locator("#viewer")).not_to_be_visible()


def test_settings_are_compared_with_the_walk_and_the_uncertainty(
    opened: Open, photographs: dict[str, Path]
) -> None:
    page = opened()
    restore(page, photographs["coffee.jpg"])
    page.locator(".thumb").click()
    page.locator("#viewer-again").click()
    page.locator("#again [name=steps]").fill("4")
    page.locator("#again [name=samples]").fill("2")
    page.locator("#again [name=trajectory]").check()
    page.locator("#again button[type=submit]").click()
    expect(page.locator("#again-state")).to_contain_text("Done", timeout=SOON)
    expect(page.locator(".pane.left .tag")).to_have_text("Remove shadows, 1 step")
    expect(page.locator(".pane.right .tag")).to_have_text("Remove shadows, 4 steps, 2 samples")
    page.locator("#doubt input").check()
    expect(page.locator(".doubt")).to_be_visible()
    slider = page.locator("#walk input")
    expect(slider).to_have_value("4")
    slider.fill("1")
    expect(page.locator(".pane.right img")).to_have_attribute("src", re.compile(r"/steps/1$"))
    page.locator("#again [name=model]").select_option("dehazing")
    page.locator("#again button[type=submit]").click()
    expect(page.locator(".pane.right .tag")).to_contain_text("Clear haze", timeout=SOON)
    expect(page.locator("#viewer-left option")).to_have_count(4)


def test_a_quick_look_restores_a_part_and_then_the_whole(opened: Open, photographs: dict[str, Path]) -> None:
    page = opened()
    add(page, photographs["large.jpg"])
    page.get_by_role("button", name="Quick look: large.jpg").click()
    frame = page.locator("#pick .frame")
    frame.focus()
    with changing(page, "document.querySelector('#pick .frame').style.left"):
        page.keyboard.press("ArrowLeft")
    canvas = page.locator("#pick .canvas").bounding_box()
    assert canvas is not None
    page.mouse.click(canvas["x"] + 2, canvas["y"] + 2)
    page.locator("#pick-go").click()
    expect(page.locator("#viewer")).to_be_visible(timeout=SOON)
    page.keyboard.press("Escape")
    look = page.locator(".row[data-kind=done]")
    expect(look).to_contain_text("512 \u00d7 512")
    look.get_by_role("button", name="Restore the whole picture").click()
    expect(page.locator(".row", has_text="2048 \u00d7 2048")).to_have_attribute(
        "data-kind", "done", timeout=SOON
    )
    expect(page.locator(".row")).to_have_count(2)


def test_a_mask_is_painted_undone_erased_and_sent(opened: Open, photographs: dict[str, Path]) -> None:
    page = opened()
    choose(page, "Fill holes")
    add(page, photographs["cat.png"])
    expect(page.locator("#go-hint")).to_have_text("1 picture still needs a mask.")
    expect(page.locator("#restore")).to_be_disabled()
    page.get_by_role("button", name="Paint the mask: cat.png").click()
    stage = page.locator("#brush .stage").bounding_box()
    assert stage is not None
    x, y = stage["x"] + stage["width"] / 2, stage["y"] + stage["height"] / 2

    def stroke(by: float) -> None:
        page.mouse.move(x - 100, y + by)
        page.mouse.down()
        page.mouse.move(x + 100, y + by, steps=5)
        page.mouse.up()

    painted = """() => {
      const canvas = document.querySelector("#brush canvas");
      const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
      return pixels.filter((value, place) => place % 4 === 3 && value > 127).length;
    }"""
    stroke(0)
    one = page.evaluate(painted)
    stroke(80)
    two = page.evaluate(painted)
    assert 0 < one < two
    page.keyboard.press("Control+z")
    assert page.evaluate(painted) == one
    page.get_by_role("button", name="Redo").click()
    assert page.evaluate(painted) == two
    page.keyboard.press("e")
    stroke(80)
    assert page.evaluate(painted) == one
    page.get_by_role("button", name="Clear").click()
    assert page.evaluate(painted) == 0
    page.keyboard.press("Control+z")
    page.get_by_role("button", name="Use what I painted").click()
    page.evaluate(REMEMBER_FORM)
    page.locator("#restore").click()
    expect(row(page, "cat.png")).to_have_attribute("data-kind", "done", timeout=SOON)
    assert page.evaluate("window.sentForm")["mask"] == "mask.png"
    page.locator(".thumb").click()
    page.locator("#viewer-mask").click()
    expect(page.locator("#brush")).to_be_visible()
    page.keyboard.press("Escape")


def test_two_views_are_paired_by_name_and_need_each_other(opened: Open, photographs: dict[str, Path]) -> None:
    page = opened()
    choose(page, "Enlarge stereo 4\u00d7")
    add(page, photographs["scene_right.png"], photographs["scene_left.png"])
    expect(page.locator(".row .name")).to_have_text(["scene_left.png + scene_right.png"])
    add(page, photographs["cat.png"])
    expect(page.locator("#go-hint")).to_have_text("1 picture still needs its right view.")
    page.locator("#restore").click()
    expect(page.locator(".row[data-kind=done]")).to_contain_text("320 \u00d7 240", timeout=SOON)
    choose(page, "Remove shadows")
    expect(page.locator("#restore")).to_have_text("Restore 1 picture")


def test_what_a_model_takes_is_asked_for_and_wrong_numbers_are_not_sent(
    opened: Open, photographs: dict[str, Path]
) -> None:
    page = opened()
    choose(page, "Change the lens")
    expect(page.locator("#lens")).to_be_visible()
    add(page, photographs["cat.png"])
    page.locator("#lens-disparity").fill("-1")
    page.locator("#restore").click()
    expect(page.locator(".row[data-kind=ready]")).to_have_count(1)
    page.locator("#lens-disparity").fill("30")
    page.get_by_role("button", name="Mark what is in focus: cat.png").click()
    stage = page.locator("#brush .stage").bounding_box()
    assert stage is not None
    page.mouse.click(stage["x"] + stage["width"] / 2, stage["y"] + stage["height"] / 2)
    page.get_by_role("button", name="Use what I painted").click()
    expect(page.get_by_role("button", name="Focus is marked: cat.png")).to_be_visible()
    page.locator("#lens-target").select_option("Canon50mmf1.4BS")
    page.locator("#restore").click()
    expect(page.locator(".row[data-kind=done]")).to_have_count(1, timeout=SOON)
    choose(page, "Remove white noise")
    expect(page.locator("#lens")).to_be_hidden()
    page.locator("#sigma").fill("25")
    add(page, photographs["coffee.jpg"])
    page.locator("#restore").click()
    expect(page.locator(".row[data-kind=done]")).to_have_count(2, timeout=SOON)


def test_a_guide_and_a_texture_are_sent_to_models_that_take_them(
    opened: Open, photographs: dict[str, Path]
) -> None:
    page = opened()

    def with_guide(route: Route) -> None:
        models = route.fetch().json()
        for model in models:
            model["takes"] |= {"guide": True, "texture": True}
        route.fulfill(json=models)

    page.route("**/api/v1/models", with_guide)
    page.reload()
    expect(page.locator(".card")).to_have_count(11, timeout=SOON)
    add(page, photographs["cat.png"])
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Use a guide file: cat.png").click()
    chooser.value.set_files(photographs["coffee.jpg"])
    expect(page.get_by_role("button", name="Guide: coffee.jpg: cat.png")).to_be_visible()
    page.locator("#texture").fill("0.5")
    page.evaluate(REMEMBER_FORM)
    page.locator("#restore").click()
    expect(row(page, "cat.png")).to_have_attribute("data-kind", "failed", timeout=SOON)
    expect(row(page, "cat.png").locator(".error")).to_contain_text("guide")
    form = page.evaluate("window.sentForm")
    assert form["guide"] == "coffee.jpg"
    assert '"texture":0.5' in form["options"]


def test_the_list_survives_a_reload_and_the_language_is_remembered(
    opened: Open, photographs: dict[str, Path]
) -> None:
    page = opened()
    dropped(page, [photographs["coffee.jpg"]], "paste")
    page.locator("#restore").click()
    expect(page.locator(".row[data-kind=done]")).to_have_count(1, timeout=SOON)
    page.get_by_role("button", name="한국어").click()
    expect(page.locator("#restore")).to_have_text("복원하기")
    page.reload()
    expect(page.locator("html")).to_have_attribute("lang", "ko")
    expect(page.locator(".row[data-kind=done] .name")).to_have_text(["coffee.jpg"])
    page.get_by_role("button", name="보기: coffee.jpg").first.click()
    expect(page.locator(".pane.left .tag")).to_have_text("전")
    for image in page.locator("img").all():  # or the page asks for what is gone
        expect(image).to_have_js_property("complete", True)
    page.keyboard.press("Escape")
    page.get_by_role("button", name="지우기: coffee.jpg").click()
    expect(page.locator(".row")).to_have_count(0)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_in_korean_shows_all_without_scrolling_sideways(
    opened: Open, photographs: dict[str, Path], scheme: str
) -> None:
    phone = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
    page = opened(**phone, locale="ko-KR", color_scheme=scheme, reduced_motion="reduce")
    width = "[...document.querySelectorAll('html, dialog[open]')].map((node) => node.scrollWidth)"
    restore(page, photographs["coffee.jpg"])
    assert max(page.evaluate(width)) <= 360
    page.locator(".thumb").click()
    page.locator("#viewer-again").click()
    assert max(page.evaluate(width)) <= 360
    with changing(page, "document.querySelector('#viewer-scale').textContent"):
        pinch(page, ".pane.left")
    page.locator("#viewer .close").click()
    choose(page, "빈 곳 채우기")
    add(page, photographs["cat.png"])
    page.locator(".wanted").click()
    expect(page.locator("#brush")).to_be_visible()
    assert max(page.evaluate(width)) <= 360


def test_every_control_has_a_name_and_the_keyboard_alone_is_enough(
    opened: Open, photographs: dict[str, Path]
) -> None:
    page = opened()
    add(page, photographs["cat.png"])
    assert page.evaluate(NAMELESS) == []
    page.get_by_role("radio", name="Remove shadows").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("radio", name="Clear haze")).to_be_checked()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(page.locator("#restore")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#announcer")).to_contain_text("cat.png is done", timeout=SOON)
    page.get_by_role("button", name="Look: cat.png").press("Enter")
    expect(page.locator("#viewer")).to_be_visible()
    page.locator("#viewer-again").press("Enter")
    assert page.evaluate(NAMELESS) == []
    page.keyboard.press("Escape")
    choose(page, "Fill holes")
    add(page, photographs["cat.png"])
    page.locator(".wanted").press("Enter")
    expect(page.locator("#brush")).to_be_visible()
    assert page.evaluate(NAMELESS) == []
