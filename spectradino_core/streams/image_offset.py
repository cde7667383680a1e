"""Estimate the time offset between both cameras' clocks from motion in their images.

Stamps and times of arrival can't distinguish a clock offset from a transport delay; images can. The frame-to-frame
change per grid cell is a signal that cameras of any two bands share: a moving object changes the cells that it crosses,
hot or cold, bright or dark. The offset is the lag at which both signals correlate best.

This is the online form of `spectradino calibrate time`: images of 64 x 48 pixels, at most ten frames per second,
stretches of ten seconds, and a long pause once two stretches agree. Its error is about 10 ms, which suffices to check
an offset; without motion it gives no result.

Nothing here reads a clock: the same calls give the same result. Times are integers in nanoseconds.

Letters: N cells, T time steps, S parts of a stretch, L lags.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from spectradino_core.calibration.registration import Registration, RegistrationError, Size
from spectradino_core.streams.queues import Stream

PixelSource = np.ndarray | Callable[[], np.ndarray]
"""A frame's pixels, or a function that returns them."""

_MS = 1_000_000
_SAMPLED = (128, 96)
_IMAGE = (64, 48)
_CELLS = (16, 12)
_SHADES = 6.0
_STEP_NS = 20 * _MS
_WINDOW = 50  # steps: one second to either side
_PARTS = 5
_SLOW_NS = 500 * _MS

_SPACING_NS = 80 * _MS
_GAP_NS = 1_000 * _MS
_STRETCH_NS = 10_000 * _MS
_MIN_FRAMES = 40
_MAX_PERIOD_NS = 300 * _MS
_PAUSE_NS = 600_000 * _MS
_SHORT_PAUSE_NS = 60_000 * _MS
_TRIES = 12

_AGREEMENT, _AGREEMENT_UNREGISTERED = 0.25, 0.4
_PROMINENCE = 0.2
_SPREAD_NS = 15 * _MS
_REPEATED_NS = 20 * _MS


@dataclass(frozen=True)
class ImageOffset:
    """Time offset estimated from images.

    Attributes:
        offset_ns: IR time minus RGB time of the same moment.
        spread_ns: standard deviation of the offset, by jackknife over parts of a stretch.
        agreement: correlation of both signals at the offset, at most 1.
    """

    offset_ns: int
    spread_ns: int
    agreement: float


class ImageOffsetWatch:
    """Estimator that samples frames of both cameras; not thread-safe. It keeps one stretch, about 200 KB.

    Attributes:
        registration: IR to RGB pixels, to compare cells of the same location; None: the IR image covers the whole RGB
            image.
    """

    def __init__(self) -> None:
        self.registration: Registration | None = None
        self._rgb_size: Size | None = None
        self.restart()

    def restart(self, paused_until_ns: int | None = None) -> None:
        """Discard the stretch and all results, for example when frames get other times, and end a pause."""
        self._paused_until_ns = paused_until_ns
        self._streams = {stream: _Activity() for stream in Stream}
        self._previous: ImageOffset | None = None
        self._attempts = 0
        self._sampled_ns: dict[Stream, int] = {}

    def push(self, stream: Stream, time_ns: int, pixels: PixelSource) -> ImageOffset | None:
        """Add a frame; returns the offset on which two successive stretches agree, at the end of the second.

        Args:
            stream: the camera.
            time_ns: the time by which the frame is paired.
            pixels: RGB uint8 [h, w, 3], or IR uint8 or uint16 [h, w]; a function is called only if the frame is
                sampled.
        """
        if self._paused_until_ns is not None:
            if self._paused_until_ns - _PAUSE_NS <= time_ns < self._paused_until_ns:
                return None
            self._paused_until_ns = None
        this, other = self._streams[stream], self._streams[stream.other]
        last_ns = this.times[-1] if this.times else None
        if last_ns is not None:
            if -_GAP_NS <= time_ns - last_ns < _SPACING_NS:
                return None
            if abs(time_ns - last_ns) > _GAP_NS:
                this, other = _Activity(), _Activity()
                self._streams = {stream: this, stream.other: other}
        if abs(time_ns - self._sampled_ns.get(stream, time_ns - _GAP_NS)) < _SPACING_NS:
            return None
        self._sampled_ns[stream] = time_ns
        try:
            image = pixels() if callable(pixels) else pixels
            sampled = self._sampled(stream, image)
        except (ValueError, cv2.error, MemoryError):  # damaged, which decoding for inference reports
            return None
        this.add(time_ns, sampled)
        if time_ns - this.times[0] > 3 * _STRETCH_NS:  # the other camera is missing
            self.restart(time_ns + _SHORT_PAUSE_NS)
            return None
        if not other.times:
            return None
        common_ns = min(time_ns, other.times[-1]) - max(this.times[0], other.times[0])
        if common_ns < _STRETCH_NS or min(len(this.times), len(other.times)) < _MIN_FRAMES:
            if common_ns < -_GAP_NS or common_ns > 3 * _STRETCH_NS:
                self.restart(time_ns + _SHORT_PAUSE_NS)  # unrelated clocks, or a slow camera
            return None
        found = self._estimate()
        self._streams = {one: _Activity() for one in Stream}
        return self._confirmed(found, time_ns)

    def _confirmed(self, found: ImageOffset | None, time_ns: int) -> ImageOffset | None:
        previous, self._previous, self._attempts = self._previous, found, self._attempts + 1
        if found is not None and previous is not None and abs(found.offset_ns - previous.offset_ns) <= _REPEATED_NS:
            self.restart(time_ns + _PAUSE_NS)
            return ImageOffset(
                (found.offset_ns + previous.offset_ns) // 2,
                max(found.spread_ns, previous.spread_ns),
                min(found.agreement, previous.agreement),
            )
        if self._attempts >= _TRIES:  # no motion
            self.restart(time_ns + _SHORT_PAUSE_NS)
        return None

    def _sampled(self, stream: Stream, image: np.ndarray) -> np.ndarray:
        size = (int(image.shape[1]), int(image.shape[0]))
        if stream is Stream.RGB:
            self._rgb_size = size
        elif self.registration is not None and self._rgb_size is not None:
            try:
                matrix = self.registration.for_sizes(size, self._rgb_size)
            except RegistrationError:
                pass  # for another image size, which inference reports
            else:
                scale = np.diag([_SAMPLED[0] / self._rgb_size[0], _SAMPLED[1] / self._rgb_size[1], 1.0])
                return cv2.warpPerspective(image, scale @ matrix, _SAMPLED, flags=cv2.INTER_NEAREST)
        return cv2.resize(image, _SAMPLED, interpolation=cv2.INTER_NEAREST)

    def _estimate(self) -> ImageOffset | None:
        rgb, ir = (self._streams[stream] for stream in (Stream.RGB, Stream.IR))
        slowest_ns = max(rgb.period_ns, ir.period_ns)
        if slowest_ns > _MAX_PERIOD_NS:
            return None
        start_ns = max(rgb.times[0], ir.times[0])
        count = (min(rgb.times[-1], ir.times[-1]) - start_ns) // _STEP_NS
        sums, energies = _correlations(*(one.signal(start_ns, count, slowest_ns) for one in (rgb, ir)))
        sums = smoothed(sums.T, max(1.0, 0.5 * slowest_ns / _STEP_NS)).T
        total = _joined(sums, energies)
        best = int(total.argmax())
        away = np.abs(np.arange(len(total)) - best) > round(1.5 * slowest_ns / _STEP_NS)
        agreement = float(total[best])
        minimum = _AGREEMENT_UNREGISTERED if self.registration is None else _AGREEMENT
        if agreement < minimum or not 2 <= best < len(total) - 2 or total[away].max() > (1 - _PROMINENCE) * agreement:
            return None
        keep = ~np.eye(_PARTS, dtype=bool)
        without = np.array([_peak_ns(_joined(sums[rows], energies[rows]), slowest_ns) for rows in keep])
        spread_ns = float(np.sqrt((_PARTS - 1) * np.mean((without - without.mean()) ** 2)))  # jackknife
        if spread_ns > _SPREAD_NS:
            return None
        return ImageOffset(round(_peak_ns(total, slowest_ns)), round(spread_ns), agreement)


class _Activity:
    """Frame-to-frame changes of one camera."""

    def __init__(self) -> None:
        self.times: list[int] = []
        self._changes: list[np.ndarray] = []
        self._last: np.ndarray | None = None

    @property
    def period_ns(self) -> float:
        return float(np.median(np.diff(self.times)))

    def add(self, time_ns: int, image: np.ndarray) -> None:
        small = cv2.resize(image, _IMAGE, interpolation=cv2.INTER_AREA)
        if small.ndim == 3:
            small = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
        grey = small.astype(np.float32)
        grey -= cv2.GaussianBlur(grey, (0, 0), _SHADES)  # removes changes of gain and exposure
        grey /= max(float(grey.std()), 1e-3)
        np.clip(grey, -4.0, 4.0, out=grey)
        self.times.append(time_ns)
        if self._last is not None:
            change = cv2.resize(cv2.absdiff(grey, self._last), _CELLS, interpolation=cv2.INTER_AREA)
            self._changes.append(change.reshape(-1))
        self._last = grey

    def signal(self, start_ns: int, count: int, slowest_ns: float) -> np.ndarray:
        """Return the activity without noise and trends, float32 [T, N] with T = `count`."""
        times = np.array(self.times, np.int64)
        lengths = np.diff(times)
        cells = np.stack(self._changes)
        usual = np.median(cells, axis=0)
        noise = 1.4826 * np.median(np.abs(cells - usual), axis=0) + 1e-3
        cells = np.maximum(cells - usual - noise, 0.0)
        # Compressed, because the location of motion matters more than its contrast in this band.
        cells /= cells + (np.percentile(cells, 99) / 3 + 1e-6)
        cells = smoothed(cells, 0.3 * slowest_ns / self.period_ns)
        cells -= smoothed(cells, _SLOW_NS / self.period_ns)
        at = (times[:-1] + lengths // 2 - start_ns) / _STEP_NS
        clock = np.arange(count)
        right = np.clip(np.searchsorted(at, clock), 1, len(at) - 1)
        weight = np.clip((clock - at[right - 1]) / (at[right] - at[right - 1]), 0.0, 1.0).astype(np.float32)[:, None]
        return cells[right - 1] * (1 - weight) + cells[right] * weight


def smoothed(rows: np.ndarray, sigma: float, min_sigma: float = 0.4) -> np.ndarray:
    """Blur float32 [K, N] along the first axis by a Gaussian of `sigma` rows; unchanged below `min_sigma`."""
    rows = np.ascontiguousarray(rows, np.float32)
    if sigma < min_sigma:
        return rows.copy()
    reach = min(2 * math.ceil(3 * sigma) + 1, 2 * ((len(rows) - 1) // 2) + 1)
    kernel = cv2.getGaussianKernel(reach, sigma)
    return cv2.sepFilter2D(rows, cv2.CV_32F, np.ones(1), kernel, borderType=cv2.BORDER_REFLECT_101)


def _correlations(rgb: np.ndarray, ir: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Correlate signals [T, N]: sums over cells by part and lag [S, L], and energies by part [S, 2]."""
    edges = np.linspace(_WINDOW, len(rgb) - _WINDOW, _PARTS + 1).astype(int)
    sums, energies = [], []
    for first, last in zip(edges, edges[1:]):
        here, around = rgb[first:last], ir[first - _WINDOW : last + _WINDOW]
        size = cv2.getOptimalDFTSize(len(around))
        spectrum = (np.fft.rfft(around, size, axis=0) * np.fft.rfft(here, size, axis=0).conj()).sum(axis=1)
        sums.append(np.fft.irfft(spectrum, size)[: 2 * _WINDOW + 1])
        energies.append((float((here**2).sum()), float((ir[first:last] ** 2).sum())))
    return np.stack(sums), np.array(energies)


def _joined(sums: np.ndarray, energies: np.ndarray) -> np.ndarray:
    """Return the correlation coefficients [L] over several parts."""
    return sums.sum(axis=0) / np.sqrt(max(float(np.prod(energies.sum(axis=0))), 1e-12))


def _peak_ns(total: np.ndarray, slowest_ns: float) -> float:
    """Return the lag of the highest peak, by a parabola fitted within a quarter period of its top."""
    best = int(total.argmax())
    return (best + peak_shift(total, best, slowest_ns / 4 / _STEP_NS) - _WINDOW) * _STEP_NS


def peak_shift(total: np.ndarray, best: int, reach: float) -> float:
    """Return how far a peak's centre lies from its maximum `best`, by a parabola fitted to all within `reach` of it."""
    near = max(2, round(reach))
    low, high = max(0, best - near), min(len(total), best + near + 1)
    x = np.arange(low, high) - best
    a, b, _ = np.polyfit(x, total[low:high], 2)
    return float(np.clip(-b / (2 * a), x[0], x[-1])) if a < 0 else 0.0
