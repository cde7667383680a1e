"""Diagnostics beside the counters of `health`: model, mode, clocks, registration."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticStatus

from spectradino_core.runtime.perception_result import Mode
from spectradino_core.runtime.pipeline import Pipeline
from spectradino_core.runtime.recovery import Condition, RecoveringEngine
from spectradino_ros.health import Health
from spectradino_ros.intake import Intake
from spectradino_ros.parameters import Settings
from spectradino_ros.registering import Registering

__all__ = ["intake_facts", "model_facts", "problems", "silence"]

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
    feed = intake.feed
    median, learnt = feed.median_offset_ms, feed.learnt_offset
    shown = feed.shown_offset
    if not feed.settings.learn_ir_time_offset:
        learnt_text = "off (learn_ir_time_offset)"
    else:
        learnt_text = "not yet" if learnt is None else str(learnt)
    return {
        "mode": feed.mode.value,
        "mode reason": feed.reason,
        "ir frozen": str(feed.ir_frozen).lower(),
        "paired by": "arrival" if feed.by_arrival else "stamp",
        "ir stamp minus rgb stamp, median [ms]": "no pair yet" if median is None else f"{median:.2f}",
        "ir time offset in force [ms]": f"{feed.ir_time_offset_ms:.2f}",
        "ir time offset learnt": learnt_text,
        "ir time offset by the images [ms]": "not yet"
        if shown is None
        else f"{shown.offset_ns / 1e6:+.0f} (standard deviation {shown.spread_ns / 1e6:.0f})",
        "pairs": str(feed.pairs),
        "pairs with a reused ir frame": str(feed.reused),
        "sync_slop_ms in force": f"{feed.slop_ms:.0f}",
        "time jumps": str(feed.restarts),
    }


def silence(health: Health, intake: Intake, drops: dict[str, int], timeout_s: float) -> str:
    """Describe why frames arrive but no result is published; a silent camera is reported elsewhere.

    Args:
        health: counts frames and results.
        intake: the cameras and their mode.
        drops: number of dropped frames by cause.
        timeout_s: seconds without a result before it is reported.

    Returns:
        The warning, "" if results are published or a camera is silent.
    """
    silent_s, frames = health.silent_for("answers"), health.unanswered
    if silent_s < timeout_s or frames < _FRAMES or any(health.silent_for(key) > timeout_s for key in intake.cameras):
        return ""
    most = sorted(drops.items(), key=lambda one: one[1], reverse=True)[:_CAUSES]
    causes = ", ".join(f"{cause} {count}" for cause, count in most) or "none"
    mode = "" if intake.feed.mode is Mode.FUSED else f" Mode {intake.feed.mode.value}: {intake.feed.reason}."
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
        health: has the number of received frames; before the first one, `Health` reports the silent cameras.
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
    mode = intake.feed.mode
    if mode is not Mode.FUSED and (health.total("rgb") or health.total("ir")):
        level = DiagnosticStatus.ERROR if mode is Mode.STALE else DiagnosticStatus.WARN
        found.append((level, f"mode {mode.value}: {intake.feed.reason}"))
    return found
