package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"viaduct.dev/viaduct/internal/cluster/box"
	"viaduct.dev/viaduct/internal/cluster/link"
	"viaduct.dev/viaduct/internal/lab"
)

// fdLink is the descriptor that the process begins with.
const fdLink = 3

// process is the process of one node.
type process struct {
	dir    box.Dir
	spec   box.Spec
	name   string
	number int
	log    *slog.Logger
	link   *link.Conn
	began  time.Time

	told    chan word         // the supervisor has made the network
	connect chan struct{}     // closed when the API can be reached
	opened  chan openedOnHost // ports on the host
	outside *outside          // upstream DNS servers
}

// word is the word to begin, with the API's listener on the host for the first
// node.
type word struct{ api net.Listener }

type openedOnHost struct {
	link.Opened
	file *os.File
}

// errAlone ends a node whose supervisor is gone: whoever starts the cluster
// again starts its nodes again.
var errAlone = errors.New("the supervisor is gone")

// Start runs a node, told by the supervisor over the descriptor that the
// process began with. It returns nil when ctx ends or the supervisor is gone;
// containers and what the kernel holds go on.
func Start(ctx context.Context, dir box.Dir, name string, log *slog.Logger) error {
	log = log.With("node", name)
	spec, err := dir.Load()
	if err != nil {
		return err
	}
	number, err := box.NodeNumber(name)
	if err != nil {
		return err
	}
	if err := atHome(spec.Name, name); err != nil {
		return err
	}
	unix.CloseOnExec(fdLink)
	l, err := link.FromFile(os.NewFile(fdLink, "link"))
	if err != nil {
		return fmt.Errorf("node: it is started by the supervisor: %w", err)
	}
	p := &process{
		dir: dir, spec: spec, name: name, number: number, log: log, link: l, began: time.Now(),
		told:    make(chan word, 1),
		connect: make(chan struct{}),
		opened:  make(chan openedOnHost),
		outside: &outside{link: l},
	}
	if err := p.run(ctx); err != nil {
		log.Error("the node has failed", "err", err)
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// atHome makes sure that this process is in its node's network namespace: what
// roles do to the network must never be done to the host's.
func atHome(cluster, node string) error {
	home, err := lab.Open(box.NodeNamespace(cluster, node))
	if err != nil {
		return fmt.Errorf("node: %w", err)
	}
	defer home.Close()
	here, err := lab.Current()
	if err != nil {
		return fmt.Errorf("node: %w", err)
	}
	defer here.Close()
	same, err := here.Is(home)
	if err == nil && !same {
		err = errors.New("this process is not in the node's network namespace")
	}
	if err != nil {
		return fmt.Errorf("node: it is started by the supervisor: %w", err)
	}
	return nil
}

func (p *process) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	listening := make(chan struct{})
	go func() {
		defer close(listening)
		cancel(p.listen(ctx))
	}()
	defer func() { p.link.Close(); <-listening }()

	err := p.roles(ctx)
	if ctx.Err() != nil && (err == nil || errors.Is(err, context.Canceled) || errors.Is(context.Cause(ctx), errAlone)) {
		p.log.Info("the node ends", "why", context.Cause(ctx))
		return nil
	}
	if err != nil {
		_ = p.link.Send(link.Message{Failed: err.Error()}) // it is in the log, too
	}
	return err
}

// roles runs every role of this node until ctx ends or one fails.
func (p *process) roles(ctx context.Context) error {
	var w word
	select {
	case w = <-p.told:
	case <-ctx.Done():
		return ctx.Err()
	}
	p.step("process", p.began)
	all, ctx := errgroup.WithContext(ctx)
	clients, err := p.api(ctx, all, w)
	if err == nil {
		err = p.everyNode(ctx, all, clients)
	}
	if err != nil {
		all.Go(func() error { return err }) // ends the rest
	}
	return all.Wait()
}

// listen takes the supervisor's messages until the link ends.
func (p *process) listen(ctx context.Context) error {
	for {
		m, files, err := p.link.Receive()
		if errors.Is(err, io.EOF) {
			return errAlone
		}
		if err != nil {
			return err
		}
		switch {
		case m.Go:
			var w word
			if len(files) > 0 {
				if w.api, err = net.FileListener(files[0]); err != nil {
					return fmt.Errorf("take over the API's port: %w", err)
				}
			}
			p.told <- w
		case m.Connect:
			close(p.connect)
		case m.Dialled != nil:
			p.outside.take(*m.Dialled, files)
			continue
		case m.Opened != nil:
			o := openedOnHost{Opened: *m.Opened}
			if len(files) > 0 {
				o.file, files = files[0], files[1:]
			}
			select {
			case p.opened <- o:
			case <-ctx.Done():
				if o.file != nil {
					o.file.Close()
				}
			}
			continue
		}
		for _, f := range files {
			f.Close()
		}
	}
}

// step tells what was done since begin.
func (p *process) step(name string, begin time.Time) {
	_ = p.link.Send(link.Message{Step: &link.Step{Name: name, Took: time.Since(begin)}}) // its end is seen by listen
}
