"""Makes the pictures of our pages in docs/images, by chromium: ``python tests/support/screenshots.py``.

What is shown is a real run: of photos, of which some are known to a cache, and one cannot be sent.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
import time
from pathlib import Path

import flowpar
from flowpar import Dashboard, delayed

IMAGES = Path(__file__).parents[2] / "docs" / "images"
PHOTOS = [f"img_{number:04}.jpg" for number in range(118, 137)]
WIDTH = 1000
COLOURS = 96


@delayed(pool="threads")
def load(name):
    time.sleep(0.15 + 0.02 * (sum(name.encode()) % 7))
    return name


@delayed(pool="processes")
def shrink(photo):
    end = time.process_time() + 0.25 + 0.03 * (sum(photo.encode()) % 5)
    while time.process_time() < end:
        sum(range(1000))
    return photo


@delayed(pool="threads", pure=False)
def upload(photo):
    time.sleep(0.2 + 0.03 * (sum(photo.encode()) % 9))
    if photo == PHOTOS[6]:
        raise ConnectionError("507: no room left for " + photo)
    return "https://album.example/" + photo


@delayed
def contact_sheet(photos):
    return len(photos)


@delayed
def album(links):
    return list(links)


def pipeline(names):
    """Return what is computed of some photos."""
    small = [shrink(load(name)) for name in names]
    return [contact_sheet(small), album([upload(photo) for photo in small])]


def main():
    """Run it, and write both pictures."""
    from playwright.sync_api import sync_playwright

    sys.modules["__main__"].__file__ = "photos.py"  # as the pages call what runs
    folder = Path(tempfile.mkdtemp())
    flowpar.compute([shrink(load(name)) for name in PHOTOS[:5]], cache=folder / "cache", workers=2)
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        tab = chromium.new_page(viewport={"width": WIDTH, "height": 900})
        page = Dashboard(keep=True)
        tab.goto(page.url)
        future = flowpar.submit(
            pipeline(PHOTOS),
            cache=folder / "cache",
            workers=2,
            on_error="continue",
            observers=[page],
            report=folder / "run.html",
        )
        tab.locator("#failures details").wait_for(timeout=60_000)
        write(tab, IMAGES / "live-page.png", tab.locator("#graph"))
        future.exception(timeout=60)
        page.close()
        tab.goto(f"file://{folder}/run.html")
        tab.locator(".slick-row").first.wait_for()
        tab.wait_for_timeout(500)
        write(tab, IMAGES / "report.png", tab.locator("section", has_text="Functions").first)
        chromium.close()
    shutil.rmtree(folder)


def write(tab, file, last):
    """Write what a tab shows, down to an element, in few colours."""
    from PIL import Image

    box = last.bounding_box()
    clip = {"x": 0, "y": 0, "width": WIDTH, "height": box["y"] + box["height"] + 8}
    data = tab.screenshot(full_page=True, clip=clip)
    Image.open(io.BytesIO(data)).convert("RGB").quantize(COLOURS, dither=0).save(
        file, optimize=True
    )
    print(file.name, file.stat().st_size // 1000, "kB")


if __name__ == "__main__":
    main()
