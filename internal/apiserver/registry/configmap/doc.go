// Package configmap serves ConfigMaps. It is also the example of a kind: names
// and columns in one value, rules in one function each.
package configmap
