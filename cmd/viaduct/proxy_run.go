package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"viaduct.dev/viaduct/internal/proxy"
	"viaduct.dev/viaduct/internal/proxy/healthcheck"
	"viaduct.dev/viaduct/internal/proxy/metrics"
	"viaduct.dev/viaduct/internal/version"
)

// run carries Services until ctx ends.
func (o *proxyOptions) run(ctx context.Context, cfg proxy.Config, flags *pflag.FlagSet, log *slog.Logger) error {
	if err := o.conntrack.Set(log); err != nil {
		return err
	}
	if o.initOnly {
		return nil
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(int(o.oomScore))), 0); err != nil {
		log.Debug("oom_score_adj stays", "err", err)
	}
	config, err := o.clientConfig()
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return fmt.Errorf("make a client of the API: %w", err)
	}
	events := record.NewBroadcaster()
	defer events.Shutdown()
	events.StartRecordingToSink(&corev1client.EventSinkImpl{Interface: client.CoreV1().Events("")})

	cfg.Client, cfg.Log = client, log
	cfg.Metrics = metrics.New()
	cfg.Events = events.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "viaduct-proxy", Host: cfg.NodeName})
	health := healthcheck.NewServer(healthcheck.ServerConfig{Address: o.healthz, Counted: cfg.Metrics.Asked, Log: log})
	cfg.Health = health
	services := proxy.New(cfg)

	log.Info("the proxy starts", "version", version.Version(), "node", cfg.NodeName, "api", config.Host)
	all, ctx := errgroup.WithContext(ctx)
	all.Go(func() error { return services.Run(ctx) })
	if o.healthz != "" {
		all.Go(func() error { return health.Run(ctx) })
	}
	if o.metrics != "" {
		all.Go(func() error { return o.serveMetrics(ctx, cfg.Metrics, flags, log) })
	}
	all.Go(func() error {
		select {
		case <-services.Ready():
			settle(log)
		case <-ctx.Done():
		}
		return nil
	})
	return all.Wait()
}

// gcPercent keeps the heap small: garbage is scarce here, and so is memory on a
// node.
const gcPercent = 30

// settle gives back the memory that only the start has needed.
func settle(log *slog.Logger) {
	log.Info("every Service is programmed")
	debug.SetGCPercent(gcPercent)
	debug.FreeOSMemory()
}

// clientConfig says where the API is and who asks.
func (o *proxyOptions) clientConfig() (*rest.Config, error) {
	var config *rest.Config
	var err error
	if o.kubeconfig == "" && o.master == "" {
		if config, err = rest.InClusterConfig(); err != nil {
			return nil, fmt.Errorf("--kubeconfig: give one; this is no Pod with a service account: %w", err)
		}
	} else if config, err = clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		&clientcmd.ClientConfigLoadingRules{ExplicitPath: o.kubeconfig},
		&clientcmd.ConfigOverrides{ClusterInfo: clientcmdapi.Cluster{Server: o.master}}).ClientConfig(); err != nil {
		return nil, fmt.Errorf("--kubeconfig: %w", err)
	}
	config.ContentType = runtime.ContentTypeProtobuf
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	config.UserAgent = "viaduct-proxy/" + version.Version()
	// A list is paged: its requests follow one another and need no brake.
	config.QPS = -1
	return config, nil
}

// metricsRetry is how long an address that is taken is left alone.
const metricsRetry = 5 * time.Second

// serveMetrics answers until ctx ends. An address that is taken is tried again.
func (o *proxyOptions) serveMetrics(ctx context.Context, m *metrics.Metrics, flags *pflag.FlagSet, log *slog.Logger) error {
	handler, err := metrics.NewHandler(metrics.HandlerConfig{Metrics: m, Mode: "nftables", Flags: flags, Profiling: o.profiling})
	if err != nil {
		return err
	}
	var listener net.Listener
	for told := false; ; told = true {
		if listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", o.metrics); err == nil {
			break
		}
		if !told && ctx.Err() == nil {
			log.Error("the metrics cannot be asked for; it is tried again", "address", o.metrics, "err", err)
		}
		select {
		case <-time.After(metricsRetry):
		case <-ctx.Done():
			return nil
		}
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the metrics: %w", err)
	}
	return nil
}

// logger is what is logged by, with what the Kubernetes libraries say.
func (o *proxyOptions) logger(to io.Writer) (*slog.Logger, error) {
	level, err := strconv.Atoi(o.verbosity)
	if err != nil {
		return nil, fmt.Errorf("--v: %q is no number", o.verbosity)
	}
	options := &slog.HandlerOptions{Level: slog.LevelInfo}
	if level >= 4 {
		options.Level = slog.LevelDebug
	}
	var handler slog.Handler = slog.NewTextHandler(to, options)
	switch o.logFormat {
	case "text", "":
	case "json":
		handler = slog.NewJSONHandler(to, options)
	default:
		return nil, fmt.Errorf("--logging-format: %q is unknown; take text or json", o.logFormat)
	}
	log := slog.New(handler)
	klog.SetSlogLogger(log.With("part", "klog"))
	return log, nil
}

// warnUnused names the flags that were given and mean nothing here.
func warnUnused(fs *pflag.FlagSet, log *slog.Logger) {
	fs.Visit(func(f *pflag.Flag) {
		if why, ok := unusedProxyFlags[f.Name]; ok {
			log.Warn("a flag has no effect here", "flag", "--"+f.Name, "why", why)
		}
	})
}
