//! TLS settings of an upstream or a target.

use serde_json::{Value, json};

use crate::inspect::settings::collector::SettingCollector;
use crate::model::tls::{Sni, Trust, UpstreamTls, Verify};

/// Adds the TLS settings. `otherwise` is the reason of values that are not declared; none if they are
/// defaults.
pub(super) fn add_tls(tls: &UpstreamTls, otherwise: Option<&str>, settings: &mut SettingCollector<'_>) {
    let UpstreamTls { sni, trust, verify, client_certificate } = tls;
    let mut add = |key: &str, value: Value| match otherwise {
        Some(because) => settings.derived(&format!("tls.{key}"), value, because),
        None => settings.add(&format!("tls.{key}"), value),
    };
    add("client_certificate", json!(client_certificate.as_ref().map(|it| it.name.as_str())));
    add("insecure", json!(*trust == Trust::Anything));
    match trust {
        Trust::System => add("ca", json!("system")),
        // Name of the secret that has the certificates of the authority.
        Trust::Authority(authority) => add("ca", json!(&*authority.secret)),
        Trust::Anything => {}
    }
    match sni {
        Sni::Name(name) => add("sni", json!(name)),
        Sni::Host => settings.derived("tls.sni", Value::Null, "the target's host name"),
        Sni::None => settings.derived("tls.sni", Value::Null, "an address is not asked for by name"),
    }
    match verify {
        Verify::Names(names) => {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            settings.derived("tls.verify_names", names, otherwise.unwrap_or("the target's address"));
        }
        Verify::Any => {
            settings.derived("tls.verify_names", "any", otherwise.unwrap_or("any name that the CA signed"));
        }
        Verify::Sni if *trust == Trust::Anything => {}
        Verify::Sni => settings.derived("tls.verify_names", json!([]), "the name that is asked for"),
    }
}
