//! Withholding: a client that proves to run a config which is not known here is not always answered.
//!
//! The proofs of a client are the versions in its first request of each type. What is known here, and what
//! this store sent, is answered. For anything else the [`Standing`] decides: an empty or exchanged data
//! directory must not take away what the client serves. The stream of a client that is not answered stays
//! open and records its subscriptions, and goes on once the standing or the config changed.

use crate::build::snapshot::stated::StatedVersion;
use crate::build::snapshot::store_id::StoreId;
use crate::cache::standing::{ConfigTrust, Standing};
use crate::envoy::ResourceType;
use crate::nodes::status::{Provenance, WithholdReason};

/// Judgement on one version that a client states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The client is answered.
    Answer,
    /// The client is answered, and so are others of its store from now on.
    Adopt,
    /// The client is not answered.
    Withhold(WithholdReason),
}

/// Judges a version that a client states; none if no understudy wrote it. `is_known` tells if it is the
/// current one or was sent earlier.
pub(super) fn judge(
    standing: &Standing,
    stated: Option<StatedVersion>,
    is_known: impl Fn(StatedVersion) -> bool,
) -> Verdict {
    let is_own = stated.is_some_and(|stated| stated.store.is_some() && stated.store == standing.store);
    let foreign = foreign_store(standing, stated);
    let is_adopted = foreign.is_some_and(|store| standing.adopted.contains(&store));
    if is_own || is_adopted {
        return Verdict::Answer;
    }
    // Nothing can be taken from a client that holds nothing.
    let is_harmless = || stated.is_some_and(|stated| stated.version.is_of_nothing() || is_known(stated));
    match (standing.trust, foreign) {
        (ConfigTrust::Full, Some(_)) => Verdict::Adopt,
        (ConfigTrust::Full, None) | (ConfigTrust::Inherited, None) => Verdict::Answer,
        (ConfigTrust::Inherited | ConfigTrust::Blank, _) if is_harmless() => Verdict::Answer,
        (ConfigTrust::Inherited, Some(_)) => Verdict::Withhold(WithholdReason::ForeignStore),
        (ConfigTrust::Blank, _) => Verdict::Withhold(WithholdReason::NothingAccepted),
    }
}

/// Returns the store that a client states, if it is another than the own one.
fn foreign_store(standing: &Standing, stated: Option<StatedVersion>) -> Option<StoreId> {
    let own = standing.store?;
    stated?.store.filter(|store| *store != own)
}

/// State of the withholding from one client. `P` are its proofs of one type.
#[derive(Debug)]
pub(super) struct Withholding<P> {
    standing: Standing,
    provenance: Provenance,
    /// Proofs since the client is not answered, by type.
    proofs: Vec<(ResourceType, P)>,
}

impl<P> Default for Withholding<P> {
    fn default() -> Self {
        let (standing, provenance) = (Standing::default(), Provenance::default());
        Self { standing, provenance, proofs: Vec::new() }
    }
}

impl<P> Withholding<P> {
    /// Sets the standing for proofs from now on, and for the next review of earlier ones.
    pub(super) fn set_standing(&mut self, standing: &Standing) {
        if self.standing != *standing {
            self.standing = standing.clone();
        }
    }

    pub(super) fn provenance(&self) -> Provenance {
        self.provenance
    }

    /// True if the client is not answered.
    pub(super) fn is_active(&self) -> bool {
        self.provenance.withheld.is_some()
    }

    /// Judges a version that a client states with its first request of a type. A client that is not answered
    /// is answered for no type from then on.
    pub(super) fn judge(&mut self, stated: Option<StatedVersion>, is_known: impl Fn(StatedVersion) -> bool) {
        let foreign = foreign_store(&self.standing, stated);
        self.provenance.foreign_store = self.provenance.foreign_store.or(foreign);
        match judge(&self.standing, stated, is_known) {
            Verdict::Answer => {}
            Verdict::Adopt => self.provenance.is_adopted = true,
            Verdict::Withhold(reason) => {
                // The store because of which it is not answered is the one to be told.
                self.provenance.foreign_store = foreign.or(self.provenance.foreign_store);
                self.provenance.withheld.get_or_insert(reason);
            }
        }
    }

    /// Keeps the proofs of a type for the time when the client is answered.
    pub(super) fn keep(&mut self, resource_type: ResourceType, proofs: P) {
        self.proofs.push((resource_type, proofs));
    }

    /// Judges the proofs of a client that is not answered again. `judge` does so for those of one type.
    /// Returns them if the client is answered from now on.
    pub(super) fn review(&mut self, judge: impl Fn(&mut Self, ResourceType, &P)) -> Vec<(ResourceType, P)> {
        if !self.is_active() {
            return Vec::new();
        }
        let proofs = std::mem::take(&mut self.proofs);
        self.provenance.withheld = None;
        for (resource_type, proof) in &proofs {
            judge(self, *resource_type, proof);
            if self.is_active() {
                self.proofs = proofs;
                return Vec::new();
            }
        }
        proofs
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::build::snapshot::resource::Version;

    fn store(id: &str) -> Option<StoreId> {
        StoreId::parse(&format!("{id:0>16}"))
    }

    /// Returns the verdicts on each version, of a store whose id is 1 and that has adopted 3: each version is
    /// known or unknown, and each is stated by the store 1, 2 or 3, without a store or by another program.
    fn verdicts(trust: ConfigTrust) -> String {
        let adopted = Arc::new(store("3").into_iter().collect());
        let standing = Standing { store: store("1"), trust, adopted };
        let version: Version = "0".repeat(31).replacen('0', "10", 1).parse().expect("a version");
        let mut lines = Vec::new();
        for (word, stated) in [
            ("own", Some(StatedVersion { version, store: store("1") })),
            ("foreign", Some(StatedVersion { version, store: store("2") })),
            ("adopted", Some(StatedVersion { version, store: store("3") })),
            ("without a store", Some(StatedVersion { version, store: None })),
            ("foreign and empty", Some(StatedVersion { version: Version::default(), store: store("2") })),
            ("of another program", None),
        ] {
            let verdict = |is_known| match judge(&standing, stated, |_| is_known) {
                Verdict::Answer => "answer",
                Verdict::Adopt => "adopt",
                Verdict::Withhold(WithholdReason::NothingAccepted) => "nothing accepted",
                Verdict::Withhold(WithholdReason::ForeignStore) => "foreign store",
            };
            lines.push(format!("{word}: known {}, unknown {}", verdict(true), verdict(false)));
        }
        lines.join("\n")
    }

    #[test]
    fn a_config_that_is_meant_for_all_is_served_to_all() {
        expect_test::expect![[r#"
            own: known answer, unknown answer
            foreign: known adopt, unknown adopt
            adopted: known answer, unknown answer
            without a store: known answer, unknown answer
            foreign and empty: known adopt, unknown adopt
            of another program: known answer, unknown answer"#]]
        .assert_eq(&verdicts(ConfigTrust::Full));
    }

    #[test]
    fn an_inherited_config_is_not_served_to_clients_of_another_store() {
        expect_test::expect![[r#"
            own: known answer, unknown answer
            foreign: known answer, unknown foreign store
            adopted: known answer, unknown answer
            without a store: known answer, unknown answer
            foreign and empty: known answer, unknown answer
            of another program: known answer, unknown answer"#]]
        .assert_eq(&verdicts(ConfigTrust::Inherited));
    }

    #[test]
    fn a_blank_config_is_served_to_clients_that_lose_nothing_by_it() {
        expect_test::expect![[r#"
            own: known answer, unknown answer
            foreign: known answer, unknown nothing accepted
            adopted: known answer, unknown answer
            without a store: known answer, unknown nothing accepted
            foreign and empty: known answer, unknown answer
            of another program: known nothing accepted, unknown nothing accepted"#]]
        .assert_eq(&verdicts(ConfigTrust::Blank));
    }

    #[test]
    fn without_a_store_of_its_own_nothing_is_foreign() {
        let stated = Some(StatedVersion { version: Version::default(), store: store("2") });
        assert_eq!(judge(&Standing::default(), stated, |_| false), Verdict::Answer);
    }
}
