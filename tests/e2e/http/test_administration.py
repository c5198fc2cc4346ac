"""Models, tenants, keys and runners by REST, on the mesh that all tests share."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from support import onnx_models
from support.mesh import Mesh
from support.parties import Party, Tenant, operator, until

ONNX = onnx_models.identity()
MIB = 1 << 20


def as_client(mesh: Mesh, party: Party) -> httpx.Client:
    assert mesh.http is not None
    return httpx.Client(base_url=mesh.http, headers=dict(party.metadata), timeout=60)


@pytest.fixture(scope="module")
def tenant(mesh: Mesh) -> Iterator[Tenant]:
    with grpc.insecure_channel(mesh.grpc) as channel:
        yield operator(mesh, channel).tenant()


@pytest.fixture
def admin(mesh: Mesh, tenant: Tenant) -> Iterator[httpx.Client]:
    with as_client(mesh, tenant.admin) as client:
        yield client


@pytest.fixture
def operators(mesh: Mesh, channel: grpc.Channel) -> Iterator[httpx.Client]:
    with as_client(mesh, operator(mesh, channel)) as client:
        yield client


def told(answer: httpx.Response) -> tuple[int, str, str | None]:
    """Status, kind and field of a failure, which has all that a failure has."""
    document = answer.json()
    assert document["httpStatus"] == answer.status_code
    assert document["requestId"] == answer.headers["x-request-id"]
    assert document.keys() == {
        *("errorCode", "message", "httpStatus", "timestamp"),
        *("requestId", "context", "retryAfterSeconds", "documentationUrl"),
    }
    return answer.status_code, document["errorCode"], document["context"].get("field")


def upload(client: httpx.Client, fields: dict[str, Any], **files: Any) -> httpx.Response:
    return client.post("/v1/models", data=fields, files=files)


def test_a_model_is_uploaded_served_listed_fetched_and_archived(admin: httpx.Client) -> None:
    fields = {"name": "pushed", "manifest": '{"description": "says what it hears"}'}
    files = {"file": ("model.onnx", ONNX), "labels": ("labels.txt", b"a\nb\n")}
    made = upload(admin, fields, **files)
    assert made.status_code == 201, made.text
    version = made.json()
    assert made.headers["location"] == "/v1/models/pushed/versions/1"
    assert admin.get(made.headers["location"]).json() == version
    assert (version["version"], version["state"], version["sizeBytes"]) == (1, "VERSION_STATE_READY", len(ONNX) + 4)
    assert version["manifest"]["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4], "optional": False}]
    assert version["manifest"]["description"] == "says what it hears"
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, "NaN"]}
    for model in ("pushed", "pushed:1", "pushed@1"):
        answer = admin.post(f"/v2/models/{model}/infer", json={"inputs": [tensor]})
        assert answer.json()["outputs"][0]["data"] == [1.0, 2.0, 3.0, "NaN"]

    assert upload(admin, fields, **files).json() == version, "a repeat makes no second version"
    assert upload(admin, {"name": "pushed", "version": "7"}, file=("model.onnx", ONNX)).json()["version"] == 7
    page = admin.get("/v1/models/pushed/versions", params={"pageSize": 1}).json()
    assert [entry["version"] for entry in page["versions"]] == [7]
    rest = admin.get("/v1/models/pushed/versions", params={"pageToken": page["nextPageToken"]}).json()
    assert ([entry["version"] for entry in rest["versions"]], rest["nextPageToken"]) == ([1], "")
    assert admin.get("/v1/models/pushed/manifest").json()["description"] == ""
    assert admin.get("/v1/models/pushed:1/manifest").json() == version["manifest"]
    assert admin.get("/v1/models/pushed/versions/1/manifest").json() == version["manifest"]

    fetched = admin.get("/v1/models/pushed/versions/1/files/model.onnx")
    assert (fetched.content, fetched.headers["etag"]) == (ONNX, f'"{hashlib.sha256(ONNX).hexdigest()}"')
    assert told(admin.get("/v1/models/pushed/versions/1/files/none"))[:2] == (404, "MODEL_FILE_NOT_FOUND")
    archived = admin.post("/v1/models/pushed/versions/1/archive").json()
    assert (archived["state"], "archiveTime" in archived) == ("VERSION_STATE_ARCHIVED", True)

    empty = admin.post("/v1/models", json={"name": "empty", "metadata": {"team": "search"}})
    assert (empty.status_code, empty.headers["location"]) == (201, "/v1/models/empty")
    assert admin.get("/v1/models/empty").json() == empty.json()
    assert [model["name"] for model in admin.get("/v1/models").json()["models"]] == ["empty", "pushed"]


@pytest.mark.parametrize(
    ("fields", "files", "told_as"),
    [
        ({}, {"file": ("m.onnx", ONNX)}, (400, "MODEL_NAME_INVALID", "name")),
        ({"name": "a/b"}, {"file": ("m.onnx", ONNX)}, (400, "MODEL_NAME_INVALID", "name")),
        ({"name": "m"}, {"other": ("m.txt", b"x")}, (400, "FIELD_REQUIRED", "file")),
        ({"name": "m"}, {"file": ("m.onnx", b"")}, (400, "FIELD_REQUIRED", "file")),
        ({"name": "m"}, {"file": ("m.onnx", b"no model")}, (400, "MODEL_FILE_INVALID", None)),
        ({"name": "m"}, {"file": ("\x7f.onnx", ONNX)}, (400, "NAME_INVALID", "file")),
        ({"name": "m", "version": "x"}, {"file": ("m.onnx", ONNX)}, (400, "FIELD_INVALID", "version")),
        ({"name": "m", "sha256": "0" * 64}, {"file": ("m.onnx", ONNX)}, (400, "MODEL_FILE_DIGEST_MISMATCH", "sha256")),
        ({"name": "m", "colour": "red"}, {"file": ("m.onnx", ONNX)}, (400, "FIELD_INVALID", "colour")),
        ({"name": "m", "manifest": "{"}, {"file": ("m.onnx", ONNX)}, (400, "MODEL_MANIFEST_INVALID", "manifest")),
        (
            {"name": "m", "manifest": '{"inputs": [{"name": "x", "datatype": "FP8"}]}'},
            {"file": ("m.onnx", ONNX)},
            (400, "MODEL_MANIFEST_INVALID", "manifest.inputs[0].datatype"),
        ),
    ],
)
def test_forms_that_are_wrong_are_told_by_their_field(
    fields: dict[str, str], files: dict[str, Any], told_as: tuple[int, str, str | None], admin: httpx.Client
) -> None:
    answer = upload(admin, fields, **files)
    assert told(answer) == told_as, answer.text


def test_other_bodies_and_paths_are_refused(admin: httpx.Client) -> None:
    def post(path: str, **options: Any) -> tuple[int, str]:
        return told(admin.post(path, **options))[:2]

    multipart = {"content-type": "multipart/form-data; boundary=b"}
    assert post("/v1/models", content=b"x") == (415, "CONTENT_TYPE_UNSUPPORTED")
    assert post("/v1/models", content=b"x", headers=multipart) == (400, "REQUEST_MALFORMED")
    assert post("/v1/models", json=[]) == (400, "FIELD_INVALID")
    assert post("/v1/models", json={"name": "m", "nme": 1}) == (400, "FIELD_INVALID")
    assert post("/v1/keys", content=b"{", headers={"content-type": "application/json"}) == (400, "REQUEST_MALFORMED")
    assert post("/v1/keys", content=b" " * (MIB + 1)) == (413, "MESSAGE_TOO_LARGE")
    assert post("/v1/keys", json={"roles": ["ROLE_KING"]}) == (400, "FIELD_INVALID")
    for path in ("/v1/models/none", "/v1/models/none/versions", "/v1/models/none/manifest"):
        assert told(admin.get(path))[:2] == (404, "MODEL_NOT_FOUND")
    assert told(admin.get("/v1/models/m/versions/x")) == (400, "FIELD_INVALID", "version")
    assert told(admin.get("/v1/models/m:staging/manifest")) == (400, "FIELD_INVALID", "model")
    assert told(admin.get("/v1/models", params={"pageSize": -1})) == (400, "FIELD_INVALID", "pageSize")
    assert told(admin.get("/v1/models", params={"pageToken": "x"}))[:2] == (400, "PAGE_TOKEN_INVALID")


def begun_upload(mesh: Mesh, *headers: str) -> socket.socket:
    """A connection over which the beginning of a large upload has been sent."""
    assert mesh.http is not None
    host, _, port = mesh.http.removeprefix("http://").partition(":")
    part = b'--b\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n'
    begun = part % (b"name", b"") + b"m\r\n" + part % (b"file", b'; filename="m.onnx"') + b"the first of many bytes"
    head = ["POST /v1/models HTTP/1.1", "Host: h", "Content-Type: multipart/form-data; boundary=b", *headers]
    connection = socket.create_connection((host, int(port)), timeout=20)
    connection.sendall("\r\n".join([*head, f"Content-Length: {1 << 30}", "", ""]).encode() + begun)
    return connection


def test_who_may_not_upload_is_told_before_the_file_is_sent(mesh: Mesh) -> None:
    with begun_upload(mesh) as connection:
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 401 ")


def open_files(pid: int) -> Iterator[str]:
    """Where a process's open files are."""
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # Closed meanwhile.
            yield str(descriptor.readlink())


def test_an_upload_whose_client_leaves_leaves_nothing(mesh: Mesh, tenant: Tenant, admin: httpx.Client) -> None:
    (front,) = mesh.named("http")

    def held() -> tuple[int, int]:
        """Uploads under way, and their files on disk, which have no name."""
        (line,) = [
            text for text in admin.get("/metrics").text.splitlines() if text.startswith("headrace_http_uploads ")
        ]
        files = list(open_files(front.pid))
        return int(float(line.split()[1])), sum("/uploads/" in file and file.endswith("(deleted)") for file in files)

    ((_, key),) = tenant.admin.metadata
    with begun_upload(mesh, f"X-API-Key: {key}"):
        until(lambda: held() == (1, 1))
    until(lambda: held() == (0, 0))


def test_a_large_file_passes_without_being_held_in_memory(mesh: Mesh, admin: httpx.Client, tmp_path: Path) -> None:
    (front,) = mesh.named("http")
    large = tmp_path / "large.bin"
    with large.open("wb") as content:
        content.truncate(192 * MIB)
    upload(admin, {"name": "large"}, file=("m.bin", b"no model"))
    before = peak_bytes(front.pid)
    with large.open("rb") as content:
        answer = upload(admin, {"name": "large"}, file=("m.bin", content))
    assert told(answer)[:2] == (400, "MODEL_FILE_INVALID")
    assert peak_bytes(front.pid) - before < 64 * MIB


def peak_bytes(pid: int) -> int:
    """The most memory that a process ever had."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) << 10


def test_tenants_and_keys_live_and_end(mesh: Mesh, operators: httpx.Client) -> None:
    name = f"rest-{hashlib.sha256(str(mesh.grpc).encode()).hexdigest()[:8]}"
    made = operators.post("/v1/tenants", json={"id": name, "displayName": "REST", "metadata": {"a": "b"}})
    assert (made.status_code, made.headers["location"]) == (201, f"/v1/tenants/{name}")
    assert operators.get(f"/v1/tenants/{name}").json() == made.json()
    assert made.json()["status"] == "TENANT_STATUS_ACTIVE"
    first = operators.get("/v1/tenants", params={"pageSize": 1}).json()
    second = operators.get("/v1/tenants", params={"pageSize": 1, "pageToken": first["nextPageToken"]}).json()
    assert first["tenants"][0]["id"] < second["tenants"][0]["id"]

    key = operators.post("/v1/keys", json={"tenantId": name, "roles": ["ROLE_ADMIN"], "displayName": "theirs"})
    assert (key.status_code, key.headers["cache-control"]) == (201, "no-store")
    key_id = key.json()["apiKey"]["id"]
    assert mesh.http is not None
    bearer = {"authorization": f"Bearer {key.json()['key']}"}
    with httpx.Client(base_url=mesh.http, headers=bearer, timeout=60) as theirs:
        until(lambda: theirs.get("/v1/tenant").status_code == 200)
        assert theirs.get("/v1/tenant").json()["id"] == name
        viewer = theirs.post("/v1/keys", json={"roles": ["ROLE_VIEWER"]}).json()
        listed = theirs.get("/v1/keys").json()["apiKeys"]
        assert [entry["id"] for entry in listed] == [viewer["apiKey"]["id"], key_id]
        assert "key" not in listed[0]
        assert operators.get("/v1/keys", params={"tenantId": name}).json()["apiKeys"] == listed
        assert told(theirs.get("/v1/tenants"))[:2] == (403, "ROLE_FORBIDDEN")
        assert told(theirs.get("/v1/tenants/default"))[:2] == (404, "TENANT_NOT_FOUND")
        with httpx.Client(base_url=mesh.http, headers={"x-api-key": viewer["key"]}, timeout=60) as looking:
            until(lambda: looking.get("/v1/models").status_code == 200)
            assert told(upload(looking, {"name": "m"}, file=("m.onnx", ONNX)))[:2] == (403, "ROLE_FORBIDDEN")
            assert told(looking.post("/v1/keys", json={}))[:2] == (403, "ROLE_FORBIDDEN")
        assert operators.post(f"/v1/tenants/{name}/suspend").json()["status"] == "TENANT_STATUS_SUSPENDED"
        until(lambda: theirs.get("/v1/tenant").status_code == 403)
        assert operators.post(f"/v1/tenants/{name}/resume").json()["status"] == "TENANT_STATUS_ACTIVE"
        until(lambda: theirs.get("/v1/tenant").status_code == 200)
        assert "revokeTime" in theirs.delete(f"/v1/keys/{key_id}").json()
        until(lambda: theirs.get("/v1/tenant").status_code == 401)


def test_runners_are_shown_and_drained_by_operators(admin: httpx.Client, operators: httpx.Client) -> None:
    def states() -> set[str]:
        return {runner["state"] for runner in operators.get("/v1/runners").json()["runners"]}

    until(lambda: states() == {"RUNNER_STATE_READY"})
    document = operators.get("/v1/runners").json()
    assert document["gatewayId"]
    assert document["runners"][0]["modelMemoryBytes"] > 0
    assert told(operators.post("/v1/runners/none/drain"))[0] == 404
    assert told(admin.post(f"/v1/runners/{document['runners'][0]['id']}/drain"))[:2] == (403, "ROLE_FORBIDDEN")
