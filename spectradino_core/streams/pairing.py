"""Pair the frames of two cameras by their stamps, or by other times given instead.

Three policies (`PAIRING`); distances are measured after the constant offset is subtracted and are at most the slop:

one_to_one
    No frame is used twice. Where one camera is faster, each frame of the slower one gets the nearest frame of the
    faster one, and the rest are surplus. At equal rates each frame counts: partners follow one another without gaps,
    and a frame is given up for a better phase only where that pays, at once when half a period is gained, or when the
    smaller gains missed so far add up to two periods. So a phase near half a period with jitter does not flip to and
    fro, and a bad phase does not stay.
latest
    Every RGB frame gets an infrared frame, which may serve several: the newest one taken up to half an RGB period
    after it. So the RGB frame nearest to an infrared frame waits for it, as in one_to_one, and the frames in between
    reuse it without waiting.
nearest
    Every RGB frame gets the nearest infrared frame, and waits for it up to half an infrared period.

A pair is given out as soon as nothing nearer can come: in one_to_one when its distance is below half the period of the
stream that would have to bring something nearer, or when that stream's next frame has arrived; otherwise when the
infrared frame foreseen from the camera's rhythm is there or is overdue, by stream time. There is no clock here: the
same calls give the same pairs, live and in replay. At most `depth` frames a stream are kept.

Times are integers in nanoseconds, of the header stamps.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import replace
from typing import Generic

from spectradino_core.streams.clocks import APART_NS
from spectradino_core.streams.queues import Frame, Pair, Payload, Queue, Stream

PAIRING = ("one_to_one", "latest", "nearest")
"""Policies; see the module docstring."""

JUMP_MS = 500.0
"""A larger step back means that a clock was set or a bag restarted, not that two frames are out of order."""

JUMP_EVENT = "time jumped backwards"
"""Start of the event of a jump, the only event that may occur many times."""

_MS = 1_000_000
_STEPS_BACK = 3  # consecutive frames behind the newest stamp after which the clock was set back by a little
_EQUAL_RATES = 0.95  # ratio of periods above which they count as equal
_DRY_SPELL = 20  # accepted frames of each stream without a pair, after which the reason is reported
_OFFSETS = 31
_LATENESSES = 9
_SIMILAR_RATES = 1.25  # RGB frames per IR frame up to which each waits for a partner of its own
_MAX_COUNT = 3  # of RGB frames per IR frame: a longer gap is an outage, not a rate
_SLOP_MS = 50.0  # automatic slop of one_to_one, and its minimum otherwise
_SLOP_PERIODS = 1.5  # of the slower camera: covers one period, its jitter and the transport's delay
_MAX_AGE_MS = 250.0
"""Maximum automatic slop: in an older infrared frame objects are elsewhere."""


class Pairer(Generic[Payload]):
    """Pairing of two streams; see the module docstring for the policies. Not thread-safe.

    Attributes:
        policy: one of `PAIRING`; see `set_policy`.
        drops: dropped frames by cause: "zero_stamp", "duplicate_stamp", "backward_stamp" (rejected on arrival),
            "unpaired_rgb", "unpaired_ir" (no partner within the slop), "overflow" (the buffer was full while the other
            camera was alive: its frames arrive more than `depth` frames later), "previous_loop" (arrived after the
            other stream had restarted), "released_rgb", "released_ir" (used without a partner, see `release`).
        restarts: how often time jumped back, for example because a bag is played again.
        pairs: number of pairs made.
        reused: number of those whose infrared frame was in an earlier pair.
    """

    def __init__(
        self, slop_ms: float | None = None, offset_ms: float = 0.0, depth: int = 16, policy: str = "one_to_one"
    ) -> None:
        """
        Args:
            slop_ms: maximum distance of the frames of a pair, > 0; None: derived from the slower camera's period.
            offset_ms: how much later the infrared camera stamps the same moment; negative: earlier.
            depth: maximum number of frames of one stream that wait for a partner, at least 2.
            policy: one of `PAIRING`.

        Raises:
            ValueError: `slop_ms` is not above 0.
        """
        self.set_slop(slop_ms)
        self._offset_ns = round(offset_ms * _MS)
        self.depth = depth
        self.drops: Counter[str] = Counter()
        self.restarts = 0
        self.pairs = 0
        self.reused = 0
        self._queues: dict[Stream, Queue[Payload]] = {Stream.RGB: Queue(), Stream.IR: Queue()}
        self._arrivals = 0
        self._missed_gain_ns = 0
        self._nearest_miss_ns: int | None = None
        self._offsets: deque[int] = deque(maxlen=_OFFSETS)
        self._events: deque[str] = deque(maxlen=64)
        self._reported: set[str] = set()
        self._last_paired = -1  # arrival number of the infrared frame of the last pair
        self._lateness: deque[int] = deque(maxlen=_LATENESSES)
        self._rgb_per_ir: deque[int] = deque(maxlen=_LATENESSES)
        self._rgb_since_ir = 0
        self.set_policy(policy)

    # ---- in and out ----------------------------------------------------------------------------------------------

    def push(
        self, stream: Stream | str, stamp_ns: int, payload: Payload, time_ns: int | None = None
    ) -> list[Pair[Payload]]:
        """Add a frame of "rgb" or "ir" and return the pairs that are now certain, oldest first.

        `time_ns` is the time to pair by, such as the arrival time; None: the stamp.
        """
        stream = Stream(stream)
        pairs: list[Pair[Payload]] = []
        raw_ns = stamp_ns if time_ns is None else time_ns
        if time_ns is None and stamp_ns <= 0:
            self._refuse("zero_stamp", stream, "its header.stamp is zero: let the camera driver stamp its frames")
        elif self._admit(stream, raw_ns, pairs):
            frame = Frame(stamp_ns, payload, self._time(stream, raw_ns), self._arrivals)
            self._arrivals += 1
            self._queues[stream].accept(frame)
            self._update_rates(stream, frame)
            self._end_past_loop(stream.other, frame.time_ns)
            self._settle(pairs, final=False)
            self._bound(stream, pairs)
            self._report_dry_spell()
        return pairs

    def flush(self) -> list[Pair[Payload]]:
        """Pair now what waits for a nearer frame, for example at a bag's end or when a stream falls silent."""
        pairs: list[Pair[Payload]] = []
        self._settle(pairs, final=True)
        return pairs

    def release(self, stream: Stream | str) -> list[Frame[Payload]]:
        """Remove and return the frames of one stream that wait for a partner, oldest first, to use a camera alone."""
        stream = Stream(stream)
        queue = self._queues[stream]
        frames = [frame for frame in queue.frames if frame.arrival != self._last_paired]
        queue.frames.clear()
        if frames:
            self.drops[f"released_{stream.value}"] += len(frames)
        return frames

    def clear(self) -> None:
        """Reset both streams, for pairing by other times; waiting frames count as unpaired. Counters are kept."""
        for stream, queue in self._queues.items():
            self._drop_all(stream)
            queue.restart()
            queue.since_pair = 0
        self._lateness.clear()
        self._rgb_per_ir.clear()
        self._missed_gain_ns = 0
        self._nearest_miss_ns = None
        self._offsets.clear()

    @property
    def offset_ns(self) -> int:
        """Constant offset of the infrared camera; setting it also corrects the times of waiting frames."""
        return self._offset_ns

    @offset_ns.setter
    def offset_ns(self, offset_ns: int) -> None:
        queue, shift = self._queues[Stream.IR], self._offset_ns - offset_ns
        queue.frames = deque(replace(frame, time_ns=frame.time_ns + shift) for frame in queue.frames)
        queue.behind = [time_ns + shift for time_ns in queue.behind]
        queue.last_ns = None if queue.last_ns is None else queue.last_ns + shift
        self._offset_ns = offset_ns

    @property
    def slop_ns(self) -> int:
        """Maximum distance in force."""
        if self._given_slop_ns is not None:
            return self._given_slop_ns
        slowest = max(queue.period_ns or 0 for queue in self._queues.values())
        if self.policy == "one_to_one":
            slowest = 0
        return round(min(max(_SLOP_MS * _MS, _SLOP_PERIODS * slowest), _MAX_AGE_MS * _MS))

    def set_slop(self, slop_ms: float | None) -> None:
        """Change the maximum distance, also while frames wait; see the constructor."""
        if slop_ms is not None and not slop_ms > 0:
            raise ValueError(f"slop_ms must be above 0, got {slop_ms}")
        self._given_slop_ns = None if slop_ms is None else round(slop_ms * _MS)

    def set_policy(self, policy: str) -> None:
        """Change the policy, one of `PAIRING`, also while frames wait."""
        self.policy = policy
        if policy == "one_to_one":
            self.forget_last_pair()

    def forget_last_pair(self) -> None:
        """Stop reusing the infrared frame of the last pair, for example because its camera counts as silent."""
        frames = self._queues[Stream.IR].frames
        if frames and frames[0].arrival == self._last_paired:
            frames.popleft()

    def take_events(self) -> list[str]:
        """Return new events for the log: time jumps, zero stamps, clocks without a common time."""
        events = list(self._events)
        self._events.clear()
        return events

    def waiting(self, stream: Stream | str) -> int:
        """Number of frames of a stream without a partner so far: at most `depth`."""
        return sum(frame.arrival != self._last_paired for frame in self._queues[Stream(stream)].frames)

    @property
    def could_pair(self) -> bool:
        """Whether `flush` may make a pair of the waiting frames."""
        return all(queue.frames for queue in self._queues.values())

    @property
    def median_offset_ms(self) -> float | None:
        """Median IR time minus RGB time of the last pairs in milliseconds: a hint for `offset_ms`."""
        return sorted(self._offsets)[len(self._offsets) // 2] / _MS if self._offsets else None

    def period_ns(self, stream: Stream) -> int | None:
        """Median period of a stream; None before its second frame."""
        return self._queues[stream].period_ns

    # ---- admission -----------------------------------------------------------------------------------------------

    def _time(self, stream: Stream, stamp_ns: int) -> int:
        return stamp_ns - self._offset_ns if stream is Stream.IR else stamp_ns

    def _admit(self, stream: Stream, stamp_ns: int, pairs: list[Pair[Payload]]) -> bool:
        """Return whether a frame is accepted; detects time jumps."""
        queue, time_ns = self._queues[stream], self._time(stream, stamp_ns)
        if queue.last_ns is not None:
            step = time_ns - queue.last_ns
            if step == 0:
                return self._refuse("duplicate_stamp", stream, "it has the stamp of the frame before it")
            if step < 0 and not self._is_jump(queue, time_ns, step):
                return self._refuse("backward_stamp", stream, "it is older than the frame before it")
            if step < 0:
                self._restart(stream, time_ns, -step, pairs)
        return not (queue.in_past_loop and self._is_straggler(stream, time_ns))

    def _refuse(self, cause: str, stream: Stream, reason: str) -> bool:
        self.drops[cause] += 1
        if reason and (key := f"{cause} {stream.value}") not in self._reported:
            self._reported.add(key)
            self._events.append(f"{stream.value} frame dropped ({cause}): {reason}. Reported once, counted always")
        return False

    @staticmethod
    def _is_jump(queue: Queue[Payload], time_ns: int, step: int) -> bool:
        if -step > JUMP_MS * _MS:
            return True
        if queue.behind and time_ns <= queue.behind[-1]:
            queue.behind.clear()
        queue.behind.append(time_ns)
        return len(queue.behind) >= _STEPS_BACK

    def _restart(self, stream: Stream, time_ns: int, back_ns: int, pairs: list[Pair[Payload]]) -> None:
        """Handle a jump back of `stream` to `time_ns`: earlier frames are paired or dropped.

        If a bag restarts, the streams jump one after the other. The first jump restarts both; late frames of the other
        stream are then recognised because they are far ahead, and its own jump restarts only itself.
        """
        queue, other = self._queues[stream], self._queues[stream.other]
        expected = queue.in_past_loop
        if not expected:
            self._settle(pairs, final=True)
            self.restarts += 1
            self._missed_gain_ns = 0
            reason = f"{back_ns / 1e9:.1f} s on {stream.value} (a bag restarted, or a clock was set)"
            self._events.append(f"{JUMP_EVENT} {reason}: pairing restarted")
        self._drop_all(stream)
        queue.restart()
        while other.frames and self._is_ahead(other.frames[-1].time_ns, time_ns):
            self._drop(stream.other, other.frames.pop())
        if not expected:
            other.in_past_loop = other.last_ns is not None and self._is_ahead(other.last_ns, time_ns)

    def _is_straggler(self, stream: Stream, time_ns: int) -> bool:
        """Return whether a frame is from before the other stream's jump; if not, this stream has jumped too."""
        queue, other = self._queues[stream], self._queues[stream.other]
        if other.last_ns is not None and self._is_ahead(time_ns, other.last_ns):
            queue.last_ns = time_ns
            self.drops["previous_loop"] += 1
            return True
        queue.restart()
        return False

    def _end_past_loop(self, stream: Stream, others_ns: int) -> None:
        """Accept `stream` again once the other has caught up: it was one wrong stamp, not a new loop."""
        queue = self._queues[stream]
        if queue.in_past_loop and queue.last_ns is not None and not self._is_ahead(queue.last_ns, others_ns):
            queue.in_past_loop = False

    @staticmethod
    def _is_ahead(time_ns: int, of_ns: int) -> bool:
        return time_ns - of_ns > JUMP_MS * _MS

    # ---- the decision --------------------------------------------------------------------------------------------

    def _settle(self, pairs: list[Pair[Payload]], final: bool) -> None:
        """Pair or drop the oldest frames of both queues until a decision needs a frame that has not arrived."""
        queues = self._queues
        if self.policy != "one_to_one":
            self._settle_with_reuse(pairs, final)
            return
        while queues[Stream.RGB].frames and queues[Stream.IR].frames:
            rgb, ir = queues[Stream.RGB].frames[0], queues[Stream.IR].frames[0]
            early = Stream.RGB if rgb.time_ns <= ir.time_ns else Stream.IR
            distance = abs(rgb.time_ns - ir.time_ns)
            if distance > self.slop_ns:  # later frames of the other stream are farther away
                self._note_miss(ir.time_ns - rgb.time_ns)
                self._drop_oldest(early)
                continue
            gain, known = self._gain_of_waiting(early, distance)
            is_worth_dropping = gain > 0 and self._is_worth_dropping(early, gain)
            if is_worth_dropping and known:
                self._missed_gain_ns = 0
                self._drop_oldest(early)
                continue
            if is_worth_dropping and not final:
                return
            self._missed_gain_ns = max(0, self._missed_gain_ns + gain) if self._is_equal_rate() else 0
            queues[Stream.RGB].frames.popleft()
            queues[Stream.IR].frames.popleft()
            pairs.append(self._pair(rgb, ir))

    def _gain_of_waiting(self, early: Stream, distance: int) -> tuple[int, bool]:
        """Return by how much the early stream's second frame is nearer to the late one than its first.

        Also returns whether it is known: one that has not arrived is predicted from the stream's period.
        """
        queue, late_ns = self._queues[early], self._queues[early.other].frames[0].time_ns
        if len(queue.frames) > 1:
            return distance - abs(queue.frames[1].time_ns - late_ns), True
        period = queue.min_period_ns
        if period is None:
            return -distance, False
        return distance - abs(queue.frames[0].time_ns + period - late_ns), False

    def _is_worth_dropping(self, early: Stream, gain: int) -> bool:
        """Return whether a gain in nanoseconds justifies dropping the early stream's first frame."""
        period_early, period_late = self._queues[early].period_ns, self._queues[early.other].period_ns
        if period_early is None or period_late is None or self._is_equal_rate():
            period = period_early if period_early is not None else period_late
            return period is None or gain > period // 2 or self._missed_gain_ns + gain > 2 * period
        if period_early < period_late:
            return True  # the faster camera's frames are surplus
        return gain > period_early // 2  # the slower camera's are not, unless its frame would be far off

    def _is_equal_rate(self) -> bool:
        rgb, ir = self._queues[Stream.RGB].period_ns, self._queues[Stream.IR].period_ns
        return rgb is not None and ir is not None and min(rgb, ir) > _EQUAL_RATES * max(rgb, ir)

    def _settle_with_reuse(self, pairs: list[Pair[Payload]], final: bool) -> None:
        """Pair waiting RGB frames, oldest first, until one may still get a nearer infrared frame."""
        waiting, available = self._queues[Stream.RGB].frames, self._queues[Stream.IR].frames
        while waiting and available:
            rgb = waiting[0]
            ir = min(available, key=lambda frame: abs(frame.time_ns - rgb.time_ns))
            distance = abs(ir.time_ns - rgb.time_ns)
            if not final and self._nearer_is_coming(rgb.time_ns, available[-1], distance):
                return
            while available[0] is not ir:  # later RGB frames are no nearer to these
                self._drop_oldest(Stream.IR)
            if distance <= self.slop_ns:
                waiting.popleft()
                pairs.append(self._pair(rgb, ir))
            elif ir.time_ns >= rgb.time_ns:
                self._note_miss(ir.time_ns - rgb.time_ns)
                self._drop_oldest(Stream.RGB)
            else:  # whatever comes next is nearer
                self._note_miss(ir.time_ns - rgb.time_ns)
                self._drop_oldest(Stream.IR)

    def _nearer_is_coming(self, rgb_ns: int, newest: Frame[Payload], distance: int) -> bool:
        """Return whether to wait for an infrared frame nearer to the RGB frame of `rgb_ns` than `distance`."""
        rgb_period, period = self._queues[Stream.RGB].period_ns, self._queues[Stream.IR].period_ns
        rgb_period, period = rgb_period or period or 0, period or rgb_period or 0  # before a stream's second frame
        newest_ns = newest.time_ns
        if newest_ns >= rgb_ns or not period:
            return False
        ahead = period // 2 if self.policy == "nearest" else min(rgb_period, period) // 2
        expected_ns = newest_ns + (rgb_ns + ahead - newest_ns) // period * period
        patience = min(rgb_period, period // 2)
        if (newest.arrival == self._last_paired or distance > rgb_period // 2) and self._has_own_partners():
            # Each RGB frame has a partner of its own, also with irregular triggers and where messages overtake others.
            expected_ns, patience = rgb_ns, min(2 * rgb_period, round(_MAX_AGE_MS * _MS))
        if abs(expected_ns - rgb_ns) >= distance:
            return False
        now_ns = self._queues[Stream.RGB].last_ns or 0
        return now_ns < expected_ns + max(self._lateness, default=0) + patience

    def _has_own_partners(self) -> bool:
        """Return whether each RGB frame has its own infrared frame, by counts: triggers need not have a period."""
        counts = self._rgb_per_ir
        return sum(min(count, _MAX_COUNT) for count in counts) <= _SIMILAR_RATES * len(counts)

    def _update_rates(self, stream: Stream, frame: Frame[Payload]) -> None:
        """Count RGB frames between infrared frames, and how far RGB is ahead, by its times, when one arrives."""
        rgb_ns = self._queues[Stream.RGB].last_ns
        if stream is Stream.RGB:
            self._rgb_since_ir += 1
            return
        if self._queues[Stream.IR].intervals:
            self._rgb_per_ir.append(self._rgb_since_ir)
        self._rgb_since_ir = 0
        if rgb_ns is not None:
            self._lateness.append(min(max(0, rgb_ns - frame.time_ns), round(_MAX_AGE_MS * _MS)))

    def _pair(self, rgb: Frame[Payload], ir: Frame[Payload]) -> Pair[Payload]:
        for queue in self._queues.values():
            queue.since_pair = 0
        self._nearest_miss_ns = None
        self._reported.discard("dry spell")
        error_ns = ir.time_ns - rgb.time_ns
        if self.policy == "one_to_one" or abs(error_ns) <= (self._queues[Stream.RGB].period_ns or 0) // 2:
            self._offsets.append(error_ns + self._offset_ns)
        self.pairs += 1
        self.reused += ir.arrival == self._last_paired
        self._last_paired = ir.arrival
        return Pair(rgb.payload, ir.payload, rgb.stamp_ns, ir.stamp_ns, error_ns, rgb.time_ns)

    # ---- frames without a partner ---- ---------------------------------------------------------------------------

    def _bound(self, stream: Stream, pairs: list[Pair[Payload]]) -> None:
        """Limit `stream` to `depth` frames: pairs that wait for a nearer frame are made, then the oldest dropped."""
        queue, other = self._queues[stream], self._queues[stream.other]
        if len(queue.frames) > self.depth:
            self._settle(pairs, final=True)
        while len(queue.frames) > self.depth:
            if other.last_arrival > queue.frames[0].arrival != self._last_paired:
                first = queue.frames.popleft()
                # If the clocks are apart, nothing is known about which frames arrive late.
                reason = f"{self.depth} of them wait while {stream.other.value} frames arrive much later"
                apart = other.last_ns is None or abs(first.time_ns - other.last_ns) > APART_NS
                self._refuse("overflow", stream, "" if apart else reason)
            else:
                self._drop_oldest(stream)

    def _drop_oldest(self, stream: Stream) -> None:
        self._drop(stream, self._queues[stream].frames.popleft())

    def _drop(self, stream: Stream, frame: Frame[Payload]) -> None:
        if frame.arrival != self._last_paired:
            self.drops[f"unpaired_{stream.value}"] += 1

    def _drop_all(self, stream: Stream) -> None:
        while self._queues[stream].frames:
            self._drop_oldest(stream)

    def _note_miss(self, offset_ns: int) -> None:
        if self._nearest_miss_ns is None or abs(offset_ns) < abs(self._nearest_miss_ns):
            self._nearest_miss_ns = offset_ns

    def _report_dry_spell(self) -> None:
        """Report once that both cameras send and no frames form a pair."""
        if self._nearest_miss_ns is None or "dry spell" in self._reported:
            return
        if min(queue.since_pair for queue in self._queues.values()) >= _DRY_SPELL:
            self._reported.add("dry spell")
            remedy = "pair_by to arrival" if abs(self._nearest_miss_ns) > APART_NS else "ir_time_offset_ms"
            self._events.append(
                f"no pair in the last {_DRY_SPELL} frames of each camera: at the nearest, ir is stamped "
                f"{self._nearest_miss_ns / _MS:+.1f} ms off rgb, ir_time_offset_ms {self.offset_ns / _MS:g} taken out; "
                f"sync_slop_ms is {self.slop_ns / _MS:g}: synchronise the clocks, or set {remedy}"
            )
