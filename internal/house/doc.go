// Package house holds the project's rules as tests: what a reviewer would
// otherwise have to remember.
//
// The one idea: a rule that no machine checks is a wish. Each test here names
// the rule, the place that breaks it, and what to do instead. The package has
// no code of its own.
package house
