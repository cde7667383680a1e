"""Foxglove layout and RViz config: their topics and fields are those of the running node."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from diagnostic_msgs.msg import DiagnosticArray

from spectradino_core.streams.topics import OUTPUTS
from spectradino_ros.shared_files import find_shared
from tests.ros.harness import running, wait_until

LAYOUT = json.loads(find_shared("config/foxglove_layout.json").read_text())
RVIZ = yaml.safe_load(find_shared("config/detector.rviz").read_text())


@pytest.fixture(scope="module")
def topics(blob_model, peer) -> dict[str, str]:
    """Types by topic of everything published or subscribed to while the node runs."""
    with running(model=blob_model, device="cpu"):
        wanted = {"/rgb/image_raw", "/ir/image_raw", "/detector_node/segmentation/mask", "/diagnostics"}
        wait_until(lambda: wanted <= dict(peer.node.get_topic_names_and_types()).keys(), "the node's topics")
        return {name: types[0] for name, types in peer.node.get_topic_names_and_types()}


def panels(layout: Any) -> Iterator[str]:
    """Return the ids of panels in a layout tree."""
    if isinstance(layout, str):
        yield layout
        return
    assert set(layout) == {"direction", "first", "second", "splitPercentage"}
    assert layout["direction"] in ("row", "column")
    assert 0 < layout["splitPercentage"] < 100
    yield from panels(layout["first"])
    yield from panels(layout["second"])


def test_the_layout_places_each_panel_once():
    assert set(LAYOUT) == {"configById", "globalVariables", "userNodes", "playbackConfig", "layout"}
    placed = list(panels(LAYOUT["layout"]))
    assert sorted(placed) == sorted(LAYOUT["configById"])
    assert all(re.fullmatch(r"\w+!\w+", panel) for panel in placed)


def test_the_layouts_images_are_topics_of_the_node(topics):
    images = [c["imageMode"]["imageTopic"] for id_, c in LAYOUT["configById"].items() if id_.startswith("Image!")]
    overlay = "/detector_node/segmentation/overlay/compressed"
    assert {overlay, "/detector_node/segmentation/mask", "/ir/image_raw"} < set(images)
    kinds = {topic: topics.get(topic) for topic in images}
    assert kinds.pop(overlay) == "sensor_msgs/msg/CompressedImage"
    assert set(kinds.values()) == {"sensor_msgs/msg/Image"}


def test_the_layout_draws_detections_on_the_rgb_image():
    (topic,) = LAYOUT["configById"]["Image!rgb"]["imageMode"]["annotations"]
    assert topic == OUTPUTS["annotations"].name.replace("~", "/detector_node")


def message_class(kind: str) -> type:
    """Return the class of a type name such as "std_msgs/msg/Header"."""
    package, _, name = kind.split("/")
    return getattr(importlib.import_module(f"{package}.msg"), name)


def message_paths() -> list[str]:
    return [path["value"] for config in LAYOUT["configById"].values() for path in config.get("paths", [])]


@pytest.mark.parametrize("path", message_paths())
def test_the_layouts_plots_follow_fields_that_there_are(topics, path):
    topic, _, fields = path.partition(".")
    kind = topics[topic]
    for field in re.sub(r"\{[^}]*\}", "", fields).split("."):
        fields_of = message_class(kind).get_fields_and_field_types()
        name, slice_, _ = field.partition("[:]")
        kind = fields_of[name]
        assert kind.startswith("sequence<") == bool(slice_)
        kind = re.sub(r"sequence<(.*)>", r"\1", kind).replace("/", "/msg/")
    assert kind in ("double", "uint8", "boolean", "string")


def test_the_layouts_latency_plot_has_every_step(topics):
    named = set(re.findall(r'name=="(\w+)"', " ".join(message_paths())))
    steps = {"decode", "pairing", "queue", "preprocess", "engine", "postprocess", "publish", "overlay"}
    assert named == steps


@pytest.mark.slow  # a node; the topics of the layouts are tested too
def test_the_layout_shows_the_nodes_diagnostics(peer, blob_model):
    panel = LAYOUT["configById"]["DiagnosticStatusPanel!detector"]
    arrays = peer.collect(DiagnosticArray, panel["topicToRender"])
    with running(model=blob_model, device="cpu"):
        wait_until(lambda: [s for a in list(arrays) for s in a.status if s.hardware_id == "/detector_node"], "a status")
    statuses = {(s.name, s.hardware_id) for a in arrays for s in a.status}
    assert (panel["selectedName"], panel["selectedHardwareId"]) in statuses


def test_rviz_shows_images_of_the_node(topics):
    displays = RVIZ["Visualization Manager"]["Displays"]
    assert {d["Class"] for d in displays} == {"rviz_default_plugins/Image"}
    assert [d["Topic"]["Value"] for d in displays if d["Enabled"]] == ["/detector_node/segmentation/overlay"]
    shown = {d["Topic"]["Value"]: d["Topic"] for d in displays}
    assert {"/rgb/image_raw", "/detector_node/segmentation/overlay", "/detector_node/segmentation/mask"} < set(shown)
    for topic, options in shown.items():
        assert topics[topic] == "sensor_msgs/msg/Image"
        assert options["Reliability Policy"] == ("Reliable" if "detector_node" in topic else "Best Effort")
