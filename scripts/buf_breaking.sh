#!/usr/bin/env bash
# Compare the contracts with those of the last commit on main, wire and names. On main itself that is HEAD's parent
# when the tree is clean: what the newest commit changed.
set -euo pipefail

base=$(git rev-parse --verify --quiet refs/remotes/origin/main || git rev-parse --verify --quiet refs/heads/main || true)
if [ -n "$base" ] && [ "$base" = "$(git rev-parse HEAD)" ] && git diff --quiet HEAD -- protos; then
  base=$(git rev-parse --verify --quiet "$base~1" || true)
fi
if [ -z "$base" ] || ! git cat-file -e "$base:buf.yaml" 2>/dev/null; then
  echo "buf breaking: no earlier contracts to compare with"
  exit 0
fi
# A worktree of its own, because buf reads only whole repositories by reference and this clone may be shallow.
earlier=$(mktemp -d)
trap 'rm -rf "$earlier"' EXIT
git archive "$base" buf.yaml protos | tar -x -C "$earlier"
.venv/bin/buf breaking --against "$earlier"
