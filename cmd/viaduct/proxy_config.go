package main

import (
	"fmt"
	"log/slog"
	"os"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/kube-proxy/config/v1alpha1"
	"sigs.k8s.io/yaml"
)

// readProxyConfig has a KubeProxyConfiguration set the flags that were not given.
func readProxyConfig(path string, fs *pflag.FlagSet, log *slog.Logger) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("--config: %w", err)
	}
	var c v1alpha1.KubeProxyConfiguration
	if err := yaml.UnmarshalStrict(text, &c); err != nil {
		log.Warn("--config has what no KubeProxyConfiguration has; it is passed over", "file", path, "err", err)
		c = v1alpha1.KubeProxyConfiguration{}
		if err := yaml.Unmarshal(text, &c); err != nil {
			return fmt.Errorf("--config: read %s: %w", path, err)
		}
	}
	if c.Kind != "KubeProxyConfiguration" || c.APIVersion != v1alpha1.SchemeGroupVersion.String() {
		return fmt.Errorf("--config: %s is a %q of %q; give a KubeProxyConfiguration of %s", path, c.Kind, c.APIVersion, v1alpha1.SchemeGroupVersion)
	}
	for _, one := range []struct{ flag, value string }{
		{"kubeconfig", c.ClientConnection.Kubeconfig},
		{"hostname-override", c.HostnameOverride},
		{"bind-address", c.BindAddress},
		{"healthz-bind-address", c.HealthzBindAddress},
		{"metrics-bind-address", c.MetricsBindAddress},
		{"profiling", yes(c.EnableProfiling)},
		{"proxy-mode", string(c.Mode)},
		{"detect-local-mode", string(c.DetectLocalMode)},
		{"pod-bridge-interface", c.DetectLocal.BridgeInterface},
		{"pod-interface-name-prefix", c.DetectLocal.InterfaceNamePrefix},
		{"cluster-cidr", c.ClusterCIDR},
		{"nodeport-addresses", strings.Join(c.NodePortAddresses, ",")},
		{"masquerade-all", yes(c.NFTables.MasqueradeAll || c.IPTables.MasqueradeAll)},
		{"oom-score-adj", number(c.OOMScoreAdj)},
		{"conntrack-max-per-core", number(c.Conntrack.MaxPerCore)},
		{"conntrack-min", number(c.Conntrack.Min)},
		{"conntrack-tcp-be-liberal", yes(c.Conntrack.TCPBeLiberal)},
		{"conntrack-udp-timeout", duration(c.Conntrack.UDPTimeout.Duration)},
		{"conntrack-udp-timeout-stream", duration(c.Conntrack.UDPStreamTimeout.Duration)},
		{"logging-format", c.Logging.Format},
		{"v", strconv.Itoa(int(c.Logging.Verbosity))},
	} {
		if f := fs.Lookup(one.flag); one.value != "" && !f.Changed {
			if err := f.Value.Set(one.value); err != nil {
				return fmt.Errorf("--config: what is given for --%s: %w", one.flag, err)
			}
		}
	}
	// These may be zero on purpose.
	if d := c.Conntrack.TCPEstablishedTimeout; d != nil && !fs.Changed("conntrack-tcp-timeout-established") {
		_ = fs.Lookup("conntrack-tcp-timeout-established").Value.Set(d.Duration.String())
	}
	if d := c.Conntrack.TCPCloseWaitTimeout; d != nil && !fs.Changed("conntrack-tcp-timeout-close-wait") {
		_ = fs.Lookup("conntrack-tcp-timeout-close-wait").Value.Set(d.Duration.String())
	}
	if unused := unusedFields(&c); len(unused) > 0 {
		log.Warn("--config sets what has no effect here", "file", path, "fields", strings.Join(unused, " "))
	}
	return nil
}

// unusedFields names what is set and means nothing here.
func unusedFields(c *v1alpha1.KubeProxyConfiguration) []string {
	var out []string
	for _, f := range []struct {
		name  string
		value any
	}{
		{"featureGates", c.FeatureGates},
		{"clientConnection.acceptContentTypes", c.ClientConnection.AcceptContentTypes},
		{"clientConnection.contentType", c.ClientConnection.ContentType},
		{"clientConnection.qps", c.ClientConnection.QPS},
		{"clientConnection.burst", c.ClientConnection.Burst},
		{"bindAddressHardFail", c.BindAddressHardFail},
		{"showHiddenMetricsForVersion", c.ShowHiddenMetricsForVersion},
		{"iptables.masqueradeBit", c.IPTables.MasqueradeBit},
		{"iptables.localhostNodePorts", c.IPTables.LocalhostNodePorts},
		{"iptables.syncPeriod", c.IPTables.SyncPeriod},
		{"iptables.minSyncPeriod", c.IPTables.MinSyncPeriod},
		{"ipvs", c.IPVS},
		{"nftables.masqueradeBit", c.NFTables.MasqueradeBit},
		{"nftables.syncPeriod", c.NFTables.SyncPeriod},
		{"nftables.minSyncPeriod", c.NFTables.MinSyncPeriod},
		{"winkernel", c.Winkernel},
		{"configSyncPeriod", c.ConfigSyncPeriod},
		{"portRange", c.PortRange},
		{"windowsRunAsService", c.WindowsRunAsService},
	} {
		v := reflect.ValueOf(f.value)
		if v.IsZero() || v.Kind() == reflect.Map && v.Len() == 0 || f.name == "ipvs" && emptyIPVS(c.IPVS) {
			continue
		}
		out = append(out, f.name)
	}
	return out
}

func emptyIPVS(c v1alpha1.KubeProxyIPVSConfiguration) bool {
	if len(c.ExcludeCIDRs) == 0 {
		c.ExcludeCIDRs = nil
	}
	return reflect.ValueOf(c).IsZero()
}

func yes(b bool) string {
	if b {
		return "true"
	}
	return ""
}

func number(n *int32) string {
	if n == nil {
		return ""
	}
	return strconv.Itoa(int(*n))
}

func duration(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return d.String()
}
