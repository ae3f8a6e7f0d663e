package table

import (
	"context"
	"fmt"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
)

// Object is a pointer to an API type.
type Object interface {
	runtime.Object
	metav1.Object
}

// Column is one column of a kind's table.
type Column[T Object] struct {
	// Name is the heading, in the case of the field that it shows ("Cluster-IP").
	Name string
	// Type is the cell's OpenAPI type; empty means string.
	Type string
	// Description is what `kubectl` and web pages may show about the column.
	Description string
	// Wide shows the column only in `-o wide`.
	Wide bool
	// Cell computes the cell. It is called with objects of the watch cache and
	// must not change them.
	Cell func(T) any
}

// Convertor renders the objects of one kind; it is k8s.io/apiserver's
// rest.TableConvertor.
type Convertor[T Object] struct {
	columns     []Column[T]
	definitions []metav1.TableColumnDefinition
}

// New makes the convertor of a kind with the given columns. The object's name
// comes first, unless a column puts it elsewhere.
func New[T Object](columns ...Column[T]) *Convertor[T] {
	if !slices.ContainsFunc(columns, func(c Column[T]) bool { return c.Name == nameColumn }) {
		columns = append([]Column[T]{Name[T]()}, columns...)
	}
	c := &Convertor[T]{columns: columns}
	for _, column := range columns {
		definition := metav1.TableColumnDefinition{Name: column.Name, Type: column.Type, Description: column.Description}
		if column.Name == nameColumn {
			definition.Format = "name"
		}
		if definition.Type == "" {
			definition.Type = "string"
		}
		if column.Wide {
			definition.Priority = 1
		}
		c.definitions = append(c.definitions, definition)
	}
	return c
}

const nameColumn = "Name"

// Name is the column that comes first by itself; a kind names it only to put it
// elsewhere.
func Name[T Object]() Column[T] {
	return Column[T]{
		Name:        nameColumn,
		Description: "The name of the object.",
		Cell:        func(object T) any { return object.GetName() },
	}
}

// Age is the last of the columns that every kind has.
func Age[T Object]() Column[T] {
	return Column[T]{
		Name:        "Age",
		Description: "The time since the object was created.",
		Cell:        func(object T) any { return Since(object.GetCreationTimestamp()) },
	}
}

// Since is the time from t until now as kubectl writes it ("5m", "3d2h").
func Since(t metav1.Time) string {
	if t.IsZero() {
		return "<unknown>"
	}
	return duration.HumanDuration(time.Since(t.Time))
}

// ConvertToTable renders an object or a list of objects.
func (c *Convertor[T]) ConvertToTable(_ context.Context, object, options runtime.Object) (*metav1.Table, error) {
	out := &metav1.Table{}
	if o, ok := options.(*metav1.TableOptions); !ok || !o.NoHeaders {
		out.ColumnDefinitions = c.definitions
	}
	if list, ok := object.(metav1.ListInterface); ok {
		out.ResourceVersion = list.GetResourceVersion()
		out.Continue = list.GetContinue()
		out.RemainingItemCount = list.GetRemainingItemCount()
	} else if item, ok := object.(T); ok {
		out.ResourceVersion = item.GetResourceVersion()
	}
	add := func(object runtime.Object) error {
		item, ok := object.(T)
		if !ok {
			return fmt.Errorf("render table: got a %T", object)
		}
		row := metav1.TableRow{
			Cells:  make([]any, 0, len(c.columns)),
			Object: runtime.RawExtension{Object: object},
		}
		for _, column := range c.columns {
			row.Cells = append(row.Cells, column.Cell(item))
		}
		out.Rows = append(out.Rows, row)
		return nil
	}
	if meta.IsListType(object) {
		out.Rows = make([]metav1.TableRow, 0, meta.LenList(object))
		return out, meta.EachListItem(object, add)
	}
	return out, add(object)
}
