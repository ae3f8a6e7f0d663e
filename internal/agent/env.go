package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"viaduct.dev/viaduct/internal/images"
	"viaduct.dev/viaduct/internal/serviceenv"
)

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environment is what the Pod gives a container: envFrom, env, and for names
// that neither sets the Services' variables, in that order.
func (s *starting) environment(ctx context.Context) ([]corev1.EnvVar, error) {
	services, err := s.w.a.services.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	links := s.pod.Spec.EnableServiceLinks == nil || *s.pod.Spec.EnableServiceLinks
	ofServices := serviceenv.For(services, s.pod.Namespace, links)
	serviceValues := map[string]string{}
	for _, v := range ofServices {
		serviceValues[v.Name] = v.Value
	}
	var vars []corev1.EnvVar
	values := map[string]string{}
	set := func(name, value string) {
		values[name] = value
		vars = append(vars, corev1.EnvVar{Name: name, Value: value})
	}
	for _, from := range s.spec.EnvFrom {
		data, err := s.envFrom(ctx, from)
		if err != nil {
			return nil, err
		}
		for _, key := range slices.Sorted(maps.Keys(data)) {
			set(from.Prefix+key, data[key])
		}
	}
	for _, e := range s.spec.Env {
		value := expand(e.Value, values, serviceValues)
		if e.ValueFrom != nil {
			var ok bool
			if value, ok, err = s.valueFrom(ctx, e.ValueFrom); err != nil {
				return nil, err
			} else if !ok {
				continue
			}
		}
		set(e.Name, value)
	}
	for _, e := range ofServices {
		if _, ok := values[e.Name]; !ok {
			set(e.Name, e.Value)
		}
	}
	return vars, nil
}

func (s *starting) envFrom(ctx context.Context, from corev1.EnvFromSource) (map[string]string, error) {
	core := s.w.a.Client.CoreV1()
	switch {
	case from.ConfigMapRef != nil:
		m, err := core.ConfigMaps(s.pod.Namespace).Get(ctx, from.ConfigMapRef.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) && isTrue(from.ConfigMapRef.Optional) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		return m.Data, nil
	case from.SecretRef != nil:
		m, err := core.Secrets(s.pod.Namespace).Get(ctx, from.SecretRef.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) && isTrue(from.SecretRef.Optional) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		data := map[string]string{}
		for k, v := range m.Data {
			data[k] = string(v)
		}
		return data, nil
	}
	return nil, nil
}

// valueFrom resolves a reference; false means that it is optional and absent.
func (s *starting) valueFrom(ctx context.Context, from *corev1.EnvVarSource) (string, bool, error) {
	core := s.w.a.Client.CoreV1()
	switch {
	case from.FieldRef != nil:
		v, err := fieldValue(s.pod, from.FieldRef.FieldPath, s.w.a.NodeIPs, s.ips)
		return v, true, err
	case from.ResourceFieldRef != nil:
		v, err := s.w.a.resourceValue(s.pod, s.spec.Name, from.ResourceFieldRef)
		return v, true, err
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		m, err := core.ConfigMaps(s.pod.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) && isTrue(ref.Optional) {
			return "", false, nil
		}
		if err != nil {
			return "", false, err
		}
		v, ok := m.Data[ref.Key]
		if !ok && !isTrue(ref.Optional) {
			return "", false, fmt.Errorf("couldn't find key %v in ConfigMap %v/%v", ref.Key, s.pod.Namespace, ref.Name)
		}
		return v, ok, nil
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		m, err := core.Secrets(s.pod.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) && isTrue(ref.Optional) {
			return "", false, nil
		}
		if err != nil {
			return "", false, err
		}
		v, ok := m.Data[ref.Key]
		if !ok && !isTrue(ref.Optional) {
			return "", false, fmt.Errorf("couldn't find key %v in Secret %v/%v", ref.Key, s.pod.Namespace, ref.Name)
		}
		return string(v), ok, nil
	}
	return "", false, fmt.Errorf("this source of a variable's value is not supported")
}

// expand replaces $(NAME) by its value in the first map that has it. $$ is a
// dollar sign, and what no map has stays as it is.
func expand(text string, maps ...map[string]string) string {
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '$' || i+1 == len(text) {
			out.WriteByte(text[i])
			continue
		}
		switch text[i+1] {
		case '$':
			out.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(text[i:], ')')
			if end < 0 {
				out.WriteString("$(")
				i++
				continue
			}
			out.WriteString(lookup(text[i+2:i+end], maps))
			i += end
		default:
			out.WriteByte('$')
		}
	}
	return out.String()
}

func lookup(name string, maps []map[string]string) string {
	for _, m := range maps {
		if v, ok := m[name]; ok {
			return v
		}
	}
	return "$(" + name + ")"
}

// mergeEnv sets variables over those of the image.
func mergeEnv(base []string, vars []corev1.EnvVar) []string {
	var names []string
	values := map[string]string{}
	set := func(name, value string) {
		if _, ok := values[name]; !ok {
			names = append(names, name)
		}
		values[name] = value
	}
	for _, e := range base {
		name, value, _ := strings.Cut(e, "=")
		set(name, value)
	}
	for _, e := range vars {
		set(e.Name, e.Value)
	}
	all := make([]string, 0, len(names))
	for _, n := range names {
		all = append(all, n+"="+values[n])
	}
	return all
}

// arguments is the program with its arguments: command replaces the image's
// entrypoint and its command, args only the latter.
func arguments(spec *corev1.Container, img images.Image, vars []corev1.EnvVar) []string {
	values := map[string]string{}
	for _, v := range vars {
		values[v.Name] = v.Value
	}
	expandAll := func(list []string) []string {
		var out []string
		for _, s := range list {
			out = append(out, expand(s, values))
		}
		return out
	}
	switch {
	case len(spec.Command) > 0:
		return append(expandAll(spec.Command), expandAll(spec.Args)...)
	case len(spec.Args) > 0:
		return append(slices.Clone(img.Entrypoint), expandAll(spec.Args)...)
	}
	return append(slices.Clone(img.Entrypoint), img.Cmd...)
}

// resourceValue is a container's request or limit in units of the divisor.
func (a *agent) resourceValue(pod *corev1.Pod, container string, ref *corev1.ResourceFieldSelector) (string, error) {
	if ref.ContainerName != "" {
		container = ref.ContainerName
	}
	for _, c := range slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers) {
		if c.Name != container {
			continue
		}
		kind, name, _ := strings.Cut(ref.Resource, ".")
		list := c.Resources.Requests
		if kind == "limits" {
			list = c.Resources.Limits
		}
		q, ok := list[corev1.ResourceName(name)]
		if !ok && kind == "limits" {
			q = a.capacity[corev1.ResourceName(name)]
		}
		if name == "cpu" {
			divisor := int64(1000)
			if d := ref.Divisor.MilliValue(); d > 0 {
				divisor = d
			}
			return strconv.FormatInt((q.MilliValue()+divisor-1)/divisor, 10), nil
		}
		divisor := int64(1)
		if d := ref.Divisor.Value(); d > 0 {
			divisor = d
		}
		return strconv.FormatInt((q.Value()+divisor-1)/divisor, 10), nil
	}
	return "", fmt.Errorf("container %s not found", container)
}

func isTrue(b *bool) bool { return b != nil && *b }
