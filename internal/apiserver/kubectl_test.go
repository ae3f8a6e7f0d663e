package apiserver

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"k8s.io/kubectl/pkg/cmd"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(writerEnv); dir != "" {
		if err := writeUntilKilled(dir); err != nil {
			panic(err)
		}
		return
	}
	testscript.Main(m, map[string]func(){"kubectl": func() {
		if err := cmd.NewDefaultKubectlCommand().Execute(); err != nil {
			os.Exit(1)
		}
	}})
}

// TestKubectl runs what a user types; each script works in a namespace or with
// names of its own.
func TestKubectl(t *testing.T) {
	t.Parallel()
	c := start(t, t.TempDir())
	testscript.Run(t, testscript.Params{
		Dir: "testdata/kubectl",
		Setup: func(env *testscript.Env) error {
			path := filepath.Join(env.WorkDir, "kubeconfig")
			env.Setenv("KUBECONFIG", path)
			env.Setenv("HOME", env.WorkDir)
			return os.WriteFile(path, c.kubeconfig, 0o600)
		},
	})
}
