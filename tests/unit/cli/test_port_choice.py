"""Which port a listener gets."""

from __future__ import annotations

import pytest

from headrace_cli.mesh.ports import PortChoice, PortTakenError, choose_port, first_free_ports


def choose(asked: int | None, *, taken: frozenset[int] = frozenset()) -> PortChoice:
    return choose_port(asked=asked, default=8081, option="--grpc-port", is_free=lambda port: port not in taken)


def test_the_default_is_used_while_it_is_free_and_may_be_given_up() -> None:
    assert choose(None) == PortChoice(port=8081, flexible=True)


def test_a_taken_default_falls_back_to_any_port() -> None:
    assert choose(None, taken=frozenset({8081})) == PortChoice(port=0, flexible=True)


def test_zero_means_any_port() -> None:
    assert choose(0) == PortChoice(port=0, flexible=True)


def test_a_port_asked_for_by_number_is_never_replaced() -> None:
    assert choose(9000, taken=frozenset({8081})) == PortChoice(port=9000, flexible=False)


def test_a_taken_port_asked_for_by_number_is_refused_with_the_way_out() -> None:
    with pytest.raises(PortTakenError, match=r"port 9000 is taken.*--grpc-port, or 0"):
        choose(9000, taken=frozenset({9000}))


def test_metrics_ports_go_upward_past_taken_ones() -> None:
    assert first_free_ports(start=9464, count=3, is_free=lambda port: port not in {9464, 9466}) == [9465, 9467, 9468]


def test_metrics_ports_that_can_not_be_found_are_left_to_the_kernel() -> None:
    assert first_free_ports(start=65_534, count=4, is_free=lambda _port: True) == [65_534, 65_535, 0, 0]
