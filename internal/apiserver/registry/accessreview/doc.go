// Package accessreview answers what a client may do and who it is: `kubectl
// auth can-i` (SelfSubjectAccessReview, and SubjectAccessReview for others) and
// `kubectl auth whoami` (SelfSubjectReview). Nothing is stored; a review is a
// question that is created and answered at once.
package accessreview
