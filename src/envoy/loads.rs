//! Reader of load reports from Envoys (LRS). Skips all unused fields.
//!
//! Hundreds of Envoys report thousands of clusters per second, and each report repeats the node and its build
//! information. So a report is read in one pass that keeps only the loads by cluster and address: two lists
//! and one text per report, whatever its size.

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3 as core;
use prost::Message as _;

use crate::envoy::fields::{ReadError, WireField, each_field, socket_of, text};
use crate::envoy::load_totals::LoadTotals;
use crate::envoy::node::Node;

/// Contents of a `LoadStatsRequest`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LoadReport {
    /// Sums over all clusters.
    pub totals: LoadTotals,
    /// Concatenated names of all clusters.
    names: String,
    clusters: Vec<ClusterSpan>,
    loads: Vec<EndpointLoad>,
    left_out: usize,
}

/// End of a cluster's name and loads. They begin at the end of the previous cluster.
#[derive(Debug, Clone, Copy, PartialEq)]
struct ClusterSpan {
    name: usize,
    loads: usize,
    seconds: f32,
    in_progress: u64,
}

/// Load of a cluster since the last report.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ClusterLoad<'r> {
    /// Name of the cluster.
    pub name: &'r str,
    /// Length of the interval in seconds; 1 if the Envoy does not report it.
    pub seconds: f32,
    /// Number of requests in progress at the time of the report.
    pub in_progress: u64,
    /// Loads by endpoint.
    pub loads: &'r [EndpointLoad],
}

/// Requests to one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndpointLoad {
    /// Address of the endpoint.
    pub socket: SocketAddr,
    /// Value of `total_successful_requests`.
    pub success: u64,
    /// Value of `total_error_requests`.
    pub errors: u64,
}

impl LoadReport {
    /// Reads an encoded `LoadStatsRequest`, without the clusters for whose name `counts` is false.
    ///
    /// # Errors
    ///
    /// Returns an error if the bytes are not such a message.
    pub fn read(encoded: &[u8], counts: impl Fn(&str) -> bool) -> Result<Self, ReadError> {
        let mut report = Self::default();
        each_field(encoded, |field| match field {
            WireField::Bytes(2, cluster) => report.read_cluster(cluster, &counts),
            _ => Ok(()),
        })?;
        Ok(report)
    }

    /// Reads the node in an encoded `LoadStatsRequest`. Envoy repeats it in every report.
    ///
    /// # Errors
    ///
    /// Returns an error if the bytes are not such a message.
    pub fn read_node(encoded: &[u8]) -> Result<Node, ReadError> {
        let mut node = core::Node::default();
        each_field(encoded, |field| match field {
            WireField::Bytes(1, encoded) => Ok(node.merge(encoded)?),
            _ => Ok(()),
        })?;
        Ok(node.into())
    }

    /// Iterates over the clusters, in the order of the report.
    pub fn clusters(&self) -> impl Iterator<Item = ClusterLoad<'_>> {
        let starts = std::iter::once((0, 0)).chain(self.clusters.iter().map(|span| (span.name, span.loads)));
        starts.zip(&self.clusters).map(|((name, loads), span)| ClusterLoad {
            name: &self.names[name..span.name],
            seconds: span.seconds,
            in_progress: span.in_progress,
            loads: &self.loads[loads..span.loads],
        })
    }

    /// Returns the number of clusters.
    pub fn len(&self) -> usize {
        self.clusters.len()
    }

    /// Returns the number of clusters that were left out.
    pub fn left_out(&self) -> usize {
        self.left_out
    }

    /// True if there are no clusters.
    pub fn is_empty(&self) -> bool {
        self.clusters.is_empty()
    }

    /// Appends a `ClusterStats` if it counts.
    fn read_cluster(&mut self, encoded: &[u8], counts: &impl Fn(&str) -> bool) -> Result<(), ReadError> {
        let (begin, loads, totals) = (self.names.len(), self.loads.len(), self.totals);
        let (mut seconds, mut in_progress) = (1.0, 0);
        each_field(encoded, |field| match field {
            WireField::Bytes(1, name) => {
                self.names.push_str(text(name)?);
                Ok(())
            }
            WireField::Bytes(2, locality) => self.read_locality(locality, &mut in_progress),
            WireField::Bytes(4, interval) => {
                seconds = seconds_of(interval)?;
                Ok(())
            }
            _ => Ok(()),
        })?;
        if !counts(&self.names[begin..]) {
            self.names.truncate(begin);
            self.loads.truncate(loads);
            self.totals = totals;
            self.left_out += 1;
            return Ok(());
        }
        self.totals = self.totals.plus(LoadTotals::of_report(0, 0, in_progress, seconds));
        let span = ClusterSpan { name: self.names.len(), loads: self.loads.len(), seconds, in_progress };
        self.clusters.push(span);
        Ok(())
    }

    /// Appends an `UpstreamLocalityStats`.
    fn read_locality(&mut self, encoded: &[u8], in_progress: &mut u64) -> Result<(), ReadError> {
        each_field(encoded, |field| {
            match field {
                WireField::Number(2, success) => self.count(success, 0),
                WireField::Number(3, requests) => *in_progress = in_progress.saturating_add(requests),
                WireField::Number(4, errors) => self.count(errors, errors),
                WireField::Bytes(7, endpoint) => self.loads.extend(load(endpoint)?),
                _ => {}
            }
            Ok(())
        })
    }

    fn count(&mut self, requests: u64, errors: u64) {
        self.totals = self.totals.plus(LoadTotals { requests, errors, ..LoadTotals::default() });
    }
}

/// Reads an `UpstreamEndpointStats`; `None` if no request ended, or if its address is not an IP address.
fn load(encoded: &[u8]) -> Result<Option<EndpointLoad>, ReadError> {
    let (mut socket, mut success, mut errors) = (None, 0, 0);
    each_field(encoded, |field| {
        match field {
            WireField::Bytes(1, address) => socket = socket_of(address)?,
            WireField::Number(2, count) => success = count,
            WireField::Number(4, count) => errors = count,
            _ => {}
        }
        Ok(())
    })?;
    Ok(socket.filter(|_| success > 0 || errors > 0).map(|socket| EndpointLoad { socket, success, errors }))
}

/// Reads a `Duration` in seconds. The result is at least a millisecond, so that rates stay finite.
fn seconds_of(encoded: &[u8]) -> Result<f32, ReadError> {
    let (mut seconds, mut nanos) = (0, 0);
    each_field(encoded, |field| {
        match field {
            WireField::Number(1, value) => seconds = value,
            WireField::Number(2, value) => nanos = value,
            _ => {}
        }
        Ok(())
    })?;
    // Negative numbers are read as large ones.
    let seconds = if seconds > u64::from(u32::MAX) { 0 } else { seconds };
    let nanos = if nanos > 999_999_999 { 0 } else { nanos };
    Ok((seconds as f32 + nanos as f32 / 1e9).max(0.001))
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
    use envoy_types::pb::envoy::config::core::v3::{Address, Locality, Node, SocketAddress, address};
    use envoy_types::pb::envoy::config::endpoint::v3::{
        ClusterStats, UpstreamEndpointStats, UpstreamLocalityStats,
    };
    use envoy_types::pb::envoy::service::load_stats::v3::LoadStatsRequest;
    use envoy_types::pb::google::protobuf;
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    fn endpoint(address: &str, success: u64, errors: u64) -> UpstreamEndpointStats {
        let socket = SocketAddress {
            address: address.to_owned(),
            port_specifier: Some(PortSpecifier::PortValue(80)),
            ..Default::default()
        };
        UpstreamEndpointStats {
            address: Some(Address { address: Some(address::Address::SocketAddress(socket)) }),
            total_successful_requests: success,
            total_error_requests: errors,
            total_issued_requests: success + errors,
            ..Default::default()
        }
    }

    fn cluster(name: &str, endpoints: Vec<UpstreamEndpointStats>) -> ClusterStats {
        let locality = UpstreamLocalityStats {
            total_successful_requests: endpoints.iter().map(|own| own.total_successful_requests).sum(),
            total_error_requests: endpoints.iter().map(|own| own.total_error_requests).sum(),
            total_requests_in_progress: 4,
            priority: 1,
            upstream_endpoint_stats: endpoints,
            ..Default::default()
        };
        ClusterStats {
            cluster_name: name.to_owned(),
            upstream_locality_stats: vec![locality],
            load_report_interval: Some(protobuf::Duration { seconds: 2, nanos: 500_000_000 }),
            ..Default::default()
        }
    }

    fn words(report: &LoadReport) -> Vec<String> {
        let load = |load: &EndpointLoad| format!("{} {}+{}", load.socket, load.success, load.errors);
        let one = |cluster: ClusterLoad<'_>| {
            let loads: Vec<String> = cluster.loads.iter().map(load).collect();
            let ClusterLoad { name, seconds, in_progress, .. } = cluster;
            format!("{name} {seconds} s, {in_progress} under way: {}", loads.join(", "))
        };
        report.clusters().map(one).collect()
    }

    fn read(request: &LoadStatsRequest) -> LoadReport {
        LoadReport::read(&request.encode_to_vec(), |_| true).expect("it is one")
    }

    #[test]
    fn of_each_cluster_is_kept_what_it_sent_where() {
        let request = LoadStatsRequest {
            node: Some(Node {
                id: "edge-1".into(),
                cluster: "edge".into(),
                locality: Some(Locality { region: "eu".into(), zone: "a".into(), sub_zone: "".into() }),
                ..Default::default()
            }),
            cluster_stats: vec![
                cluster("shop", vec![endpoint("10.0.0.1", 7, 1), endpoint("::1", 0, 2)]),
                cluster("idle", vec![endpoint("10.0.0.2", 0, 0)]),
                cluster("pipe", vec![UpstreamEndpointStats::default(), endpoint("no address", 3, 0)]),
            ],
        };
        let report = read(&request);
        let node = LoadReport::read_node(&request.encode_to_vec()).expect("it has one");
        assert_eq!((node.id.as_str(), node.cluster.as_str()), ("edge-1", "edge"));
        assert_eq!((node.locality.region.as_str(), node.locality.zone.as_str()), ("eu", "a"));
        assert_eq!((report.totals.requests, report.totals.errors, report.len()), (13, 3, 3));
        assert_eq!(
            words(&report),
            [
                "shop 2.5 s, 4 under way: 10.0.0.1:80 7+1, [::1]:80 0+2",
                "idle 2.5 s, 4 under way: ",
                "pipe 2.5 s, 4 under way: "
            ]
        );
    }

    #[test]
    fn clusters_that_do_not_count_leave_nothing() {
        let stats = |name: &str, success| cluster(name, vec![endpoint("10.0.0.1", success, 1)]);
        let request = |names: &[(&str, u64)]| LoadStatsRequest {
            node: None,
            cluster_stats: names.iter().map(|(name, success)| stats(name, *success)).collect(),
        };
        let all = request(&[("alien", 5), ("shop", 7), ("stranger", 11)]).encode_to_vec();
        let report = LoadReport::read(&all, |name| name == "shop").expect("it is one");
        let alone = read(&request(&[("shop", 7)]));
        assert_eq!((words(&report), report.totals), (words(&alone), alone.totals));
        assert_eq!((report.len(), report.left_out()), (1, 2));
    }

    #[test]
    fn nothing_is_a_report_without_clusters() {
        assert_eq!(LoadReport::read(&[], |_| true).expect("it is one"), LoadReport::default());
        assert_eq!(LoadReport::read_node(&[]).expect("it is one").id, "");
    }

    #[test]
    fn an_interval_that_is_none_is_as_short_as_can_be() {
        for (seconds, nanos, expected) in [(0, 0, 0.001), (-1, 0, 0.001), (60, 0, 60.0), (1, -5, 1.0)] {
            let mut request = LoadStatsRequest { cluster_stats: vec![cluster("shop", vec![])], node: None };
            request.cluster_stats[0].load_report_interval = Some(protobuf::Duration { seconds, nanos });
            let report = read(&request);
            assert_eq!(report.clusters().map(|own| own.seconds).collect::<Vec<_>>(), [expected]);
        }
    }

    proptest! {
        #[test]
        fn damage_is_refused_or_read_but_never_more(
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let clusters = vec![cluster("shop", vec![endpoint("10.0.0.1", u64::MAX >> 1, 1)]); 3];
            let mut encoded = LoadStatsRequest { node: None, cluster_stats: clusters }.encode_to_vec();
            for (index, byte) in damage {
                let index = index.index(encoded.len());
                encoded[index] = byte;
            }
            encoded.truncate(cut.index(encoded.len() + 1));
            if let Ok(report) = LoadReport::read(&encoded, |_| true) {
                prop_assert_eq!(report.clusters().count(), report.len());
            }
        }
    }
}
