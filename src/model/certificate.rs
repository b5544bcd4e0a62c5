//! Certificates of Envoys, and authorities that verify those of their peers.
//!
//! The control plane reads the files, so that a renewed certificate reaches every Envoy at once, and one that
//! does not match its key reaches none.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::parse_x509_certificate;

use crate::config::Step;
use crate::config::code;
use crate::config::document;
use crate::config::material::{Material, NamedBy, NamedFile, NamedFiles};
use crate::model::name::Name;
use crate::model::place::{FaultCollector, FaultPlace};

/// PEM text, hidden in debug output because it may be a key.
#[derive(Clone, PartialEq, Eq)]
pub struct Pem(Arc<str>);

impl Pem {
    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Pem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[pem]")
    }
}

/// Certificate with its matching key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate {
    /// Unique among certificates; also the name of its Envoy secret.
    pub name: Name,
    /// Certificate itself, followed by the intermediate ones.
    pub chain: Pem,
    /// Private key.
    pub key: Pem,
}

/// Certificate authority that verifies certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// Name of its Envoy secret: the place of its declaration, which contains `/` and so differs from every
    /// name of a certificate.
    pub secret: Arc<str>,
    /// One or more CA certificates.
    pub pem: Pem,
}

/// Certificates by name; `None` for one with a fault.
pub(crate) type Certificates = BTreeMap<Name, Option<Arc<Certificate>>>;

/// Input of the reading of certificates.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sources<'a> {
    pub(crate) files: &'a NamedFiles,
    /// Current time; without it, no certificate counts as expired.
    pub(crate) now: Option<Timestamp>,
}

/// Resolves a declared certificate whose name is already resolved.
pub(crate) fn resolve(
    name: Name,
    place: &FaultPlace<'_>,
    declared: &document::certificate::Certificate,
    sources: Sources<'_>,
    faults: &mut FaultCollector,
) -> Option<Certificate> {
    let chain = field(place, "certificate", declared.certificate.as_ref(), sources, faults);
    let key = field(place, "key", declared.key.as_ref(), sources, faults);
    let chain = chain.and_then(|(place, text)| certificates(&place, &text, sources, faults));
    let (key_place, key) = key?;
    let key = private_key(&key_place, &key, faults);
    let (chain, leaf) = chain?;
    let (key, public) = key?;
    let fits = parse_x509_certificate(&leaf).is_ok_and(|(_, leaf)| leaf.public_key().raw == public);
    if !fits {
        let message = "this key does not belong to the certificate".to_owned();
        let help = "name the key with which the certificate was requested".to_owned();
        let related = vec![place.key("certificate").related("the certificate")];
        faults.error_with(&key_place, code::WRONG_KEY, message, help, related);
        return None;
    }
    Some(Certificate { name, chain, key })
}

/// Resolves the certificates of an authority.
pub(crate) fn authority(
    secret: String,
    place: &FaultPlace<'_>,
    declared: &Material,
    sources: Sources<'_>,
    faults: &mut FaultCollector,
) -> Option<Authority> {
    let (place, text) = text(place, declared, sources, faults)?;
    let (pem, _) = certificates(&place, &text, sources, faults)?;
    Some(Authority { secret: secret.into(), pem })
}

fn field<'p>(
    place: &FaultPlace<'p>,
    key: &str,
    declared: Option<&Material>,
    sources: Sources<'_>,
    faults: &mut FaultCollector,
) -> Option<(FaultPlace<'p>, Arc<str>)> {
    let place = place.key(key);
    match declared {
        Some(declared) => text(&place, declared, sources, faults),
        None => {
            faults.missing(&place, &format!("`{key}`"), "say `{ file: … }` or `{ inline: … }`");
            None
        }
    }
}

/// Returns the text with the place where it was named.
fn text<'p>(
    place: &FaultPlace<'p>,
    declared: &Material,
    sources: Sources<'_>,
    faults: &mut FaultCollector,
) -> Option<(FaultPlace<'p>, Arc<str>)> {
    match (&declared.file, &declared.inline) {
        (Some(file), None) => {
            let place = place.key("file");
            let text = read(&place, file, sources, faults)?;
            Some((place, text))
        }
        (None, Some(inline)) => Some((place.key("inline"), inline.0.as_str().into())),
        (Some(_), Some(_)) => {
            let message = "this is either in a file or in line".to_owned();
            faults.error(place, code::CONFLICT, message, "leave out `file` or `inline`".to_owned());
            None
        }
        (None, None) => {
            faults.missing(place, "`file`", "say `{ file: … }` or `{ inline: … }`");
            None
        }
    }
}

fn read(
    place: &FaultPlace<'_>,
    file: &str,
    sources: Sources<'_>,
    faults: &mut FaultCollector,
) -> Option<Arc<str>> {
    let Some(named) = place.document.named_file(file) else {
        let help = "write an absolute path: what comes by REST stands beside no file".to_owned();
        faults.wrong(place, format!("the path `{file}` is relative"), help);
        return None;
    };
    let found = sources.files.get(&named);
    let NamedFile { path, by } = named;
    match found {
        Some(Ok(text)) => return Some(text.clone()),
        Some(Err(reason)) => {
            let help = match by {
                NamedBy::Config => "name a PEM file that this user may read; a path is relative to this file",
                NamedBy::Request => "name a PEM file below that directory, or write it `inline`",
            };
            faults.error(
                place,
                code::UNREADABLE_MATERIAL,
                format!("cannot read {path}: {reason}"),
                help.to_owned(),
            );
        }
        None => faults.error(place, code::UNREADABLE_MATERIAL, format!("{path} was not read"), None),
    }
    None
}

/// Parses the certificates of a text. Returns them as PEM, and the first one decoded.
fn certificates(
    place: &FaultPlace<'_>,
    text: &str,
    sources: Sources<'_>,
    faults: &mut FaultCollector,
) -> Option<(Pem, CertificateDer<'static>)> {
    let help = "expected PEM: `-----BEGIN CERTIFICATE-----`, base64, `-----END CERTIFICATE-----`";
    if text.contains("PRIVATE KEY-----") && place.path.0.last() == Some(&Step::Key("inline".to_owned())) {
        let message = "there is a private key among these certificates".to_owned();
        let help = "move it to `key`: certificates are shown, keys are not".to_owned();
        faults.error(place, code::NOT_PEM, message, help);
        return None;
    }
    let mut bad = |message: &str| {
        faults.error(place, code::NOT_PEM, message.to_owned(), help.to_owned());
        None
    };
    let found: Result<Vec<CertificateDer<'_>>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let Ok(found) = found else { return bad("this is damaged PEM") };
    let Some(first) = found.first().cloned() else { return bad("there is no certificate here") };
    let mut ends = Vec::new();
    for certificate in &found {
        match parse_x509_certificate(certificate) {
            Ok(([], certificate)) => ends.push((
                certificate.validity().not_before.timestamp(),
                certificate.validity().not_after.timestamp(),
            )),
            _ => return bad("one of the certificates here is damaged"),
        }
    }
    validity(place, &ends, sources, faults);
    Some((sections(text, |kind| kind == "CERTIFICATE"), first))
}

fn validity(place: &FaultPlace<'_>, all: &[(i64, i64)], sources: Sources<'_>, faults: &mut FaultCollector) {
    let Some(now) = sources.now.map(Timestamp::as_second) else { return };
    let day = |second: i64| {
        let time = Timestamp::from_second(second).map(|time| time.to_string());
        time.unwrap_or_else(|_| "a time that no clock shows".to_owned())
    };
    if let Some((_, end)) = all.iter().find(|(_, end)| *end < now) {
        let message = format!("this certificate expired at {}", day(*end));
        let help = "renew it: clients refuse it".to_owned();
        faults.warning(place, code::NOT_VALID_NOW, message, help);
    } else if let Some((start, _)) = all.iter().find(|(start, _)| *start > now) {
        let message = format!("this certificate is not valid before {}", day(*start));
        let help = "wait, or look at the clock: clients refuse it".to_owned();
        faults.warning(place, code::NOT_VALID_NOW, message, help);
    } else if let Some((_, end)) = all.iter().find(|validity| soon(**validity) <= now) {
        let message = format!("this certificate expires at {}", day(*end));
        let help = "renew it before that: clients will refuse it".to_owned();
        faults.warning(place, code::EXPIRES_SOON, message, help);
    }
    let borders = all.iter().flat_map(|(start, end)| [*start, soon((*start, *end)), end.saturating_add(1)]);
    let borders = borders.filter(|second| *second > now);
    faults.hold_until(borders.filter_map(|second| Timestamp::from_second(second).ok()));
}

/// Returns the second from which expiry is reported: two weeks before the end, or a third of the lifetime if
/// that is shorter.
fn soon((start, end): (i64, i64)) -> i64 {
    const TWO_WEEKS: i64 = 14 * 24 * 60 * 60;
    end.saturating_sub((end.saturating_sub(start) / 3).min(TWO_WEEKS))
}

/// Parses the first private key of a text. Returns it with its public key.
fn private_key(place: &FaultPlace<'_>, text: &str, faults: &mut FaultCollector) -> Option<(Pem, Vec<u8>)> {
    let mut bad = |message: &str, help: &str| {
        faults.error(place, code::NOT_PEM, message.to_owned(), help.to_owned());
        None
    };
    if text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") || text.contains("Proc-Type: 4,ENCRYPTED") {
        return bad("this key is encrypted", "decrypt it: `openssl pkey -in shop.key`");
    }
    let Ok(key) = PrivateKeyDer::from_pem_slice(text.as_bytes()) else {
        let help = "expected PEM: `-----BEGIN PRIVATE KEY-----`, base64, `-----END PRIVATE KEY-----`";
        return bad("there is no private key here", help);
    };
    let public = any_supported_type(&key).ok().and_then(|key| Some(key.public_key()?.as_ref().to_vec()));
    let Some(public) = public else {
        return bad("this key cannot be used", "RSA of 2048 bits or more, or ECDSA on P-256 or P-384");
    };
    let mut first = true;
    let kept = sections(text, |kind| kind.ends_with("PRIVATE KEY") && std::mem::take(&mut first));
    Some((kept, public))
}

/// Returns the sections of a PEM text whose kind is wanted, without the text between them.
fn sections(text: &str, mut wanted: impl FnMut(&str) -> bool) -> Pem {
    let mut kept = String::new();
    let mut keeping = false;
    for line in text.lines().map(str::trim) {
        if let Some(kind) = line.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----")) {
            keeping = wanted(kind);
        }
        if keeping {
            kept.push_str(line);
            kept.push('\n');
        }
        if line.starts_with("-----END ") {
            keeping = false;
        }
    }
    Pem(kept.into())
}
