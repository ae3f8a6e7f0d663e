package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"

	"viaduct.dev/viaduct/internal/agent/runtime"
	"viaduct.dev/viaduct/internal/images"
)

// waitError says why a container waits, in the words of its status.
type waitError struct {
	reason, message string
	retry           time.Duration
	ran             bool // the runtime was asked to start it
}

func (e waitError) Error() string { return e.message }

// What was missing is looked for again after configRetry; an image, whose coming
// is told (followImages), after imageRetry at the latest.
const (
	configRetry = 2 * time.Second
	imageRetry  = 10 * time.Second
)

// starting is one attempt to start a container: image, configuration, start,
// postStart hook. It runs beside the worker and touches nothing of its.
type starting struct {
	w        *worker
	c        *container // for events only
	pod      *corev1.Pod
	spec     *corev1.Container
	attempt  int
	previous string // the ID of the run before, which is removed
	sandbox  runtime.Pod
	ips      []netip.Addr

	pull       backOff
	pullFailed time.Time
	image      images.Image
}

func (s *starting) run(ctx context.Context) (runtime.ContainerStatus, error) {
	var none runtime.ContainerStatus
	if err := s.findImage(ctx); err != nil {
		return none, err
	}
	cfg, err := s.config(ctx)
	if err != nil {
		s.failed(err)
		return none, waitError{reason: "CreateContainerConfigError", message: err.Error(), retry: configRetry}
	}
	if s.previous != "" {
		if err := s.sandbox.RemoveContainer(ctx, s.previous); err != nil && !errors.Is(err, runtime.ErrContainerNotFound) {
			return none, err
		}
		if s.attempt >= 2 {
			os.Remove(logPath(s.w.dir, s.spec.Name, s.attempt-2))
		}
	}
	status, err := s.sandbox.StartContainer(ctx, cfg)
	if err != nil {
		if ctx.Err() != nil || errors.Is(err, runtime.ErrPodGone) {
			return none, err
		}
		s.failed(err)
		return none, waitError{reason: "StartError", message: err.Error(), ran: true}
	}
	s.event(corev1.EventTypeNormal, "Created", "Container created")
	s.event(corev1.EventTypeNormal, "Started", "Container started")
	if h := s.spec.Lifecycle; h != nil && h.PostStart != nil {
		v := &view{pod: s.pod, sandbox: s.sandbox, ips: s.ips}
		if err := s.w.hook(ctx, v, s.spec, status.ID, h.PostStart); err != nil && s.w.ctx.Err() == nil {
			s.event(corev1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
			kill(s.w.ctx, s.sandbox, status.ID)
		}
	}
	return status, nil
}

func (s *starting) event(kind, reason, format string, args ...any) {
	s.w.a.events.Eventf(&corev1.ObjectReference{
		APIVersion: "v1", Kind: "Pod", Namespace: s.pod.Namespace, Name: s.pod.Name, UID: s.pod.UID,
		ResourceVersion: s.pod.ResourceVersion, FieldPath: "spec." + s.field() + "{" + s.spec.Name + "}",
	}, kind, reason, format, args...)
}

func (s *starting) field() string {
	if s.c.init {
		return "initContainers"
	}
	return "containers"
}

func (s *starting) failed(err error) {
	if s.w.ctx.Err() == nil {
		s.event(corev1.EventTypeWarning, "Failed", "Error: %v", err)
	}
}

// findImage looks the image up or pulls it, as the container's policy says.
func (s *starting) findImage(ctx context.Context) error {
	ref := s.spec.Image
	if _, err := images.Normalize(ref); err != nil {
		message := fmt.Sprintf("Failed to apply default image tag %q: couldn't parse image name %q: %v", ref, ref, err)
		s.event(corev1.EventTypeWarning, "InspectFailed", "%s", message)
		s.failed(errors.New("InvalidImageName"))
		return waitError{reason: "InvalidImageName", message: message, retry: time.Minute}
	}
	img, err := s.w.a.Images.Lookup(ref)
	if err != nil && !errors.Is(err, images.ErrNotFound) {
		message := fmt.Sprintf("Failed to inspect image %q: %v", ref, err)
		s.event(corev1.EventTypeWarning, "InspectFailed", "%s", message)
		return waitError{reason: "ImageInspectError", message: message, retry: configRetry}
	}
	policy := s.spec.ImagePullPolicy
	switch {
	case err == nil && policy != corev1.PullAlways:
		s.image = img
		s.event(corev1.EventTypeNormal, "Pulled", "Container image %q already present on machine", ref)
		return nil
	case policy == corev1.PullNever:
		message := fmt.Sprintf("Container image %q is not present with pull policy of Never", ref)
		if s.pullFailed.IsZero() {
			s.pullFailed = time.Now()
			s.event(corev1.EventTypeWarning, "ErrImageNeverPull", "%s", message)
			s.failed(errors.New("ErrImageNeverPull"))
		}
		return waitError{reason: "ErrImageNeverPull", message: message, retry: imageRetry}
	}
	now := time.Now()
	if at := s.pull.until(s.pullFailed); !s.pullFailed.IsZero() && now.Before(at) {
		s.event(corev1.EventTypeNormal, "BackOff", "Back-off pulling image %q", ref)
		s.failed(errors.New("ImagePullBackOff"))
		return waitError{reason: "ImagePullBackOff", message: fmt.Sprintf("Back-off pulling image %q", ref), retry: min(time.Until(at), firstBackOff)}
	}
	s.event(corev1.EventTypeNormal, "Pulling", "Pulling image %q", ref)
	if img, err = s.w.a.Images.Pull(ctx, ref); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.pull.grow(now, now)
		s.pullFailed = time.Now()
		s.event(corev1.EventTypeWarning, "Failed", "Failed to pull image %q: %v", ref, err)
		s.failed(errors.New("ErrImagePull"))
		return waitError{reason: "ErrImagePull", message: err.Error(), retry: configRetry}
	}
	took := time.Since(now).Round(time.Millisecond)
	s.event(corev1.EventTypeNormal, "Pulled", "Successfully pulled image %q in %s (%s including waiting). Image size: %d bytes.", ref, took, took, img.SizeBytes)
	s.image, s.pull, s.pullFailed = img, backOff{}, time.Time{}
	return nil
}

// config is what the runtime is asked to run.
func (s *starting) config(ctx context.Context) (runtime.ContainerConfig, error) {
	cfg := runtime.ContainerConfig{
		ID: s.c.id(s.attempt), Name: s.spec.Name, Attempt: s.attempt, Layers: s.image.Layers,
		LogPath: logPath(s.w.dir, s.spec.Name, s.attempt), Stdin: s.spec.Stdin, StdinOnce: s.spec.StdinOnce, TTY: s.spec.TTY,
		WorkingDir: s.image.WorkingDir, Resources: s.w.a.resources(s.pod, s.spec),
		StopSignal: stopSignal(s.image, s.spec),
	}
	if s.spec.WorkingDir != "" {
		cfg.WorkingDir = s.spec.WorkingDir
	}
	vars, err := s.environment(ctx)
	if err != nil {
		return cfg, err
	}
	cfg.Env = mergeEnv(append([]string{"PATH=" + defaultPath, "HOSTNAME=" + s.sandbox.Config().Hostname}, s.image.Env...), vars)
	cfg.Args = arguments(s.spec, s.image, vars)
	if len(cfg.Args) == 0 {
		return cfg, errors.New("no command specified")
	}
	if err := s.security(&cfg); err != nil {
		return cfg, err
	}
	if cfg.Mounts, err = s.mounts(vars); err != nil {
		return cfg, err
	}
	path := s.spec.TerminationMessagePath
	if path == "" {
		path = corev1.TerminationMessagePathDefault
	}
	file := filepath.Join(s.w.dir, "termination", cfg.ID)
	if err := os.MkdirAll(filepath.Dir(file), 0o711); err != nil {
		return cfg, err
	}
	if err := os.WriteFile(file, nil, 0o666); err != nil {
		return cfg, err
	}
	if err := os.Chmod(file, 0o666); err != nil {
		return cfg, err
	}
	cfg.Mounts = append(cfg.Mounts, runtime.Mount{HostPath: file, ContainerPath: path})
	return cfg, nil
}
