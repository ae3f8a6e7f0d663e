package node

import (
	"context"
	"errors"
	"net"
	"os"
	"testing"

	"viaduct.dev/viaduct/internal/cluster/link"
)

func TestSocketsOfTheHostAreHandedIn(t *testing.T) {
	supervisor, file, err := link.Pair()
	if err != nil {
		t.Fatal(err)
	}
	mine, err := link.FromFile(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { supervisor.Close(); mine.Close() })
	o := &outside{link: mine}
	go func() { // as process.listen does
		for {
			m, files, err := mine.Receive()
			if err != nil {
				return
			}
			o.take(*m.Dialled, files)
		}
	}()
	server, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() { // answers the second before the first, refuses the third
		var asked []link.Dial
		for {
			m, _, err := supervisor.Receive()
			if err != nil {
				return
			}
			switch asked = append(asked, *m.Dial); len(asked) {
			case 2:
				for _, d := range []link.Dial{asked[1], asked[0]} {
					conn, err := net.Dial(d.Network, d.Address)
					if err != nil {
						return
					}
					f, _ := conn.(*net.UDPConn).File()
					supervisor.Send(link.Message{Dialled: &link.Dialled{ID: d.ID}}, []*os.File{f}...)
				}
			case 3:
				supervisor.Send(link.Message{Dialled: &link.Dialled{ID: asked[2].ID, Error: "no upstream"}})
			}
		}
	}()
	conns := make(chan error, 2)
	for range 2 {
		go func() {
			conn, err := o.Dial(t.Context(), "udp", server.LocalAddr().String())
			if err == nil && conn.RemoteAddr().String() != server.LocalAddr().String() {
				err = errors.New("another server")
			}
			conns <- err
		}()
	}
	for range 2 {
		if err := <-conns; err != nil {
			t.Error(err)
		}
	}
	if _, err := o.Dial(t.Context(), "udp", "192.0.2.1:53"); err == nil || err.Error() != "no upstream" {
		t.Errorf("refused: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := o.Dial(ctx, "udp", "192.0.2.1:53"); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
