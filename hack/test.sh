#!/usr/bin/env bash
# Every test. As root, the Debian packages that the tests use are installed
# first; without root what needs it skips itself and is listed at the end.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(iproute2 nftables conntrack bind9-dnsutils curl jq)
missing=()
for p in "${packages[@]}"; do
  dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing+=("$p")
done
if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" = 0 ]; then
    echo "test: installing Debian packages: ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  else
    echo "test: not root, so these stay uninstalled: ${missing[*]}"
  fi
fi

go build -o bin/testreport ./hack/testreport
go test -json -p 2 -timeout 20m ./... | bin/testreport
