package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// options are the flags.
type options struct {
	viaduct, peers, state string
	sizes, connectSizes   []int
	contenders            []string
	api, memory           string
	upstreamUpTo          int
	rounds                int
	samples, pairs        int
	limit, patience       time.Duration
	out                   string
}

func main() {
	var o options
	role := flag.String("role", "", "for the programs that this one starts: api, backends")
	flag.StringVar(&o.viaduct, "viaduct", "bin/viaduct", "the binary to measure")
	flag.StringVar(&o.peers, "peers", "bin/peers", "where kube-proxy, kube-apiserver and etcd are")
	flag.StringVar(&o.state, "state", "bin/bench-proxy", "where filled APIs are kept from run to run")
	sizes := flag.String("sizes", "1000,10000,50000", "how many Services, each with ten endpoints")
	connectSizes := flag.String("connect-sizes", "10", "further sizes, at which only connections are timed")
	of := flag.String("of", strings.Join([]string{ours, nft, ipt}, ","), "which proxies")
	flag.StringVar(&o.memory, "memory", "/dev/shm", "a file system in memory, where the measured API writes")
	flag.StringVar(&o.api, "api", "auto", "what serves the API: viaduct, upstream, or auto, which is upstream up to -upstream-up-to Services")
	flag.IntVar(&o.upstreamUpTo, "upstream-up-to", 10000, "more Services than that are served by Viaduct's API, because the upstream one fills slowly")
	flag.IntVar(&o.rounds, "rounds", 3, "rounds; the contenders take turns in each")
	flag.IntVar(&o.samples, "samples", 40, "timed updates of a round, spaced and under churn each; kube-proxy, which has to rest for a second between two, has half as many")
	flag.IntVar(&o.pairs, "pairs", 2000, "pairs of connections of a round from each place")
	flag.DurationVar(&o.limit, "limit", 2*time.Minute, "what is not finished after that, is given up")
	flag.DurationVar(&o.patience, "patience", 2*time.Second, "how long a sample waits for a quiet machine")
	flag.StringVar(&o.out, "out", "bench", "where results/proxy.json goes")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	switch *role {
	case "api":
		err = serveAPI(ctx, o.state, os.Stdout)
	case "backends":
		err = serveBackends()
	default:
		o.contenders = strings.Split(*of, ",")
		if o.sizes, err = numbers(*sizes); err == nil {
			o.connectSizes, err = numbers(*connectSizes)
		}
		if err == nil {
			err = prefer()
		}
		if err == nil {
			err = run(ctx, o)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench proxy:", err)
		os.Exit(1)
	}
}

func numbers(list string) ([]int, error) {
	var all []int
	for _, s := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' }) {
		n, err := strconv.Atoi(s)
		if err != nil {
			return nil, err
		}
		all = append(all, n)
	}
	return all, nil
}

// preferred is set in the environment of the process that prefer has made.
const preferred = "VIADUCT_BENCH_PREFERRED"

// prefer puts this process, and whatever it starts, before the machine's other
// work. A priority is a thread's: it is set for all by beginning anew with it.
func prefer() error {
	if os.Getenv(preferred) != "" {
		return nil
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := syscall.Setpriority(syscall.PRIO_PROCESS, 0, -10); err != nil {
		return fmt.Errorf("take precedence (this needs root): %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return syscall.Exec(self, os.Args, append(os.Environ(), preferred+"=1"))
}

func run(ctx context.Context, o options) error {
	for _, path := range []*string{&o.viaduct, &o.peers, &o.state} {
		absolute, err := filepath.Abs(*path)
		if err != nil {
			return err
		}
		*path = absolute
	}
	scratch, err := os.MkdirTemp(o.memory, "viaduct-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(scratch)
	n, err := newNetwork()
	if err != nil {
		return err
	}
	defer n.close()
	r := &results{}
	known := contenders(o.viaduct, o.peers, scratch)
	for _, size := range append(slices.Clone(o.connectSizes), o.sizes...) {
		p := plan{samples: o.samples, pairs: o.pairs, settle: time.Second}
		if slices.Contains(o.connectSizes, size) {
			p.only = "connect"
		}
		if err := measure(ctx, o, n, known, size, p, scratch, r); err != nil {
			return errors.Join(fmt.Errorf("%d Services: %w", size, err), r.write(o.out))
		}
	}
	return r.write(o.out)
}

// measure runs all rounds at one size.
func measure(ctx context.Context, o options, n *network, known map[string]contender, size int, p plan, scratch string, r *results) error {
	kind := o.api
	if kind == "auto" {
		kind = map[bool]string{true: "upstream", false: "viaduct"}[size <= o.upstreamUpTo]
	}
	c, err := openCluster(ctx, n, kind, o.peers, o.state, scratch, size)
	if err != nil {
		return err
	}
	defer c.stop()
	for round := range o.rounds {
		for _, name := range o.contenders {
			who, ok := known[name]
			if !ok {
				return fmt.Errorf("there is no proxy called %q", name)
			}
			if p.only != "" && name != ours && name != nft {
				continue
			}
			f := r.of(size, kind, name)
			if f.failed != "" {
				continue // once is enough
			}
			mine := p
			if name != ours {
				mine.samples = (p.samples + 1) / 2
			}
			b := &bench{net: n, cluster: c, gate: &r.gate, scratch: scratch, limit: o.limit, random: rand.New(rand.NewPCG(uint64(size), uint64(round)))}
			r.gate.patience = o.patience
			begin := time.Now()
			if err := b.round(ctx, who, mine, f); err != nil {
				f.failed = err.Error()
			}
			fmt.Printf("%d Services (%s API), round %d, %s: %s (%.0f s)\n", size, kind, round+1, name, f.latest(), time.Since(begin).Seconds())
			if err := ctx.Err(); err != nil {
				return err
			}
		}
	}
	n.Drop()
	return nil
}
