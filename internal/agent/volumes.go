package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"

	"viaduct.dev/viaduct/internal/agent/runtime"
)

// volumeError says that a volume could not be made.
type volumeError struct {
	volume string
	err    error
}

func (e volumeError) Error() string {
	return fmt.Sprintf("MountVolume.SetUp failed for volume %q : %v", e.volume, e.err)
}

func (e volumeError) Unwrap() error { return e.err }

func volumeDir(dir, name string) string { return filepath.Join(dir, "volumes", name) }

// prepareVolumes makes the Pod's volumes, or what is missing of them.
func (a *agent) prepareVolumes(ctx context.Context, pod *corev1.Pod, dir string) error {
	if err := os.MkdirAll(filepath.Join(dir, "volumes"), 0o711); err != nil {
		return err
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if err := a.prepareVolume(ctx, pod, v, volumeDir(dir, v.Name)); err != nil {
			return volumeError{v.Name, err}
		}
	}
	return nil
}

func (a *agent) prepareVolume(ctx context.Context, pod *corev1.Pod, v *corev1.Volume, dir string) error {
	switch {
	case v.HostPath != nil:
		return prepareHostPath(v.HostPath)
	case v.EmptyDir != nil:
		if err := os.MkdirAll(dir, 0o777); err != nil {
			return err
		}
		if v.EmptyDir.Medium == corev1.StorageMediumMemory && !isMountPoint(dir) {
			options := "mode=0777"
			if s := v.EmptyDir.SizeLimit; s != nil && s.Value() > 0 {
				options += fmt.Sprintf(",size=%d", s.Value())
			}
			if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
				return err
			}
		}
		if sc := pod.Spec.SecurityContext; sc != nil && sc.FSGroup != nil {
			if err := os.Chown(dir, -1, int(*sc.FSGroup)); err != nil {
				return err
			}
			return os.Chmod(dir, 0o777|os.ModeSetgid)
		}
		return os.Chmod(dir, 0o777) // whatever the umask is
	case v.ConfigMap != nil, v.Secret != nil, v.Projected != nil, v.DownwardAPI != nil:
		files, err := a.volumeFiles(ctx, pod, v)
		if err != nil {
			return err
		}
		return writeFiles(dir, files)
	}
	return errors.New("this kind of volume is not supported")
}

func isMountPoint(dir string) bool {
	var here, above unix.Stat_t
	return unix.Stat(dir, &here) == nil && unix.Stat(filepath.Dir(dir), &above) == nil && here.Dev != above.Dev
}

func prepareHostPath(h *corev1.HostPathVolumeSource) error {
	kind := corev1.HostPathUnset
	if h.Type != nil {
		kind = *h.Type
	}
	switch kind {
	case corev1.HostPathDirectoryOrCreate:
		return os.MkdirAll(h.Path, 0o755)
	case corev1.HostPathFileOrCreate:
		f, err := os.OpenFile(h.Path, os.O_CREATE|os.O_RDONLY, 0o644)
		if err != nil {
			return err
		}
		return f.Close()
	}
	info, err := os.Stat(h.Path)
	if err != nil {
		return fmt.Errorf("hostPath type check failed: %w", err)
	}
	mode := info.Mode()
	ok := map[corev1.HostPathType]bool{
		corev1.HostPathUnset: true, corev1.HostPathDirectory: info.IsDir(), corev1.HostPathFile: mode.IsRegular(),
		corev1.HostPathSocket: mode&os.ModeSocket != 0, corev1.HostPathCharDev: mode&os.ModeCharDevice != 0,
		corev1.HostPathBlockDev: mode&os.ModeDevice != 0 && mode&os.ModeCharDevice == 0,
	}
	if !ok[kind] {
		return fmt.Errorf("hostPath type check failed: %s is not a %s", h.Path, kind)
	}
	return nil
}

// fileData is one file of a volume made from objects.
type fileData struct {
	data []byte
	mode os.FileMode
}

// volumeFiles are the files of a volume made from objects, by path.
func (a *agent) volumeFiles(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) (map[string]fileData, error) {
	files := map[string]fileData{}
	sources, mode := []corev1.VolumeProjection{}, (*int32)(nil)
	switch {
	case v.ConfigMap != nil:
		mode = v.ConfigMap.DefaultMode
		sources = append(sources, corev1.VolumeProjection{ConfigMap: &corev1.ConfigMapProjection{
			LocalObjectReference: v.ConfigMap.LocalObjectReference, Items: v.ConfigMap.Items, Optional: v.ConfigMap.Optional}})
	case v.Secret != nil:
		mode = v.Secret.DefaultMode
		sources = append(sources, corev1.VolumeProjection{Secret: &corev1.SecretProjection{
			LocalObjectReference: corev1.LocalObjectReference{Name: v.Secret.SecretName}, Items: v.Secret.Items, Optional: v.Secret.Optional}})
	case v.DownwardAPI != nil:
		mode = v.DownwardAPI.DefaultMode
		sources = append(sources, corev1.VolumeProjection{DownwardAPI: &corev1.DownwardAPIProjection{Items: v.DownwardAPI.Items}})
	default:
		mode, sources = v.Projected.DefaultMode, v.Projected.Sources
	}
	normal := int32(corev1.ConfigMapVolumeSourceDefaultMode)
	if mode != nil {
		normal = *mode
	}
	for _, s := range sources {
		if err := a.project(ctx, pod, s, normal, files); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// project adds the files of one source.
func (a *agent) project(ctx context.Context, pod *corev1.Pod, s corev1.VolumeProjection, mode int32, files map[string]fileData) error {
	switch {
	case s.ConfigMap != nil:
		m, err := a.Client.CoreV1().ConfigMaps(pod.Namespace).Get(ctx, s.ConfigMap.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) && isTrue(s.ConfigMap.Optional) {
			return nil
		}
		if err != nil {
			return err
		}
		data := map[string][]byte{}
		for k, v := range m.Data {
			data[k] = []byte(v)
		}
		for k, v := range m.BinaryData {
			data[k] = v
		}
		return pick(data, s.ConfigMap.Items, mode, isTrue(s.ConfigMap.Optional), files)
	case s.Secret != nil:
		m, err := a.Client.CoreV1().Secrets(pod.Namespace).Get(ctx, s.Secret.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) && isTrue(s.Secret.Optional) {
			return nil
		}
		if err != nil {
			return err
		}
		return pick(m.Data, s.Secret.Items, mode, isTrue(s.Secret.Optional), files)
	case s.DownwardAPI != nil:
		for _, item := range s.DownwardAPI.Items {
			var text string
			var err error
			if item.FieldRef != nil {
				text, err = fieldValue(pod, item.FieldRef.FieldPath, a.NodeIPs, nil)
			} else if item.ResourceFieldRef != nil {
				text, err = a.resourceValue(pod, "", item.ResourceFieldRef)
			}
			if err != nil {
				return err
			}
			m := mode
			if item.Mode != nil {
				m = *item.Mode
			}
			files[item.Path] = fileData{[]byte(text), os.FileMode(m)}
		}
		return nil
	}
	if s.ServiceAccountToken != nil {
		return errors.New("this API issues no service account tokens")
	}
	return errors.New("this source of a projected volume is not supported")
}

// pick chooses keys of an object: all, or those that are named.
func pick(data map[string][]byte, items []corev1.KeyToPath, mode int32, optional bool, files map[string]fileData) error {
	if items == nil {
		for k, v := range data {
			files[k] = fileData{v, os.FileMode(mode)}
		}
		return nil
	}
	for _, item := range items {
		v, ok := data[item.Key]
		if !ok {
			if optional {
				continue
			}
			return fmt.Errorf("references non-existent config key: %s", item.Key)
		}
		m := mode
		if item.Mode != nil {
			m = *item.Mode
		}
		files[item.Path] = fileData{v, os.FileMode(m)}
	}
	return nil
}

// writeFiles makes a directory hold these files. A reader sees all of the old
// ones or all of the new ones: they are links through ..data, which is replaced.
func writeFiles(dir string, files map[string]fileData) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	version := "..v" + fmt.Sprint(time.Now().UnixNano())
	for path, f := range files {
		if !filepath.IsLocal(path) {
			return fmt.Errorf("path %q leaves the volume", path)
		}
		full := filepath.Join(dir, version, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(full, f.data, f.mode); err != nil {
			return err
		}
		if err := os.Chmod(full, f.mode); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, version), 0o755); err != nil {
		return err
	}
	next, data := filepath.Join(dir, "..data.new"), filepath.Join(dir, "..data")
	old, _ := os.Readlink(data)
	os.Remove(next)
	if err := os.Symlink(version, next); err != nil {
		return err
	}
	if err := os.Rename(next, data); err != nil {
		return err
	}
	tops := map[string]bool{}
	for path := range files {
		top, _, _ := strings.Cut(filepath.Clean(path), "/")
		tops[top] = true
		if err := os.Symlink(filepath.Join("..data", top), filepath.Join(dir, top)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "..") && !tops[e.Name()] {
			os.Remove(filepath.Join(dir, e.Name()))
		}
	}
	if old != "" {
		return os.RemoveAll(filepath.Join(dir, old))
	}
	return nil
}

// followVolumes keeps volumes made from objects as those are, until the worker ends.
func (w *worker) followVolumes(pod *corev1.Pod) {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		sources := []corev1.VolumeProjection{}
		switch {
		case v.ConfigMap != nil:
			sources = append(sources, corev1.VolumeProjection{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: v.ConfigMap.LocalObjectReference}})
		case v.Secret != nil:
			sources = append(sources, corev1.VolumeProjection{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: v.Secret.SecretName}}})
		case v.Projected != nil:
			sources = v.Projected.Sources
		}
		for _, s := range sources {
			core := w.a.Client.CoreV1()
			switch {
			case s.ConfigMap != nil && !w.following["configmap/"+v.Name+"/"+s.ConfigMap.Name]:
				w.following["configmap/"+v.Name+"/"+s.ConfigMap.Name] = true
				w.followObject(pod, v, s.ConfigMap.Name, core.ConfigMaps(pod.Namespace).Watch)
			case s.Secret != nil && !w.following["secret/"+v.Name+"/"+s.Secret.Name]:
				w.following["secret/"+v.Name+"/"+s.Secret.Name] = true
				w.followObject(pod, v, s.Secret.Name, core.Secrets(pod.Namespace).Watch)
			}
		}
	}
}

// followObject writes a volume anew whenever one object of its changes.
func (w *worker) followObject(pod *corev1.Pod, v *corev1.Volume, name string, open func(context.Context, metav1.ListOptions) (watch.Interface, error)) {
	w.wg.Go(func() {
		for failures := 0; w.ctx.Err() == nil; failures++ {
			changes, err := open(w.ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String()})
			if err == nil {
				if w.rewriteOnChange(changes, pod, v, name) {
					failures = 0
				}
				changes.Stop()
			}
			if pause(w.ctx, retryAfter(failures)) != nil {
				return
			}
		}
	})
}

// rewriteOnChange follows one watch to its end and says whether it brought
// anything. One without a version begins with the object as it is.
func (w *worker) rewriteOnChange(changes watch.Interface, pod *corev1.Pod, v *corev1.Volume, name string) bool {
	for brought := false; ; brought = true {
		select {
		case e, ok := <-changes.ResultChan():
			if !ok {
				return brought
			}
			if o, ok := e.Object.(metav1.Object); ok && o.GetName() == name && e.Type != watch.Deleted {
				w.rewrite(w.ctx, pod, v)
			}
		case <-w.ctx.Done():
			return brought
		}
	}
}

func (w *worker) rewrite(ctx context.Context, pod *corev1.Pod, v *corev1.Volume) {
	files, err := w.a.volumeFiles(ctx, pod, v)
	if err == nil {
		w.volumes.Lock()
		defer w.volumes.Unlock()
		err = writeFiles(volumeDir(w.dir, v.Name), files)
	}
	if err != nil && ctx.Err() == nil {
		w.a.events.Eventf(pod, corev1.EventTypeWarning, "FailedMount", "%s", volumeError{v.Name, err}.Error())
	}
}

// removeVolumes unmounts what was mounted below the Pod's directory.
func removeVolumes(dir string) error {
	entries, err := os.ReadDir(filepath.Join(dir, "volumes"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		v := filepath.Join(dir, "volumes", e.Name())
		if isMountPoint(v) {
			if err := unix.Unmount(v, unix.MNT_DETACH); err != nil {
				return fmt.Errorf("unmount %s: %w", v, err)
			}
		}
	}
	return nil
}

// mounts are a container's: the Pod's files in /etc and its volumes.
func (s *starting) mounts(vars []corev1.EnvVar) ([]runtime.Mount, error) {
	var all []runtime.Mount
	taken := map[string]bool{}
	values := map[string]string{}
	for _, v := range vars {
		values[v.Name] = v.Value
	}
	sources := map[string]*corev1.Volume{}
	for i := range s.pod.Spec.Volumes {
		sources[s.pod.Spec.Volumes[i].Name] = &s.pod.Spec.Volumes[i]
	}
	for _, m := range s.spec.VolumeMounts {
		v := sources[m.Name]
		if v == nil {
			return nil, fmt.Errorf("cannot find volume %q to mount into container %q", m.Name, s.spec.Name)
		}
		path, readOnly := volumeDir(s.w.dir, m.Name), m.ReadOnly
		switch {
		case v.HostPath != nil:
			path = v.HostPath.Path
		case v.EmptyDir == nil:
			readOnly = true // made from objects
		}
		sub := m.SubPath
		if m.SubPathExpr != "" {
			sub = expand(m.SubPathExpr, values)
		}
		if sub != "" {
			if err := within(path, sub); err != nil {
				return nil, fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", m.Name, s.spec.Name, err)
			}
		}
		taken[filepath.Clean(m.MountPath)] = true
		all = append(all, runtime.Mount{HostPath: path, SubPath: sub, ContainerPath: m.MountPath, ReadOnly: readOnly})
	}
	for _, f := range [][2]string{{"etc-hosts", "/etc/hosts"}, {"etc-hostname", "/etc/hostname"}, {"etc-resolv", "/etc/resolv.conf"}} {
		if !taken[f[1]] {
			all = append(all, runtime.Mount{HostPath: filepath.Join(s.w.dir, f[0]), ContainerPath: f[1]})
		}
	}
	return all, nil
}

// within says whether a path is below a volume and no link leads out of it; a
// directory is made where there is nothing. The runtime makes sure again when it
// mounts the path: a container of the Pod may change it meanwhile.
func within(volume, sub string) error {
	root, err := os.OpenRoot(volume)
	if err != nil {
		return err
	}
	defer root.Close()
	_, err = root.Stat(sub)
	if errors.Is(err, fs.ErrNotExist) {
		err = root.MkdirAll(sub, 0o777)
	}
	return err
}
