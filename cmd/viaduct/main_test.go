package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"viaduct.dev/viaduct/internal/agent/runtime/builtin"
	"viaduct.dev/viaduct/internal/cluster"
	"viaduct.dev/viaduct/internal/cluster/box"
	"viaduct.dev/viaduct/internal/cluster/fabric"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"viaduct": func() { os.Exit(run(os.Args[1:])) },
	})
}

// TestCommandLine runs testdata/script. Scripts that start a cluster have a
// name of their own for it in $VIADUCT_NAME.
func TestCommandLine(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			name := fmt.Sprintf("cmd%d-%s", os.Getpid(), strings.TrimPrefix(filepath.Base(env.WorkDir), "script-"))
			dir := filepath.Join(env.WorkDir, "state")
			env.Setenv("VIADUCT_NAME", name)
			env.Setenv("VIADUCT_STATE_DIR", dir)
			if err := os.Chmod(env.WorkDir, 0o755); err != nil {
				return err
			}
			env.Defer(func() {
				if os.Getuid() == 0 {
					cluster.Down(context.Background(), name, box.Dir(filepath.Join(dir, name)), os.Stderr)
				}
			})
			return nil
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "root":
				return os.Getuid() == 0, nil
			case "built":
				_, err := builtin.Toolbox()
				return err == nil, nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"foreign": foreign,
			"take":    take,
			"kill9":   kill9,
			"traces":  traces,

			"disk":    disk,
			"fill":    fill,
			"big":     big,
			"image":   image,
			"written": written,

			"writeuntilrefused": writeUntilRefused,

			"waitready": waitReady,
			"interrupt": interrupt,
		},
	})
}

// foreign gives a cluster's name to another directory.
func foreign(ts *testscript.TestScript, _ bool, args []string) {
	f, err := fabric.Open(box.Dir(args[1]), box.Default(args[0]))
	ts.Check(err)
	f.Close()
	ts.Defer(func() { fabric.Remove(args[0]) })
}

// take occupies a port of the host; its number is in $PORT.
func take(ts *testscript.TestScript, _ bool, _ []string) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { l.Close() })
	_, port, _ := strings.Cut(l.Addr().String(), ":")
	ts.Setenv("PORT", port)
}

// dirOf is the directory of the script's cluster.
func dirOf(ts *testscript.TestScript) box.Dir {
	return box.Dir(filepath.Join(ts.Getenv("VIADUCT_STATE_DIR"), ts.Getenv("VIADUCT_NAME")))
}

// kill9 kills the processes of the given roles, and waits for their end.
func kill9(ts *testscript.TestScript, _ bool, roles []string) {
	var killed []box.Process
	for _, p := range dirOf(ts).Processes() {
		if slices.Contains(roles, p.Role) {
			p.Kill()
			killed = append(killed, p)
		}
	}
	if len(killed) == 0 {
		ts.Fatalf("no process is a %s", roles)
	}
	eventually(ts, "the processes end", func() bool {
		return !slices.ContainsFunc(killed, box.Process.Alive)
	})
}

// traces remembers what there is of the script's cluster on the host (before),
// or wants it to be the same again (same).
func traces(ts *testscript.TestScript, _ bool, args []string) {
	found, err := tracesOf(ts.Getenv("VIADUCT_NAME"))
	ts.Check(err)
	links, err := net.Interfaces()
	ts.Check(err)
	for _, l := range links {
		found = append(found, "link "+l.Name)
	}
	now := strings.Join(found, "\n")
	if args[0] == "before" {
		ts.Setenv("TRACES", now)
	} else if was := ts.Getenv("TRACES"); now != was {
		ts.Fatalf("left behind:\n%s\nbefore:\n%s", now, was)
	}
}

// tracesOf finds what on the host bears a cluster's name: mounts, namespaces,
// cgroups, files and processes.
func tracesOf(name string) ([]string, error) {
	var found []string
	note := func(kind string, lines ...string) {
		for _, l := range lines {
			if strings.Contains(l, name) {
				found = append(found, kind+" "+l)
			}
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	note("mount", strings.Split(string(mounts), "\n")...)
	for _, pattern := range []string{"/run/netns/*", "/sys/fs/cgroup/*/viaduct/*", "/sys/fs/cgroup/viaduct/*", "/tmp/*", "/run/*"} {
		files, _ := filepath.Glob(pattern)
		note("file", files...)
	}
	programs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range programs {
		if text, _ := os.ReadFile(path); path != fmt.Sprintf("/proc/%d/cmdline", os.Getpid()) {
			note("process", string(text))
		}
	}
	slices.Sort(found)
	return found, nil
}

// waitReady waits until the script's cluster is ready.
func waitReady(ts *testscript.TestScript, _ bool, _ []string) {
	eventually(ts, "the cluster is ready", func() bool {
		s, err := cluster.Inspect(context.Background(), dirOf(ts))
		return err == nil && s.State == cluster.StateReady
	})
}

// interrupt sends SIGINT to a command in the background.
func interrupt(ts *testscript.TestScript, _ bool, args []string) {
	for _, cmd := range ts.BackgroundCmds() {
		ts.Check(cmd.Process.Signal(os.Interrupt))
	}
}

func eventually(ts *testscript.TestScript, what string, is func() bool) {
	deadline := time.After(30 * time.Second)
	for !is() {
		select {
		case <-deadline:
			ts.Fatalf("not so within 30 s: %s", what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func TestEveryFlagSaysWhatItIs(t *testing.T) {
	root := newRoot(time.Now())
	for _, cmd := range root.Commands() {
		if cmd.Short == "" && !cmd.Hidden {
			t.Errorf("%s says nothing", cmd.Name())
		}
	}
	up, _, err := root.Find([]string{"up"})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"service-cluster-ip-range", "service-node-port-range", "cluster-cidr", "node-cidr-mask-size-ipv4", "node-cidr-mask-size-ipv6", "cluster-domain", "cluster-dns"} {
		if f := up.Flags().Lookup(name); f == nil || f.Usage == "" {
			t.Errorf("up has no --%s that says what it is", name)
		}
	}
}

func TestFlagsBehindTheProgramAreThePrograms(t *testing.T) {
	shell, rest, err := newRoot(time.Now()).Find([]string{"shell", "--node", "node-2", "ls", "-l"})
	if err != nil {
		t.Fatal(err)
	}
	if err := shell.ParseFlags(rest); err != nil || strings.Join(shell.Flags().Args(), " ") != "ls -l" {
		t.Errorf("the program is %q, %v", shell.Flags().Args(), err)
	}
}
