//! Rules about the identity of targets: whether another server can pass for one.

use crate::build::lint::explanation::Explanation;
use crate::build::lint::rule::{LintCheck, LintRule};
use crate::config::code;
use crate::model::tls::{Trust, Verify};

pub(super) const RULES: &[LintRule] = &[LintRule {
    explanation: Explanation {
        code: code::of("US063"),
        why: "With `verify_names: any` every certificate that the CA signed passes. The system's bundle signs those of the whole web, so that any server with a certificate of its own can pass for a target.",
        fix: "name the names, or the CA that signs for the targets alone",
        bad: "upstreams: [{ name: shop, tls: { verify_names: any }, targets: [{ target: 10.0.0.1:443 }] }]",
        good: "upstreams: [{ name: shop, tls: { verify_names: [shop.example.com] }, targets: [{ target: 10.0.0.1:443 }] }]",
    },
    check: LintCheck::Upstream(|subject, findings| {
        let tls = subject.upstream().tls.as_ref();
        if tls.is_some_and(|tls| tls.verify == Verify::Any && tls.trust == Trust::System) {
            let message = "any certificate of the system's authorities passes for a target".to_owned();
            findings.report(&subject.place().key("tls").key("verify_names"), message);
        }
    }),
}];
