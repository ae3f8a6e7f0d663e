package apiserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	apiopenapi "k8s.io/apiserver/pkg/endpoints/openapi"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/pkg/server/healthz"

	"viaduct.dev/viaduct/internal/apiserver/openapi"
	"viaduct.dev/viaduct/internal/apiserver/registry"
	"viaduct.dev/viaduct/internal/apiserver/scheme"
)

const healthTimeout = 2 * time.Second

func validate(cfg Config) error {
	switch {
	case cfg.Log == nil:
		return errors.New("config: Log is missing")
	case len(cfg.ServiceCIDRs) == 0:
		return errors.New("config: ServiceCIDRs are missing")
	case len(cfg.ServiceCIDRs) > 2:
		return fmt.Errorf("config: %d ServiceCIDRs, want one for each family", len(cfg.ServiceCIDRs))
	case len(cfg.AdvertiseAddresses) > 0 && cfg.AdvertisePort == 0:
		return errors.New("config: AdvertisePort is missing")
	}
	return nil
}

// genericConfig is the part of the configuration that does not need the store.
func genericConfig(cfg Config, known *scheme.Scheme) (*genericapiserver.Config, error) {
	certificate, err := dynamiccertificates.NewStaticCertKeyContent("serving", cfg.ServingCert, cfg.ServingKey)
	if err != nil {
		return nil, fmt.Errorf("serving certificate: %w", err)
	}
	clientCA, err := dynamiccertificates.NewStaticCAContent("client-ca", cfg.ClientCA)
	if err != nil {
		return nil, fmt.Errorf("client authority: %w", err)
	}
	listener := join(cfg.Log, cfg.Listeners)
	c := genericapiserver.NewConfig(known.Codecs)
	c.SecureServing = &genericapiserver.SecureServingInfo{Listener: listener, Cert: certificate, ClientCA: clientCA}
	c.Authentication.Authenticator = newAuthenticator(clientCA)
	c.Authorization.Authorizer = authorizer.AuthorizerFunc(authorize)
	c.EffectiveVersion = effectiveVersion()
	c.ExternalAddress = listener.Addr().String()
	if len(cfg.AdvertiseAddresses) > 0 {
		c.ExternalAddress = net.JoinHostPort(cfg.AdvertiseAddresses[0].String(), strconv.Itoa(int(cfg.AdvertisePort)))
	}
	namer := apiopenapi.NewDefinitionNamer(known.OpenAPI)
	c.OpenAPIConfig = genericapiserver.DefaultOpenAPIConfig(openapi.GetOpenAPIDefinitions, namer)
	c.OpenAPIConfig.Info.Title = "Viaduct"
	c.OpenAPIV3Config = genericapiserver.DefaultOpenAPIV3Config(openapi.GetOpenAPIDefinitions, namer)
	c.OpenAPIV3Config.Info.Title = "Viaduct"
	c.ShutdownWatchTerminationGracePeriod = watchDrain
	// Logs and exec last as long as their user likes.
	c.LongRunningFunc = longRunning()
	return c, nil
}

// assemble installs the kinds and makes the server of them.
func (s *Server) assemble(cfg Config, known *scheme.Scheme, c *genericapiserver.Config) error {
	sealed := make(chan struct{})
	storage := s.store.RESTOptions(known, sealed)
	nodePorts := cfg.ServiceNodePortRange
	if nodePorts.Size == 0 {
		nodePorts = utilnet.PortRange{Base: 30000, Size: 2768}
	}
	env := &registry.Env{
		Scheme:       known,
		Storage:      storage,
		ServiceCIDRs: cfg.ServiceCIDRs,
		NodePorts:    nodePorts,
		Loopback:     s.ClientConfig(),
		AgentTLS:     cfg.AgentTLS,
		Authorizer:   c.Authorization.Authorizer,
		Log:          cfg.Log,
	}
	for _, install := range kinds() {
		if err := install(env, s.resources); err != nil {
			return fmt.Errorf("install kinds: %w", err)
		}
	}
	close(sealed)
	c.RESTOptionsGetter = storage
	c.AdmissionControl = s.resources.Admission()
	c.LoopbackClientConfig = s.ClientConfig()
	c.AddHealthChecks(healthz.NamedCheck("etcd", s.checkStore))
	c.AddReadyzChecks(healthz.NamedCheck("start-hooks", s.checkStarted))

	var err error
	s.generic, err = c.Complete(nil).New("viaduct", genericapiserver.NewEmptyDelegate())
	if err != nil {
		return err
	}
	s.generic.ShutdownTimeout = requestDrain
	s.transport.handler = s.generic.Handler
	s.generic.Handler.NonGoRestfulMux.UnlistedHandleFunc(customResources, serveNoCustomResources)
	return s.installGroups(known)
}

func (s *Server) installGroups(known *scheme.Scheme) error {
	var named []*genericapiserver.APIGroupInfo
	byGroup := map[string]*genericapiserver.APIGroupInfo{}
	for _, version := range s.resources.GroupVersions() {
		info, ok := byGroup[version.Group]
		if !ok {
			info = &genericapiserver.APIGroupInfo{
				VersionedResourcesStorageMap: map[string]map[string]rest.Storage{},
				OptionsExternalVersion:       &schema.GroupVersion{Version: "v1"},
				Scheme:                       known.Hub,
				ParameterCodec:               known.Parameters,
				NegotiatedSerializer:         known.Codecs,
			}
			byGroup[version.Group] = info
			if version.Group != "" {
				named = append(named, info)
			}
		}
		info.PrioritizedVersions = append(info.PrioritizedVersions, version)
		info.VersionedResourcesStorageMap[version.Version] = s.resources.Storage(version)
	}
	if core, ok := byGroup[""]; ok {
		if err := s.generic.InstallLegacyAPIGroup(genericapiserver.DefaultLegacyAPIPrefix, core); err != nil {
			return fmt.Errorf("install core group: %w", err)
		}
	}
	if err := s.generic.InstallAPIGroups(named...); err != nil {
		return fmt.Errorf("install named groups: %w", err)
	}
	return nil
}

// waitForStorage returns when every kind's watch cache is filled.
func (s *Server) waitForStorage(ctx context.Context) error {
	tick := time.NewTicker(storagePoll)
	defer tick.Stop()
	for {
		waiting := s.storageNotReady()
		if waiting == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return errors.Join(ctx.Err(), waiting)
		}
	}
}

func (s *Server) storageNotReady() error {
	for _, version := range s.resources.GroupVersions() {
		for path, storage := range s.resources.Storage(version) {
			if checked, ok := storage.(rest.StorageWithReadiness); ok {
				if err := checked.ReadinessCheck(); err != nil {
					return fmt.Errorf("storage of %s %s: %w", version, path, err)
				}
			}
		}
	}
	return nil
}

func (s *Server) checkStore(r *http.Request) error {
	ctx, cancel := context.WithTimeout(r.Context(), healthTimeout)
	defer cancel()
	if _, err := s.store.Client().Get(ctx, "/registry/health"); err != nil {
		return fmt.Errorf("read from etcd: %w", err)
	}
	return nil
}

func (s *Server) checkStarted(*http.Request) error {
	select {
	case <-s.ready:
		return nil
	default:
		return errors.New("still starting")
	}
}
