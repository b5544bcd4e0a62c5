//! Tests of the stream: events go in, and the responses are compared. No socket, no clock.

use envoy_types::pb::envoy::service::discovery::v3::DiscoveryResponse;
use expect_test::expect;
use prost::Message as _;

use super::*;
use crate::cache::standing::ConfigTrust;
use crate::nodes::status::WithholdReason;
use crate::xds::stream::testkit::{TestClient, error_detail, kind_of, names_of, snapshot, standing, store};
use crate::xds::wire::frame;

type SotwClient = TestClient<SotwStream>;

impl SotwClient {
    /// Creates an Envoy that has started with this snapshot and acknowledged all of it.
    fn up(snapshot_text: &str) -> Self {
        let names = |word: &str| names_of(snapshot_text, word).join(" ");
        let mut client = Self::new(snapshot_text);
        client.ask("cds", "").ask("eds", &names("cds")).ack("eds").ack("cds");
        client.ask("lds", "").ask("rds", &names("lds")).ack("lds").ack("rds");
        client.log.clear();
        client
    }

    fn names(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    /// Asks for names, with the nonce and version that Envoy would send.
    fn ask(&mut self, word: &str, names: &str) -> &mut Self {
        let answers = &mut self.answers[kind_of(word) as usize];
        names.clone_into(&mut answers.names);
        let (response_nonce, version_info) = (answers.nonce.clone(), answers.version.clone());
        let resource_names = Self::names(names);
        self.request(
            word,
            DiscoveryRequest { response_nonce, version_info, resource_names, ..Default::default() },
        )
    }

    fn ack(&mut self, word: &str) -> &mut Self {
        let names = self.answers[kind_of(word) as usize].names.clone();
        self.ask(word, &names)
    }

    /// Breaks the connection, changes the config and connects again; requests have to be sent separately.
    fn away(&mut self, snapshot_text: &str) -> &mut Self {
        self.stream = SotwStream::new(snapshot(snapshot_text), &self.stream.context);
        self.answers.iter_mut().for_each(|answers| answers.nonce.clear());
        self
    }

    fn nack(&mut self, word: &str) -> &mut Self {
        self.refuse(word, "no")
    }

    fn refuse(&mut self, word: &str, error: &str) -> &mut Self {
        let answers = &self.answers[kind_of(word) as usize];
        let request = DiscoveryRequest {
            response_nonce: answers.nonce.clone(),
            resource_names: Self::names(&answers.names),
            error_detail: error_detail(error),
            ..Default::default()
        };
        self.request(word, request)
    }
}

impl SotwClient {
    /// Creates a client of a control plane with this standing.
    fn facing(trust: ConfigTrust, snapshot_text: &str) -> Self {
        let mut client = Self::new(snapshot_text);
        client.stream.context.store = store(1);
        client.stream.set_standing(&standing(trust));
        client
    }

    /// Asks for a type as one that holds all of it from the store with this number, or from none for 0.
    fn holds(&mut self, word: &str, names: &str, held: &str, from: u64) -> &mut Self {
        let version_info = snapshot(held).set(kind_of(word)).version().text(store(from));
        names.clone_into(&mut self.answers[kind_of(word) as usize].names);
        let resource_names = Self::names(names);
        self.request(word, DiscoveryRequest { version_info, resource_names, ..Default::default() })
    }

    fn withheld(&self) -> Option<WithholdReason> {
        self.stream.provenance().withheld
    }
}

const HELD: &str = "cds:a cds:b eds:a eds:b lds:web rds:web@b";

#[test]
fn a_blank_control_plane_answers_an_envoy_that_holds_more_only_once_it_has_a_route() {
    for from in [0, 1, 2] {
        let mut client = SotwClient::facing(ConfigTrust::Blank, "");
        client.holds("cds", "", HELD, from).holds("eds", "a b", HELD, from);
        if from == 1 {
            client.says(&expect!["cds: "]);
            continue;
        }
        client.holds("lds", "", HELD, from).holds("rds", "web", HELD, from).is_silent();
        assert_eq!(client.withheld(), Some(WithholdReason::NothingAccepted));
        assert_eq!(client.stream.provenance().foreign_store, store(from).filter(|_| from == 2));
        assert!(client.stream.is_idle() && !client.stream.is_waiting());
        assert_eq!(client.state("lds"), AckState::Pending);
        client.stand(ConfigTrust::Blank, "cds:a eds:a").is_silent();
        client.stand(ConfigTrust::Full, "cds:a eds:a lds:web rds:web@a").says(&expect![[r#"
            cds: a
            eds: a"#]]);
        assert_eq!((client.withheld(), client.stream.provenance().is_adopted), (None, from == 2));
        client.ack("eds").ack("cds").says(&expect!["rds: web@a"]);
    }
}

#[test]
fn a_blank_control_plane_answers_those_that_hold_nothing_at_once() {
    let mut client = SotwClient::facing(ConfigTrust::Blank, "lds:default");
    client.ask("cds", "").ask("lds", "").says(&expect!["cds: "]);
    client.ack("cds").says(&expect!["lds: default"]);
    let mut client = SotwClient::facing(ConfigTrust::Blank, "lds:default");
    client.holds("cds", "", "", 2).holds("lds", "", "", 0).says(&expect!["lds: default"]);
    assert_eq!(client.withheld(), None);
}

#[test]
fn the_first_unknown_proof_silences_all_types_from_then_on() {
    let mut client = SotwClient::facing(ConfigTrust::Blank, "lds:default");
    client.holds("eds", "a", "eds:a", 2).ask("cds", "").ask("lds", "").is_silent();
    assert_eq!(client.withheld(), Some(WithholdReason::NothingAccepted));
}

#[test]
fn an_inherited_config_reaches_an_envoy_of_another_store_only_if_it_is_the_one_it_has() {
    let mut client = SotwClient::facing(ConfigTrust::Inherited, HELD);
    client.holds("cds", "", HELD, 2).holds("lds", "", HELD, 2).is_silent();
    assert_eq!((client.withheld(), client.stream.provenance().foreign_store), (None, store(2)));
    assert!(!client.stream.provenance().is_adopted);
    client.change("cds:a cds:b eds:a eds:b lds:web@2 rds:web@b").says(&expect!["lds: web@2"]);

    let mut client = SotwClient::facing(ConfigTrust::Inherited, "cds:a eds:a lds:web rds:web@a");
    client.holds("cds", "", HELD, 2).holds("lds", "", HELD, 2).is_silent();
    assert_eq!(client.withheld(), Some(WithholdReason::ForeignStore));
    // It is answered once the config is the one that it has, as with another replica that was ahead.
    client.change(HELD).is_silent();
    assert_eq!(client.withheld(), None);

    for from in [0, 1] {
        let mut client = SotwClient::facing(ConfigTrust::Inherited, "cds:a eds:a lds:web rds:web@a");
        client.holds("cds", "", HELD, from).says(&expect!["cds: a"]);
    }
}

#[test]
fn an_adopted_store_is_answered() {
    let mut client = SotwClient::facing(ConfigTrust::Inherited, "cds:a eds:a lds:web rds:web@a");
    client.holds("cds", "", HELD, 2).is_silent();
    let adopted = Arc::new(store(2).into_iter().collect());
    client.stream.set_standing(&Standing { adopted, ..standing(ConfigTrust::Inherited) });
    client.change("cds:a eds:a lds:web rds:web@a").says(&expect!["cds: a"]);
}

#[test]
fn what_a_client_was_sent_names_the_store() {
    let mut client = SotwClient::facing(ConfigTrust::Full, "cds:a eds:a");
    client.ask("cds", "").says(&expect!["cds: a"]);
    let version = snapshot("cds:a").set(ResourceType::Cluster).version().text(store(1));
    assert_eq!(client.answers[ResourceType::Cluster as usize].version, version);
}

#[test]
fn an_envoy_comes_up_and_listeners_wait_for_warm_clusters() {
    let mut client = SotwClient::new("cds:a eds:a lds:web rds:web");
    client.ask("cds", "").says(&expect!["cds: a"]);
    client.ask("lds", "").is_silent();
    client.ask("eds", "a").says(&expect!["eds: a"]);
    client.ack("eds").is_silent();
    client.ack("cds").says(&expect!["lds: web"]);
    client.ask("rds", "web").says(&expect!["rds: web"]);
    client.ack("lds").ack("rds").is_silent();
}

#[test]
fn rule_30_the_first_request_is_answered_even_if_there_is_nothing() {
    let mut client = SotwClient::new("");
    client.ask("cds", "").says(&expect!["cds: "]);
    client.ack("cds").ask("lds", "").says(&expect!["lds: "]);
}

#[test]
fn rule_31_nothing_changed_and_nothing_is_sent() {
    SotwClient::up("cds:a eds:a lds:web rds:web").change("cds:a eds:a lds:web rds:web").is_silent();
}

#[test]
fn rule_34_endpoints_alone_pass_every_gate() {
    let mut client = SotwClient::up("cds:a cds:b eds:a eds:b lds:web rds:web");
    client.change("cds:a cds:b eds:a@2 eds:b lds:web rds:web").says(&expect!["eds: a@2"]);
}

#[test]
fn rule_36_endpoints_follow_a_changed_cluster_though_they_did_not_change() {
    let mut client = SotwClient::up("cds:a cds:b eds:a eds:b lds:web rds:web");
    client.change("cds:a@2 cds:b eds:a eds:b lds:web rds:web").says(&expect![[r#"
        cds: a@2 b
        eds: a"#]]);
}

#[test]
fn rule_36_endpoints_follow_at_once_while_earlier_ones_are_unanswered() {
    let mut client = SotwClient::up("cds:a eds:a lds:web rds:web");
    client.change("cds:a eds:a@2 lds:web rds:web").says(&expect!["eds: a@2"]);
    client.change("cds:a@2 eds:a@2 lds:web rds:web").says(&expect![[r#"
        cds: a@2
        eds: a@2"#]]);
}

#[test]
fn rule_35_a_route_to_a_new_cluster_waits_until_it_is_warm() {
    let mut client = SotwClient::up("cds:a eds:a lds:web rds:web@a");
    client.change("cds:a cds:b eds:a eds:b lds:web rds:web@b").says(&expect!["cds: a b"]);
    client.ask("eds", "a b").says(&expect!["eds: b"]);
    client.ack("eds").is_silent();
    client.ack("cds").says(&expect!["rds: web@b"]);
}

#[test]
fn rule_34_a_cluster_goes_only_after_the_routes_to_it_went() {
    let mut client = SotwClient::up("cds:a cds:b eds:a eds:b lds:web rds:web@b");
    client.change("cds:a eds:a lds:web rds:web@a").says(&expect!["rds: web@a"]);
    client.ack("rds").says(&expect!["cds: a"]);
    client.ack("cds").is_silent();
}

#[test]
fn rule_34_a_renamed_cluster_is_made_before_the_old_one_breaks() {
    let mut client = SotwClient::up("cds:a eds:a lds:web rds:web@a");
    client.change("cds:b eds:b lds:web rds:web@b").says(&expect!["cds: a b"]);
    client.ask("eds", "a b").ack("eds").says(&expect!["eds: b"]);
    client.ack("cds").says(&expect!["rds: web@b"]);
    client.ack("rds").says(&expect!["cds: b"]);
    client.ack("cds").is_silent();
}

#[test]
fn rule_49_what_changed_while_an_answer_was_awaited_is_sent_once_in_its_newest_form() {
    let mut client = SotwClient::up("cds:a eds:a lds:web rds:web");
    client.change("cds:a@2 eds:a lds:web rds:web").says(&expect![[r#"
        cds: a@2
        eds: a"#]]);
    client.change("cds:a@3 eds:a lds:web rds:web").change("cds:a@4 eds:a lds:web rds:web").is_silent();
    client.ack("eds").ack("cds").says(&expect![[r#"
        cds: a@4
        eds: a"#]]);
}

#[test]
fn rule_9_a_refused_cluster_is_not_offered_again_until_it_changes() {
    let mut client = SotwClient::up("cds:a eds:a lds:web rds:web@a");
    client.change("cds:a@bad eds:a lds:web@2 rds:web@a").says(&expect![[r#"
        cds: a@bad
        eds: a"#]]);
    client.ack("eds").nack("cds").says(&expect!["lds: web@2"]);
    client.ack("lds");
    let refusals = client.stream.take_nacks();
    assert_eq!((refusals[0].resource_type, refusals[0].error.as_str()), (ResourceType::Cluster, "no"));
    let statuses: Vec<_> = client.stream.statuses().collect();
    assert_eq!(statuses[0].1.state, AckState::Nacked);
    client.change("cds:a@bad eds:a lds:web@2 rds:web@a").is_silent();
    client.change("cds:a@good eds:a lds:web@2 rds:web@a").says(&expect![[r#"
        cds: a@good
        eds: a"#]]);
    client.ack("eds").ack("cds").is_silent();
}

#[test]
fn rule_11_the_culprit_keeps_its_last_good_form_and_what_came_with_it_gets_through() {
    let mut client = SotwClient::up("cds:a cds:b eds:a eds:b lds:web rds:web@a");
    client.change("cds:a@bad cds:b@2 cds:c@2 eds:a eds:b eds:c lds:web rds:web@c").log.clear();
    client.ack("eds").refuse("cds", "cluster `a` is bad").says(&expect![[r#"
        cds: a b@2 c@2
        eds: b"#]]);
    client.ask("eds", "a b c").ack("eds").log.clear();
    client.ack("cds").says(&expect![[r#"
        cds: a@bad b@2 c@2
        eds: a"#]]);
    assert_eq!(client.stream.take_nacks()[0].names, Vec::<String>::new(), "the words are a hint");
    client.ack("eds").refuse("cds", "cluster `a` is bad").says(&expect!["rds: web@c"]);
    assert_eq!(client.stream.take_nacks()[0].names, ["a"]);
    client.ack("rds").is_silent();
    let statuses: Vec<_> = client.stream.statuses().collect();
    assert_eq!(statuses[0].1.state, AckState::Nacked, "something is held back");
    client.change("cds:a@3 cds:b@2 cds:c@2 eds:a eds:b eds:c lds:web rds:web@c").says(&expect![[r#"
        cds: a@3 b@2 c@2
        eds: a"#]]);
    client.ack("cds").ack("eds");
    assert_eq!(client.stream.statuses().next().map(|(_, status)| status.state), Some(AckState::Acked));
}

#[test]
fn rule_11_without_a_hint_the_culprit_is_found_by_halves() {
    let mut client = SotwClient::new("cds:a cds:b@bad cds:c cds:d");
    client.ask("cds", "").says(&expect!["cds: a b@bad c d"]);
    client.nack("cds").says(&expect!["cds: a b@bad"]);
    client.nack("cds").says(&expect!["cds: c d"]);
    client.ack("cds").says(&expect!["cds: a c d"]);
    client.ack("cds").says(&expect!["cds: a b@bad c d"]);
    client.nack("cds").is_silent();
    assert_eq!(client.stream.take_nacks().pop().expect("the last").names, ["b"]);
}

#[test]
fn rule_11_what_sends_requests_to_a_refused_cluster_waits_and_the_rest_does_not() {
    let mut client = SotwClient::up("cds:a eds:a lds:web lds:other rds:web@a rds:other@a");
    client.change("cds:a cds:n@bad eds:a eds:n lds:web lds:other rds:web@n rds:other@a2").log.clear();
    client.nack("cds").says(&expect!["rds: other@a2"]);
    client.ack("rds").change("cds:a cds:n@2 eds:a eds:n lds:web lds:other rds:web@n rds:other@a2");
    client.says(&expect!["cds: a n@2"]);
    client.ack("cds").says(&expect!["rds: web@n"]);
}

#[test]
fn rule_11_of_what_is_sent_by_name_the_good_ones_come_again_without_the_bad_one() {
    let mut client = SotwClient::new("eds:a@bad eds:b");
    client.ask("eds", "a b").says(&expect!["eds: a@bad b"]);
    client.refuse("eds", "a: no such address").says(&expect!["eds: b"]);
    client.ack("eds").says(&expect!["eds: a@bad"]);
    client.nack("eds").change("eds:a@bad eds:b@2").says(&expect!["eds: b@2"]);
    client.ack("eds").change("eds:a@good eds:b@2").says(&expect!["eds: a@good"]);
}

#[test]
fn a_client_that_holds_what_we_do_not_know_keeps_all_of_it_when_it_refuses() {
    let mut client = SotwClient::new("cds:a@bad cds:b");
    client.request("cds", DiscoveryRequest { version_info: "of another".into(), ..Default::default() });
    client.says(&expect!["cds: a@bad b"]);
    client.refuse("cds", "a").is_silent();
    client.change("cds:a cds:b").says(&expect!["cds: a b"]);
}

#[test]
fn rule_43_what_went_while_the_client_was_away_stays_until_its_routes_were_sent() {
    let mut client = SotwClient::up("cds:a cds:b eds:a eds:b lds:web rds:web@b");
    client.away("cds:a cds:c eds:a eds:c lds:web rds:web@c");
    client.ask("cds", "").says(&expect!["cds: a b c"]);
    client.ask("eds", "a b c").says(&expect!["eds: a c"]);
    client.ask("lds", "").ack("eds").ack("cds").is_silent();
    client.ask("rds", "web").says(&expect!["rds: web@c"]);
    client.ack("rds").says(&expect!["cds: a c"]);
    client.ack("cds").is_silent();
}

#[test]
fn rule_43_a_client_that_never_asks_for_routes_is_waited_for_only_so_long() {
    let mut client = SotwClient::up("cds:a cds:b eds:a eds:b");
    client.away("cds:a eds:a eds:b");
    client.ask("cds", "").is_silent();
    assert!(client.stream.is_waiting());
    let responses = client.stream.on_timeout();
    client.receive(responses).says(&expect!["cds: a"]);
    assert!(!client.stream.is_waiting());
}

#[test]
fn rule_43_an_aggregate_that_replaced_a_cluster_meanwhile_waits_for_its_members() {
    let mut client = SotwClient::up("cds:u eds:u lds:web rds:web@u");
    client.away("cds:u@/p cds:p eds:p lds:web rds:web@u");
    client.ask("cds", "").says(&expect!["cds: p u"]);
    client.ask("eds", "u p").says(&expect!["eds: p"]);
    client.ack("eds").ack("cds").says(&expect!["cds: p u@/p"]);
}

#[test]
fn rule_43_a_client_that_may_have_taken_some_of_what_it_refused_is_told_all() {
    let mut client = SotwClient::up("cds:a eds:a lds:web rds:web@a");
    client.change("cds:a@bad cds:b eds:a lds:web rds:web@a").nack("cds").log.clear();
    // After the NACK the client still states the earlier version.
    client.answers[ResourceType::Cluster as usize].version =
        snapshot("cds:a").set(ResourceType::Cluster).version().to_string();
    client.away("cds:a eds:a lds:web rds:web@a");
    client.ask("cds", "").says(&expect!["cds: a"]);
}

#[test]
fn a_client_that_has_nothing_yet_gets_listeners_though_it_refused_clusters() {
    let mut client = SotwClient::new("cds:a eds:a lds:web rds:web");
    client.ask("cds", "").ask("lds", "").says(&expect!["cds: a"]);
    client.nack("cds").says(&expect!["lds: web"]);
}

#[test]
fn the_wait_for_clusters_ends_when_patience_does() {
    let mut client = SotwClient::up("cds:a eds:a lds:web rds:web@a");
    client.change("cds:a cds:b eds:a eds:b lds:web rds:web@b").says(&expect!["cds: a b"]);
    assert!(client.stream.is_waiting());
    let responses = client.stream.on_timeout();
    client.receive(responses).says(&expect!["rds: web@b"]);
    assert!(!client.stream.is_waiting());
}

#[test]
fn rule_5_a_stale_nonce_is_dropped_whole() {
    let mut client = SotwClient::up("cds:a eds:a lds:web rds:web");
    let stale = DiscoveryRequest {
        response_nonce: "0".into(),
        resource_names: vec!["other".into()],
        ..Default::default()
    };
    client.request("eds", stale).change("cds:a eds:a@2 lds:web rds:web").says(&expect!["eds: a@2"]);
}

#[test]
fn rule_32_a_client_that_proves_what_it_holds_is_sent_nothing_of_it() {
    let held = snapshot("cds:a eds:a lds:web rds:web");
    let mut client = SotwClient::new("cds:a eds:a lds:web rds:web");
    for word in ["cds", "lds"] {
        let version_info = held.set(kind_of(word)).version().to_string();
        client.request(word, DiscoveryRequest { version_info, ..Default::default() }).is_silent();
    }
    client.change("cds:a eds:a lds:web@2 rds:web").says(&expect!["lds: web@2"]);
}

#[test]
fn rule_4_a_nonce_of_an_earlier_stream_is_no_hindrance() {
    let mut client = SotwClient::new("cds:a eds:a");
    client.request("cds", DiscoveryRequest { response_nonce: "77".into(), ..Default::default() });
    client.says(&expect!["cds: a"]);
}

#[test]
fn rule_21_a_name_that_appears_later_is_sent_then() {
    let mut client = SotwClient::new("cds:a eds:a");
    client.ask("eds", "a b").says(&expect!["eds: a"]);
    client.ack("eds").change("cds:a eds:a eds:b").says(&expect!["eds: b"]);
}

#[test]
fn rule_18_a_name_that_left_and_returned_is_sent_again_though_unchanged() {
    let mut client = SotwClient::new("eds:a eds:b");
    client.ask("eds", "a b").ask("eds", "a").says(&expect!["eds: a b"]);
    client.ask("eds", "a b").says(&expect!["eds: b"]);
}

#[test]
fn rule_13_no_endpoints_are_wanted_when_the_last_name_went() {
    let mut client = SotwClient::new("eds:a eds:b");
    client.ask("eds", "a").ask("eds", "").says(&expect!["eds: a"]);
    client.change("eds:a@2 eds:b@2").is_silent();
}

#[test]
fn rule_24_of_named_listeners_all_that_are_named_are_sent() {
    let mut client = SotwClient::new("lds:a lds:b");
    client.ask("lds", "a").says(&expect!["lds: a"]);
    client.ack("lds").change("lds:a lds:b@2").is_silent();
    client.change("lds:a@2 lds:b@2").says(&expect!["lds: a@2"]);
}

#[test]
fn rule_3_a_type_that_is_not_served_is_no_reason_to_end_the_stream() {
    let mut client = SotwClient::new("cds:a");
    let request = DiscoveryRequest { type_url: "type.googleapis.com/x".into(), ..Default::default() };
    assert_eq!(client.stream.on_request(request.into()), Ok(Vec::new()));
    client.ask("cds", "").says(&expect!["cds: a"]);
}

#[test]
fn rule_3_a_request_without_a_type_ends_the_stream() {
    let mut client = SotwClient::new("cds:a");
    assert_eq!(client.stream.on_request(DiscoveryRequest::default().into()), Err(ProtocolError::NoType));
}

#[test]
fn rule_7_an_answer_may_change_the_names() {
    let mut client = SotwClient::new("eds:a eds:b");
    client.ask("eds", "a").says(&expect!["eds: a"]);
    client.ask("eds", "a b").says(&expect!["eds: b"]);
    client.ack("eds").is_silent();
}

#[test]
fn rule_8_a_refusal_is_told_by_its_error_and_not_by_its_version() {
    let mut client = SotwClient::up("cds:a");
    client.change("cds:a@2").log.clear();
    let held = &client.answers[ResourceType::Cluster as usize];
    let (response_nonce, version_info) = (held.nonce.clone(), "what it had before".to_owned());
    client.request("cds", DiscoveryRequest { response_nonce, version_info, ..Default::default() });
    let statuses: Vec<_> = client.stream.statuses().collect();
    assert_eq!((statuses[0].1.state, statuses[0].1.error), (AckState::Acked, None));
}

#[test]
fn rule_22_a_client_need_not_name_all_there_is() {
    SotwClient::new("eds:a eds:b eds:c").ask("eds", "b").says(&expect!["eds: b"]);
}

#[test]
fn rule_24_clusters_come_all_each_time_and_endpoints_as_they_change() {
    let mut client = SotwClient::up("cds:a cds:b eds:a eds:b lds:web rds:web");
    client.change("cds:a@2 cds:b eds:a eds:b lds:web rds:web").says(&expect![[r#"
        cds: a@2 b
        eds: a"#]]);
}

#[test]
fn rule_25_listeners_go_by_omission() {
    let mut client = SotwClient::up("cds:a eds:a lds:web lds:old rds:web rds:old");
    client.change("cds:a eds:a lds:web rds:web").says(&expect!["lds: web"]);
    client.ack("lds").change("").says(&expect!["lds: "]);
}

#[test]
fn rule_29_resources_carry_the_type_of_the_response() {
    let mut stream = SotwStream::new(snapshot("lds:web"), &StreamContext::default());
    let type_url = ResourceType::Listener.type_url().to_owned();
    let request = DiscoveryRequest { type_url: type_url.clone(), ..Default::default() };
    let response = stream.on_request(request.into()).expect("in order").remove(0);
    let bytes = frame::chunks(response, Variant::StateOfTheWorld, "").concat();
    let decoded = DiscoveryResponse::decode(&bytes[5..]).expect("a response");
    assert_eq!((&decoded.type_url, &decoded.resources[0].type_url), (&type_url, &type_url));
}

#[test]
fn rule_33_equal_snapshots_make_equal_responses() {
    let mut logs = Vec::new();
    for text in ["cds:a cds:b cds:c", "cds:c cds:a cds:b"] {
        let mut stream = SotwStream::new(snapshot(text), &StreamContext::default());
        let type_url = ResourceType::Cluster.type_url().to_owned();
        logs.push(
            stream.on_request(DiscoveryRequest { type_url, ..Default::default() }.into()).expect("in order"),
        );
    }
    assert_eq!(logs[0], logs[1]);
}

#[test]
fn rule_40_types_may_be_asked_for_in_any_order() {
    let mut client = SotwClient::new("cds:a eds:a lds:web rds:web");
    client.ask("eds", "a").says(&expect!["eds: a"]);
    client.ack("eds").ask("rds", "web").says(&expect!["rds: web"]);
    client.ask("lds", "").says(&expect!["lds: web"]);
    client.ask("cds", "").says(&expect![[r#"
        cds: a
        eds: a"#]]);
}

#[test]
fn rule_43_after_a_reconnection_names_are_answered_whatever_the_version() {
    let version_info = snapshot("eds:a").set(ResourceType::Endpoints).version().to_string();
    let mut client = SotwClient::new("eds:a");
    let resource_names = vec!["a".to_owned()];
    client.request("eds", DiscoveryRequest { version_info, resource_names, ..Default::default() });
    client.says(&expect!["eds: a"]);
}

#[test]
fn rule_53_names_are_opaque() {
    let name = "xdstp://authority/envoy.config.endpoint.v3.ClusterLoadAssignment/a?b=c";
    let mut stream = SotwStream::new(snapshot(""), &StreamContext::default());
    let type_url = ResourceType::Endpoints.type_url().to_owned();
    let request = DiscoveryRequest { type_url, resource_names: vec![name.to_owned()], ..Default::default() };
    assert_eq!(stream.on_request(request.into()), Ok(Vec::new()));
}

#[test]
fn an_aggregate_that_replaces_a_cluster_waits_for_its_members_and_back_they_wait_for_it() {
    let mut client = SotwClient::up("cds:u eds:u lds:web rds:web@u");
    client.change("cds:u@/p cds:p eds:p lds:web rds:web@u").says(&expect!["cds: p u"]);
    client.ask("eds", "u p").ack("eds").says(&expect!["eds: p"]);
    client.ack("cds").says(&expect!["cds: p u@/p"]);
    client.ack("cds").is_silent();
    client.change("cds:u eds:u lds:web rds:web@u").says(&expect![[r#"
        cds: p u
        eds: u"#]]);
    client.ask("eds", "u p").says(&expect![""]);
    client.ack("eds").ack("cds").says(&expect!["cds: u"]);
    client.ack("cds").is_silent();
}

#[test]
fn an_aggregate_comes_with_its_first_members_and_waits_for_further_ones() {
    let mut client = SotwClient::new("cds:u@/p cds:p eds:p");
    client.ask("cds", "").says(&expect!["cds: p u@/p"]);
    client.ask("eds", "p").ack("eds").ack("cds").log.clear();
    client.change("cds:u@/p/q cds:p cds:q eds:p eds:q").says(&expect!["cds: p q u@/p"]);
    client.ack("cds").says(&expect!["cds: p q u@/p/q"]);
}

#[test]
fn an_aggregate_whose_members_were_refused_is_not_told_of_them() {
    let mut client = SotwClient::up("cds:u eds:u lds:web rds:web@u");
    client.change("cds:u@/p cds:p eds:p lds:web rds:web@u").says(&expect!["cds: p u"]);
    client.nack("cds").is_silent();
    client.change("cds:u@/p cds:p@2 eds:p lds:web rds:web@u").says(&expect!["cds: p@2 u"]);
    client.ack("cds").says(&expect!["cds: p@2 u@/p"]);
}

#[test]
fn a_type_of_which_nothing_exists_is_not_pending() {
    let mut client = SotwClient::up("cds:a eds:a lds:web rds:web@a");
    client.ask("vhds", "none").is_silent();
    let of_hosts = |client: &SotwClient| {
        let status = client.stream.statuses().find(|(kind, _)| *kind == kind_of("vhds"));
        status.map(|(_, status)| (status.state, status.version, status.current))
    };
    assert_eq!(of_hosts(&client), Some((AckState::Acked, None, true)));
    client.change("cds:a eds:a lds:web rds:web@a vhds:other").is_silent();
    assert_eq!(of_hosts(&client).map(|it| it.0), Some(AckState::Acked), "it is not asked for");
    client.change("cds:a eds:a lds:web rds:web@a vhds:none").says(&expect!["vhds: none"]);
    assert_eq!(of_hosts(&client).map(|it| it.0), Some(AckState::Pending));
    client.ack("vhds").is_silent();
    assert_eq!(of_hosts(&client).map(|it| it.0), Some(AckState::Acked));
    let mut empty = SotwClient::new("");
    empty.ask("eds", "none").is_silent();
    assert_eq!(empty.state("eds"), AckState::Acked);
    empty.ask("cds", "").says(&expect!["cds: "]);
    assert_eq!(empty.state("cds"), AckState::Pending, "an empty list is a response too");
}

#[test]
fn a_name_that_waits_for_its_clusters_is_pending() {
    let mut client = SotwClient::new("cds:a eds:a lds:web rds:web@a");
    client.ask("cds", "").ask("rds", "web").says(&expect!["cds: a"]);
    assert_eq!(client.state("rds"), AckState::Pending);
    client.ask("eds", "a").ack("eds").ack("cds").log.clear();
    assert_eq!(client.state("rds"), AckState::Pending);
    client.ack("rds");
    assert_eq!(client.state("rds"), AckState::Acked);
}

#[test]
fn a_refusal_has_the_nonce_of_its_response() {
    let mut client = SotwClient::new("cds:a");
    client.ask("cds", "").change("cds:a@2");
    client.nack("cds");
    assert_eq!(client.stream.take_nacks().iter().map(|nack| nack.nonce).collect::<Vec<_>>(), [1]);
}
