//! The state of the window, without a window.

use std::net::SocketAddr;

use toctoc::app::client::{Answer, GrantText, Refusal};

use super::*;

pub(crate) fn service(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

/// A profile `gate` with two services, of which rdp is the usual one.
pub(crate) fn gate() -> Listed {
    let ready = Ready {
        addresses: vec!["gate.example.org".into()],
        services: vec![service("ssh"), service("rdp")],
        usual_service: Some(service("rdp")),
        seconds_left: None,
    };
    Listed { name: "gate".into(), state: ListedState::Ready(ready) }
}

pub(crate) fn profiles(listed: Vec<Listed>) -> News {
    News::Profiles { listed: Ok(listed), default: None }
}

/// A window that has read these profiles.
pub(crate) fn model(listed: Vec<Listed>) -> Model {
    let mut model = Model::new();
    assert!(matches!(model.take_orders()[..], [Order::Refresh]));
    model.take(Instant::now(), profiles(listed));
    model
}

fn answer(gateway: &str, outcome: Outcome) -> Answer {
    let gateway: SocketAddr = gateway.parse().unwrap();
    Answer { gateway, outcome }
}

fn grant(port: u16, seconds: u32) -> Outcome {
    Outcome::Granted(GrantText {
        address: "192.0.2.7".into(),
        ports: vec![format!("{port}/tcp")],
        tcp_port: Some(port),
        seconds,
        until: "14:03:20".into(),
        once: false,
    })
}

fn target(name: &str) -> Target {
    Target { profile: "gate".into(), service: service(name) }
}

/// A grant of 30 s for this service.
pub(crate) fn granted(name: &str, port: u16) -> News {
    let each = vec![answer("198.51.100.4:62201", grant(port, 30))];
    News::Opened(target(name), Ok(Answers { overall: Overall::Done, each }))
}

pub(crate) fn refused(refusal: Refusal) -> News {
    let each = vec![answer("198.51.100.4:62201", Outcome::Refused(refusal))];
    News::Opened(target("ssh"), Ok(Answers { overall: Overall::Refused, each }))
}

pub(crate) fn silence() -> News {
    let each = vec![answer("198.51.100.4:62201", Outcome::Silence(3))];
    News::Opened(target("ssh"), Ok(Answers { overall: Overall::NoAnswer, each }))
}

fn opened(model: &Model) -> &Opened {
    let Shown::Opened(opened) = &model.shown else { panic!("no answer is shown") };
    opened
}

#[test]
fn a_knock_is_for_the_chosen_service_and_there_is_one_at_a_time() {
    let mut model = model(vec![gate()]);
    assert_eq!(model.service(), Some(service("rdp")));
    model.choose_service(service("ssh"));
    assert!(model.can_knock());
    model.knock();
    model.knock();
    let orders = model.take_orders();
    let [Order::Open(sent)] = &orders[..] else { panic!("one knock") };
    assert_eq!(*sent, target("ssh"));
    assert!(!model.can_knock());
    model.take(Instant::now(), silence());
    assert!(model.can_knock(), "it can be tried again");
}

#[test]
fn a_grant_runs_down_and_is_over_on_time() {
    let mut model = model(vec![gate()]);
    let begin = Instant::now();
    model.take(begin, granted("ssh", 22));
    let after = |seconds| begin + Duration::from_secs(seconds);
    let opened = opened(&model);
    assert_eq!(opened.left(after(0)), Some(Duration::from_secs(30)));
    assert_eq!(opened.left(after(29)), Some(Duration::from_secs(1)));
    assert_eq!(opened.left(after(30)), None);
    assert_eq!((opened.tone(after(29)), opened.tone(after(30))), (Tone::Good, Tone::Neutral));
}

#[test]
fn a_name_is_connected_to_only_if_each_of_its_addresses_is_open() {
    let mut model = model(vec![gate()]);
    let mut take = |overall, second| {
        let first = answer("198.51.100.4:62201", grant(22, 30));
        let each = vec![first, answer("[2001:db8::4]:62201", second)];
        let answers = Answers { overall, each };
        model.take(Instant::now(), News::Opened(target("ssh"), Ok(answers)));
        let (kind, place) = opened(&model).program().expect("a program");
        assert_eq!((kind, place.alias.as_str(), place.port), (Kind::Ssh, "gate.example.org", 22));
        (place.host.clone(), opened(&model).total.as_secs())
    };
    assert_eq!(take(Overall::Done, grant(22, 20)), ("gate.example.org".into(), 20));
    for second in [Outcome::Silence(1), Outcome::Refused(Refusal::Denied)] {
        assert_eq!(take(Overall::Partly, second), ("198.51.100.4".into(), 30));
    }
}

#[test]
fn refused_and_unknown_look_different_from_open_and_lead_to_no_connection() {
    let mut model = model(vec![gate()]);
    for (news, tone) in [(refused(Refusal::Denied), Tone::Bad), (silence(), Tone::Unknown)] {
        let now = Instant::now();
        model.take(now, news);
        assert_eq!(opened(&model).tone(now), tone);
        assert!(opened(&model).program().is_none() && opened(&model).left(now).is_none());
    }
}

#[test]
fn the_first_start_opens_the_form_and_a_new_key_needs_the_same_passphrase_twice() {
    let mut model = model(Vec::new());
    assert!(matches!(model.take_orders()[..], [Order::FindKey]));
    model.form.as_mut().unwrap().line = Zeroizing::new(" toctoc:line \n".into());
    model.join();
    assert!(model.take_orders().is_empty(), "it is not known yet if there is a key");
    model.take(Instant::now(), News::Key(false));
    let form = model.form.as_mut().unwrap();
    form.passphrase = Zeroizing::new("one".into());
    model.join();
    assert!(model.take_orders().is_empty(), "the passphrases differ");
    model.form.as_mut().unwrap().repeated = Zeroizing::new("one".into());
    model.join();
    let orders = model.take_orders();
    let [Order::Join { line, new_key: Some(key) }] = &orders[..] else { panic!("no join") };
    assert_eq!((line.as_str(), key.as_str()), ("toctoc:line", "one"));

    model.take(Instant::now(), News::Joined(Ok(Joined::Profile("gate".into()))));
    assert!(model.form.is_none() && model.busy.is_none());
    assert!(matches!(model.take_orders()[..], [Order::Refresh]));
    let other = Listed { name: "another".into(), state: ListedState::Pending };
    model.take(Instant::now(), profiles(vec![other, gate()]));
    assert_eq!(model.chosen().unwrap().name, "gate", "the new profile is chosen");
}

#[test]
fn a_refused_invitation_leaves_the_form_open_and_a_pending_one_asks_again() {
    let mut model = model(Vec::new());
    model.take(Instant::now(), News::Joined(Ok(Joined::Refused(JoinRefusal::Denied, "no".into()))));
    assert!(model.form.is_some() && matches!(model.shown, Shown::JoinRefused(..)));
    let pending = Joined::Pending { name: "gate".into(), approval: "approve me".into() };
    model.take(Instant::now(), News::Joined(Ok(pending)));
    assert!(model.form.is_none() && matches!(model.shown, Shown::Pending(_)));
    let waiting = Listed { name: "gate".into(), state: ListedState::Pending };
    model.take(Instant::now(), profiles(vec![waiting]));
    model.take_orders();
    assert!(!model.can_knock());
    model.ask_again();
    let orders = model.take_orders();
    assert!(matches!(&orders[..], [Order::AskAgain(name)] if name == "gate"));
}

#[test]
fn the_same_profile_stays_chosen_when_the_list_is_read_again() {
    let other = || Listed { name: "a".into(), state: ListedState::Pending };
    let mut model = model(vec![other(), gate()]);
    model.choose(1);
    model.choose_service(service("ssh"));
    let third = Listed { name: "b".into(), state: ListedState::Pending };
    model.take(Instant::now(), profiles(vec![other(), third, gate()]));
    assert_eq!(model.chosen().unwrap().name, "gate");
    assert_eq!(model.service(), Some(service("ssh")));
}
