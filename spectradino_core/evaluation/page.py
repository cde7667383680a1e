"""Self-contained HTML report page: no external resources, all text escaped, deterministic bytes.

    page = Page("Evaluation")
    page.table(["model", "mAP"], [["ours", 0.41]])
    with page.details("Worst examples"):
        page.image(image, "scene 3")
    page.write(folder / "report.html")

Letters: h x w an image.
"""

from __future__ import annotations

import base64
import html
import io
import math
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import cv2
import numpy as np

from spectradino_core.drawing import jpeg_of
from spectradino_core.files import write_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Cell = str | int | float | None

_NUMBER = re.compile(r"[-+−]?[\d.,]+( ?± ?[\d.,]+)?( ?%)?|[-–]|")
_JPEG_QUALITY = 82

# Blocks external resources and scripts even if an escape were missing.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --paper: #fff; --soft: #5c6370; --line: #d5d9e0; --band: #f3f5f8;
  --accent: #0b62c4; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e6ea; --paper: #16181c; --soft: #9aa2af; --line: #363b44;
  --band: #1f2228; --accent: #74b1ff; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
  max-width: 72rem; padding: 1.5rem; }
h1, h2, h3 { line-height: 1.2; margin: 1.8em 0 .5em; }
h1 { margin-top: 0; } h2 { border-bottom: 1px solid var(--line); }
p { max-width: 52rem; } .soft, figcaption, caption { color: var(--soft); }
.scroll { overflow-x: auto; margin: .8em 0; } table { border-collapse: collapse; }
caption { text-align: left; padding: .3em 0; } th, td { padding: .28em .7em; border-bottom: 1px solid var(--line);
  text-align: left; vertical-align: top; } th { background: var(--band); } td.n, th.n { text-align: right;
  font-variant-numeric: tabular-nums; white-space: nowrap; } td:first-child { white-space: nowrap; }
tr.strong td { font-weight: 600; }
figure { margin: 1em 0; } figure img { max-width: 100%; height: auto; }
figure { overflow-x: auto; } img.drawn { background: #fff; border-radius: 6px; }
@media (max-width: 40rem) { body { padding: .8rem; } figure img.drawn { max-width: none; width: 46rem; } }
pre, code { background: var(--band); border-radius: 4px; } code { padding: .1em .3em; } pre { padding: .7em; overflow-x:
  auto; } details { border: 1px solid var(--line); border-radius: 6px; margin: .8em 0; padding: .3em .9em; }
summary { cursor: pointer; font-weight: 600; color: var(--accent); }
""".strip()


class Page:
    """HTML page whose elements are appended in the order of the calls."""

    def __init__(self, title: str, intro: str = "") -> None:
        """Start with a title and a paragraph below it; plain text, like all text arguments here."""
        self.title = title
        self._parts = [f"<h1>{_escaped(title)}</h1>"]
        if intro:
            self.text(intro)

    def heading(self, text: str, level: int = 2) -> None:
        """Add a heading of level 2 to 4."""
        if not 2 <= level <= 4:
            raise ValueError(f"a heading must have level 2 to 4, not {level}")
        self._parts.append(f"<h{level}>{_escaped(text)}</h{level}>")

    def text(self, text: str, soft: bool = False) -> None:
        """Add a paragraph; `soft`: in the colour of notes."""
        self._parts.append(f"<p{' class=soft' if soft else ''}>{_escaped(text)}</p>")

    def code(self, text: str) -> None:
        """Add preformatted text, such as a command."""
        self._parts.append(f"<pre>{_escaped(text)}</pre>")

    def table(
        self, header: Sequence[str], rows: Sequence[Sequence[Cell]], caption: str = "", strong: Sequence[int] = ()
    ) -> None:
        """Add a table with numeric columns aligned to the right; `strong`: indices of rows in bold.

        Raises:
            ValueError: a row has more or fewer cells than the header.
        """
        texts, numeric = _texts(header, rows)
        marks = [" class=n" if n else "" for n in numeric]
        head = "".join(f"<th{mark}>{_escaped(text)}</th>" for mark, text in zip(marks, header, strict=True))
        body = "".join(
            f"<tr{' class=strong' if number in strong else ''}>"
            + "".join(f"<td{mark}>{_escaped(text)}</td>" for mark, text in zip(marks, row, strict=True))
            + "</tr>\n"
            for number, row in enumerate(texts)
        )
        title = f"<caption>{_escaped(caption)}</caption>" if caption else ""
        self._parts.append(
            f"<div class=scroll><table>{title}\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>"
        )

    def figure(self, figure: Figure, caption: str) -> None:
        """Add a matplotlib figure as vector graphics; the caption is also the alternative text."""
        import matplotlib

        buffer = io.BytesIO()
        # Otherwise ids, date and version would differ between runs.
        with matplotlib.rc_context({"svg.hashsalt": "spectradino", "svg.fonttype": "path"}):
            figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None, "Creator": None})
        # Embedded as an image, because inline drawings would share their ids.
        self._add_image(_data_uri("image/svg+xml", buffer.getvalue()), caption, drawn=True)

    def image(self, image: np.ndarray | bytes, caption: str, longest_side: int = 960) -> None:
        """Add an image, scaled down if a side is longer than `longest_side` pixels.

        It is uint8 [h, w, 3] in RGB order or [h, w], or the bytes of an image file.
        """
        if isinstance(image, bytes):
            decoded = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
            image = np.asarray(cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB))
        pixels: np.ndarray = image
        is_image = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
        if pixels.dtype != np.uint8 or not is_image or not pixels.size:
            raise ValueError(f"an image must be uint8 [h, w, 3] or [h, w], not {pixels.dtype} {tuple(pixels.shape)}")
        scale = longest_side / max(pixels.shape[:2])
        if scale < 1:
            pixels = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        self._add_image(_data_uri("image/jpeg", jpeg_of(pixels, _JPEG_QUALITY)), caption)

    @contextmanager
    def details(self, summary: str) -> Iterator[None]:
        """Put the elements added inside into a collapsible section."""
        self._parts.append(f"<details><summary>{_escaped(summary)}</summary>")
        yield
        self._parts.append("</details>")

    def html(self) -> str:
        """Return the complete document."""
        return (
            "<!DOCTYPE html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n"
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
            '<meta name=viewport content="width=device-width, initial-scale=1">\n'
            f"<title>{_escaped(self.title)}</title>\n<style>\n{_STYLE}\n</style>\n</head>\n<body>\n"
            + "\n".join(self._parts)
            + "\n</body>\n</html>\n"
        )

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the document atomically."""
        write_file(path, self.html())

    def _add_image(self, source: str, caption: str, drawn: bool = False) -> None:
        text = _escaped(caption)
        kind = " class=drawn" if drawn else ""
        self._parts.append(f'<figure><img{kind} alt="{text}" src="{source}"><figcaption>{text}</figcaption></figure>')


def cell_text(cell: Cell) -> str:
    """Format a cell: text and integers unchanged, floats with one decimal, None and nan as –."""
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return "–"
    return f"{cell:.1f}" if isinstance(cell, float) else str(cell)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[Cell]], strong: Sequence[int] = ()) -> str:
    """Return a table in Markdown, ending with a line break; `strong` rows are in bold.

    Raises:
        ValueError: a row has more or fewer cells than the header.
    """
    texts, numeric = _texts(header, rows)
    lines = ["| " + " | ".join(header) + " |", "|" + "|".join("---:" if n else "---" for n in numeric) + "|"]
    for number, row in enumerate(texts):
        cells = [text.replace("|", "\\|").replace("\n", " ") for text in row]
        cells = [f"**{text}**" if number in strong and text else text for text in cells]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _texts(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> tuple[list[list[str]], list[bool]]:
    """Return the texts of the cells, and which columns are numeric."""
    for number, row in enumerate(rows):
        if len(row) != len(header):
            raise ValueError(f"row {number} has {len(row)} cells, the header {len(header)}")
    texts = [[cell_text(cell) for cell in row] for row in rows]
    return texts, [bool(texts) and all(_NUMBER.fullmatch(row[i]) for row in texts) for i in range(len(header))]


def _escaped(text: str) -> str:
    return html.escape(text.encode("utf-8", "replace").decode(), quote=True)


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
