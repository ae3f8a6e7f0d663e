package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"testing"
	"time"
)

// hostPorts gives the numbers on 127.0.0.1 at which a Service's port is
// offered, by protocol.
func hostPorts(t *testing.T, b *box, service string) map[string]int {
	t.Helper()
	var status struct {
		Ports []struct {
			Service  string `json:"service"`
			Protocol string `json:"protocol"`
			HostPort int    `json:"hostPort"`
		} `json:"ports"`
	}
	out := b.viaduct(t, "status", "-o", "json")
	if err := json.Unmarshal([]byte(out), &status); err != nil {
		t.Fatalf("status: %v\n%s", err, out)
	}
	found := map[string]int{}
	for _, p := range status.Ports {
		if p.Service == service {
			found[p.Protocol] = p.HostPort
		}
	}
	return found
}

func TestNodePortWhoseNumberTheHostHasIsOfferedAtAnother(t *testing.T) {
	b := cluster(t)
	ns := b.namespace(t)
	const number = 31888
	taken, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", number))
	if err != nil {
		t.Skipf("somebody has the number already: %v", err)
	}
	defer taken.Close()
	webUp(t, b, ns, 1)
	b.apply(t, ns, fmt.Sprintf(`{apiVersion: v1, kind: Service, metadata: {name: pub}, spec: {type: NodePort, selector: {app: web},
		ports: [{name: t, port: 80, targetPort: 5000, nodePort: %d}, {name: u, protocol: UDP, port: 80, targetPort: 5000, nodePort: %d}]}}`, number, number))
	at := map[string]int{}
	eventually(t, 10*time.Second, func() error {
		for protocol, port := range hostPorts(t, b, ns+"/pub:t") {
			at[protocol] = port
		}
		for protocol, port := range hostPorts(t, b, ns+"/pub:u") {
			at[protocol] = port
		}
		if at["TCP"] == 0 || at["UDP"] == 0 {
			return fmt.Errorf("status lists %v:\n%s", at, b.viaduct(t, "status"))
		}
		return nil
	})
	if at["TCP"] == number {
		t.Errorf("TCP is offered at the number that another program has")
	}
	if at["UDP"] != number {
		t.Errorf("UDP %d is free, but is offered at %d", number, at["UDP"])
	}
	eventually(t, 10*time.Second, func() error {
		return get(nil, fmt.Sprintf("http://127.0.0.1:%d/hostname", at["TCP"]))
	})
}
