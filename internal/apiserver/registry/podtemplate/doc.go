// Package podtemplate knows what a Pod's specification means: its defaults and
// its validation, for Pods and for the templates of those who make them.
//
// The one idea: a Deployment's template is checked by the rules that its Pods
// will be, so that a mistake is told to who made it and not to a controller.
package podtemplate
