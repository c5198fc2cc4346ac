"""Names in certificates."""

from __future__ import annotations

import pytest

from headrace_common.spiffe import RunnerIdentity, runner_identity, service_uri


@pytest.mark.parametrize(("tenant", "name"), [("", ""), ("", "gpu-1"), ("acme", ""), ("acme", "gpu-1.east")])
def test_a_runners_name_is_read_as_it_was_made(tenant: str, name: str) -> None:
    uri = service_uri("runner", tenant=tenant, name=name)
    assert runner_identity(uri) == RunnerIdentity(uri=uri, tenant=tenant, name=name)
    assert runner_identity(uri, trust_domain="other") is None


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "spiffe://headrace",
        "spiffe://headrace/",
        "spiffe://headrace/gateway",
        "spiffe://headrace/runner/",
        "spiffe://headrace/runner/a/b",
        "spiffe://headrace//runner",
        "spiffe://headrace/tenant/runner",
        "spiffe://headrace/tenant//runner",
        "spiffe://headrace/tenant/*/runner",
        "spiffe://headrace/tenant/Acme/runner",
        "spiffe://headrace/tenant/acme/gateway",
        "spiffe://headrace/runner?x=1",
        "spiffe://headrace/runner#x",
        "spiffe://headrace/runner/..",
        "spiffe://headrace/runner/%2e",
        "spiffe://headrace.evil/runner",
        "spiffe://headrace@evil/runner",
        "SPIFFE://headrace/runner",
        "https://headrace/runner",
        "spiffe://headrace/runner/" + "x" * 129,
    ],
)
def test_whatever_else_is_no_runners_name(uri: str) -> None:
    assert runner_identity(uri) is None


@pytest.mark.parametrize(
    "parts",
    [{"service": "a/b"}, {"service": "runner", "name": ".."}, {"service": "runner", "tenant": "A"}],
)
def test_a_name_that_would_mean_something_else_is_not_made(parts: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="has"):
        service_uri(**parts)
    with pytest.raises(ValueError, match="trust domain"):
        service_uri("runner", trust_domain="Head Race")
