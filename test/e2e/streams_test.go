package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// kubectls are the embedded kubectl and the host's own, which speak different
// protocols first.
func kubectls(t *testing.T, b *box) map[string]func(args ...string) *exec.Cmd {
	t.Helper()
	all := map[string]func(args ...string) *exec.Cmd{
		"embedded": func(args ...string) *exec.Cmd {
			return b.command(t.Context(), append([]string{"kubectl"}, args...)...)
		},
	}
	if _, err := exec.LookPath("kubectl"); err == nil {
		config := kubeconfigFile(t, b)
		all["host"] = func(args ...string) *exec.Cmd {
			cmd := exec.CommandContext(t.Context(), "kubectl", args...)
			cmd.Env = append(os.Environ(), "KUBECONFIG="+config)
			return cmd
		}
	}
	return all
}

func TestExecCarriesStreamsAndExitCodes(t *testing.T) {
	b := cluster(t)
	ns := b.namespace(t)
	webUp(t, b, ns, 1)
	for name, kubectl := range kubectls(t, b) {
		cmd := kubectl("exec", "-i", "-n", ns, "deploy/web", "--", "cat")
		cmd.Stdin = strings.NewReader("through and back\n")
		if out, err := cmd.CombinedOutput(); err != nil || string(out) != "through and back\n" {
			t.Errorf("%s: cat: %v %q", name, err, out)
		}
		err := kubectl("exec", "-n", ns, "deploy/web", "--", "toolbox", "exit", "7").Run()
		if exit, ok := err.(*exec.ExitError); !ok || exit.ExitCode() != 7 {
			t.Errorf("%s: exit 7: %v", name, err)
		}
		if out, err := kubectl("exec", "-n", ns, "deploy/web", "--", "no-such-program").CombinedOutput(); err == nil || !strings.Contains(string(out), "no-such-program") {
			t.Errorf("%s: no such program: %v %s", name, err, out)
		}
	}
}

func TestPortForwardReachesThePod(t *testing.T) {
	b := cluster(t)
	ns := b.namespace(t)
	webUp(t, b, ns, 1)
	for name, kubectl := range kubectls(t, b) {
		cmd := kubectl("port-forward", "-n", ns, "deploy/web", ":5000", "--address", "127.0.0.1")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		line, _ := bufio.NewReader(out).ReadString('\n')
		m := regexp.MustCompile(`127\.0\.0\.1:(\d+)`).FindStringSubmatch(line)
		if m == nil {
			t.Errorf("%s: it said %q", name, line)
		} else if err := get(nil, "http://127.0.0.1:"+m[1]+"/hostname"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		cmd.Process.Kill()
		cmd.Wait()
	}
}

func TestLogsCanBeFollowed(t *testing.T) {
	b := cluster(t)
	ns := b.namespace(t)
	webUp(t, b, ns, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	cmd := b.command(ctx, "kubectl", "logs", "-f", "-n", ns, "deploy/web")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	first, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || !strings.Contains(first, "5000") {
		t.Errorf("the first line: %q %v", first, err)
	}
	// It ends with the container.
	b.kubectl(t, "delete", "pod", "-n", ns, "-l", "app=web", "--wait=false")
	rest, _ := io.ReadAll(out)
	cmd.Wait()
	if ctx.Err() != nil {
		t.Errorf("it did not end: %q", rest)
	}
}

func TestPodsTellTheirPreviousLog(t *testing.T) {
	b := cluster(t)
	ns := b.namespace(t)
	b.apply(t, ns, `{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c, image: "viaduct/toolbox:1", args: [echo, gone by]}]}}`)
	eventually(t, 30*time.Second, func() error {
		out, err := b.run(t.Context(), "", "kubectl", "logs", "--previous", "-n", ns, "p")
		if err != nil || !strings.Contains(out, "gone by") {
			return fmt.Errorf("%v %s", err, out)
		}
		return nil
	})
}
