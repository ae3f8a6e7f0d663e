// Command viaduct-toolbox is the program of the image viaduct/toolbox: a small
// HTTP, TCP and UDP server that tells its host name, its environment and what
// it saw of the caller, and a client for each.
//
// It is called as `toolbox COMMAND ...`, or by a command's own name through a
// link (env, cat, hostname, ...), so that `kubectl exec POD -- env` works.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// command is one thing that the toolbox does.
type command struct {
	usage string
	run   func(ctx context.Context, args []string, out io.Writer) error
}

func commands() map[string]command {
	return map[string]command{
		"serve":    {"serve [--http ADDR]... [--tcp ADDR]... [--udp ADDR]... [--version V] [--drain DURATION]", serve},
		"get":      {"get [--count N] [--retry DURATION] [--timeout DURATION] URL", get},
		"lookup":   {"lookup [--type A|AAAA|CNAME|SRV|TXT|PTR] NAME", lookup},
		"tcp":      {"tcp [--timeout DURATION] HOST:PORT [TEXT]", tcp},
		"udp":      {"udp [--timeout DURATION] HOST:PORT TEXT", udp},
		"env":      {"env", printEnv},
		"cat":      {"cat [FILE]...", cat},
		"ls":       {"ls [DIRECTORY]...", ls},
		"touch":    {"touch FILE...", touch},
		"hostname": {"hostname", printHostname},
		"echo":     {"echo [TEXT]...", echo},
		"sleep":    {"sleep SECONDS|DURATION|infinity", sleep},
		"true":     {"true", func(context.Context, []string, io.Writer) error { return nil }},
		"false":    {"false", func(context.Context, []string, io.Writer) error { return exitCode(1) }},
		"exit":     {"exit CODE", exit},
	}
}

// Links are the names by which the image's /bin offers commands.
var links = []string{"toolbox", "env", "cat", "ls", "touch", "hostname", "echo", "sleep", "true", "false"}

// exitCode ends the process with this code and says nothing.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := run(ctx, os.Args, os.Stdout)
	stop()
	var code exitCode
	switch {
	case errors.As(err, &code):
		os.Exit(int(code))
	case err != nil:
		fmt.Fprintln(os.Stderr, "toolbox:", err)
		os.Exit(1)
	}
}

// run finds the command by the program's own name or by the first argument.
func run(ctx context.Context, argv []string, out io.Writer) error {
	all := commands()
	name, args := filepath.Base(argv[0]), argv[1:]
	if _, ok := all[name]; !ok || !slices.Contains(links, name) {
		if len(args) == 0 {
			return usage(all)
		}
		name, args = args[0], args[1:]
	}
	c, ok := all[name]
	if !ok {
		return fmt.Errorf("unknown command %q; %w", name, usage(all))
	}
	return c.run(ctx, args, out)
}

func usage(all map[string]command) error {
	var lines []string
	for _, c := range all {
		lines = append(lines, "  toolbox "+c.usage)
	}
	slices.Sort(lines)
	return errors.New("usage:\n" + strings.Join(lines, "\n"))
}
