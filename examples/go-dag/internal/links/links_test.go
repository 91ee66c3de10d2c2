package links

import (
	"errors"
	"sync"
	"testing"
)

func TestNamesAreUnique(t *testing.T) {
	table := NewTable()
	if err := table.Add("docs", "https://example.com/docs"); err != nil {
		t.Fatal(err)
	}
	if err := table.Add("docs", "https://example.com/other"); !errors.Is(err, ErrTaken) {
		t.Fatalf("got %v", err)
	}
}

func TestHitsAreCounted(t *testing.T) {
	table := NewTable()
	if err := table.Add("a", "b"); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	for i := 0; i < 50; i++ {
		all.Add(1)
		go func() {
			defer all.Done()
			if _, _, err := table.Find("a"); err != nil {
				t.Error(err)
			}
		}()
	}
	all.Wait()
	if target, hits, err := table.Find("a"); target != "b" || hits != 51 || err != nil {
		t.Fatalf("got %q, %d, %v", target, hits, err)
	}
}

func TestUnknownNames(t *testing.T) {
	if _, _, err := NewTable().Find("nobody"); !errors.Is(err, ErrUnknown) {
		t.Fatalf("got %v", err)
	}
}
