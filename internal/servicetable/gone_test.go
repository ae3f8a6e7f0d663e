package servicetable

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

func TestAFrontendTellsWhichBackendsItLost(t *testing.T) {
	key := types.NamespacedName{Namespace: "default", Name: "a"}
	both := []string{"10.0.0.1 ready here", "10.0.0.2 ready"}
	for name, c := range map[string]struct {
		svc  *corev1.Service
		from []string
		then func(*Table)
		want string // of each frontend, the backends; + serves on
	}{
		"an endpoint removed": {service4("a", external("Cluster", 30080)), both,
			func(t *Table) { t.SetSlice(slice4("s", "a", both[1])) }, "0.0.0.0:30080 10.0.0.1, 10.96.0.1:80 10.0.0.1"},
		"an endpoint that ends while others are ready serves on": {service4("a"), both,
			func(t *Table) { t.SetSlice(slice4("s", "a", "10.0.0.1 ending here", both[1])) }, "10.96.0.1:80 10.0.0.1+"},
		"and then goes": {service4("a"), []string{"10.0.0.1 ending here", both[1]},
			func(t *Table) { t.SetSlice(slice4("s", "a", both[1])) }, "10.96.0.1:80 10.0.0.1"},
		"an endpoint that is no more serving": {service4("a"), both,
			func(t *Table) { t.SetSlice(slice4("s", "a", "10.0.0.1 starting here", both[1])) }, "10.96.0.1:80 10.0.0.1"},
		"an endpoint moved to another slice": {service4("a"), both,
			func(t *Table) { t.SetSlice(slice4("s", "a", both[1])); t.SetSlice(slice4("s2", "a", both[0])) }, ""},
		"hints give it to another": {service4("a"), both,
			func(t *Table) { t.SetSlice(slice4("s", "a", "10.0.0.1 ready here zone=a", "10.0.0.2 ready zone=b")) }, "10.96.0.1:80 10.0.0.2+"},
		"out of the external view alone": {service4("a", external("Cluster", 30080)), both,
			func(t *Table) { t.SetService(service4("a", external("Local", 30080))) }, ""},
		"the internal policy becomes Local": {service4("a"), both,
			func(t *Table) {
				local := corev1.ServiceInternalTrafficPolicyLocal
				t.SetService(service4("a", func(s *corev1.Service) { s.Spec.InternalTrafficPolicy = &local }))
			}, "10.96.0.1:80 10.0.0.2+"},
		"the Service deleted": {service4("a"), []string{both[0], "10.0.0.2 ending"},
			func(t *Table) { t.DeleteService(key, "") }, "10.96.0.1:80 10.0.0.1 10.0.0.2"},
		"a node port given up": {service4("a", external("Cluster", 30080)), both,
			func(t *Table) { t.SetService(service4("a")) }, "0.0.0.0:30080 10.0.0.1 10.0.0.2"},
		"affinity begins": {service4("a"), both,
			func(t *Table) {
				t.SetService(service4("a", func(s *corev1.Service) { s.Spec.SessionAffinity = "ClientIP" }))
			}, ""},
		"another Service takes the address over": {service4("a"), both,
			func(t *Table) {
				t.SetSlice(slice4("t", "0", "10.0.0.2 ready", "10.0.0.3 ready"))
				t.SetService(service4("0"))
			}, "10.96.0.1:80 10.0.0.1"},
		"it comes and goes untold": {service4("a"), both,
			func(t *Table) {
				t.SetSlice(slice4("s", "a", both[0], both[1], "10.0.0.3 ready"))
				t.SetSlice(slice4("s", "a", both...))
			}, ""},
		"nothing": {service4("a"), both, func(t *Table) { t.SetSlice(slice4("s", "a", both...)) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			table := New(ourNode)
			table.SetService(c.svc)
			table.SetSlice(slice4("s", "a", c.from...))
			if d := table.Flush(); len(d.Gone) > 0 {
				t.Errorf("at first %v", d.Gone)
			}
			c.then(table)
			var lines []string
			for _, g := range table.Flush().Gone {
				front := fmt.Sprintf("%s:%d", g.Frontend.Addr, g.Frontend.Port)
				if len(lines) == 0 || !strings.HasPrefix(lines[len(lines)-1], front+" ") {
					lines = append(lines, front)
				}
				lines[len(lines)-1] += " " + g.Backend.Addr().String()
				if g.Serving {
					lines[len(lines)-1] += "+"
				}
			}
			if got := strings.Join(lines, ", "); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			if d := table.Flush(); len(d.Gone) > 0 {
				t.Errorf("told again %v", d.Gone)
			}
		})
	}
}

func TestATableKnowsWhatWasSet(t *testing.T) {
	table := New(ourNode)
	table.SetService(service4("a"))
	table.SetService(service4("b"))
	table.SetSlice(slice4("c-1", "c", "10.0.0.1 ready"))
	table.DeleteService(types.NamespacedName{Namespace: "default", Name: "b"}, "")
	if got := slices.Collect(table.Services()); fmt.Sprint(got) != "[default/a]" {
		t.Errorf("Services %v", got)
	}
	if got := slices.Collect(table.Slices()); fmt.Sprint(got) != "[default/c-1]" {
		t.Errorf("slices %v", got)
	}
}
