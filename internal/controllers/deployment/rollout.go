package deployment

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/rand"
)

// The annotations by which kubectl and this controller understand each other.
const (
	revisionAnnotation = "deployment.kubernetes.io/revision"
	desiredAnnotation  = "deployment.kubernetes.io/desired-replicas"
	maxAnnotation      = "deployment.kubernetes.io/max-replicas"
)

// rollout is one look at a Deployment.
type rollout struct {
	*controller
	d      *appsv1.Deployment
	newest *appsv1.ReplicaSet   // of the template as it is now, or nil
	old    []*appsv1.ReplicaSet // of earlier templates, oldest first
	now    time.Time
	made   bool // newest was made by this look
}

// sort finds the set of the present template among all.
func (r *rollout) sort(sets []*appsv1.ReplicaSet) {
	for _, i := range byAge(sets) {
		if s := sets[i]; r.newest == nil && sameTemplate(&s.Spec.Template, &r.d.Spec.Template) {
			r.newest = s
		} else {
			r.old = append(r.old, s)
		}
	}
}

func sameTemplate(a, b *corev1.PodTemplateSpec) bool {
	a, b = a.DeepCopy(), b.DeepCopy()
	delete(a.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	delete(b.Labels, appsv1.DefaultDeploymentUniqueLabelKey)
	return equality.Semantic.DeepEqual(a, b)
}

// step does what may be done now.
func (r *rollout) step(ctx context.Context) error {
	if r.d.Spec.Paused || r.scaled() {
		return r.scaleInProportion(ctx)
	}
	if r.d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		return r.recreate(ctx)
	}
	if err := r.ensureNewest(ctx); err != nil {
		return err
	}
	if n := newSize(r.d, r.newest, r.old); n != size(r.newest) {
		return r.resize(ctx, r.newest, n)
	}
	for i, n := range oldSizes(r.d, r.newest, r.old) {
		if n != size(r.old[i]) {
			if err := r.resize(ctx, r.old[i], n); err != nil {
				return err
			}
		}
	}
	return r.finish(ctx)
}

// recreate ends all old Pods before it makes new ones.
func (r *rollout) recreate(ctx context.Context) error {
	waiting := false
	for _, s := range r.old {
		if size(s) != 0 {
			if err := r.resize(ctx, s, 0); err != nil {
				return err
			}
		}
		pods, err := r.pods.Pods(s.Namespace).List(labels.SelectorFromSet(s.Spec.Template.Labels))
		if err != nil {
			return err
		}
		for _, p := range pods {
			if metav1.IsControlledBy(p, s) && p.Status.Phase != corev1.PodFailed && p.Status.Phase != corev1.PodSucceeded {
				waiting = true
			}
		}
	}
	if waiting {
		return nil
	}
	if err := r.ensureNewest(ctx); err != nil {
		return err
	}
	if n := wanted(r.d); n != size(r.newest) {
		return r.resize(ctx, r.newest, n)
	}
	return r.finish(ctx)
}

// scaled says whether the Deployment's size has changed since its sets last
// heard of it.
func (r *rollout) scaled() bool {
	for _, s := range r.active() {
		desired, err := strconv.Atoi(s.Annotations[desiredAnnotation])
		if err == nil && int32(desired) != wanted(r.d) {
			return true
		}
	}
	return false
}

// all gives a list that the caller may change.
func (r *rollout) all() []*appsv1.ReplicaSet {
	sets := slices.Clone(r.old)
	if r.newest != nil {
		sets = append(sets, r.newest)
	}
	return sets
}

// active are the sets that have, or shall have, Pods.
func (r *rollout) active() []*appsv1.ReplicaSet {
	return slices.DeleteFunc(r.all(), func(s *appsv1.ReplicaSet) bool { return size(s) == 0 })
}

// scaleInProportion spreads a new size over the sets.
func (r *rollout) scaleInProportion(ctx context.Context) error {
	sets := r.active()
	if len(sets) == 0 && r.newest != nil {
		sets = []*appsv1.ReplicaSet{r.newest}
	}
	if len(sets) <= 1 {
		for _, s := range sets {
			if err := r.resize(ctx, s, wanted(r.d)); err != nil {
				return err
			}
		}
		return nil
	}
	// Once the new set is whole, the old ones have nothing to be scaled for.
	if n := r.newest; n != nil && size(n) == wanted(r.d) && n.Status.AvailableReplicas == wanted(r.d) {
		for _, s := range r.old {
			if err := r.resize(ctx, s, 0); err != nil {
				return err
			}
		}
		return nil
	}
	for i, n := range proportional(r.d, sets) {
		if err := r.resize(ctx, sets[i], n); err != nil {
			return err
		}
	}
	return nil
}

// resize writes a set's size, and the Deployment's as it knows it.
func (r *rollout) resize(ctx context.Context, s *appsv1.ReplicaSet, n int32) error {
	was := size(s)
	annotated := r.annotateSizes(s)
	if was == n && !annotated {
		return nil
	}
	s.Spec.Replicas = &n
	updated, err := r.client.AppsV1().ReplicaSets(s.Namespace).Update(ctx, s, metav1.UpdateOptions{})
	if err != nil {
		return err
	}
	*s = *updated
	if was != n {
		verb := "up"
		if n < was {
			verb = "down"
		}
		r.recorder.Eventf(r.d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled %s replica set %s from %d to %d", verb, s.Name, was, n)
	}
	return nil
}

func (r *rollout) annotateSizes(s *appsv1.ReplicaSet) bool {
	surge, _ := bounds(r.d)
	desired := annotate(s, desiredAnnotation, fmt.Sprint(wanted(r.d)))
	most := annotate(s, maxAnnotation, fmt.Sprint(wanted(r.d)+surge))
	return desired || most
}

func annotate(o metav1.Object, key, value string) bool {
	a := o.GetAnnotations()
	if a[key] == value {
		return false
	}
	if a == nil {
		a = map[string]string{}
	}
	a[key] = value
	o.SetAnnotations(a)
	return true
}

// ensureNewest makes the set of the present template, or gives the one that is
// there the newest revision.
func (r *rollout) ensureNewest(ctx context.Context) error {
	revision := int64(0)
	for _, s := range r.old {
		if n, err := strconv.ParseInt(s.Annotations[revisionAnnotation], 10, 64); err == nil {
			revision = max(revision, n)
		}
	}
	revision++
	if r.newest == nil {
		if err := r.makeNewest(ctx, revision); err != nil {
			return err
		}
	} else {
		changed := r.copyAnnotations(r.newest)
		if n, err := strconv.ParseInt(r.newest.Annotations[revisionAnnotation], 10, 64); err != nil || n < revision {
			changed = annotate(r.newest, revisionAnnotation, fmt.Sprint(revision)) || changed
		}
		if changed {
			updated, err := r.client.AppsV1().ReplicaSets(r.d.Namespace).Update(ctx, r.newest, metav1.UpdateOptions{})
			if err != nil {
				return err
			}
			r.newest = updated
		}
	}
	if r.d.Annotations[revisionAnnotation] == r.newest.Annotations[revisionAnnotation] {
		return nil
	}
	annotate(r.d, revisionAnnotation, r.newest.Annotations[revisionAnnotation])
	updated, err := r.client.AppsV1().Deployments(r.d.Namespace).Update(ctx, r.d, metav1.UpdateOptions{})
	if err != nil {
		return err
	}
	r.d = updated
	return nil
}

// copyAnnotations gives a set its Deployment's annotations (the change cause
// among them), so that an undo can bring them back.
func (r *rollout) copyAnnotations(s *appsv1.ReplicaSet) bool {
	changed := false
	for k, v := range r.d.Annotations {
		if k != corev1.LastAppliedConfigAnnotation && k != revisionAnnotation && k != desiredAnnotation && k != maxAnnotation {
			changed = annotate(s, k, v) || changed
		}
	}
	return changed
}

func (r *rollout) makeNewest(ctx context.Context, revision int64) error {
	template := r.d.Spec.Template.DeepCopy()
	hash := templateHash(template, r.d.Status.CollisionCount)
	template.Labels = withLabel(template.Labels, hash)
	selector := r.d.Spec.Selector.DeepCopy()
	selector.MatchLabels = withLabel(selector.MatchLabels, hash)
	s := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: r.d.Namespace, Name: r.d.Name + "-" + hash, Labels: template.Labels,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(r.d, appsv1.SchemeGroupVersion.WithKind(kind))},
		},
		Spec: appsv1.ReplicaSetSpec{MinReadySeconds: r.d.Spec.MinReadySeconds, Selector: selector, Template: *template, Replicas: new(int32)},
	}
	n := newSize(r.d, s, r.old)
	s.Spec.Replicas = &n
	r.copyAnnotations(s)
	annotate(s, revisionAnnotation, fmt.Sprint(revision))
	r.annotateSizes(s)
	made, err := r.client.AppsV1().ReplicaSets(s.Namespace).Create(ctx, s, metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return r.collided(ctx, s, err)
	}
	if err != nil {
		r.recorder.Eventf(r.d, corev1.EventTypeWarning, "FailedCreate", "Failed to create new replica set %q: %v", s.Name, err)
		return err
	}
	r.newest, r.made = made, true
	if n > 0 {
		r.recorder.Eventf(r.d, corev1.EventTypeNormal, "ScalingReplicaSet", "Scaled up replica set %s from 0 to %d", made.Name, n)
	}
	return nil
}

// collided tells a set that is ours, and that the informer does not know yet,
// from another one of the same name, which needs another hash.
func (r *rollout) collided(ctx context.Context, s *appsv1.ReplicaSet, exists error) error {
	there, err := r.client.AppsV1().ReplicaSets(s.Namespace).Get(ctx, s.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	if owner := metav1.GetControllerOf(there); owner != nil && owner.UID == r.d.UID && sameTemplate(&there.Spec.Template, &r.d.Spec.Template) {
		r.newest = there
		return nil
	}
	count := int32(0)
	if r.d.Status.CollisionCount != nil {
		count = *r.d.Status.CollisionCount
	}
	count++
	r.d.Status.CollisionCount = &count
	if _, err := r.client.AppsV1().Deployments(r.d.Namespace).UpdateStatus(ctx, r.d, metav1.UpdateOptions{}); err != nil {
		return err
	}
	return exists
}

func withLabel(in map[string]string, hash string) map[string]string {
	out := maps.Clone(in)
	if out == nil {
		out = map[string]string{}
	}
	out[appsv1.DefaultDeploymentUniqueLabelKey] = hash
	return out
}

func templateHash(t *corev1.PodTemplateSpec, collisions *int32) string {
	h := fnv.New32a()
	text, _ := json.Marshal(t) // API types always encode
	h.Write(text)
	if collisions != nil {
		fmt.Fprint(h, *collisions)
	}
	return rand.SafeEncodeString(fmt.Sprint(h.Sum32()))
}

// finish deletes old sets beyond the history limit once all is rolled out.
func (r *rollout) finish(ctx context.Context) error {
	if !complete(r.d, r.newest) || r.d.Spec.RevisionHistoryLimit == nil {
		return nil
	}
	var idle []*appsv1.ReplicaSet
	for _, s := range r.old {
		if size(s) == 0 && s.Status.Replicas == 0 && s.DeletionTimestamp == nil && s.Generation <= s.Status.ObservedGeneration {
			idle = append(idle, s)
		}
	}
	for i := range len(idle) - int(*r.d.Spec.RevisionHistoryLimit) {
		err := r.client.AppsV1().ReplicaSets(r.d.Namespace).Delete(ctx, idle[i].Name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
	}
	return nil
}

// complete says whether the new set is all there is.
func complete(d *appsv1.Deployment, newest *appsv1.ReplicaSet) bool {
	return newest != nil && d.Status.UpdatedReplicas == wanted(d) && d.Status.Replicas == wanted(d) &&
		d.Status.AvailableReplicas == wanted(d) && d.Status.ObservedGeneration >= d.Generation
}
