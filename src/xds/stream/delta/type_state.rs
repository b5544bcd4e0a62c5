//! State of one type on a delta stream.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, LazyLock};

use crate::build::snapshot::resource::{Resource, Version};
use crate::build::snapshot::set::ResourceSet;
use crate::build::snapshot::stated::StatedVersion;
use crate::nodes::status::AckState;
use crate::xds::stream::delta::payload::{InFlight, ResourceDelta};
use crate::xds::stream::order;
use crate::xds::stream::quarantine::Quarantine;
use crate::xds::stream::subscription::TypeSubscription;
use crate::xds::wire::request::VersionList;

/// State of a name for which the client differs from the set that it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    Nothing,
    /// Content that is not known here: from another control plane, or after a refused response.
    Unknown,
    Version(Version),
}

/// State of one type.
#[derive(Debug, Default)]
pub(super) struct DeltaTypeState {
    /// Subscription; none until the client asks for the type.
    pub(super) subscription: Option<TypeSubscription>,
    /// Set that the client was sent last, as if it had accepted all of it. Only subscribed names count.
    pub(super) set: Arc<ResourceSet>,
    /// Names for which the client holds something else than `set` has.
    pub(super) exceptions: BTreeMap<Arc<str>, Held>,
    /// Names that must be sent although they did not change.
    pub(super) owed: BTreeSet<Arc<str>>,
    /// True if the owed names cannot wait until the earlier responses are answered.
    pub(super) urgent: bool,
    /// Responses that are not acknowledged or refused yet.
    pub(super) in_flight: Vec<InFlight>,
    pub(super) quarantine: Quarantine,
    /// True after the first response, even an empty one, or if the client resumed with versions of its own.
    pub(super) responded: bool,
    /// Version of the last acknowledged response.
    pub(super) acked: Option<Version>,
    /// Error text of the last NACK.
    pub(super) error: Option<String>,
}

/// State of a type that the client did not ask for.
pub(super) static BLANK: LazyLock<DeltaTypeState> = LazyLock::new(DeltaTypeState::default);

impl DeltaTypeState {
    pub(super) fn wants(&self, name: &str) -> bool {
        self.subscription.as_ref().is_some_and(|subscription| subscription.wants(name))
    }

    pub(super) fn covers(&self, set: &ResourceSet) -> bool {
        self.subscription.as_ref().is_some_and(|subscription| subscription.covers(set))
    }

    /// True when the client holds nothing and no name has a special state.
    pub(super) fn is_blank(&self) -> bool {
        let Self { set, exceptions, owed, quarantine, .. } = self;
        set.is_empty() && exceptions.is_empty() && owed.is_empty() && quarantine.is_empty()
    }

    pub(super) fn held(&self, name: &str) -> Held {
        match self.exceptions.get(name) {
            Some(held) => *held,
            None => self.set.get(name).map_or(Held::Nothing, |resource| Held::Version(resource.version)),
        }
    }

    /// Status of this type: NACK while a resource is held back, pending while a response is unanswered.
    pub(super) fn ack_state(&self) -> AckState {
        if !self.quarantine.is_empty() {
            AckState::Nacked
        } else if !self.in_flight.is_empty() || !self.responded {
            AckState::Pending
        } else {
            AckState::Acked
        }
    }

    /// Returns the set that the client was sent, once it acknowledged or proved some of it.
    pub(super) fn acknowledged_set(&self) -> Option<Arc<ResourceSet>> {
        let is_proved = self.responded && self.in_flight.is_empty();
        (self.acked.is_some() || is_proved).then(|| self.set.clone())
    }

    /// Resumes after a reconnection: resources that the client proves to hold are not sent again. `is_target`
    /// is true if the versions are those of the target.
    pub(super) fn resume(&mut self, target: &Arc<ResourceSet>, versions: &VersionList, is_target: bool) {
        self.set = target.clone();
        self.responded = true;
        let Some(subscription) = &self.subscription else { return };
        if is_target && subscription.covers(target) {
            return;
        }
        let mut is_held = vec![false; target.len()];
        for (name, version) in versions.iter() {
            let own = target.find(name);
            if let Some((at, _)) = own {
                is_held[at] = true;
            }
            let stated = StatedVersion::parse(version).map(|stated| stated.version);
            // Equal content is not sent again, whatever store it came from.
            if own.is_some_and(|(_, own)| stated == Some(own.version)) {
                self.exceptions.remove(name);
            } else if subscription.wants(name) {
                self.exceptions.insert(name.into(), stated.map_or(Held::Unknown, Held::Version));
            }
        }
        let missing =
            target.iter().zip(is_held).filter(|(own, is_held)| !is_held && subscription.wants(&own.name));
        self.exceptions.extend(missing.map(|(own, _)| (own.name.clone(), Held::Nothing)));
    }

    /// Marks the subscribed names that do not exist as owed: a new stream is state at once that they are
    /// absent. Names that the client still holds are removed later, when nothing refers to them.
    pub(super) fn owe_missing(&mut self, target: &ResourceSet) {
        let missing = self.subscription.as_ref().map(|subscription| subscription.missing(target));
        let missing = missing.iter().flat_map(|names| names.iter());
        self.owed.extend(missing.filter(|name| !self.exceptions.contains_key(*name)).cloned());
    }

    /// Takes out of a change of clusters the steps that would leave an aggregate cluster without members: an
    /// aggregate that replaces a cluster waits until the client has all members, and a cluster is removed
    /// only when no aggregate leads to it any more.
    pub(super) fn wait_for_members(&self, target: &Arc<ResourceSet>, changes: &mut ResourceDelta) {
        let has = |name: &str| self.held(name) != Held::Nothing;
        let offered = changes.resources.len();
        // A cluster that was refused may or may not be there.
        let has_for_sure = |name: &str| matches!(self.held(name), Held::Version(_));
        changes.resources.retain(|own| !has(&own.name) || !order::waits_for_members(own, has_for_sure));
        let changes_aggregates = changes.resources.len() < offered
            || changes.resources.iter().any(|own| !own.clusters.is_empty())
            || !self.quarantine.is_empty();
        let may_go = |gone: &Arc<str>| {
            self.owed.contains(gone) || !(changes_aggregates || order::is_member(&self.set, target, gone))
        };
        changes.removed.retain(may_go);
    }

    /// Records that the client was sent the target, except for the names that were left out: those keep their
    /// earlier state.
    pub(super) fn rebase(&mut self, target: &Arc<ResourceSet>, sent: &[Arc<Resource>], removed: &[Arc<str>]) {
        let mut exceptions = std::mem::take(&mut self.exceptions);
        for name in target.changed_since(&self.set).iter().filter(|name| self.wants(name)) {
            let held = self.set.get(name).map_or(Held::Nothing, |resource| Held::Version(resource.version));
            exceptions.entry(name.clone()).or_insert(held);
        }
        for name in sent.iter().map(|resource| &resource.name).chain(removed) {
            exceptions.remove(name);
            self.owed.remove(name);
        }
        let subscription = self.subscription.as_ref();
        exceptions.retain(|name, held| {
            let complete = match target.get(name) {
                Some(own) => *held == Held::Version(own.version),
                None => *held == Held::Nothing,
            };
            !complete && subscription.is_some_and(|it| it.wants(name))
        });
        self.exceptions = exceptions;
        self.set = target.clone();
    }
}
