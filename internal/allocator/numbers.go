package allocator

import "errors"

var (
	// ErrFull says that every number of the range is in use.
	ErrFull = errors.New("range is full")
	// ErrAllocated says that the number asked for is in use.
	ErrAllocated = errors.New("provided number is already allocated")
	// ErrNotInRange says that the number asked for is not in the range.
	ErrNotInRange = errors.New("provided number is not in the valid range")
)

// numbers is a set of offsets 0..size-1 with a band 0..band-1.
type numbers struct {
	size, band uint64
	used       map[uint64]struct{}
	usedInBand uint64
}

func newNumbers(size, band uint64) numbers {
	return numbers{size: size, band: min(band, size), used: map[uint64]struct{}{}}
}

func (n *numbers) take(offset uint64) error {
	if offset >= n.size {
		return ErrNotInRange
	}
	if _, ok := n.used[offset]; ok {
		return ErrAllocated
	}
	n.used[offset] = struct{}{}
	if offset < n.band {
		n.usedInBand++
	}
	return nil
}

func (n *numbers) has(offset uint64) bool {
	_, ok := n.used[offset]
	return ok
}

func (n *numbers) release(offset uint64) {
	if !n.has(offset) {
		return
	}
	delete(n.used, offset)
	if offset < n.band {
		n.usedInBand--
	}
}

// takeNext takes a free offset: above the band while there is one, else in it.
// random(n) gives a number below n.
func (n *numbers) takeNext(random func(uint64) uint64) (uint64, error) {
	upper := n.size - n.band
	usedUpper := uint64(len(n.used)) - n.usedInBand
	switch {
	case usedUpper < upper:
		return n.scan(n.band, upper, random)
	case n.usedInBand < n.band:
		return n.scan(0, n.band, random)
	}
	return 0, ErrFull
}

// scan takes the first free offset from a random place in [from, from+count),
// which has one.
func (n *numbers) scan(from, count uint64, random func(uint64) uint64) (uint64, error) {
	start := random(count)
	for i := range count {
		offset := from + (start+i)%count
		if !n.has(offset) {
			return offset, n.take(offset)
		}
	}
	return 0, ErrFull
}
