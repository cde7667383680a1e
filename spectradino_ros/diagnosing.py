"""Diagnostics beside the counters of `health`: model, mode, clocks, registration."""

from __future__ import annotations

from collections import Counter

from diagnostic_msgs.msg import DiagnosticStatus

from spectradino_core.runtime.perception_result import Mode
from spectradino_core.runtime.pipeline import Pipeline
from spectradino_core.runtime.recovery import Condition, RecoveringEngine
from spectradino_core.streams.registering import Registering
from spectradino_core.streams.settings import Settings
from spectradino_ros.health import Health
from spectradino_ros.intake import Intake

_FRAMES = 20
"""Frames without a result before it is reported: cameras triggered on demand send fewer."""
_CAUSES = 4


def model_facts(
    settings: Settings, pipeline: Pipeline, engine: RecoveringEngine, registering: Registering
) -> dict[str, str]:
    """Return the key values of a configured node."""
    residual = registering.residual_px
    return {
        "model": pipeline.info.name,
        "bands": " + ".join(band.key for band in pipeline.info.bands),
        "engine": engine.label,
        "device": engine.label.rpartition(" on ")[2],
        "engine condition": engine.condition.value,
        "engine rebuilds": str(engine.rebuilds),
        "thermal contract": pipeline.thermal.describe(),
        "registration": registering.describe(),
        "registration residual [px]": "not known" if residual is None else f"{residual:.2f}",
        "deadline [ms]": f"{settings.deadline_ms:g}" if settings.deadline_ms else "none",
    }


def intake_facts(intake: Intake) -> dict[str, str]:
    """Return the key values of an active node's streams."""
    feed, pairer = intake.feed, intake.feed.pairer
    median, learnt = pairer.median_offset_ms, feed.offsets.learnt
    learnt_text = str(learnt or "not yet") if feed.settings.learn_ir_time_offset else "off (learn_ir_time_offset)"
    by_images = "not yet"
    if (shown := feed.offsets.image_offset) is not None:
        by_images = f"{shown.offset_ns / 1e6:+.0f} (standard deviation {shown.spread_ns / 1e6:.0f})"
    return {
        "mode": feed.modes.mode.value,
        "mode reason": feed.modes.reason,
        "ir frozen": str(feed.ir_frozen).lower(),
        "paired by": "arrival" if feed.by_arrival else "stamp",
        "ir stamp minus rgb stamp, median [ms]": "no pair yet" if median is None else f"{median:.2f}",
        "ir time offset in force [ms]": f"{feed.ir_time_offset_ms:.2f}",
        "ir time offset learnt": learnt_text,
        "ir time offset by the images [ms]": by_images,
        "pairs": str(pairer.pairs),
        "pairs with a reused ir frame": str(pairer.reused),
        "sync_slop_ms in force": f"{pairer.slop_ns / 1e6:.0f}",
        "time jumps": str(pairer.restarts),
    }


def describe_silence(health: Health, intake: Intake, drops: dict[str, int], timeout_s: float) -> str:
    """Describe why frames arrive but no result was published for `timeout_s`, given the drops by cause.

    "" if results are published, or if a camera is silent, which is reported elsewhere.
    """
    silent_s, frames = health.seconds_silent("answers"), health.messages_since_result
    if (
        silent_s < timeout_s
        or frames < _FRAMES
        or any(health.seconds_silent(key) > timeout_s for key in intake.cameras)
    ):
        return ""
    causes = ", ".join(f"{cause} {count}" for cause, count in Counter(drops).most_common(_CAUSES)) or "none"
    modes = intake.feed.modes
    mode = "" if modes.mode is Mode.FUSED else f" Mode {modes.mode.value}: {modes.reason}."
    return (
        f"no result for {silent_s:.0f} s, in which {frames} frames arrived.{mode} Most frequent drops since the "
        f"activation: {causes}. See the remedy in the log line of each cause's first drop"
    )


def problems(
    engine: RecoveringEngine | None, registering: Registering | None, intake: Intake | None, health: Health, lost: str
) -> list[tuple[bytes, str]]:
    """Return levels of DiagnosticStatus and texts of problems that `Health` does not count.

    Args:
        engine, registering: None while unconfigured.
        intake: None while the cameras are not subscribed to.
        health: has the number of received frames; before the first one it reports the silent cameras.
        lost: why the engine was given up, "" if it was not.
    """
    found = []
    if lost:
        found.append((DiagnosticStatus.ERROR, lost))
    elif engine is not None and engine.condition is not Condition.GOOD:
        found.append((DiagnosticStatus.WARN, f"the engine is {engine.condition.value}"))
    if intake is None:
        return found
    if registering is not None and registering.pending:
        found.append((DiagnosticStatus.WARN, f"the registration {registering.describe()}"))
    mode = intake.feed.modes.mode
    if mode is not Mode.FUSED and (health.total("rgb") or health.total("ir")):
        level = DiagnosticStatus.ERROR if mode is Mode.STALE else DiagnosticStatus.WARN
        found.append((level, f"mode {mode.value}: {intake.feed.modes.reason}"))
    return found
