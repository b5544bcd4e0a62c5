//! Certificates that Envoys present, and the listeners where native documents declare none.

use std::sync::Arc;

use crate::config::code;
use crate::config::dialect::kong::build::{self, Fields};
use crate::config::dialect::kong::entity::Entity;
use crate::config::dialect::kong::kind::EntityKind;
use crate::config::dialect::kong::teller::Teller;
use crate::config::dialect::kong::world::World;
use crate::config::dialect::note::Fate;
use crate::config::dialect::translation::Unit;

/// Address of the listener that a Kong has for plain requests.
const HTTP: &str = "0.0.0.0:8000";

/// Address of the listener that a Kong has for requests in TLS.
const HTTPS: &str = "0.0.0.0:8443";

/// Name of the default listener for plain requests.
pub const HTTP_NAME: &str = "kong-http";

/// Name of the default listener for requests in TLS.
pub const HTTPS_NAME: &str = "kong-https";

/// Translates a certificate.
pub fn translate(world: &World<'_>, certificate: &Arc<Entity>) -> Unit {
    let (mut unit, mut teller) = (Unit::default(), Teller::default());
    let view = world.view(certificate);
    let object = &certificate.object;
    let mut fields = Fields::default();
    let id = view.get(&["id"]).and_then(|said| said.node.span);
    fields.put("name", build::text(world.certificate_name(certificate), id));
    let mut is_whole = true;
    for (kong, native) in [("cert", "certificate"), ("key", "key")] {
        let Some(said) = view.get(&[kong]) else {
            is_whole = false;
            continue;
        };
        match world.vaults.resolve(view.text(&[kong]).unwrap_or_default()) {
            Ok(text) => {
                let mut inline = Fields::default();
                inline.put("inline", build::text(text, said.node.span));
                fields.put(native, inline.node(said.node.span));
            }
            Err((words, help)) => {
                teller.note(object, &[kong], Fate::Refused, words).code(code::SHELL_VARIABLE).help(help);
                is_whole = false;
            }
        }
    }
    for field in ["cert_alt", "key_alt", "passphrase"] {
        if view.get(&[field]).is_some() {
            let words = "there is one certificate and one key";
            teller.note(object, &[field], Fate::Ignored, words).warning();
        }
    }
    for sni in world.owned(EntityKind::Sni, certificate) {
        let words = match sni.text("name") {
            Some("*") => "the certificate is the fallback",
            _ => "Envoy goes by the names in the certificate",
        };
        teller.note(&sni.object, &["name"], Fate::Approximated, words);
    }
    if is_whole {
        if let Some(tags) = world.tags_of(certificate) {
            fields.put("tags", tags);
        }
        unit.push("certificates", fields.node(object.node.span), object, []);
    }
    Unit { notes: teller.notes, added: teller.added, ..unit }
}

/// Returns the certificates that listeners show: the fallback first.
pub fn shown<'w>(world: &World<'w>) -> Vec<&'w Arc<Entity>> {
    let has_fallback = |certificate: &&Arc<Entity>| {
        world.owned(EntityKind::Sni, certificate).iter().any(|sni| sni.text("name") == Some("*"))
    };
    let is_usable = |certificate: &&Arc<Entity>| {
        ["cert", "key"]
            .into_iter()
            .all(|field| certificate.text(field).is_some_and(|text| world.vaults.resolve(text).is_ok()))
    };
    let mut all: Vec<_> =
        world.all(EntityKind::Certificate).iter().copied().filter(|it| is_usable(it)).collect();
    all.sort_by_key(|certificate| !has_fallback(certificate));
    all
}

/// Returns the listeners that a Kong has by default.
pub fn listeners(world: &World<'_>) -> Unit {
    let (mut unit, mut teller) = (Unit::default(), Teller::default());
    let Some(head) = world.documents.iter().find_map(|document| document.head.as_ref()) else { return unit };
    let mut http = Fields::default();
    http.put_text("name", HTTP_NAME).put_text("address", HTTP);
    unit.push("listeners", http.node(None), head, []);
    teller.add(
        format!("listeners.{HTTP_NAME}"),
        HTTP,
        "no native file declares a listener: this is Kong's",
        head,
    );
    let certificates = shown(world);
    if !certificates.is_empty() {
        let mut https = Fields::default();
        https.put_text("name", HTTPS_NAME).put_text("address", HTTPS).put_text("protocol", "https");
        let names =
            certificates.into_iter().map(|it| build::text(world.certificate_name(it), None)).collect();
        https.put("certificates", build::list(names, None));
        unit.push("listeners", https.node(None), head, []);
        teller.add(
            format!("listeners.{HTTPS_NAME}"),
            HTTPS,
            "no native file declares a listener: this is Kong's",
            head,
        );
    }
    Unit { notes: teller.notes, added: teller.added, ..unit }
}
