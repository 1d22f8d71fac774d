"""Photographs to a contact sheet and a table, all in parallel.

    python examples/photos.py                 the photographs that come with scikit-image
    python examples/photos.py ~/Pictures      your own

Every photograph is loaded and made small; five filters run on it side by side. Its pictures become
a row of the contact sheet, its figures a row of the table, and rows are merged in pairs, so that
merging is parallel too. The results are in photos-out/: sheet.jpg, table.csv, and pipeline.svg,
which shows all of this.

A file that is no readable picture stops nothing: it has a grey row on the sheet, an error in the
table, and is named at the end.

Run it again, and nothing is computed: results are kept in .flowpar/. Change a filter, and only what
depends on it runs; "flowpar plan examples/photos.py" says beforehand what would, and "flowpar why
examples/photos.py" why. Change or delete a photograph, or sheet.jpg, and it is made anew.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import skimage
from PIL import Image, ImageDraw, ImageOps
from skimage import color, exposure, filters, restoration, segmentation

import flowpar
from flowpar import delayed

SMALL = 400  # pixels of the longer side that the filters see
CELL, CAPTION = 128, 18  # pixels of a picture on the sheet, and of the line above it
COLUMNS = ["photo", "width", "height", "brightness", "contrast", "sharpness", "colour", "error"]
SUFFIXES = {".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif"}
# scikit-image also brings drawings and test charts; these are its photographs.
PHOTOGRAPHS = """astronaut.png brick.png camera.png cell.png chelsea.png clock_motion.png coffee.png
    coins.png grass.png gravel.png hubble_deep_field.jpg ihc.png microaneurysms.png moon.png
    motorcycle_left.png motorcycle_right.png page.png retina.jpg rocket.jpg text.png"""

# What follows are ordinary functions. @delayed means that a call does not run, but becomes a task:
# flowpar runs it when all that it needs is there, in a thread or in a process of its own.


@delayed
def load(file):
    """Return a photograph, upright, as an array; or the reason why it cannot be read."""
    try:
        return np.asarray(ImageOps.exif_transpose(Image.open(file)).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return f"{type(error).__name__}: {error}"


@delayed
def shrink(photo):
    """Return the photograph with sides of at most SMALL pixels, and values from 0 to 1."""
    if isinstance(photo, str):
        return np.full((SMALL, SMALL, 3), 0.8)
    image = Image.fromarray(photo)
    image.thumbnail((SMALL, SMALL))
    return np.asarray(image) / 255


@delayed
def edges(image):
    return color.gray2rgb(filters.sobel(color.rgb2gray(image)) * 4)


@delayed
def denoise(image):
    return restoration.denoise_tv_chambolle(image, weight=0.2, channel_axis=-1)


@delayed
def equalize(image):
    return exposure.equalize_adapthist(image)


@delayed
def superpixels(image):
    return color.label2rgb(segmentation.slic(image, 150, start_label=1), image, kind="avg")


@delayed
def sharpen(image):
    # 2, not -1: scikit-image 0.26 takes -1 for the first axis here.
    return filters.unsharp_mask(image, radius=4, amount=2, channel_axis=2)


FILTERS = [edges, denoise, equalize, superpixels, sharpen]


@delayed
def contact_row(name, images):
    """Return the images side by side, with the name above them."""
    row = Image.new("RGB", (CELL * len(images), CELL + CAPTION), "white")
    ImageDraw.Draw(row).text((4, 3), name.encode("ascii", "replace").decode(), fill="black")
    for number, pixels in enumerate(images):
        image = Image.fromarray((np.clip(pixels, 0, 1) * 255).astype(np.uint8))
        row.paste(ImageOps.fit(image, (CELL - 2, CELL - 2)), (CELL * number + 1, CAPTION))
    return np.asarray(row)


@delayed
def measure(name, photo):
    """Return a table of one row."""
    if isinstance(photo, str):
        return [{"photo": name, "error": photo}]
    grey = color.rgb2gray(photo)
    figures = {
        "brightness": grey.mean(),
        "contrast": grey.std(),
        "sharpness": filters.laplace(grey).std(),
        "colour": color.rgb2hsv(photo)[..., 1].mean(),
    }
    size = {"width": photo.shape[1], "height": photo.shape[0]}
    return [{"photo": name, **size, **{key: f"{value:.4f}" for key, value in figures.items()}}]


@delayed
def save_sheet(strip, path):
    """Cut the strip of all rows into columns, so that the sheet is about square, and save it."""
    height, width = strip.shape[:2]
    count = height // (CELL + CAPTION)
    columns = max(1, round((height / width) ** 0.5))
    missing = -count % columns * (CELL + CAPTION)
    strip = np.pad(strip, ((0, missing), (0, 0), (0, 0)), constant_values=255)
    Image.fromarray(np.hstack(np.split(strip, columns))).save(path, quality=90)
    return flowpar.File(path)  # its content counts: without it, this runs again


@delayed
def save_table(rows, path):
    """Save the table, and return the names of what could not be read."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return flowpar.File(path), [row["photo"] for row in rows if "error" in row]


def stack(upper, lower):
    return np.vstack([upper, lower])


def join(first, second):
    return first + second


def pipeline(folder, names, out):
    """Build the graph. Nothing is read or computed here: that takes a millisecond or two."""
    contact_rows, figures = [], []
    for name in names:
        photo = load(flowpar.File(folder / name))  # its content is the argument, not its name
        image = shrink(photo)
        images = [image, *(function(image) for function in FILTERS)]
        contact_rows.append(contact_row(name, images))
        figures.append(measure(name, photo))
    sheet = save_sheet(flowpar.reduce(stack, contact_rows), out / "sheet.jpg")
    return sheet, save_table(flowpar.reduce(join, figures), out / "table.csv")


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("folder", nargs="?", type=Path, help="photographs of your own")
parser.add_argument("--out", type=Path, default=Path("photos-out"), help="where the results go")
parser.add_argument("--workers", type=int, help="processes and threads; all CPUs if not given")
options = parser.parse_args()

folder, names = Path(skimage.__file__).parent / "data", PHOTOGRAPHS.split()
if options.folder:
    folder = options.folder
    files = [file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES]
    names = sorted(str(file.relative_to(folder)) for file in files)
    if not names:
        parser.error(f"there are no photographs in {folder}")
options.out.mkdir(parents=True, exist_ok=True)

sheet, table = pipeline(folder, names, options.out)
flowpar.visualize(sheet, table, filename=options.out / "pipeline.svg")
run = flowpar.run(sheet, table, workers=options.workers, progress=True, cache=".flowpar")
print(run.summary())  # what ran where, how often and how long
for name in run.values[1][1]:
    print(f"not a readable picture: {name}")
print(f"see {options.out}/: sheet.jpg, table.csv, pipeline.svg")
