// Package metrics counts what the proxy does, under kube-proxy's names, so that
// dashboards and alerts made for kube-proxy 1.37 in nftables mode go on working,
// and serves the counts.
//
// The one idea: the proxy tells what happens, in the order in which it happens,
// and knows nothing of metrics; which numbers follow from it is decided here.
//
//	m := metrics.New()
//	m.ServiceChanged()            // an object is another
//	m.EndpointsChanged(metrics.TriggerTime(slice))
//	m.Programming()               // what was told until now is on its way
//	m.Programmed(metrics.Sync{Diff: &diff, Took: took})
//	handler, err := metrics.NewHandler(metrics.HandlerConfig{Metrics: m, Mode: "nftables"})
//
// One batch programs both families, so what kube-proxy tells by ip_family has the
// same value for both, except where the families differ. Names that kube-proxy
// does not have begin with viaduct_proxy_.
package metrics
