"""Health of the node: rates, ages, latencies and the level of its diagnostics."""

from __future__ import annotations

import pytest
from builtin_interfaces.msg import Time
from diagnostic_msgs.msg import DiagnosticStatus
from std_msgs.msg import Header

from spectradino_ros.health import Health
from tests.ros.doubles import Seconds

HEADER = Header(stamp=Time(sec=7, nanosec=8), frame_id="rgb_optical")


def test_health_counts_rates_ages_and_latencies():
    clock = Seconds()
    health = Health(clock)
    for _ in range(21):
        health.arrived("rgb")
        health.count_result(40.0, True)
        clock.now += 0.1
    health.count_result(140.0, False)
    health.dropped("overload", 3)
    assert health.rate("rgb") == pytest.approx(10.0)
    assert health.rate("ir") == 0.0
    assert health.seconds_silent("rgb") == pytest.approx(0.1)
    assert health.seconds_silent("ir") == pytest.approx(2.1)
    array = health.diagnostics(
        "node: detector", "/node", "active", {"model": "blob"}, {"rgb": "/rgb", "ir": "/ir"}, health.drops(), 1.0
    )
    (status,) = array.status
    values = {item.key: item.value for item in status.values}
    assert (status.level, status.message) == (DiagnosticStatus.WARN, "no message on /ir")
    assert values["/rgb rate [Hz]"] == "10.00"
    assert values["/ir age [s]"] == "never"
    assert values["latency p50 [ms]"] == "40.0"
    assert values["deadline missed"] == "1"
    assert values["dropped: overload"] == "3"
    health.reset()
    assert health.drops() == {}
    assert health.total("rgb") == 0


def test_the_rate_of_a_camera_that_died_falls_to_zero():
    clock = Seconds()
    health = Health(clock)
    for _ in range(90):
        health.arrived("ir")
        clock.now += 1 / 9
    rates = [health.rate("ir")]
    for _ in range(6):
        clock.now += 1.1
        rates.append(health.rate("ir"))
    assert rates[0] == pytest.approx(9.0)
    assert all(later <= earlier for earlier, later in zip(rates, rates[1:]))
    assert rates[1] < 8.0
    assert rates[-1] == 0.0


def test_the_rate_of_a_slow_camera_is_known_and_a_hiccup_at_the_start_hardly_changes_it():
    clock = Seconds()
    health = Health(clock)
    for _ in range(3):
        health.arrived("ir")
        clock.now += 12.0
    assert health.rate("ir") == pytest.approx(1 / 12)
    clock.now += 20.0
    assert health.rate("ir") == 0.0
    for _ in range(11):
        health.arrived("rgb")
        clock.now += 0.1
    clock.now += 0.2
    assert health.rate("rgb") == pytest.approx(10 / 1.3)


def status_of(health: Health, problems=(), state: str = "active") -> tuple[bytes, str]:
    topics = {"rgb": "/rgb", "ir": "/ir"}
    (status,) = health.diagnostics("name", "/node", state, {}, topics, health.drops(), 5.0, problems).status
    return status.level, status.message


def test_invalid_infrared_pixels_are_reported_and_many_are_a_warning():
    clock = Seconds()
    health = Health(clock)

    def status():
        for _ in range(11):
            clock.now += 0.1
            health.arrived("rgb")
            health.arrived("ir")
            health.count_result(40.0, True)
        return health.diagnostics("n", "/n", "active", {}, {"rgb": "/rgb", "ir": "/ir"}, {}, 5.0).status[0]

    def reported(found) -> str:
        return {item.key: item.value for item in found.values}["ir invalid pixels [%]"]

    assert reported(status()) == "no frame yet"
    for _ in range(30):
        health.invalid_pixels(0.0125)
    found = status()
    assert (found.level, reported(found)) == (DiagnosticStatus.OK, "1.25")
    for _ in range(30):
        health.invalid_pixels(0.25)
    found = status()
    assert (found.level, reported(found)) == (DiagnosticStatus.WARN, "25.00")
    assert "25% of the infrared pixels" in found.message
    assert "ir_invalid_counts" in found.message
    health.reset()
    assert reported(status()) == "no frame yet"


def test_the_level_of_diagnostics_follows_what_is_wrong():
    clock = Seconds()
    health = Health(clock)
    ok, warn, error = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR

    def frames(answers: bool) -> None:
        for _ in range(11):
            clock.now += 0.1
            health.arrived("rgb")
            health.arrived("ir")
            if answers:
                health.count_result(20.0, True)

    assert status_of(health, state="inactive") == (ok, "inactive")
    frames(answers=False)
    assert status_of(health) == (warn, "no answer yet")
    health.dropped("registration")
    assert status_of(health) == (error, "dropped lately: registration"), "it is all that comes"
    frames(answers=True)
    assert status_of(health) == (warn, "dropped lately: registration")
    clock.now += 11.0
    frames(answers=True)
    health.dropped("overload", 5)
    assert status_of(health) == (ok, "10.0 answers/s"), "long ago, and dropping what is too much is what it is made for"
    text = "mode stale: rgb is silent; ir is silent"
    assert status_of(health, [(error, text)]) == (error, text)
    assert status_of(health, [(warn, "a"), (error, "b")]) == (error, "b; a")
    for _ in range(3):
        health.count_result(50.0, False)
    assert status_of(health) == (warn, "12% of the last answers missed the deadline")
    clock.now += 6.0
    assert status_of(health, [(error, "lost")])[1].startswith("lost; no message on /rgb, /ir")
