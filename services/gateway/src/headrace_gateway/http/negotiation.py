"""In which of its forms a body comes, and in which the answer goes."""

from __future__ import annotations

from enum import StrEnum

from starlette.requests import Request

from headrace_common import catalogue
from headrace_gateway.http.bodies import content_type
from headrace_gateway.http.failures import failed


class Form(StrEnum):
    """A way to write what is said; the value is its media type."""

    JSON = "application/json"
    PROTOBUF = "application/x-protobuf"
    MESSAGE_PACK = "application/msgpack"
    MULTIPART = "multipart/form-data"


_FORMS = {form.value: form for form in Form} | {
    "application/protobuf": Form.PROTOBUF,
    "application/vnd.google.protobuf": Form.PROTOBUF,
    "application/vnd.msgpack": Form.MESSAGE_PACK,
    "application/x-msgpack": Form.MESSAGE_PACK,
}
_ANSWERS = (Form.JSON, Form.PROTOBUF, Form.MESSAGE_PACK)


def body_form(request: Request, *forms: Form) -> Form:
    """The form of a request's body.

    Args:
        request: Whose.
        forms: Those that the route takes.

    Raises:
        HeadraceError: CONTENT_TYPE_UNSUPPORTED (415).
    """
    told = content_type(request)
    form = _FORMS.get(told)
    if form is None or form not in forms:
        said = f"not {told[:80]!r}" if told else "but none was named"
        raise failed(
            catalogue.CONTENT_TYPE_UNSUPPORTED,
            f"the body must be {' or '.join(forms)}, {said}",
            context={"contentType": told[:80]},
        )
    return form


def answer_form(request: Request, body: Form) -> Form:
    """The form of the answer: what `Accept` likes best of ours, else that of the request's body."""
    own = body if body in _ANSWERS else Form.JSON
    best, best_quality = own, 0.0
    for entry in request.headers.get("accept", "").lower().split(","):
        name, _, rest = entry.partition(";")
        form = own if name.strip() in ("*/*", "application/*") else _FORMS.get(name.strip())
        quality = _quality(rest)
        if form is not None and form in _ANSWERS and quality > best_quality:
            best, best_quality = form, quality
    return best


def _quality(parameters: str) -> float:
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
