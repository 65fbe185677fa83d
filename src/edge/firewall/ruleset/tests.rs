//! The text of the guard, without a kernel. See `tests/end_to_end/firewall.rs` for what the kernel
//! does with it, and `tests/end_to_end/firewall_services.rs` for what nft does.

use super::*;
use crate::config::native;

fn plan_of(text: &str) -> GuardPlan {
    let settings = native::parse("t", text).unwrap();
    GuardRules::of(&settings).plan().unwrap()
}

fn plan(firewall: &str) -> Result<GuardPlan, Fault> {
    let settings = native::parse("t", "[service.ssh]\nports = [\"22/tcp\"]\n").unwrap();
    let mut rules = GuardRules::of(&settings);
    rules.firewall.table = firewall.to_owned();
    rules.plan()
}

/// The rules of one chain.
fn chain(text: &str, name: &str) -> Vec<String> {
    let start = format!("\tchain {name} {{\n");
    let (_, rest) = text.split_once(&start).unwrap_or_else(|| panic!("no chain {name}: {text}"));
    let (rules, _) = rest.split_once("\n\t}\n").unwrap();
    rules.lines().map(|line| line.trim().to_owned()).collect()
}

#[test]
fn a_table_name_can_be_nothing_but_a_name() {
    for bad in ["", "a b", "a;", "a{", "1a", "a\nflush ruleset", "é", &"x".repeat(32)] {
        assert!(plan(bad).is_err(), "{bad:?}");
    }
    assert_eq!(plan("toctoc_2-a").unwrap().table(), "toctoc_2-a");
}

#[test]
fn a_reload_flushes_rules_and_leaves_the_sets_that_it_still_has() {
    let plan = plan("toctoc").unwrap();
    let begin = "add table inet toctoc\nflush table inet toctoc\n";
    assert!(plan.text().starts_with(&format!("{begin}table inet toctoc {{\n")));
    assert!(!plan.text().contains("delete") && !plan.text().contains("flush set"));
    let text = plan.text_without(&["to/old".to_owned()], &["v4/old".to_owned()]);
    let stale = "delete chain inet toctoc to/old\ndelete set inet toctoc v4/old\n";
    assert!(text.starts_with(&format!("{begin}{stale}table inet toctoc {{\n")), "{text}");
}

#[test]
fn a_grant_is_one_element_of_its_services_own_sets_whatever_the_ports() {
    let plan = plan_of(
        "[service.mosh]\nports = [\"22/tcp\", \"60000-61000/udp\"]\n\
         [service.net]\nports = [\"8080/tcp\"]\ngrant_prefix = [24, 56]\n",
    );
    let sets: Vec<String> = plan.sets().into_iter().collect();
    let expected = [
        "v4/mosh",
        "v4/net",
        "v4n24/net",
        "v4p/mosh",
        "v4p/net",
        "v6/mosh",
        "v6/net",
        "v6n56/net",
        "v6p/mosh",
        "v6p/net",
    ];
    assert_eq!(sets, expected);
    let text = plan.text();
    let net = chain(&text, "to/net");
    assert!(net.iter().any(|rule| rule.starts_with("ip saddr & 255.255.255.0 @v4n24/net ct mark")));
    assert!(
        net.iter().any(|rule| rule.starts_with("ip6 saddr & ffff:ffff:ffff:ff00:: @v6n56/net ct"))
    );
    assert!(chain(&text, "ask/tcp")[0].contains("22 : jump to/mosh, 8080 : jump to/net"));
    assert!(chain(&text, "ask/udp")[0].contains("60000-61000 : jump to/mosh"));
    assert!(!text.contains("interval") && !text.contains("size"));
}

#[test]
fn only_guarded_ports_and_the_silent_knock_port_are_filtered() {
    let text = plan_of("[service.dns]\nports = [\"53/udp\", \"22-30/tcp\", \"31/tcp\"]\n").text();
    for look in ["guard", "second"] {
        assert_eq!(
            chain(&text, &format!("{look}/tcp")).iter().find(|r| r.contains("!=")).unwrap(),
            "th dport != { 22-31 } accept",
            "neighbours are one range"
        );
        assert!(text.contains("th dport != { 53, 62201 } accept"));
    }
    let loud = plan_of("[knock]\nsilent = false\n[service.ssh]\nports = [\"22/tcp\"]\n").text();
    assert!(loud.contains("th dport != { 22 } accept") && !loud.contains("guard/udp"));
    let none = plan_of("").text();
    assert!(none.contains("th dport != { 62201 } accept") && !none.contains("guard/tcp"));
}

#[test]
fn overlapping_ranges_are_cut_into_pieces_and_time_grants_are_asked_first() {
    let mut settings = native::parse(
        "t",
        "[service.a]\nports = [\"100/tcp\"]\nform = \"once\"\n[service.b]\nports = [\"200/tcp\"]\n",
    )
    .unwrap();
    let range = |first, last| crate::core::types::PortRange { proto: Proto::Tcp, first, last };
    let ranges = [range(100, 200), range(150, 65_535)];
    for (service, range) in settings.services.iter_mut().zip(ranges) {
        service.ports = crate::core::service::ServicePorts::Listed(vec![range]);
    }
    let text = GuardRules::of(&settings).plan().unwrap().text();
    let map = "100-149 : jump to/a, 150-200 : jump port/tcp/150-200, 201-65535 : jump to/b";
    assert!(chain(&text, "ask/tcp")[0].contains(map), "{text}");
    assert_eq!(chain(&text, "port/tcp/150-200"), ["jump to/b", "jump to/a"]);
    assert!(text.contains("th dport != { 100-65535 } accept"));
}

#[test]
fn a_service_of_all_ports_leaves_its_exceptions_and_what_the_machine_needs() {
    let text = plan_of(
        "[service.ssh]\nports = [\"22/tcp\"]\n\
         [service.whole]\nports = [\"all\", \"!80/tcp\", \"!443/udp\"]\n",
    )
    .text();
    assert_eq!(chain(&text, "guard/tcp")[0], "th dport { 80 } accept");
    assert_eq!(chain(&text, "guard/udp")[0], "th dport { 68, 443, 546 } accept");
    let ask = chain(&text, "ask/tcp");
    assert!(ask[0].contains("22 : jump to/ssh") && ask[1] == "jump to/whole");
    assert_eq!(chain(&text, "ask/udp")[0], "jump to/whole");
    assert!(chain(&text, "outward")[1].contains("th sport != { 80 } "));
    let loud = plan_of("[knock]\nsilent = false\n[service.whole]\nports = [\"all\"]\n").text();
    assert_eq!(chain(&loud, "guard/udp")[0], "th dport { 68, 546, 62201 } accept");
    assert_eq!(chain(&loud, "guard/tcp")[0], "iif \"lo\" jump within");
}

#[test]
fn break_glass_addresses_are_listed_under_their_family_at_both_looks() {
    let text = plan_of(
        "[firewall]\nbreak_glass = [\"2001:db8::1\", \"192.0.2.1\"]\n\
         [service.a]\nports = [\"22/tcp\", \"53/udp\"]\n",
    )
    .text();
    for judge in ["judge/tcp", "judge/udp"] {
        let rules = chain(&text, judge);
        assert!(rules[0].starts_with("ip saddr { 192.0.2.1 } counter accept"), "{rules:?}");
        assert!(rules[1].starts_with("ip6 saddr { 2001:db8::1 } counter accept"), "{rules:?}");
    }
}

#[test]
fn the_marks_come_from_the_settings_and_only_ports_in_mark_mode_are_left_to_the_admin() {
    let text = plan_of(
        "[firewall]\nmark = 0x4\npending_mark = 0x40\n[service.ssh]\nports = [\"22/tcp\"]\n\
         [service.rdp]\nports = [\"3389/tcp\"]\nmode = \"mark\"\n",
    )
    .text();
    assert!(text.contains("ct mark and 0x44 == 0x4 accept"));
    assert!(text.contains("ct mark and 0xffffffbf or 0x4 counter accept"));
    let left = "\t\tiif != \"lo\" th dport { 3389 } ct mark and 0x44 == 0x0 accept comment \"mark mode\"\n\t\tcounter drop";
    assert_eq!(text.matches(left).count(), 2, "{text}");
    let guarded = plan_of("[service.ssh]\nports = [\"22/tcp\"]\n").text();
    assert!(!guarded.contains("mark mode"));
    let whole = plan_of(
        "[service.ssh]\nports = [\"22/tcp\"]\n\
         [service.whole]\nports = [\"all\"]\nmode = \"mark\"\n",
    )
    .text();
    assert!(whole.contains("th dport != { 22 } ct mark and 0x30000000 == 0x0 accept"), "{whole}");
    assert!(whole.contains("meta l4proto udp ct mark and 0x30000000 == 0x0 accept"), "{whole}");
}

#[test]
fn both_families_are_guarded_by_the_same_rules() {
    let text = plan_of(
        "[service.a]\nports = [\"22/tcp\"]\n[service.b]\nports = [\"23/tcp\"]\nform = \"once\"\n",
    )
    .text();
    let of = |word: &str| text.lines().filter(|line| line.contains(word)).count();
    for (four, six) in [
        ("@v4/a ", "@v6/a "),
        ("@v4p/a ", "@v6p/a "),
        ("@v4o/b ", "@v6o/b "),
        ("@v4pw/b ", "@v6pw/b "),
        ("ip saddr . th sport", "ip6 saddr . th sport"),
    ] {
        assert!(of(four) > 0 && of(four) == of(six), "{four} {six}");
    }
}

#[test]
fn a_forward_translates_flows_with_our_mark_and_a_plan_without_forwards_translates_nothing() {
    assert!(!plan("toctoc").unwrap().text().contains("nat"));
    let plan = plan_of(
        "[service.rdp]\nports = [\"22/tcp\"]\n\
         forward = [\"192.168.1.10:3389\", \"[fd00::10]:3389\"]\n",
    );
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
    let chains = plan.chains();
    assert_eq!(["inward", "arrival", "stray"].map(|name| chains[name].rules), [2, 3, 1]);
    // nft lists a rule that compares ports after `ct original` in a form that it cannot read.
    for line in text.lines().filter(|line| line.contains("ct original proto-dst")) {
        let (_, behind) = line.split_once("proto-dst").unwrap();
        assert!(!behind.contains("dport") && !behind.contains("daddr"), "{line}");
    }
}

#[test]
fn receipts_are_known_by_their_group_and_leave_from_the_knock_port_alone() {
    let text = plan_of("[knock]\nport = 4000\n").text();
    assert_eq!(chain(&text, "receipts")[1], "meta skgid 61137 goto receipt");
    let rules = chain(&text, "receipt");
    assert!(rules[0].starts_with("oif \"lo\" counter drop") && rules[1] == "udp sport 4000 accept");
    assert!(rules[2].starts_with("counter drop"));
    assert_eq!(plan_of("").services(), []);
}
