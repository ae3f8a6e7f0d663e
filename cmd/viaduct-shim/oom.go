//go:build linux && cgo

package main

import (
	"os"
	"strconv"
	"strings"
)

const ownOOMScore = "/proc/self/oom_score_adj"

// oomScoreAdj is the score that a container gets: the one that is asked for, or
// this process's own where the kernel does not let it be lower (a machine that
// has taken CAP_SYS_RESOURCE away, such as a container).
func oomScoreAdj(want int) int {
	text, err := os.ReadFile(ownOOMScore)
	if err != nil {
		return want
	}
	own, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || want >= own {
		return want
	}
	if os.WriteFile(ownOOMScore, []byte(strconv.Itoa(want)), 0) != nil {
		return own
	}
	os.WriteFile(ownOOMScore, []byte(strconv.Itoa(own)), 0) // raising it back is always allowed
	return want
}
