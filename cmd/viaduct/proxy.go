package main

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"viaduct.dev/viaduct/internal/proxy"
	"viaduct.dev/viaduct/internal/proxy/nftables"
)

// proxyOptions are the flags of `viaduct proxy`, called as kube-proxy's.
type proxyOptions struct {
	kubeconfig, master string
	config             string
	stateDir           string

	mode               string
	hostname           string
	bind               string
	healthz, metrics   string
	healthzPort        int32
	metricsPort        int32
	profiling          bool
	clusterCIDRs       []netip.Prefix
	localMode          string
	bridge, namePrefix string
	nodePorts          []string
	masqueradeAll      bool
	conntrack          proxy.Conntrack
	oomScore           int32
	cleanup, initOnly  bool
	verbosity          string
	logFormat          string
}

func newProxy() *cobra.Command {
	o := &proxyOptions{}
	cmd := &cobra.Command{
		Use:   "proxy",
		Short: "Carry Services on this node, in any Kubernetes, in place of kube-proxy",
		Long: `Carry the Services of a cluster on this node by nftables, in place of kube-proxy,
whose flags it has. What it programs stays in the kernel when it ends, and a new
one takes it over: --cleanup removes it.`,
		Example: `  viaduct proxy --kubeconfig /etc/kubernetes/kube-proxy.conf --cluster-cidr 10.244.0.0/16
  viaduct proxy --config /var/lib/kube-proxy/config.conf --hostname-override node-1
  viaduct proxy --cleanup`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			nameProcess()
			log, err := o.logger(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			if o.config != "" {
				if err := readProxyConfig(o.config, cmd.Flags(), log); err != nil {
					return err
				}
				if log, err = o.logger(cmd.ErrOrStderr()); err != nil {
					return err
				}
			}
			if o.cleanup {
				return o.clean()
			}
			cfg, err := o.validate()
			if err != nil {
				return err
			}
			warnUnused(cmd.Flags(), log)
			return o.run(cmd.Context(), cfg, cmd.Flags(), log)
		},
	}
	o.bindFlags(cmd.Flags())
	return cmd
}

func (o *proxyOptions) bindFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.kubeconfig, "kubeconfig", "", "file that says where the API server is and who asks; without it and --master, the Pod's own service account")
	fs.StringVar(&o.master, "master", "", "URL of the API server, over what the kubeconfig says")
	fs.StringVar(&o.config, "config", "", "file with a KubeProxyConfiguration; flags that are given are over it")
	fs.StringVar(&o.stateDir, "state-dir", "/var/lib/viaduct/proxy", "directory that keeps the last table, for a start without the API server; empty keeps none")
	fs.StringVar(&o.mode, "proxy-mode", "nftables", "how packets are carried: nftables")
	fs.StringVar(&o.hostname, "hostname-override", "", "name of this machine's Node; default is the host's name")
	fs.StringVar(&o.bind, "bind-address", "0.0.0.0", "the node's primary address, over that of its Node object; nothing is bound to it")
	fs.StringVar(&o.healthz, "healthz-bind-address", "0.0.0.0:10256", "where /healthz and /livez are answered; empty is nowhere")
	fs.StringVar(&o.metrics, "metrics-bind-address", "127.0.0.1:10249", "where /metrics is answered; empty is nowhere")
	fs.Int32Var(&o.healthzPort, "healthz-port", 10256, "port of --healthz-bind-address; 0 is none")
	fs.Int32Var(&o.metricsPort, "metrics-port", 10249, "port of --metrics-bind-address; 0 is none")
	fs.BoolVar(&o.profiling, "profiling", false, "serve /debug/pprof beside the metrics")
	fs.Var(prefixes{&o.clusterCIDRs}, "cluster-cidr", "range of Pod addresses, or one of each family, for --detect-local-mode ClusterCIDR")
	fs.StringVar(&o.localMode, "detect-local-mode", string(proxy.ClusterCIDR), "how packets of this node's Pods are known: ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix")
	fs.StringVar(&o.bridge, "pod-bridge-interface", "", "the Pods' bridge, for --detect-local-mode BridgeInterface")
	fs.StringVar(&o.namePrefix, "pod-interface-name-prefix", "", "how the names of the Pods' interfaces begin, for --detect-local-mode InterfaceNamePrefix")
	fs.StringSliceVar(&o.nodePorts, "nodeport-addresses", []string{"primary"}, "which addresses offer node ports: ranges, primary (the Node's), localhost, all")
	fs.BoolVar(&o.masqueradeAll, "masquerade-all", false, "hide every caller of a cluster IP behind the node's address")
	fs.Int32Var(&o.conntrack.MaxPerCore, "conntrack-max-per-core", 32*1024, "connections to track per core; 0 leaves the limit as it is")
	fs.Int32Var(&o.conntrack.Min, "conntrack-min", 128*1024, "connections to track at least, unless --conntrack-max-per-core is 0")
	fs.DurationVar(&o.conntrack.TCPEstablished, "conntrack-tcp-timeout-established", 24*time.Hour, "how long idle TCP connections are tracked; 0 leaves it as it is")
	fs.DurationVar(&o.conntrack.TCPCloseWait, "conntrack-tcp-timeout-close-wait", time.Hour, "how long TCP connections in CLOSE_WAIT are tracked; 0 leaves it as it is")
	fs.BoolVar(&o.conntrack.TCPBeLiberal, "conntrack-tcp-be-liberal", false, "track TCP packets out of the window, too")
	fs.DurationVar(&o.conntrack.UDP, "conntrack-udp-timeout", 0, "how long UDP flows without an answer are tracked; 0 leaves it as it is")
	fs.DurationVar(&o.conntrack.UDPStream, "conntrack-udp-timeout-stream", 0, "how long UDP flows with answers are tracked; 0 leaves it as it is")
	fs.Int32Var(&o.oomScore, "oom-score-adj", -999, "oom_score_adj of this process, from -1000 to 1000")
	fs.BoolVar(&o.cleanup, "cleanup", false, "remove everything that this command ever programmed, and exit; other programs' rules are left alone, also kube-proxy's")
	fs.BoolVar(&o.initOnly, "init-only", false, "set the sysctls, and exit")
	fs.StringVarP(&o.verbosity, "v", "v", "0", "how much is logged: 0 what a user cares about, 4 and more everything")
	fs.StringVar(&o.logFormat, "logging-format", "text", "text or json")
	for name, why := range unusedProxyFlags {
		fs.String(name, "", "accepted, without effect: "+why)
		fs.Lookup(name).NoOptDefVal = "true"
		fs.Lookup(name).Hidden = true
	}
}

// unusedProxyFlags are kube-proxy's that a command line may have, and why they
// mean nothing here.
var unusedProxyFlags = map[string]string{
	"iptables-sync-period":            "nothing is done periodically",
	"iptables-min-sync-period":        "no change waits",
	"iptables-masquerade-bit":         "no mark is set",
	"iptables-localhost-nodeports":    "--nodeport-addresses localhost is",
	"ipvs-sync-period":                "there is no ipvs mode",
	"ipvs-min-sync-period":            "there is no ipvs mode",
	"ipvs-scheduler":                  "there is no ipvs mode",
	"ipvs-exclude-cidrs":              "there is no ipvs mode",
	"ipvs-strict-arp":                 "there is no ipvs mode",
	"ipvs-tcp-timeout":                "there is no ipvs mode",
	"ipvs-tcpfin-timeout":             "there is no ipvs mode",
	"ipvs-udp-timeout":                "there is no ipvs mode",
	"config-sync-period":              "watches need no refreshing",
	"kube-api-content-type":           "protobuf is asked for, JSON taken",
	"kube-api-qps":                    "few requests are made, none in a loop",
	"kube-api-burst":                  "few requests are made, none in a loop",
	"feature-gates":                   "there are none",
	"bind-address-hard-fail":          "a port that is taken is tried again",
	"show-hidden-metrics-for-version": "no metric is hidden",
	"log-flush-frequency":             "every line is written at once",
	"vmodule":                         "--v is for everything",
}

// validate makes a configuration of the flags. Its errors name the flag and what
// to give instead.
func (o *proxyOptions) validate() (proxy.Config, error) {
	var cfg proxy.Config
	var errs []error
	bad := func(flag, format string, args ...any) {
		errs = append(errs, fmt.Errorf("--%s: %s", flag, fmt.Sprintf(format, args...)))
	}
	switch strings.ToLower(o.mode) {
	case "", "nftables":
	case "iptables", "ebpf":
		bad("proxy-mode", "%s comes with a later version; nftables is there", o.mode)
	case "ipvs":
		bad("proxy-mode", "there is no ipvs mode, which Kubernetes gives up too; take nftables")
	default:
		bad("proxy-mode", "%q is unknown; take nftables", o.mode)
	}
	var err error
	if cfg.NodeName, err = nodeName(o.hostname); err != nil {
		bad("hostname-override", "%v", err)
	}
	if cfg.BindAddress, err = netip.ParseAddr(o.bind); err != nil {
		bad("bind-address", "%q is no IP address; give the node's, or 0.0.0.0 for that of its Node", o.bind)
	}
	for flag, one := range map[string]*string{"healthz-bind-address": &o.healthz, "metrics-bind-address": &o.metrics} {
		port := map[string]int32{"healthz-bind-address": o.healthzPort, "metrics-bind-address": o.metricsPort}[flag]
		if *one, err = bindAddress(*one, port); err != nil {
			bad(flag, "%v", err)
		}
	}
	cfg.LocalMode = proxy.LocalMode(o.localMode)
	switch cfg.LocalMode {
	case proxy.ClusterCIDR, "":
		cfg.ClusterCIDRs = o.clusterCIDRs
		if n := len(o.clusterCIDRs); n > 2 || n == 2 && o.clusterCIDRs[0].Addr().Is4() == o.clusterCIDRs[1].Addr().Is4() {
			bad("cluster-cidr", "give one range, or one of each family, such as 10.244.0.0/16,fd00:10:244::/56")
		}
	case proxy.NodeCIDR:
	case proxy.BridgeInterface:
		if cfg.LocalInterface = o.bridge; o.bridge == "" {
			bad("pod-bridge-interface", "give the Pods' bridge, such as cni0, or another --detect-local-mode")
		}
	case proxy.InterfaceNamePrefix:
		if cfg.LocalInterface = o.namePrefix; o.namePrefix == "" {
			bad("pod-interface-name-prefix", "give how the Pods' interfaces begin, such as veth, or another --detect-local-mode")
		}
	default:
		bad("detect-local-mode", "%q is unknown; take ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix", o.localMode)
	}
	if cfg.NodePortAddresses, err = proxy.ParseNodePortAddresses(o.nodePorts); err != nil {
		bad("nodeport-addresses", "%v", err)
	}
	for flag, value := range map[string]int64{
		"conntrack-max-per-core": int64(o.conntrack.MaxPerCore), "conntrack-min": int64(o.conntrack.Min),
		"conntrack-tcp-timeout-established": int64(o.conntrack.TCPEstablished), "conntrack-tcp-timeout-close-wait": int64(o.conntrack.TCPCloseWait),
		"conntrack-udp-timeout": int64(o.conntrack.UDP), "conntrack-udp-timeout-stream": int64(o.conntrack.UDPStream),
	} {
		if value < 0 {
			bad(flag, "it is negative; give 0 to leave the kernel's as it is")
		}
	}
	if o.oomScore < -1000 || o.oomScore > 1000 {
		bad("oom-score-adj", "%d is not between -1000 and 1000", o.oomScore)
	}
	cfg.MasqueradeAll = o.masqueradeAll
	if o.stateDir != "" {
		cfg.StateFile = filepath.Join(o.stateDir, "table.db")
	}
	return cfg, errors.Join(errs...)
}

// nodeName is the name of this machine's Node.
func nodeName(override string) (string, error) {
	if override != "" {
		name := strings.ToLower(strings.TrimSpace(override))
		if name == "" {
			return "", errors.New("it is blank; give the name of this machine's Node, or leave it out")
		}
		return name, nil
	}
	host, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("the host's name cannot be read; give the name of this machine's Node: %w", err)
	}
	return strings.ToLower(strings.TrimSpace(host)), nil
}

// bindAddress is an address with a port; empty is none.
func bindAddress(text string, port int32) (string, error) {
	if text == "" || port == 0 {
		return "", nil
	}
	if ap, err := netip.ParseAddrPort(text); err == nil && ap.Port() != 0 {
		return text, nil
	}
	if a, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil {
		return netip.AddrPortFrom(a, uint16(port)).String(), nil
	}
	return "", fmt.Errorf("%q is no address with a port such as 0.0.0.0:10256", text)
}

// clean removes what this command ever programmed or kept.
func (o *proxyOptions) clean() error {
	err := nftables.Cleanup()
	if o.stateDir != "" {
		for _, name := range []string{"table.db", "table.db.aside"} {
			if e := os.Remove(filepath.Join(o.stateDir, name)); !errors.Is(e, os.ErrNotExist) {
				err = errors.Join(err, e)
			}
		}
		_ = os.Remove(o.stateDir) // if nobody else has put something there
	}
	return err
}
