package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"testing"
)

const module = "viaduct.dev/viaduct/"

// source is one parsed Go file of the repository.
type source struct {
	path  string // slash-separated, from the repository's root
	text  string
	file  *ast.File
	lines int
}

func (s source) test() bool { return strings.HasSuffix(s.path, "_test.go") }

func (s source) generated() bool {
	return ast.IsGenerated(s.file)
}

func (s source) imports() []string {
	var paths []string
	for _, i := range s.file.Imports {
		p, _ := strconv.Unquote(i.Path.Value)
		paths = append(paths, p)
	}
	return paths
}

// sources parses every Go file of the repository.
func sources(t *testing.T) []source {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	var all []source
	fset := token.NewFileSet()
	err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != root || d.Name() == "testdata" || d.Name() == "bin") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(fset, path, text, parser.ParseComments)
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		all = append(all, source{filepath.ToSlash(rel), string(text), f, strings.Count(string(text), "\n")})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	documented := map[string]bool{}
	for _, s := range sources(t) {
		if s.test() {
			continue
		}
		dir := filepath.Dir(s.path)
		documented[dir] = documented[dir] || s.file.Doc != nil || s.generated()
	}
	for dir, ok := range documented {
		if !ok {
			t.Errorf("%s: no package comment; write a doc.go: what it is, the one idea, an example", dir)
		}
	}
}

func TestFilesHaveOneSubject(t *testing.T) {
	const limit = 500
	for _, s := range sources(t) {
		if !s.generated() && !s.test() && s.lines > limit {
			t.Errorf("%s: %d lines, over %d: give its second subject a file", s.path, s.lines, limit)
		}
	}
}

func TestNoPackageIsNamedForNothing(t *testing.T) {
	for _, s := range sources(t) {
		switch s.file.Name.Name {
		case "util", "utils", "common", "helpers", "helper", "misc", "shared":
			t.Errorf("%s: package %s; name it for what it provides", s.path, s.file.Name.Name)
		}
	}
}

func TestTestsWaitForConditions(t *testing.T) {
	for _, s := range sources(t) {
		if !s.test() {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok && sel.Sel.Name == "Sleep" {
				if x, ok := sel.X.(*ast.Ident); ok && x.Name == "time" {
					t.Errorf("%s: time.Sleep in a test; wait for a condition with a deadline", s.path)
				}
			}
			return true
		})
	}
}

// pure packages compute: no clock, no I/O, no Kubernetes client, no goroutine.
// They may import the standard library's pure parts, the API's types, and what
// else is listed here with the reason.
var pure = map[string][]string{
	"internal/servicetable": nil,
	"internal/dns/zone":     nil,
	"internal/serviceenv":   nil,
	"internal/allocator":    nil,
}

func TestPurePackagesStayPure(t *testing.T) {
	allowed := []string{"k8s.io/api/", "k8s.io/apimachinery/pkg/", "net/netip"}
	forbidden := []string{"net", "net/", "os", "os/", "io", "syscall", "log", "log/", "math/rand", "sync", "context", "time"}
	goStatement := regexp.MustCompile(`(?m)^\s*go (func|[a-zA-Z_])`)
	clock := regexp.MustCompile(`\btime\.(Now|Sleep|After|Tick|NewTimer|NewTicker|Since|Until)\b`)
	for _, s := range sources(t) {
		extra, ok := pure[filepath.ToSlash(filepath.Dir(s.path))]
		if !ok || s.test() {
			continue
		}
		for _, p := range s.imports() {
			if hasPrefix(append(allowed, extra...), p) {
				continue
			}
			// Durations and timestamps are values; reading the clock is not.
			if p == "time" && !clock.MatchString(s.text) {
				continue
			}
			if strings.Contains(strings.SplitN(p, "/", 2)[0], ".") || hasPrefix(forbidden, p) {
				t.Errorf("%s imports %s: a pure package takes values and gives values", s.path, p)
			}
		}
		if goStatement.MatchString(s.text) {
			t.Errorf("%s starts a goroutine: a pure package computes and returns", s.path)
		}
	}
}

func hasPrefix(list []string, p string) bool {
	for _, a := range list {
		if p == a || strings.HasSuffix(a, "/") && strings.HasPrefix(p, a) {
			return true
		}
	}
	return false
}

// roles never import each other: they meet in the API. A role may import what
// stands under it by name.
var roles = []string{"apiserver", "controllers", "agent", "proxy", "dns", "announce"}

func TestRolesMeetOnlyInTheAPI(t *testing.T) {
	pureOf := map[string]bool{}
	for p := range pure {
		pureOf[module+p] = true
	}
	for _, s := range sources(t) {
		if s.test() {
			continue
		}
		mine := roleOf(s.path)
		if mine == "" {
			continue
		}
		for _, p := range s.imports() {
			if !strings.HasPrefix(p, module) || pureOf[p] {
				continue
			}
			if other := roleOf(strings.TrimPrefix(p, module)); other != "" && other != mine {
				t.Errorf("%s (%s) imports %s (%s): roles meet in the API, not in Go", s.path, mine, p, other)
			}
			for _, up := range []string{"cmd/", "internal/cluster"} {
				if strings.HasPrefix(strings.TrimPrefix(p, module), up) {
					t.Errorf("%s imports %s: imports run downwards only", s.path, p)
				}
			}
		}
	}
}

func roleOf(path string) string {
	for _, r := range roles {
		if strings.HasPrefix(path, "internal/"+r+"/") || path == "internal/"+r {
			return r
		}
	}
	return ""
}

func TestTheProductDoesNotImportKubernetesItself(t *testing.T) {
	for _, s := range sources(t) {
		for _, p := range s.imports() {
			if strings.HasPrefix(p, "k8s.io/kubernetes") {
				t.Errorf("%s imports %s: k8s.io/kubernetes is no library", s.path, p)
			}
		}
	}
}

func TestNothingIsLeftForLater(t *testing.T) {
	mark := regexp.MustCompile(`\b(TODO|FIXME|XXX|HACK)\b`)
	var found []string
	for _, s := range sources(t) {
		if strings.HasPrefix(s.path, "internal/house/") || s.generated() {
			continue
		}
		for _, c := range s.file.Comments {
			if mark.MatchString(c.Text()) {
				found = append(found, s.path+": "+strings.TrimSpace(c.Text()))
			}
		}
	}
	sort.Strings(found)
	for _, f := range found {
		t.Errorf("%s: finish it or open an issue", f)
	}
}
