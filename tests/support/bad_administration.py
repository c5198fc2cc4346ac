"""Bad uploads, and bad fields of the calls that administer models, tenants and keys."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Any

from headrace.gateway.v1 import mesh_pb2
from headrace.quota.v1 import tenants_pb2 as quota
from headrace.registry.v1 import models_pb2 as registry
from headrace.registry.v1.manifest_pb2 import (
    BatchingPolicy,
    ExecutionPolicy,
    Manifest,
    PlacementPolicy,
    PlacementRule,
    SequencePolicy,
    SequenceState,
    TensorSpec,
)
from headrace_common import catalogue as errors
from headrace_common.catalogue import CatalogueEntry
from headrace_common.page_token import encode_page_token
from support import onnx_models
from support.bad_calls import OTHER_FILE, SUM, SUM_FILE, Case, World, bad, calling, uploading
from support.parties import Party, chunks, header

NAN = float("nan")


def zipped() -> bytes:
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("data.pkl", b"weights" * 100)
    return file.getvalue()


UPLOADS = {
    "wrong digest": uploading(
        OTHER_FILE,
        errors.MODEL_FILE_DIGEST_MISMATCH,
        "header.sha256",
        hashlib.sha256(OTHER_FILE).hexdigest(),
        sha256=hashlib.sha256(b"other").hexdigest(),
    ),
    "truncated": uploading(
        OTHER_FILE, errors.MODEL_FILE_SIZE_MISMATCH, "header.size_bytes", str(len(OTHER_FILE)), sent=OTHER_FILE[:-1]
    ),
    "too long": uploading(
        OTHER_FILE, errors.MODEL_FILE_SIZE_MISMATCH, "header.size_bytes", str(len(OTHER_FILE)), sent=OTHER_FILE + b"!"
    ),
    "random bytes": uploading(bytes(range(256)) * 64, errors.MODEL_FILE_INVALID, None, "model.onnx"),
    "half a model": uploading(OTHER_FILE[: len(OTHER_FILE) // 2], errors.MODEL_FILE_INVALID),
    "operator that nobody has": uploading(
        onnx_models.unknown_operator(), errors.MODEL_FILE_INVALID, None, "model.onnx"
    ),
    "pickle": uploading(pickle.dumps({"weights": [1.0] * 100}), errors.MODEL_FORMAT_UNSUPPORTED, None, "pickle"),
    "zip": uploading(zipped(), errors.MODEL_FORMAT_UNSUPPORTED, None, "ZIP"),
    "weights elsewhere": uploading(onnx_models.with_external_data("/etc/hostname"), errors.MODEL_FORMAT_UNSUPPORTED),
    "chunk before the header": bad(
        lambda world: world.acme.upload(chunks(OTHER_FILE)), errors.STREAM_ORDER_INVALID, "part", "chunk"
    ),
    "second header": bad(
        lambda world: world.acme.upload([header("broken", OTHER_FILE), header("broken", OTHER_FILE)]),
        errors.STREAM_ORDER_INVALID,
        "part",
        "second header",
    ),
    "no message at all": bad(lambda world: world.acme.upload([]), errors.REQUEST_MISSING),
    "chunk above 4 MiB": bad(
        lambda world: world.acme.upload(
            [header("broken", bytes(5 << 20)), registry.UploadVersionRequest(chunk=bytes((4 << 20) + 1))]
        ),
        errors.FIELD_TOO_LONG,
        "chunk",
        str(4 << 20),
    ),
    "larger than any model": uploading(
        OTHER_FILE, errors.MODEL_FILE_TOO_LARGE, "header.size_bytes", size_bytes=1 << 50
    ),
    "manifest of another model": uploading(
        OTHER_FILE,
        errors.MODEL_MANIFEST_MISMATCH,
        "header.manifest.inputs[0].name",
        manifest=Manifest(inputs=[TensorSpec(name="nope")]),
    ),
    "file name with folders": uploading(
        OTHER_FILE, errors.NAME_INVALID, "header.file_name", "128", file_name="../../etc/passwd"
    ),
    "model name with folders": uploading(OTHER_FILE, errors.MODEL_NAME_INVALID, "header.model", "128", model="../m"),
    "same version with other bytes": uploading(
        OTHER_FILE, errors.MODEL_VERSION_CONFLICT, None, SUM, "1", model=SUM, version=1
    ),
    "manifest with a state that the model lacks": uploading(
        OTHER_FILE,
        errors.MODEL_MANIFEST_MISMATCH,
        "header.manifest.sequence.states[0].output",
        "'lost'",
        manifest=Manifest(sequence=SequencePolicy(states=[SequenceState(input="x", output="lost")])),
    ),
    "manifest with a time that never comes": uploading(
        OTHER_FILE,
        errors.MODEL_MANIFEST_INVALID,
        "header.manifest.placement.schedule[0].cron",
        "ever comes",
        manifest=Manifest(placement=PlacementPolicy(schedule=[PlacementRule(cron="0 0 31 2 *")])),
    ),
    "manifest with a batch without end": uploading(
        OTHER_FILE,
        errors.MODEL_MANIFEST_INVALID,
        "header.manifest.execution.batching.max_batch_size",
        "65536",
        manifest=Manifest(execution=ExecutionPolicy(batching=BatchingPolicy(max_batch_size=1 << 20))),
    ),
    "same version with another manifest": uploading(
        SUM_FILE,
        errors.MODEL_VERSION_CONFLICT,
        None,
        SUM,
        "1",
        model=SUM,
        version=1,
        manifest=Manifest(description="new words"),
    ),
}

FIELDS = {
    "model name with a space": calling(
        "models", "CreateModel", registry.CreateModelRequest(name="a b"), errors.MODEL_NAME_INVALID, "name", "128"
    ),
    "model name of 129": calling(
        "models", "CreateModel", registry.CreateModelRequest(name="a" * 129), errors.MODEL_NAME_INVALID, "name", "128"
    ),
    "same model with other words": bad(
        lambda world: world.acme(
            world.acme.models.CreateModel, registry.CreateModelRequest(name=SUM, description="another")
        ),
        errors.MODEL_ALREADY_EXISTS,
        None,
        SUM,
    ),
    "description of 1025": calling(
        "models",
        "CreateModel",
        registry.CreateModelRequest(name="broken", description="d" * 1025),
        errors.FIELD_TOO_LONG,
        "description",
        "1024",
    ),
    "no version to archive": calling(
        "models", "ArchiveVersion", registry.ArchiveVersionRequest(model=SUM), errors.MODEL_VERSION_INVALID, "version"
    ),
    "no such file": calling(
        "models",
        "DownloadVersion",
        registry.DownloadVersionRequest(model=SUM, path="../secrets/admin.key"),
        errors.MODEL_FILE_NOT_FOUND,
        "path",
    ),
    "offset before the file": calling(
        "models",
        "DownloadVersion",
        registry.DownloadVersionRequest(model=SUM, offset=-1),
        errors.FIELD_INVALID,
        "offset",
    ),
    "tenant id in capitals": bad(
        lambda world: world.operator(world.operator.tenants.CreateTenant, quota.CreateTenantRequest(id="ACME")),
        errors.TENANT_ID_INVALID,
        "id",
        "62",
    ),
    "key for no role": calling(
        "tenants",
        "CreateApiKey",
        quota.CreateApiKeyRequest(roles=[quota.ROLE_UNSPECIFIED]),
        errors.FIELD_INVALID,
        "roles[0]",
    ),
    "key that has expired": calling(
        "tenants",
        "CreateApiKey",
        quota.CreateApiKeyRequest(expire_time={"seconds": 1}),  # pyright: ignore[reportArgumentType]
        errors.FIELD_INVALID,
        "expire_time",
        "future",
    ),
    "key id that is none": calling(
        "tenants", "RevokeApiKey", quota.RevokeApiKeyRequest(id="'; DROP TABLE"), errors.FIELD_INVALID, "id"
    ),
    "unknown runner": bad(
        lambda world: world.operator(world.operator.mesh.DrainRunner, mesh_pb2.DrainRunnerRequest(id="r")),
        errors.RUNNER_NOT_FOUND,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A listing as `party` may ask for it; `query` is what its page tokens are bound to."""

    party: Callable[[World], Party]
    method: Callable[[Party], Any]
    request: Callable[..., Any]
    query: dict[str, Any]
    nonsense: tuple[Any, ...] = (NAN,)

    def bad(self, entry: CatalogueEntry, field: str, *says: str, **page: Any) -> Case:
        """The listing asked for with a page that can't be."""

        def send(world: World) -> object:
            party = self.party(world)
            return party(self.method(party), self.request(**page))

        return bad(send, entry, field, *says)


LISTINGS = {
    "models": Listing(
        party=lambda world: world.acme,
        method=lambda party: party.models.ListModels,
        request=registry.ListModelsRequest,
        query={"listing": "models"},
    ),
    "versions": Listing(
        party=lambda world: world.acme,
        method=lambda party: party.models.ListVersions,
        request=partial(registry.ListVersionsRequest, model=SUM),
        query={"listing": "versions", "model": SUM},
    ),
    "tenants": Listing(
        party=lambda world: world.operator,
        method=lambda party: party.tenants.ListTenants,
        request=quota.ListTenantsRequest,
        query={"listing": "tenants"},
    ),
    "keys": Listing(
        party=lambda world: world.operator,
        method=lambda party: party.tenants.ListApiKeys,
        request=quota.ListApiKeysRequest,
        query={"listing": "api_keys", "tenant_id": "default"},
        nonsense=(NAN, NAN),
    ),
}


def _pages() -> Iterator[tuple[str, Case]]:
    token = partial(Listing.bad, entry=errors.PAGE_TOKEN_INVALID, field="page_token")
    for name, listing in LISTINGS.items():
        yield (
            f"NaN in the token of {name}",
            token(listing, page_token=encode_page_token(listing.query, listing.nonsense)),
        )
        yield f"no position in the token of {name}", token(listing, page_token=encode_page_token(listing.query, ()))
        yield (
            f"token of {name} of another listing",
            token(listing, page_token=encode_page_token({"listing": "x"}, ("a",))),
        )
        yield f"damaged token of {name}", token(listing, page_token="äöü")
        for size in (-1, 1001):
            yield f"{size} {name} a page", listing.bad(errors.FIELD_INVALID, "page_size", "1000", page_size=size)


PAGES = dict(_pages())
"""Sizes out of range, and tokens that are damaged, of another listing, or rightly bound to nonsense."""
