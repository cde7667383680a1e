"""Untrusted model files: no other file is read, and descriptions are bounded."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from spectradino_core.runtime import onnx_file
from spectradino_core.runtime.bundle import METADATA_KEY, BundleError
from spectradino_core.runtime.engines import open_engine
from spectradino_core.runtime.onnx_engine import OnnxEngine
from spectradino_core.runtime.onnx_file import check_onnx_file
from tests.blob_model import make_blob_model
from tests.examples import examples

ROOT = Path(__file__).resolve().parents[3]
SIZE = (112, 84)


@pytest.fixture(scope="module")
def blob(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_blob_model(tmp_path_factory.mktemp("blob") / "blob.onnx", SIZE)


def external(location: str, mark: bool = True) -> TensorProto:
    """Create a tensor whose data are in another file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4])
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    if mark:
        tensor.data_location = TensorProto.EXTERNAL
    return tensor


def branch(tensor: TensorProto) -> onnx.GraphProto:
    node = helper.make_node("Constant", [], ["c"], value=tensor)
    return helper.make_graph([node], "branch", [], [helper.make_tensor_value_info("c", 1, [4])])


def hide(model: onnx.ModelProto, where: str, tensor: TensorProto) -> None:
    """Put a tensor into one of the places where ONNX has some."""
    graph = model.graph
    if where == "initialiser":
        graph.initializer.append(tensor)
    elif where == "constant":
        graph.node.append(helper.make_node("Constant", [], ["hidden"], value=tensor))
    elif where == "list of an attribute":
        node = helper.make_node("Identity", ["rgb"], ["hidden"])
        node.attribute.append(helper.make_attribute("many", [tensor]))
        graph.node.append(node)
    elif where == "branch":
        branches = {"then_branch": branch(tensor), "else_branch": branch(tensor)}
        graph.node.append(helper.make_node("If", ["cond"], ["hidden"], **branches))
    elif where == "sparse":
        sparse = onnx.SparseTensorProto(values=tensor, dims=[9])
        graph.sparse_initializer.append(sparse)
    elif where == "indices of sparse":
        graph.sparse_initializer.append(onnx.SparseTensorProto(values=TensorProto(), indices=tensor, dims=[9]))
    elif where == "function":
        node = helper.make_node("Constant", [], ["y"], value=tensor)
        opset = [helper.make_opsetid("", 17)]
        model.functions.append(helper.make_function("own", "f", [], ["y"], [node], opset))
    elif where == "training":
        model.training_info.add().initialization.initializer.append(tensor)


PLACES = (
    "initialiser", "constant", "list of an attribute", "branch", "sparse", "indices of sparse", "function", "training",
)  # fmt: skip


@pytest.mark.parametrize("where", PLACES)
def test_external_data_is_refused_wherever_it_hides(blob: Path, tmp_path: Path, where: str) -> None:
    model = onnx.load(blob)
    hide(model, where, external("weights.bin"))
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match=r"model.onnx has weights in another file \(ONNX external data\)"):
        check_onnx_file(path)


@pytest.mark.parametrize("location", ["inside", "outside", "absolute"])
def test_onnx_runtime_would_have_read_it(tmp_path: Path, location: str) -> None:
    """Reason for the check: a session on such a file returns the other file's bytes."""
    import onnxruntime as ort

    folder = tmp_path / "model"
    folder.mkdir()
    place = folder / "w.bin" if location == "inside" else tmp_path / "secret.bin"
    place.write_bytes(np.arange(4, dtype=np.float32).tobytes())
    name = {"inside": "w.bin", "outside": "../secret.bin", "absolute": str(place)}[location]
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", 1, [4])],
        [helper.make_tensor_value_info("y", 1, [4])],
        [external(name)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    try:
        read = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": np.zeros(4, "f4")})
    except Exception:  # later versions refuse some of these themselves
        read = None
    assert read is None or read[0].tolist() == [0, 1, 2, 3]
    for use in (OnnxEngine, open_engine, check_onnx_file):
        with pytest.raises(BundleError, match="has weights in another file"):
            use(path)


def test_external_data_without_its_mark_and_a_mark_without_data(blob: Path, tmp_path: Path) -> None:
    marked = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for tensor in (external("w.bin", mark=False), marked):
        model = onnx.load(blob)
        model.graph.initializer.append(tensor)
        (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(BundleError, match="has weights in another file"):
            check_onnx_file(tmp_path / "m.onnx")


def test_a_compiled_engine_is_refused(blob: Path, tmp_path: Path) -> None:
    model = onnx.load(blob)
    node = helper.make_node(
        "EPContext", [], ["e"], domain="com.microsoft", ep_cache_context="../x.engine", embed_mode=0
    )
    model.graph.node.append(node)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(BundleError, match=r"m.onnx contains an engine compiled for one device \(EPContext\)"):
        check_onnx_file(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty"),
        (b"\x89PNG not a model" * 9, "not a readable ONNX model"),
        (b"\x3a\xff\xff\xff\xff\x7f", "not a readable ONNX model"),  # a graph longer than 32 bits can say
        (b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "not a readable ONNX model"),
        (b"\xba\x80\x80\x80\x70\x00", "not a readable ONNX model"),  # a tag above 32 bits, a graph's if cut to them
        (b"\x3b\x3c", "unknown wire type"),  # groups, which ONNX has none of
        (b"\x08\x07" * 2_001, "more than 2000 fields"),
    ],
)
def test_bytes_that_are_no_model(tmp_path: Path, monkeypatch, data: bytes, said: str) -> None:
    monkeypatch.setattr(onnx_file, "_MAX_FIELDS", 2_000)  # of 2,000,000, through which a second passes
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(BundleError, match=said):
        open_engine(path)


def test_graphs_in_graphs_have_an_end(tmp_path: Path) -> None:
    data = b""
    for _ in range(200):  # graph, node, attribute, graph, ...
        for tag in (0x32, 0x2A, 0x0A):
            size, length = b"", len(data)
            while length > 127:
                size, length = size + bytes([length & 127 | 128]), length >> 7
            data = bytes([tag]) + size + bytes([length]) + data
    size, length = b"", len(data)
    while length > 127:
        size, length = size + bytes([length & 127 | 128]), length >> 7
    (tmp_path / "m.onnx").write_bytes(b"\x3a" + size + bytes([length]) + data)
    with pytest.raises(BundleError, match="nested more than 32 levels deep"):
        check_onnx_file(tmp_path / "m.onnx")


@settings(max_examples=examples(60), deadline=None)
@given(st.data())
def test_damage_of_any_kind_is_a_bundle_error_or_harmless(blob: Path, tmp_path_factory, data) -> None:
    content = bytearray(blob.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(1, len(content))) :]
    path = tmp_path_factory.mktemp("damaged") / "m.onnx"
    path.write_bytes(content)
    with suppress(BundleError):
        check_onnx_file(path)


def test_our_models_pass() -> None:
    for path in sorted((ROOT / "models").glob("*.onnx")):
        check_onnx_file(path)


# ------------------------------------------------------------------------------------------------------------ metadata


def said(blob: Path, path: Path, text: str | None = None, **changes: object) -> Path:
    """Create the blob model with another description: all of it, or some fields."""
    model = onnx.load(blob)
    for prop in model.metadata_props:
        if prop.key == METADATA_KEY:
            prop.value = text if text is not None else json.dumps(json.loads(prop.value) | changes)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"box_classes": ["c"] * 6000}, "6000 detection classes, at most 5000"),
        ({"box_classes": ["c"] * 1_000_000}, "its description has .* characters, at most 1048576"),
        ({"max_detections": 10**12}, "max_detections must be .* at most 10000, got 1000000000000"),
        ({"max_detections": True}, "max_detections must be"),
        ({"box_classes": ["\x1b]0;owned\x07", "b"]}, r"class name '\\x1b\]0;owned\\x07' has control characters"),
        ({"box_classes": ["a\nERROR forged line", "b"]}, r"class name 'a\\nERROR forged line'"),
        ({"mask_classes": ["a", "b", "\u202egnp"]}, r"class name '\\u202egnp'"),
        ({"box_classes": ["a" * 201, "b"]}, "is too long"),
        ({"name": "\x1b[2J"}, r"name '\\x1b\[2J' has control characters or is too long"),
        ({"name": 7}, "name '7' has control characters or is too long"),
        ({"variant": "x" * 10_000}, "variant '.*' has control characters or is too long"),
        ({"bands": ["rgb", "\x1b[2J"]}, r"\\x1b\[2J"),
        ({"thermal": {"kind": "\x1b[2J"}}, r"\\x1b\[2J"),
        ({"\x1b[2J": 1}, r"\\x1b\[2J"),
        ({"format": "\x1b[2J"}, r"format \\x1b\[2J, this software"),
        ({"inputs": "\x1b[2J"}, r"\\x1b\[2J"),
        ({"input_size": [14 * 10**9, 14]}, "is not a multiple of 14 up to 16384"),
        ({"palette": [[0, 0, 10**9]] * 3}, "a palette colour lies outside 0..255"),
        ({"strides": [1.0] * 1000}, "strides must be up to 16 numbers"),
        ({"provenance": [1]}, "provenance and parity must be tables"),
        ({"score_threshold": "\x1b[2J"}, "its description is damaged"),
    ],
)
def test_a_description_beyond_use_is_refused(blob: Path, tmp_path: Path, changes: dict, words: str) -> None:
    with pytest.raises(BundleError, match=words) as caught:
        open_engine(said(blob, tmp_path / "m.onnx", **changes))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("text", ["[" * 100_000, '{"format": ' + "9" * 9999 + "}", "null", '{"a": NaN}', "\x1b[2J"])
def test_a_description_that_is_no_json(blob: Path, tmp_path: Path, text: str) -> None:
    with pytest.raises(BundleError, match="its description is damaged; export the model again"):
        open_engine(said(blob, tmp_path / "m.onnx", text))


def test_onnx_runtime_writes_nothing_of_a_file_to_the_terminal(tmp_path: Path, capfd, caplog) -> None:
    """Only the exception, made printable, quotes names of nodes."""
    node = helper.make_node("NoSuchOperator", ["x"], ["y"], name="\x1b[2J\x1b]0;owned\x07")
    values = [helper.make_tensor_value_info(name, 1, [4]) for name in "xy"]
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    path = tmp_path / "m.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())
    with caplog.at_level(logging.INFO), pytest.raises(BundleError, match="not a readable ONNX model") as caught:
        open_engine(path)
    assert str(caught.value).isprintable()
    assert "\x1b" not in "".join(capfd.readouterr()) + caplog.text
