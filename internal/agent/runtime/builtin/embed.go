package builtin

import (
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// The binaries are built by hack/build-embedded.sh; a plain `go build` has none.
//
//go:embed all:embedded
var embedded embed.FS

// ErrNotBuilt says that the binary was built without the programs that it
// carries.
var ErrNotBuilt = errors.New("this binary was built without viaduct-shim and viaduct-toolbox: build it with `make build`")

// Toolbox is the program that the image viaduct/toolbox is made of.
func Toolbox() ([]byte, error) { return program("viaduct-toolbox") }

func program(name string) ([]byte, error) {
	content, err := embedded.ReadFile("embedded/" + name)
	if err != nil {
		return nil, ErrNotBuilt
	}
	return content, nil
}

// installShim writes the shim below dir, named by its content, so that one that
// runs is never replaced.
func installShim(dir string) (string, error) {
	content, err := program("viaduct-shim")
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(content)
	path := filepath.Join(dir, fmt.Sprintf("viaduct-shim-%x", sum[:6]))
	if info, err := os.Stat(path); err == nil && info.Size() == int64(len(content)) {
		return path, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("install the shim: %w", err)
	}
	f, err := os.CreateTemp(dir, ".viaduct-shim-")
	if err != nil {
		return "", fmt.Errorf("install the shim: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	if err == nil {
		err = f.Chmod(0o755)
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return "", fmt.Errorf("install the shim: %w", err)
	}
	return path, nil
}
