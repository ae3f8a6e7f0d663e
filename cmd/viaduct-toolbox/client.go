package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// flags parses a client's flags and checks how many arguments are left.
func flags(name string, args []string, least, most int, define func(*flag.FlagSet)) ([]string, error) {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	define(fs)
	if err := fs.Parse(args); err != nil {
		return nil, fmt.Errorf("%w; usage: toolbox %s", err, commands()[name].usage)
	}
	if fs.NArg() < least || fs.NArg() > most {
		return nil, fmt.Errorf("usage: toolbox %s", commands()[name].usage)
	}
	return fs.Args(), nil
}

// get prints what a URL answers, once or count times, each over a connection of
// its own.
func get(ctx context.Context, args []string, out io.Writer) error {
	var count int
	var retry, timeout time.Duration
	args, err := flags("get", args, 1, 1, func(fs *flag.FlagSet) {
		fs.IntVar(&count, "count", 1, "how often")
		fs.DurationVar(&retry, "retry", 0, "how long a failed request is tried again")
		fs.DurationVar(&timeout, "timeout", 5*time.Second, "how long one request may take")
	})
	if err != nil {
		return err
	}
	url := args[0]
	if !strings.Contains(url, "://") {
		url = "http://" + url
	}
	client := &http.Client{Timeout: timeout, Transport: &http.Transport{DisableKeepAlives: true}}
	until := time.Now().Add(retry)
	for range count {
		for {
			err := getOnce(ctx, client, url, out)
			if err == nil {
				break
			}
			if time.Now().After(until) || ctx.Err() != nil {
				return err
			}
			select {
			case <-time.After(10 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}
	return nil
}

func getOnce(ctx context.Context, client *http.Client, url string, out io.Writer) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 400 {
		return fmt.Errorf("%s answers %s: %s", url, resp.Status, body)
	}
	if len(body) > 0 && body[len(body)-1] != '\n' {
		body = append(body, '\n')
	}
	_, err = out.Write(body)
	return err
}

// lookup prints the records of a name as the container's resolver finds them.
func lookup(ctx context.Context, args []string, out io.Writer) error {
	var qtype string
	args, err := flags("lookup", args, 1, 1, func(fs *flag.FlagSet) {
		fs.StringVar(&qtype, "type", "", "A, AAAA, CNAME, SRV, TXT or PTR; both address types when empty")
	})
	if err != nil {
		return err
	}
	name := args[0]
	r := net.DefaultResolver
	var answers []string
	switch strings.ToUpper(qtype) {
	case "", "A", "AAAA":
		network := map[string]string{"": "ip", "A": "ip4", "AAAA": "ip6"}[strings.ToUpper(qtype)]
		ips, err := r.LookupNetIP(ctx, network, name)
		if err != nil {
			return err
		}
		for _, ip := range ips {
			answers = append(answers, ip.Unmap().String())
		}
	case "CNAME":
		cname, err := lookupCNAME(ctx, name)
		if err != nil {
			return err
		}
		answers = append(answers, cname)
	case "SRV":
		_, srvs, err := r.LookupSRV(ctx, "", "", name)
		if err != nil {
			return err
		}
		for _, s := range srvs {
			answers = append(answers, fmt.Sprintf("%d %d %d %s", s.Priority, s.Weight, s.Port, s.Target))
		}
	case "TXT":
		if answers, err = r.LookupTXT(ctx, name); err != nil {
			return err
		}
	case "PTR":
		if answers, err = r.LookupAddr(ctx, name); err != nil {
			return err
		}
	default:
		return fmt.Errorf("unknown record type %s", qtype)
	}
	for _, a := range answers {
		fmt.Fprintln(out, a)
	}
	return nil
}

// tcp connects, sends the text, and prints what comes back.
func tcp(ctx context.Context, args []string, out io.Writer) error {
	var timeout time.Duration
	args, err := flags("tcp", args, 1, 2, func(fs *flag.FlagSet) {
		fs.DurationVar(&timeout, "timeout", 5*time.Second, "how long it may take")
	})
	if err != nil {
		return err
	}
	conn, err := (&net.Dialer{Timeout: timeout}).DialContext(ctx, "tcp", args[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(timeout))
	if len(args) == 2 {
		if _, err := io.WriteString(conn, args[1]+"\n"); err != nil {
			return err
		}
	}
	conn.(*net.TCPConn).CloseWrite()
	_, err = io.Copy(out, conn)
	return err
}

// udp sends a datagram and prints the answer.
func udp(ctx context.Context, args []string, out io.Writer) error {
	var timeout time.Duration
	args, err := flags("udp", args, 2, 2, func(fs *flag.FlagSet) {
		fs.DurationVar(&timeout, "timeout", 5*time.Second, "how long it may take")
	})
	if err != nil {
		return err
	}
	conn, err := (&net.Dialer{Timeout: timeout}).DialContext(ctx, "udp", args[0])
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(timeout))
	if _, err := io.WriteString(conn, args[1]); err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	n, err := conn.Read(buf)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, strings.TrimRight(string(buf[:n]), "\n"))
	return err
}
