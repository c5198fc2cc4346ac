#!/usr/bin/env bash
# Make the environment VENV from PROJECT's uv.lock. Needs Python >= 3.11 ($PYTHON) and, the first time, PyPI.
# usage: scripts/setup.sh PROJECT VENV
set -euo pipefail
project=$1 venv=$2 python=${PYTHON:-python3}
root=$PWD

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "setup: '$python' is not Python 3.11 or newer; name one with: make PYTHON=/path/to/python3 ..." >&2
  exit 1
fi

# uv itself, in the version that the lock names. Made elsewhere and moved, so that two setups may run at once.
version=$(awk '/^name = "uv"$/ {getline; gsub(/[^0-9.]/, ""); print; exit}' uv.lock)
uv=$root/.cache/uv-$version
if [ ! -x "$uv" ]; then
  mkdir -p .cache
  bootstrap=$(mktemp -d .cache/bootstrap.XXXXXX)
  trap 'rm -rf "$root/$bootstrap"' EXIT
  echo "setup: fetching uv $version"
  if ! "$python" -m venv "$bootstrap/venv" >"$bootstrap/log" 2>&1; then
    cat "$bootstrap/log" >&2
    echo "setup: '$python -m venv' failed; on Debian and Ubuntu install the package python3-venv" >&2
    exit 1
  fi
  "$bootstrap/venv/bin/python" -m pip install --quiet --disable-pip-version-check "uv==$version"
  mv "$bootstrap/venv/bin/uv" "$uv"
fi

echo "setup: making $venv"
unset VIRTUAL_ENV
export UV_PROJECT_ENVIRONMENT=$root/$venv UV_PYTHON_DOWNLOADS=never UV_NO_PROGRESS=1
sync=("$uv" sync --frozen --quiet --project "$project")
# An environment of a suitable Python stays as it is; otherwise it is made with $PYTHON.
[ -x "$venv/bin/python" ] || sync+=(--python "$("$python" -c 'import sys; print(sys.executable)')")
# First from the cache alone: with everything cached no network is needed, and none is waited for.
"${sync[@]}" --offline 2>/dev/null || "${sync[@]}"
touch "$venv/.ready"
