"""From the cameras' messages to captures: subscribed, decoded, paired, or let through alone while one camera is silent.

All of it runs on the executor's thread. What is dropped on the way is counted, and said once.
"""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic_ns, perf_counter

from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import Image

from spectradino_core.runtime.percepts import Mode
from spectradino_core.streams.decode import DecodeError
from spectradino_core.streams.modes import ModeMachine
from spectradino_core.streams.pairing import Pairer
from spectradino_ros.cameras import TOPICS, Camera
from spectradino_ros.frames import CameraFrame, Capture, CvBridgeConverter, stamp_ns
from spectradino_ros.health import Health
from spectradino_ros.notices import Notices
from spectradino_ros.parameters import Settings

__all__ = ["Intake"]

_ALONE = {Mode.RGB_ONLY: "rgb", Mode.IR_ONLY: "ir"}
_PERIODS_TO_WAIT = 3.0
_COMING_BACK_S = 0.25
"""A camera heard so lately is about to count as alive again, and a frame of the other is kept for it."""


class Intake:
    """Both cameras, from activation to deactivation.

    A pair is always passed on. A frame without a partner is passed on while its camera is the only one alive and
    `fallback_mode` lets it answer alone.

    Attributes:
        cameras: by "rgb" and "ir".
    """

    def __init__(
        self,
        node: LifecycleNode,
        settings: Settings,
        health: Health,
        notices: Notices,
        submit: Callable[[Capture], Capture | None],
    ) -> None:
        """
        Args:
            node: whose subscriptions they are.
            settings: how to pair and when to fall back; `apply` changes it.
            health: counts messages and drops.
            notices: says what is wrong.
            submit: takes a capture and returns the one that it replaced, if any.
        """
        self._logger = node.get_logger()
        self._health = health
        self._notices = notices
        self._submit = submit
        self._converter = CvBridgeConverter()
        self._pairer: Pairer[CameraFrame] = Pairer(settings.sync_slop_ms, settings.ir_time_offset_ms)
        self._modes = ModeMachine(monotonic_ns(), settings.stale_ms, settings.fallback_mode)
        self._timeout_s = settings.no_message_timeout_s
        self._restarts_seen = 0
        self._mode_told = self._modes.mode
        self.cameras = {
            key: Camera(node, key, name, self._receiver(key), health, notices, settings.transport_of(key))
            for key, name in TOPICS.items()
        }

    def destroy(self) -> None:
        """Ends the subscriptions."""
        for camera in self.cameras.values():
            camera.destroy()

    def apply(self, settings: Settings) -> None:
        """Takes over changed settings without losing what is known of the streams."""
        self._pairer.slop_ns = round(settings.sync_slop_ms * 1e6)
        self._pairer.offset_ns = round(settings.ir_time_offset_ms * 1e6)
        self._modes.stale_ns = round(settings.stale_ms * 1e6)
        self._modes.fallback = settings.fallback_mode
        self._timeout_s = settings.no_message_timeout_s

    @property
    def mode(self) -> Mode:
        """Which cameras are alive and may answer."""
        return self._modes.mode

    @property
    def median_offset_ms(self) -> float | None:
        """Infrared stamp minus colour stamp in the last pairs; None before the first."""
        return self._pairer.median_offset_ms

    def drops(self) -> dict[str, int]:
        """What the pairing dropped, by cause. May be called from any thread."""
        # A copy made in one step, because the executor's thread may be counting. Frames released were answered alone.
        return {cause: n for cause, n in dict(self._pairer.drops).items() if n and not cause.startswith("released_")}

    def watch(self) -> None:
        """Looks for what does not come; to be called now and then."""
        for camera in self.cameras.values():
            camera.watch(self._timeout_s)
        self._modes.update(monotonic_ns())
        self._tell_mode()
        # A pair that waits for something nearer, which never comes because a camera has stopped.
        if any(self._is_overdue(key) for key in self.cameras):
            self._pass_on(self._pairer.flush())

    def _is_overdue(self, key: str) -> bool:
        period_s = (self._pairer.period_ms(key) or 0.0) / 1e3
        return self._health.silent_for(key) > max(0.5, _PERIODS_TO_WAIT * period_s)

    def _receiver(self, key: str) -> Callable[[Image], None]:
        return lambda message: self._on_image(key, message)

    def _on_image(self, key: str, message: Image) -> None:
        try:
            frame = CameraFrame.decode(key, message, self._converter)
        except DecodeError as error:
            topic = self.cameras[key].topic
            self._health.dropped(f"{key}_{error.cause}")
            self._notices.warn(f"{error.cause} {topic}", f"dropped a frame of {topic}: {error}")
            return
        self._modes.frame(key, monotonic_ns())
        self._pass_on(self._pairer.push(key, stamp_ns(message.header), frame))
        other = "ir" if key == "rgb" else "rgb"
        if _ALONE.get(self._modes.mode) == key and self._health.silent_for(other) > _COMING_BACK_S:
            self._pass_on_alone(key)

    def _pass_on(self, pairs: list) -> None:
        for event in self._pairer.take_events():
            self._logger.warning(f"{event} ({self._names()})")
        for pair in pairs:
            self._hand_over(Capture(pair.rgb, pair.ir, pair.error_ns, perf_counter(), self._has_jumped()))

    def _pass_on_alone(self, key: str) -> None:
        waiting = self._pairer.release(key)
        if not waiting:
            return
        if len(waiting) > 1:  # they waited for a partner until the other camera was given up
            self._health.dropped(f"unpaired_{key}", len(waiting) - 1)
        frame = waiting[-1].payload
        rgb, ir = (frame, None) if key == "rgb" else (None, frame)
        self._hand_over(Capture(rgb, ir, None, perf_counter(), self._has_jumped()))

    def _hand_over(self, capture: Capture) -> None:
        if self._submit(capture) is not None:
            self._health.dropped("overload")
            self._notices.warn(
                "overload",
                "dropped a frame because a newer one came while the model was busy: the cameras are faster than the "
                "model (see step 'engine' in ~/frame_report). The newest is always the next",
            )

    def _has_jumped(self) -> bool:
        jumped, self._restarts_seen = self._pairer.restarts != self._restarts_seen, self._pairer.restarts
        return jumped

    def _tell_mode(self) -> None:
        """Says a change of the mode that has lasted until now: at the start the mode may change with every frame."""
        before, mode = self._mode_told, self._modes.mode
        if mode is before:
            return
        self._mode_told = mode
        text = f"mode {before.value} -> {mode.value}: {self._modes.reason} ({self._names()})"
        started = any(self._health.total(key) for key in self.cameras)
        if mode is Mode.FUSED or not started:  # before the first frame nothing was lost
            self._logger.info(text)
        else:
            self._logger.warning(text)

    def _names(self) -> str:
        return ", ".join(f"{key} is {camera.topic}" for key, camera in self.cameras.items())
