#!/usr/bin/env bash
# The peers (kube-proxy, kube-apiserver, etcd) into bin/peers, from the Go
# module proxy. Some ten minutes on two cores the first time, then a second.
set -euo pipefail
cd "$(dirname "$0")"
out=$(cd ../.. && pwd)/bin/peers
export CGO_ENABLED=0 GOFLAGS="-trimpath -buildvcs=false"
version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
base=k8s.io/component-base/version
flags="-s -w -X $base.gitVersion=$version -X $base.gitMajor=1 -X $base.gitMinor=${version:3:2}"
mkdir -p "$out"
build() { go build -ldflags "$flags" -o "$out/$1" "$2"; }
build kube-proxy k8s.io/kubernetes/cmd/kube-proxy
build etcd go.etcd.io/etcd/server/v3
build kube-apiserver k8s.io/kubernetes/cmd/kube-apiserver
