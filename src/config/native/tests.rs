//! Every error with its place and remedy; printing and reading again changes nothing.

use proptest::prelude::*;

use super::*;
use crate::config::{
    DisconnectPolicy, Forward, GrantKind, Hook, LogForm, LogSettings, LogTarget, MetricsPlace,
    MetricsSettings, Mode, Service, ServiceCommands, SourceRule,
};
use crate::config::{defaults, print};
use crate::core::event::EventKind;
use crate::core::prefix::{Prefix, Span, Spans};
use crate::core::service::ServicePorts;
use crate::core::types::{Port, PortRange, Proto, ServiceName};

fn complaint(text: &str) -> (String, String) {
    let fault = parse("t.toml", text).expect_err(text);
    (fault.what, fault.remedy)
}

#[test]
fn more_interfaces_than_can_be_captured_are_refused() {
    let names = |count| (0..count).map(|n| format!("\"e{n}\"")).collect::<Vec<_>>().join(", ");
    let text = |count| format!("[knock]\ninterfaces = [{}]\n", names(count));
    assert!(parse("t.toml", &text(256)).is_ok());
    let (what, remedy) = complaint(&text(257));
    assert_eq!(what, "t.toml:2:14: `interfaces` names 257; at most 256 can be captured");
    assert!(remedy.contains("\"any\""), "{remedy}");
}

#[test]
fn an_empty_file_means_the_defaults() {
    assert_eq!(parse("t.toml", "").unwrap(), defaults::settings());
}

#[test]
fn the_template_is_the_defaults_with_one_example_of_each_kind_of_section() {
    let mut read = parse("toctocd.toml", print::TEMPLATE).unwrap();
    let ssh = Port { proto: Proto::Tcp, number: 22 };
    let command_service = read.services.pop().unwrap();
    assert!(command_service.commands.is_some());
    let name = command_service.name;
    let without_commands = Service { commands: None, ..command_service };
    assert_eq!(without_commands, defaults::service(name, ServicePorts::Listed(Vec::new())));
    let name = ServiceName::new("ssh").unwrap();
    assert_eq!(read.services, [defaults::service(name, [ssh][..].into())]);
    let least = "[service.ssh]\nports = [\"22/tcp\"]\n\
        [door.side]\nsequence = [\"7321/tcp\", \"8432/udp\", \"9543/tcp\"]\nservice = \"ssh\"\n";
    assert_eq!(read.doors, parse("t.toml", least).unwrap().doors);
    read.services.clear();
    read.doors.clear();
    assert_eq!(read.hooks.len(), 1);
    read.hooks.clear();
    assert_eq!(read, defaults::settings());
}

#[test]
fn init_writes_the_template_with_its_examples_commented_out() {
    let written = print::print_commented(&defaults::settings());
    assert_eq!(parse("t.toml", &written).unwrap(), defaults::settings());
    for (written, template) in written.lines().zip(print::TEMPLATE.lines()) {
        assert_eq!(written.trim_start_matches("# "), template.trim_start_matches("# "));
    }
    assert_eq!(written.lines().count(), print::TEMPLATE.lines().count());
}

#[test]
fn every_key_of_the_template_has_a_comment_above_it() {
    let lines: Vec<&str> = print::TEMPLATE.lines().collect();
    for pair in lines.windows(2) {
        if pair[1].contains(" = ") && !pair[1].starts_with('#') {
            assert!(pair[0].starts_with("# "), "no comment above {:?}", pair[1]);
        }
    }
    assert!(lines.iter().filter(|line| line.contains(" = ")).count() >= 55);
    assert!(lines.iter().all(|line| line.len() <= 100));
}

#[test]
fn a_whole_config_is_read_in_file_order() {
    let settings = parse(
        "t.toml",
        r#"
[gateway]
addresses = ["gate.example.org", "2001:db8::1"]
user = "nobody"
[knock]
port = 4000
interfaces = ["eth0", "wg0"]
silent = false
[firewall]
break_glass = ["192.0.2.9", "::ffff:192.0.2.10"]
[service.web]
ports = ["443/tcp", "443/udp"]
seconds = 7200
[service.ssh]
ports = ["22/tcp"]
form = "once"
source = "observed"
challenge = true
[classic]
knockd_conf = "/etc/knockd.conf"
"#,
    )
    .unwrap();
    assert_eq!(
        settings.services.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(),
        ["web", "ssh"]
    );
    assert_eq!(
        settings.services[0].max_seconds, 7200,
        "the default maximum follows a longer default"
    );
    assert_eq!(settings.firewall.break_glass[1], "192.0.2.10".parse::<IpAddr>().unwrap());
    assert_eq!(settings.classic, Some("/etc/knockd.conf".into()));
    assert!(settings.services[1].challenge && settings.services[1].form == GrantKind::Once);
}

#[test]
fn a_prefix_length_means_its_family() {
    for (value, v4, v6) in [
        ("32", 0, 0),
        ("128", 0, 0),
        ("24", 8, 0),
        ("64", 0, 64),
        ("[24, 64]", 8, 64),
        ("[56, 16]", 16, 72),
    ] {
        let text = format!("[service.a]\nports = [\"1/tcp\"]\ngrant_prefix = {value}\n");
        let Spans { v4: v4_span, v6: v6_span } = parse("t.toml", &text).unwrap().services[0].spans;
        assert_eq!((v4_span.ignored(), v6_span.ignored()), (v4, v6), "{value}");
    }
}

#[test]
fn a_service_has_the_mode_of_the_firewall_section_or_its_own() {
    let text = "[service.a]\nports = [\"1/tcp\"]\n[service.b]\nports = [\"2/tcp\"]\nmode = \"guard\"\n[firewall]\nmode = \"mark\"\nmark = 0x40\n";
    let settings = parse("t.toml", text).unwrap();
    assert_eq!(
        settings.services.iter().map(|s| s.mode).collect::<Vec<_>>(),
        [Mode::Mark, Mode::Guard]
    );
    assert_eq!(
        (settings.firewall.mark, settings.firewall.pending_mark),
        (0x40, defaults::firewall().pending_mark)
    );
    let printed = print::print_commented(&settings);
    assert!(
        printed.contains("\nmark = 0x40\n") && printed.contains("\nmode = \"guard\"\n"),
        "{printed}"
    );
}

#[test]
fn each_mistake_is_reported_with_its_place_and_a_remedy() {
    let cases: &[(&str, &str, &str)] = &[
        ("[knock]\nprot = 1\n", "t.toml:2:1: unknown key `prot`", "did you mean `port`?"),
        ("[knok]\nport = 1\n", "t.toml:1:2: unknown key `knok`", "did you mean `knock`?"),
        (
            "port = 1\n",
            "t.toml:1:1: unknown key `port`",
            "known here: include, gateway, knock, firewall, log, metrics, hook, service, door, classic",
        ),
        (
            "[knock]\nport = \"x\"\n",
            "t.toml:2:8: a whole number must stand here, not the text \"x\"",
            "",
        ),
        ("[knock]\nport = 70000\n", "t.toml:2:8: port = 70000 is out of range", "from 1 to 65535"),
        ("[knock]\nport = 0\n", "t.toml:2:8: port = 0 is out of range", "from 1 to 65535"),
        ("[knock]\nmax_age = -1\n", "t.toml:2:11: max_age = -1 is out of range", "from 1 to 3600"),
        ("[knock]\nport = 1\nport = 2\n", "t.toml:3:1: duplicate key", ""),
        ("[knock]\nport = \n", "t.toml:2:8: ", ""),
        ("[knock]\ninterfaces = []\n", "t.toml:2:14: `interfaces` is empty", "\"any\""),
        (
            "[knock]\ninterfaces = [\"eth0\", \"any\"]\n",
            "t.toml:2:23: `any` stands beside other interfaces",
            "alone",
        ),
        (
            "[knock]\ninterfaces = [\"a\", \"a\"]\n",
            "t.toml:2:20: this interface is named twice",
            "remove",
        ),
        (
            "[knock]\ninterfaces = [\"a/b\"]\n",
            "t.toml:2:15: `a/b` cannot stand in `interfaces`",
            "ip link",
        ),
        ("[knock]\nxdp = [\"any\"]\n", "t.toml:2:8: `any` stands in `xdp`", "name the interfaces"),
        (
            "[knock]\ninterfaces = [\"eth0\"]\nxdp = [\"eth0\", \"eth1\"]\n",
            "t.toml:3:16: `eth1` is in `xdp` and not in `interfaces`",
            "add it",
        ),
        ("[knock]\nxdp = [\"a\", \"a\"]\n", "t.toml:2:13: this interface is named twice", "remove"),
        ("[knock]\nxdp = [\"a/b\"]\n", "t.toml:2:8: `a/b` cannot stand in `xdp`", "ip link"),
        (
            "[knock]\nsilent = false\nxdp = [\"eth0\"]\n",
            "t.toml:3:7: `xdp` stands beside `silent = false`",
            "silent = true",
        ),
        (
            "[knock]\nsilent = 1\n",
            "t.toml:2:10: true or false must stand here, not the number `1`",
            "",
        ),
        (
            "[gateway]\nkey_file = \"k\"\n",
            "t.toml:2:12: `key_file` is not an absolute path",
            "slash",
        ),
        (
            "[gateway]\naddresses = [\"a b\"]\n",
            "t.toml:2:14: `a b` cannot stand in `addresses`",
            "host name",
        ),
        (
            "[gateway]\naddresses = [\"300.1.2.3\"]\n",
            "t.toml:2:14: `300.1.2.3` cannot stand",
            "host name",
        ),
        (
            "[gateway]\nuser = \"a b\"\n",
            "t.toml:2:8: `a b` cannot stand in `user`",
            "user of this machine",
        ),
        ("[firewall]\ntable = \"1x\"\n", "t.toml:2:9: `1x` cannot stand in `table`", "a letter"),
        (
            "[knock]\nalso_grant = [\"10.0.0.1/32\", \"10.0.0.1\"]\n",
            "t.toml:2:30: `10.0.0.1` is not a prefix for `also_grant`",
            "\"203.0.113.7/32\"",
        ),
        (
            "[firewall]\nbreak_glass = [\"10.0.0.0/8\"]\n",
            "t.toml:2:16: not an IP address",
            "192.0.2.7",
        ),
        (
            "[firewall]\nmode = \"gaurd\"\n",
            "t.toml:2:8: unknown mode `gaurd`",
            "did you mean `guard`?",
        ),
        ("[firewall]\nmark = 0x30\n", "t.toml:2:8: mark = 0x30 is not one bit", "0x10000000"),
        (
            "[firewall]\nmark = 0x1_0000_0000\n",
            "t.toml:2:8: mark = 4294967296 is out of range",
            "from 1",
        ),
        (
            "[firewall]\nmark = 0x20000000\n",
            "t.toml:2:8: mark and pending_mark are the same bit",
            "nobody else",
        ),
        ("[service.ssh]\n", "t.toml:1:10: service `ssh` has no ports", "22/tcp"),
        ("[service.ssh]\nports = []\n", "t.toml:2:9: service `ssh` has no ports", "22/tcp"),
        ("[service.SSH]\nports = [\"22/tcp\"]\n", "t.toml:1:10: not a service name", "a-z"),
        ("[service.ssh]\nports = [\"22\"]\n", "t.toml:2:10: `22` is not a port", "22/tcp"),
        (
            "[service.ssh]\nports = [\"+22/tcp\"]\n",
            "t.toml:2:10: `+22/tcp` is not a port",
            "22/tcp",
        ),
        ("[service.ssh]\nports = [\"0/tcp\"]\n", "t.toml:2:10: `0/tcp` is not a port", "22/tcp"),
        (
            "[service.ssh]\nports = [\"62201/udp\"]\n",
            "t.toml:2:10: 62201/udp is already taken by the knock port itself",
            "one",
        ),
        (
            "[service.a]\nports = [\"22/tcp\"]\n[service.b]\nports = [\"1/tcp\", \"22/tcp\"]\n",
            "t.toml:4:19: 22/tcp is already taken by service `a`",
            "one service",
        ),
        (
            "[service.b]\nports = [\"20-23/tcp\"]\n[service.a]\nports = [\"22/udp\", \"23-30/tcp\"]\n",
            "t.toml:4:20: 23-30/tcp overlaps 20-23/tcp of service `b`",
            "one service",
        ),
        (
            "[service.a]\nports = [\"20-30/tcp\", \"22/tcp\"]\n",
            "t.toml:2:23: 22/tcp overlaps 20-30/tcp of service `a`",
            "once",
        ),
        (
            "[service.a]\nports = [\"22/tcp\", \"22/tcp\"]\n",
            "t.toml:2:20: 22/tcp overlaps 22/tcp of service `a`",
            "once",
        ),
        ("[service.a]\nports = [\"9-8/tcp\"]\n", "t.toml:2:10: `9-8/tcp` is not a port", "rising"),
        ("[service.a]\nports = [\"8-8/tcp\"]\n", "t.toml:2:10: `8-8/tcp` is not", "rising"),
        ("[service.a]\nports = [\"0-8/tcp\"]\n", "t.toml:2:10: `0-8/tcp` is not", "from 1"),
        (
            "[service.a]\nports = [\"62000-62300/udp\"]\n",
            "t.toml:2:10: 62000-62300/udp contains the knock port, 62201/udp",
            "leave it out: \"62000-62200/udp\", \"62202-62300/udp\"",
        ),
        (
            "[service.a]\nports = [\"62201-62300/udp\"]\n",
            "t.toml:2:10: 62201-62300/udp contains",
            "leave it out: \"62202-62300/udp\"",
        ),
        (
            "[knock]\nport = 65535\n[service.a]\nports = [\"65534-65535/udp\"]\n",
            "t.toml:4:10: 65534-65535/udp contains the knock port",
            "leave it out: \"65534/udp\"",
        ),
        (
            "[service.a]\nports = [\"all\", \"80/tcp\"]\n",
            "t.toml:2:17: `80/tcp` beside \"all\"",
            "with a !",
        ),
        ("[service.a]\nports = [\"!80/tcp\"]\n", "t.toml:2:10: `!80/tcp` is not a port", "\"all\""),
        ("[service.a]\nports = [\"all\", \"!x\"]\n", "t.toml:2:17: `x` is not a port", "22/tcp"),
        ("[service.a]\nports = [\"all\", \"all\"]\n", "t.toml:2:17: `all` beside \"all\"", "alone"),
        (
            "[service.a]\nports = [\"all\"]\n[service.b]\nports = [\"all\"]\n",
            "t.toml:4:10: all ports are already taken by service `a`",
            "only one",
        ),
        (
            "[service.a]\nports = [\"all\"]\nform = \"once\"\n",
            "t.toml:3:8: form = \"once\" works for TCP only",
            "time",
        ),
        (
            "[service.a]\nports = [\"20-30/tcp\"]\nforward = \"10.0.0.9:1\"\n",
            "t.toml:3:11: a service that forwards has one port",
            "one service",
        ),
        (
            "[service.d]\nports = [\"53/udp\"]\nform = \"once\"\n",
            "t.toml:3:8: form = \"once\" works for TCP only",
            "form = \"time\"",
        ),
        (
            "[service.d]\nports = [\"1/tcp\"]\nform = \"onec\"\n",
            "t.toml:3:8: unknown form `onec`",
            "did you mean `once`?",
        ),
        (
            "[service.d]\nports = [\"1/tcp\"]\nseconds = 60\nmax_seconds = 59\n",
            "t.toml:4:15: max_seconds (59) is less than seconds (60)",
            "raise",
        ),
        (
            "[service.d]\nports = [\"1/tcp\"]\nsource = [\"10.0.0.1/8\"]\n",
            "t.toml:3:10: \"10.0.0.1/8\" is not a prefix",
            "no bits set after its length",
        ),
        (
            "[service.d]\nports = [\"1/tcp\"]\nforward = \"10.0.0.9\"\n",
            "t.toml:3:11: \"10.0.0.9\" is not an inner host",
            "3389",
        ),
        (
            "[service.d]\nports = [\"1/tcp\"]\nforward = \"127.0.0.1:9\"\n",
            "t.toml:3:11: \"127.0.0.1:9\" is not",
            "3389",
        ),
        (
            "[service.d]\nports = [\"1/tcp\"]\nforward = [\"10.0.0.9:1\", \"10.0.0.8:1\"]\n",
            "t.toml:3:11: `forward` needs",
            "split",
        ),
        (
            "[service.d]\nports = [\"1/tcp\", \"2/tcp\"]\nforward = \"10.0.0.9:1\"\n",
            "t.toml:3:11: a service that",
            "one service",
        ),
        (
            "[service.d]\nports = [\"1/tcp\"]\nmasquerade = true\n",
            "t.toml:3:14: masquerade without",
            "forward",
        ),
        (
            "[service.d]\nports = [\"1/tcp\"]\nsource = []\n",
            "t.toml:3:10: `source` lists none",
            "list of prefixes",
        ),
        (
            "[service.d]\nports = [\"1/tcp\"]\nsource = [7]\n",
            "t.toml:3:10: 7 is not a prefix",
            "203.0.113.0/24",
        ),
        (
            "[service.d]\nports = [\"1/tcp\"]\nsource = 7\n",
            "t.toml:3:10: `source` is neither",
            "bound",
        ),
        (
            "[service.d]\nports = [\"1/tcp\"]\ngrant_prefix = 47\n",
            "t.toml:3:16: grant_prefix = 47 is not a length that can be granted",
            "[24, 64]",
        ),
        (
            "[service.d]\nports = [\"1/tcp\"]\ngrant_prefix = [24, 16]\n",
            "t.toml:3:16: grant_prefix has two lengths for one family",
            "48 to 128",
        ),
        (
            "[service.d]\nports = [\"1/tcp\"]\ngrant_prefix = []\n",
            "t.toml:3:16: grant_prefix is an empty list",
            "16 to 32",
        ),
        (
            "[service.d]\nports = [\"1/tcp\"]\ngrant_prefix = \"/24\"\n",
            "t.toml:3:16: grant_prefix = \"/24\" is not",
            "16 to 32",
        ),
        (
            "[service.d]\nports = [\"1/tcp\"]\ncut = \"no\"\n",
            "t.toml:3:7: unknown cut `no`",
            "never",
        ),
        (
            "[service.d]\nports = [\"1/tcp\"]\nsource = \"any\"\n",
            "t.toml:3:10: unknown source `any`",
            "known here: bound",
        ),
        (
            "[classic]\nknockd_conf = \"x\"\n",
            "t.toml:2:15: `knockd_conf` is not an absolute path",
            "slash",
        ),
        ("service = 3\n", "t.toml:1:11: a section must stand here, not the number `3`", ""),
    ];
    for (text, what, remedy) in cases {
        let (said, to_do) = complaint(text);
        assert!(said.starts_with(what), "{text}\nsaid:   {said}\nwanted: {what}");
        assert!(to_do.contains(remedy), "{text}\nremedy: {to_do}\nwanted: {remedy}");
        assert!(!to_do.is_empty(), "{text}: no remedy");
    }
}

fn service(index: usize) -> impl Strategy<Value = Service> {
    let port = 1 + 10 * u16::try_from(index).unwrap();
    (
        "[a-z0-9._-]{1,20}",
        proptest::collection::btree_set(0..10_u16, 1..=4),
        any::<bool>(),
        (1..86_400_u32, 0..500_000_u32, 1..65_535_u32),
        any::<(bool, bool)>(),
        prop_oneof![
            Just(DisconnectPolicy::Never),
            Just(DisconnectPolicy::Revoked),
            Just(DisconnectPolicy::Closed)
        ],
        prop_oneof![
            Just(SourceRule::Bound),
            Just(SourceRule::Observed),
            Just(SourceRule::Within(
                ["192.0.2.0/25", "2001:db8::/48"].map(|text| Prefix::parse(text).unwrap()).into()
            )),
        ],
    )
        .prop_map(
            move |(
                name,
                ports,
                once,
                (seconds, more, max_grants),
                (observed, challenge),
                cut,
                source,
            )| {
                Service {
                    mode: if max_grants % 2 == 0 { Mode::Guard } else { Mode::Mark },
                    name: ServiceName::new(&format!("{name}-{index}")).unwrap(),
                    commands: None,
                    forward: (ports.len() == 1 && observed).then(|| Forward {
                        to: ["192.168.1.10:3389", "[fd00::10]:3389"].map(|to| to.parse().unwrap())
                            [..1 + usize::from(once)]
                            .into(),
                        masquerade: challenge,
                    }),
                    ports: ServicePorts::Listed(
                        ports
                            .into_iter()
                            .map(|n| PortRange {
                                proto: Proto::Tcp,
                                first: port + 40 * n,
                                last: port + 40 * n + if observed { 0 } else { 9 },
                            })
                            .collect(),
                    ),
                    form: if once { GrantKind::Once } else { GrantKind::Time },
                    seconds,
                    max_seconds: seconds + more,
                    max_grants,
                    source: source.clone(),
                    spans: Spans {
                        v4: Span::of_prefix(32 - u8::from(observed), false).unwrap(),
                        v6: Span::of_prefix(128 - 64 * u8::from(once), true).unwrap(),
                    },
                    challenge,
                    cut,
                }
            },
        )
}

/// A service of commands, with arguments such as no shell would leave alone.
fn of_commands() -> impl Strategy<Value = Service> {
    let argv = || proptest::collection::vec("[ -~é\n\t]{0,30}|%IP%", 0..5);
    (argv(), argv(), service(9)).prop_map(|(start, stop, service)| {
        let program = |argv: Vec<String>| [vec!["/usr/sbin/ipset".to_owned()], argv].concat();
        Service {
            commands: Some(ServiceCommands { start: program(start), stop: program(stop) }),
            ports: ServicePorts::Listed(Vec::new()),
            mode: Mode::Guard,
            form: GrantKind::Time,
            spans: Spans::HOSTS,
            cut: DisconnectPolicy::Never,
            forward: None,
            ..service
        }
    })
}

fn settings() -> impl Strategy<Value = Settings> {
    let gateway = (
        "/[ -~é\"\\\\\n]{0,20}",
        "/[a-z/]{1,20}",
        proptest::option::of("[a-z_]{1,20}"),
        proptest::collection::vec(
            "[a-z]{1,10}(\\.[a-z]{1,10})?|192\\.0\\.2\\.[1-9]|2001:db8::[1-9]",
            0..3,
        ),
    )
        .prop_map(|(key_file, other, user, addresses)| GatewaySettings {
            key_file: key_file.into(),
            clients_file: other.clone().into(),
            state_dir: other.clone().into(),
            state_on_tmpfs: true,
            control_socket: other.into(),
            user,
            addresses,
        });
    let knock =
        (1..=65_535_u16, any::<bool>(), 1..=3600_u32, 0..=3600_u32, 1..=10_000_u32, 1..=65_535_u32)
            .prop_map(|(port, silent, max_age, max_ahead, burst, max_grants)| KnockSettings {
                port,
                silent,
                max_age,
                max_ahead,
                burst,
                max_grants,
                also_grant: Prefix::parse("192.168.1.1/32")
                    .into_iter()
                    .filter(|_| silent)
                    .collect(),
                per_second: burst,
                xdp: if silent { vec!["eth1".into()] } else { Vec::new() },
                interfaces: if silent {
                    vec!["any".into()]
                } else {
                    vec!["eth0".into(), "br-1@x".into()]
                },
            });
    let firewall = ("[a-z][a-z0-9_]{0,20}", proptest::collection::vec(any::<IpAddr>(), 0..3))
        .prop_map(|(table, addresses)| FirewallSettings {
            nft: "/usr/sbin/nft".into(),
            mode: if table.len() % 2 == 0 { Mode::Guard } else { Mode::Mark },
            mark: 1 << (table.len() % 32),
            pending_mark: 1 << ((table.len() + 1) % 32),
            printed: format!("/{table}").into(),
            table,
            break_glass: addresses.into_iter().map(|a| a.to_canonical()).collect(),
        });
    let log = prop_oneof![
        Just(LogSettings { to: LogTarget::Stderr, form: LogForm::Json }),
        Just(LogSettings { to: LogTarget::Syslog, form: LogForm::Text }),
        "/[a-z \"]{1,9}"
            .prop_map(|path| LogSettings { to: LogTarget::File(path.into()), form: LogForm::Text }),
    ];
    let whole = (service(3), any::<bool>()).prop_map(|(service, public)| {
        let except = if public { vec!["80/tcp", "8000-8010/udp"] } else { Vec::new() };
        let except = except.into_iter().map(|text| PortRange::read(text).unwrap()).collect();
        let ports = ServicePorts::AllBut(except);
        Service { ports, form: GrantKind::Time, forward: None, ..service }
    });
    let services =
        (service(0), service(1), of_commands(), whole).prop_map(|(a, b, c, d)| vec![a, b, c, d]);
    let hook = ("[a-z._-]{1,9}", proptest::collection::vec("[ -~é\n\t]{0,9}", 0..3)).prop_map(
        |(name, mut words)| {
            words.insert(0, "/bin/tell".to_owned());
            Hook { name, events: vec![EventKind::Alarm, EventKind::Stop], run: words }
        },
    );
    let metrics = (any::<bool>(), 1..=3600_u32).prop_map(|(public, seconds)| MetricsSettings {
        listen: match public {
            true => Some(MetricsPlace::Tcp("[::1]:9180".parse().unwrap())),
            false => Some(MetricsPlace::Socket("/run/x".into())),
        },
        textfile: Some("/var/lib/x.prom".into()).filter(|_| public),
        seconds,
    });
    let reports = (log, metrics, proptest::option::of(hook));
    (gateway, knock, firewall, reports, services, proptest::option::of("/[a-z.]{1,9}")).prop_map(
        |(gateway, knock, firewall, (log, metrics, hook), services, classic)| Settings {
            gateway,
            knock,
            firewall,
            log,
            metrics,
            hooks: hook.into_iter().collect(),
            include: None,
            services,
            classic: classic.map(Into::into),
            doors: Vec::new(),
            unused_options: Vec::new(),
        },
    )
}

proptest! {
    #[test]
    fn settings_printed_read_back_the_same(settings in settings()) {
        for text in [print::print(&settings), print::print_commented(&settings)] {
            let read = parse("t.toml", &text).map_err(|e| TestCaseError::fail(format!("{e}\n{text}")))?;
            prop_assert_eq!(&read, &settings);
        }
    }

    #[test]
    fn no_text_makes_the_reader_panic(text in "[a-z\\[\\]=\"., \n0-9#é{}]{0,200}") {
        if let Err(fault) = parse("t.toml", &text) {
            prop_assert!(fault.what.starts_with("t.toml:"));
            prop_assert!(!fault.remedy.is_empty());
        }
    }
}

#[test]
fn seconds_may_be_written_as_people_write_times() {
    let with = |value: &str| {
        parse("t", &format!("[service.ssh]\nports = [\"22/tcp\"]\nseconds = {value}\n"))
    };
    for (value, seconds) in [("90", 90), ("\"90\"", 90), ("\"5m\"", 300), ("\"1h30m\"", 5400)] {
        assert_eq!(with(value).unwrap().services[0].seconds, seconds, "{value}");
    }
    for (value, said) in [
        ("\"soon\"", "must stand here, not the text \"soon\""),
        ("\"2d\"", "seconds = 172800 is out of range"),
        ("true", "a number of seconds, or a time as \"90s\", \"5m\" or \"1h\" must stand here"),
    ] {
        let fault = with(value).unwrap_err();
        assert!(fault.what.contains(said) && fault.what.starts_with("t:3:11: "), "{fault}");
    }
    let quoted = parse("t", "[knock]\nport = \"62201\"\n").unwrap_err();
    assert_eq!(quoted.what, "t:2:8: a number in quotes");
    assert_eq!(quoted.excerpt, "  |\n2 | port = \"62201\"\n  |        ^^^^^^^\n");
}
