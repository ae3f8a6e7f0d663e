package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"

	"viaduct.dev/viaduct/internal/cluster/link"
)

// outside opens sockets to upstream DNS servers: the node has no way out, so
// the supervisor opens them in the host's network namespace and hands them over.
type outside struct {
	link *link.Conn

	mu      sync.Mutex // guards what follows
	last    uint64
	waiting map[uint64]chan dialled
}

type dialled struct {
	file *os.File
	err  error
}

// Dial connects to an upstream server; it is used as net.Dialer.DialContext.
func (o *outside) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	answer := make(chan dialled, 1)
	o.mu.Lock()
	o.last++
	id := o.last
	if o.waiting == nil {
		o.waiting = map[uint64]chan dialled{}
	}
	o.waiting[id] = answer
	o.mu.Unlock()
	err := o.link.Send(link.Message{Dial: &link.Dial{ID: id, Network: network, Address: address}})
	if err == nil {
		select {
		case d := <-answer:
			return d.conn()
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	o.mu.Lock()
	delete(o.waiting, id)
	o.mu.Unlock()
	select { // it came just now
	case d := <-answer:
		return d.conn()
	default:
	}
	return nil, fmt.Errorf("reach %s through the host: %w", address, err)
}

func (d dialled) conn() (net.Conn, error) {
	if d.err != nil {
		return nil, d.err
	}
	defer d.file.Close()
	return net.FileConn(d.file)
}

// take passes an answer on to whoever waits for it, with the file.
func (o *outside) take(answer link.Dialled, files []*os.File) {
	o.mu.Lock()
	waiting := o.waiting[answer.ID]
	delete(o.waiting, answer.ID)
	o.mu.Unlock()
	var d dialled
	switch {
	case answer.Error != "":
		d.err = errors.New(answer.Error)
	case len(files) == 0:
		d.err = errors.New("the supervisor sent no socket")
	case waiting != nil:
		d.file, files = files[0], files[1:]
	}
	for _, f := range files {
		f.Close()
	}
	if waiting != nil {
		waiting <- d
	}
}
