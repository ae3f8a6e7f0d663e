package allocator

import "fmt"

// Ports hands out node ports. A number is one port whatever the protocol: a
// Service may use its number for several protocols, another Service may not use
// it at all.
type Ports struct {
	first int
	numbers
}

// NewPorts makes an empty allocator of the ports first..first+size-1.
func NewPorts(first, size int) (*Ports, error) {
	if first < 1 || size < 1 || first+size-1 > 65535 {
		return nil, fmt.Errorf("range of ports %d-%d is not within 1-65535", first, first+size-1)
	}
	band := min(max(16, uint64(size)/32), 128)
	if size < 2*16 {
		band = 0
	}
	return &Ports{first: first, numbers: newNumbers(uint64(size), band)}, nil
}

// First and Last are the ends of the range, both in it.
func (p *Ports) First() int { return p.first }

// Last is the highest port of the range.
func (p *Ports) Last() int { return p.first + int(p.size) - 1 }

// Allocate takes the port that was asked for. It returns ErrNotInRange or
// ErrAllocated.
func (p *Ports) Allocate(port int) error {
	if port < p.first {
		return ErrNotInRange
	}
	return p.take(uint64(port - p.first))
}

// AllocateNext takes any free port; random(n) gives a number below n. It
// returns ErrFull when there is none.
func (p *Ports) AllocateNext(random func(n uint64) uint64) (int, error) {
	offset, err := p.takeNext(random)
	return p.first + int(offset), err
}

// Has says whether a port is in use.
func (p *Ports) Has(port int) bool { return port >= p.first && p.has(uint64(port-p.first)) }

// Release gives a port back. One that is not in use is ignored.
func (p *Ports) Release(port int) {
	if port >= p.first {
		p.release(uint64(port - p.first))
	}
}
