package main

import (
	"fmt"

	"viaduct.dev/viaduct/bench/report"
)

// rows are the figures with a goal. What was not measured is left out.
func (r *results) rows() []report.Row {
	var rows []report.Row
	add := func(x report.Row) {
		if x.Ours != 0 || x.Met && x.Goal == 0 {
			rows = append(rows, x)
		}
	}
	for _, x := range r.runs {
		if x.name != ours {
			continue
		}
		size := x.size
		at := fmt.Sprintf("%d Services: ", size)
		peer := r.find(size, nft)
		if goal, ok := map[int]float64{10000: 1.5, 50000: 6}[size]; ok {
			add(report.AtMost(at+"start with an empty kernel until every VIP answers", "s", goal, x.start).Beside(peer.start))
			add(report.AtMost(at+"restart onto a right kernel until healthy", "s", 1, x.ready).Beside(peer.ready))
		}
		if len(x.writes) > 0 {
			w := report.AtMost(at+"transactions of that restart", "", 0, x.writes)
			rows = append(rows, w)
		}
		spaced, churned := reach(x.spaced), reach(x.churned)
		peerSpaced, peerChurned := reach(peer.spaced), reach(peer.churned)
		if size == 10000 {
			add(report.Quantile(at+"PUT until a connection reaches the new endpoint, p50", "ms", 0.5, 6, spaced))
			add(report.Quantile(at+"PUT until a connection reaches the new endpoint, p99", "ms", 0.99, 15, spaced))
			add(report.Share(at+"the same beside kube-proxy nftables, p50", "ms", 1.0/35, quantile(spaced, 0.5), quantile(peerSpaced, 0.5)))
			add(report.Share(at+"the same beside kube-proxy nftables, p99", "ms", 1.0/25, quantile(spaced, 0.99), quantile(peerSpaced, 0.99)))
			add(report.Share(at+"the same under churn, p50", "ms", 1.0/100, quantile(churned, 0.5), quantile(peerChurned, 0.5)))
			add(report.Share(at+"anonymous RSS after churn", "MiB", 1.0/4, anonymous(&x.figures), anonymous(peer)))
			add(report.Share(at+"CPU per endpoint change", "ms", 1.0/20, quantile(x.cpu, 0.5), quantile(peer.cpu, 0.5)))
		}
		if size == 50000 {
			small := r.find(1000, ours)
			add(report.Share(at+"PUT until reached beside that of 1000 Services, p50", "ms", 1.2, quantile(spaced, 0.5), quantile(reach(small.spaced), 0.5)))
			add(report.Share(at+"of that after the PUT beside that of 1000 Services, p50", "ms", 1.2, quantile(afterPut(x.spaced), 0.5), quantile(afterPut(small.spaced), 0.5)))
		}
		add(report.AtMost(at+"connect and close through a ClusterIP over direct, from a pod, p50", "x", 1.12, ratios(x.pod, 0.5)))
		add(report.AtMost(at+"connect and close through a ClusterIP over direct, from the node, p50", "x", 1.12, ratios(x.node, 0.5)))
		if ten := r.find(10, ours); size != 10 && len(ten.pod) > 0 {
			add(report.Share(at+"that ratio from a pod beside that of 10 Services", "x", 1.02, quantile(ratios(x.pod, 0.5), 0.5), quantile(ratios(ten.pod, 0.5), 0.5)))
		}
	}
	return rows
}

func anonymous(f *figures) float64 {
	return quantile(each(f.memory, func(m memory) float64 { return m.anonymous }), 0.5)
}
