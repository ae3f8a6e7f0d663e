package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// lookupCNAME asks the container's first name server for a CNAME itself: Go's
// own LookupCNAME wants an address behind the name.
func lookupCNAME(ctx context.Context, name string) (string, error) {
	server, err := firstNameserver("/etc/resolv.conf")
	if err != nil {
		return "", err
	}
	if !strings.HasSuffix(name, ".") {
		name += "."
	}
	qname, err := dnsmessage.NewName(name)
	if err != nil {
		return "", err
	}
	query := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: uint16(os.Getpid()), RecursionDesired: true},
		Questions: []dnsmessage.Question{{Name: qname, Type: dnsmessage.TypeCNAME, Class: dnsmessage.ClassINET}},
	}
	packet, err := query.Pack()
	if err != nil {
		return "", err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", net.JoinHostPort(server, "53"))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Write(packet); err != nil {
		return "", err
	}
	buf := make([]byte, 4096)
	n, err := conn.Read(buf)
	if err != nil {
		return "", err
	}
	var answer dnsmessage.Message
	if err := answer.Unpack(buf[:n]); err != nil {
		return "", err
	}
	for _, r := range answer.Answers {
		if c, ok := r.Body.(*dnsmessage.CNAMEResource); ok {
			return c.CNAME.String(), nil
		}
	}
	return "", fmt.Errorf("%s has no CNAME: %s", name, answer.RCode)
}

func firstNameserver(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" {
			return f[1], nil
		}
	}
	return "", errors.New("no nameserver in " + path)
}
