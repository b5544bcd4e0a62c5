//! DNS server on loopback with configurable records.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use hickory_resolver::proto::op::{Message, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, SRV};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::net::UdpSocket;

/// Time to live of every answer, in seconds.
const TTL: u32 = 1;

/// Running DNS server. Dropping it ends it.
pub struct DnsServer {
    /// Address, as in `resolver.servers`.
    pub address: SocketAddr,
    zone: Arc<Mutex<DnsZone>>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Default)]
struct DnsZone {
    records: BTreeMap<String, Vec<RData>>,
    is_mute: bool,
    queries: u64,
}

impl DnsServer {
    pub async fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = socket.local_addr().expect("it is bound");
        let zone = Arc::new(Mutex::new(DnsZone::default()));
        let task = tokio::spawn(serve(socket, zone.clone()));
        Self { address, zone, task }
    }

    fn change(&self, change: impl FnOnce(&mut DnsZone)) {
        change(&mut self.zone.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Sets the addresses of a name; without any, the name does not exist.
    pub fn set_addresses(&self, name: &str, ips: &[IpAddr]) {
        let record = |ip: &IpAddr| match ip {
            IpAddr::V4(ip) => RData::A(A(*ip)),
            IpAddr::V6(ip) => RData::AAAA(AAAA(*ip)),
        };
        self.change(|zone| drop(zone.records.insert(name.to_owned(), ips.iter().map(record).collect())));
    }

    /// Sets the SRV records of a service: priority, weight, port, host.
    pub fn set_services(&self, name: &str, records: &[(u16, u16, u16, &str)]) {
        let record = |(priority, weight, port, host): &(u16, u16, u16, &str)| {
            let host = Name::from_utf8(format!("{host}.")).expect("a name");
            RData::SRV(SRV::new(*priority, *weight, *port, host))
        };
        self.change(|zone| drop(zone.records.insert(name.to_owned(), records.iter().map(record).collect())));
    }

    /// Sets whether queries are left unanswered.
    pub fn mute(&self, is_mute: bool) {
        self.change(|zone| zone.is_mute = is_mute);
    }

    /// Returns the number of queries so far.
    pub fn query_count(&self) -> u64 {
        self.zone.lock().unwrap_or_else(PoisonError::into_inner).queries
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(socket: UdpSocket, zone: Arc<Mutex<DnsZone>>) {
    let mut buffer = [0; 4096];
    while let Ok((length, client)) = socket.recv_from(&mut buffer).await {
        let Ok(question) = Message::from_vec(&buffer[..length]) else { continue };
        let answer = zone.lock().unwrap_or_else(PoisonError::into_inner).answer(&question);
        if let Some(answer) = answer {
            let bytes = answer.to_vec().expect("what was decoded can be encoded");
            // The client may be gone.
            let _ = socket.send_to(&bytes, client).await;
        }
    }
}

impl DnsZone {
    fn answer(&mut self, question: &Message) -> Option<Message> {
        self.queries += 1;
        let query = question.queries.first().filter(|_| !self.is_mute)?;
        let mut answer = Message::response(question.metadata.id, OpCode::Query);
        answer.add_query(query.clone());
        let name = query.name().to_string().trim_end_matches('.').to_ascii_lowercase();
        let records = self.records.get(&name).map(Vec::as_slice).unwrap_or_default();
        if records.is_empty() {
            answer.metadata.response_code = ResponseCode::NXDomain;
        }
        let is_requested = |record: &&RData| record.record_type() == query.query_type();
        let records = records.iter().filter(is_requested).cloned();
        answer.add_answers(records.map(|data| Record::from_rdata(query.name().clone(), TTL, data)));
        debug_assert!(matches!(query.query_type(), RecordType::A | RecordType::AAAA | RecordType::SRV));
        Some(answer)
    }
}
