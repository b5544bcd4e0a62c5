//! Reader of the results of health checks that Envoys run for the control plane (HDS). Skips all unused
//! fields.

use std::net::SocketAddr;

use crate::envoy::fields::{ReadError, WireField, each_field, socket_of, text};

/// Value of `HealthStatus.HEALTHY`; all other statuses count as unhealthy.
const HEALTHY: u64 = 1;

/// Contents of an `EndpointHealthResponse`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckResults {
    /// Results by cluster, in the order of the message.
    pub clusters: Vec<ClusterHealth>,
}

/// Results of one cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterHealth {
    /// Name under which its check was requested.
    pub name: String,
    /// Endpoints; true for a healthy one.
    pub endpoints: Vec<(SocketAddr, bool)>,
}

impl CheckResults {
    /// Reads a `HealthCheckRequestOrEndpointHealthResponse`. A request yields no clusters.
    ///
    /// # Errors
    ///
    /// Returns an error if the bytes are not such a message.
    pub fn read(encoded: &[u8]) -> Result<Self, ReadError> {
        let mut findings = Self::default();
        each_field(encoded, |field| match field {
            // The flat list in field 1 repeats the endpoints without their clusters.
            WireField::Bytes(2, response) => each_field(response, |field| match field {
                WireField::Bytes(2, cluster) => {
                    findings.clusters.push(ClusterHealth::read(cluster)?);
                    Ok(())
                }
                _ => Ok(()),
            }),
            _ => Ok(()),
        })?;
        Ok(findings)
    }
}

impl ClusterHealth {
    /// Reads a `ClusterEndpointsHealth`.
    fn read(encoded: &[u8]) -> Result<Self, ReadError> {
        let mut cluster = Self::default();
        each_field(encoded, |field| match field {
            WireField::Bytes(1, name) => {
                text(name)?.clone_into(&mut cluster.name);
                Ok(())
            }
            WireField::Bytes(2, locality) => each_field(locality, |field| {
                if let WireField::Bytes(2, endpoint) = field {
                    cluster.endpoints.extend(found(endpoint)?);
                }
                Ok(())
            }),
            _ => Ok(()),
        })?;
        Ok(cluster)
    }
}

/// Reads an `EndpointHealth`; `None` if its address is not an IP address.
fn found(encoded: &[u8]) -> Result<Option<(SocketAddr, bool)>, ReadError> {
    let (mut socket, mut status) = (None, 0);
    each_field(encoded, |field| match field {
        WireField::Bytes(1, endpoint) => each_field(endpoint, |field| {
            if let WireField::Bytes(1, address) = field {
                socket = socket_of(address)?;
            }
            Ok(())
        }),
        WireField::Number(2, value) => {
            status = value;
            Ok(())
        }
        _ => Ok(()),
    })?;
    Ok(socket.map(|socket| (socket, status == HEALTHY)))
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
    use envoy_types::pb::envoy::config::core::v3::{Address, HealthStatus, SocketAddress, address};
    use envoy_types::pb::envoy::config::endpoint::v3::Endpoint;
    use envoy_types::pb::envoy::service::health::v3 as hds;
    use envoy_types::pb::envoy::service::health::v3::health_check_request_or_endpoint_health_response::RequestType;
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    fn health(ip: &str, status: HealthStatus) -> hds::EndpointHealth {
        let socket = SocketAddress {
            address: ip.to_owned(),
            port_specifier: Some(PortSpecifier::PortValue(80)),
            ..Default::default()
        };
        let address = Some(Address { address: Some(address::Address::SocketAddress(socket)) });
        let endpoint = Some(Endpoint { address, ..Default::default() });
        hds::EndpointHealth { endpoint, health_status: status.into(), ..Default::default() }
    }

    fn response(clusters: &[(&str, &[(&str, HealthStatus)])]) -> Vec<u8> {
        let cluster = |(name, endpoints): &(&str, &[(&str, HealthStatus)])| {
            let endpoints_health = endpoints.iter().map(|(ip, status)| health(ip, *status)).collect();
            let locality = hds::LocalityEndpointsHealth { endpoints_health, ..Default::default() };
            hds::ClusterEndpointsHealth {
                cluster_name: (*name).to_owned(),
                locality_endpoints_health: vec![locality],
            }
        };
        let flat = health("10.9.9.9", HealthStatus::Healthy);
        #[expect(deprecated, reason = "Envoy sends it")]
        let response = hds::EndpointHealthResponse {
            endpoints_health: vec![flat],
            cluster_endpoints_health: clusters.iter().map(cluster).collect(),
        };
        let request_type = Some(RequestType::EndpointHealthResponse(response));
        hds::HealthCheckRequestOrEndpointHealthResponse { request_type }.encode_to_vec()
    }

    #[test]
    fn of_each_cluster_is_kept_which_endpoints_are_healthy() {
        use HealthStatus::{Draining, Healthy, Timeout, Unhealthy};
        let encoded = response(&[
            ("shop", &[("10.0.0.1", Healthy), ("::1", Unhealthy), ("a pipe", Healthy)]),
            ("none", &[]),
            ("slow", &[("10.0.0.2", Timeout), ("10.0.0.3", Draining)]),
        ]);
        let findings = CheckResults::read(&encoded).expect("it is one");
        let words = |cluster: &ClusterHealth| {
            let endpoints =
                cluster.endpoints.iter().map(|(socket, is_healthy)| format!(" {socket} {is_healthy}"));
            format!("{}:{}", cluster.name, endpoints.collect::<String>())
        };
        assert_eq!(
            findings.clusters.iter().map(words).collect::<Vec<_>>(),
            ["shop: 10.0.0.1:80 true [::1]:80 false", "none:", "slow: 10.0.0.2:80 false 10.0.0.3:80 false"]
        );
    }

    #[test]
    fn a_request_finds_nothing() {
        let request = RequestType::HealthCheckRequest(hds::HealthCheckRequest::default());
        let request = hds::HealthCheckRequestOrEndpointHealthResponse { request_type: Some(request) };
        assert_eq!(CheckResults::read(&request.encode_to_vec()).expect("it is one"), CheckResults::default());
    }

    proptest! {
        #[test]
        fn damage_is_refused_or_read_but_never_more(
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut encoded = response(&[("shop", &[("10.0.0.1", HealthStatus::Healthy)][..]); 3]);
            for (index, byte) in damage {
                let index = index.index(encoded.len());
                encoded[index] = byte;
            }
            encoded.truncate(cut.index(encoded.len() + 1));
            if let Ok(findings) = CheckResults::read(&encoded) {
                prop_assert!(findings.clusters.len() <= encoded.len());
            }
        }
    }
}
