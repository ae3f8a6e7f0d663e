package apiserver

import (
	"io"
	"net/http"
)

// customResources is where kubectl lists the custom kinds before it says that a
// manifest's kind is unknown. There are none; without an answer it would
// complain of the list, and not name the kind. Discovery does not show it.
const customResources = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"

func serveNoCustomResources(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet || r.URL.Query().Has("watch") {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, `{"kind":"CustomResourceDefinitionList","apiVersion":"apiextensions.k8s.io/v1","metadata":{},"items":[]}`)
}
