package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// memory is what a proxy holds, in MiB.
type memory struct{ anonymous, file, kernel float64 }

func (r *running) memory() (memory, error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", r.cmd.Process.Pid))
	if err != nil {
		return memory{}, err
	}
	defer f.Close()
	var m memory
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) < 2 {
			continue
		}
		kib, _ := strconv.ParseFloat(fields[1], 64)
		switch fields[0] {
		case "RssAnon:":
			m.anonymous = kib / 1024
		case "RssFile:":
			m.file = kib / 1024
		}
	}
	for _, g := range r.groups {
		if bytes, err := number(filepath.Join(g, "memory.kmem.usage_in_bytes")); err == nil {
			m.kernel = bytes / (1 << 20)
		}
	}
	return m, nil
}

// cpu is what the process and its children have worked.
func (r *running) cpu() (time.Duration, error) {
	for _, g := range r.groups {
		if ns, err := number(filepath.Join(g, "cpuacct.usage")); err == nil {
			return time.Duration(ns), nil
		}
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", r.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	var ticks float64
	for _, f := range fields[11:15] { // utime, stime, and those of waited-for children
		v, err := strconv.ParseFloat(f, 64)
		if err != nil {
			return 0, err
		}
		ticks += v
	}
	return time.Duration(ticks * tick * float64(time.Second)), nil
}

func number(path string) (float64, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(strings.TrimSpace(string(text)), 64)
}
