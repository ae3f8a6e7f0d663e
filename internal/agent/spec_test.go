package agent

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestPodsNameAsAHost(t *testing.T) {
	yes, other := true, "other.example"
	ips := []netip.Addr{netip.MustParseAddr("10.244.0.7"), netip.MustParseAddr("fd00:10:244::7")}
	long := strings.Repeat("n", 70)
	for _, c := range []struct {
		name   string
		pod    string
		spec   corev1.PodSpec
		kernel string // or the error's beginning
		hosts  string // what follows the address
	}{
		{"the pod's own", "web-0", corev1.PodSpec{}, "web-0", "web-0"},
		{"cut to what a label may be", long, corev1.PodSpec{}, long[:63], long[:63]},
		{"a hostname wins", "web-0", corev1.PodSpec{Hostname: "db"}, "db", "db"},
		{"a subdomain is for the hosts file", "web-0", corev1.PodSpec{Hostname: "db", Subdomain: "all"}, "db", "db.all.shop.svc.cluster.local\tdb"},
		{"without a hostname too", "web-0", corev1.PodSpec{Subdomain: "all"}, "web-0", "web-0.all.shop.svc.cluster.local\tweb-0"},
		{"the whole name where it is asked for", "web-0", corev1.PodSpec{Hostname: "db", Subdomain: "all", SetHostnameAsFQDN: &yes},
			"db.all.shop.svc.cluster.local", "db.all.shop.svc.cluster.local\tdb"},
		{"no whole name without a subdomain", "web-0", corev1.PodSpec{SetHostnameAsFQDN: &yes}, "web-0", "web-0"},
		{"a whole name that the kernel cannot take", "web-0", corev1.PodSpec{Hostname: strings.Repeat("h", 40), Subdomain: "all", SetHostnameAsFQDN: &yes},
			"failed to construct FQDN from pod hostname and cluster domain, FQDN hhhh", strings.Repeat("h", 40) + ".all.shop.svc.cluster.local\t" + strings.Repeat("h", 40)},
		{"an override is all of it", "web-0", corev1.PodSpec{Hostname: "db", Subdomain: "all", HostnameOverride: &other}, "other.example", "other.example"},
		{"the node's on its network", "web-0", corev1.PodSpec{HostNetwork: true}, "node-1", "node-1"},
	} {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: c.pod, Namespace: "shop"}, Spec: c.spec}
		got, err := kernelHostname(pod, "node-1", "cluster.local")
		if err != nil {
			got = err.Error()
		}
		if got != c.kernel && !(err != nil && strings.HasPrefix(got, c.kernel)) {
			t.Errorf("%s: the kernel is told %q, want %q", c.name, got, c.kernel)
		}
		text := etcHosts(pod, hostname(pod, "node-1"), "cluster.local", ips)
		for _, ip := range ips {
			if line := ip.String() + "\t" + c.hosts + "\n"; !strings.Contains(text, line) {
				t.Errorf("%s: /etc/hosts lacks %q:\n%s", c.name, line, text)
			}
		}
	}
}

func TestContainerSeesItsWholeName(t *testing.T) {
	n := newTestNode(t)
	yes := true
	const whole = "named.all.default.svc.cluster.local"
	n.pod("named", func(p *corev1.Pod) {
		p.Spec.RestartPolicy = corev1.RestartPolicyNever
		p.Spec.Subdomain, p.Spec.SetHostnameAsFQDN = "all", &yes
		p.Spec.Containers[0].Command = []string{"toolbox", "cat"}
	}, "/proc/sys/kernel/hostname", "/etc/hostname", "/proc/self/environ")
	n.until("named", "succeeded", func(p *corev1.Pod) bool { return p != nil && p.Status.Phase == corev1.PodSucceeded })
	if text := n.logs("named", ""); !strings.HasPrefix(text, whole+"\n"+whole+"\n") || !strings.Contains(text, "HOSTNAME="+whole+"\x00") {
		t.Errorf("it is %q", text)
	}
}

func TestHostPortIsSaidToLeadNowhere(t *testing.T) {
	n := newTestNode(t)
	ports := []corev1.ContainerPort{{ContainerPort: 5000, HostPort: 8080}, {ContainerPort: 5001, HostPort: 8081, Protocol: corev1.ProtocolUDP}, {ContainerPort: 5002}}
	n.pod("wants", func(p *corev1.Pod) { serving(p); p.Spec.Containers[0].Ports = ports }, "serve", "--http", ":5000")
	n.pod("has", func(p *corev1.Pod) {
		p.Spec.HostNetwork = true
		p.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 5000, HostPort: 5000}}
	}, "serve", "--http", ":5000")
	n.until("wants", "ready", ready)
	n.until("has", "ready", ready)
	var said []string
	for deadline := time.Now().Add(10 * time.Second); len(said) < 2; pause(t.Context(), 5*time.Millisecond) {
		events, err := n.client.CoreV1().Events("default").List(t.Context(), metav1.ListOptions{})
		if err != nil || time.Now().After(deadline) {
			t.Fatalf("said %q (%v)", said, err)
		}
		said = nil
		for _, e := range events.Items {
			if e.Reason == "HostPortNotSupported" {
				said = append(said, e.InvolvedObject.Name+" "+e.InvolvedObject.FieldPath+" "+strings.Join(strings.Fields(e.Message)[:2], " "))
			}
		}
	}
	slices.Sort(said)
	if want := []string{"wants spec.containers{c} hostPort 8080/TCP", "wants spec.containers{c} hostPort 8081/UDP"}; !slices.Equal(said, want) {
		t.Errorf("said %q, want %q", said, want)
	}
}
