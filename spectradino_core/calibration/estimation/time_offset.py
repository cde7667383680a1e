"""Constant time offset of the IR camera's stamps, from motion that both cameras saw.

Activity is where and how much a camera's frames change, comparable across any two bands. A frame is downscaled and
high-pass filtered, which removes most of the effect of automatic gain and exposure; the absolute difference of two such
frames per cell is the activity. A moving object changes the cells it crosses in every band that sees it, hot or cold,
bright or dark; a turning camera changes every cell that holds an edge.

The activities are correlated at every offset in a window; the maximum is the offset. A camera does not know what
happened between two of its frames, but that blurs the peak symmetrically, so with enough motion its position is
accurate to a fraction of a period. A bootstrap over stretches of the recording gives the standard
deviation. An object looks different in both bands, which shifts its activities by some milliseconds: that is added to
the standard deviation. With images available, displaced patches (`displacements.py`) give a second estimate, and
`sharpened` returns the mean weighted by certainty.

The sign is that of the node's `ir_time_offset_ms`: IR stamp minus RGB stamp of the same moment.

Letters: K frames, N cells, L lags, S stretches.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

from spectradino_core.calibration.estimation import CalibrationError
from spectradino_core.calibration.estimation.displacements import Delay
from spectradino_core.calibration.estimation.structure import grey_image
from spectradino_core.calibration.registration import Registration, Size, Warp
from spectradino_core.streams.image_offset import peak_shift, smoothed

CELLS = (64, 48)
"""Columns and rows of the cell grid."""

_IMAGE_SIZE = (256, 192)
_SHADES = 20.0
_CONTRAST = 40.0

_HINT = "record a scene in which several objects move, or turn the cameras back and forth irregularly"
_STEP_NS = 4_000_000
_STRETCH_S = 2.0
_SLOW_S = 0.5
_DRAWS = 200
_MIN_FRAMES = 40
_MIN_SECONDS = 8.0
_MIN_STRETCHES = 2
_UNLIKE_MS = 3.0  # standard deviation between the activities of one object in two bands, over synthetic scenes
_GAP = 2.5  # periods without a frame that are not interpolated
_MIN_PROMINENCE = 0.25  # height of the peak above the second highest one, as a fraction of its height
_MIN_MOVING = 2e-4  # mean fraction of each camera's image that changes more than its noise
_MAX_SPREAD_MS = 8.0


class Activity:
    """Frame-to-frame changes of a stream, 6 KB per frame.

    With a registration the cells of an IR stream are those of the RGB image.

    Attributes:
        seen: bool [N], cells that lie completely in the camera's view; None: all.
    """

    def __init__(self, registration: Registration | None = None, rgb_size: Size | None = None) -> None:
        self._registration, self._rgb_size = registration, rgb_size
        self.seen: np.ndarray | None = None
        self._stamps: list[int] = []
        self._changes: list[np.ndarray] = []
        self._last: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._stamps)

    @property
    def stamps_ns(self) -> np.ndarray:
        """Stamps, int64 [K]."""
        return np.array(self._stamps, np.int64)

    @property
    def period_ns(self) -> float:
        """Median time between frames; 0 with fewer than two."""
        return float(np.median(np.diff(self.stamps_ns))) if len(self) > 1 else 0.0

    def add(self, stamp_ns: int, image: np.ndarray) -> None:
        """Add a frame, as for `grey_image` and `Warp.of`; frames that are not newer than the last one are skipped."""
        if self._stamps and stamp_ns <= self._stamps[-1]:
            return
        if self._registration is not None and self._rgb_size is not None:
            size = (image.shape[1], image.shape[0])
            warp = Warp.of(self._registration, size, self._rgb_size, _IMAGE_SIZE)
            small, valid = warp(image), warp.valid
        else:
            small, valid = cv2.resize(image, _IMAGE_SIZE, interpolation=cv2.INTER_AREA), None
        if valid is not None and valid.any():
            small[~valid] = np.median(small[valid])
        grey = grey_image(small)
        grey -= cv2.GaussianBlur(grey, (0, 0), _SHADES)
        grey *= _CONTRAST / max(float(grey.std()), 0.02)
        if valid is not None:
            inside = cv2.erode(valid.astype(np.uint8), np.ones((7, 7), np.uint8), borderValue=1)
            grey[inside == 0] = 0
            self.seen = cv2.resize(inside.astype(np.float32), CELLS, interpolation=cv2.INTER_AREA).reshape(-1) > 0.99
        self._stamps.append(int(stamp_ns))
        if self._last is not None:
            change = cv2.resize(cv2.absdiff(grey, self._last), CELLS, interpolation=cv2.INTER_AREA)
            self._changes.append(change.reshape(-1).astype(np.float16))
        self._last = grey

    def changes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the differences between neighbouring frames.

        Returns:
            Midpoint of the stamps int64 [K - 1], seconds between them float64 [K - 1], and mean absolute difference of
            each cell in grey levels float32 [K - 1, N].
        """
        stamps = self.stamps_ns
        first, last = stamps[:-1], stamps[1:]
        if not self._changes:
            return first, np.zeros(0), np.zeros((0, CELLS[0] * CELLS[1]), np.float32)
        return first + (last - first) // 2, (last - first) / 1e9, np.stack(self._changes).astype(np.float32)


@dataclass(frozen=True)
class TimeOffsetEstimate:
    """Estimated time offset.

    Attributes:
        offset_ms, spread_ms: IR stamp minus RGB stamp of the same moment, and its standard deviation.
        agreement: correlation of both activities at the offset, at most 1.
        prominence: height of the peak above the second highest, 0 to 1 of its height.
        seconds, stretches: duration recorded by both cameras, and number of parts it was cut into.
        rgb_hz, ir_hz: the cameras' frame rates.
        patches: number of moving patches used; 0: activity only.
    """

    offset_ms: float
    spread_ms: float
    agreement: float
    prominence: float
    seconds: float
    stretches: int
    rgb_hz: float
    ir_hz: float
    patches: int = 0

    @property
    def confidence(self) -> float:
        """Prominence of the peak, 0 to 1, reduced by the spread (to 0 at ten milliseconds)."""
        return float(np.clip(self.prominence, 0, 1) * max(0.0, 1 - (self.spread_ms / 10) ** 2))

    def __str__(self) -> str:
        later = "later" if self.offset_ms >= 0 else "earlier"
        return (
            f"The IR camera stamps the same moment {abs(self.offset_ms):.1f} ms {later} than the RGB camera "
            f"({self.offset_ms:+.1f} ms, standard deviation {self.spread_ms:.1f} ms over {self.stretches} stretches of "
            f"{self.seconds:.0f} s, {self.rgb_hz:.1f} and {self.ir_hz:.1f} frames/s); correlation of motion "
            f"{self.agreement:.2f}, peak {self.prominence:.0%} above the next; {self.patches} moving patches "
            f"compared; confidence {self.confidence:.2f}"
        )


def estimate_time_offset(
    rgb: Activity,
    ir: Activity,
    window_ms: float = 1000.0,
    min_agreement: float = 0.08,
    max_spread_ms: float = _MAX_SPREAD_MS,
) -> TimeOffsetEstimate:
    """Estimate the offset with the maximum correlation of both cameras' activities.

    Args:
        rgb, ir: activities of the cameras.
        window_ms: maximum absolute offset to search.
        min_agreement, max_spread_ms: required correlation at the offset, and its allowed standard deviation.

    Raises:
        CalibrationError: too little was recorded or moved, or no acceptable result; gives the reason.
    """
    if not 20 <= window_ms <= 60_000:
        raise CalibrationError(f"the window of offsets must be 20 to 60000 ms, got {window_ms:g}")
    for name, stream in (("RGB", rgb), ("IR", ir)):
        if len(stream) < _MIN_FRAMES:
            raise CalibrationError(
                f"the {name} camera has {len(stream)} frames, at least {_MIN_FRAMES} are required: record "
                f"{2 * _MIN_SECONDS:.0f} seconds or more in which objects move"
            )
    window = round(window_ms * 1e6 / _STEP_NS)
    start = max(int(rgb.stamps_ns[0]), int(ir.stamps_ns[0]))
    seconds = (min(int(rgb.stamps_ns[-1]), int(ir.stamps_ns[-1])) - start) / 1e9
    if seconds < max(_MIN_SECONDS, 4 * window_ms / 1e3):
        raise CalibrationError(
            f"both cameras' stamps overlap by {max(seconds, 0.0):.1f} s, at least "
            f"{max(_MIN_SECONDS, 4 * window_ms / 1e3):.0f} s are required: record longer, search smaller offsets "
            "(--window-ms), or check whether the clocks are far apart"
        )
    slowest = max(rgb.period_ns, ir.period_ns)
    moments = int(seconds * 1e9 / _STEP_NS)
    colour, infrared = _signals(rgb, slowest, "RGB"), _signals(ir, slowest, "IR")
    for stream in (rgb, ir):
        if stream.seen is not None:
            colour[1][:, ~stream.seen] = 0.0
            infrared[1][:, ~stream.seen] = 0.0
    stretches = _stretches((colour[0], infrared[0]), start, moments, window)
    if len(stretches) < _MIN_STRETCHES:
        raise CalibrationError(
            f"both cameras recorded together in {len(stretches)} stretches of {_STRETCH_S:g} s, at least "
            f"{_MIN_STRETCHES} are required: check for stamp jumps with 'spectradino bag info'; else {_HINT}"
        )
    seconds = min(seconds, sum(last - first for first, last in stretches) * _STEP_NS / 1e9 + 2 * window_ms / 1e3)
    per_stretch, energies = _correlations(colour, infrared, start, stretches, window)
    # A fast object crosses a cell within one frame interval, so synchronised cameras only show whole periods: the
    # correlation's peak would lock to one of them, whereas the blurred peak lies at their mean.
    faster = min(rgb.period_ns, ir.period_ns)
    per_stretch = smoothed(per_stretch.T, 0.7 * faster / _STEP_NS, 0.5).T.astype(np.float64)
    lags = np.arange(-window, window + 1) * (_STEP_NS / 1e6)
    total = per_stretch.sum(axis=0) / math.sqrt(max(float(np.prod(energies.sum(axis=0))), 1e-12))
    best = int(total.argmax())
    width = max(3, round(1.5 * slowest / _STEP_NS))
    away = np.abs(np.arange(len(total)) - best) > width
    second = _second_peak(total, away)
    agreement, prominence = float(total[best]), float(1 - max(second, 0.0) / max(total[best], 1e-9))
    if agreement < min_agreement:
        raise CalibrationError(
            f"the cameras' motion does not agree at any offset within {window_ms:g} ms (best {agreement:.2f} at "
            f"{lags[best]:+.0f} ms, {min_agreement:.2f} is required): check that both see the same scene, each "
            "object at the same place in the image. "
            f"Else {_HINT}"
        )
    edge = max(2, width // 2)
    if best < edge or best > 2 * window - edge:
        raise CalibrationError(
            f"the best offset ({lags[best]:+.0f} ms) lies at the border of the window of {window_ms:g} ms: search "
            "further (--window-ms)"
        )
    if prominence < _MIN_PROMINENCE:
        other = int(np.where(away, total, -np.inf).argmax())
        raise CalibrationError(
            f"several offsets fit nearly as well ({lags[best]:+.0f} and {lags[other]:+.0f} ms: {agreement:.2f} and "
            f"{total[other]:.2f}), as with periodic motion: {_HINT}"
        )
    reach = slowest / 5 / _STEP_NS
    offset = float(lags[best] + peak_shift(total, best, reach) * _STEP_NS / 1e6)
    spread = math.hypot(_spread(per_stretch, lags, best, reach), _UNLIKE_MS)
    _check_spread(spread, max_spread_ms)
    return TimeOffsetEstimate(
        offset_ms=offset,
        spread_ms=spread,
        agreement=agreement,
        prominence=prominence,
        seconds=seconds,
        stretches=len(per_stretch),
        rgb_hz=1e9 / rgb.period_ns,
        ir_hz=1e9 / ir.period_ns,
    )


def sharpened(
    rough: TimeOffsetEstimate, delay: Delay | None, max_spread_ms: float = _MAX_SPREAD_MS
) -> TimeOffsetEstimate:
    """Refine the estimate from activity with displaced patches, if enough moved; raises CalibrationError as that.

    A larger standard deviation of the estimate than allowed is ignored if there are patches.
    """
    offset, spread, patches = rough.offset_ms, rough.spread_ms, 0
    if delay is not None:
        weights = np.array([rough.spread_ms, delay.spread_ms]) ** -2.0
        weights[0] *= rough.spread_ms <= max_spread_ms
        offset += float(weights[1] / weights.sum() * delay.ms)
        spread, patches = float(weights.sum() ** -0.5), delay.patches
    _check_spread(spread, max_spread_ms)
    return replace(rough, offset_ms=offset, spread_ms=spread, patches=patches)


def _check_spread(spread: float, max_spread_ms: float) -> None:
    if spread > max_spread_ms:
        raise CalibrationError(
            f"the offset is uncertain by {spread:.0f} ms (standard deviation; stretches of the recording disagree), at "
            f"most {max_spread_ms:g} ms are allowed: too little moves, or the offset is not constant; {_HINT}"
        )


def _signals(stream: Activity, slowest_ns: float, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a stream's activity without noise and slow trends: times int64 [K], cells float32 [K, N]."""
    middles, lengths, cells = stream.changes()
    rest = np.median(cells, axis=0)
    noise = 1.4826 * np.median(np.abs(cells - rest), axis=0) + 1e-2
    moving = float((cells > rest + 5 * noise).mean())
    if moving < _MIN_MOVING:
        raise CalibrationError(
            f"nothing moves in view of the {name} camera ({moving:.3%} of its image changes at a time, "
            f"{_MIN_MOVING:.3%} is required): record a scene in which objects move, or turn the cameras"
        )
    cells = np.maximum(cells - rest - 2 * noise, 0.0)
    # Whether a cell moves matters much more than how strongly the object stands out in this band.
    cells /= cells + (np.percentile(cells, 99.5) / 3 + 1e-6)
    cells[lengths > _GAP * np.median(lengths)] = 0.0
    # Frequencies above the slower camera's rate are noise to both; slow trends carry no timing.
    cells = smoothed(cells, 0.15 * slowest_ns / stream.period_ns, 0.5)
    cells -= smoothed(cells, _SLOW_S * 1e9 / stream.period_ns, 0.5)
    return middles, cells


def _stretches(
    streams: tuple[np.ndarray, np.ndarray], start_ns: int, moments: int, window: int
) -> list[tuple[int, int]]:
    """Return (first, last) steps of the common clock for stretches in which both streams (times of changes, int64 [K])
    recorded. A long recording is sampled, and an unset stamp may lie half a century before the next."""
    inner = moments - 2 * window
    count = max(2, int(inner * _STEP_NS / 1e9 / _STRETCH_S))
    length = inner / count
    there: list[set[int]] = []
    for middles in streams:
        numbers = np.floor(((middles - start_ns) / _STEP_NS - window) / length).astype(int)
        steps = np.diff(middles)
        near = steps <= _GAP * np.median(steps)
        spans = zip(numbers[:-1][near].tolist(), numbers[1:][near].tolist())
        there.append({number for first, last in spans for number in range(max(first, 0), min(last + 1, count))})

    def edge(number: int) -> int:
        return moments - window if number == count else int(number * length + window)

    return [(edge(number), edge(number + 1)) for number in sorted(there[0] & there[1])]


def _correlations(
    colour: tuple[np.ndarray, np.ndarray],
    infrared: tuple[np.ndarray, np.ndarray],
    start_ns: int,
    stretches: list[tuple[int, int]],
    window: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Correlate each stretch at all lags, summed over cells [S, L], and return both energies [S, 2]."""
    sums, energies = [], []
    for first, last in stretches:
        here = _resampled(colour, start_ns, first, last)
        around = _resampled(infrared, start_ns, first - window, last + window)
        size = cv2.getOptimalDFTSize(around.shape[1])
        spectrum = np.fft.rfft(around, size, axis=1)
        spectrum *= np.fft.rfft(here, size, axis=1).conj()
        sums.append(np.fft.irfft(spectrum.sum(axis=0), size)[: 2 * window + 1])
        energies.append((float((here**2).sum()), float((around[:, window : window + last - first] ** 2).sum())))
    return np.stack(sums), np.array(energies)


def _resampled(signal: tuple[np.ndarray, np.ndarray], start_ns: int, first: int, last: int) -> np.ndarray:
    """Resample cells to the common clock, float32 [N, last - first]; constant cells stay 0."""
    middles, cells = signal
    at = (middles - start_ns) / _STEP_NS
    clock = np.arange(first, last)
    low = max(0, int(np.searchsorted(at, first)) - 2)
    part = np.s_[low : int(np.searchsorted(at, last)) + 2]
    out = np.zeros((cells.shape[1], last - first), np.float32)
    if len(at[part]) > 1:
        right = np.clip(np.searchsorted(at[part], clock), 1, len(at[part]) - 1)
        before, after = at[part][right - 1], at[part][right]
        weight = np.clip((clock - before) / (after - before), 0, 1).astype(np.float32)[:, None]
        whole = (after - before <= _GAP * np.median(np.diff(at)))[:, None]  # gaps are not interpolated
        out[:] = np.where(whole, cells[part][right - 1] * (1 - weight) + cells[part][right] * weight, 0).T
    return out


def _second_peak(total: np.ndarray, away: np.ndarray) -> float:
    """Return the highest other local maximum; 0 if there is none."""
    inner = total[1:-1]
    peaks = (inner >= total[:-2]) & (inner > total[2:]) & away[1:-1]
    ends = [float(total[end]) for end in (0, -1) if away[end]]
    return max([float(v) for v in inner[peaks]] + ends, default=0.0)


def _spread(per_stretch: np.ndarray, lags: np.ndarray, best: int, reach: float) -> float:
    """Return the peak's standard deviation over bootstrap samples, searched within a period of the overall peak."""
    rng = np.random.default_rng(0)
    near = max(3, round(5 * reach))
    low, high = max(0, best - near), min(len(lags), best + near + 1)
    peaks = []
    for _ in range(_DRAWS):
        drawn = per_stretch[rng.integers(0, len(per_stretch), len(per_stretch))].sum(axis=0)
        top = low + int(drawn[low:high].argmax())
        peaks.append(float(lags[top] + peak_shift(drawn, top, reach) * _STEP_NS / 1e6))
    return float(np.std(peaks))
