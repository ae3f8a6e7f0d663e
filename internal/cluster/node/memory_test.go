package node

import (
	"fmt"
	"strings"
	"testing"
)

func TestOnlyTheProgramsOwnReadOnlyPagesAreGivenBack(t *testing.T) {
	const maps = `00400000-03a91000 r-xp 00000000 fe:00 1234 /work/bin/viaduct
03a91000-06f3c000 r--p 03691000 fe:00 1234 /work/bin/viaduct
06f3c000-07100000 rw-p 06b3c000 fe:00 1234 /work/bin/viaduct
07100000-07200000 rw-p 00000000 00:00 0
c000000000-c004000000 rw-p 00000000 00:00 0
7f0000000000-7f0000100000 r--s 00000000 fe:00 99 /var/lib/viaduct/box/data/db
7ffe00000000-7ffe00002000 r-xp 00000000 00:00 0 [vdso]
`
	got := fmt.Sprintf("%x", programMaps(strings.NewReader(maps), "/work/bin/viaduct"))
	if want := "[{400000 3a91000} {3a91000 6f3c000}]"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestTheProgramGoesOnAfterwards(t *testing.T) {
	if err := settleMemory(); err != nil {
		t.Error(err)
	}
	if fmt.Sprint(strings.Repeat("x", 3)) != "xxx" {
		t.Error("not any more")
	}
}
