//! Generations of the responses of a stream, so that a refusal that comes late is noted at its own revision.

use std::collections::VecDeque;

use crate::xds::wire::frame::Response;

/// Limit on the generations that are remembered while a client answers nothing.
const MAX_GENERATIONS: usize = 64;

/// Generation of each response that is not answered yet.
#[derive(Debug, Default)]
pub(super) struct SentGenerations {
    /// First nonce of each generation of which something was sent, with the generation, oldest first.
    first_nonces: VecDeque<(u64, u64)>,
}

impl SentGenerations {
    /// Records responses of this generation. Nonces increase.
    pub(super) fn record(&mut self, generation: u64, responses: &[Response]) {
        let nonces = responses.iter().filter_map(|response| response.nonce.parse().ok());
        let Some(first) = nonces.min() else { return };
        if self.first_nonces.back().is_none_or(|(_, last)| *last < generation) {
            if self.first_nonces.len() == MAX_GENERATIONS {
                self.first_nonces.pop_front();
            }
            self.first_nonces.push_back((first, generation));
        }
    }

    /// Returns the generation of the response with this nonce, or the oldest one known.
    pub(super) fn find(&self, nonce: u64) -> Option<u64> {
        let mut newest_first = self.first_nonces.iter().rev();
        let found = newest_first.find(|(first, _)| *first <= nonce).or(self.first_nonces.front());
        found.map(|(_, generation)| *generation)
    }

    /// Forgets all generations, since every response is answered.
    pub(super) fn clear(&mut self) {
        self.first_nonces = VecDeque::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envoy::ResourceType;

    fn responses(nonces: &[u64]) -> Vec<Response> {
        let response = |nonce: &u64| Response {
            resource_type: ResourceType::Cluster,
            version: String::new(),
            nonce: nonce.to_string(),
            resources: Vec::new(),
            removed: Vec::new(),
        };
        nonces.iter().map(response).collect()
    }

    #[test]
    fn a_nonce_belongs_to_the_generation_that_was_sent_with_it() {
        let mut sent = SentGenerations::default();
        assert_eq!(sent.find(1), None);
        sent.record(3, &responses(&[1, 2]));
        sent.record(3, &responses(&[3]));
        sent.record(4, &responses(&[]));
        sent.record(7, &responses(&[4, 5]));
        assert_eq!([1, 3, 4, 5, 9].map(|nonce| sent.find(nonce)), [3, 3, 7, 7, 7].map(Some));
        sent.clear();
        assert_eq!(sent.find(4), None);
    }

    #[test]
    fn a_client_that_answers_nothing_costs_little() {
        let mut sent = SentGenerations::default();
        (1..=1_000).for_each(|number| sent.record(number, &responses(&[number])));
        assert_eq!(sent.first_nonces.len(), MAX_GENERATIONS);
        assert_eq!([sent.find(1), sent.find(1_000)], [Some(937), Some(1_000)]);
    }
}
