package metrics

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/server/flagz"
	"k8s.io/apiserver/pkg/server/healthz"
	"k8s.io/apiserver/pkg/server/mux"
	"k8s.io/apiserver/pkg/server/routes"
	"k8s.io/apiserver/pkg/server/statusz"
	"k8s.io/apiserver/pkg/util/compatibility"
	cliflag "k8s.io/component-base/cli/flag"
	"k8s.io/component-base/configz"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/component-base/metrics/prometheus/slis"

	_ "k8s.io/component-base/metrics/prometheus/restclient" // rest_client_*
	_ "k8s.io/component-base/metrics/prometheus/version"    // kubernetes_build_info
)

// component is the name that kube-proxy has on its pages.
const component = "kube-proxy"

// configGroup is the key of kube-proxy's configuration in /configz.
const configGroup = "kubeproxy.config.k8s.io"

// HandlerConfig says what is told besides the metrics.
type HandlerConfig struct {
	Metrics *Metrics
	// Mode is what /proxyMode says.
	Mode string
	// Config is what /configz says, with its kind; nil leaves it empty.
	Config runtime.Object
	// Flags are what /flagz says; nil leaves the page out.
	Flags *pflag.FlagSet
	// Profiling adds /debug/pprof.
	Profiling bool
}

// NewHandler serves the paths that kube-proxy has beside its metrics: /healthz,
// /metrics, /metrics/slis, /proxyMode, /configz, /flagz and /statusz.
func NewHandler(cfg HandlerConfig) (http.Handler, error) {
	m := mux.NewPathRecorderMux(component)
	healthz.InstallHandler(m)
	slis.SLIMetricsWithReset{}.Install(m)
	m.HandleFunc("/proxyMode", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_, _ = io.WriteString(w, cfg.Mode)
	})
	gather := prometheus.Gatherers{cfg.Metrics.registry, prometheus.GathererFunc(processes)}
	m.Handle("/metrics", promhttp.HandlerFor(gather, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}))
	if cfg.Profiling {
		routes.Profiling{}.Install(m)
	}
	if cfg.Config != nil {
		configz.Delete(configGroup) // of an earlier proxy of this process
		c, err := configz.New(configGroup)
		if err != nil {
			return nil, fmt.Errorf("tell the configuration: %w", err)
		}
		if err := c.Set(cfg.Config); err != nil {
			return nil, fmt.Errorf("tell the configuration: %w", err)
		}
	}
	configz.InstallHandler(m)
	if cfg.Flags != nil {
		flagz.Install(m, component, flagz.NamedFlagSetsReader{
			FlagSets: cliflag.NamedFlagSets{Order: []string{"proxy"}, FlagSets: map[string]*pflag.FlagSet{"proxy": cfg.Flags}},
		})
	}
	statusz.Install(m, component, statusz.NewRegistry(compatibility.DefaultBuildEffectiveVersion(), statusz.WithListedPaths(m.ListedPaths())))
	return m, nil
}

// processes gathers what Kubernetes' libraries count of a process. Others of its
// parts may count there too, such as an API server: that is not the proxy's.
func processes() ([]*dto.MetricFamily, error) {
	all, err := legacyregistry.DefaultGatherer.Gather()
	return slices.DeleteFunc(all, func(f *dto.MetricFamily) bool {
		for _, prefix := range []string{"go_", "process_", "rest_client_", "kubernetes_build_info"} {
			if strings.HasPrefix(f.GetName(), prefix) {
				return false
			}
		}
		return true
	}), err
}
