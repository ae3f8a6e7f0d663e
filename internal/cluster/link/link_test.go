package link_test

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"

	"viaduct.dev/viaduct/internal/cluster/link"
)

func pair(t *testing.T) (a, b *link.Conn) {
	t.Helper()
	a, file, err := link.Pair()
	if err != nil {
		t.Fatal(err)
	}
	b, err = link.FromFile(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func TestASocketTravelsOverTheLink(t *testing.T) {
	a, b := pair(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	want := link.Opened{Port: link.Port{Service: "ns/web:http", Protocol: "TCP", Port: 80}, HostPort: 8080}
	if err := a.Send(link.Message{Opened: &want}, f); err != nil {
		t.Fatal(err)
	}
	m, files, err := b.Receive()
	if err != nil || m.Opened == nil || *m.Opened != want || len(files) != 1 {
		t.Fatalf("%+v, %d files, %v", m, len(files), err)
	}
	defer files[0].Close()
	there, err := net.FileListener(files[0])
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	if there.Addr().String() != l.Addr().String() {
		t.Errorf("%s is not %s", there.Addr(), l.Addr())
	}
}

func TestTheEndOfOneSideIsSeenByTheOther(t *testing.T) {
	a, b := pair(t)
	a.Close()
	if _, _, err := b.Receive(); !errors.Is(err, io.EOF) {
		t.Errorf("%v, want the end", err)
	}
}

func TestMessagesKeepTheirOrderAndTheirFiles(t *testing.T) {
	a, b := pair(t)
	for i := range 50 {
		var files []*os.File
		if i%2 == 1 {
			files = append(files, os.Stdin)
		}
		if err := a.Send(link.Message{Open: &link.Port{Port: uint16(i)}}, files...); err != nil {
			t.Fatal(err)
		}
		m, got, err := b.Receive()
		if err != nil || m.Open.Port != uint16(i) || len(got) != i%2 {
			t.Fatalf("message %d: %+v, %d files, %v", i, m, len(got), err)
		}
		for _, f := range got {
			f.Close()
		}
	}
}
