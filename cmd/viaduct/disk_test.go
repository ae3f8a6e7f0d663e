package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// disk makes a directory a disk of a size such as 24m, or changes that size.
func disk(ts *testscript.TestScript, _ bool, args []string) {
	dir, options := ts.MkAbs(args[0]), "size="+args[1]
	if err := os.Mkdir(dir, 0o755); os.IsExist(err) {
		ts.Check(unix.Mount("", dir, "tmpfs", unix.MS_REMOUNT, options))
		return
	}
	ts.Check(unix.Mount("tmpfs", dir, "tmpfs", 0, options))
	ts.Defer(func() { unix.Unmount(dir, unix.MNT_DETACH) })
}

// fill writes a file until its disk is full.
func fill(ts *testscript.TestScript, _ bool, args []string) {
	f, err := os.Create(ts.MkAbs(args[0]))
	ts.Check(err)
	defer f.Close()
	for block := make([]byte, 64<<10); err == nil; {
		_, err = f.Write(block)
	}
}

// big makes a file of so many letters.
func big(ts *testscript.TestScript, _ bool, args []string) {
	size, err := strconv.Atoi(args[1])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.Repeat("x", size)), 0o644))
}

// image makes a docker-archive whose one layer has so many random bytes.
func image(ts *testscript.TestScript, _ bool, args []string) {
	size, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	img, err := random.Image(size, 1)
	ts.Check(err)
	tag, err := name.NewTag("test/big:1")
	ts.Check(err)
	ts.Check(tarball.WriteToFile(ts.MkAbs(args[0]), tag, img))
}

// writeUntilRefused creates configmaps of a file until that is refused; those
// that it created are in $CREATED.
func writeUntilRefused(ts *testscript.TestScript, _ bool, args []string) {
	var created []string
	for i := range 40 {
		item := fmt.Sprintf("filler-%d", i)
		if err := ts.Exec("viaduct", "kubectl", "create", "configmap", item, "--from-file", args[0]); err != nil {
			ts.Setenv("CREATED", strings.Join(created, " "))
			return
		}
		created = append(created, item)
	}
	ts.Fatalf("%d configmaps were written to a full disk", len(created))
}

// written wants every configmap that was created to be there.
func written(ts *testscript.TestScript, _ bool, _ []string) {
	for _, item := range strings.Fields(ts.Getenv("CREATED")) {
		ts.Check(ts.Exec("viaduct", "kubectl", "get", "configmap", item))
	}
}
