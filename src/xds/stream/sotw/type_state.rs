//! State of one type on a SotW stream.

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use crate::build::snapshot::past::SentSets;
use crate::build::snapshot::resource::{Resource, Version};
use crate::build::snapshot::set::ResourceSet;
use crate::build::snapshot::stated::StatedVersion;
use crate::envoy::ResourceType;
use crate::nodes::status::AckState;
use crate::xds::stream::quarantine::Quarantine;
use crate::xds::stream::subscription::TypeSubscription;
use crate::xds::stream::type_table::is_sent_whole;

/// State of one type.
#[derive(Debug, Default)]
pub(super) struct SotwTypeState {
    /// Subscription; none until the client asks for the type.
    pub(super) subscription: Option<TypeSubscription>,
    /// Set that the client was sent last, as if it had accepted all of it. For types that are sent by name,
    /// only subscribed names count.
    pub(super) set: Arc<ResourceSet>,
    /// Set that the client accepted last, for types that are sent whole; none while it holds something that
    /// is not known here.
    pub(super) held: Option<Arc<ResourceSet>>,
    /// True if the last response was refused and it is unknown what the client holds: nothing is removed and
    /// aggregate clusters are not replaced.
    pub(super) keeps_all: bool,
    /// True if the client may have accepted a part of a refused response, so that the whole set is sent even
    /// if it equals `set`.
    pub(super) uncertain: bool,
    /// Names to send although `set` has them, as soon as they exist.
    pub(super) owed: BTreeSet<Arc<str>>,
    /// True if the owed names cannot wait until the last response is answered.
    pub(super) urgent: bool,
    /// Last response; none before the first.
    pub(super) sent: Option<SentResponse>,
    /// Version of the last acknowledged response.
    pub(super) acked: Option<Version>,
    /// Error text of the last NACK.
    pub(super) error: Option<String>,
    pub(super) quarantine: Quarantine,
}

/// State of a type that the client did not ask for.
pub(super) static BLANK: LazyLock<SotwTypeState> = LazyLock::new(SotwTypeState::default);

#[derive(Debug)]
pub(super) struct SentResponse {
    /// Nonce; zero if nothing was sent because the client proved that it holds the version.
    pub(super) nonce: u64,
    pub(super) version: Version,
    pub(super) state: AckState,
    /// Names in the response; none for all of the set.
    pub(super) names: Option<Box<[Arc<str>]>>,
}

/// Version in the first request of a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proof {
    /// None: the client holds nothing.
    Nothing,
    /// Version that an understudy wrote.
    Version(StatedVersion),
    /// Version of another control plane.
    Other,
}

impl Proof {
    pub(super) fn read(version_info: &str) -> Self {
        match version_info {
            "" => Self::Nothing,
            text => StatedVersion::parse(text).map_or(Self::Other, Self::Version),
        }
    }
}

impl SotwTypeState {
    pub(super) fn is_pending(&self) -> bool {
        self.sent.as_ref().is_some_and(|sent| sent.state == AckState::Pending)
    }

    pub(super) fn wants(&self, name: &str) -> bool {
        self.subscription.as_ref().is_some_and(|subscription| subscription.wants(name))
    }

    pub(super) fn is_wildcard(&self) -> bool {
        self.subscription.as_ref().is_some_and(TypeSubscription::is_wildcard)
    }

    /// True if the client holds nothing and wants all of `set`, as most do when they connect.
    pub(super) fn lacks_all_of(&self, set: &ResourceSet) -> bool {
        let covers = |subscription: &TypeSubscription| subscription.covers(set);
        let has_nothing = self.set.is_empty() && self.owed.is_empty() && self.quarantine.is_empty();
        has_nothing && !set.is_empty() && self.subscription.as_ref().is_some_and(covers)
    }

    /// Returns the resources of `target` that the client asked for; for a wildcard the set itself.
    pub(super) fn subscribed(&self, target: &Arc<ResourceSet>) -> Arc<ResourceSet> {
        match &self.subscription {
            Some(subscription) if subscription.is_wildcard() => target.clone(),
            _ => Arc::new(ResourceSet::new(target.iter().filter(|it| self.wants(&it.name)).cloned())),
        }
    }

    /// Replaces refused resources of `target`, and resources that lead to refused `clusters`, by the versions that
    /// the client holds.
    pub(super) fn without_refused(
        &self,
        clusters: &Quarantine,
        target: Arc<ResourceSet>,
    ) -> Arc<ResourceSet> {
        let Some(held) = &self.held else { return target };
        if self.quarantine.is_empty() && clusters.is_empty() {
            return target;
        }
        let suspects = self.quarantine.suspects();
        let is_held_back = |own: &&Arc<Resource>| {
            suspects.contains(&*own.name) || self.quarantine.holds(own) || clusters.holds_target_of(own)
        };
        let (mut kept, mut left_out) = (Vec::new(), BTreeSet::new());
        for own in target.iter().filter(is_held_back) {
            match held.get(&own.name) {
                Some(known) => kept.push(known.clone()),
                None => _ = left_out.insert(own.name.clone()),
            }
        }
        target.with(kept, &left_out)
    }

    /// Returns the status of this type: NACK while a resource is held back.
    pub(super) fn ack_state(&self) -> Option<AckState> {
        let sent = self.sent.as_ref()?;
        Some(match sent.state {
            _ if !self.quarantine.is_empty() => AckState::Nacked,
            AckState::Nacked if !self.keeps_all => AckState::Acked,
            state => state,
        })
    }

    /// Returns the set that the client acknowledged last; none before the first acknowledgement.
    pub(super) fn acknowledged_set(&self) -> Option<Arc<ResourceSet>> {
        self.acked?;
        Some(self.held.as_ref().unwrap_or(&self.set).clone())
    }

    /// Resumes a type that is sent whole from the version of the client: if the set of that version is known,
    /// only the changes since are sent. Returns true if it is.
    pub(super) fn resume(
        &mut self,
        resource_type: ResourceType,
        (target, past): (&Arc<ResourceSet>, &SentSets),
        proof: Proof,
    ) -> bool {
        let version = match proof {
            _ if !is_sent_whole(resource_type) => return false,
            Proof::Nothing => {
                self.held = Some(Arc::default());
                return false;
            }
            Proof::Version(StatedVersion { version, .. }) if self.is_wildcard() => version,
            _ => return false,
        };
        let current = || (target.version() == version).then(|| (target.clone(), false));
        let Some((set, uncertain)) = past.recall(version).or_else(current) else { return false };
        (self.set, self.held, self.uncertain) = (set.clone(), Some(set), uncertain);
        self.acked = Some(version);
        self.sent = Some(SentResponse { nonce: 0, version, state: AckState::Acked, names: None });
        true
    }

    pub(super) fn record_ack(&mut self) {
        let Some(sent) = &mut self.sent else { return };
        sent.state = AckState::Acked;
        sent.names = None;
        self.acked = Some(sent.version);
        self.held = Some(self.set.clone());
    }

    /// Records a NACK of the last response and returns the names that are held back from now on.
    pub(super) fn record_nack(&mut self, resource_type: ResourceType, error: &str) -> Vec<String> {
        let Some(sent) = &mut self.sent else { return Vec::new() };
        sent.state = AckState::Nacked;
        self.error = Some(error.to_owned());
        let names = sent.names.take();
        if !is_sent_whole(resource_type) {
            let sent = match names {
                Some(names) => self.versions(&names),
                None => self.versions(&self.set.iter().map(|own| own.name.clone()).collect::<Vec<_>>()),
            };
            return self.quarantine.record(&sent, error);
        }
        // A SotW response deletes the resources that it leaves out, so a single resource can be held back
        // only if it is known what the client holds.
        let held = self.held.clone();
        let changed = held.as_ref().map(|held| self.set.changed_since(held)).unwrap_or_default();
        let due = self.versions(&changed);
        self.keeps_all = due.is_empty();
        let Some(held) = held.filter(|_| !self.keeps_all) else { return Vec::new() };
        self.uncertain = changed.len() > 1;
        self.set = held;
        self.quarantine.record(&due, error)
    }

    /// Returns the names that are in `set` and subscribed to, with their versions.
    pub(super) fn versions(&self, names: &[Arc<str>]) -> Vec<(Arc<str>, Option<Version>)> {
        let state = names.iter().filter_map(|name| self.set.get(name)).filter(|own| self.wants(&own.name));
        state.map(|own| (own.name.clone(), Some(own.version))).collect()
    }
}
