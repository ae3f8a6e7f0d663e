# Viaduct's own commands. Everything works on a fresh Debian 12 machine with
# Go, make and gcc, as root; `make test` installs the Debian packages it needs.

export CGO_ENABLED := 0
export GOFLAGS := -trimpath -buildvcs=false

VERSION := $(shell cat VERSION)
COMMIT := $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
# The Kubernetes release whose API this is; kubectl compares it with its own.
KUBE_VERSION := v1.37.2
BASE := k8s.io/component-base/version
LDFLAGS := -s -w \
	-X viaduct.dev/viaduct/internal/version.version=$(VERSION) \
	-X viaduct.dev/viaduct/internal/version.commit=$(COMMIT) \
	-X $(BASE).gitVersion=$(KUBE_VERSION)+viaduct.$(VERSION) \
	-X $(BASE).gitMajor=1 -X $(BASE).gitMinor=37 \
	-X $(BASE).gitCommit=$(COMMIT) -X $(BASE).gitTreeState=clean

.PHONY: build embedded demo test test-short test-histories lint bench bench-up bench-proxy generate image clean

build: embedded
	go build -ldflags "$(LDFLAGS)" -o bin/viaduct ./cmd/viaduct

# The Pod's shim, the toolbox and the supervisor travel inside the binary.
embedded:
	hack/build-embedded.sh

demo: build
	hack/demo.sh bin/viaduct

test: build
	hack/test.sh

test-short: embedded
	go test -short ./...

# Random histories of small clusters, with packets, against the model of what
# Services mean: about 15 minutes. Prints its seed and how long it took.
HISTORIES ?= 2000
SEED ?= $(shell date +%s)
test-histories:
	@echo "test-histories: $(HISTORIES) histories, seed $(SEED)"
	HISTORIES=$(HISTORIES) SEED=$(SEED) go test ./test/histories -run TestRandomHistories -count 1 -timeout 2h -v

lint:
	hack/lint.sh

bench: bench-up

bench-up: build
	go run ./bench/up -viaduct bin/viaduct

# Beside kube-proxy: half an hour, and BENCH_FLAGS make it less (see
# bench/proxy -help). The peers are built first, from the Go module proxy.
bench-proxy: build
	nice bench/peers/build.sh
	go run ./bench/proxy -viaduct bin/viaduct $(BENCH_FLAGS)

generate:
	go generate ./...

# The binary as an OCI image, for clusters that run Viaduct's parts as Pods.
image: build
	go run ./hack/image -binary bin/viaduct -o bin/viaduct-image.tar

clean:
	rm -rf bin internal/agent/runtime/builtin/embedded/viaduct-* internal/cluster/embedded/viaduct-*
