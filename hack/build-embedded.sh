#!/usr/bin/env bash
# Builds the programs that travel inside the binary: the Pod's shim (static,
# with cgo, because runc's libcontainer enters namespaces from C), the toolbox
# and the supervisor. Go's build cache makes it quick when nothing has changed.
set -euo pipefail
cd "$(dirname "$0")/.."
out=internal/agent/runtime/builtin/embedded
CGO_ENABLED=1 go build -trimpath -tags "netgo osusergo" \
  -ldflags '-s -w -linkmode external -extldflags "-static"' \
  -o "$out/viaduct-shim" ./cmd/viaduct-shim
CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o "$out/viaduct-toolbox" ./cmd/viaduct-toolbox
CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o internal/cluster/embedded/viaduct-supervisor ./cmd/viaduct-supervisor
