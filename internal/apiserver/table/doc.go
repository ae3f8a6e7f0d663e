// Package table renders objects as kubectl prints them.
//
// The one idea: a kind is a list of columns, each a heading and a function from
// the object to one cell. The server turns a list of objects into rows, and
// kubectl prints the rows without knowing the kind.
//
//	table.New(
//		table.Column[*corev1.ConfigMap]{Name: "Data", Type: "integer", Cell: func(c *corev1.ConfigMap) any { return len(c.Data) }},
//		table.Age[*corev1.ConfigMap](),
//	)
//
// NAME comes first without being asked for. A column with Wide set is shown
// only by `-o wide`. Cells are strings, integers or booleans; a number written
// in a string column is printed the same and sorts as text.
package table
