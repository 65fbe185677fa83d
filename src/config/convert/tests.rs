//! Conversions are parsed again, and must mean what the old doors meant.

use super::services::BY_HAND;
use super::*;
use crate::config::{knockd, native};
use crate::core::door::TcpFlags;
use crate::core::types::Proto;

fn read(text: &str) -> KnockdConf {
    knockd::read(
        text.as_bytes(),
        false,
        knockd::Strictness::SkipLines,
        &mut |path| match path.ends_with("not-there") {
            true => Err("No such file or directory".into()),
            false => Ok(b" 1,2,3\n".to_vec()),
        },
        &mut |_| (),
    )
    .unwrap()
}

fn names(name: &str, proto: Proto) -> Option<u16> {
    match (name, proto) {
        ("ssh", Proto::Tcp) => Some(22),
        ("smtp", Proto::Tcp) => Some(25),
        _ => None,
    }
}

/// This machine's addresses, as in the end-to-end test of the table.
const OWN: [IpAddr; 1] = [IpAddr::V4(std::net::Ipv4Addr::new(10, 90, 0, 1))];

/// The settings of `there` with the converted `text` appended, and all remarks.
fn appended(there: &str, text: &str) -> (Settings, Vec<String>) {
    let Converted { toml, left_out, warnings, notes, .. } =
        convert(&read(text), &native::parse("there.toml", there).unwrap(), &names, &OWN);
    let whole = format!("{there}{toml}");
    let settings =
        native::parse("converted.toml", &whole).unwrap_or_else(|fault| panic!("{fault}\n{whole}"));
    let left_out = left_out.into_iter().map(|line| format!("left out: {line}"));
    let warnings = warnings.into_iter().map(|line| format!("warning: {line}"));
    (settings, left_out.chain(warnings).chain(notes).collect())
}

fn converted(text: &str) -> (Settings, Vec<String>) {
    appended("", text)
}

fn says(remarks: &[String], words: &str) -> bool {
    remarks.iter().any(|remark| remark.contains(words))
}

const OPEN: &str = "/sbin/iptables -A INPUT -s %IP% -p tcp --dport 22 -j ACCEPT";
const SHUT: &str = "/sbin/iptables -D INPUT -s %IP% -p tcp --dport 22 -j ACCEPT";

#[test]
fn a_rule_that_its_stop_command_takes_out_becomes_a_service_of_the_same_time() {
    let text = format!(
        "[ssh]\nsequence=71,82:udp,93\ntcpflags=syn\nseq_timeout=15\ncommand={OPEN}\ncmd_timeout=60\nstop_command={SHUT}\n"
    );
    let (settings, _) = converted(&text);
    let (service, door) = (&settings.services[0], &settings.doors[0]);
    assert_eq!((service.name.as_str(), service.seconds), ("ssh", 60));
    assert_eq!(service.ports.texts(), ["22/tcp"]);
    assert_eq!(door.service, Some(service.name));
    assert_eq!(door.sequence, [Step::tcp(71), Step::udp(82), Step::tcp(93)]);
    assert_eq!((door.seq_timeout, door.flags), (15, TcpFlags { set: 2, unset: 0 }));
    assert_eq!((&door.start_command, &door.stop_command), (&None, &None));
    assert!(!door.tolerate_duplicates, "knockd's doors do not");
}

#[test]
fn a_door_that_another_door_shuts_becomes_a_service_and_the_other_is_not_needed() {
    let text = format!(
        "[open]\nsequence=71,82,93\ncommand={OPEN}\n[shut]\nsequence=93,82,71\ncommand={SHUT}\n"
    );
    let (settings, remarks) = converted(&text);
    assert_eq!(settings.doors.len(), 1);
    assert_eq!(settings.services[0].seconds, BY_HAND);
    assert!(says(&remarks, "door shut: not written"), "{remarks:?}");
}

#[test]
fn a_door_that_shuts_stays_as_long_as_commands_open_what_it_shuts() {
    let ever = format!("[ever]\nsequence=74,85,96\ncommand={OPEN}\ncommand_6=logger x\n");
    let shut = format!("[shut]\nsequence=93,82,71\ncommand={SHUT}\n");
    let (settings, remarks) =
        converted(&format!("[open]\nsequence=71,82,93\ncommand={OPEN}\n{ever}{shut}"));
    assert_eq!(
        settings.doors.len(),
        3,
        "whether `ever` runs iptables is not known, so `shut` goes on"
    );
    assert!(!says(&remarks, "not written"), "{remarks:?}");
    let (settings, remarks) = converted(&format!("{OPEN_ONLY}{shut}"));
    assert_eq!((settings.doors.len(), settings.services.len()), (1, 1), "{remarks:?}");
}

const OPEN_ONLY: &str = "[open]\nsequence=71,82,93\ncommand=/sbin/iptables -A INPUT -s %IP% -p tcp --dport 22 -j ACCEPT\n";

#[test]
fn ipv6_commands_with_the_same_meaning_belong_to_the_service() {
    let six = |text: &str| text.replace("/sbin/iptables", "ip6tables");
    let pair = format!("[ssh]\nsequence=71,82,93\ncommand={OPEN}\nstop_command={SHUT}\n");
    let both = format!("{pair}command_6={}\nstop_command_6={}\n", six(OPEN), six(SHUT));
    assert_eq!(converted(&both).0.services.len(), 1);
    for other in [
        "command_6=\n".to_string(),
        "command_6=logger x\n".into(),
        format!("stop_command_6={}\n", six(SHUT)),
    ] {
        let (settings, _) = converted(&format!("{pair}{other}"));
        assert_eq!((settings.services.len(), settings.doors.len()), (0, 1), "{other}");
    }
}

#[test]
fn a_rule_that_nothing_takes_back_in_time_stays_a_command() {
    let (settings, remarks) = converted(OPEN_ONLY);
    assert!(settings.services.is_empty() && says(&remarks, "nothing takes back"), "{remarks:?}");
    let never = format!("{OPEN_ONLY}stop_command={SHUT}\ncmd_timeout=-1\n");
    let (settings, remarks) = converted(&never);
    assert!(
        settings.services.is_empty() && settings.doors[0].stop_command.is_none(),
        "{remarks:?}"
    );
}

#[test]
fn a_stop_command_that_never_ran_is_named_whatever_becomes_of_its_door() {
    let shuts_itself = format!("{OPEN}; sleep 5; {SHUT}");
    for time in ["-1", "-3600", "3000000000"] {
        for (start, stop) in [(OPEN, SHUT), (&shuts_itself, "/bin/y"), ("/bin/x", "/bin/y")] {
            let text = format!(
                "[a]\nsequence=71,82,93\nstart_command={start}\ncmd_timeout={time}\nstop_command={stop}\n"
            );
            let (settings, remarks) = converted(&text);
            let said = says(&remarks, "door a: its stop command never ran, by its negative");
            assert!(said, "{time} {start}: {remarks:?}");
            assert_eq!(settings.doors[0].stop_command, None);
        }
    }
}

#[test]
fn existing_services_and_doors_are_not_written_again() {
    let there = "[service.ssh]\nports = [\"22/tcp\"]\n[door.old]\nsequence = [\"1/tcp\"]\nservice = \"ssh\"\n";
    let pair = format!("{OPEN_ONLY}stop_command={SHUT}\ncmd_timeout=60\n");
    let (settings, remarks) = appended(there, &pair);
    assert_eq!((settings.services.len(), settings.doors.len()), (1, 2));
    assert_eq!(settings.doors[1].service, Some(settings.services[0].name));
    assert!(says(&remarks, "lasts 30 s, its own rule lasted 60 s"), "{remarks:?}");
    assert!(says(&remarks, "your own firewall must let its ports"), "{remarks:?}");
    let (settings, remarks) = appended(there, &pair.replace("[open]", "[old]"));
    assert_eq!(settings.doors.len(), 1);
    assert!(
        says(&remarks, "left out: door old: toctocd.toml has a door of that name"),
        "{remarks:?}"
    );
    let wider = "[service.net]\nports = [\"22/tcp\", \"80/tcp\"]\n";
    let (settings, remarks) = appended(wider, &pair);
    assert!(
        settings.doors[0].service.is_none()
            && says(&remarks, "22/tcp is not what service net opens"),
        "{remarks:?}"
    );
}

#[test]
fn commands_that_are_not_a_rule_stay_commands_unchanged() {
    let text = "[options]\nUseSyslog\nInterface = eth1\n[a]\nsequence=71,82,93\ncommand=echo \"%IP%\" 'x' \\ # y\n\
        command_6=\nstop_command=b\ncmd_timeout=-1\ntarget=192.0.2.1\n[a]\none_time_sequences=/ots\ncommand=c\n";
    let (settings, remarks) = converted(text);
    let [first, second] = &settings.doors[..] else { panic!("{settings:?}") };
    assert_eq!(first.start_command.as_deref(), Some("echo \"%IP%\" 'x' \\ # y"));
    assert_eq!(
        (first.start_command_6.as_deref(), first.target.as_deref()),
        (Some(""), Some("192.0.2.1"))
    );
    assert_eq!(second.name, "a-2");
    assert!(second.one_time_sequences.is_some());
    assert!(says(&remarks, "[\"eth1\"]"), "{remarks:?}");
}

#[test]
fn a_door_that_cannot_be_converted_is_listed_as_left_out() {
    let text = "[shipped]\nsequence=7000,8000,9000\ncommand=a\n[typo]\nsequence=ssh,1\ncommand=a\n[odd]\nsequence=1,2,3\n\
        target=10.0.0.05\ncommand=a\n[never]\nsequence=1,2,3\nseq_timeout=0\ncommand=a\n[idle]\nsequence=1,2,3\n";
    let (settings, remarks) = converted(text);
    assert!(settings.doors.is_empty());
    let left_out: Vec<_> = remarks.iter().filter(|remark| remark.contains("left out")).collect();
    assert_eq!(left_out.len(), 5, "{remarks:?}");
}

/// What became of the door `name`, in the notation of tests/knockd-configs.txt.
fn outcome(name: &str, settings: &Settings, remarks: &[String]) -> String {
    let named = |kind: &str| {
        let start = format!("{kind}door {name}: ");
        remarks.iter().find(|remark| remark.starts_with(&start))
    };
    if named("left out: ").is_some() {
        return "left out".to_owned();
    }
    if named("").is_some_and(|note| note.contains("not written")) {
        return "needless".to_owned();
    }
    let door = settings.doors.iter().find(|door| door.name == name).expect("a door");
    let warning = named("warning: ");
    let mut text = if warning.is_some() { "! ".to_owned() } else { String::new() };
    match settings.services.iter().find(|service| Some(service.name) == door.service) {
        None => text += "commands",
        Some(service) => {
            let ports = service.ports.texts().join(",");
            text += &format!("service {} {ports} {}", service.name, service.seconds);
            if let Some(forward) = &service.forward {
                let hosts: Vec<String> = forward.to.iter().map(ToString::to_string).collect();
                text += &format!(" to {}", hosts.join(","));
            }
        }
    }
    if warning.is_some_and(|text| text.contains("22/tcp (service ssh)")) {
        text += " (22/tcp)";
    }
    text
}

#[test]
fn each_configuration_of_the_table_is_carried_over_or_its_doors_are_named() {
    let table = include_str!("../../../tests/knockd-configs.txt");
    let mut faults = String::new();
    let mut cases = 0;
    for case in table.split("\n=== ").skip(1) {
        let (head, text) = case.split_once("\n\n").unwrap();
        let (settings, remarks) = appended("[service.ssh]\nports = [\"22/tcp\"]\n", text);
        let is_fault =
            |text: &String| text.starts_with("left out: ") || text.starts_with("warning: ");
        let code = if remarks.iter().any(is_fault) { "1" } else { "0" };
        let title = head.lines().next().unwrap();
        let mut found = format!("{code}{}", title.trim_start_matches(['0', '1']));
        for door in read(text).doors {
            found += &format!("\n{} -> {}", door.name, outcome(&door.name, &settings, &remarks));
        }
        if found != head {
            faults += &format!("wanted {head}\nfound  {found}\n{remarks:#?}\n");
        }
        cases += 1;
    }
    assert!(faults.is_empty(), "{faults}");
    assert!(cases > 50, "{cases} cases");
}

#[test]
fn an_accept_for_every_port_becomes_a_service_that_only_marks() {
    let text = "[a]\nsequence=4107,5208,1309\ncommand=iptables -I INPUT -s %IP% -j ACCEPT\n\
        stop_command=iptables -D INPUT -s %IP% -j ACCEPT\n";
    for there in ["", "[firewall]\nmode = \"mark\"\n"] {
        let (settings, remarks) = appended(there, text);
        assert_eq!(settings.services[0].ports.texts(), ["all"]);
        assert_eq!(settings.services[0].mode, Mode::Mark);
        assert!(!says(&remarks, "warning: ") && says(&remarks, "your own firewall shuts it"));
    }
}

#[test]
fn a_rule_for_an_inner_host_meets_the_service_that_leads_there() {
    let there = "[service.rdp]\nports = [\"33890/tcp\"]\nforward = \"192.168.1.10:3389\"\n";
    for (port, is_warned) in [(3389, true), (33890, true), (3390, false)] {
        let rule = format!("FORWARD -s %IP% -d 192.168.1.10 -p tcp --dport {port} -j ACCEPT");
        let text = format!(
            "[a]\nsequence=4107,5208,1309\ncommand=iptables -I {rule}\nstop_command=iptables -D {rule}\n"
        );
        let (_, remarks) = appended(there, &text);
        let warned = says(&remarks, "warning: door a: keeps its commands")
            && says(&remarks, "33890/tcp (service rdp) needs a grant");
        assert_eq!(warned, is_warned, "{port}: {remarks:?}");
    }
}
