//! Receivers of event notifications.

use std::fmt;

use http::Uri;

use crate::config::document::notify::NotifyEvent;
use crate::model::documents::Documents;
use crate::model::place::{Faults, Place};

/// Receiver of events, each sent by HTTP POST.
#[derive(Clone, PartialEq, Eq)]
pub struct Receiver {
    /// URL that is posted to; `http` or `https`.
    pub url: String,
    /// Events that it receives.
    pub events: Vec<NotifyEvent>,
    /// Secret that signs the body, if it is signed.
    pub secret: Option<String>,
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { url, events, secret } = self;
        let secret = secret.as_ref().map(|_| "…");
        f.debug_struct("Receiver").field("url", url).field("events", events).field("secret", &secret).finish()
    }
}

/// Resolves all receivers that the documents declare.
pub(crate) fn resolve(documents: &Documents, faults: &mut Faults) -> Vec<Receiver> {
    let mut receivers = Vec::new();
    for document in documents.of_files() {
        for declared in &document.notify {
            let place = Place::new(document, &declared.path);
            let Some(url) = &declared.entity.url else {
                faults.missing(&place.key("url"), "`url`", "say where, such as https://hooks.example.com/x");
                continue;
            };
            let is_fine = url
                .parse::<Uri>()
                .is_ok_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some());
            if !is_fine {
                let help = "begin with http:// or https:// and a host".to_owned();
                faults.wrong(&place.key("url"), format!("`{url}` is no address of a receiver"), help);
            }
            let events = declared.entity.events.clone().unwrap_or_else(|| NotifyEvent::ALL.to_vec());
            let secret = declared.entity.secret.clone();
            receivers.push(Receiver { url: url.clone(), events, secret });
        }
    }
    receivers
}
