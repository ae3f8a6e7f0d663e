package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"viaduct.dev/viaduct/internal/images/imagetest"
)

func TestRealRedisAndNginxAnswerBehindServices(t *testing.T) {
	b := cluster(t)
	ns := b.namespace(t)
	for _, image := range []string{imagetest.Redis(t), imagetest.Nginx(t)} {
		b.viaduct(t, "image", "load", image)
	}
	b.apply(t, ns, `
apiVersion: v1
kind: Pod
metadata: {name: redis, labels: {app: redis, role: master}}
spec:
  containers: [{name: redis, image: "redis:test", ports: [{containerPort: 6379}], readinessProbe: {tcpSocket: {port: 6379}, periodSeconds: 1}}]
---
apiVersion: v1
kind: Service
metadata: {name: redis-master}
spec: {selector: {app: redis, role: master}, ports: [{port: 6379}]}
---
apiVersion: v1
kind: Pod
metadata: {name: nginx, labels: {app: nginx}}
spec:
  containers: [{name: nginx, image: "nginx:test", ports: [{containerPort: 80}], readinessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1}}]
---
apiVersion: v1
kind: Service
metadata: {name: nginx}
spec: {selector: {app: nginx}, ports: [{port: 80}]}
`)
	eventually(t, 60*time.Second, func() error {
		out, err := b.run(t.Context(), "PING\r\n", "kubectl", "exec", "-i", "-n", ns, "redis", "--", "redis-cli", "-h", "redis-master", "SET", "k", "v")
		if err != nil || !strings.Contains(out, "OK") {
			return fmt.Errorf("%v %s", err, out)
		}
		return nil
	})
	if out := b.kubectl(t, "exec", "-n", ns, "redis", "--", "redis-cli", "-h", "redis-master."+ns+".svc.cluster.local", "GET", "k"); strings.TrimSpace(out) != "v" {
		t.Errorf("GET k: %q", out)
	}
	eventually(t, 30*time.Second, func() error {
		out, err := b.run(t.Context(), "", "shell", "--", "curl", "-sSi", "--max-time", "3", "http://nginx."+ns)
		if err != nil || !strings.Contains(out, "Server: nginx") {
			return fmt.Errorf("%v %s", err, out)
		}
		return nil
	})
}
