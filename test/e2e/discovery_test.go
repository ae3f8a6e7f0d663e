package e2e

import (
	"context"
	"fmt"
	"sort"
	"strings"
	"testing"
	"time"
)

func TestEnvironmentNamesEveryServiceOfTheNamespace(t *testing.T) {
	b := cluster(t)
	ns := b.namespace(t)
	b.apply(t, ns, `
apiVersion: v1
kind: Service
metadata: {name: frontend-svc}
spec: {clusterIP: 10.96.77.1, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 5000}, {name: side-car, port: 81, protocol: UDP}]}
`)
	b.apply(t, ns, `{apiVersion: v1, kind: Service, metadata: {name: headless}, spec: {clusterIP: None, selector: {app: web}, ports: [{port: 80}]}}`)
	webUp(t, b, ns, 1)
	out := b.kubectl(t, "exec", "-n", ns, "deploy/web", "--", "env")
	for _, want := range []string{
		"FRONTEND_SVC_SERVICE_HOST=10.96.77.1",
		"FRONTEND_SVC_SERVICE_PORT=80",
		"FRONTEND_SVC_SERVICE_PORT_HTTP=80",
		"FRONTEND_SVC_SERVICE_PORT_SIDE_CAR=81",
		"FRONTEND_SVC_PORT=tcp://10.96.77.1:80",
		"FRONTEND_SVC_PORT_80_TCP=tcp://10.96.77.1:80",
		"FRONTEND_SVC_PORT_80_TCP_PROTO=tcp",
		"FRONTEND_SVC_PORT_80_TCP_PORT=80",
		"FRONTEND_SVC_PORT_80_TCP_ADDR=10.96.77.1",
		"FRONTEND_SVC_PORT_81_UDP=udp://10.96.77.1:81",
		"KUBERNETES_SERVICE_HOST=10.96.0.1",
		"KUBERNETES_SERVICE_PORT=443",
		"KUBERNETES_SERVICE_PORT_HTTPS=443",
		"KUBERNETES_PORT_443_TCP_ADDR=10.96.0.1",
	} {
		if !strings.Contains(out, want+"\n") {
			t.Errorf("the environment lacks %s", want)
		}
	}
	if strings.Contains(out, "HEADLESS_") {
		t.Error("a headless Service has no environment variables")
	}
	if t.Failed() {
		t.Log(out)
	}
}

func TestEnableServiceLinksFalseLeavesOnlyKubernetes(t *testing.T) {
	b := cluster(t)
	ns := b.namespace(t)
	b.apply(t, ns, `{apiVersion: v1, kind: Service, metadata: {name: other}, spec: {ports: [{port: 80}]}}`)
	b.apply(t, ns, `{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {enableServiceLinks: false, restartPolicy: Never, containers: [{name: c, image: "viaduct/toolbox:1", args: [env]}]}}`)
	var out string
	eventually(t, 20*time.Second, func() error {
		if phase := jsonpath(t, b, ns, "pod/p", "{.status.phase}"); phase != "Succeeded" {
			return fmt.Errorf("phase %s", phase)
		}
		out = b.kubectl(t, "logs", "-n", ns, "p")
		return nil
	})
	if strings.Contains(out, "OTHER_SERVICE_HOST") || !strings.Contains(out, "KUBERNETES_SERVICE_HOST=") {
		t.Errorf("environment:\n%s", out)
	}
}

func TestEveryFormOfAName(t *testing.T) {
	b := cluster(t)
	ns := b.namespace(t)
	elsewhere := ns + "-b"
	b.kubectl(t, "create", "namespace", elsewhere)
	t.Cleanup(func() {
		b.run(context.Background(), "", "kubectl", "delete", "namespace", elsewhere, "--wait=false")
	})
	b.apply(t, ns, `{apiVersion: v1, kind: Service, metadata: {name: redis-master}, spec: {ipFamilyPolicy: RequireDualStack, ports: [{name: redis, port: 6379}]}}`)
	webUp(t, b, ns, 1)
	b.apply(t, elsewhere, web(1))
	b.kubectl(t, "rollout", "status", "deployment/web", "-n", elsewhere, "--timeout=60s")

	ips := strings.Fields(jsonpath(t, b, ns, "svc/redis-master", "{.spec.clusterIPs[*]}"))
	sort.Strings(ips)
	lookups := []struct{ from, name string }{
		{ns, "redis-master"},
		{ns, "redis-master." + ns},
		{elsewhere, "redis-master." + ns},
		{elsewhere, "redis-master." + ns + ".svc"},
		{elsewhere, "redis-master." + ns + ".svc.cluster.local"},
		{elsewhere, "redis-master." + ns + ".svc.cluster.local."},
	}
	for _, l := range lookups {
		eventually(t, 5*time.Second, func() error {
			out, err := b.run(t.Context(), "", "kubectl", "exec", "-n", l.from, "deploy/web", "--", "toolbox", "lookup", l.name)
			got := strings.Fields(out)
			sort.Strings(got)
			if err != nil || strings.Join(got, " ") != strings.Join(ips, " ") {
				return fmt.Errorf("%s from %s: %v, want %v (%v)", l.name, l.from, got, ips, err)
			}
			return nil
		})
	}
	if out, err := b.run(t.Context(), "", "kubectl", "exec", "-n", elsewhere, "deploy/web", "--", "toolbox", "lookup", "redis-master"); err == nil {
		t.Errorf("the bare name resolves in another namespace: %s", out)
	}
}

// dig asks the cluster's DNS from the first node.
func dig(t *testing.T, b *box, args ...string) string {
	t.Helper()
	return b.shell(t, append([]string{"dig", "+time=2", "+tries=1", "@10.96.0.10"}, args...)...)
}

func TestHeadlessNameGivesThePods(t *testing.T) {
	b := cluster(t)
	ns := b.namespace(t)
	webUp(t, b, ns, 3)
	b.apply(t, ns, `{apiVersion: v1, kind: Service, metadata: {name: pods}, spec: {clusterIP: None, ipFamilyPolicy: RequireDualStack, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 5000}]}}`)
	for qtype, path := range map[string]string{"A": "{.items[*].status.podIPs[0].ip}", "AAAA": "{.items[*].status.podIPs[1].ip}"} {
		want := strings.Fields(b.kubectl(t, "get", "pods", "-n", ns, "-l", "app=web", "-o", "jsonpath="+path))
		sort.Strings(want)
		eventually(t, 5*time.Second, func() error {
			got := strings.Fields(dig(t, b, "+short", qtype, "pods."+ns+".svc.cluster.local"))
			sort.Strings(got)
			if strings.Join(got, " ") != strings.Join(want, " ") {
				return fmt.Errorf("%s: %v, want %v", qtype, got, want)
			}
			return nil
		})
	}
	if out := dig(t, b, "+short", "SRV", "_http._tcp.pods."+ns+".svc.cluster.local"); strings.Count(out, " 5000 ") != 6 {
		t.Errorf("SRV of three Pods with two addresses each:\n%s", out)
	}
}

func TestExternalNameIsACNAME(t *testing.T) {
	b := cluster(t)
	ns := b.namespace(t)
	b.apply(t, ns, `{apiVersion: v1, kind: Service, metadata: {name: my-service}, spec: {type: ExternalName, externalName: my.database.example.com}}`)
	eventually(t, 5*time.Second, func() error {
		if got := dig(t, b, "+short", "my-service."+ns+".svc.cluster.local"); got != "my.database.example.com." {
			return fmt.Errorf("answer %q", got)
		}
		return nil
	})
}

func TestNamesOutsideTheZoneAreRefused(t *testing.T) {
	b := cluster(t)
	if out := dig(t, b, "www.example.com"); !strings.Contains(out, "status: REFUSED") {
		t.Errorf("answer:\n%s", out)
	}
	if out := dig(t, b, "nothing.default.svc.cluster.local"); !strings.Contains(out, "status: NXDOMAIN") {
		t.Errorf("answer:\n%s", out)
	}
}

func TestDNSAnswersOnEveryNodeOverBothFamiliesAndTCP(t *testing.T) {
	b := cluster(t)
	for _, node := range []string{"node-1", "node-2", "node-3"} {
		for _, server := range []string{"10.96.0.10", "fd00:10:96::a"} {
			for _, transport := range []string{"+notcp", "+tcp"} {
				out := b.viaduct(t, "shell", "--node", node, "--", "dig", transport, "+short", "+time=2", "@"+server, "kubernetes.default.svc.cluster.local")
				if strings.TrimSpace(out) != "10.96.0.1" {
					t.Errorf("%s at %s %s: %q", node, server, transport, out)
				}
			}
		}
	}
}
