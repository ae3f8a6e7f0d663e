//go:build linux && cgo

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// setSysctl sets a sysctl that belongs to the Pod's own namespaces. The agent
// has checked that it is one of those.
func setSysctl(key, value string) error {
	path := filepath.Join("/proc/sys", strings.ReplaceAll(key, ".", "/"))
	if err := os.WriteFile(path, []byte(value), 0); err != nil {
		return fmt.Errorf("set sysctl %s=%s: %w", key, value, err)
	}
	return nil
}
