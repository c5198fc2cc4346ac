"""A ticket opens one version's files for one tenant, for a while, and nothing else."""

from __future__ import annotations

import uuid
from pathlib import Path

import grpc
import pytest

from headrace.registry.v1 import models_pb2 as pb
from headrace.registry.v1 import models_pb2_grpc
from headrace_common import catalogue
from headrace_common.errors import HeadraceError
from headrace_common.principal import PrincipalSigner
from headrace_common.testing import FakeClock
from headrace_registry.app import ARTIFACT_AUDIENCE, AUDIENCE
from support import onnx_models
from support.quota import Keys
from support.registry import ACME, GLOBEX, RegistryClient, RunningRegistry

CONTENT = onnx_models.weighty(5 << 20)


async def refused(client: RegistryClient, ticket: str, path: str = "model.onnx") -> HeadraceError:
    with pytest.raises(HeadraceError) as failure:
        await client.read(ticket, path)
    return failure.value


async def test_ticket_opens_the_file_from_any_offset(client: RegistryClient) -> None:
    version = await client.upload(CONTENT)
    ticket = client.ticket(version)
    assert await client.read(ticket, "model.onnx") == CONTENT
    for offset in (1, (4 << 20) + 5, len(CONTENT)):
        assert await client.read(ticket, "model.onnx", offset=offset) == CONTENT[offset:]


async def test_ticket_for_another_tenant_opens_nothing(client: RegistryClient) -> None:
    version = await client.upload(CONTENT)
    await client.upload(CONTENT, principal=GLOBEX)
    failure = await refused(client, client.ticket(version, tenant_id="globex"))
    assert failure.entry == catalogue.TICKET_INVALID


async def test_ticket_without_the_files_digest_opens_nothing(client: RegistryClient) -> None:
    version = await client.upload(CONTENT)
    for digests in ([], ["0" * 64]):
        assert (await refused(client, client.ticket(version, digests=digests))).entry == catalogue.TICKET_INVALID


async def test_ticket_for_an_unknown_version_opens_nothing(client: RegistryClient) -> None:
    version = await client.upload(CONTENT)
    for uid in (str(uuid.uuid4()), "not a uuid"):
        assert (await refused(client, client.ticket(version, version_id=uid))).entry == catalogue.TICKET_INVALID


async def test_ticket_of_one_version_does_not_open_another(client: RegistryClient) -> None:
    version = await client.upload(onnx_models.tiny(seed=1))
    other = await client.upload(onnx_models.tiny(seed=2))
    mixed = client.ticket(version, digests=[file.sha256 for file in other.files])
    assert (await refused(client, mixed)).entry == catalogue.TICKET_INVALID


async def test_forged_and_misplaced_tokens_open_nothing(client: RegistryClient, tmp_path: Path) -> None:
    version = await client.upload(CONTENT)
    (tmp_path / "thief").mkdir()
    thief = Keys.generate(tmp_path / "thief").signer
    tokens = {
        "nothing": "",
        "words": "let me in",
        "another key": thief.sign_ticket(
            tenant_id="acme",
            version_id=version.uid,
            digests=[version.files[0].sha256],
            audience=ARTIFACT_AUDIENCE,
        ),
        "another audience": client.ticket(version, audience=AUDIENCE),
        "a principal": client.signer.sign(ACME, audience=ARTIFACT_AUDIENCE),
        "a service": client.signer.sign_service(audience=ARTIFACT_AUDIENCE),
    }
    for name, token in tokens.items():
        assert (await refused(client, token)).entry == catalogue.TICKET_INVALID, name


async def test_expired_ticket_opens_nothing(client: RegistryClient, keys: Keys) -> None:
    version = await client.upload(CONTENT)
    yesterday = PrincipalSigner(key=keys.signer._key, issuer="gateway-test", clock=FakeClock())  # pyright: ignore[reportPrivateUsage]
    ticket = yesterday.sign_ticket(
        tenant_id="acme",
        version_id=version.uid,
        digests=[version.files[0].sha256],
        audience=ARTIFACT_AUDIENCE,
    )
    assert (await refused(client, ticket)).entry == catalogue.TICKET_INVALID


async def test_ticket_is_not_a_principal(client: RegistryClient) -> None:
    """Even one for the audience of the public service."""
    version = await client.upload(CONTENT)
    ticket = client.ticket(version, audience=AUDIENCE)
    stub = models_pb2_grpc.ModelServiceStub(client.channel)
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await stub.GetModel(pb.GetModelRequest(name="m"), metadata=(("x-headrace-principal", ticket),), timeout=20)
    assert failure.value.code() == grpc.StatusCode.UNAUTHENTICATED


async def test_path_that_the_version_does_not_have_is_not_found(client: RegistryClient) -> None:
    version = await client.upload(CONTENT)
    for path in ("../model.onnx", "other.onnx"):
        assert (await refused(client, client.ticket(version), path)).entry == catalogue.MODEL_FILE_NOT_FOUND


async def test_runner_may_finish_loading_a_version_that_was_archived_meanwhile(client: RegistryClient) -> None:
    version = await client.upload(CONTENT)
    await client.call(ACME, pb.ArchiveVersionRequest(model="m", version=1))
    assert await client.read(client.ticket(version), "model.onnx") == CONTENT


async def test_object_lost_from_the_store_is_told_apart(registry: RunningRegistry) -> None:
    version = await registry.client.upload(onnx_models.tiny())
    registry.stored_objects()[0].unlink()
    failure = await refused(registry.client, registry.client.ticket(version))
    assert failure.entry == catalogue.OBJECT_NOT_FOUND
