package event

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"viaduct.dev/viaduct/internal/apiserver/registry"
	"viaduct.dev/viaduct/internal/apiserver/table"
)

const ttlSeconds = 60 * 60

// Install adds events to the server, by both of their names.
func Install(env *registry.Env, r *registry.Resources) error {
	if err := installCore(env, r); err != nil {
		return err
	}
	return installV1(env, r)
}

func installCore(env *registry.Env, r *registry.Resources) error {
	return registry.Install(env, r, registry.Kind[*corev1.Event]{
		Version:        corev1.SchemeGroupVersion,
		Resource:       "events",
		Singular:       "event",
		Kind:           "Event",
		ShortNames:     []string{"ev"},
		CreateOnUpdate: true,
		TTLSeconds:     ttlSeconds,
		New:            func() *corev1.Event { return &corev1.Event{} },
		NewList:        func() runtime.Object { return &corev1.EventList{} },
		Columns:        columns(),
		Fields:         selectable,
		Validate:       validate,
	})
}

func columns() []table.Column[*corev1.Event] {
	name := table.Name[*corev1.Event]()
	name.Wide = true
	return []table.Column[*corev1.Event]{
		{Name: "Last Seen", Description: "The time since it last happened.", Cell: func(e *corev1.Event) any { return table.Since(lastSeen(e)) }},
		{Name: "Type", Description: "Normal or Warning.", Cell: func(e *corev1.Event) any { return e.Type }},
		{Name: "Reason", Description: "Why it happened, in one word.", Cell: func(e *corev1.Event) any { return e.Reason }},
		{Name: "Object", Description: "What it happened to.", Cell: func(e *corev1.Event) any { return object(e) }},
		{Name: "Subobject", Wide: true, Description: "The part that it happened to.", Cell: func(e *corev1.Event) any { return e.InvolvedObject.FieldPath }},
		{Name: "Source", Wide: true, Description: "Who reported it.", Cell: func(e *corev1.Event) any { return source(e) }},
		{Name: "Message", Description: "What happened.", Cell: func(e *corev1.Event) any { return strings.TrimSpace(e.Message) }},
		{Name: "First Seen", Wide: true, Description: "The time since it first happened.", Cell: func(e *corev1.Event) any { return table.Since(firstSeen(e)) }},
		{Name: "Count", Wide: true, Description: "How often it happened.", Cell: func(e *corev1.Event) any { return count(e) }},
		name,
	}
}

func lastSeen(e *corev1.Event) metav1.Time {
	if e.Series != nil {
		return metav1.Time(e.Series.LastObservedTime)
	}
	if e.LastTimestamp.IsZero() {
		return metav1.Time(e.EventTime)
	}
	return e.LastTimestamp
}

func firstSeen(e *corev1.Event) metav1.Time {
	if e.FirstTimestamp.IsZero() {
		return metav1.Time(e.EventTime)
	}
	return e.FirstTimestamp
}

func count(e *corev1.Event) int32 {
	switch {
	case e.Series != nil:
		return e.Series.Count
	case e.Count > 1:
		return e.Count
	}
	return 1
}

func object(e *corev1.Event) string {
	if e.InvolvedObject.Name == "" {
		return strings.ToLower(e.InvolvedObject.Kind)
	}
	return strings.ToLower(e.InvolvedObject.Kind) + "/" + e.InvolvedObject.Name
}

func source(e *corev1.Event) string {
	component, host := e.Source.Component, e.Source.Host
	if component == "" {
		component, host = e.ReportingController, e.ReportingInstance
	}
	if host == "" {
		return component
	}
	return component + ", " + host
}

func selectable(e *corev1.Event) fields.Set {
	component := e.Source.Component
	if component == "" {
		component = e.ReportingController
	}
	return fields.Set{
		"involvedObject.kind":            e.InvolvedObject.Kind,
		"involvedObject.namespace":       e.InvolvedObject.Namespace,
		"involvedObject.name":            e.InvolvedObject.Name,
		"involvedObject.uid":             string(e.InvolvedObject.UID),
		"involvedObject.apiVersion":      e.InvolvedObject.APIVersion,
		"involvedObject.resourceVersion": e.InvolvedObject.ResourceVersion,
		"involvedObject.fieldPath":       e.InvolvedObject.FieldPath,
		"reason":                         e.Reason,
		"reportingComponent":             e.ReportingController,
		"source":                         component,
		"type":                           e.Type,
	}
}

// validate holds an event to the namespace of what it is about; one about an
// object without a namespace is in "default".
func validate(_ context.Context, e *corev1.Event) field.ErrorList {
	about := e.InvolvedObject.Namespace
	switch {
	case about == "" && e.Namespace != metav1.NamespaceDefault && e.Namespace != metav1.NamespaceSystem,
		about != "" && about != e.Namespace:
		return field.ErrorList{field.Invalid(field.NewPath("involvedObject", "namespace"), about,
			fmt.Sprintf("does not match event.namespace %q", e.Namespace))}
	}
	return nil
}
