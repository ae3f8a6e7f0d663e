package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"
)

func printEnv(_ context.Context, _ []string, out io.Writer) error {
	for _, e := range os.Environ() {
		fmt.Fprintln(out, e)
	}
	return nil
}

func printHostname(_ context.Context, _ []string, out io.Writer) error {
	name, err := os.Hostname()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(out, name)
	return err
}

func echo(_ context.Context, args []string, out io.Writer) error {
	for i, a := range args {
		if i > 0 {
			fmt.Fprint(out, " ")
		}
		fmt.Fprint(out, a)
	}
	_, err := fmt.Fprintln(out)
	return err
}

func cat(_ context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		_, err := io.Copy(out, os.Stdin)
		return err
	}
	for _, name := range args {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, f)
		f.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

func ls(_ context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		args = []string{"."}
	}
	for _, dir := range args {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return err
		}
		for _, e := range entries {
			fmt.Fprintln(out, e.Name())
		}
	}
	return nil
}

func touch(_ context.Context, args []string, _ io.Writer) error {
	for _, name := range args {
		f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		f.Close()
	}
	return nil
}

func exit(_ context.Context, args []string, _ io.Writer) error {
	if len(args) != 1 {
		return fmt.Errorf("exit takes one code")
	}
	code, err := strconv.ParseUint(args[0], 10, 8)
	if err != nil {
		return fmt.Errorf("exit: %q is no code from 0 to 255", args[0])
	}
	return exitCode(code)
}

func sleep(ctx context.Context, args []string, _ io.Writer) error {
	if len(args) != 1 {
		return fmt.Errorf("sleep takes one duration")
	}
	if args[0] == "infinity" {
		<-ctx.Done()
		return nil
	}
	d, err := time.ParseDuration(args[0])
	if seconds, numErr := strconv.ParseFloat(args[0], 64); numErr == nil {
		d, err = time.Duration(seconds*float64(time.Second)), nil
	}
	if err != nil {
		return fmt.Errorf("sleep: %w", err)
	}
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
	return nil
}
