"""Models as people name them, in one text: `NAME`, `NAME:VERSION`, `NAME:ALIAS`, `NAME:VERSION+VARIANT`.

`@` may stand for `:`. Which names, versions, aliases and stages there are is for the mesh to say.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace_client.errors import ValidationError

_VERSION_MAX = (1 << 63) - 1
_DIGITS_MAX = len(str(_VERSION_MAX))


@dataclass(frozen=True, slots=True)
class ModelReference:
    """A model, and perhaps which of its versions.

    Attributes:
        name: Name of the model.
        version_or_alias: Number of a version, or the name of an alias or stage; empty means the newest that is ready.
        variant: Which form of the version, for example `int8`; empty leaves the choice to the mesh.
    """

    name: str
    version_or_alias: str = ""
    variant: str = ""

    @property
    def model_version(self) -> str:
        """All but the name, as the field `model_version` of a request has it."""
        return f"{self.version_or_alias}+{self.variant}" if self.variant else self.version_or_alias

    @property
    def number(self) -> int | None:
        """Number of the version, 0 where none was chosen; None for an alias, a stage or a variant."""
        if self.variant:
            return None
        if not self.version_or_alias:
            return 0
        return int(self.version_or_alias) if _is_number(self.version_or_alias) else None

    def __str__(self) -> str:
        return f"{self.name}:{self.model_version}" if self.version_or_alias else self.name


def parse(text: str, *, field: str = "model") -> ModelReference:
    """The model that a text names.

    Args:
        text: For example `resnet`, `resnet:3`, `resnet@3`, `resnet:staging`, `resnet:3+int8`.
        field: What the request calls the text; a failure names it.

    Raises:
        ValidationError: a part is missing or there is one too many, or the version is no number of 1 to 2^63 - 1.
    """
    name, separator, rest = text.replace("@", ":").partition(":")
    if not name or "+" in name:
        raise _refused(text, "the name of a model is needed, and a variant only after a version", field)
    if not separator:
        return ModelReference(name)
    version, plus, variant = rest.partition("+")
    if not version or ":" in version:
        raise _refused(text, "after its ':' comes one version, alias or stage", field)
    if _is_number(version) and (len(version) > _DIGITS_MAX or not 0 < int(version) <= _VERSION_MAX):
        raise _refused(text, "a version is a whole number of 1 or more", field)
    if bool(plus) is not bool(variant) or any(mark in variant for mark in ":+"):
        raise _refused(text, "after its '+' comes one variant", field)
    return ModelReference(name, version, variant)


def named(model: str, version: str, *, field: str = "model") -> tuple[str, str]:
    """Name and version, where the version may be a part of the text that names the model.

    Args:
        model: For example `resnet` or `resnet:3`.
        version: The version on its own; empty where none is.
        field: What the request calls the model; a failure names it.

    Raises:
        ValidationError: the text names no model, or there are two versions.
    """
    if ":" not in model and "@" not in model:
        return model, version
    reference = parse(model, field=field)
    if version:
        raise _refused(model, f"beside the version {version} it has one of its own", field)
    return reference.name, reference.model_version


def _is_number(version: str) -> bool:
    return version.isascii() and version.isdigit()


def _refused(text: str, why: str, field: str) -> ValidationError:
    shown = text if len(text) <= 200 else f"{text[:200]}…"
    return ValidationError(f"{shown!r} names no model: {why}", field=field)
