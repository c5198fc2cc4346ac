"""What a gateway can be told."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from headrace_common.addresses import is_loopback
from headrace_common.catalogue import SETTING_MISSING
from headrace_common.errors import ConfigError
from headrace_common.settings import CommaList, CommaPairs, ServiceSettings
from headrace_common.spiffe import DEFAULT_TRUST_DOMAIN
from headrace_gateway.inference.resilience.limits import ResilienceLimits
from headrace_gateway.inference.routing_rules import DEVICE_PREFERENCE, Policy, RoutingRules
from headrace_gateway.mesh.placement import PlacementPolicy, ScalingRule
from headrace_gateway.mesh.placement.prewarm import NAMED


class GatewaySettings(ServiceSettings):
    """Settings of one gateway process; the shared ones are in `ServiceSettings`."""

    service: ClassVar[str] = "gateway"

    name: str = Field("gateway-0", pattern=r"^[a-z0-9][a-z0-9.-]{0,62}$", description="Name in logs and metrics.")
    grpc_address: str = Field("127.0.0.1:8081", description="host:port of the public listener; port 0 means any.")
    share_port: bool = Field(
        False,
        description="Let other gateways on this machine listen on the same public port; new connections go to any.",
    )
    front_address: str | None = Field(
        None, description="host:port of a second public listener, without TLS, for HTTP fronts on this machine."
    )
    public_tls: bool = Field(
        True, description="Serve clients by TLS where there is a certificate; false is for a proxy that ends TLS."
    )
    public_tls_certificate_file: Path | None = Field(
        None, description="PEM chain of the public listener; empty means that of HEADRACE_TLS_CERTIFICATE_FILE."
    )
    public_tls_key_file: Path | str | None = Field(
        None, description="PEM private key that belongs to it: a file (0600) or vault://path#key."
    )
    public_tls_ca_file: Path | None = Field(
        None, description="PEM authorities of which clients need a certificate; empty means that they need none."
    )
    mesh_address: str = Field("127.0.0.1:0", description="host:port that runners dial; port 0 means any.")
    join_tokens_file: Path | None = Field(
        None, description="Digests of the tokens that runners join with, made by `headrace runners token create`."
    )
    trust_domain: str = Field(
        DEFAULT_TRUST_DOMAIN,
        pattern=r"^[a-z0-9._-]{1,255}$",
        description="Of the names in runners' certificates, spiffe://<trust domain>/runner.",
    )
    quota_address: str = Field(min_length=1, description="host:port of the quota service.")
    registry_address: str = Field(min_length=1, description="host:port of the registry service.")
    community: bool = Field(
        False, description="Accept the well-known key 'community'. Only where every listener is loopback."
    )
    reflection: Literal["open", "keyed", "off"] = Field(
        "keyed", description="Who may list the public services: anyone, callers with a key, or nobody."
    )
    stream_calls_max: int = Field(
        16_384,
        ge=2,
        description="Calls in flight of all streams and batches; more are refused one by one. At most half of them may "
        "wait for one tenant.",
    )
    tenant_streams_max: int = Field(
        500,
        ge=1,
        description="Streams of requests or answers that a tenant may have open; more are refused. One whose end is "
        "not read stays open.",
    )
    bulkhead_runner_calls: int = Field(100, ge=1, description="Calls that this gateway has at one runner at once.")
    bulkhead_model_calls: int = Field(100, ge=1, description="Calls of one model version at runners at once.")
    bulkhead_tenant_calls: int = Field(100, ge=1, description="Calls of one tenant at runners at once.")
    bulkhead_waiting_room: int = Field(
        50, ge=0, description="Unary calls that may wait beside those, for each model and tenant; more are refused."
    )
    retry_ratio: float = Field(0.1, ge=0, le=1, description="Retries and hedges for each call, at most.")
    retry_floor_per_s: float = Field(
        10.0, ge=0, description="Retries and hedges a second that are allowed however few calls there are."
    )
    breaker_volume: int = Field(
        20, ge=1, description="Calls to a replica within ten seconds before its circuit breaker judges."
    )
    breaker_ratio: float = Field(0.5, gt=0, le=1, description="Share of failed calls that opens a circuit breaker.")
    breaker_open_s: float = Field(5.0, gt=0, description="How long a circuit breaker stays open, seconds.")
    breaker_successes: int = Field(2, ge=1, description="Good answers in a row that close a circuit breaker.")
    outlier_failures: int = Field(5, ge=1, description="Failures in a row that eject a runner.")
    outlier_eject_s: float = Field(
        5.0, gt=0, description="How long a runner is ejected at first, seconds; twice as long each time after."
    )
    request_bytes_max: int = Field(
        512 << 20, ge=1 << 16, description="Bytes of all inference requests held at once; more are refused."
    )
    result_bytes_max: int = Field(
        512 << 20, ge=1 << 16, description="Room for large results on their way from all runners, bytes."
    )
    routing: Literal["least_cost", "latency", "round_robin", "cheapest"] = Field(
        "least_cost", description="How a replica is chosen, where the model's manifest says nothing."
    )
    tenant_routing: CommaPairs = Field({}, description="The same for single tenants, as tenant=policy,….")
    device_preference: CommaList = Field(
        DEVICE_PREFERENCE, description="Device types, most preferred first, for models whose manifest names none."
    )
    device_wait_ratio: float = Field(
        4.0,
        ge=0,
        description="A less preferred device gets a call when waiting for a better one takes this many times as long "
        "as all of the call there; 0 means only when no better one can be used.",
    )
    slow_start_s: float = Field(
        10.0, ge=0, le=600, description="Time in which a new or recovered replica gets up to its share, seconds."
    )
    affinity_slack: float = Field(
        0.5,
        ge=0,
        description="How many more calls for each slot than the least busy replica the one may have that computed the "
        "beginning of a prompt; 0 sends prompts to the least busy only.",
    )
    prewarm: CommaList = Field(
        (), description="Models to load at the start and keep, as tenant/model or tenant/model:version,…."
    )
    model_keep_s: float = Field(
        300.0, ge=10, le=86_400, description="How long runners are asked to keep a model after its last call, seconds."
    )
    cutover_wait_s: float = Field(
        120.0,
        ge=0,
        le=86_400,
        description="How long a new version may take to be loaded on as many runners as the one before, seconds.",
    )
    scale_up_queue_wait_s: float = Field(
        0.1, gt=0, description="Queue wait above which a model gets another replica, its queue delay not counted, s."
    )
    scale_up_after_s: float = Field(5.0, ge=0, description="How long the wait must stay above that, seconds.")
    scale_down_after_s: float = Field(
        300.0, ge=0, description="How long a model must need a replica less before it has one less, seconds."
    )
    generate_timeout_s: float = Field(
        600.0, gt=0, description="Time of a call that generates, all of it, whose client states none, seconds."
    )
    oidc_issuer: str | None = Field(
        None, min_length=1, description="Issuer whose tokens callers may sign in with, to the letter; none by default."
    )
    oidc_audience: str | None = Field(None, min_length=1, description="The audience that such tokens must have.")
    oidc_jwks: str | None = Field(
        None, min_length=1, description="JWK set of the issuer's keys: an https URL or a path; read again now and then."
    )
    oidc_algorithms: CommaList = Field(
        ("RS256", "ES256"), description="Algorithms by which such tokens may be signed; never a symmetric one."
    )
    oidc_clock_skew_s: float = Field(
        30.0, ge=0, le=300, description="How far the clocks of issuer and gateway may be apart, seconds."
    )
    oidc_tenant_claim: str = Field(
        "tenant", min_length=1, description="Claim that names the tenant; dots lead into others."
    )
    oidc_roles_claim: str = Field(
        "roles", min_length=1, description="Claim that lists the roles; dots lead into others."
    )
    oidc_roles: CommaPairs = Field(
        {}, description="What the words of that claim mean, as word=role,…; empty where they are roles themselves."
    )
    oidc_refresh_s: float = Field(
        300.0, ge=1, le=86_400, description="Pause between readings of the issuer's keys, seconds."
    )
    principal_ttl_s: float = Field(
        60.0, ge=5, le=300, description="Life of the signed principal that upstream services get, seconds."
    )
    spool_dir: Path | None = Field(
        None,
        description="Folder for usage records that quota doesn't have yet; must outlive the process. Empty means "
        "`spool` in the state directory.",
    )
    spool_bytes_max: int = Field(
        256 << 20,
        ge=16 << 20,
        description="Bytes of usage records that are kept at most; when full, calls are refused.",
    )
    spool_drain_s: float = Field(
        2.0, ge=0, le=60, description="How long a stopping gateway goes on sending usage records, seconds."
    )
    transfer_timeout_s: float = Field(
        3_600.0, gt=0, description="Deadline of an upload or download whose client sent none, seconds."
    )
    forward_margin_s: float = Field(
        0.02, ge=0, le=5, description="Taken off a deadline when a call is passed on, so that we answer first, seconds."
    )


def placement_policy(settings: GatewaySettings) -> PlacementPolicy:
    """The settings that say which models runners are asked to have.

    Raises:
        ConfigError: SETTING_INVALID: an entry of the prewarm list names no model.
    """
    for name in settings.prewarm:
        if not NAMED.fullmatch(name):
            variable = settings.variable("prewarm")
            raise ConfigError(
                f"{variable} must be tenant/model or tenant/model:version,…; '{name}' is not",
                context={"variable": variable},
            )
    return PlacementPolicy(
        scaling=ScalingRule(
            wait_max_s=settings.scale_up_queue_wait_s,
            up_after_s=settings.scale_up_after_s,
            down_after_s=settings.scale_down_after_s,
        ),
        keep_s=settings.model_keep_s,
        cutover_wait_s=settings.cutover_wait_s,
        prewarm=settings.prewarm,
    )


def routing_rules(settings: GatewaySettings) -> RoutingRules:
    """The settings that say which replica gets a call.

    Raises:
        ConfigError: SETTING_INVALID: a tenant's policy is none.
    """
    for tenant, policy in settings.tenant_routing.items():
        if not tenant or policy not in list(Policy):
            variable = settings.variable("tenant_routing")
            raise ConfigError(
                f"{variable} must be tenant=policy,… with {', '.join(Policy)}; '{tenant}={policy}' is not",
                context={"variable": variable},
            )
    return RoutingRules(
        policy=Policy(settings.routing),
        tenant_policies={tenant: Policy(policy) for tenant, policy in settings.tenant_routing.items()},
        device_preference=settings.device_preference,
        device_wait_ratio=settings.device_wait_ratio,
        affinity_slack=settings.affinity_slack,
        slow_start_s=settings.slow_start_s,
    )


def resilience_limits(settings: GatewaySettings) -> ResilienceLimits:
    """The settings that say how far the gateway goes to save calls, and what it lets in."""
    return ResilienceLimits(
        runner_calls_max=settings.bulkhead_runner_calls,
        model_calls_max=settings.bulkhead_model_calls,
        tenant_calls_max=settings.bulkhead_tenant_calls,
        waiting_room=settings.bulkhead_waiting_room,
        stream_calls_max=settings.stream_calls_max,
        retry_ratio=settings.retry_ratio,
        retry_floor_per_s=settings.retry_floor_per_s,
        breaker_volume=settings.breaker_volume,
        breaker_ratio=settings.breaker_ratio,
        breaker_open_s=settings.breaker_open_s,
        breaker_successes=settings.breaker_successes,
        outlier_failures=settings.outlier_failures,
        outlier_eject_s=settings.outlier_eject_s,
    )


def check_settings(settings: GatewaySettings) -> None:
    """Refuses combinations that no field can see alone.

    Raises:
        ConfigError: SETTING_INVALID or SETTING_MISSING: the key `community` is on and a listener is not loopback, or
            the listener for fronts is not; the mesh listener can be reached by other machines and runners need neither
            token nor certificate; there is no key to sign principals with; the room for results is smaller than one
            message; a routing policy is none; the prewarm list names no model.
    """
    routing_rules(settings)
    placement_policy(settings)
    if settings.community:
        for field in ("grpc_address", "mesh_address", "metrics_address"):
            address: str = getattr(settings, field)
            if not is_loopback(address):
                raise ConfigError(
                    f"{settings.variable('community')} is true, so every listener must be loopback, but "
                    f"{settings.variable(field)} is {address}; use 127.0.0.1, or switch the community key off",
                    context={"variable": settings.variable("community")},
                )
    if settings.front_address is not None and not is_loopback(settings.front_address):
        variable = settings.variable("front_address")
        raise ConfigError(
            f"{variable} must be loopback, not {settings.front_address}: fronts elsewhere call the public one",
            context={"variable": variable},
        )
    guards = (settings.join_token_file, settings.join_tokens_file, settings.tls_ca_file)
    if not any(guards) and not is_loopback(settings.mesh_address):
        raise _missing("join_token_file", f"because {settings.variable('mesh_address')} is not loopback")
    if settings.principal_key_file is None:
        raise _missing("principal_key_file", "to sign the principals that other services get")
    for field in ("request_bytes_max", "result_bytes_max"):
        if getattr(settings, field) < settings.message_bytes_max:
            raise ConfigError(
                f"{settings.variable(field)} must be at least {settings.variable('message_bytes_max')}",
                context={"variable": settings.variable(field)},
            )


def _missing(field: str, why: str) -> ConfigError:
    variable = GatewaySettings.variable(field)
    return ConfigError(f"{variable} must be set, {why}", entry=SETTING_MISSING, context={"variable": variable})
