"""`spectradino data list` and `data check` end to end."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from spectradino_core.cli import main
from spectradino_core.datasets import BENCHMARKS
from spectradino_core.drawing import BOX_COLOURS
from tests.core.datasets.miniatures import MINIATURES, voc_xml, write_image


def made(name: str, root: Path) -> Path:
    MINIATURES[name].write(root)
    return root


@pytest.mark.parametrize("name", sorted(MINIATURES))
def test_check_of_usable_set_exits_0(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, sheet = made(name, tmp_path / "set"), tmp_path / "sheets" / "s.png"
    assert main(["data", "check", "--dataset", name, "--data", str(root), "--out", str(sheet)]) == 0
    out = capsys.readouterr().out
    for split, names in MINIATURES[name].pairs.items():
        assert f"\n{split}: {len(names)} pair{'s' if len(names) > 1 else ''}\n" in out.replace(" (", "\n")
    assert out.splitlines()[-1] in ("complete", "usable; see the remarks above")
    assert "!" not in out
    image = cv2.imread(str(sheet))
    assert image.shape[1] >= 840
    assert image.std() > 10


def test_check_counts_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "--dataset", "flir", "--data", str(made("flir", tmp_path))]) == 0
    out = capsys.readouterr().out
    assert "boxes: person 3, car 3; pairs without any: 0" in out
    assert "subsets: day 2, night 1" in out
    assert "1 objects of the class dog are skipped: it is not a class of the benchmark, such as FLIR_01059" in out
    assert "3 pairs are listed, 4128 published" in out
    assert "no bicycle in the pairs that were read" in out
    assert "32x24, infrared uint8: 3 pairs" in out
    assert main(["data", "check", "--dataset", "fmb", "--data", str(made("fmb", tmp_path / "fmb"))]) == 0
    assert "pixels: road 25 %, pole 25 %, unlabelled 50 %" in capsys.readouterr().out


def test_check_draws_boxes_in_place(tmp_path: Path) -> None:
    root, sheet = made("llvip", tmp_path / "set"), tmp_path / "s.png"
    assert main(["data", "check", "--dataset", "llvip", "--data", str(root), "--out", str(sheet), "--draw", "1"]) == 0
    image = cv2.cvtColor(cv2.imread(str(sheet)), cv2.COLOR_BGR2RGB)
    scale = 420 / 32
    row = 20 + round(12 * scale)  # vertical centre of the first box, below the caption
    for left in (0, 424):  # RGB, then IR
        edge = image[row, left + round(1 * scale) - 2 : left + round(1 * scale) + 3].astype(int)
        assert (np.abs(edge - BOX_COLOURS[0]).max(axis=1) < 3).any()


def test_check_names_problems_and_exits_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = made("mfnet", tmp_path)
    write_image(root / "labels/01606N.png", np.full((24, 32), 77, np.uint8))
    broken = root / "images/00932D.png"
    broken.write_bytes(broken.read_bytes()[:100])
    assert main(["data", "check", "--dataset", "mfnet", "--data", str(root)]) == 1
    output = capsys.readouterr()
    assert "01606N.png: holds 77, which the class table lacks" in output.out
    assert "00932D.png: the file is truncated" in output.out
    assert "not usable: val, test" in output.err
    assert main(["data", "check", "--dataset", "mfnet", "--data", str(root), "--split", "train"]) == 0


def test_check_finds_pairs_shared_by_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = made("mfnet", tmp_path)
    (root / "test.txt").write_text("01499D\n00001D\n")
    assert main(["data", "check", "--dataset", "mfnet", "--data", str(root)]) == 1
    assert "1 of its pairs are in train too, such as 00001D" in capsys.readouterr().out


def test_check_finds_boxes_that_do_not_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = made("flir", tmp_path)
    for path in (root / "Annotations").iterdir():
        path.write_text(voc_xml([("car", (300.0, 200.0, 400.0, 300.0)), ("car", (10.0, 10.0, 60.0, 60.0))]))
    assert main(["data", "check", "--dataset", "flir", "--data", str(root)]) == 1
    out = capsys.readouterr().out
    assert "3 boxes lie outside their image and are skipped, such as in FLIR_00002_PreviewData.xml" in out
    assert "3 boxes reach beyond their image and are clipped" in out
    assert "6 of 6 boxes lie mostly outside their images" in out


def test_check_finds_annotations_of_another_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = made("llvip", tmp_path)
    for path in (root / "Annotations").iterdir():
        path.write_text(voc_xml([("boat", (1, 2, 3, 4))]))
    assert main(["data", "check", "--dataset", "llvip", "--data", str(root)]) == 1
    assert "no box of its classes was found" in capsys.readouterr().out


def test_check_finds_swapped_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = made("llvip", tmp_path)
    (root / "infrared").rename(root / "x")
    (root / "visible").rename(root / "infrared")
    (root / "x").rename(root / "visible")
    assert main(["data", "check", "--dataset", "llvip", "--data", str(root)]) == 1
    out = capsys.readouterr().out
    assert "infrared images are in colour, such as" in out
    assert "are the two folders swapped?" in out


def test_check_of_incomplete_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = made("llvip", tmp_path)
    (root / "infrared/test/190002.jpg").unlink()
    assert main(["data", "check", "--dataset", "llvip", "--data", str(root)]) == 1
    out = capsys.readouterr().out
    assert "1 of 2 pairs lack a file, such as infrared/test/190002; it seems only partly extracted" in out


def test_check_reads_a_subset_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = made("flir", tmp_path)
    assert main(["data", "check", "--dataset", "flir", "--data", str(root), "--split", "train", "--limit", "2"]) == 0
    assert "only 2 of its 3 pairs were read" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dataset", "kaist"], "unknown data set 'kaist': choose one of flir"),
        (["--dataset", "flir"], "flir needs --data, the folder it was extracted to. Looked for: JPEGImages/"),
        (["--dataset", "flir", "--data", ".", "--split", "test"], "flir has no split 'test': choose one of train, val"),
    ],
)
def test_errors_are_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", *words]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_check_of_wrong_root_reports_expected_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "--dataset", "mcubes", "--data", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "Looked for: polL_color/<name>.png" in out
    assert "Get it: multimodal_dataset.zip" in out
    assert out.count("Looked for") == 1
    assert out.count("it holds none of polL_color, NIR_warped, NIR_warped_mask, GT, list_folder/") == 3


def test_check_refuses_a_sheet_that_is_not_an_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = made("fmb", tmp_path / "set")
    assert main(["data", "check", "--dataset", "fmb", "--data", str(root), "--out", str(tmp_path / "s.txt")]) == 1
    assert "s.txt: give a name that ends in .png or .jpg" in capsys.readouterr().err


def test_sheet_that_cannot_be_encoded_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = made("llvip", tmp_path / "set")
    monkeypatch.setattr(cv2, "imencode", lambda *_: (False, ()))  # as for a JPEG of more than 65500 rows
    words = ["data", "check", "--dataset", "llvip", "--data", str(root), "--out", str(tmp_path / "s.jpg")]
    assert main(words) != 0
    assert "draw fewer pairs" in capsys.readouterr().err
    assert not (tmp_path / "s.jpg").exists()


def test_list_shows_every_set_and_which_are_present(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made("flir", tmp_path / "FLIR" / "align")
    made("mcubes", tmp_path / "materials")
    assert main(["data", "list", "--data-root", str(tmp_path)]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert set(lines) == {"name", *BENCHMARKS}
    assert lines["flir"].endswith(f"{tmp_path / 'FLIR'} (2 of val)")
    assert lines["mcubes"].endswith(f"{tmp_path / 'materials'} (1 of test)")
    assert lines["llvip"].endswith(" -")
    assert lines["scenes"].endswith("rendered")
    assert "NIR" in lines["mcubes"]
    assert "segmentation" in lines["mcubes"]


def test_list_shows_all_details_of_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["data", "list", "--dataset", "rasmd", "--data-root", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "SWIR" in out
    assert "assumed: " in out
    assert "train (unknown)" in out
    assert out.endswith("found: no\n")
    assert main(["data", "list", "--data-root", str(tmp_path / "nowhere")]) == 1
    assert "no such folder" in capsys.readouterr().err
