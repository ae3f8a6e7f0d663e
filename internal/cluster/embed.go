package cluster

import (
	"crypto/sha256"
	"embed"
	"fmt"
	"os"
	"path/filepath"

	"viaduct.dev/viaduct/internal/agent/runtime/builtin"
	"viaduct.dev/viaduct/internal/cluster/box"
)

// The supervisor's program is built by hack/build-embedded.sh; a plain
// `go build` has none.
//
//go:embed all:embedded
var embedded embed.FS

// installSupervisor writes the supervisor's program to the cluster's directory,
// named by its content, so that one that runs is never replaced.
func installSupervisor(dir box.Dir) (string, error) {
	content, err := embedded.ReadFile("embedded/viaduct-supervisor")
	if err != nil {
		return "", builtin.ErrNotBuilt
	}
	sum := sha256.Sum256(content)
	path := filepath.Join(dir.Programs(), fmt.Sprintf("viaduct-supervisor-%x", sum[:6]))
	if info, err := os.Stat(path); err == nil && info.Size() == int64(len(content)) {
		return path, nil
	}
	if err := os.MkdirAll(dir.Programs(), 0o755); err != nil {
		return "", fmt.Errorf("install the supervisor: %w", err)
	}
	if err := box.ReplaceFile(path, content, 0o755); err != nil {
		return "", fmt.Errorf("install the supervisor: %w", err)
	}
	return path, nil
}
