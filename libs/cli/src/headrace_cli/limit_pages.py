"""Limits and how they stand, for people: tables, bars and plain lines."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from rich.text import Text

from headrace_cli.presentation import enum_text, table, words

if TYPE_CHECKING:
    from rich.table import Table

    from headrace_client.contracts.headrace.quota.v1 import quotas_pb2

_BAR_CHARS = 20
_WARN_PART, _BAD_PART = 0.8, 1.0
UNKNOWN = "?"


def limit_page(limits: Iterable[quotas_pb2.Limit], own: Iterable[quotas_pb2.Limit], plan: str) -> Table:
    """The limits that hold, each with where it comes from."""
    owned = [limit.SerializeToString(deterministic=True) for limit in own]
    shown = table("model", "resource", ">amount", "window", "burst", "from")
    for limit in limits:
        is_own = limit.SerializeToString(deterministic=True) in owned
        shown.add_row(
            words(limit.model or "all", "name"),
            enum_text(limit, "resource"),
            f"{limit.amount:,}",
            window_text(limit),
            f"{limit.burst:,}" if limit.burst else "",
            Text("own") if is_own else words(f"plan {plan}", "quiet"),
        )
    return shown


def usage_page(usages: Iterable[tuple[str, quotas_pb2.LimitUsage]], *, now: datetime) -> Table:
    """How limits stand, a bar each; in front the tenant, if there is one."""
    rows = list(usages)
    with_tenant = any(tenant for tenant, _ in rows)
    shown = table(*(("tenant",) if with_tenant else ()), "limit", ">used", ">held", ">of", "", ">", "starts anew")
    for tenant, usage in rows:
        shown.add_row(
            *((words(tenant, "name"),) if with_tenant else ()),
            words(name_text(usage.limit)),
            f"{usage.used:,}" if usage.HasField("used") else UNKNOWN,
            f"{usage.held:,}",
            f"{usage.limit.amount:,}",
            _bar(usage),
            f"{_part(usage):.0%}" if usage.HasField("used") else "",
            _anew_text(usage, now),
        )
    return shown


def usage_line(tenant: str, usage: quotas_pb2.LimitUsage) -> str:
    """How a limit stands, on a line of its own."""
    used = str(usage.used) if usage.HasField("used") else UNKNOWN
    subject = f"{tenant} " * bool(tenant)
    return f"{subject}{name_text(usage.limit)} used={used} held={usage.held} of={usage.limit.amount}"


def name_text(limit: quotas_pb2.Limit) -> str:
    """`magika:tokens/10s`: what a limit counts and over what time."""
    text = f"{limit.model}:" * bool(limit.model) + enum_text(limit, "resource")
    window = enum_text(limit, "window")
    return text if window == "moment" else f"{text}/{window_text(limit)}"


def window_text(limit: quotas_pb2.Limit) -> str:
    """`day`, `10s sliding`, `at once`."""
    window = enum_text(limit, "window")
    if window == "moment":
        return "at once"
    if window != "rate":
        return window
    seconds = limit.period.ToMilliseconds() / 1_000
    return f"{seconds:g}s" + " sliding" * (enum_text(limit, "algorithm") == "sliding_window")


def _part(usage: quotas_pb2.LimitUsage) -> float:
    return usage.used / max(1, usage.limit.amount, usage.limit.burst)


def _bar(usage: quotas_pb2.LimitUsage) -> Text:
    """Full blocks for what is used, light ones for what is held."""
    if not usage.HasField("used"):
        return Text("")
    most = max(1, usage.limit.amount, usage.limit.burst)
    part = usage.used / most
    used = min(_BAR_CHARS, round(part * _BAR_CHARS))
    held = min(_BAR_CHARS - used, round(usage.held / most * _BAR_CHARS))
    style = "bad" if part >= _BAD_PART else "warn" if part >= _WARN_PART else "good"
    return Text.assemble(("█" * used, style), ("▒" * held, "quiet"), ("·" * (_BAR_CHARS - used - held), "quiet"))


def _anew_text(usage: quotas_pb2.LimitUsage, now: datetime) -> str:
    """`in 1:02:03`; days in front where there are any."""
    if not usage.HasField("reset_time"):
        return ""
    left_s = max(0, usage.reset_time.seconds - int(now.timestamp()))
    days, rest = divmod(left_s, 86_400)
    return "in " + f"{days}d " * bool(days) + f"{rest // 3600}:{rest % 3600 // 60:02}:{rest % 60:02}"
