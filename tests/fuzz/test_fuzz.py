"""The short campaign of continuous integration, and checks of the generators of odd messages."""

from __future__ import annotations

import random

import pytest
from builtin_interfaces.msg import Time

from spectradino_core.streams.decode import DecodeError, decode_infrared, decode_rgb
from tests.blob_model import make_blob_model
from tests.core.streams.unpacked import decode_compressed_infrared, decode_compressed_rgb
from tests.fuzz.campaign import MAX_GROWTH_MB, MAX_LINES, Campaign, Outcome, node_parameters
from tests.fuzz.odd_compressed import COMPRESSED_FAULTS, odd_compressed
from tests.fuzz.odd_images import CONTENT_FAULTS, odd_image
from tests.fuzz.odd_stamps import STAMP_FAULTS, odd_stamp
from tests.ros.harness import RELIABLE, Peer, running

GENERATORS = {"raw": (odd_image, CONTENT_FAULTS), "compressed": (odd_compressed, COMPRESSED_FAULTS)}
DECODERS = {
    ("raw", "rgb"): decode_rgb,
    ("raw", "ir"): decode_infrared,
    ("compressed", "rgb"): decode_compressed_rgb,
    ("compressed", "ir"): decode_compressed_infrared,
}


@pytest.mark.slow
@pytest.mark.parametrize("transport", list(GENERATORS))
def test_a_node_stands_odd_messages(tmp_path, transport):
    model = make_blob_model(tmp_path / "blob.onnx", input_size=(70, 56))
    peer = Peer("fuzz", camera_qos=RELIABLE)
    try:
        with running(**node_parameters(model, transport)) as node:
            outcome = Campaign(node, peer, transport, seed=2026).run(400)
            assert node.stop() == 0
    finally:
        peer.close()
    assert outcome.complaints() == [], "\n".join(outcome.lines)


@pytest.mark.parametrize("key", ["rgb", "ir"])
@pytest.mark.parametrize("transport", list(GENERATORS))
def test_odd_messages_are_decoded_or_refused_with_a_cause(transport, key):
    """The same messages without a node; many must be wrong, and some right."""
    make, faults = GENERATORS[transport]
    draw, refusals, seen, read = random.Random(1), [], set(), 0
    for _ in range(600):
        name, message = make(draw, key, 1_000_000_000)
        seen.update(name.split("+"))
        try:
            pixels = DECODERS[transport, key](message)
        except DecodeError as error:
            refusals.append(error)
        else:
            assert pixels.ndim == (3 if key == "rgb" else 2)
            read += 1
    assert seen == set(faults)
    assert 60 < read < 540
    assert len({error.cause for error in refusals}) >= 4
    # A log line is no place for what a stranger sends.
    assert max(len(str(error)) for error in refusals) < 600
    assert all(str(error).isprintable() for error in refusals)


def test_the_same_seed_draws_the_same_messages():
    for make, _ in GENERATORS.values():
        draws = [random.Random(7), random.Random(7)]
        for _ in range(50):
            (name, message), (other_name, other) = (make(draw, "ir", 5) for draw in draws)
            assert name == other_name
            assert message == other


def test_every_stamp_fault_is_drawn():
    draw = random.Random(0)
    drawn = [odd_stamp(draw, 10**18, Time(sec=10**9 - 1)) for _ in range(200)]
    assert {name for name, _ in drawn} == set(STAMP_FAULTS)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"received": -3}, "-3 messages"),
        ({"rss_mb": [90.0] * 5 + [90.0 + 2 * MAX_GROWTH_MB] * 5}, "grew"),
        ({"lines": ["[WARN] again"] * (MAX_LINES + 1)}, "lines"),
        ({"lines": ["Traceback (most recent call last):"]}, "traceback"),
    ],
)
def test_an_outcome_that_is_not_good_is_called_so(changes, word):
    good = Outcome(messages=100, rss_mb=[80.0, 90.0, 90.0, 91.0, 90.0])
    assert good.complaints() == []
    for name, value in changes.items():
        setattr(good, name, value)
    (complaint,) = good.complaints()
    assert word in complaint
