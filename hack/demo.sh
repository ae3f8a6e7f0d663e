#!/usr/bin/env bash
# Shows every way to reach a Service, with real requests, on a cluster of three
# nodes that is gone again at the end. Each step fails the script if it is not
# as its line says.
set -euo pipefail
cd "$(dirname "$0")/.."
viaduct=$(realpath "${1:-bin/viaduct}")
export VIADUCT_NAME=demo
VIADUCT_STATE_DIR=$(mktemp -d)
export VIADUCT_STATE_DIR
[ "$(id -u)" = 0 ] || { echo "demo: a cluster in a box needs root: sudo make demo" >&2; exit 1; }
command -v curl >/dev/null || { echo "demo: install curl first: apt-get install curl" >&2; exit 1; }

finish() {
  status=$?
  trap - EXIT
  step "Gone without a trace"
  "$viaduct" down
  rm -rf "$VIADUCT_STATE_DIR"
  [ $status = 0 ] && echo "demo: everything answered" || echo "demo: FAILED" >&2
  exit $status
}
trap finish EXIT

step() { printf '\n\033[1m== %s\033[0m\n' "$*"; }
show() { printf '\033[2m$ %s\033[0m\n' "$*"; "$@"; }
k() { "$viaduct" kubectl "$@"; }
inside() { "$viaduct" shell -- "$@"; }
# who URL N: which Pods answer N requests from a host program in a node's network.
who() { inside sh -c "for i in \$(seq $2); do curl -gsS --max-time 5 '$1/hostname'; echo; done" | sort | uniq -c; }
# until_ok SECONDS COMMAND...: tries again until it succeeds.
until_ok() {
  local end=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $end ] || { echo "demo: never true: $*" >&2; return 1; }
  done
}
expect() { # expect WHAT WANT GOT
  [ "$2" = "$3" ] || { echo "demo: $1: expected $2, got $3" >&2; return 1; }
}
replicas_answering() { who "$1" 40 | wc -l; }
answering_is() { [ "$(replicas_answering "$1")" = "$2" ]; }

step "A cluster of three nodes"
show "$viaduct" up --nodes 3

step "The example: one Service over three Pods"
show "$viaduct" kubectl apply -f examples/frontend
k rollout status deployment/frontend --timeout=60s
k -n my-namespace rollout status deployment/redis-master --timeout=60s
show "$viaduct" kubectl get svc,endpointslices,pods -o wide

step "By its short name, load balanced over all replicas"
until_ok 20 answering_is http://frontend-svc.default 3
who http://frontend-svc.default 40

step "By environment variables"
k exec deploy/frontend -- env | grep FRONTEND_SVC

step "By every form of its DNS name"
for name in redis-master redis-master.my-namespace redis-master.my-namespace.svc.cluster.local; do
  echo "from my-namespace:  $name -> $(k -n my-namespace exec deploy/redis-master -- toolbox lookup $name | tr '\n' ' ')"
done
for name in redis-master.my-namespace redis-master.my-namespace.svc.cluster.local; do
  echo "from default:       $name -> $(k exec deploy/frontend -- toolbox lookup $name | tr '\n' ' ')"
done
echo "ExternalName:       my-service.prod -> $(k exec deploy/frontend -- toolbox lookup --type=CNAME my-service.prod.svc.cluster.local)"

step "NodePort: the same port on every node, both families"
for ip in $(k get nodes -o 'jsonpath={.items[*].status.addresses[?(@.type=="InternalIP")].address}'); do
  case $ip in *:*) ip="[$ip]" ;; esac
  answer=$(inside curl -gsS --max-time 5 "http://$ip:30080/hostname")
  echo "$ip:30080 -> $answer"
done

step "LoadBalancer: an address of its own"
until_ok 20 sh -c "'$viaduct' kubectl get svc frontend-lb -o 'jsonpath={.status.loadBalancer.ingress[0].ip}' | grep -q ."
for lb in $(k get svc frontend-lb -o 'jsonpath={.status.loadBalancer.ingress[*].ip}'); do
  case $lb in *:*) lb="[$lb]" ;; esac
  echo "$lb:"
  who "http://$lb" 20
done

step "externalIPs"
who http://192.0.2.80 10
who 'http://[2001:db8::80]' 10

step "From the host itself, on 127.0.0.1"
show "$viaduct" status
port=$("$viaduct" status -o json | sed -n 's/.*"hostPort": *\([0-9]*\).*/\1/p' | head -1)
until_ok 10 curl -sS --max-time 3 "http://127.0.0.1:$port/hostname"
curl -sS "http://127.0.0.1:$port/"

step "Scaled up to five, and down to two"
k scale deployment/frontend --replicas=5
until_ok 30 answering_is http://frontend-svc.default 5
who http://frontend-svc.default 40
k scale deployment/frontend --replicas=2
until_ok 30 answering_is http://frontend-svc.default 2
who http://frontend-svc.default 40

step "Rolled out to a new version"
k set env deployment/frontend VERSION=2
k rollout status deployment/frontend --timeout=60s
inside sh -c 'for i in $(seq 20); do curl -sS --max-time 5 http://frontend-svc.default/env | grep ^VERSION=; done' | sort | uniq -c

step "A Pod is killed and replaced"
victim=$(k get pods -l app=frontend -o 'jsonpath={.items[0].metadata.name}')
k delete pod "$victim"
until_ok 30 answering_is http://frontend-svc.default 2
answers=$(who http://frontend-svc.default 20)
echo "$answers"
case $answers in *"$victim"*) echo "demo: $victim still answers" >&2; exit 1 ;; esac
