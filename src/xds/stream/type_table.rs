//! Table by resource type, and the rules that differ between types.

use crate::envoy::ResourceType;
use crate::xds::stream::protocol::ProtocolError;

/// State for each type that a client has asked for. Boxed and created on demand: most clients ask for a few
/// types, and there are thousands of clients.
#[derive(Debug, Default)]
pub(super) struct TypeTable<T>([Option<Box<T>>; ResourceType::ALL.len()]);

impl<T: Default> TypeTable<T> {
    /// Returns the state of a type; none if the client has not asked for it.
    pub(super) fn get(&self, resource_type: ResourceType) -> Option<&T> {
        self.0[resource_type as usize].as_deref()
    }

    /// Returns the state of a type for modification; creates it if it is missing.
    pub(super) fn get_mut(&mut self, resource_type: ResourceType) -> &mut T {
        self.0[resource_type as usize].get_or_insert_default()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().filter_map(Option::as_deref)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (ResourceType, &mut T)> {
        let types = ResourceType::ALL.into_iter().zip(&mut self.0);
        types.filter_map(|(resource_type, it)| Some((resource_type, it.as_deref_mut()?)))
    }
}

/// Returns the type that a request is about; none if the type is not served here: the client may be newer
/// than this server, and the stream goes on.
pub(super) fn requested_type(type_url: &str) -> Result<Option<ResourceType>, ProtocolError> {
    if type_url.is_empty() {
        return Err(ProtocolError::NoType);
    }
    Ok(ResourceType::from_type_url(type_url))
}

/// True for clusters and listeners: a SotW response carries all of them, and Envoy deletes the ones that it
/// leaves out (xDS protocol, "Grouping Resources into Responses"). In SotW only these types have the legacy
/// wildcard. True for scoped routes too: that text does not mention them, but Envoy asks for all of them
/// without a name and drops the ones that a response leaves out.
pub(super) fn is_sent_whole(resource_type: ResourceType) -> bool {
    matches!(resource_type, ResourceType::Cluster | ResourceType::Listener | ResourceType::ScopedRoute)
}

/// True for the types whose legacy wildcard is an empty first request: the types that are sent whole, and
/// virtual hosts, which Envoy asks for by name only when a request needs one that it does not have (VHDS,
/// "Subscribing to Resources").
pub(super) fn has_legacy_wildcard(resource_type: ResourceType) -> bool {
    is_sent_whole(resource_type) || resource_type == ResourceType::VirtualHost
}
