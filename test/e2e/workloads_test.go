package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestRolloutChangesTheVersionAndCanBeUndone(t *testing.T) {
	b := cluster(t)
	ns := b.namespace(t)
	webUp(t, b, ns, 3)
	b.apply(t, ns, `{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, ports: [{port: 80, targetPort: 5000}]}}`)
	version := func(want string) func() error {
		return func() error {
			out, err := b.run(t.Context(), "", "shell", "--", "sh", "-c",
				`for i in $(seq 20); do curl -sS --max-time 3 http://web.`+ns+`/env | grep ^VERSION= ; done | sort -u`)
			if got := strings.TrimSpace(out); err != nil || got != "VERSION="+want {
				return fmt.Errorf("%v %q", err, got)
			}
			return nil
		}
	}
	b.kubectl(t, "set", "env", "deployment/web", "-n", ns, "VERSION=2")
	b.kubectl(t, "rollout", "status", "deployment/web", "-n", ns, "--timeout=60s")
	eventually(t, 20*time.Second, version("2"))
	b.kubectl(t, "set", "env", "deployment/web", "-n", ns, "VERSION=3")
	b.kubectl(t, "rollout", "status", "deployment/web", "-n", ns, "--timeout=60s")
	b.kubectl(t, "rollout", "undo", "deployment/web", "-n", ns)
	b.kubectl(t, "rollout", "status", "deployment/web", "-n", ns, "--timeout=60s")
	eventually(t, 20*time.Second, version("2"))

	before := strings.Join(podNames(t, b, ns, "app=web"), " ")
	b.kubectl(t, "rollout", "restart", "deployment/web", "-n", ns)
	b.kubectl(t, "rollout", "status", "deployment/web", "-n", ns, "--timeout=60s")
	eventually(t, 30*time.Second, func() error {
		after := podNames(t, b, ns, "app=web")
		for _, p := range after {
			if strings.Contains(before, p) {
				return fmt.Errorf("%s was not replaced", p)
			}
		}
		if len(after) != 3 {
			return fmt.Errorf("pods %v", after)
		}
		return nil
	})
}

func TestDeletedPodIsReplacedAndReached(t *testing.T) {
	b := cluster(t)
	ns := b.namespace(t)
	webUp(t, b, ns, 2)
	b.apply(t, ns, `{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: web}, ports: [{port: 80, targetPort: 5000}]}}`)
	victim := podNames(t, b, ns, "app=web")[0]
	b.kubectl(t, "delete", "pod", victim, "-n", ns)
	eventually(t, 20*time.Second, func() error {
		count := answers(t, b, "http://web."+ns, 20)
		if len(count) != 2 || count[victim] > 0 {
			return fmt.Errorf("%v", count)
		}
		return nil
	})
}

func TestReplicasAreSpreadOverTheNodes(t *testing.T) {
	b := cluster(t)
	ns := b.namespace(t)
	webUp(t, b, ns, 3)
	nodes := map[string]bool{}
	for _, n := range strings.Fields(b.kubectl(t, "get", "pods", "-n", ns, "-l", "app=web", "-o", "jsonpath={.items[*].spec.nodeName}")) {
		nodes[n] = true
	}
	if len(nodes) != 3 {
		t.Errorf("three replicas stand on %v", nodes)
	}
}

func TestUnreadyPodIsNoEndpoint(t *testing.T) {
	b := cluster(t)
	ns := b.namespace(t)
	b.apply(t, ns, `
apiVersion: v1
kind: Pod
metadata: {name: p, labels: {app: gate}}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{name: state, emptyDir: {}}]
  containers:
  - name: c
    image: viaduct/toolbox:1
    args: [serve, --http=:5000]
    volumeMounts: [{name: state, mountPath: /state}]
    readinessProbe: {exec: {command: [cat, /state/ready]}, periodSeconds: 1}
`)
	b.apply(t, ns, `{apiVersion: v1, kind: Service, metadata: {name: gate}, spec: {selector: {app: gate}, ports: [{port: 80, targetPort: 5000}]}}`)
	eventually(t, 20*time.Second, func() error {
		if r := b.kubectl(t, "get", "pod", "p", "-n", ns, "--no-headers"); !strings.Contains(r, "0/1") || !strings.Contains(r, "Running") {
			return fmt.Errorf("%s", r)
		}
		return nil
	})
	if err := b.tryShell(t, "curl", "-sS", "--max-time", "2", "http://gate."+ns); err == nil {
		t.Error("a Pod that is not ready was reached")
	}
	b.kubectl(t, "exec", "-n", ns, "p", "--", "toolbox", "touch", "/state/ready")
	eventually(t, 10*time.Second, func() error {
		return b.tryShell(t, "curl", "-sS", "--max-time", "2", "http://gate."+ns+"/hostname")
	})
}

func TestEnvironmentFromConfigMapSecretAndFields(t *testing.T) {
	b := cluster(t)
	ns := b.namespace(t)
	b.kubectl(t, "create", "configmap", "conf", "-n", ns, "--from-literal=COLOR=blue", "--from-literal=file.txt=some text")
	b.kubectl(t, "create", "secret", "generic", "sec", "-n", ns, "--from-literal=WORD=swordfish")
	b.apply(t, ns, `
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  restartPolicy: Never
  volumes: [{name: conf, configMap: {name: conf}}]
  containers:
  - name: c
    image: viaduct/toolbox:1
    args: [env]
    volumeMounts: [{name: conf, mountPath: /conf}]
    envFrom: [{configMapRef: {name: conf}}]
    env:
    - {name: SECRET_WORD, valueFrom: {secretKeyRef: {name: sec, key: WORD}}}
    - {name: MY_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: MY_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: GREETING, value: "hello $(MY_NAME)"}
---
apiVersion: v1
kind: Pod
metadata: {name: reader}
spec:
  restartPolicy: Never
  volumes: [{name: conf, configMap: {name: conf}}]
  containers: [{name: c, image: "viaduct/toolbox:1", args: [cat, /conf/file.txt], volumeMounts: [{name: conf, mountPath: /conf}]}]
`)
	eventually(t, 20*time.Second, func() error {
		for _, p := range []string{"p", "reader"} {
			if phase := jsonpath(t, b, ns, "pod/"+p, "{.status.phase}"); phase != "Succeeded" {
				return fmt.Errorf("%s is %s", p, phase)
			}
		}
		return nil
	})
	out := b.kubectl(t, "logs", "-n", ns, "p")
	for _, want := range []string{"COLOR=blue", "SECRET_WORD=swordfish", "MY_NAME=p", "GREETING=hello p", "MY_IP=" + jsonpath(t, b, ns, "pod/p", "{.status.podIP}")} {
		if !strings.Contains(out, want+"\n") {
			t.Errorf("no %s in\n%s", want, out)
		}
	}
	if out := b.kubectl(t, "logs", "-n", ns, "reader"); !strings.Contains(out, "some text") {
		t.Errorf("the volume's file: %q", out)
	}
}

func TestFailingContainerBacksOffAndSaysSo(t *testing.T) {
	b := cluster(t)
	ns := b.namespace(t)
	b.apply(t, ns, `{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: [{name: c, image: "viaduct/toolbox:1", args: ["false"]}]}}`)
	eventually(t, 40*time.Second, func() error {
		if out := b.kubectl(t, "get", "pod", "p", "-n", ns); !strings.Contains(out, "CrashLoopBackOff") {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	if out := b.kubectl(t, "get", "events", "-n", ns); !strings.Contains(out, "BackOff") {
		t.Errorf("no BackOff event:\n%s", out)
	}
}

func TestImageProblemsAreNamed(t *testing.T) {
	b := cluster(t)
	ns := b.namespace(t)
	b.apply(t, ns, `{apiVersion: v1, kind: Pod, metadata: {name: never}, spec: {containers: [{name: c, image: "no/such:1", imagePullPolicy: Never}]}}`)
	b.apply(t, ns, `{apiVersion: v1, kind: Pod, metadata: {name: pull}, spec: {containers: [{name: c, image: "127.0.0.1:1/no/such:1"}]}}`)
	eventually(t, 30*time.Second, func() error {
		out := b.kubectl(t, "get", "pods", "-n", ns)
		if !strings.Contains(out, "ErrImageNeverPull") || !strings.Contains(out, "ImagePullBackOff") {
			return fmt.Errorf("%s", out)
		}
		return nil
	})
	out := b.kubectl(t, "get", "events", "-n", ns)
	for _, want := range []string{"ErrImageNeverPull", "Failed to pull image", "Back-off pulling image"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q among the events:\n%s", want, out)
		}
	}
}
