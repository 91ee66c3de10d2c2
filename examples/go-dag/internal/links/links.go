// Package links holds short names for long targets.
package links

import (
	"errors"
	"sync"
)

// Errors of a Table.
var (
	ErrTaken   = errors.New("the name is taken")
	ErrUnknown = errors.New("the name is unknown")
)

type link struct {
	target string
	hits   int32
}

// Table is a set of links, for use by many goroutines.
type Table struct {
	mu    sync.Mutex
	links map[string]*link
}

// NewTable gives an empty table.
func NewTable() *Table {
	return &Table{links: map[string]*link{}}
}

// Add names a target; it fails with ErrTaken.
func (t *Table) Add(name, target string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.links[name]; ok {
		return ErrTaken
	}
	t.links[name] = &link{target: target}
	return nil
}

// Find gives a target and how often it was asked for; it fails with ErrUnknown.
func (t *Table) Find(name string) (string, int32, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	found, ok := t.links[name]
	if !ok {
		return "", 0, ErrUnknown
	}
	found.hits++
	return found.target, found.hits, nil
}
