//! The text of the guard, without a kernel. See `tests/end_to_end/firewall.rs` for what the kernel
//! does with it.

use super::*;
use crate::config::defaults;
use crate::core::service::Forward;
use crate::core::types::ServiceName;

fn plan(
    table: &str, ports: &[Port], silent: bool, break_glass: &[&str],
) -> Result<GuardPlan, Fault> {
    let settings = FirewallSettings {
        table: table.into(),
        break_glass: break_glass.iter().map(|ip| ip.parse().unwrap()).collect(),
        ..defaults::firewall()
    };
    let service = defaults::service(ServiceName::new("ssh").unwrap(), ports.to_vec());
    let knock = KnockSettings { silent, ..defaults::knock() };
    GuardPlan::new(&settings, &[service], &knock)
}

const SSH: Port = Port { proto: Proto::Tcp, number: 22 };

#[test]
fn a_table_name_can_be_nothing_but_a_name() {
    for bad in ["", "a b", "a;", "a{", "1a", "a\nflush ruleset", "é", &"x".repeat(32)] {
        assert!(plan(bad, &[SSH], true, &[]).is_err(), "{bad:?}");
    }
    assert_eq!(plan("toctoc_2-a", &[SSH], true, &[]).unwrap().table(), "toctoc_2-a");
}

#[test]
fn a_reload_flushes_rules_and_leaves_the_sets() {
    let text = plan("toctoc", &[SSH], true, &[]).unwrap().text();
    assert!(
        text.starts_with("add table inet toctoc\nflush table inet toctoc\ntable inet toctoc {\n")
    );
    assert!(!text.contains("delete table") && !text.contains("flush set"));
}

#[test]
fn only_guarded_ports_and_the_silent_knock_port_are_filtered() {
    let dns = Port { proto: Proto::Udp, number: 53 };
    let text = plan("toctoc", &[dns, SSH, SSH], true, &[]).unwrap().text();
    assert!(text.contains("th dport != { tcp . 22, udp . 53, udp . 62201 } accept"));
    let text = plan("toctoc", &[SSH], false, &[]).unwrap().text();
    assert!(text.contains("th dport != { tcp . 22 } accept") && !text.contains("62201"));
}

#[test]
fn break_glass_addresses_are_listed_under_their_family() {
    let text = plan("toctoc", &[SSH], true, &["2001:db8::1", "::ffff:192.0.2.1", "192.0.2.1"])
        .unwrap()
        .text();
    assert!(text.contains("\tip saddr { 192.0.2.1 } "));
    assert!(text.contains("\tip6 saddr { 2001:db8::1 } "));
}

#[test]
fn the_marks_come_from_the_settings_and_only_ports_in_mark_mode_are_left_to_the_admin() {
    let settings = FirewallSettings { mark: 0x4, pending_mark: 0x40, ..defaults::firewall() };
    let service = |name: &str, number, mode| Service {
        name: ServiceName::new(name).unwrap(),
        ports: vec![Port { proto: Proto::Tcp, number }],
        mode,
        ..crate::config::native::parse("t", "[service.x]\nports = [\"9/tcp\"]")
            .unwrap()
            .services
            .remove(0)
    };
    let both = [service("ssh", 22, Mode::Guard), service("rdp", 3389, Mode::Mark)];
    let text = GuardPlan::new(&settings, &both, &defaults::knock()).unwrap().text();
    assert!(
        text.contains("ct mark and 0x44 == 0x4 accept")
            && text.contains("ct mark and 0xffffffbf or 0x4 counter accept")
    );
    let left = "\t\tmeta l4proto . th dport { tcp . 3389 } ct mark and 0x44 == 0x0 accept comment \"mark mode\"\n\t\tcounter drop";
    assert_eq!(text.matches(left).count(), 3, "{text}");
    let guarded = GuardPlan::new(&settings, &both[..1], &defaults::knock()).unwrap().text();
    assert!(!guarded.contains("mark mode") && !guarded.contains("== 0x0"));
}

#[test]
fn both_families_are_guarded_by_the_same_rules() {
    let text = plan("toctoc", &[SSH], true, &[]).unwrap().text();
    let of = |word: &str| text.lines().filter(|line| line.contains(word)).count();
    for (four, six) in [
        ("@time4 ", "@time6 "),
        ("@once4p ", "@once6p "),
        ("@oncesyn4 ", "@oncesyn6 "),
        ("ip saddr", "ip6 saddr"),
    ] {
        assert!(of(four) > 0 && of(four) == of(six), "{four} {six}");
    }
}

#[test]
fn nets_are_looked_up_only_if_a_service_grants_them() {
    let of = |span| {
        let services =
            [Service { span, ..defaults::service(ServiceName::new("ssh").unwrap(), vec![SSH]) }];
        GuardPlan::new(&defaults::firewall(), &services, &defaults::knock()).unwrap().text()
    };
    assert!(of(Span::Host).contains("set time6n") && !of(Span::Host).contains("@time6n"));
    assert!(
        of(Span::Net64)
            .contains("ip6 saddr & ffff:ffff:ffff:ffff:: . meta l4proto . th dport @time6n")
    );
}

#[test]
fn a_forward_translates_flows_with_our_mark_and_a_plan_without_forwards_translates_nothing() {
    let of = |forward| {
        let services =
            [Service { forward, ..defaults::service(ServiceName::new("rdp").unwrap(), vec![SSH]) }];
        GuardPlan::new(&defaults::firewall(), &services, &defaults::knock()).unwrap()
    };
    assert!(!of(None).text().contains("nat"));
    let to = vec!["192.168.1.10:3389".parse().unwrap(), "[fd00::10]:3389".parse().unwrap()];
    let plan = of(Some(Forward { to, masquerade: false }));
    let text = plan.text();
    assert!(
        text.contains("dnat ip to 192.168.1.10:3389")
            && text.contains("dnat ip6 to [fd00::10]:3389")
    );
    assert!(
        text.lines()
            .filter(|line| line.contains("dnat"))
            .all(|line| line.contains("ct mark and 0x10000000 == "))
    );
    assert!(!text.contains("masquerade"));
    assert_eq!(["inward", "arrival", "stray"].map(|name| plan.rules()[name]), [2, 3, 1]);
}
