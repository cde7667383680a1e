"""Find the camera topics of a bag: by name, then by image encoding."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from spectradino_core.bags import BagError
from spectradino_core.bags.storage import StoredTopic
from spectradino_core.streams.queues import Stream
from spectradino_core.streams.topics import IMAGES
from spectradino_core.text import counted

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
DETECTIONS, LABEL_INFO = "vision_msgs/msg/Detection2DArray", "vision_msgs/msg/LabelInfo"

_USUAL = {stream: f"/{IMAGES[stream.value]}" for stream in (Stream.RGB, Stream.IR)}
"""The node's topics before remapping."""
_WORDS = {
    Stream.RGB: ("rgb", "color", "colour", "visible", "vis", "eo", "webcam", "usb_cam", "bgr"),
    Stream.IR: (
        "ir", "infrared", "infra", "thermal", "therm", "lwir", "swir", "nir", "mwir", "flir", "boson", "lepton", "seek",
        "hikmicro", "optris", "tau2",
    ),
}  # fmt: skip
_NO_CAMERA = ("mask", "overlay", "segmentation", "depth", "disparity", "debug", "detections", "compresseddepth")
_TRANSPORTS = ("zstd", "compressed")
"""Last name of the compressed topics beside a raw topic, best first: zstd is lossless."""


def image_topics(topics: Mapping[str, StoredTopic]) -> list[StoredTopic]:
    """Return image topics that may be a camera's, by name, including those without messages."""
    return [
        topic
        for name, topic in sorted(topics.items())
        if topic.kind in (IMAGE, COMPRESSED) and not set(_words(name)) & set(_NO_CAMERA)
    ]


def choose_camera(
    stream: Stream,
    topics: Mapping[str, StoredTopic],
    wanted: str | None,
    encoding_of: Callable[[str], str],
    path: object,
    other: str = "",
) -> tuple[str, str]:
    """Choose the topic of one camera; return it with the reason for the choice.

    Args:
        stream: which camera.
        topics: topics of the bag `path`.
        wanted: topic to use; if it is missing, its compressed form is used (`<topic>/zstd`, `<topic>/compressed`).
            None: find it. "": no topic.
        encoding_of: encoding of a topic's first image, for topics whose names are not conclusive.
        other: the other camera's topic, which is excluded.

    Raises:
        BagError: the topic is missing, has no images, or is ambiguous; lists the image topics.
    """
    if wanted == "":
        return "", "none, as requested"
    if wanted is not None:
        return _given(stream, topics, wanted, path)
    candidates = [t for t in _without_siblings(image_topics(topics), topics) if t.count and t.name != other]
    option = f"--{stream.value}-topic"
    if not candidates:
        raise BagError(
            f"{path}: no topic for the {stream.value} camera; {_listed(image_topics(topics), topics)}. "
            f'Give {option} "" if there is none'
        )
    usual = [t for t in candidates if base_topic(t.name, topics) == _USUAL[stream]]
    if len(usual) == 1:
        return usual[0].name, "the node's own topic"
    named = [t for t in candidates if set(_words(t.name)) & set(_WORDS[stream])]
    named = [t for t in named if not set(_words(t.name)) & set(_WORDS[stream.other])] or named
    if len(named) == 1:
        return named[0].name, "by its name"
    if not named:
        left = [t for t in candidates if not set(_words(t.name)) & set(_WORDS[stream.other])]
        fitting = [t for t in left if _fits(stream, encoding_of(t.name))]
        if len(fitting) == 1:
            return fitting[0].name, f"by its images ({encoding_of(fitting[0].name)})"
        named = fitting
    if named:
        raise BagError(
            f"{path}: several topics may be the {stream.value} camera: "
            f"{', '.join(_summary(t, encoding_of(t.name)) for t in named)}. Give {option} "
            '(or "" if there is none)'
        )
    raise BagError(
        f"{path}: no topic looks like the {stream.value} camera; {_listed(candidates, topics)}. Give {option} "
        '(or "" if there is none)'
    )


def _given(stream: Stream, topics: Mapping[str, StoredTopic], wanted: str, path: object) -> tuple[str, str]:
    name = wanted if wanted.startswith("/") else f"/{wanted}"
    siblings = [topics.get(f"{name}/{transport}") for transport in _TRANSPORTS]
    found = topics.get(name) or next((t for t in siblings if t is not None and t.count), None)
    if found is None:
        raise BagError(f"{path}: there is no topic {name}; {_listed(image_topics(topics), topics)}")
    if found.kind not in (IMAGE, COMPRESSED):
        raise BagError(
            f"{path}: topic {found.name} is of type {found.kind}, not an image, so it cannot be the {stream.value} "
            f"camera; {_listed(image_topics(topics), topics)}"
        )
    if not found.count:
        raise BagError(f"{path}: topic {found.name} has no messages; {_listed(image_topics(topics), topics)}")
    return found.name, "as requested"


def base_topic(name: str, topics: Mapping[str, StoredTopic]) -> str:
    """Return the image topic of a compressed topic: `/cam/image` of `/cam/image/zstd`; other names unchanged."""
    base, _, transport = name.rpartition("/")
    if transport in _TRANSPORTS:
        return base
    is_packed = name in topics and topics[name].kind == COMPRESSED
    has_siblings = any(other in topics for other in (base, *(f"{base}/{t}" for t in _TRANSPORTS)))
    return base if is_packed and has_siblings else name


def _without_siblings(found: list[StoredTopic], topics: Mapping[str, StoredTopic]) -> list[StoredTopic]:
    """Keep the least lossy topic of a camera recorded in several forms, as by `ros2 bag record -a`."""

    def rank(topic: StoredTopic) -> int:
        transport = topic.name.rpartition("/")[2]
        if topic.kind == IMAGE:
            return 0
        return 1 + _TRANSPORTS.index(transport) if transport in _TRANSPORTS else 9

    best: dict[str, StoredTopic] = {}
    for topic in sorted(found, key=rank):
        if topic.count:
            best.setdefault(base_topic(topic.name, topics), topic)
    return [topic for topic in found if best.get(base_topic(topic.name, topics)) is topic]


def _fits(stream: Stream, encoding: str) -> bool:
    is_grey = encoding.startswith(("mono", "8UC1", "16UC1", "16SC1", "32FC1", "64FC1"))
    return is_grey if stream is Stream.IR else bool(encoding) and not is_grey


def _words(name: str) -> list[str]:
    parts = re.findall(r"[a-z]+(?:_cam)?[0-9]*", name.lower().replace("usb_cam", "usb_cam/"))
    return [word for part in parts for word in (part, part.rstrip("0123456789"))]


def _summary(topic: StoredTopic, encoding: str = "") -> str:
    kind = topic.kind.rpartition("/")[2]
    return f"{topic.name} ({', '.join(filter(None, (kind, encoding, counted(topic.count, 'message'))))})"


def _listed(images: list[StoredTopic], topics: Mapping[str, StoredTopic]) -> str:
    if images:
        return f"image topics are {', '.join(map(_summary, images))}"
    if topics:
        return f"it has no camera images, only {', '.join(_summary(t) for t in list(topics.values())[:12])}"
    return "it has no messages at all"
