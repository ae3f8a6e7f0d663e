package podtemplate

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validateVolume accepts the kinds of volume that a node can mount.
func validateVolume(v *corev1.Volume, at *field.Path) field.ErrorList {
	kinds := 0
	for _, set := range []bool{v.EmptyDir != nil, v.ConfigMap != nil, v.Secret != nil, v.Projected != nil, v.DownwardAPI != nil, v.HostPath != nil} {
		if set {
			kinds++
		}
	}
	switch {
	case kinds == 0:
		return field.ErrorList{field.NotSupported(at, "of another kind", []string{"emptyDir", "configMap", "secret", "projected", "downwardAPI", "hostPath"})}
	case kinds > 1:
		return field.ErrorList{field.Forbidden(at, "may not specify more than 1 volume type")}
	case v.ConfigMap != nil && v.ConfigMap.Name == "":
		return field.ErrorList{field.Required(at.Child("configMap", "name"), "")}
	case v.Secret != nil && v.Secret.SecretName == "":
		return field.ErrorList{field.Required(at.Child("secret", "secretName"), "")}
	case v.HostPath != nil && v.HostPath.Path == "":
		return field.ErrorList{field.Required(at.Child("hostPath", "path"), "")}
	}
	return nil
}

// The limits that resolvers have (API documentation of PodDNSConfig).
const (
	maxNameservers = 3
	maxSearches    = 32
	maxSearchChars = 2048
)

func validateDNSConfig(c *corev1.PodDNSConfig, at *field.Path) field.ErrorList {
	if c == nil {
		return nil
	}
	var errs field.ErrorList
	if len(c.Nameservers) > maxNameservers {
		errs = append(errs, field.Invalid(at.Child("nameservers"), c.Nameservers, fmt.Sprintf("must not have more than %d nameservers", maxNameservers)))
	}
	for i, ns := range c.Nameservers {
		errs = append(errs, validation.IsValidIP(at.Child("nameservers").Index(i), ns)...)
	}
	chars := 0
	for _, s := range c.Searches {
		chars += len(s) + 1
	}
	if len(c.Searches) > maxSearches {
		errs = append(errs, field.Invalid(at.Child("searches"), c.Searches, fmt.Sprintf("must not have more than %d search paths", maxSearches)))
	}
	if chars-1 > maxSearchChars {
		errs = append(errs, field.Invalid(at.Child("searches"), c.Searches, fmt.Sprintf("must not have more than %d characters (including spaces) in the search list", maxSearchChars)))
	}
	for i, o := range c.Options {
		if o.Name == "" {
			errs = append(errs, field.Required(at.Child("options").Index(i), "must not be empty"))
		}
	}
	return errs
}
