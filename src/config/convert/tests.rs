//! Conversions are read back by the reader of our own form, and must mean what the old doors meant.
//! Which command is a rule is tested in `iptables`.

use super::*;
use crate::config::{knockd, native};
use crate::core::door::TcpFlags;

fn read(text: &str) -> KnockdConf {
    knockd::read(text.as_bytes(), false, &mut |_| Ok(b" 1,2,3\n".to_vec()), &mut |_| ()).unwrap()
}

fn converted(text: &str) -> (Settings, Vec<String>) {
    let Converted { toml, remarks } = convert(&read(text));
    let settings = native::parse("converted.toml", &toml).unwrap_or_else(|fault| panic!("{fault}\n{toml}"));
    (settings, remarks)
}

const OPEN: &str = "/sbin/iptables -A INPUT -s %IP% -p tcp --dport 22 -j ACCEPT";
const SHUT: &str = "/sbin/iptables -D INPUT -s %IP% -p tcp --dport 22 -j ACCEPT";

#[test]
fn a_rule_that_its_own_stop_command_takes_out_becomes_a_service_for_as_long() {
    let text = format!(
        "[ssh]\nsequence=71,82:udp,93\ntcpflags=syn\nseq_timeout=15\ncommand={OPEN}\ncmd_timeout=60\nstop_command={SHUT}\n"
    );
    let (settings, _) = converted(&text);
    let (service, door) = (&settings.services[0], &settings.doors[0]);
    assert_eq!((service.name.as_str(), service.seconds), ("ssh", 60));
    assert_eq!(service.ports, [Port { proto: Proto::Tcp, number: 22 }]);
    assert_eq!(door.service, Some(service.name));
    assert_eq!(door.sequence, [Step::tcp(71), Step::udp(82), Step::tcp(93)]);
    assert_eq!((door.seq_timeout, door.flags), (15, TcpFlags { set: 2, unset: 0 }));
    assert_eq!((&door.start_command, &door.stop_command), (&None, &None));
    assert!(!door.tolerate_duplicates, "knockd's doors do not");
}

#[test]
fn a_door_that_another_one_shuts_becomes_a_service_and_the_other_is_not_needed() {
    let text = format!("[open]\nsequence=71,82,93\ncommand={OPEN}\n[shut]\nsequence=93,82,71\ncommand={SHUT}\n");
    let (settings, remarks) = converted(&text);
    assert_eq!(settings.doors.len(), 1);
    assert_eq!(settings.services[0].seconds, BY_HAND);
    assert!(remarks.iter().any(|remark| remark.starts_with("door shut: left out")), "{remarks:?}");
}

#[test]
fn commands_that_are_no_rule_stay_commands_to_the_letter() {
    let text = "[options]\nUseSyslog\nInterface = eth1\n[a]\nsequence=71,82,93\ncommand=echo \"%IP%\" 'x' \\ # y\n\
        command_6=\nstop_command=b\ncmd_timeout=-1\ntarget=192.0.2.1\n[a]\none_time_sequences=/ots\ncommand=c\n";
    let (settings, remarks) = converted(text);
    let [first, second] = &settings.doors[..] else { panic!("{settings:?}") };
    assert_eq!(first.start_command.as_deref(), Some("echo \"%IP%\" 'x' \\ # y"));
    assert_eq!((first.start_command_6.as_deref(), first.target.as_deref()), (Some(""), Some("192.0.2.1")));
    assert_eq!(second.name, "a-2");
    assert!(second.one_time_sequences.is_some());
    assert!(remarks.iter().any(|remark| remark.contains("[\"eth1\"]")), "{remarks:?}");
}

#[test]
fn what_cannot_be_said_is_said_to_be_missing() {
    let text = "[shipped]\nsequence=7000,8000,9000\ncommand=a\n[typo]\nsequence=ssh,1\ncommand=a\n[odd]\nsequence=1,2,3\n\
        target=10.0.0.05\ncommand=a\n[idle]\nsequence=1,2,3\n";
    let (settings, remarks) = converted(text);
    assert!(settings.doors.is_empty());
    let left_out: Vec<_> = remarks.iter().filter(|remark| remark.contains("left out")).collect();
    assert_eq!(left_out.len(), 4, "{remarks:?}");
}
