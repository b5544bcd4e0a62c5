//! Protocol and TLS of services towards their targets. An upstream whose services differ in them becomes several.

use std::sync::Arc;

use crate::config::dialect::kong::build::{self, Fields};
use crate::config::dialect::kong::entity::{Entity, text};
use crate::config::dialect::kong::kind::EntityKind;
use crate::config::dialect::kong::world::{Url, World};
use crate::config::tree::Node;

/// Protocol and TLS towards targets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Speech {
    /// Kong's protocol.
    pub protocol: String,
    /// TLS; none for plain text.
    pub tls: Option<TlsTerms>,
}

/// Terms of TLS towards targets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TlsTerms {
    /// Verification; off unless it is said.
    pub verify: bool,
    /// Ids of authorities.
    pub authorities: Vec<String>,
    /// Names that the certificate must have.
    pub names: Vec<String>,
    /// Name or id of the certificate that is presented.
    pub client_certificate: Option<String>,
}

impl Speech {
    /// Returns the protocol and TLS of a service; plain HTTP for none.
    pub fn of(world: &World<'_>, service: Option<&Arc<Entity>>) -> Self {
        let Some(service) = service else { return Self { protocol: "http".to_owned(), tls: None } };
        let view = world.view(service);
        let url = view.text(&["url"]).and_then(Url::parse).map(|url| url.protocol);
        let said = view.get(&["protocol"]).and_then(|said| text(said.node)).map(str::to_owned);
        let protocol = said.or(url).unwrap_or_else(|| "http".to_owned());
        let protocol = match protocol.as_str() {
            "ws" => "http".to_owned(),
            "wss" => "https".to_owned(),
            _ => protocol,
        };
        let texts = |keys: &[&str]| view.texts(keys).into_iter().map(|(text, _)| text.to_owned()).collect();
        let tls = matches!(protocol.as_str(), "https" | "grpcs" | "tls").then(|| TlsTerms {
            verify: view.is(&["tls_verify"]),
            authorities: texts(&["ca_certificates"]),
            names: texts(&["tls_sans", "dnsnames"]),
            client_certificate: service.reference("client_certificate").map(|(name, _)| name.to_owned()),
        });
        Self { protocol, tls }
    }

    /// Returns the native protocol.
    pub fn native_protocol(&self) -> &'static str {
        match self.protocol.as_str() {
            "grpc" | "grpcs" => "http2",
            "tcp" | "tls" | "tls_passthrough" => "tcp",
            _ => "http1",
        }
    }

    /// Returns the native TLS settings of an upstream; none for plain text.
    pub fn native_tls(
        &self,
        world: &World<'_>,
        service: Option<&Arc<Entity>>,
        sni: Option<&Node>,
    ) -> Option<Node> {
        let terms = self.tls.as_ref()?;
        let span = service.and_then(|service| world.view(service).get(&["protocol"])?.node.span);
        let mut fields = Fields::default();
        if let Some(sni) = sni {
            fields.put("sni", sni.clone());
        }
        match terms.verify {
            false => drop(fields.put("insecure", build::boolean(true, span))),
            true if terms.authorities.is_empty() => drop(fields.put_text("ca", "system")),
            true => {
                let mut inline = Fields::default();
                inline.put_text("inline", authorities(world, &terms.authorities));
                fields.put("ca", inline.node(None));
            }
        }
        if terms.verify && !terms.names.is_empty() {
            let names = terms.names.iter().map(|name| build::text(name.as_str(), None)).collect();
            fields.put("verify_names", build::list(names, None));
        }
        if let Some(certificate) = &terms.client_certificate
            && let Some(known) = world.find(EntityKind::Certificate, certificate)
        {
            fields.put_text("client_certificate", world.certificate_name(known));
        }
        Some(fields.node(span))
    }
}

fn authorities(world: &World<'_>, ids: &[String]) -> String {
    let found = ids.iter().filter_map(|id| world.find(EntityKind::CaCertificate, id));
    let texts = found.filter_map(|authority| world.vaults.resolve(authority.text("cert")?).ok());
    texts.map(|text| if text.ends_with('\n') { text } else { text + "\n" }).collect()
}

/// Returns the ways in which services speak to an upstream, each with the name of its native upstream: the first has the
/// upstream's own name.
pub fn variants(world: &World<'_>, name: &str, callers: &[&Arc<Entity>]) -> Vec<(Speech, String)> {
    const ORDER: [&str; 7] = ["http", "https", "grpc", "grpcs", "tcp", "tls", "tls_passthrough"];
    let mut found: Vec<Speech> = Vec::new();
    for caller in callers {
        let speech = Speech::of(world, Some(caller));
        if !found.contains(&speech) {
            found.push(speech);
        }
    }
    if found.is_empty() {
        found.push(Speech::of(world, None));
    }
    let place = |speech: &Speech| ORDER.iter().position(|protocol| *protocol == speech.protocol);
    found.sort_by(|a, b| place(a).cmp(&place(b)).then_with(|| a.cmp(b)));
    let mut named: Vec<(Speech, String)> = Vec::new();
    for (index, speech) in found.into_iter().enumerate() {
        let before = named.iter().filter(|(other, _)| other.protocol == speech.protocol).count();
        let own = match (index, before) {
            (0, _) => name.to_owned(),
            (_, 0) => format!("{name}--{}", speech.protocol),
            (_, before) => format!("{name}--{}-{}", speech.protocol, before + 1),
        };
        named.push((speech, own));
    }
    named
}
