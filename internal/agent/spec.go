package agent

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/kubectl/pkg/util/qos"

	"viaduct.dev/viaduct/internal/agent/runtime"
)

// podConfig is the Pod's sandbox as the runtime is asked for it.
func (a *agent) podConfig(pod *corev1.Pod) (runtime.PodConfig, error) {
	name, err := kernelHostname(pod, a.NodeName, a.ClusterDomain)
	cfg := runtime.PodConfig{
		UID: string(pod.UID), Namespace: pod.Namespace, Name: pod.Name, Hostname: name,
		StateDir: a.podDir(pod.UID), CgroupPath: filepath.Join(a.CgroupRoot, "pod"+string(pod.UID)),
		HostNetwork: pod.Spec.HostNetwork, HostPID: pod.Spec.HostPID, HostIPC: pod.Spec.HostIPC,
		Sysctls: map[string]string{},
	}
	if sc := pod.Spec.SecurityContext; sc != nil {
		for _, s := range sc.Sysctls {
			cfg.Sysctls[s.Name] = s.Value
		}
	}
	return cfg, err
}

// hostname is the first part of a Pod's name as a host, or all of it.
func hostname(pod *corev1.Pod, node string) string {
	name := pod.Name
	switch {
	case pod.Spec.HostNetwork:
		return node
	case pod.Spec.HostnameOverride != nil:
		return *pod.Spec.HostnameOverride
	case pod.Spec.Hostname != "":
		name = pod.Spec.Hostname
	}
	if len(name) > 63 {
		name = strings.TrimRight(name[:63], "-.")
	}
	return name
}

// warnOfHostPorts says of each port that the Pod wants of its node that it does
// not get it: the Pod runs, and would otherwise seem to be there.
func (w *worker) warnOfHostPorts() {
	if w.pod.Spec.HostNetwork {
		return // the container's own ports are the node's
	}
	for _, c := range w.containers {
		for _, p := range c.spec.Ports {
			if p.HostPort == 0 {
				continue
			}
			protocol := p.Protocol
			if protocol == "" {
				protocol = corev1.ProtocolTCP
			}
			w.containerEvent(c, corev1.EventTypeWarning, "HostPortNotSupported",
				"hostPort %d/%s leads nowhere: nodes do not offer host ports; use a Service of type NodePort, or hostNetwork", p.HostPort, protocol)
		}
	}
}

// hostDomain is the rest of it: what a Pod with a subdomain is in the cluster's DNS.
func hostDomain(pod *corev1.Pod, domain string) string {
	if pod.Spec.Subdomain == "" || pod.Spec.HostnameOverride != nil {
		return ""
	}
	return pod.Spec.Subdomain + "." + pod.Namespace + ".svc." + domain
}

// maxKernelHostname is the kernel's limit (__NEW_UTS_LEN).
const maxKernelHostname = 64

// kernelHostname is what a Pod's programs take for their host's name.
func kernelHostname(pod *corev1.Pod, node, domain string) (string, error) {
	name, rest := hostname(pod, node), hostDomain(pod, domain)
	if !isTrue(pod.Spec.SetHostnameAsFQDN) || rest == "" || pod.Spec.HostNetwork {
		return name, nil
	}
	if name += "." + rest; len(name) > maxKernelHostname {
		return "", fmt.Errorf("failed to construct FQDN from pod hostname and cluster domain, FQDN %s is too long (%d characters is the max, %d characters requested)",
			name, maxKernelHostname, len(name))
	}
	return name, nil
}

// security applies the security contexts; the container's wins over the Pod's.
func (s *starting) security(cfg *runtime.ContainerConfig) error {
	pod, c := s.pod.Spec.SecurityContext, s.spec.SecurityContext
	if pod == nil {
		pod = &corev1.PodSecurityContext{}
	}
	if c == nil {
		c = &corev1.SecurityContext{}
	}
	first := func(a, b *int64) *int64 {
		if a != nil {
			return a
		}
		return b
	}
	uid, gid := first(c.RunAsUser, pod.RunAsUser), first(c.RunAsGroup, pod.RunAsGroup)
	cfg.User = s.image.User
	if uid != nil {
		cfg.User = strconv.FormatInt(*uid, 10)
	}
	if gid != nil {
		name, _, _ := strings.Cut(cfg.User, ":")
		if name == "" {
			name = "0"
		}
		cfg.User = name + ":" + strconv.FormatInt(*gid, 10)
	}
	nonRoot := isTrue(pod.RunAsNonRoot)
	if c.RunAsNonRoot != nil {
		nonRoot = *c.RunAsNonRoot
	}
	if name, _, _ := strings.Cut(cfg.User, ":"); nonRoot {
		where := fmt.Sprintf("(pod: \"%s_%s(%s)\", container: %s)", s.pod.Name, s.pod.Namespace, s.pod.UID, s.spec.Name)
		switch _, err := strconv.Atoi(name); {
		case uid != nil && *uid == 0:
			return fmt.Errorf("container's runAsUser breaks non-root policy %s", where)
		case name == "" || name == "0":
			return fmt.Errorf("container has runAsNonRoot and image will run as root %s", where)
		case err != nil:
			return fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root %s", name, where)
		}
	}
	cfg.SupplementalGroups = slices.Clone(pod.SupplementalGroups)
	if pod.FSGroup != nil {
		cfg.SupplementalGroups = append(cfg.SupplementalGroups, *pod.FSGroup)
	}
	if c.Capabilities != nil {
		for _, add := range c.Capabilities.Add {
			cfg.AddCapabilities = append(cfg.AddCapabilities, string(add))
		}
		for _, drop := range c.Capabilities.Drop {
			cfg.DropCapabilities = append(cfg.DropCapabilities, string(drop))
		}
	}
	cfg.Privileged, cfg.ReadOnlyRootfs = isTrue(c.Privileged), isTrue(c.ReadOnlyRootFilesystem)
	cfg.NoNewPrivileges = c.AllowPrivilegeEscalation != nil && !*c.AllowPrivilegeEscalation
	return nil
}

// resources are a container's requests and limits in the kernel's terms.
func (a *agent) resources(pod *corev1.Pod, c *corev1.Container) runtime.Resources {
	r := runtime.Resources{CPUShares: 2, CPUPeriod: 100_000}
	request, ok := c.Resources.Requests[corev1.ResourceCPU]
	limit := c.Resources.Limits[corev1.ResourceCPU]
	if !ok {
		request = limit
	}
	r.CPUShares = uint64(min(max(request.MilliValue()*1024/1000, 2), 262144))
	if m := limit.MilliValue(); m > 0 {
		r.CPUQuota = max(m*100, 1000)
	}
	r.MemoryLimit = c.Resources.Limits.Memory().Value()
	r.OOMScoreAdj = oomScore(pod, c, a.capacity.Memory().Value())
	return r
}

// oomScore says how soon the kernel kills the container when memory is short.
func oomScore(pod *corev1.Pod, c *corev1.Container, capacity int64) int {
	switch qos.GetPodQOS(pod) {
	case corev1.PodQOSGuaranteed:
		return -997
	case corev1.PodQOSBestEffort:
		return 1000
	}
	request := c.Resources.Requests.Memory().Value()
	if request == 0 {
		request = c.Resources.Limits.Memory().Value()
	}
	if capacity <= 0 {
		return 999
	}
	return int(min(max(1000-1000*request/capacity, 3), 999))
}

// writePodFiles writes what every container of the Pod finds in /etc.
func (a *agent) writePodFiles(pod *corev1.Pod, kernelName, dir string, ips []netip.Addr) error {
	for file, text := range map[string]string{
		"etc-hosts":    etcHosts(pod, hostname(pod, a.NodeName), a.ClusterDomain, ips),
		"etc-hostname": kernelName + "\n",
		"etc-resolv":   a.resolvConf(pod),
	} {
		path := filepath.Join(dir, file)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
		if err := os.Chmod(path, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func etcHosts(pod *corev1.Pod, name, domain string, ips []netip.Addr) string {
	var b strings.Builder
	b.WriteString("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
		"fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
	names := name
	if rest := hostDomain(pod, domain); rest != "" {
		names = name + "." + rest + "\t" + name
	}
	for _, ip := range ips {
		fmt.Fprintf(&b, "%s\t%s\n", ip, names)
	}
	if len(pod.Spec.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
		for _, alias := range pod.Spec.HostAliases {
			fmt.Fprintf(&b, "%s\t%s\n", alias.IP, strings.Join(alias.Hostnames, "\t"))
		}
	}
	return b.String()
}

// resolvConf is the Pod's resolver configuration, as its dnsPolicy says.
func (a *agent) resolvConf(pod *corev1.Pod) string {
	var servers, search, options []string
	policy := pod.Spec.DNSPolicy
	if policy == corev1.DNSClusterFirst && pod.Spec.HostNetwork {
		policy = corev1.DNSDefault
	}
	switch policy {
	case corev1.DNSNone:
	case corev1.DNSDefault:
		text, _ := os.ReadFile(a.ResolvConf)
		for line := range strings.Lines(string(text)) {
			words := strings.Fields(line)
			switch {
			case len(words) < 2:
			case words[0] == "nameserver":
				servers = append(servers, words[1])
			case words[0] == "search" || words[0] == "domain":
				search = words[1:]
			case words[0] == "options":
				options = append(options, words[1:]...)
			}
		}
	default:
		for _, ip := range a.ClusterDNS {
			servers = append(servers, ip.String())
		}
		search = []string{pod.Namespace + ".svc." + a.ClusterDomain, "svc." + a.ClusterDomain, a.ClusterDomain}
		options = []string{"ndots:5"}
	}
	if c := pod.Spec.DNSConfig; c != nil {
		servers, search = append(servers, c.Nameservers...), append(search, c.Searches...)
		for _, o := range c.Options {
			options = slices.DeleteFunc(options, func(have string) bool {
				name, _, _ := strings.Cut(have, ":")
				return name == o.Name
			})
			if o.Value != nil {
				options = append(options, o.Name+":"+*o.Value)
			} else {
				options = append(options, o.Name)
			}
		}
	}
	var b strings.Builder
	if search = unique(search); len(search) > 0 {
		b.WriteString("search " + strings.Join(search, " ") + "\n")
	}
	servers = unique(servers)
	for _, s := range servers[:min(len(servers), 3)] { // the resolver reads no more
		b.WriteString("nameserver " + s + "\n")
	}
	if len(options) > 0 {
		b.WriteString("options " + strings.Join(options, " ") + "\n")
	}
	return b.String()
}

func unique(list []string) []string {
	var out []string
	for _, s := range list {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// fieldValue is a field of the Pod, as downward API and env name it.
func fieldValue(pod *corev1.Pod, path string, node, ips []netip.Addr) (string, error) {
	join := func(addrs []netip.Addr) string {
		var all []string
		for _, a := range addrs {
			all = append(all, a.String())
		}
		return strings.Join(all, ",")
	}
	lines := func(m map[string]string) string {
		var all []string
		for k, v := range m {
			all = append(all, k+"="+strconv.Quote(v))
		}
		slices.Sort(all)
		return strings.Join(all, "\n")
	}
	if name, ok := strings.CutPrefix(path, "metadata.labels['"); ok {
		return pod.Labels[strings.TrimSuffix(name, "']")], nil
	}
	if name, ok := strings.CutPrefix(path, "metadata.annotations['"); ok {
		return pod.Annotations[strings.TrimSuffix(name, "']")], nil
	}
	switch path {
	case "metadata.name":
		return pod.Name, nil
	case "metadata.namespace":
		return pod.Namespace, nil
	case "metadata.uid":
		return string(pod.UID), nil
	case "metadata.labels":
		return lines(pod.Labels), nil
	case "metadata.annotations":
		return lines(pod.Annotations), nil
	case "spec.nodeName":
		return pod.Spec.NodeName, nil
	case "spec.serviceAccountName":
		return pod.Spec.ServiceAccountName, nil
	case "status.hostIP":
		return join(node[:min(len(node), 1)]), nil
	case "status.hostIPs":
		return join(node), nil
	case "status.podIP":
		return join(ips[:min(len(ips), 1)]), nil
	case "status.podIPs":
		return join(ips), nil
	}
	return "", fmt.Errorf("unsupported fieldPath: %v", path)
}
