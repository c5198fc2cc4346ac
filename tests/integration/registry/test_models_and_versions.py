"""Models and versions: made, listed in pages, archived."""

from __future__ import annotations

import pytest

from headrace.registry.v1 import models_pb2 as pb
from headrace_common import catalogue
from headrace_common.errors import HeadraceError
from support import onnx_models
from support.registry import ACME, RegistryClient


async def refused(client: RegistryClient, request: object) -> HeadraceError:
    with pytest.raises(HeadraceError) as failure:
        await client.call(ACME, request)  # pyright: ignore[reportArgumentType]
    return failure.value


async def test_creating_a_model_twice_is_one_model_and_other_fields_conflict(client: RegistryClient) -> None:
    request = pb.CreateModelRequest(name="m", description="d", metadata={"team": "vision"})
    first: pb.CreateModelResponse = await client.call(ACME, request)
    assert (first.model.description, dict(first.model.metadata)) == ("d", {"team": "vision"})
    assert first.model.latest_version == 0
    assert await client.call(ACME, request) == first
    conflict = await refused(client, pb.CreateModelRequest(name="m", description="other"))
    assert conflict.entry == catalogue.MODEL_ALREADY_EXISTS


@pytest.mark.parametrize(
    ("request_", "entry", "field"),
    [
        (pb.CreateModelRequest(name="_m"), catalogue.MODEL_NAME_INVALID, "name"),
        (pb.CreateModelRequest(name="m" * 129), catalogue.MODEL_NAME_INVALID, "name"),
        (pb.CreateModelRequest(name="m", description="d" * 1025), catalogue.FIELD_TOO_LONG, "description"),
        (pb.CreateModelRequest(name="m", description="\0"), catalogue.FIELD_INVALID, "description"),
        (pb.CreateModelRequest(name="m", metadata={"k": "v" * 257}), catalogue.FIELD_TOO_LONG, "metadata[k]"),
        (
            pb.CreateModelRequest(name="m", metadata={str(i): "" for i in range(65)}),
            catalogue.FIELD_TOO_LONG,
            "metadata",
        ),
        (pb.GetModelRequest(name="n"), catalogue.MODEL_NOT_FOUND, None),
        (pb.GetModelRequest(), catalogue.MODEL_NAME_INVALID, "name"),
        (pb.GetVersionRequest(model="n"), catalogue.MODEL_NOT_FOUND, None),
        (pb.GetVersionRequest(model="n", version=-1), catalogue.MODEL_VERSION_INVALID, "version"),
        (pb.ArchiveVersionRequest(model="n"), catalogue.MODEL_VERSION_INVALID, "version"),
        (pb.ArchiveVersionRequest(model="n", version=1), catalogue.MODEL_NOT_FOUND, None),
        (pb.ListVersionsRequest(model="n"), catalogue.MODEL_NOT_FOUND, None),
        (pb.ListModelsRequest(page_size=-1), catalogue.FIELD_INVALID, "page_size"),
        (pb.ListModelsRequest(page_size=1001), catalogue.FIELD_INVALID, "page_size"),
        (pb.ListModelsRequest(page_token="junk"), catalogue.PAGE_TOKEN_INVALID, "page_token"),
    ],
)
async def test_bad_request_names_what_is_wrong(
    client: RegistryClient, request_: object, entry: object, field: str | None
) -> None:
    failure = await refused(client, request_)
    assert (failure.entry, failure.field) == (entry, field)


async def test_model_without_a_version_says_so(client: RegistryClient) -> None:
    await client.call(ACME, pb.CreateModelRequest(name="m"))
    for version in (0, 3):
        failure = await refused(client, pb.GetVersionRequest(model="m", version=version))
        assert failure.entry == catalogue.MODEL_VERSION_NOT_FOUND


async def test_models_come_in_pages_ordered_by_name(client: RegistryClient) -> None:
    names = ["B", "a", "a-b", "a.b", "a0", "b", "z"]
    for name in reversed(names):
        await client.call(ACME, pb.CreateModelRequest(name=name))
    seen: list[str] = []
    token = ""
    while True:
        page: pb.ListModelsResponse = await client.call(ACME, pb.ListModelsRequest(page_size=2, page_token=token))
        seen += [model.name for model in page.models]
        token = page.next_page_token
        if not token:
            break
        assert len(page.models) == 2
    assert seen == sorted(names)


async def test_versions_come_in_pages_newest_first(client: RegistryClient) -> None:
    content = onnx_models.tiny()
    for number in (1, 2, 10, 9):
        await client.upload(content, version=number)
    first: pb.ListVersionsResponse = await client.call(ACME, pb.ListVersionsRequest(model="m", page_size=3))
    assert [version.version for version in first.versions] == [10, 9, 2]
    second: pb.ListVersionsResponse = await client.call(
        ACME, pb.ListVersionsRequest(model="m", page_size=3, page_token=first.next_page_token)
    )
    assert [version.version for version in second.versions] == [1]
    assert not second.next_page_token
    assert (await client.upload(content)).version == 10
    assert (await client.upload(onnx_models.tiny(seed=1))).version == 11


async def test_page_token_of_another_listing_is_refused(client: RegistryClient) -> None:
    content = onnx_models.tiny()
    for model in ("m", "n"):
        for number in (1, 2):
            await client.upload(content, model=model, version=number)
    page: pb.ListVersionsResponse = await client.call(ACME, pb.ListVersionsRequest(model="m", page_size=1))
    for request in (
        pb.ListVersionsRequest(model="n", page_size=1, page_token=page.next_page_token),
        pb.ListModelsRequest(page_token=page.next_page_token),
    ):
        assert (await refused(client, request)).entry == catalogue.PAGE_TOKEN_INVALID


async def test_archived_version_leaves_service_for_good(client: RegistryClient) -> None:
    content = onnx_models.tiny()
    for number in (1, 2):
        await client.upload(content, version=number)
    request = pb.ArchiveVersionRequest(model="m", version=2)
    archived: pb.ArchiveVersionResponse = await client.call(ACME, request)
    assert archived.version.state == pb.VERSION_STATE_ARCHIVED
    assert archived.version.HasField("archive_time")
    assert await client.call(ACME, request) == archived
    latest: pb.GetVersionResponse = await client.call(ACME, pb.GetVersionRequest(model="m"))
    assert latest.version.version == 1
    model: pb.GetModelResponse = await client.call(ACME, pb.GetModelRequest(name="m"))
    assert model.model.latest_version == 1
    exact: pb.GetVersionResponse = await client.call(ACME, pb.GetVersionRequest(model="m", version=2))
    assert exact.version == archived.version
    # Its number is never given again, and its bytes can still be fetched.
    assert (await client.upload(onnx_models.tiny(seed=1))).version == 3
    _, received = await client.download(ACME, pb.DownloadVersionRequest(model="m", version=2))
    assert received == content
