"""TLS for HTTP that follows its files."""

from __future__ import annotations

import ssl
import tempfile

import structlog

from headrace_common.tls import Tls
from headrace_common.tls_files import TlsMaterial


def tls_context(tls: Tls) -> ssl.SSLContext | None:
    """TLS for listening, each new connection by the present certificate; None where there is none to listen with."""
    if tls.material.certificate is None:
        return None
    context = _context(tls.material)
    present = (tls.material, context)
    log = structlog.stdlib.get_logger("tls")

    def choose(connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _context_of: ssl.SSLContext) -> None:
        # OpenSSL asks at the beginning of each handshake, whether or not the client names a host.
        nonlocal present
        if tls.material is not present[0]:
            try:
                present = (tls.material, _context(tls.material))
            except (OSError, ValueError) as error:
                # Such as a key that is too short for OpenSSL. What served until now goes on.
                present = (tls.material, present[1])
                log.warning("certificates can't be used; those in use stay", why=str(error))
        connection.context = present[1]

    context.sni_callback = choose
    return context


def _context(material: TlsMaterial) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    assert material.certificate is not None
    assert material.key is not None
    # Python's TLS reads certificates from files only; the file is ours alone, and gone at once.
    with tempfile.NamedTemporaryFile("wb", suffix=".pem") as pem:
        pem.write(material.key.rstrip() + b"\n" + material.certificate)
        pem.flush()
        context.load_cert_chain(pem.name)
    if material.authorities is not None:
        context.load_verify_locations(cadata=material.authorities.decode("ascii", "ignore"))
        context.verify_mode = ssl.CERT_REQUIRED
    return context
