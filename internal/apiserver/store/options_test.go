package store

import (
	"context"
	"errors"
	"testing"

	"k8s.io/apiserver/pkg/storage"
)

// asked records what a prompt storage asks of the one beneath.
type asked struct {
	storage.Interface
	err      error
	progress int
}

func (a *asked) GetCurrentResourceVersion(context.Context) (uint64, error) { return 7, a.err }

func (a *asked) RequestWatchProgress(context.Context) error {
	a.progress++
	return nil
}

func TestAConsistentReadAsksForProgressAtOnce(t *testing.T) {
	beneath := &asked{}
	revision, err := prompt{beneath}.GetCurrentResourceVersion(t.Context())
	if revision != 7 || err != nil || beneath.progress != 1 {
		t.Errorf("revision %d, %v, asked %d times", revision, err, beneath.progress)
	}
	beneath = &asked{err: errors.New("no etcd")}
	if _, err := (prompt{beneath}).GetCurrentResourceVersion(t.Context()); err == nil || beneath.progress != 0 {
		t.Errorf("%v, asked %d times", err, beneath.progress)
	}
}
