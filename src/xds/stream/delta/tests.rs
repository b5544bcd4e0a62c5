//! Tests of the stream: events go in, and the responses are compared. No socket, no clock. Rules have the
//! numbers of the protocol checklist.

use expect_test::expect;

use super::*;
use crate::build::snapshot::set::MAX_PIECE;
use crate::cache::standing::ConfigTrust;
use crate::nodes::status::WithholdReason;
use crate::xds::stream::testkit::{TestClient, error_detail, kind_of, names_of, snapshot, standing, store};
use crate::xds::wire::frame;

type DeltaClient = TestClient<DeltaStream>;

impl DeltaClient {
    /// Creates an Envoy that has started with this snapshot and acknowledged all of it.
    fn up(snapshot_text: &str) -> Self {
        let names = |word: &str| {
            let names = names_of(snapshot_text, word).into_iter().map(|name| format!("+{name}"));
            names.collect::<Vec<_>>().join(" ")
        };
        let mut client = Self::new(snapshot_text);
        client.ask("cds", "").ask("eds", &names("eds")).ack_all("eds").ack_all("cds");
        client.ask("lds", "").ask("rds", &names("rds")).ack_all("lds").ack_all("rds");
        client.log.clear();
        client
    }

    /// Subscribes to `+name` and unsubscribes from `-name`, as a spontaneous request.
    fn ask(&mut self, word: &str, names: &str) -> &mut Self {
        self.request(word, changes(names))
    }

    /// Asks again on a new connection, with `name` or `name@content` of a type already held.
    fn reconnect(&mut self, word: &str, names: &str, held: &str) -> &mut Self {
        let text: String = held.split_whitespace().map(|name| format!("{word}:{name} ")).collect();
        let held = snapshot(&text);
        let held = held.set(kind_of(word)).iter().map(|own| (own.name.to_string(), own.version.to_string()));
        self.request(
            word,
            DeltaDiscoveryRequest { initial_resource_versions: held.collect(), ..changes(names) },
        )
    }

    fn answer(&mut self, word: &str, error: Option<&str>) -> &mut Self {
        let nonce = self.answers[kind_of(word) as usize].pop_front().expect("something to answer");
        let error_detail = error.and_then(error_detail);
        self.request(
            word,
            DeltaDiscoveryRequest { response_nonce: nonce, error_detail, ..Default::default() },
        )
    }

    fn ack(&mut self, word: &str) -> &mut Self {
        self.answer(word, None)
    }

    fn ack_all(&mut self, word: &str) -> &mut Self {
        while !self.answers[kind_of(word) as usize].is_empty() {
            self.ack(word);
        }
        self
    }

    fn nack(&mut self, word: &str, error: &str) -> &mut Self {
        self.answer(word, Some(error))
    }
}

impl DeltaClient {
    /// Creates a client of a control plane with this standing.
    fn facing(trust: ConfigTrust, snapshot_text: &str) -> Self {
        let mut client = Self::new(snapshot_text);
        client.stream.context.store = store(1);
        client.stream.set_standing(&standing(trust));
        client
    }

    /// Asks for a type as one that holds these from the store with this number, or from none for 0.
    fn holds(&mut self, word: &str, names: &str, held: &str, from: u64) -> &mut Self {
        let held = snapshot(held);
        let held = held.set(kind_of(word)).iter();
        let held = held.map(|own| (own.name.to_string(), own.version.text(store(from))));
        self.request(
            word,
            DeltaDiscoveryRequest { initial_resource_versions: held.collect(), ..changes(names) },
        )
    }

    fn withheld(&self) -> Option<WithholdReason> {
        self.stream.provenance().withheld
    }
}

const HELD: &str = "cds:a cds:b eds:a eds:b lds:web rds:web@b";

#[test]
fn a_blank_control_plane_answers_an_envoy_that_holds_more_only_once_it_has_a_route() {
    for from in [0, 2] {
        let mut client = DeltaClient::facing(ConfigTrust::Blank, "");
        client.holds("cds", "", HELD, from).holds("eds", "+a +b", HELD, from);
        client.holds("lds", "", HELD, from).holds("rds", "+web", HELD, from).is_silent();
        assert_eq!(client.withheld(), Some(WithholdReason::NothingAccepted));
        assert_eq!(client.stream.provenance().foreign_store, store(from));
        assert!(client.stream.is_idle() && !client.stream.is_waiting());
        assert_eq!(client.state("lds"), AckState::Pending);
        client.stand(ConfigTrust::Blank, "cds:a eds:a").ask("eds", "+c").is_silent();
        // Routes change before the cluster goes that they led to.
        client.stand(ConfigTrust::Full, "cds:a eds:a lds:web rds:web@a").says(&expect![[r#"
            eds: -c
            rds: web@a"#]]);
        assert_eq!((client.withheld(), client.stream.provenance().is_adopted), (None, from == 2));
        client.ack("eds").ack("rds").says(&expect![[r#"
            cds: -b
            eds: -b"#]]);
    }
    let mut client = DeltaClient::facing(ConfigTrust::Blank, "");
    client.holds("lds", "", "lds:web", 1).says(&expect!["lds: -web"]);
}

#[test]
fn a_blank_control_plane_answers_those_that_hold_nothing_at_once() {
    let mut client = DeltaClient::facing(ConfigTrust::Blank, "lds:default");
    client.ask("cds", "").ask("lds", "").says(&expect!["cds: "]);
    client.ack("cds").says(&expect!["lds: default"]);
}

#[test]
fn one_unknown_proof_among_known_ones_is_enough_and_silences_all_types() {
    let mut client = DeltaClient::facing(ConfigTrust::Inherited, "cds:a eds:a lds:web rds:web@a");
    client.holds("lds", "", HELD, 2).is_silent();
    assert_eq!(client.withheld(), None);
    client.holds("cds", "", HELD, 2).ask("eds", "+a +b").is_silent();
    assert_eq!(client.withheld(), Some(WithholdReason::ForeignStore));
}

#[test]
fn an_inherited_config_reaches_an_envoy_of_another_store_only_if_it_is_the_one_it_has() {
    let mut client = DeltaClient::facing(ConfigTrust::Inherited, HELD);
    client.holds("cds", "", HELD, 2).holds("eds", "+a +b", HELD, 2).holds("lds", "", HELD, 2).is_silent();
    assert_eq!((client.withheld(), client.stream.provenance().foreign_store), (None, store(2)));
    assert!(!client.stream.provenance().is_adopted);
    client.change("cds:a cds:b eds:a eds:b lds:web@2 rds:web@b").says(&expect!["lds: web@2"]);

    let mut client = DeltaClient::facing(ConfigTrust::Inherited, "cds:a eds:a lds:web rds:web@a");
    client.holds("cds", "", HELD, 2).holds("lds", "", HELD, 2).is_silent();
    assert_eq!(client.withheld(), Some(WithholdReason::ForeignStore));
    // It is answered once the config is the one that it has, as with another replica that was ahead.
    client.change(HELD).is_silent();
    assert_eq!(client.withheld(), None);

    for from in [0, 1] {
        let mut client = DeltaClient::facing(ConfigTrust::Inherited, "cds:a@2 cds:b eds:a lds:web rds:web@a");
        client.holds("cds", "", HELD, from).says(&expect!["cds: a@2"]);
    }
}

#[test]
fn an_adopted_store_is_answered() {
    let mut client = DeltaClient::facing(ConfigTrust::Inherited, "cds:a@2 eds:a lds:web rds:web@a");
    client.holds("cds", "", HELD, 2).is_silent();
    let adopted = Arc::new(store(2).into_iter().collect());
    client.stream.set_standing(&Standing { adopted, ..standing(ConfigTrust::Inherited) });
    client.change("cds:a@2 eds:a lds:web rds:web@a").says(&expect!["cds: a@2"]);
}

fn changes(names: &str) -> DeltaDiscoveryRequest {
    let pick = |sign| {
        names.split_whitespace().filter_map(|word| word.strip_prefix(sign)).map(str::to_owned).collect()
    };
    DeltaDiscoveryRequest {
        resource_names_subscribe: pick('+'),
        resource_names_unsubscribe: pick('-'),
        ..Default::default()
    }
}

#[test]
fn an_envoy_comes_up_and_listeners_wait_for_warm_clusters() {
    let mut client = DeltaClient::new("cds:a eds:a lds:web rds:web");
    client.ask("cds", "").says(&expect!["cds: a"]);
    client.ask("lds", "").is_silent();
    client.ask("eds", "+a").says(&expect!["eds: a"]);
    client.ack("eds").is_silent();
    client.ack("cds").says(&expect!["lds: web"]);
    client.ask("rds", "+web").says(&expect!["rds: web"]);
    client.ack("lds").ack("rds").is_silent();
}

#[test]
fn rule_6_a_subscription_counts_though_its_nonce_is_stale() {
    let mut client = DeltaClient::up("cds:a eds:a eds:b lds:web rds:web");
    let stale = DeltaDiscoveryRequest { response_nonce: "77".into(), ..changes("+b") };
    client.request("eds", stale).says(&expect!["eds: b"]);
}

#[test]
fn rule_10_a_refusal_may_carry_a_subscription() {
    let mut client = DeltaClient::up("cds:a eds:a eds:b lds:web rds:web");
    client.change("cds:a eds:a@bad eds:b lds:web rds:web").says(&expect!["eds: a@bad"]);
    let nonce = client.answers[ResourceType::Endpoints as usize].pop_front().expect("sent");
    let error_detail = error_detail("no");
    let refusal = DeltaDiscoveryRequest { response_nonce: nonce, error_detail, ..changes("+b") };
    client.request("eds", refusal).says(&expect!["eds: b"]);
}

#[test]
fn rule_11_the_good_siblings_of_a_bad_resource_get_through() {
    let mut client = DeltaClient::up("cds:a eds:a lds:web rds:web");
    client.change("cds:a cds:b cds:bad cds:c eds:a lds:web rds:web").says(&expect!["cds: b bad c"]);
    client.nack("cds", "cluster bad is malformed").says(&expect!["cds: b c"]);
    client.ack("cds").says(&expect!["cds: bad"]);
    client.nack("cds", "cluster bad is malformed").is_silent();
    assert_eq!(client.state("cds"), AckState::Nacked);
    let held_back: Vec<_> = client.stream.take_nacks().into_iter().map(|refusal| refusal.names).collect();
    assert_eq!(held_back, [Vec::<String>::new(), vec!["bad".to_owned()]]);
}

#[test]
fn rule_11_the_culprit_is_found_without_a_hint() {
    let mut client = DeltaClient::up("");
    client.change("cds:a cds:b cds:bad cds:c").says(&expect!["cds: a b bad c"]);
    client.nack("cds", "no").says(&expect!["cds: a b"]);
    client.ack("cds").says(&expect!["cds: bad c"]);
    client.nack("cds", "no").says(&expect!["cds: bad"]);
    client.nack("cds", "no").says(&expect!["cds: c"]);
    client.ack("cds").is_silent();
    assert_eq!(client.state("cds"), AckState::Nacked);
}

#[test]
fn rule_9_what_was_refused_is_not_offered_again_until_it_changes() {
    let mut client = DeltaClient::up("cds:a eds:a lds:web rds:web");
    client.change("cds:a@bad eds:a lds:web rds:web").says(&expect![[r#"
        cds: a@bad
        eds: a"#]]);
    client.ack("eds").nack("cds", "no").is_silent();
    client.change("cds:a@bad cds:b eds:a lds:web rds:web").says(&expect!["cds: b"]);
    client.ack("cds").is_silent();
    client.change("cds:a@good cds:b eds:a lds:web rds:web").says(&expect![[r#"
        cds: a@good
        eds: a"#]]);
    client.ack("eds").ack("cds").is_silent();
    assert_eq!(client.state("cds"), AckState::Acked);
}

#[test]
fn routes_to_a_refused_cluster_stay_as_they_are_and_others_go_on() {
    let mut client = DeltaClient::up("cds:a eds:a lds:web lds:other rds:web@a rds:other@a");
    client.change("cds:a cds:bad cds:c eds:a lds:web lds:other rds:web@bad rds:other@c").log.clear();
    client.nack("cds", "cluster `bad`").says(&expect!["cds: c"]);
    client.ack("cds").says(&expect!["cds: bad"]);
    client.nack("cds", "cluster `bad`").says(&expect!["rds: other@c"]);
    client.ack("rds").is_silent();
    client.change("cds:a cds:bad@good cds:c eds:a lds:web lds:other rds:web@bad rds:other@c");
    client.says(&expect!["cds: bad@good"]).ack("cds").says(&expect!["rds: web@bad"]);
}

#[test]
fn what_changed_before_its_refusal_came_is_offered() {
    let mut client = DeltaClient::up("cds:a");
    client.change("cds:a@bad").says(&expect!["cds: a@bad"]);
    client.change("cds:a@good").is_silent();
    client.nack("cds", "no").says(&expect!["cds: a@good"]);
}

#[test]
fn rule_16_a_name_that_a_wildcard_keeps_is_answered_when_it_goes() {
    let mut client = DeltaClient::new("cds:a");
    client.ask("cds", "+* +a +x").says(&expect!["cds: a -x"]);
    client.ack("cds").ask("cds", "-a -x").says(&expect!["cds: a -x"]);
}

#[test]
fn rule_19_every_subscribed_name_is_answered() {
    let mut client = DeltaClient::up("cds:a eds:a lds:web rds:web");
    client.ask("eds", "+a").says(&expect!["eds: a"]);
    client.ack("eds").ask("eds", "-a").is_silent();
    client.ask("eds", "+a").says(&expect!["eds: a"]);
}

#[test]
fn rule_20_a_subscribed_name_that_is_absent_is_told_to_be_gone() {
    DeltaClient::new("eds:a").ask("eds", "+a +b").says(&expect!["eds: a -b"]);
}

#[test]
fn rule_21_a_name_that_appears_later_is_sent_then() {
    let mut client = DeltaClient::new("eds:a");
    client.ask("eds", "+a +b").ack("eds").log.clear();
    client.change("eds:a eds:b").says(&expect!["eds: b"]);
}

#[test]
fn rule_23_what_is_no_longer_wanted_is_not_sent() {
    let mut client = DeltaClient::new("eds:a eds:b");
    client.ask("eds", "+a +b").ack("eds").ask("eds", "-a").log.clear();
    client.change("eds:a@2 eds:b@2").says(&expect!["eds: b@2"]);
}

#[test]
fn rule_27_a_name_is_told_once() {
    let mut client = DeltaClient::up("cds:a cds:b eds:a eds:b lds:web rds:web");
    client.change("cds:a@2 eds:a@2 lds:web rds:web").says(&expect![[r#"
        cds: a@2 -b
        eds: a@2 -b"#]]);
}

#[test]
fn rule_30_the_first_request_is_answered_even_if_there_is_nothing() {
    DeltaClient::new("")
        .ask("cds", "")
        .says(&expect!["cds: "])
        .ack("cds")
        .ask("lds", "")
        .says(&expect!["lds: "]);
}

#[test]
fn rule_31_nothing_changed_and_nothing_is_sent() {
    DeltaClient::up("cds:a eds:a lds:web rds:web").change("cds:a eds:a lds:web rds:web").is_silent();
}

#[test]
fn rule_34_a_route_to_a_new_cluster_waits_until_it_is_warm() {
    let mut client = DeltaClient::up("cds:a eds:a lds:web rds:web@a");
    client.change("cds:a cds:b eds:a eds:b lds:web rds:web@b").says(&expect!["cds: b"]);
    client.ask("eds", "+b").says(&expect!["eds: b"]);
    client.ack("eds").is_silent();
    client.ack("cds").says(&expect!["rds: web@b"]);
}

#[test]
fn rule_34_a_cluster_goes_only_after_the_routes_to_it_went() {
    let mut client = DeltaClient::up("cds:a cds:b eds:a eds:b lds:web rds:web@b");
    client.change("cds:a eds:a lds:web rds:web@a").says(&expect!["rds: web@a"]);
    client.ack("rds").says(&expect![[r#"
        cds: -b
        eds: -b"#]]);
    client.ack("cds").ack("eds").is_silent();
}

#[test]
fn rule_34_a_route_configuration_goes_after_its_listener() {
    let mut client = DeltaClient::up("cds:a eds:a lds:web lds:old rds:web rds:old");
    client.change("cds:a eds:a lds:web rds:web").says(&expect!["lds: -old"]);
    client.ack("lds").says(&expect!["rds: -old"]);
}

#[test]
fn rule_36_endpoints_follow_a_changed_cluster_though_they_did_not_change() {
    let mut client = DeltaClient::up("cds:a cds:b eds:a eds:b lds:web rds:web");
    client.change("cds:a@2 cds:b eds:a eds:b lds:web rds:web").says(&expect![[r#"
        cds: a@2
        eds: a"#]]);
}

#[test]
fn rule_36_endpoints_follow_at_once_while_earlier_ones_are_unanswered() {
    let mut client = DeltaClient::up("cds:a eds:a lds:web rds:web");
    client.change("cds:a eds:a@2 lds:web rds:web").says(&expect!["eds: a@2"]);
    client.change("cds:a@2 eds:a@2 lds:web rds:web").says(&expect![[r#"
        cds: a@2
        eds: a@2"#]]);
    client.ack("eds").ack("eds").ack("cds").is_silent();
}

#[test]
fn rule_42_what_a_client_proves_to_hold_is_not_sent_again() {
    let mut client = DeltaClient::new("cds:a cds:b eds:a eds:b lds:web rds:web");
    client.reconnect("cds", "", "a b").is_silent();
    client.reconnect("eds", "+a +b", "a b").is_silent();
    client.reconnect("lds", "", "web").is_silent();
    client.reconnect("rds", "+web", "web").is_silent();
    client.change("cds:a cds:b eds:a eds:b@2 lds:web rds:web").says(&expect!["eds: b@2"]);
}

#[test]
fn rule_42_what_changed_came_or_went_meanwhile_is_sent() {
    let mut client = DeltaClient::new("cds:a@2 cds:new eds:a lds:web rds:web");
    client.reconnect("cds", "", "a old").says(&expect!["cds: a@2 new"]);
    client.ack("cds").reconnect("lds", "", "web").is_silent();
    client.reconnect("rds", "+web", "web").says(&expect!["cds: -old"]);
}

#[test]
fn rule_42_what_went_meanwhile_goes_in_the_end_though_nothing_else_is_asked_for() {
    let mut client = DeltaClient::new("cds:a");
    client.reconnect("cds", "", "a old").is_silent();
    assert!(client.stream.is_waiting());
    let responses = client.stream.on_timeout();
    client.receive(responses).says(&expect!["cds: -old"]);
}

#[test]
fn rule_42_after_a_reconnection_clusters_go_last_too() {
    let mut client = DeltaClient::new("cds:a eds:a lds:web rds:web@a");
    client.reconnect("lds", "", "web").reconnect("rds", "+web", "web@old").says(&expect!["rds: web@a"]);
    client.reconnect("cds", "", "a old").is_silent();
    client.ack("rds").says(&expect!["cds: -old"]);
}

#[test]
fn rule_49_what_changed_while_an_answer_was_awaited_is_sent_once_in_its_newest_form() {
    let mut client = DeltaClient::up("cds:a eds:a lds:web rds:web");
    client.change("cds:a eds:a@2 lds:web rds:web").says(&expect!["eds: a@2"]);
    client.change("cds:a eds:a@3 lds:web rds:web").change("cds:a eds:a@4 lds:web rds:web").is_silent();
    client.ack("eds").says(&expect!["eds: a@4"]);
}

#[test]
fn rule_48_a_large_answer_is_cut() {
    let large = "x".repeat(400_000);
    let mut client = DeltaClient::new(&format!("cds:a@{large} cds:b@{large} cds:c@{large}"));
    client.ask("cds", "");
    assert_eq!(client.log.len(), 2);
    client.ack("cds").ack("cds");
    assert_eq!(client.state("cds"), AckState::Acked);
}

#[test]
fn the_wait_for_clusters_ends_when_patience_does() {
    let mut client = DeltaClient::up("cds:a eds:a lds:web rds:web@a");
    client.change("cds:a cds:b eds:a eds:b lds:web rds:web@b").says(&expect!["cds: b"]);
    assert!(client.stream.is_waiting());
    let responses = client.stream.on_timeout();
    client.receive(responses).says(&expect!["rds: web@b"]);
    assert!(!client.stream.is_waiting());
}

#[test]
fn a_name_that_returns_before_it_was_taken_away_is_compared_with_what_the_client_has() {
    let mut client = DeltaClient::up("cds:a cds:b eds:a eds:b lds:web rds:web@b");
    client.change("cds:a eds:a lds:web rds:web@a").says(&expect!["rds: web@a"]);
    client.change("cds:a cds:b eds:a eds:b lds:web rds:web@b").is_silent();
    client.ack("rds").says(&expect!["rds: web@b"]);
}

#[test]
fn an_aggregate_that_replaces_a_cluster_waits_for_its_members_and_back_they_wait_for_it() {
    let mut client = DeltaClient::up("cds:u eds:u lds:web rds:web@u");
    client.change("cds:u@/p cds:p eds:p lds:web rds:web@u").says(&expect!["cds: p"]);
    client.ask("eds", "+p").ack("eds").says(&expect!["eds: p"]);
    client.ack("cds").says(&expect![[r#"
        cds: u@/p
        eds: -u"#]]);
    client.ack("cds").says(&expect![""]);
    client.change("cds:u eds:u lds:web rds:web@u").says(&expect![[r#"
        cds: u
        eds: u"#]]);
    client.ask("eds", "+u").says(&expect![""]);
    client.ack("eds").ack("cds").says(&expect!["cds: -p"]);
}

#[test]
fn an_aggregate_comes_with_its_first_members_and_waits_for_further_ones() {
    let mut client = DeltaClient::new("cds:u@/p cds:p eds:p");
    client.ask("cds", "").says(&expect!["cds: p u@/p"]);
    client.ask("eds", "+p").ack("eds").ack("cds").log.clear();
    client.change("cds:u@/p/q cds:p cds:q eds:p eds:q").says(&expect!["cds: q"]);
    client.ack("cds").says(&expect!["cds: u@/p/q"]);
}

#[test]
fn an_aggregate_whose_members_were_refused_is_not_told_of_them_and_holds_up_no_other_route() {
    let mut client = DeltaClient::up("cds:u eds:u lds:web lds:other rds:web@u rds:other@u");
    client.change("cds:u@/p cds:p eds:p lds:web lds:other rds:web@u rds:other@v");
    client.says(&expect!["cds: p"]);
    client.nack("cds", "no").says(&expect!["rds: other@v"]);
    client.ack("rds");
    client.change("cds:u@/p cds:p@2 eds:p lds:web lds:other rds:web@u rds:other@v");
    client.says(&expect!["cds: p@2"]);
    client.ack("cds").says(&expect![[r#"
        cds: u@/p
        eds: -u"#]]);
}

#[test]
fn rule_48_the_names_of_very_many_that_are_gone_are_cut_too() {
    let names: Vec<String> =
        (0..100_000).map(|number| format!("a-cluster-with-a-long-name-{number:032}")).collect();
    let versions = names.iter().map(|name| (name.clone(), "1".to_owned())).collect();
    let mut stream = DeltaStream::new(snapshot("cds:a"), &StreamContext::default());
    let request = DeltaDiscoveryRequest {
        type_url: ResourceType::Cluster.type_url().to_owned(),
        initial_resource_versions: versions,
        ..Default::default()
    };
    let first = stream.on_request(request.into()).expect("in order").remove(0);
    let ack = DeltaDiscoveryRequest {
        type_url: ResourceType::Cluster.type_url().to_owned(),
        response_nonce: first.nonce,
        ..Default::default()
    };
    assert_eq!(stream.on_request(ack.into()).expect("in order"), [], "routes may refer to them");
    let responses = stream.on_timeout();
    let sizes = responses.iter().map(|response| {
        frame::chunks(response.clone(), Variant::Delta, "").iter().map(bytes::Bytes::len).sum::<usize>()
    });
    assert!(sizes.clone().all(|size| size < 2 << 20), "{:?}", sizes.collect::<Vec<_>>());
    let mut removed: Vec<String> = responses.into_iter().flat_map(|response| response.removed).collect();
    removed.sort();
    assert!(removed == names, "{} are gone", removed.len());
}

#[test]
fn rule_48_a_first_answer_is_cut_into_pieces_that_can_be_refused_each() {
    // Each resource is half as large as a piece may be.
    let large = "x".repeat(MAX_PIECE / 2);
    let text = |content: &str| format!("cds:a@{large} cds:b@{large} cds:c@{large} cds:d@{large}{content}");
    let mut stream = DeltaStream::new(snapshot(&text("bad")), &StreamContext::default());
    let request =
        |request| DeltaDiscoveryRequest { type_url: ResourceType::Cluster.type_url().to_owned(), ..request };
    let responses = stream.on_request(request(Default::default()).into()).expect("in order");
    assert_eq!(responses.len(), 4);
    for response in &responses[..3] {
        let ack = DeltaDiscoveryRequest { response_nonce: response.nonce.clone(), ..Default::default() };
        assert_eq!(stream.on_request(request(ack).into()).expect("in order"), []);
    }
    let nack = DeltaDiscoveryRequest {
        response_nonce: responses[3].nonce.clone(),
        error_detail: error_detail("no"),
        ..Default::default()
    };
    assert_eq!(stream.on_request(request(nack).into()).expect("in order"), []);
    assert_eq!(stream.take_nacks()[0].names, ["d"]);
    let responses = stream.on_snapshot(snapshot(&text("good")));
    assert_eq!(responses.len(), 1, "only what was refused comes again");
}

#[test]
fn rule_54_all_virtual_hosts_are_sent_and_one_that_is_not_there_has_no_body() {
    let mut client = DeltaClient::new("vhds:web/a@a.example");
    client.ask("vhds", "").says(&expect!["vhds: web/a@a.example"]);
    client.ack("vhds").ask("vhds", "+web/b.example").says(&expect!["vhds: no web/b.example"]);
    client.ack("vhds").change("vhds:web/b@b.example").says(&expect!["vhds: web/b@b.example -web/a"]);
}

#[test]
fn rule_38_a_new_cluster_that_shares_endpoints_is_followed_by_them() {
    let mut client = DeltaClient::up("cds:a eds:a");
    client.change("cds:a cds:b@=a eds:a").says(&expect![[r#"
        cds: b@=a
        eds: a"#]]);
}

#[test]
fn a_type_of_which_nothing_exists_is_not_pending() {
    let mut client = DeltaClient::up("cds:a eds:a lds:web rds:web@a");
    client.ask("eds", "+none").says(&expect!["eds: -none"]);
    assert_eq!(client.state("eds"), AckState::Pending, "an absence is told, and acknowledged");
    client.ack("eds").is_silent();
    assert_eq!(client.state("eds"), AckState::Acked);
    let mut empty = DeltaClient::new("");
    empty.ask("eds", "").is_silent();
    assert_eq!(empty.state("eds"), AckState::Acked, "nothing is asked for");
    empty.ask("eds", "+none").ack("eds").log.clear();
    empty.change("eds:none").says(&expect!["eds: none"]);
    assert_eq!(empty.state("eds"), AckState::Pending);
}

#[test]
fn a_refusal_has_the_nonce_of_its_response() {
    let mut client = DeltaClient::new("cds:a");
    client.ask("cds", "").change("cds:a@2");
    client.nack("cds", "no");
    assert_eq!(client.stream.take_nacks().iter().map(|nack| nack.nonce).collect::<Vec<_>>(), [1]);
}
