package runtime

import "errors"

var (
	// ErrPodGone says that nothing holds the Pod any more.
	ErrPodGone = errors.New("the pod is gone")
	// ErrContainerNotFound says that the Pod has no container of that ID.
	ErrContainerNotFound = errors.New("container not found")
)
