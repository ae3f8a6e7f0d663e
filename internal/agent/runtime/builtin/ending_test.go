package builtin

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"viaduct.dev/viaduct/internal/agent/runtime"
)

// hostPrograms lets a container run the machine's own programs.
func hostPrograms(c runtime.ContainerConfig, args ...string) runtime.ContainerConfig {
	c.Args = args
	for _, dir := range []string{"/usr", "/bin", "/lib", "/lib64"} {
		c.Mounts = append(c.Mounts, runtime.Mount{HostPath: dir, ContainerPath: dir, ReadOnly: true})
	}
	return c
}

func TestContainersAreToldToEndAndNotWaitedForInVain(t *testing.T) {
	const patience = 3 * time.Second
	for _, c := range []struct {
		name   string
		script string
		ends   bool // by itself
		waited bool // to the last
	}{
		{"one that cleans up has the time for it", "trap 'sleep 0.2; echo bye; exit 5' TERM; echo here; sleep infinity & wait", true, false},
		{"one that does not listen is not waited for", "echo here; sleep infinity; true", false, false},
		{"one that ignores it is not waited for", "trap '' TERM; echo here; sleep infinity & wait", false, false},
		{"one that listens and goes on is waited for until the end", "trap : TERM; echo here; while :; do sleep infinity & wait; done", false, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t)
			p, cfg := h.pod(t)
			cc := hostPrograms(h.container(cfg, "c"), "/bin/bash", "-c", c.script)
			run(t, p, cc)
			logged(t, cc, "here")
			limit := patience
			if c.waited {
				limit = 300 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			EndContainers(ctx, []string{cfg.StateDir, t.TempDir()})
			if (ctx.Err() != nil) != c.waited {
				t.Errorf("waited to the end: %v, want %v", ctx.Err() != nil, c.waited)
			}
			all, err := p.Containers(t.Context())
			if err != nil || len(all) != 1 {
				t.Fatal(all, err)
			}
			if ended := all[0].State == runtime.StateExited; ended != c.ends || ended && all[0].ExitCode != 5 {
				t.Errorf("it is %+v", all[0])
			}
		})
	}
}

func TestContainerIsToldToEndByItsOwnSignal(t *testing.T) {
	h := newHost(t)
	p, cfg := h.pod(t)
	cc := hostPrograms(h.container(cfg, "c"), "/bin/bash", "-c", "trap 'exit 6' USR1; trap 'exit 7' TERM; echo here; sleep infinity & wait")
	cc.StopSignal = 10
	run(t, p, cc)
	logged(t, cc, "here")
	EndContainers(t.Context(), []string{cfg.StateDir})
	if s := ended(t, p, "c"); s.ExitCode != 6 {
		t.Errorf("%+v", s)
	}
}

// logged waits until a container has written a text.
func logged(t *testing.T, c runtime.ContainerConfig, text string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; <-time.After(5 * time.Millisecond) {
		if all, _ := os.ReadFile(c.LogPath); strings.Contains(string(all), text) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the log lacks %q", text)
		}
	}
}
