package scheme

import (
	"fmt"
	"net/url"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
)

// addParameters teaches a scheme to read the options of a Pod's connections
// (logs, exec, attach, port-forward) from the query of their URL. The other
// options come with k8s.io/apimachinery; these are in nobody's library.
func addParameters(s *runtime.Scheme) error {
	for _, add := range []func(*runtime.Scheme) error{
		options(func(q query, o *corev1.PodLogOptions) {
			q.read("container", &o.Container)
			q.read("follow", &o.Follow)
			q.read("previous", &o.Previous)
			q.read("sinceSeconds", &o.SinceSeconds)
			q.read("sinceTime", &o.SinceTime)
			q.read("timestamps", &o.Timestamps)
			q.read("tailLines", &o.TailLines)
			q.read("limitBytes", &o.LimitBytes)
			q.read("insecureSkipTLSVerifyBackend", &o.InsecureSkipTLSVerifyBackend)
			q.read("stream", &o.Stream)
		}),
		options(func(q query, o *corev1.PodExecOptions) {
			q.read("stdin", &o.Stdin)
			q.read("stdout", &o.Stdout)
			q.read("stderr", &o.Stderr)
			q.read("tty", &o.TTY)
			q.read("container", &o.Container)
			q.read("command", &o.Command)
		}),
		options(func(q query, o *corev1.PodAttachOptions) {
			q.read("stdin", &o.Stdin)
			q.read("stdout", &o.Stdout)
			q.read("stderr", &o.Stderr)
			q.read("tty", &o.TTY)
			q.read("container", &o.Container)
		}),
		options(func(q query, o *corev1.PodPortForwardOptions) {
			q.read("ports", &o.Ports)
		}),
	} {
		if err := add(s); err != nil {
			return err
		}
	}
	return nil
}

// options registers how an options type is read from a query.
func options[T any](read func(query, *T)) func(*runtime.Scheme) error {
	return func(s *runtime.Scheme) error {
		return s.AddConversionFunc((*url.Values)(nil), (*T)(nil), func(from, to any, _ conversion.Scope) error {
			q := query{values: *from.(*url.Values), err: new(error)}
			read(q, to.(*T))
			return *q.err
		})
	}
}

// query reads values one by one and keeps the first error.
type query struct {
	values url.Values
	err    *error
}

// read sets what into points to, if the query names it.
func (q query) read(name string, into any) {
	values, ok := q.values[name]
	if !ok || len(values) == 0 || *q.err != nil {
		return
	}
	var err error
	switch v := into.(type) {
	case *string:
		*v = values[0]
	case **string:
		*v = &values[0]
	case *[]string:
		*v = values
	case *bool:
		err = runtime.Convert_Slice_string_To_bool(&values, v, nil)
	case **int64:
		err = runtime.Convert_Slice_string_To_Pointer_int64(&values, v, nil)
	case **metav1.Time:
		err = metav1.Convert_Slice_string_To_Pointer_v1_Time(&values, v, nil)
	case *[]int32:
		*v, err = numbers(values)
	default:
		err = fmt.Errorf("%T cannot be read from a query", into)
	}
	if err != nil {
		*q.err = fmt.Errorf("parameter %s: %w", name, err)
	}
}

func numbers(values []string) ([]int32, error) {
	var out []int32
	for _, value := range values {
		n, err := strconv.ParseInt(value, 10, 32)
		if err != nil {
			return nil, err
		}
		out = append(out, int32(n))
	}
	return out, nil
}
