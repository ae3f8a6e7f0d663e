package e2e

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestDownLetsPodsEndByThemselves(t *testing.T) {
	b := ownBox(t)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	b.apply(t, "default", `
apiVersion: v1
kind: Pod
metadata: {name: tidy}
spec:
  volumes:
  - {name: out, hostPath: {path: `+dir+`}}
  - {name: usr, hostPath: {path: /usr}}
  - {name: lib, hostPath: {path: /lib}}
  - {name: lib64, hostPath: {path: /lib64}}
  containers:
  - name: c
    image: viaduct/toolbox:1
    command: [/usr/bin/bash, -c, "trap '/usr/bin/sleep 0.3; echo bye > /out/bye; exit' TERM; echo > /out/here; /usr/bin/sleep infinity & wait"]
    volumeMounts: [{name: out, mountPath: /out}, {name: usr, mountPath: /usr, readOnly: true}, {name: lib, mountPath: /lib, readOnly: true}, {name: lib64, mountPath: /lib64, readOnly: true}]
  - name: deaf
    image: viaduct/toolbox:1
    command: [/usr/bin/sleep, infinity]
    volumeMounts: [{name: usr, mountPath: /usr, readOnly: true}, {name: lib, mountPath: /lib, readOnly: true}, {name: lib64, mountPath: /lib64, readOnly: true}]
`)
	b.kubectl(t, "wait", "pod/tidy", "--for=condition=Ready", "--timeout=20s")
	eventually(t, 10*time.Second, func() error {
		_, err := os.Stat(filepath.Join(dir, "here"))
		return err
	})
	b.viaduct(t, "down")
	if _, err := os.Stat(filepath.Join(dir, "bye")); err != nil {
		t.Errorf("the container did not end by itself: %v", err)
	}
}
