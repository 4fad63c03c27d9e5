"""Take the pictures of the page that docs/service.md shows: python examples/screenshots.py

Needs Chromium and the group `test` of pyproject.toml. The photographs come with scikit-image.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from demo import cast_shadow, pavement
from playwright.sync_api import Browser, Page, expect, sync_playwright
from skimage import data

import refusion
from refusion.imaging.arrays import from_array

IMAGES = Path(__file__).parents[1] / "docs" / "images"
MINUTE = 60_000


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Run a service on a folder, and give its address."""
    command = [sys.executable, "-m", "refusion", "serve", "--no-open", "--port", "0", "--data", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield re.findall(r"http://\S+", process.stdout.readline())[0]
        finally:
            process.terminate()


def photographs(folder: Path) -> list[Path]:
    """Write three photographs with shadows, and one without."""
    pictures = {
        "pavement.jpg": cast_shadow(pavement()),
        "coffee in the shade.jpg": cast_shadow(data.coffee() / 255),
        "astronaut.png": cast_shadow(data.astronaut() / 255),
        "cat.png": data.chelsea() / 255,
    }
    for name, pixels in pictures.items():
        refusion.write(from_array(pixels.astype(np.float32)), folder / name)
    return [folder / name for name in pictures]


def opened(browser: Browser, address: str, **settings: object) -> Page:
    """Open the page, and wait for its cards."""
    page = browser.new_page(**settings)  # type: ignore[arg-type]
    page.goto(address)
    page.locator(".card").first.wait_for(timeout=MINUTE)
    return page


def shot(page: Page, name: str) -> None:
    """Store what is seen, once all is still."""
    page.mouse.move(2, 2)
    page.wait_for_timeout(1500)
    page.screenshot(path=IMAGES / name, type="jpeg", quality=82)


def main() -> None:
    with tempfile.TemporaryDirectory() as name, sync_playwright() as driver, serving(Path(name)) as address:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        paths = photographs(Path(name))
        page = opened(browser, address, locale="en-US", viewport={"width": 1280, "height": 800})
        page.set_input_files("#files", paths[:3])
        page.locator("#restore").click()
        expect(page.locator(".row[data-kind=done]")).to_have_count(3, timeout=MINUTE)
        page.set_input_files("#files", paths[3:])
        shot(page, "page.jpg")

        size = {"width": 1280, "height": 800}
        page = opened(browser, address, locale="en-US", viewport=size, color_scheme="dark")
        page.get_by_role("button", name="Look: pavement").click()
        shot(page, "page-viewer.jpg")

        phone = {"viewport": {"width": 360, "height": 740}, "is_mobile": True}
        page = opened(browser, address, locale="ko-KR", **phone)
        page.set_input_files("#files", paths[:3])
        shot(page, "page-phone.jpg")
        browser.close()


if __name__ == "__main__":
    main()
