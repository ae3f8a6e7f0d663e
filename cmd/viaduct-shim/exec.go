//go:build linux && cgo

package main

import (
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"viaduct.dev/viaduct/internal/agent/runtime"
	"viaduct.dev/viaduct/internal/agent/runtime/builtin/shimapi"
)

// exec runs one more program in a container until its end, or until the caller
// goes away, which kills it.
func (p *pod) exec(conn *net.UnixConn, id string, req shimapi.Exec, files []*os.File) (int, error) {
	c, err := p.find(id)
	if err != nil {
		return 0, err
	}
	p.mu.Lock()
	running := c.status.State == runtime.StateRunning
	p.mu.Unlock()
	if !running {
		return 0, fmt.Errorf("container %s does not run", id)
	}

	stdin, out, errors := req.Files(files)
	writer := func(f *os.File) io.WriteCloser { // a nil file must be a nil interface
		if f == nil {
			return nil
		}
		return f
	}
	stdout, stderr := writer(out), writer(errors)
	if req.TTY && stdout == nil {
		return 0, fmt.Errorf("a terminal needs standard output")
	}

	process := c.process(req.Args, append(append([]string(nil), c.cfg.Env...), req.Env...))
	streams, err := connect(process, req.TTY, stdin, stdout, stderr)
	if err != nil {
		return 0, err
	}
	err = c.lc.Run(process)
	streams.started()
	if err != nil {
		streams.finish()
		return 0, err
	}

	go func() {
		for {
			var size shimapi.Resize
			if _, err := shimapi.Read(conn, &size); err != nil {
				// The answer ends the connection too, but the program's end
				// comes before that.
				process.Signal(unix.SIGKILL)
				return
			}
			streams.resize(size.Width, size.Height)
		}
	}()
	state, err := process.Wait()
	streams.finish()
	code, _ := exitStatus(state, err)
	return code, nil
}
