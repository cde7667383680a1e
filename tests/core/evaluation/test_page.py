"""Report pages: complete, self-contained, escaped and deterministic."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from spectradino_core.evaluation.page import Page, markdown_table

NASTY = '<script>alert("x")</script> & \'quotes\' "too"'
VOID = {"meta", "img", "br"}


class Reader(HTMLParser):
    """Checks that tags are balanced; collects texts and attributes as a browser reads them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict]] = []
        self.texts: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def drawing() -> Figure:
    figure = Figure(figsize=(2, 1.5))
    figure.subplots().plot([0, 1], [0, 1], label="a line")
    return figure


def whole_page() -> Page:
    page = Page(f"title {NASTY}", f"lead {NASTY}")
    page.heading(NASTY)
    page.text(NASTY, soft=True)
    page.code(NASTY)
    page.table(["what", NASTY], [[NASTY, 0.25], ["n", None]], caption=NASTY, strong=[1])
    page.figure(drawing(), NASTY)
    with page.details(NASTY):
        page.image(np.full((30, 40, 3), (200, 10, 10), np.uint8), NASTY)
        page.image(np.zeros((30, 40), np.uint8), "grey")
    return page


def test_everything_is_escaped_and_every_tag_closed():
    reader = Reader(whole_page().html())
    assert "script" not in {tag for tag, _ in reader.seen}
    assert sum(NASTY in text for text in reader.texts) >= 9
    assert {"class", "alt", "src"} >= {key for tag, attrs in reader.seen if tag == "img" for key in attrs}


def test_nothing_is_loaded_from_elsewhere():
    text = whole_page().html()
    reader = Reader(text)
    assert {tag for tag, _ in reader.seen}.isdisjoint({"link", "iframe", "object", "embed", "base", "form"})
    sources = [attrs["src"] for _, attrs in reader.seen if "src" in attrs]
    assert len(sources) == 3
    assert all(source.startswith("data:image/") for source in sources)
    assert not any("href" in attrs for _, attrs in reader.seen)
    assert "url(" not in text
    assert "@import" not in text


def test_the_same_content_is_the_same_bytes(tmp_path):
    for name in ("a.html", "b.html"):
        whole_page().write(tmp_path / name)
    first = (tmp_path / "a.html").read_bytes()
    assert first == (tmp_path / "b.html").read_bytes()
    svg = base64.b64decode(re.search(rb"data:image/svg\+xml;base64,([^\"]+)", first).group(1))
    assert b"<dc:date>" not in svg
    assert list(tmp_path.glob(".*")) == []


@pytest.mark.parametrize("from_file", [False, True])
def test_images_keep_their_colours_and_are_reduced(from_file):
    page = Page("p")
    image = np.full((300, 600, 3), (200, 30, 10), np.uint8)
    file = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
    page.image(file if from_file else image, "red", longest_side=200)
    data = base64.b64decode(re.search(r"data:image/jpeg;base64,([^\"]+)", page.html()).group(1))
    shown = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert shown.shape == (100, 200, 3)
    assert shown[50, 100][::-1].tolist() == pytest.approx([200, 30, 10], abs=6)


def test_only_columns_of_figures_are_set_to_the_right():
    page = Page("p")
    page.table(["name", "a", "b"], [["7 cars", 1.25, "44.1 ± 0.3"], ["x", None, float("nan")]])
    text = page.html()
    assert re.findall(r"<th( class=n)?>", text) == ["", " class=n", " class=n"]
    assert re.findall(r"<td class=n>([^<]*)<", text) == ["1.2", "44.1 ± 0.3", "–", "–"]


def test_markdown_tables_have_the_same_content():
    table = markdown_table(["name", "a"], [["x|y", 1.25], ["z", None]], strong=[0])
    assert table == "| name | a |\n|---|---:|\n| **x\\|y** | **1.2** |\n| z | – |\n"


def test_what_does_not_fit_is_refused():
    page = Page("p")
    with pytest.raises(ValueError, match="row 1 has 1 cells, the header 2"):
        page.table(["a", "b"], [["1", "2"], ["1"]])
    with pytest.raises(ValueError, match="uint8"):
        page.image(np.zeros((4, 4, 3), np.float32), "floats")
    with pytest.raises(ValueError, match="level 2 to 4"):
        page.heading("x", level=1)
