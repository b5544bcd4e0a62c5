//! Settings of a target.

use serde_json::json;

use crate::build::Build;
use crate::config::document::{self, Declared, Kind};
use crate::inspect::settings::collector::{Declaration, SettingCollector, declaration};
use crate::inspect::settings::setting::{EffectiveSetting, SettingOrigin};
use crate::inspect::settings::tls;
use crate::model::health::TargetCheck;
use crate::model::name::Name;
use crate::model::target::{Address, Target};
use crate::model::tls::TargetTls;
use crate::model::upstream::Upstream;

/// Returns the settings of a target.
pub(super) fn of_target(target: &Target, upstream: &Upstream, build: &Build) -> Vec<EffectiveSetting> {
    let Target { address, weight, tier, locality, health_check, tls } = target;
    let source = target_source(address, &upstream.name, build);
    let declared = source.as_ref().map(|(document, path)| document.json(path)).unwrap_or_default();
    let priority = if declared["failover"] == json!(true) {
        json!(1)
    } else {
        declared.get("priority").cloned().unwrap_or(json!(0))
    };
    let mut settings = SettingCollector::new(format!("targets[{address}]."), source);
    settings.add("target", address.to_string());
    settings.add("weight", *weight);
    match tls {
        TargetTls::AsUpstream => {}
        TargetTls::Plain => settings.add("tls", "off"),
        TargetTls::Own(tls) => {
            tls::add_tls(tls, Some("by the upstream, and by the target's address"), &mut settings)
        }
    }
    match priority == json!(tier) {
        true if declared.get("failover").is_some() => settings.add("failover", *tier == 1),
        true => settings.add("priority", *tier),
        false => {
            let because = format!("{priority} was said, and there is no gap between priorities");
            let path = format!("{}priority", settings.prefix);
            settings.found.push(EffectiveSetting {
                path,
                value: json!(tier),
                origin: SettingOrigin::Derived { because },
            });
        }
    }
    for (key, value) in
        [("region", &locality.region), ("zone", &locality.zone), ("sub_zone", &locality.sub_zone)]
    {
        if !value.is_empty() {
            settings.add(key, value.as_str());
        }
    }
    match health_check {
        TargetCheck::Off => settings.add("health_check", "off"),
        TargetCheck::On { port: None, host: None } => {}
        TargetCheck::On { port, host } => {
            settings.add("health_check", json!({ "port": port, "host": host }));
        }
    }
    settings.found
}

/// Returns the first declaration of a target: in its upstream, or added over REST.
fn target_source<'a>(address: &Address, upstream: &Name, build: &'a Build) -> Declaration<'a> {
    let is_it = |target: &document::target::Target| {
        target.target.as_deref().and_then(|text| Address::parse(text).ok()).as_ref() == Some(address)
    };
    let (document, path) = declaration(build, Kind::Upstream, upstream)?;
    let entity = document.upstreams.iter().find(|declared| declared.path == path)?;
    let listed = entity.entity.targets.iter().flatten().position(&is_it);
    if let Some(index) = listed {
        return Some((document, path.key("targets").index(index)));
    }
    build.documents.added(upstream.as_str()).iter().find_map(|document| {
        let (_, Declared { path, entity }) = document.target.as_ref()?;
        is_it(entity).then(|| (&**document, path.clone()))
    })
}
