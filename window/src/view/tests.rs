//! The window as a screen reader and a keyboard have it: no screen is needed.

use egui_kittest::kittest::{NodeT, Queryable};
use egui_kittest::{Harness, Node};
use toctoc::app::client::{Listed, Refusal};

use super::*;
use crate::model::tests::{gate, granted, model, refused, silence};
use crate::worker::{News, Order};

type Shown = Harness<'static, View>;

fn shown(listed: Vec<Listed>, locale: &str) -> Shown {
    let view = View::new(model(listed), Settings::default(), locale);
    let size = egui::vec2(480.0, 560.0);
    let builder = Harness::builder().with_size(size).with_max_steps(20);
    let mut harness =
        builder.build_ui_state(|ui, view: &mut View| view.show(ui, Instant::now()), view);
    harness.run_steps(3);
    harness
}

fn take(harness: &mut Shown, news: News) {
    let now = Instant::now();
    harness.state_mut().model.take(now, news);
    harness.state_mut().after_news(now);
    harness.run_steps(3);
}

fn press(harness: &mut Shown, key: Key) {
    harness.key_press(key);
    harness.run_steps(3);
}

fn orders(harness: &mut Shown) -> Vec<Order> {
    harness.state_mut().model.take_orders()
}

fn label(node: &Node<'_>) -> String {
    node.accesskit_node().label().unwrap_or_default()
}

/// The names of what gets the keyboard, by the key Tab, once round.
fn tab_order(harness: &mut Shown) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for _ in 0..20 {
        press(harness, Key::Tab);
        let focused = harness.root().children_recursive().find(|node| node.is_focused());
        let Some(node) = focused else { continue };
        let name = label(&node);
        assert!(!name.is_empty(), "a widget without a name: {node:?}");
        if names.first() == Some(&name) {
            return names;
        }
        names.push(name);
    }
    panic!("the keyboard does not come round: {names:?}")
}

#[test]
fn enter_knocks_and_then_connects_to_what_was_granted() {
    let mut harness = shown(vec![gate()], "en");
    press(&mut harness, Key::Enter);
    assert!(matches!(orders(&mut harness)[..], [Order::Open(_)]));
    harness.get_by_label_contains("Knocking at gate.example.org");
    take(&mut harness, granted("ssh", 22));
    harness.get_by_label("✔ ssh is open");
    harness.get_by_label("192.0.2.7 may reach 22/tcp at 198.51.100.4 until 14:03:20.");
    assert!(harness.get_by_label("Connect").is_focused());
}

#[test]
fn every_result_is_announced_in_the_language_of_the_system() {
    for (locale, news, headline) in [
        ("de-DE", granted("ssh", 22), "✔ ssh ist offen"),
        ("fr_FR.UTF-8", refused(Refusal::Full), "✖ Refusé : rien n’a été ouvert"),
        ("en-US", silence(), "? No answer"),
        ("xx", refused(Refusal::Denied), "✖ Refused: nothing was opened"),
    ] {
        let mut harness = shown(vec![gate()], locale);
        take(&mut harness, news);
        let node = harness.get_by_label(headline);
        assert_eq!(node.accesskit_node().live(), egui::accesskit::Live::Polite, "{headline}");
        let title = harness.state().title(Instant::now());
        assert_eq!(format!("{} – toctoc", &headline[headline.find(' ').unwrap() + 1..]), title);
    }
}

#[test]
fn the_keyboard_reaches_everything_in_order_and_everything_has_a_name() {
    let mut harness = shown(vec![gate()], "en");
    let expected = ["Use an invitation …", "Language", "Profile", "Service", "Knock"];
    assert_eq!(tab_order(&mut harness), expected);
    take(&mut harness, granted("ssh", 22));
    let names = tab_order(&mut harness);
    for name in ["User name there (optional)", "Connect", "End the grant", "Knock"] {
        assert!(names.iter().any(|found| found == name), "no {name} in {names:?}");
    }
}

#[test]
fn a_grant_can_be_ended_and_the_bar_is_named() {
    let mut harness = shown(vec![gate()], "en");
    take(&mut harness, granted("rdp", 3389));
    harness.get_by_label_contains(" s left");
    harness.get_by_label("End the grant").click();
    harness.run_steps(3);
    assert!(matches!(orders(&mut harness)[..], [Order::Close(_)]));
}

#[test]
fn the_passphrase_is_asked_for_and_escape_gives_up() {
    for (key, expected) in [(Key::Enter, Some("secret")), (Key::Escape, None)] {
        let mut harness = shown(vec![gate()], "en");
        let place = "C:\\key".to_owned();
        take(&mut harness, News::Question { place, is_again: false });
        assert!(harness.get_by_role(egui::accesskit::Role::PasswordInput).is_focused());
        assert_eq!(harness.state().title(Instant::now()), "Passphrase wanted – toctoc");
        harness.event(egui::Event::Text("secret".into()));
        harness.run_steps(3);
        press(&mut harness, key);
        let answer = harness.state_mut().answer.take().expect("an answer");
        assert_eq!(answer.as_ref().map(|typed| typed.as_str()), expected);
        assert!(harness.state().model.question.is_none());
    }
}

#[test]
fn the_first_start_asks_for_an_invitation_and_enter_joins() {
    let mut harness = shown(Vec::new(), "en");
    take(&mut harness, News::Key(false));
    orders(&mut harness);
    harness.get_by_label_contains("begins with toctoc:");
    harness.get_by_label("New passphrase");
    harness.event(egui::Event::Text("toctoc:line".into()));
    harness.run_steps(3);
    press(&mut harness, Key::Enter);
    assert!(matches!(orders(&mut harness)[..], [Order::Join { .. }]));
}

#[test]
fn the_keyboard_chooses_another_service() {
    let mut harness = shown(vec![gate()], "en");
    assert_eq!(harness.state().model.service().unwrap().as_str(), "rdp");
    harness.key_press_modifiers(egui::Modifiers::SHIFT, Key::Tab);
    harness.run_steps(3);
    assert!(harness.get_by_label("Service").is_focused());
    press(&mut harness, Key::Enter);
    // The list: ssh, rdp.
    for key in [Key::ArrowDown, Key::Enter] {
        press(&mut harness, key);
    }
    assert_eq!(harness.state().model.service().unwrap().as_str(), "ssh");
    assert!(harness.get_by_label("Knock").is_focused(), "Enter knocks next");
    harness.run_steps(20);
    assert!(harness.query_by_label("rdp").is_none(), "the list is closed");
}
