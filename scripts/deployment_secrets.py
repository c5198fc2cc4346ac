"""Make the secrets that docker-compose.yml and k8s/ refer to, in a folder that git ignores.

Nothing that exists is replaced, so it is safe to run twice. The folder is 0700; the files in it are readable for
everybody who gets one mounted, because a container's user is not the one who made them.
"""

from __future__ import annotations

import argparse
import secrets
import string
from datetime import UTC, datetime, timedelta
from pathlib import Path

from headrace_cli.certificates.files import AUTHORITY, CertificateFiles, make_certificates, wanted_of
from headrace_common.principal import generate_key_files

# Those that talk to each other; the HTTP front talks to its gateway only.
_SERVICES = ("quota", "registry", "gateway", "runner")
_AUTHORITY_LASTS = timedelta(days=3_650)
_CERTIFICATES_LAST = timedelta(days=365)
_BASE62 = string.ascii_letters + string.digits


def _random_text(length: int) -> str:
    return "".join(secrets.choice(_BASE62) for _ in range(length))


def _kept(path: Path, text: str) -> str:
    if not path.exists():
        path.write_text(text)
    return path.read_text().strip()


def write_secrets(folder: Path) -> None:
    """Write what is missing of a deployment's secrets."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)
    if not (folder / "principal.key").exists():
        generate_key_files(folder / "principal.key", folder / "principal.jwks")
    _kept(folder / "join.token", _random_text(43))
    _kept(folder / "admin.key", f"hr_{_random_text(8)}_{_random_text(40)}")
    postgres = _kept(folder / "postgres.password", _random_text(32))
    _kept(folder / "postgres.url", f"postgresql://headrace:{postgres}@postgres:5432/headrace")
    valkey = _kept(folder / "valkey.password", _random_text(32))
    _kept(folder / "valkey.conf", f'bind 0.0.0.0\nrequirepass {valkey}\nsave ""\nappendonly no\n')
    _kept(folder / "redis.url", f"redis://:{valkey}@valkey:6379/0")
    certificates = CertificateFiles(folder)
    if not certificates.certificate(AUTHORITY).exists():
        make_certificates(
            certificates,
            {service: wanted_of(service) for service in _SERVICES},
            now=datetime.now(UTC),
            authority_lasts=_AUTHORITY_LASTS,
            lasts=_CERTIFICATES_LAST,
        )
    for path in folder.iterdir():
        path.chmod(0o600 if path.stem == AUTHORITY and path.suffix == ".key" else 0o644)


def main() -> None:
    """Write the secrets and say where."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=Path(".secrets"))
    folder: Path = parser.parse_args().folder
    write_secrets(folder)
    print(f"secrets are in {folder}; the operators' API key is {folder / 'admin.key'}")


if __name__ == "__main__":
    main()
