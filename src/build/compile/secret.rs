//! SDS secrets: certificates with their keys, and certificate authorities.

use std::collections::BTreeMap;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{DataSource, data_source};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3 as envoy;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::secret::Type;

use crate::build::snapshot::resource::Resource;
use crate::model::Model;
use crate::model::certificate::{Authority, Certificate, Pem};
use crate::model::listener::{Listener, Termination};
use crate::model::name::Name;
use crate::model::tls::{TargetTls, Trust, UpstreamTls};
use crate::model::upstream::Upstream;

/// Everything that a secret depends on.
#[derive(Debug, Clone, PartialEq)]
pub enum SecretInput {
    /// Certificate that Envoy presents to its peers.
    Certificate(Arc<Certificate>),
    /// Authority against which Envoy verifies the certificates of its peers.
    Authority(Authority),
}

/// Returns the secrets that the Envoys of `fleet` need, by name. `upstreams` are those of the fleet that use
/// TLS. A key is sent to no fleet that does not need it.
pub fn needed<'u>(
    model: &Model,
    fleet: &Name,
    upstreams: impl Iterator<Item = &'u Arc<Upstream>>,
) -> BTreeMap<Arc<str>, SecretInput> {
    let mut needed = Needed::default();
    model.listeners_of(fleet).filter_map(Listener::termination).for_each(|it| needed.by_listener(it));
    upstreams.for_each(|upstream| needed.by_upstream(upstream));
    needed.by_raw_resources(model);
    needed.0
}

/// Compiles a secret.
pub fn compile(input: &SecretInput) -> Resource {
    let (name, secret) = match input {
        SecretInput::Certificate(certificate) => {
            let certificate_and_key = envoy::TlsCertificate {
                certificate_chain: Some(inline(&certificate.chain)),
                private_key: Some(inline(&certificate.key)),
                ..Default::default()
            };
            (certificate.name.as_str(), Type::TlsCertificate(certificate_and_key))
        }
        SecretInput::Authority(authority) => {
            let trusted_ca = Some(inline(&authority.pem));
            let context = envoy::CertificateValidationContext { trusted_ca, ..Default::default() };
            (&*authority.secret, Type::ValidationContext(context))
        }
    };
    Resource::new(name, &envoy::Secret { name: name.to_owned(), r#type: Some(secret) })
}

#[derive(Default)]
struct Needed(BTreeMap<Arc<str>, SecretInput>);

impl Needed {
    fn by_listener(&mut self, termination: &Termination) {
        termination.certificates.iter().for_each(|certificate| self.certificate(certificate));
        termination.client_ca.iter().for_each(|authority| self.authority(authority));
    }

    fn by_upstream(&mut self, upstream: &Upstream) {
        upstream.tls.iter().for_each(|tls| self.tls(tls));
        for target in &upstream.targets {
            if let TargetTls::Own(tls) = &target.tls {
                self.tls(tls);
            }
        }
    }

    fn by_raw_resources(&mut self, model: &Model) {
        let named = model.raw.iter().flat_map(|raw| &raw.references).map(|reference| &reference.name);
        for certificate in named.filter_map(|name| model.certificates.get(&Name::parse(name)?)) {
            self.certificate(certificate);
        }
    }

    fn tls(&mut self, tls: &UpstreamTls) {
        tls.client_certificate.iter().for_each(|certificate| self.certificate(certificate));
        if let Trust::Authority(authority) = &tls.trust {
            self.authority(authority);
        }
    }

    fn certificate(&mut self, certificate: &Arc<Certificate>) {
        self.0.insert(certificate.name.as_str().into(), SecretInput::Certificate(certificate.clone()));
    }

    fn authority(&mut self, authority: &Authority) {
        self.0.insert(authority.secret.clone(), SecretInput::Authority(authority.clone()));
    }
}

fn inline(pem: &Pem) -> DataSource {
    DataSource {
        specifier: Some(data_source::Specifier::InlineString(pem.as_str().to_owned())),
        ..Default::default()
    }
}
