//! The guard outlives restarts, reloads and foreign changes. See `firewall` for what it lets
//! through.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::harness::guarded::{
    DNS, Guarded, KNOCK, Repair, SSH, dns, element, rules, services, settings, ssh, start, track,
};
use crate::harness::{LONG, Net, SHORT, echoes};
use toctoc::config::FirewallSettings;
use toctoc::core::grants::{Change, Element};
use toctoc::core::service::GrantKind;
use toctoc::core::types::{Fault, Port, Proto};
use toctoc::edge::firewall::{self, GuardReport, GuardTask, TableChange, print_ruleset, unload};

const RDP: Port = Port { proto: Proto::Tcp, number: 3389 };

/// Makes a time grant for each family, an unused (IPv4) and a used (IPv6) one-connection grant, and
/// returns them as the gatekeeper would list them.
fn granted(it: &mut Guarded) -> Vec<Change> {
    let [(from4, _), (from6, to6)] = it.pairs();
    let mut live: Vec<Element> =
        [from4, from6].map(|from| it.grant(from, DNS, GrantKind::Time, 60_000)).into();
    live.extend([from4, from6].map(|from| it.grant(from, SSH, GrantKind::Once, 60_000)));
    assert!(it.net.client.tcp_reaches(ssh(to6), LONG));
    live.into_iter().map(|element| Change::Set { element, millis: 50_000 }).collect()
}

/// Checks the state that `granted` makes, with packets.
fn assert_granted(it: &mut Guarded, once_is_left: bool) {
    let [(_, to4), (_, to6)] = it.pairs();
    assert!(it.net.client.udp_reaches(dns(to4), LONG) && it.net.client.udp_reaches(dns(to6), LONG));
    assert!(!it.net.client.tcp_reaches(ssh(to6), SHORT), "a used grant was armed again");
    let timeout = if once_is_left { LONG } else { SHORT };
    assert_eq!(it.net.client.tcp_reaches(ssh(to4), timeout), once_is_left);
}

#[test]
fn a_restart_neither_cuts_nor_lengthens_nor_rearms_a_grant() {
    let mut it = Guarded::new();
    let live = granted(&mut it);
    let before = it.nft.list().unwrap();
    let mut session = it.net.client.connect(ssh(it.pairs()[0].1), LONG).unwrap();
    it.grant(it.pairs()[0].0, SSH, GrantKind::Once, 60_000);
    let mut it = it.restarted();
    let after = it.nft.list().unwrap();
    assert_eq!(after.len(), 3);
    for (element, left) in &after {
        let (_, had) = before.iter().find(|(other, _)| other == element).expect("it was granted");
        assert!(left <= had || element.form == GrantKind::Once, "{element:?} got longer");
    }
    let repair = it.restore(&live);
    assert_eq!((repair.reloaded, repair.removed), (false, 0));
    assert!(echoes(&mut session, LONG));
    assert_granted(&mut it, true);
}

#[test]
fn a_reload_guards_new_ports_frees_old_ones_and_keeps_grants_and_sessions() {
    let mut it = Guarded::new();
    let [(from, to), _] = it.pairs();
    it.grant(from, SSH, GrantKind::Time, 60_000);
    let mut session = it.net.client.connect(ssh(to), LONG).unwrap();
    let _rdp = it.net.gateway.tcp_echo(RDP.number);
    let rdp = SocketAddr::new(to, RDP.number);
    assert!(it.net.client.tcp_reaches(rdp, LONG));
    it.nft.reload(&settings(), &services(&[SSH, RDP])).unwrap();
    assert!(it.nft.take_changes().is_empty(), "our own change was reported");
    assert!(!it.net.client.tcp_reaches(rdp, SHORT));
    assert!(it.net.client.udp_reaches(dns(to), LONG));
    assert!(echoes(&mut session, LONG) && it.net.client.tcp_reaches(ssh(to), LONG));
    let renamed = FirewallSettings { table: "other".into(), ..settings() };
    assert!(it.nft.reload(&renamed, &services(&[SSH])).is_err());
    assert!(it.is_up());
}

#[test]
fn a_flush_is_noticed_with_its_author_and_undone_with_the_remaining_time() {
    let mut it = Guarded::new();
    let live = granted(&mut it);
    it.net.gateway.sh("nft flush ruleset");
    assert!(!it.is_up());
    let mut intruder =
        it.net.client.connect(ssh(it.pairs()[0].1), LONG).expect("there is no guard now");
    assert!(echoes(&mut intruder, LONG));
    assert_eq!(names(&it.nft.take_changes()), ["nft"]);
    let repair = it.restore(&live);
    assert_eq!(repair, Repair { reloaded: true, put_back: 2, removed: 0 });
    assert!(it.is_up() && it.nft.take_changes().is_empty(), "our own repair was reported");
    assert!(!echoes(&mut intruder, SHORT), "a connection without a grant survived the repair");
    assert!(it.nft.list().unwrap().iter().all(|(_, left)| (40_000..=50_000).contains(left)));
    assert_granted(&mut it, false);
}

#[test]
fn a_connection_made_while_the_table_was_gone_is_blocked_although_conntrack_knows_it() {
    let mut it = Guarded::new();
    track(&it.net);
    it.net.gateway.sh("nft delete table inet toctoc");
    let mut intruders =
        it.net.gateway_ips().map(|ip| it.net.client.connect(ssh(ip), LONG).unwrap());
    assert!(intruders.iter_mut().all(|intruder| echoes(intruder, LONG)));
    assert!(it.restore(&[]).reloaded);
    assert!(intruders.iter_mut().all(|intruder| !echoes(intruder, SHORT)));
}

fn names(noticed: &[TableChange]) -> Vec<&str> {
    assert!(noticed.iter().all(|one| one.pid != 0));
    noticed.iter().map(|one| one.program.as_str()).collect()
}

#[test]
fn every_change_in_our_table_is_noticed_and_repaired() {
    let mut it = Guarded::new();
    let live = granted(&mut it);
    let changes = [
        ("nft insert rule inet toctoc guard accept", true),
        ("nft add rule inet toctoc guard counter", true),
        ("nft flush chain inet toctoc judge/tcp", true),
        ("nft flush chain inet toctoc second", true),
        ("nft flush chain inet toctoc to/udp-53", true),
        (
            "nft delete table inet toctoc; nft add table inet toctoc; nft add chain inet toctoc guard",
            true,
        ),
        (
            "nft delete table inet toctoc; nft add table inet toctoc; nft add set inet toctoc v4/udp-53 '{ type mark; }'",
            true,
        ),
        ("nft add table inet toctoc '{ flags dormant; }'", true),
        ("nft add chain inet toctoc extra", true),
        ("nft flush set inet toctoc v4/udp-53", false),
        ("nft add element inet toctoc v6/udp-53 '{ fd90::99 }'", false),
        ("nft add element inet toctoc v4p/tcp-22 '{ 10.90.0.99 . 4000 timeout 1h }'", false),
    ];
    for (change, breaks_the_rules) in changes {
        it.net.gateway.sh(change);
        assert_eq!(it.is_up(), !breaks_the_rules, "{change}");
        assert!(!it.nft.take_changes().is_empty(), "{change}");
        assert_eq!(it.restore(&live).reloaded, breaks_the_rules, "{change}");
        assert!(it.is_up() && it.nft.take_changes().is_empty(), "{change}");
        let elements = it.nft.list().unwrap();
        let times = elements.iter().filter(|(element, _)| element.form == GrantKind::Time);
        assert_eq!(times.count(), 2, "{change}");
    }
    assert_granted(&mut it, false);
}

#[test]
fn our_own_changes_and_those_in_other_tables_are_not_reported() {
    let mut it = Guarded::new();
    it.net.gateway.sh(
        "nft add table inet other; nft add table ip toctoc; nft add chain ip toctoc guard; nft delete table ip toctoc",
    );
    granted(&mut it);
    assert!(it.nft.take_changes().is_empty() && it.is_up());
}

#[test]
fn a_flood_of_changes_that_overflows_the_watch_is_still_noticed() {
    let mut it = Guarded::new();
    let many: Vec<String> =
        (0..120_000u32).map(|n| format!("10.{}.{}.{}", n >> 16, (n >> 8) & 255, n & 255)).collect();
    let script = tempfile::NamedTempFile::new().unwrap();
    let text = format!(
        "add table inet other {{ set s {{ type ipv4_addr; elements = {{ {} }}; }}; }}\n",
        many.join(", ")
    );
    fs::write(script.path(), text).unwrap();
    it.net.gateway.sh(&format!("nft -f {} && nft flush ruleset", script.path().display()));
    assert!(it.nft.lost_changes());
    assert!(it.restore(&[]).reloaded);
}

#[test]
fn other_tables_are_never_touched() {
    let net = Net::new();
    net.gateway.sh("nft add table inet other; nft add chain inet other input '{ type filter hook input priority 0; policy accept; }'; \
                    nft add rule inet other input tcp dport 22 accept");
    let listing = || net.gateway.sh("nft -a list table inet other");
    let before = listing();
    let mut nft = start(&net, &settings());
    nft.restore(&[]).unwrap();
    assert_eq!(listing(), before);
    drop(nft);
    net.gateway.inside(|| unload(&rules(&settings(), &services(&[SSH])))).unwrap();
    assert_eq!(listing(), before);
    assert_eq!(net.gateway.sh("nft list tables").trim(), "table inet other");
}

#[test]
fn the_guard_is_removed_by_command_only_if_no_gateway_keeps_it() {
    let it = Guarded::new();
    let off = || it.net.gateway.inside(|| unload(&rules(&settings(), &services(&[SSH, DNS]))));
    let to = ssh(it.net.gateway_ips()[0]);
    let fault = off().expect_err("the running gateway would load it again");
    assert!(fault.what.contains("another toctocd already keeps"), "{fault}");
    assert!(!it.net.client.tcp_reaches(to, SHORT));
    let Guarded { nft, net, tcp: _tcp, udp: _udp } = it;
    drop(nft);
    let off = || net.gateway.inside(|| unload(&rules(&settings(), &services(&[SSH, DNS]))));
    off().unwrap();
    off().unwrap();
    assert!(net.client.tcp_reaches(to, LONG));
}

#[test]
fn the_printed_text_loads_to_the_same_guard_and_keeps_elements() {
    let mut it = Guarded::new();
    it.grant(it.pairs()[0].0, SSH, GrantKind::Time, 60_000);
    let text = print_ruleset(&rules(&settings(), &services(&[SSH, DNS]))).unwrap();
    it.net.gateway.sh(&format!("nft -f - <<'END'\n{text}END"));
    assert!(it.is_up());
    assert_eq!(it.nft.list().unwrap().len(), 1);
    it.net.gateway.sh(&format!("nft -f - <<'END'\nflush ruleset\n{text}END"));
    assert!(it.is_up() && it.nft.list().unwrap().is_empty());
    assert!(!it.net.client.udp_reaches(SocketAddr::new(it.pairs()[0].1, KNOCK), SHORT));
}

#[test]
fn thirty_reloads_of_a_file_that_includes_the_printed_text_let_no_attacker_through() {
    let it = Guarded::new();
    let included = tempfile::NamedTempFile::new().unwrap();
    let conf = tempfile::NamedTempFile::new().unwrap();
    fs::write(included.path(), print_ruleset(&rules(&settings(), &services(&[SSH, DNS]))).unwrap())
        .unwrap();
    let text = format!("flush ruleset\ninclude \"{}\"\n", included.path().display());
    fs::write(conf.path(), text).unwrap();
    let stop = AtomicBool::new(false);
    let over = || stop.load(Ordering::SeqCst);
    thread::scope(|scope| {
        for to in it.net.gateway_ips() {
            let (attacker, over) = (it.net.client.space.clone(), &over);
            // A new socket each time: the kernel repeats a SYN too slowly to hit a gap.
            scope.spawn(move || {
                while !over() {
                    let _ = attacker.connect(ssh(to), Duration::from_millis(1));
                }
            });
            let flood = it.net.client.space.udp(dns(to));
            scope.spawn(move || {
                while !over() {
                    let _ = flood.send(b"ping");
                    thread::yield_now();
                }
            });
        }
        for _ in 0..30 {
            it.net.gateway.sh(&format!("nft -f {}", conf.path().display()));
        }
        stop.store(true, Ordering::SeqCst);
    });
    assert_eq!((it.tcp.requests(), it.udp.requests()), (0, 0));
    assert!(it.dropped()["ask/udp"] > 0, "the attack did not take place");
}

#[test]
fn a_failed_start_names_its_cause_and_a_remedy() {
    let net = Net::new();
    let try_with = |settings: &FirewallSettings| -> Fault {
        net.gateway
            .inside(|| firewall::start(&rules(settings, &services(&[SSH]))).err())
            .expect("a fault")
    };
    let missing = try_with(&FirewallSettings { nft: PathBuf::from("/nowhere/nft"), ..settings() });
    assert!(missing.remedy.contains("install the nftables package"), "{missing}");
    let keyword = try_with(&FirewallSettings { table: "chain".into(), ..settings() });
    assert!(
        keyword.what.contains("syntax error") && keyword.remedy.contains("no keyword"),
        "{keyword}"
    );
    let unprivileged = net.gateway.inside(|| {
        capctl::CapState::empty().set_current().unwrap();
        firewall::start(&rules(&settings(), &services(&[SSH]))).err()
    });
    let unprivileged = unprivileged.expect("a fault");
    assert!(unprivileged.remedy.contains("CAP_NET_ADMIN"), "{unprivileged}");
}

#[test]
fn two_gateways_never_use_the_same_table_in_one_namespace() {
    let it = Guarded::new();
    let again = |table: &str| {
        let settings = FirewallSettings { table: table.into(), ..settings() };
        it.net.gateway.inside(|| firewall::start(&rules(&settings, &services(&[SSH]))))
    };
    let fault = again("toctoc").err().expect("refused");
    assert!(fault.what.contains("another toctocd already keeps the table `toctoc`"), "{fault}");
    assert!(
        !it.net.client.tcp_reaches(ssh(it.net.gateway_ips()[0]), SHORT),
        "the guard of the first gateway is gone"
    );
    assert!(again("other").is_ok());
    let elsewhere = Net::new();
    drop(start(&elsewhere, &settings()));
    drop(start(&elsewhere, &settings()));
}

/// An nft program that runs `before_list` before it lists, and otherwise is the real one.
fn interfering_nft(folder: &tempfile::TempDir, before_list: &str) -> FirewallSettings {
    let path = folder.path().join("nft");
    let text =
        format!("#!/bin/sh\n[ \"$1\" = -j ] && {{ {before_list}; }}\nexec /usr/sbin/nft \"$@\"\n");
    // Another process writes it: a descriptor of this process, inherited by a child of another
    // test, would make it "busy".
    let write = "printf %s \"$1\" >\"$0\" && chmod 755 \"$0\"";
    let done = Command::new("/bin/sh").args(["-c", write]).arg(&path).arg(text).status();
    assert!(done.expect("a shell").success());
    FirewallSettings { nft: path, ..settings() }
}

#[test]
fn a_foreign_change_between_loading_and_reading_back_is_never_taken_for_ours() {
    let folder = tempfile::tempdir().unwrap();
    let once = folder.path().join("once");
    let change_once = |change: &str| {
        format!("[ -e {0} ] || {{ : >{0}; /usr/sbin/nft {change}; }}", once.display())
    };
    // The second change keeps the number of rules: only its notification reveals it.
    let as_many = format!(
        "'flush chain inet toctoc opening{}'",
        "; add rule inet toctoc opening accept".repeat(3)
    );
    for change in ["insert rule inet toctoc guard accept", &as_many] {
        let _ = fs::remove_file(&once);
        let mut it = Guarded::with(&interfering_nft(&folder, &change_once(change)));
        assert!(!it.net.client.tcp_reaches(ssh(it.net.gateway_ips()[0]), SHORT), "{change}");
        assert_eq!(names(&it.nft.take_changes()), ["nft"], "{change}");
        assert!(it.is_up(), "{change}");
    }
}

#[test]
fn grants_go_on_while_a_job_hangs_and_its_changes_are_known_as_ours() {
    let folder = tempfile::tempdir().unwrap();
    let [hang, fifo] = ["hang", "fifo"].map(|name| folder.path().join(name));
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let script = format!("[ -e {0} ] && rm {0} && read x <{1}", hang.display(), fifo.display());
    let settings = interfering_nft(&folder, &script);
    let mut it = Guarded::with(&settings);
    let ended = it.grant(it.pairs()[0].0, DNS, GrantKind::Time, 60_000);
    for _ in 0..2 {
        fs::write(&hang, "").unwrap();
        let job = it.nft.job(GuardTask::Load(rules(&settings, &services(&[SSH, DNS]))));
        // Opens only when the program reads.
        let mut release = fs::File::create(&fifo).unwrap();
        let [(from, to), _] = it.pairs();
        let granted = it.grant(from, SSH, GrantKind::Time, 60_000);
        assert!(it.net.client.tcp_reaches(ssh(to), LONG));
        it.nft.apply(&[Change::Remove { element: ended }]).unwrap();
        assert!(it.nft.is_there() && !job.is_finished());
        assert_eq!(it.nft.take_changes(), []);
        release.write_all(b"\n").unwrap();
        let Ok(GuardReport::Loaded { elements, .. }) = job.join().unwrap() else {
            panic!("no list")
        };
        assert_eq!(elements.into_keys().collect::<Vec<_>>(), [granted]);
        assert_eq!(it.nft.take_changes(), []);
        it.nft.apply(&[Change::Remove { element: granted }]).unwrap();
    }
}

#[test]
fn verifying_rules_changes_nothing_and_an_unloaded_guard_is_not_there() {
    let mut it = Guarded::new();
    let good = rules(&settings(), &services(&[RDP]));
    assert_eq!(it.nft.run(GuardTask::Verify(good)), Ok(GuardReport::Verified));
    assert!(it.is_up() && it.nft.is_there());
    assert_eq!(it.nft.seen().unwrap().misfit, Some(None), "the rules are the old ones");
    let renamed = FirewallSettings { table: "other".into(), ..settings() };
    assert!(it.nft.run(GuardTask::Verify(rules(&renamed, &services(&[RDP])))).is_err());
    assert_eq!(it.nft.run(GuardTask::Unload), Ok(GuardReport::Unloaded));
    assert!(!it.nft.is_there() && it.nft.take_changes().is_empty());
}

#[test]
fn a_guard_that_keeps_being_changed_is_a_fault_and_not_up() {
    let (net, folder) = (Net::new(), tempfile::tempdir().unwrap());
    let start = |settings| {
        net.gateway.inside(|| firewall::start(&rules(&settings, &services(&[SSH]))).err())
    };
    let other_rules =
        start(interfering_nft(&folder, "/usr/sbin/nft insert rule inet toctoc guard accept"))
            .expect("a fault");
    assert!(other_rules.what.contains("rules instead of"), "{other_rules}");
    let element = "/usr/sbin/nft 'flush set inet toctoc v4/tcp-22; add element inet toctoc v4/tcp-22 { 10.9.9.9 }'";
    let changing = start(interfering_nft(&folder, element)).expect("a fault");
    assert!(changing.what.contains("another program keeps changing it"), "{changing}");
}

#[test]
fn a_guard_of_other_ports_is_never_taken_for_ours_even_if_no_change_was_announced() {
    let (net, folder) = (Net::new(), tempfile::tempdir().unwrap());
    // As after a lost notification: the listing shows a foreign guard.
    let wrong_listing =
        "/usr/sbin/nft \"$@\" | /usr/bin/sed 's/\"right\": 22}/\"right\": 2222}/g'; exit";
    let settings = interfering_nft(&folder, wrong_listing);
    let fault = net
        .gateway
        .inside(|| firewall::start(&rules(&settings, &services(&[SSH]))).err())
        .expect("a fault");
    assert!(fault.what.contains("it guards other ports"), "{fault}");
}

#[test]
fn a_packet_passes_as_many_rules_with_four_thousand_grants_as_with_none() {
    let mut it = Guarded::new();
    // Without elements and counters: chains, rules, and the types of the sets.
    let shape = |it: &Guarded| it.net.gateway.sh("nft -s -t list table inet toctoc");
    let before = shape(&it);
    let element = |n: u32| element(IpAddr::V4((0x0a00_0000 + n).into()), SSH, GrantKind::Time);
    let changes: Vec<Change> =
        (0..4000).map(|n| Change::Set { element: element(n), millis: 600_000 }).collect();
    it.nft.apply(&changes).unwrap();
    assert_eq!(it.nft.list().unwrap().len(), 4000);
    assert_eq!(shape(&it), before);
    // Interval sets would be searched, and copied at each change; these sets are hashed.
    assert!(!before.contains("interval"), "{before}");
}
