package table

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func columns() *Convertor[*corev1.ConfigMap] {
	return New(
		Column[*corev1.ConfigMap]{Name: "Data", Type: "integer", Cell: func(c *corev1.ConfigMap) any { return len(c.Data) }},
		Column[*corev1.ConfigMap]{Name: "Kind", Wide: true, Cell: func(c *corev1.ConfigMap) any { return "x" }},
		Age[*corev1.ConfigMap](),
	)
}

func configMap(name string) corev1.ConfigMap {
	return corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: "7", CreationTimestamp: metav1.NewTime(time.Now().Add(-90 * time.Second))},
		Data:       map[string]string{"a": "1", "b": "2"},
	}
}

func TestListBecomesARowPerItem(t *testing.T) {
	list := &corev1.ConfigMapList{
		ListMeta: metav1.ListMeta{ResourceVersion: "9", Continue: "more"},
		Items:    []corev1.ConfigMap{configMap("one"), configMap("two")},
	}
	out, err := columns().ConvertToTable(t.Context(), list, &metav1.TableOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if out.ResourceVersion != "9" || out.Continue != "more" {
		t.Errorf("list metadata is %q %q", out.ResourceVersion, out.Continue)
	}
	if len(out.Rows) != 2 {
		t.Fatalf("%d rows, want 2", len(out.Rows))
	}
	if got := out.Rows[1].Cells; got[0] != "two" || got[1] != 2 || got[2] != "x" || got[3] != "90s" {
		t.Errorf("cells are %v", got)
	}
	if got := out.ColumnDefinitions; got[0].Format != "name" || got[2].Priority != 1 || got[3].Name != "Age" {
		t.Errorf("columns are %v", got)
	}
}

func TestSingleObjectBecomesOneRowWithoutHeadersWhenAskedSo(t *testing.T) {
	object := configMap("one")
	out, err := columns().ConvertToTable(t.Context(), &object, &metav1.TableOptions{NoHeaders: true})
	if err != nil {
		t.Fatal(err)
	}
	if out.ColumnDefinitions != nil || len(out.Rows) != 1 || out.ResourceVersion != "7" {
		t.Errorf("table is %v", out)
	}
}

func TestAnotherKindIsAnError(t *testing.T) {
	var other runtime.Object = &corev1.Secret{}
	if _, err := columns().ConvertToTable(t.Context(), other, nil); err == nil {
		t.Error("a secret was rendered as a config map")
	}
}
