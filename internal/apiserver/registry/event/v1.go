package event

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"viaduct.dev/viaduct/internal/apiserver/registry"
	"viaduct.dev/viaduct/internal/apiserver/table"
)

const noteMaxBytes = 1024

// installV1 adds events.k8s.io/v1: another view of the same stored events. They
// are kept as core/v1, to and from which the scheme converts.
func installV1(env *registry.Env, r *registry.Resources) error {
	if err := addConversions(env.Scheme.Hub); err != nil {
		return fmt.Errorf("convert events: %w", err)
	}
	return registry.Install(env, r, registry.Kind[*eventsv1.Event]{
		Version:        eventsv1.SchemeGroupVersion,
		Resource:       "events",
		Singular:       "event",
		Kind:           "Event",
		ShortNames:     []string{"ev"},
		CreateOnUpdate: true,
		TTLSeconds:     ttlSeconds,
		New:            func() *eventsv1.Event { return &eventsv1.Event{} },
		NewList:        func() runtime.Object { return &eventsv1.EventList{} },
		Columns:        columnsV1(),
		Fields: func(e *eventsv1.Event) fields.Set {
			return fields.Set{
				"regarding.kind":            e.Regarding.Kind,
				"regarding.namespace":       e.Regarding.Namespace,
				"regarding.name":            e.Regarding.Name,
				"regarding.uid":             string(e.Regarding.UID),
				"regarding.apiVersion":      e.Regarding.APIVersion,
				"regarding.resourceVersion": e.Regarding.ResourceVersion,
				"regarding.fieldPath":       e.Regarding.FieldPath,
				"reason":                    e.Reason,
				"reportingController":       e.ReportingController,
				"type":                      e.Type,
			}
		},
		Validate: validateV1,
	})
}

// columnsV1 are the columns of core/v1, computed from the stored form.
func columnsV1() []table.Column[*eventsv1.Event] {
	var out []table.Column[*eventsv1.Event]
	for _, c := range columns() {
		out = append(out, table.Column[*eventsv1.Event]{
			Name: c.Name, Type: c.Type, Description: c.Description, Wide: c.Wide,
			Cell: func(e *eventsv1.Event) any {
				stored := &corev1.Event{}
				toCore(e, stored)
				return c.Cell(stored)
			},
		})
	}
	return out
}

func validateV1(ctx context.Context, e *eventsv1.Event) field.ErrorList {
	var errs field.ErrorList
	if e.EventTime.IsZero() {
		errs = append(errs, field.Required(field.NewPath("eventTime"), ""))
	}
	for name, value := range map[string]string{
		"reportingController": e.ReportingController, "reportingInstance": e.ReportingInstance, "action": e.Action, "reason": e.Reason,
	} {
		if value == "" {
			errs = append(errs, field.Required(field.NewPath(name), ""))
		}
	}
	if e.Type != corev1.EventTypeNormal && e.Type != corev1.EventTypeWarning {
		errs = append(errs, field.Invalid(field.NewPath("type"), e.Type, fmt.Sprintf("has invalid value: %v", e.Type)))
	}
	if len(e.Note) > noteMaxBytes {
		errs = append(errs, field.TooLong(field.NewPath("note"), "", noteMaxBytes))
	}
	if about := e.Regarding.Namespace; about == "" && e.Namespace != metav1.NamespaceDefault && e.Namespace != metav1.NamespaceSystem || about != "" && about != e.Namespace {
		errs = append(errs, field.Invalid(field.NewPath("regarding", "namespace"), about,
			fmt.Sprintf("does not match event.namespace %q", e.Namespace)))
	}
	return errs
}

func addConversions(s *runtime.Scheme) error {
	if err := s.AddConversionFunc((*corev1.Event)(nil), (*eventsv1.Event)(nil), func(from, to any, _ conversion.Scope) error {
		fromCore(from.(*corev1.Event), to.(*eventsv1.Event))
		return nil
	}); err != nil {
		return err
	}
	return s.AddConversionFunc((*eventsv1.Event)(nil), (*corev1.Event)(nil), func(from, to any, _ conversion.Scope) error {
		toCore(from.(*eventsv1.Event), to.(*corev1.Event))
		return nil
	})
}

// fromCore and toCore name the same fields differently.
func fromCore(from *corev1.Event, to *eventsv1.Event) {
	to.ObjectMeta = from.ObjectMeta
	to.EventTime = from.EventTime
	to.ReportingController, to.ReportingInstance = from.ReportingController, from.ReportingInstance
	to.Action, to.Reason, to.Type, to.Note = from.Action, from.Reason, from.Type, from.Message
	to.Regarding, to.Related = from.InvolvedObject, from.Related
	to.DeprecatedSource = from.Source
	to.DeprecatedFirstTimestamp, to.DeprecatedLastTimestamp = from.FirstTimestamp, from.LastTimestamp
	to.DeprecatedCount = from.Count
	to.Series = nil
	if from.Series != nil {
		to.Series = &eventsv1.EventSeries{Count: from.Series.Count, LastObservedTime: from.Series.LastObservedTime}
	}
}

func toCore(from *eventsv1.Event, to *corev1.Event) {
	to.ObjectMeta = from.ObjectMeta
	to.EventTime = from.EventTime
	to.ReportingController, to.ReportingInstance = from.ReportingController, from.ReportingInstance
	to.Action, to.Reason, to.Type, to.Message = from.Action, from.Reason, from.Type, from.Note
	to.InvolvedObject, to.Related = from.Regarding, from.Related
	to.Source = from.DeprecatedSource
	to.FirstTimestamp, to.LastTimestamp = from.DeprecatedFirstTimestamp, from.DeprecatedLastTimestamp
	to.Count = from.DeprecatedCount
	to.Series = nil
	if from.Series != nil {
		to.Series = &corev1.EventSeries{Count: from.Series.Count, LastObservedTime: from.Series.LastObservedTime}
	}
}
