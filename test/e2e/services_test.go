package e2e

import (
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"
)

// web is a Deployment of toolboxes with a Service's worth of ports, labelled
// app=web: HTTP and UDP on 5000.
func web(replicas int) string {
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: %d
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - name: web
        image: viaduct/toolbox:1
        args: [serve, --http=:5000, --udp=:5000]
        ports: [{containerPort: 5000}]
        readinessProbe: {httpGet: {path: /ready, port: 5000}, periodSeconds: 1}
`, replicas)
}

func webUp(t *testing.T, b *box, ns string, replicas int) {
	t.Helper()
	b.apply(t, ns, web(replicas))
	b.kubectl(t, "rollout", "status", "deployment/web", "-n", ns, "--timeout=60s")
}

// answers counts who answered n requests to url, by host name.
func answers(t *testing.T, b *box, url string, n int) map[string]int {
	t.Helper()
	script := fmt.Sprintf(`for i in $(seq %d); do curl -sS --max-time 5 -g '%s/hostname' || exit 1; echo; done`, n, url)
	count := map[string]int{}
	for _, line := range strings.Fields(b.shell(t, "sh", "-c", script)) {
		count[line]++
	}
	return count
}

func podNames(t *testing.T, b *box, ns, selector string) []string {
	t.Helper()
	names := strings.Fields(b.kubectl(t, "get", "pods", "-n", ns, "-l", selector, "-o", "jsonpath={.items[*].metadata.name}"))
	sort.Strings(names)
	return names
}

func jsonpath(t *testing.T, b *box, ns, object, path string) string {
	t.Helper()
	return strings.TrimSpace(b.kubectl(t, "get", object, "-n", ns, "-o", "jsonpath="+path))
}

func TestClusterIPBalancesOverAllReplicasByName(t *testing.T) {
	b := cluster(t)
	ns := b.namespace(t)
	webUp(t, b, ns, 3)
	b.apply(t, ns, `{apiVersion: v1, kind: Service, metadata: {name: frontend-svc}, spec: {selector: {app: web}, ports: [{port: 80, targetPort: 5000}]}}`)

	var count map[string]int
	eventually(t, 10*time.Second, func() error {
		count = answers(t, b, "http://frontend-svc."+ns, 60)
		if len(count) != 3 {
			return fmt.Errorf("%d of 3 replicas answered: %v", len(count), count)
		}
		return nil
	})
	for _, name := range podNames(t, b, ns, "app=web") {
		if count[name] == 0 {
			t.Errorf("replica %s was never chosen in 60 requests: %v", name, count)
		}
	}
}

func TestScalingChangesWhoAnswers(t *testing.T) {
	b := cluster(t)
	ns := b.namespace(t)
	webUp(t, b, ns, 1)
	b.apply(t, ns, `{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, ports: [{port: 80, targetPort: 5000}]}}`)
	for _, n := range []int{4, 2} {
		b.kubectl(t, "scale", "deployment/web", "-n", ns, "--replicas", strconv.Itoa(n))
		eventually(t, 30*time.Second, func() error {
			if count := answers(t, b, "http://web."+ns, 40); len(count) != n {
				return fmt.Errorf("%d replicas answer, not %d: %v", len(count), n, count)
			}
			return nil
		})
	}
}

func TestServiceWithoutEndpointsRefusesAtOnce(t *testing.T) {
	b := cluster(t)
	ns := b.namespace(t)
	b.apply(t, ns, `{apiVersion: v1, kind: Service, metadata: {name: empty}, spec: {ipFamilyPolicy: RequireDualStack, selector: {app: nobody}, ports: [{port: 80}]}}`)
	for _, ip := range strings.Fields(jsonpath(t, b, ns, "svc/empty", "{.spec.clusterIPs[*]}")) {
		eventually(t, 5*time.Second, func() error {
			out, err := b.run(t.Context(), "", "shell", "--", "curl", "-gsS", "--max-time", "3",
				"-o", "/dev/null", "-w", "%{errormsg} %{time_total}", "http://"+bracket(ip))
			if err == nil || !regexp.MustCompile(`(?i)refused|Failed to connect|Couldn't connect`).MatchString(out) {
				return fmt.Errorf("%s: %v %s", ip, err, out)
			}
			return nil
		})
	}
}

func bracket(ip string) string {
	if strings.Contains(ip, ":") {
		return "[" + ip + "]"
	}
	return ip
}

func TestNodePortAnswersOnEveryNodeInBothFamilies(t *testing.T) {
	b := cluster(t)
	ns := b.namespace(t)
	webUp(t, b, ns, 2)
	b.apply(t, ns, `{apiVersion: v1, kind: Service, metadata: {name: np}, spec: {type: NodePort, ipFamilyPolicy: RequireDualStack, selector: {app: web}, ports: [{port: 80, targetPort: 5000}]}}`)
	port := jsonpath(t, b, ns, "svc/np", "{.spec.ports[0].nodePort}")
	addresses := strings.Fields(b.kubectl(t, "get", "nodes", "-o", `jsonpath={.items[*].status.addresses[?(@.type=="InternalIP")].address}`))
	if len(addresses) != 6 {
		t.Fatalf("three dual-stack nodes have addresses %v", addresses)
	}
	for _, a := range addresses {
		eventually(t, 10*time.Second, func() error {
			if count := answers(t, b, "http://"+bracket(a)+":"+port, 20); len(count) != 2 {
				return fmt.Errorf("%s: %v", a, count)
			}
			return nil
		})
	}
}

func TestLoadBalancerAddressAnswersToAHostThatIsNoNode(t *testing.T) {
	b := cluster(t)
	ns := b.namespace(t)
	webUp(t, b, ns, 2)
	b.apply(t, ns, `{apiVersion: v1, kind: Service, metadata: {name: lb}, spec: {type: LoadBalancer, ipFamilyPolicy: RequireDualStack, selector: {app: web}, ports: [{name: tcp, port: 80, targetPort: 5000}, {name: udp, protocol: UDP, port: 80, targetPort: 5000}]}}`)
	var ips []string
	eventually(t, 10*time.Second, func() error {
		ips = strings.Fields(jsonpath(t, b, ns, "svc/lb", "{.status.loadBalancer.ingress[*].ip}"))
		if len(ips) != 2 {
			return fmt.Errorf("ingress %v", ips)
		}
		return nil
	})
	out := outsider(t, b, 201)
	for _, ip := range ips {
		eventually(t, 10*time.Second, func() error {
			return get(out, "http://"+bracket(ip)+"/hostname")
		})
		eventually(t, 10*time.Second, func() error {
			return udpEcho(out, netip.AddrPortFrom(netip.MustParseAddr(ip), 80))
		})
	}
	// The address that was asked for.
	b.apply(t, ns, `{apiVersion: v1, kind: Service, metadata: {name: asked}, spec: {type: LoadBalancer, loadBalancerIP: 172.20.255.77, selector: {app: web}, ports: [{port: 80, targetPort: 5000}]}}`)
	eventually(t, 10*time.Second, func() error {
		if ip := jsonpath(t, b, ns, "svc/asked", "{.status.loadBalancer.ingress[0].ip}"); ip != "172.20.255.77" {
			return fmt.Errorf("got %q", ip)
		}
		return get(out, "http://172.20.255.77/hostname")
	})
}

func TestExternalIPAnswersOnANodeThatGetsThePacket(t *testing.T) {
	b := cluster(t)
	ns := b.namespace(t)
	webUp(t, b, ns, 2)
	b.apply(t, ns, `{apiVersion: v1, kind: Service, metadata: {name: ext}, spec: {ipFamilyPolicy: RequireDualStack, externalIPs: [198.51.100.7, "2001:db8:7::7"], selector: {app: web}, ports: [{port: 8081, targetPort: 5000}]}}`)
	out := outsider(t, b, 202)
	routeVia(t, out, "198.51.100.7/32", "172.20.0.12")
	routeVia(t, out, "2001:db8:7::7/128", "fd00:172:20::12")
	for _, ip := range []string{"198.51.100.7", "2001:db8:7::7"} {
		eventually(t, 10*time.Second, func() error { return get(out, "http://"+bracket(ip)+":8081/hostname") })
		// And from a node, which nobody routes it for.
		if n := len(answers(t, b, "http://"+bracket(ip)+":8081", 3)); n == 0 {
			t.Errorf("%s does not answer to a node", ip)
		}
	}
}

func TestSessionAffinityKeepsAClientOnOnePod(t *testing.T) {
	b := cluster(t)
	ns := b.namespace(t)
	webUp(t, b, ns, 3)
	b.apply(t, ns, `{apiVersion: v1, kind: Service, metadata: {name: sticky}, spec: {sessionAffinity: ClientIP, selector: {app: web}, ports: [{port: 80, targetPort: 5000}]}}`)
	eventually(t, 10*time.Second, func() error { return b.tryShell(t, "curl", "-sS", "--max-time", "2", "http://sticky."+ns+"/hostname") })
	if count := answers(t, b, "http://sticky."+ns, 30); len(count) != 1 {
		t.Errorf("one client reached %v", count)
	}
}

func TestPodReachesItselfThroughItsOwnService(t *testing.T) {
	b := cluster(t)
	ns := b.namespace(t)
	webUp(t, b, ns, 1)
	b.apply(t, ns, `{apiVersion: v1, kind: Service, metadata: {name: self}, spec: {ipFamilyPolicy: RequireDualStack, selector: {app: web}, ports: [{port: 80, targetPort: 5000}]}}`)
	pod := podNames(t, b, ns, "app=web")[0]
	for _, ip := range strings.Fields(jsonpath(t, b, ns, "svc/self", "{.spec.clusterIPs[*]}")) {
		eventually(t, 10*time.Second, func() error {
			out, err := b.run(t.Context(), "", "kubectl", "exec", "-n", ns, pod, "--", "toolbox", "get", "http://"+bracket(ip)+"/hostname")
			if err != nil || !strings.Contains(out, pod) {
				return fmt.Errorf("%v: %s", err, out)
			}
			return nil
		})
	}
}

func TestNodePortsAndLoadBalancersAreOfferedOnTheHostsLoopback(t *testing.T) {
	b := cluster(t)
	ns := b.namespace(t)
	webUp(t, b, ns, 2)
	b.apply(t, ns, `{apiVersion: v1, kind: Service, metadata: {name: pub}, spec: {type: NodePort, selector: {app: web}, ports: [{name: t, port: 80, targetPort: 5000, nodePort: 31999}, {name: u, protocol: UDP, port: 80, targetPort: 5000, nodePort: 31999}]}}`)
	var local string
	eventually(t, 10*time.Second, func() error {
		m := regexp.MustCompile(`(?m)` + ns + `/pub\S*.*?TCP.*?127\.0\.0\.1:(\d+)`).FindStringSubmatch(b.viaduct(t, "status"))
		if m == nil {
			return fmt.Errorf("status does not list the port:\n%s", b.viaduct(t, "status"))
		}
		local = m[1]
		return nil
	})
	eventually(t, 10*time.Second, func() error { return get(nil, "http://127.0.0.1:"+local+"/hostname") })
}

func TestForeignFilesAreNotTouched(t *testing.T) {
	b := cluster(t)
	before, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		t.Skip("the host has no /etc/resolv.conf")
	}
	inside := b.shell(t, "cat", "/etc/resolv.conf")
	if !strings.Contains(inside, "10.96.0.10") || !strings.Contains(inside, "default.svc.cluster.local") {
		t.Errorf("resolv.conf in the shell:\n%s", inside)
	}
	after, _ := os.ReadFile("/etc/resolv.conf")
	if string(before) != string(after) {
		t.Error("the host's own resolv.conf changed")
	}
}

func TestPodReachesAnotherNodesPortWhoseEndpointIsElsewhere(t *testing.T) {
	b := cluster(t)
	ns := b.namespace(t)
	webUp(t, b, ns, 3) // one on each node
	b.apply(t, ns, `{apiVersion: v1, kind: Service, metadata: {name: np}, spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 5000}]}}`)
	port := jsonpath(t, b, ns, "svc/np", "{.spec.ports[0].nodePort}")
	for _, pod := range podNames(t, b, ns, "app=web") {
		for _, node := range []string{"172.20.0.11", "172.20.0.12", "172.20.0.13"} {
			eventually(t, 10*time.Second, func() error {
				out, err := b.run(t.Context(), "", "kubectl", "exec", "-n", ns, pod, "--", "toolbox", "get", "--count=20", "--timeout=1s", "http://"+node+":"+port+"/hostname")
				if err != nil {
					return fmt.Errorf("%s by %s: %w: %s", pod, node, err, out)
				}
				return nil
			})
		}
	}
}

func TestHandMadeSlicesServeASelectorlessService(t *testing.T) {
	b := cluster(t)
	ns := b.namespace(t)
	webUp(t, b, ns, 1)
	ip := strings.TrimSpace(b.kubectl(t, "get", "pods", "-n", ns, "-l", "app=web", "-o", "jsonpath={.items[0].status.podIP}"))
	b.apply(t, ns, `
apiVersion: v1
kind: Service
metadata: {name: manual}
spec: {ports: [{name: http, port: 80}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: by-hand, labels: {kubernetes.io/service-name: manual}}
addressType: IPv4
ports: [{name: http, port: 5000}]
endpoints: [{addresses: [`+ip+`]}]
`)
	eventually(t, 10*time.Second, func() error {
		return b.tryShell(t, "curl", "-sS", "--max-time", "2", "http://manual."+ns+"/hostname")
	})
	// A selector that comes and goes leaves it alone.
	b.kubectl(t, "patch", "svc", "manual", "-n", ns, "-p", `{"spec":{"selector":{"app":"nobody"}}}`)
	b.kubectl(t, "patch", "svc", "manual", "-n", ns, "--type=json", "-p", `[{"op":"remove","path":"/spec/selector"}]`)
	if got := jsonpath(t, b, ns, "endpointslice/by-hand", "{.endpoints[0].addresses[0]}"); got != ip {
		t.Errorf("the slice made by hand tells %q, not %s", got, ip)
	}
}
