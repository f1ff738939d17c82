"""Estimates how long the uplink is busy with a message, apart from its delay: a Kalman filter with change detection.

A message that is handed to the socket at t begins to leave when the one before has left, and occupies the link for
a + b * bytes; it arrives when it has left, plus a constant (one-way delay, and the difference of the two clocks):

    arrival[k] = max(t[k] + constant, arrival[k-1]) + a + b * bytes[k]

The socket's buffer swallows messages at once, so only the gateway's arrival stamps tell. Each of them is a linear
equation in (constant, a, b), in b and a alone where the message had to queue. They are solved recursively (a Kalman
filter), with Huber's bound on what a single stamp can do; two deviations in a row to the same side are a change, after
which the estimate is as open as at the start, along the two ways in which links do change: another rate, which scales
a and b together (headers that `bytes` does not count are what a is, mostly), or another constant. On a link that is
never busy when the next message comes the constant takes all, and a and b stay where they are: at 0.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from msgspec import Struct

HEADER_BYTES: Final = 52
"""Bytes of TCP (with timestamps) and IPv4, which no size counts: the share of a that is known beforehand, in units of
b."""
KEPT: Final = 512
"""Messages remembered; stamps of older ones are of no use."""
REACH: Final = 64
"""Messages without a stamp that a computation goes back over at most."""
LARGE: Final = 10_000
"""Bytes from which on TCP needs round trips of its own (its initial window): such a message tells little."""
LARGE_S: Final = 0.1
LEAST_NOISE_S: Final = 1e-4
MOST_NOISE_S: Final = 0.05
LOST_S: Final = 30.0
"""No arrival deviates by so much: the gateway's clock is another one."""
DETECTABLE_S: Final = 2e-4
"""An occupancy below this cannot be told from 0."""
SLOPE_PRIOR: Final = 1e-3
"""Standard deviation of b before anything is known: 8 kbit/s."""
CONSTANT_PRIOR_S: Final = 10.0
EXTRA_PRIOR_S: Final = 1e-3
"""Standard deviation of a, besides what headers explain."""
WANDER: Final = 0.02
"""Relative standard deviation of a and b, per square root of a second."""
IDLE_S: Final = 2.0
IDLE_WANDER: Final = 0.5
"""That, where nothing was sent for longer: it may be quite another rate, and the first messages tell."""
DRIFT: Final = 1.0
"""Standard deviation of the constant, as a multiple of the noise, per square root of a second: clocks, moving delay."""
LONG: Final = 256
"""Bytes of messages that tell the slope, if they are many times the usual ones; few, and judged by themselves."""
CHANGE: Final = 3
"""Deviations in a row that may be a change."""
LONG_RUN: Final = 2
QUEUED_RUN: Final = 6
"""Deviations in a row that may be a change, of long messages only, and of messages only that had to queue."""
QUIET: Final = 100
THINNED: Final = 4
"""After so many as expected, only one in so many of those that still are is reckoned in: all of this costs time."""
TRIALS: Final = (15, 30, 60)
"""Messages since the change, with it, after which it is looked at again."""
BOUND: Final = 3.0
"""Standard deviations that a single stamp counts for at most."""


class Occupancy(Struct, frozen=True):
    """Time that the uplink is busy with a message: `message_s` + `byte_s` * bytes (WebSocket's header included, TCP's
    not). 0.0, both, where it cannot be told from nothing. spread: relative standard deviation for a usual message."""

    message_s: float = 0.0
    byte_s: float = 0.0
    spread: float = 1.0


class _Message(Struct):
    sent: float
    size: float
    arrival: float | None = None


class Uplink:
    """The uplink of one agent, whose sessions share it. Times in seconds.

    Call `sent` for every message as it is handed to the socket, `arrived` when its arrival is known, and `restart`
    where the link is a new one.
    """

    def __init__(self, header_bytes: float = HEADER_BYTES) -> None:
        self.constant = 0.0
        """Estimated: one-way delay and difference of clocks."""
        self.noise = 1e-3
        """Standard deviation of arrivals."""
        self.changes = 0
        """How often it was found changed."""
        self._header = header_bytes
        self._message_s = self._byte_s = 0.0
        # Of (constant, a, b), symmetric.
        h, slope = header_bytes, SLOPE_PRIOR**2
        self._p = (CONSTANT_PRIOR_S**2, 0.0, 0.0, slope * h * h + EXTRA_PRIOR_S**2, slope * h, slope)
        self._messages: deque[_Message] = deque()
        self._first = 0
        self._clock: float | None = None
        """The gateway's, at the last arrival known; stamps are modulo a period."""
        self._updated = 0.0
        self._deviating: list[tuple[int, float]] = []
        """Messages in a row that were beyond the bound, to the same side, and by how much."""
        self._long_run = self._queued_run = 0
        """Deviations in a row of long messages, and of those that had to queue; negative: below."""
        self._rival: tuple[float, float, float] | None = None
        """(constant, a, b) that would have explained the last change as well, for a while."""
        self._trial: list[int] = []
        self._quiet = 0
        """Messages in a row that were as expected."""
        self._quiet_bound = 0.0
        self._usual = 20.0

    def restart(self) -> None:
        """The link is a new one, perhaps to another gateway: nothing of the constant is known."""
        for message in self._messages:
            message.arrival = None
        self._clock = None
        self._deviating.clear()

    def sent(self, size: int, now: float) -> int:
        """A message of `size` bytes was handed to the socket. Returns its number, counted from 0."""
        if len(self._messages) >= KEPT:
            self._messages.popleft()
            self._first += 1
        self._messages.append(_Message(now, float(size)))
        return self._first + len(self._messages) - 1

    def arrived(self, number: int, stamp_s: float, period_s: float) -> float | None:
        """Message `number` arrived at `stamp_s` of the gateway's clock, which is known modulo `period_s`.

        Returns: the same on a clock that goes on, that of `constant`. None: it cannot be.
        """
        at = number - self._first
        if not 0 <= at < len(self._messages):
            return None
        message = self._messages[at]
        if self._clock is None:
            self._clock = stamp_s
            self._anchor(message, stamp_s)
        else:
            ahead = (stamp_s - self._clock) % period_s
            self._clock += ahead if ahead < period_s / 2 else ahead - period_s
        message.arrival = self._clock
        self._observe(number)
        return message.arrival

    @property
    def occupancy(self) -> Occupancy:
        """The estimate."""
        a, b, s = self._message_s, self._byte_s, self._usual
        total = a + b * s
        _, _, _, aa, ab, bb = self._p
        deviation = max(0.0, aa + 2 * s * ab + s * s * bb) ** 0.5
        if total < max(DETECTABLE_S, self.noise / 2, 2 * deviation):
            return Occupancy()
        return Occupancy(a, b, deviation / total)

    # Inside.

    def _anchor(self, message: _Message, arrival: float) -> None:
        """The first stamp of a link: the constant is about what it says; a and b stay what they were believed to be."""
        self.constant = arrival - message.sent - self._message_s - self._byte_s * message.size
        _, _, _, aa, ab, bb = self._p
        self._p = (CONSTANT_PRIOR_S**2, 0.0, 0.0, aa, ab, bb)
        self._updated = message.sent

    def _predict(self, at: int, constant: float, a: float, b: float) -> tuple[float, float, float, float]:
        """When message `at` should have arrived; and how much of the constant, of a and of b is in that."""
        messages = self._messages
        if at and (free := messages[at - 1].arrival) is not None:  # the usual case, and a fast one
            message = messages[at]
            size, start = message.size, message.sent + constant
            if start > free:
                return start + a + b * size, 1.0, 1.0, size
            return free + a + b * size, 0.0, 1.0, size
        known = at - 1
        lowest = max(0, at - REACH)
        while known >= lowest and messages[known].arrival is None:
            known -= 1
        free = messages[known].arrival if known >= lowest else None
        of_constant = of_a = of_b = 0.0
        for index in range(known + 1, at + 1):
            message = messages[index]
            if free is None or message.sent + constant > free:
                free = message.sent + constant
                of_constant, of_a, of_b = 1.0, 0.0, 0.0
            free += a + b * message.size
            of_a += 1.0
            of_b += message.size
        assert free is not None
        return free, of_constant, of_a, of_b

    def _observe(self, number: int) -> None:
        message = self._messages[number - self._first]
        assert message.arrival is not None
        expected, h0, h1, h2 = self._predict(number - self._first, self.constant, self._message_s, self._byte_s)
        error = message.arrival - expected
        short = message.size <= max(LONG, 4 * self._usual)
        if short and self._quiet > QUIET and number % THINNED and abs(error) < self._quiet_bound:
            return
        if abs(error) > LOST_S:
            self._clock = message.arrival = None
            return
        self._age(message.sent)
        usual = self._usual
        self._usual = usual + 0.05 * (min(message.size, 4 * usual + 64) - usual)
        noise = self.noise**2 + (LARGE_S**2 if h2 > LARGE else 0.0)
        variance = self._spread(h0, h1, h2)
        bound = BOUND * (variance + noise) ** 0.5
        if not h0:
            self._queued_run = _run(self._queued_run, error, bound)
        if not short:
            self._long_run = _run(self._long_run, error, bound)
            if abs(self._long_run) >= LONG_RUN:
                self._long_run = 0
                self._open_up(error * self._usual / h2, error / h2)
                variance = self._spread(h0, h1, h2)
            else:
                error = min(max(error, -bound), bound)
        elif abs(error) > bound:
            if self._deviating and (self._deviating[-1][1] > 0) != (error > 0):
                self._deviating.clear()
            self._deviating.append((number, error))
            self._quiet = 0
            self._noisy(error, variance)
            if len(self._deviating) >= CHANGE:
                if self._changed():
                    return
                error = min(max(error, -bound), bound)
            elif abs(self._queued_run) >= QUEUED_RUN:
                self._queued_run = 0
                self._open_up(error / h1, 0.0)
                variance = self._spread(h0, h1, h2)
            else:
                return
        else:
            self._deviating.clear()
            self._noisy(error, variance)
            self._quiet += 1
            self._quiet_bound = bound
        self._correct(error, variance + noise, h0, h1, h2)
        if self._rival is not None:
            self._try(number)

    def _noisy(self, error: float, variance: float) -> None:
        noise = self.noise**2
        rest = min(max(error * error - variance, 0.0), BOUND**2 * noise)
        self.noise = min(MOST_NOISE_S, max(LEAST_NOISE_S, (noise + 0.03 * (rest - noise)) ** 0.5))

    def _spread(self, h0: float, h1: float, h2: float) -> float:
        cc, ca, cb, aa, ab, bb = self._p
        return max(0.0, h0 * h0 * cc + h1 * h1 * aa + h2 * h2 * bb + 2 * (h0 * h1 * ca + h0 * h2 * cb + h1 * h2 * ab))

    def _correct(self, error: float, variance: float, h0: float, h1: float, h2: float) -> None:
        cc, ca, cb, aa, ab, bb = self._p
        g0 = cc * h0 + ca * h1 + cb * h2
        g1 = ca * h0 + aa * h1 + ab * h2
        g2 = cb * h0 + ab * h1 + bb * h2
        step = error / variance
        self.constant += g0 * step
        self._message_s = max(0.0, self._message_s + g1 * step)
        self._byte_s = max(0.0, self._byte_s + g2 * step)
        self._p = (
            max(1e-14, cc - g0 * g0 / variance),
            ca - g0 * g1 / variance,
            cb - g0 * g2 / variance,
            max(1e-14, aa - g1 * g1 / variance),
            ab - g1 * g2 / variance,
            max(1e-18, bb - g2 * g2 / variance),
        )

    def _age(self, now: float) -> None:
        """Time has passed: what is known is a little older."""
        seconds = now - self._updated
        if seconds <= 0.0:
            return
        self._updated = now
        seconds = min(60.0, seconds)
        cc, ca, cb, aa, ab, bb = self._p
        a, b = self._message_s, self._byte_s
        w = WANDER * WANDER * seconds if seconds < IDLE_S else IDLE_WANDER * IDLE_WANDER
        drift = DRIFT * self.noise
        self._p = (
            min(cc + drift * drift * seconds, CONSTANT_PRIOR_S**2),
            ca,
            cb,
            aa + w * a * a,
            ab + w * a * b,
            bb + w * b * b,
        )

    def _open_up(self, a_error: float, b_error: float) -> None:
        """Messages of one kind keep deviating while others do not: a and b are not parted as was believed."""
        cc, ca, cb, aa, ab, bb = self._p
        self._p = (cc + a_error**2, ca, cb, aa + a_error**2, ab, bb + b_error**2)

    def _changed(self) -> bool:
        """Another rate, or another constant? Whichever explains what deviated; False: neither does."""
        # The first may have travelled while the change came.
        deviating = [number for number, _ in self._deviating[1:] if number >= self._first]
        self._deviating.clear()
        constant, a, b = self.constant, self._message_s, self._byte_s
        before = self._misfit(deviating, constant, a, b)
        detectable = a + b * self._usual > max(DETECTABLE_S, self.noise)
        if not a + b * self._usual > 1e-6:
            a, b = self._header * 1e-9, 1e-9
        other_constant, other_rate = [], []
        for number in deviating:
            at = number - self._first
            message = self._messages[at]
            assert message.arrival is not None
            took = message.arrival - message.sent
            fitting = took - self._message_s - self._byte_s * message.size
            other_constant.append(
                (
                    self._misfit(deviating, fitting, self._message_s, self._byte_s),
                    fitting,
                    self._message_s,
                    self._byte_s,
                )
            )
            took -= constant
            if at and (previous := self._messages[at - 1].arrival) is not None:
                took = min(took, message.arrival - previous)
            if (scale := took / (a + b * message.size)) > 0:
                misfit = self._misfit(deviating, constant, a * scale, b * scale)
                other_rate.append((misfit, constant, a * scale, b * scale))
        candidates = [min(other_constant)] if not other_rate else [min(other_rate), min(other_constant)]
        # Where both explain it: the rate, if the link is known to be narrow.
        slack, favour = self.noise / 2, 2.0 if detectable else 0.5
        candidates.sort(key=lambda found: (found[0] + slack) * (favour if found[1] != constant else 1.0))
        if candidates[0][0] > before / 2:
            return False
        self._adopt(*candidates[0][1:])
        self._rival = candidates[1][1:] if len(candidates) > 1 else None
        self._trial = deviating
        return True

    def _adopt(self, constant: float, a: float, b: float) -> None:
        """A state that arrivals, not the filter, have told."""
        self.changes += 1
        moved = constant - self.constant
        scaled = a != self._message_s or b != self._byte_s
        self.constant, self._message_s, self._byte_s = constant, a, b
        cc, ca, cb, aa, ab, bb = self._p
        w = 0.3**2 if scaled else 0.0
        c = (0.1 * moved) ** 2 + self.noise**2
        self._p = (cc + c, ca, cb, aa + w * a * a, ab + w * a * b, bb + w * b * b)

    def _try(self, number: int) -> None:
        """A little later: was it the other one after all?"""
        self._trial.append(number)
        rival = self._rival
        if rival is None or len(self._trial) not in TRIALS:
            return
        if len(self._trial) == TRIALS[-1]:
            self._rival = None
        numbers = [n for n in self._trial[CHANGE:] if n >= self._first and self._messages[n - self._first].arrival]
        if not numbers:
            return
        misfit = self._misfit(numbers, self.constant, self._message_s, self._byte_s)
        if self._misfit(numbers, *rival) < min(0.85 * misfit, misfit - self.noise / 4):
            self._rival = None
            self._adopt(*rival)

    def _misfit(self, numbers: list[int], constant: float, a: float, b: float) -> float:
        """Seconds that the arrivals of these messages are beside what they should be, in the mean."""
        total = 0.0
        for number in numbers:
            arrival = self._messages[number - self._first].arrival
            assert arrival is not None
            total += abs(arrival - self._predict(number - self._first, constant, a, b)[0])
        return total / len(numbers)


def _run(run: int, error: float, bound: float) -> int:
    """Deviations in a row, negative below."""
    if abs(error) <= bound:
        return 0
    return max(run, 0) + 1 if error > 0 else min(run, 0) - 1
