"""The examples, and what the README shows: run as a user runs them."""

import collections
import csv
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
PHOTOS = ROOT / "examples" / "photos.py"


def run(command, folder):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    return result


def table(folder):
    with (folder / "table.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_every_example_runs(example, tmp_path):
    pytest.importorskip("skimage")
    CHECKS[example.name](
        run([example, "--out", "here", "--workers", "2"], tmp_path), tmp_path / "here"
    )


def check_photos(result, out):
    image = pytest.importorskip("PIL.Image")
    rows = table(out)
    assert len(rows) == 20
    assert not any(row["error"] for row in rows)
    by_name = {row["photo"]: row for row in rows}
    assert (by_name["chelsea.png"]["width"], by_name["chelsea.png"]["height"]) == ("451", "300")
    assert float(by_name["camera.png"]["colour"]) == 0 < float(by_name["coffee.png"]["colour"])

    with image.open(out / "sheet.jpg") as sheet:
        assert sheet.size == (2 * 6 * 128, 10 * (128 + 18))
        sheet.load()
    ET.parse(out / "pipeline.svg")

    done, total = re.search(r"(\d+) of (\d+) tasks", result.stdout).groups()
    assert done == total
    assert int(total) >= 200
    assert sum(map(int, re.findall(r"^denoise +\w+ +(\d+) ", result.stdout, re.MULTILINE))) == 20
    assert "flowpar: done" in result.stderr


CHECKS = {"photos.py": check_photos}


def test_photos_of_your_own(tmp_path):
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("skimage")
    folder = tmp_path / "mine"
    (folder / "trip").mkdir(parents=True)
    exif = image.Exif()
    exif[0x0112] = 6  # taken with the camera on its side
    image.effect_noise((90, 30), 60).convert("RGB").save(folder / "side.jpg", exif=exif)
    image.effect_noise((40, 50), 60).save(folder / "trip" / "grey ö.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    (folder / "empty.png").touch()
    (folder / "notes.txt").write_text("not a photograph")
    (folder / "sheet.PNG").write_bytes((folder / "trip" / "grey ö.png").read_bytes()[:-300])

    result = run([PHOTOS, folder], tmp_path)
    rows = {row["photo"]: row for row in table(tmp_path / "photos-out")}
    assert sorted(rows) == ["broken.jpg", "empty.png", "sheet.PNG", "side.jpg", "trip/grey ö.png"]
    assert (rows["side.jpg"]["width"], rows["side.jpg"]["height"]) == ("30", "90")
    assert "UnidentifiedImageError" in rows["broken.jpg"]["error"]
    for name in ("broken.jpg", "empty.png", "sheet.PNG"):
        assert f"not a readable picture: {name}\n" in result.stdout
    assert result.stdout.count("not a readable picture") == 3


@pytest.mark.slow
def test_photos_again(tmp_path):
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("skimage")
    folder = tmp_path / "mine"
    folder.mkdir()
    for number in range(3):
        noise = image.effect_noise((60, 40), 40 + number).convert("RGB")
        noise.save(folder / f"{number}.png")
    script = tmp_path / "photos.py"
    text = PHOTOS.read_text(encoding="utf-8")
    script.write_text(text, encoding="utf-8")

    def calls():
        """Return how often each function was called, on whatever pools."""
        summary = run([script, folder], tmp_path).stdout
        rows = re.findall(r"^(\w+) +(?:processes|inline|threads) +(\d+)", summary, re.MULTILINE)
        found = collections.Counter()
        for name, count in rows:
            found[name] += int(count)
        return found

    def flow(*arguments):
        return run(["-m", "flowpar", *arguments], tmp_path).stdout

    assert calls()["denoise"] == 3
    assert calls() == {}

    script.write_text("# a comment\n" + text, encoding="utf-8")
    assert calls() == {}

    script.write_text(text.replace("weight=0.2", "weight=0.3"), encoding="utf-8")
    assert "code of denoise changed" in flow("why", "photos.py", "denoise[1]", "--", "mine")
    assert calls() == {"denoise": 3, "contact_row": 3, "stack": 2, "save_sheet": 1}

    script.write_text(text, encoding="utf-8")
    (tmp_path / "photos-out" / "table.csv").write_text("spoilt")
    assert calls() == {"save_sheet": 1, "save_table": 1}
    assert len(table(tmp_path / "photos-out")) == 3

    image.effect_noise((60, 40), 99).convert("RGB").save(folder / "1.png")
    again = calls()
    assert again["load"] == again["denoise"] == 1
    assert again["stack"] == 2


def test_photos_of_an_empty_folder(tmp_path):
    pytest.importorskip("skimage")
    command = [sys.executable, str(PHOTOS), str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=env)
    assert result.returncode == 2
    assert "there are no photographs in" in result.stderr
    assert not (tmp_path / "photos-out").exists()


def blocks(text):
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("block", blocks((ROOT / "README.md").read_text(encoding="utf-8")))
def test_readme(block, tmp_path):
    (tmp_path / "one.md").write_text("to be or not to be\n" * 2)
    (tmp_path / "two.md").write_text("to\n")
    script = tmp_path / "script.py"
    script.write_text(block)
    result = run([script], tmp_path)
    assert result.stdout == "[('to', 5), ('be', 4), ('or', 2)]\n"
    ET.parse(tmp_path / "graph.svg")


def test_readme_commands():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^    (.+)$", text.split("## Try it")[1], flags=re.MULTILINE)
    assert [command.split()[-1] for command in commands] == ["examples/photos.py", "check"]
    assert all(command.startswith("python3 -m pip install") for command in commands)


def test_no_machine_of_ours_is_named():
    files = [ROOT / "README.md", ROOT / ".ci" / "run", ROOT / "pyproject.toml", *EXAMPLES]
    for file in files:
        assert not re.search(r"index-url|file://|localhost", file.read_text())


NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))

EXECUTE = """
import sys, nbclient, nbformat
book = nbformat.read(sys.argv[1], as_version=4)
nbclient.NotebookClient(book, timeout=100, kernel_name="python3").execute()
nbformat.write(book, sys.argv[2])
"""


@pytest.mark.slow
@pytest.mark.parametrize("book", NOTEBOOKS, ids=lambda path: path.name)
def test_every_notebook_runs_and_was_run(book, tmp_path):
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    run(["-c", EXECUTE, book, tmp_path / book.name], tmp_path)
    for path in (book, tmp_path / book.name):
        cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
        assert all(cell.outputs for cell in cells)
        assert not any(each.output_type == "error" for cell in cells for each in cell.outputs)
        pictures = [
            each
            for cell in cells
            for each in cell.outputs
            if "image/svg+xml" in each.get("data", {})
        ]
        assert len(pictures) == 2
        assert "/tmp" not in path.read_text() or path != book
