"""Which gateway is tried next, and why none serves."""

from __future__ import annotations

import hypothesis.strategies as st
from fake_gateway import gateways
from hypothesis import given

from pipesd_agent.link.address import Address
from pipesd_agent.link.gateways import Gateway, Gateways
from pipesd_core.errors import Unauthorized, Unavailable

NOW = 50.0


def three() -> tuple[Gateways, list[Gateway]]:
    of = gateways("http://a", "http://b", "https://c")
    return of, of.in_attempt_order(NOW)


def names(listed: list[Gateway]) -> str:
    return "".join(gateway.address.http[-1] for gateway in listed)


def open_circuit(gateway: Gateway, failures: int = 1) -> None:
    for _ in range(failures):
        gateway.circuit._uniform = lambda _, high: high
        gateway.circuit.begin(NOW)
        gateway.circuit.failed(NOW, 10.0)


def test_the_first_that_may_be_tried_is_preferred() -> None:
    of, (a, b, c) = three()
    assert names(of.in_attempt_order(NOW)) == "abc"
    open_circuit(a)
    assert names(of.in_attempt_order(NOW)) == "bca"
    assert of.next_attempt_in(NOW) == 0.0
    open_circuit(b)
    open_circuit(c)
    c.circuit._until = NOW + 0.1
    assert names(of.in_attempt_order(NOW)) == "cab", "the one that is due first"
    assert abs(of.next_attempt_in(NOW) - 0.1) < 1e-9
    assert names(of.in_attempt_order(NOW + 20)) == "abc"


def test_one_that_drains_comes_last_until_it_has_ended() -> None:
    of, (a, b, _) = three()
    a.set_draining(NOW, 30.0)
    assert names(of.in_attempt_order(NOW)) == "bca"
    open_circuit(b)
    assert names(of.in_attempt_order(NOW)) == "cab"
    assert names(of.in_attempt_order(NOW + 30)) == "acb", "b has failed last"


def test_requests_beside_the_link_go_where_it_is_up_to() -> None:
    of, (_, _, c) = three()
    of.set_current(c)
    assert names(of.in_request_order()) == "cab"
    assert of.current_changed.is_set()
    of.current_changed.clear()
    of.set_current(None)
    assert names(of.in_request_order()) == "abc"
    assert not of.current_changed.is_set()


def test_why_none_serves() -> None:
    of, (a, b, c) = three()
    assert isinstance(of.error, Unavailable)
    for gateway in (a, b, c):
        gateway.error = Unauthorized(f"{gateway.address.http} refuses the key")
    assert isinstance(of.error, Unauthorized)
    b.error = Unavailable("cannot reach it")
    assert type(of.error) is Unavailable
    assert str(of.error) == "none of 3 gateways: http://a refuses the key; cannot reach it; https://c refuses the key"
    (only,) = (one := gateways("http://a")).in_attempt_order(NOW)
    only.error = Unavailable("it is down")
    assert one.error is only.error


def test_what_health_says() -> None:
    of, (a, b, _) = three()
    open_circuit(a, 2)
    b.circuit.connected(NOW)
    b.set_draining(NOW, 5.0)
    of.set_current(b)
    states = of.report(NOW)
    assert states[0] == {
        "url": "http://a",
        "connected": False,
        "circuit": "open",
        "failures": 2,
        "next_attempt_s": 0.5,
        "draining": False,
    }
    assert (states[1]["connected"], states[1]["draining"], states[1]["next_attempt_s"]) == (True, True, None)
    assert (states[2]["circuit"], states[2]["next_attempt_s"]) == ("closed", 0.0)
    assert of.report(NOW + 1)[0]["circuit"] == "half-open"


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.lists(st.booleans(), min_size=8, max_size=8))
def test_every_gateway_has_its_turn_and_nobody_waits_needlessly(failures: list[int], draining: list[bool]) -> None:
    of = gateways(*(f"http://h{number}" for number in range(len(failures))))
    given_order = of.in_attempt_order(NOW)
    for gateway, times, drains in zip(given_order, failures, draining, strict=False):
        open_circuit(gateway, times)
        gateway.set_draining(NOW, 9.0 * drains)
    order = of.in_attempt_order(NOW)
    assert sorted(map(id, order)) == sorted(map(id, given_order))
    waits = [gateway.circuit.wait(NOW) for gateway in order]
    assert waits == sorted(waits)
    assert of.next_attempt_in(NOW) == waits[0]
    ready = [gateway for gateway in given_order if gateway.circuit.wait(NOW) == 0]
    if ready:
        assert order[0] is next((gateway for gateway in ready if not gateway.draining(NOW)), ready[0])
        later = of.in_attempt_order(NOW + 10)
        assert [gateway.circuit.failures > 0 for gateway in later] == sorted(times > 0 for times in failures)


def test_whoever_asks_is_told_whether_there_is_a_link() -> None:
    told: list[bool] = []
    gateways = Gateways([Address.parse("http://127.0.0.1:1")], told.append)
    (gateway,) = gateways.in_attempt_order(0.0)
    gateways.set_current(gateway)
    gateways.set_current(None)
    assert told == [True, False]
