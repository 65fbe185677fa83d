//! The admin's commands against a gateway that is a thread on a socket in a temporary directory.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, channel};

use serde_json::{Value, json};

use super::*;
use crate::config::defaults;
use crate::edge::control::ControlResponse;

/// A running gateway that gives the same answers to whatever it is asked.
pub(in crate::app) struct RunningGateway {
    folder: tempfile::TempDir,
    requests: Receiver<ControlRequest>,
}

impl RunningGateway {
    pub(in crate::app) fn answering(response: ControlResponse) -> Self {
        Self::with([response])
    }

    /// One that gives these answers in turn, and then the last one again and again.
    pub(in crate::app) fn with(
        responses: impl IntoIterator<Item = ControlResponse> + Send + 'static,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("control")).unwrap();
        let (sender, requests) = channel();
        let mut responses: VecDeque<ControlResponse> = responses.into_iter().collect();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut line = Vec::new();
                BufReader::new(&stream).read_until(b'\n', &mut line).unwrap();
                // A look whether the gateway is running sends nothing.
                let Some(request) = ControlRequest::parse(line.trim_ascii_end()) else { continue };
                let response = match request {
                    // It has followed, even if it could not reload.
                    ControlRequest::FindClient { .. } => ControlResponse::Ok("nobody".into()),
                    _ if responses.len() > 1 => responses.pop_front().unwrap(),
                    _ => responses[0].clone(),
                };
                if sender.send(request).is_err() {
                    return;
                }
                let mut answer = serde_json::to_vec(&response).unwrap();
                answer.push(b'\n');
                stream.write_all(&answer).unwrap();
            }
        });
        Self { folder, requests }
    }

    pub(in crate::app) fn ok(value: Value) -> Self {
        Self::answering(ControlResponse::Ok(value))
    }

    pub(in crate::app) fn socket(&self) -> PathBuf {
        self.folder.path().join("control")
    }

    pub(in crate::app) fn reach(&self) -> Reach {
        Reach { settings: self.settings(), doubt: None, is_trusted: true }
    }

    pub(in crate::app) fn settings(&self) -> Settings {
        let mut settings = defaults::settings();
        settings.gateway.control_socket = self.socket();
        settings.firewall.printed = self.folder.path().join("not printed");
        settings
    }

    /// The requests so far.
    pub(in crate::app) fn requests(&self) -> Vec<ControlRequest> {
        self.requests.try_iter().collect()
    }
}

/// Settings of a gateway that is not running.
fn stopped() -> Settings {
    let mut settings = defaults::settings();
    settings.gateway.control_socket = "/nonexistent/control".into();
    settings
}

pub(in crate::app) fn sound() -> GatewayStatus {
    GatewayStatus {
        version: "0.1.0".into(),
        pid: 17,
        since: "2026-11-28 12:00:00".into(),
        started: 1_800_000_000,
        knock_port: 62201,
        interfaces: vec!["eth0".into(), "wg0".into()],
        guard: true,
        guard_off: false,
        trial: TrialState::None,
        state: "intact".into(),
        clock: "sure".into(),
        ahead: vec![],
        xdp: vec![],
        xdp_dropped: 0,
        degraded: vec![],
        break_glass: vec![],
        services: 1,
        clients: 2,
        doors: 0,
        grants: 1,
        packets: PacketCounts {
            received: 42,
            granted: 35,
            rejected: vec![("unknown-tag".into(), 7)],
            ..PacketCounts::default()
        },
        open: vec![],
        knocked: vec![],
    }
}

pub(in crate::app) fn grant_line() -> GrantLine {
    GrantLine {
        grant: "anna/ssh@2001:db8::7".into(),
        client: "anna".into(),
        service: "ssh".into(),
        address: "2001:db8::7".into(),
        ports: vec!["22/tcp".into()],
        form: "once".into(),
        until: "2026-11-28T14:03:20+01:00".into(),
        seconds: 30,
        seconds_left: 28,
    }
}

/// One page of these lines, of service ssh.
fn page(lines: Vec<GrantLine>, next: Option<&str>) -> GrantPage {
    let grants = u32::try_from(lines.len()).unwrap() + if next.is_some() { 500 } else { 0 };
    let ssh = ServiceGrants { service: "ssh".into(), grants, max_grants: 1024 };
    let rdp = ServiceGrants { service: "rdp".into(), grants: 0, max_grants: 16 };
    GrantPage { services: vec![ssh, rdp], lines, next: next.map(str::to_owned) }
}

#[test]
fn a_sound_gateway_has_a_short_status() {
    assert_eq!(
        status_text(&sound()),
        "toctocd 0.1.0 (pid 17) since 2026-11-28 12:00:00\n\
         \x20 listening   udp/62201 on eth0, wg0\n\
         \x20 guard       up\n\
         \x20 state       intact\n\
         \x20 clock       sure\n\
         \x20 serves      1 service, 2 clients, 0 doors\n\
         \x20 open now    1 grant\n\
         \x20 packets     42 reached this gateway since then:\n\
         \x20             35 opened a service (granted)\n\
         \x20              7 came from nobody who is enrolled (unknown-tag)\n"
    );
}

#[test]
fn everything_unusual_has_its_own_line() {
    let at = |interface: &str, mode: &str, why: Option<&str>| XdpStatus {
        interface: interface.to_owned(),
        mode: mode.to_owned(),
        why: why.map(str::to_owned),
    };
    let text = status_text(&GatewayStatus {
        break_glass: vec!["192.0.2.1".into(), "192.0.2.2".into()],
        degraded: vec!["no landlock".into()],
        ahead: vec![("anna".into(), "14:00:00".into())],
        xdp: vec![at("eth0", "native", None), at("eth1", "none", Some("no such thing"))],
        xdp_dropped: 3,
        ..sound()
    });
    assert!(text.contains("\n  XDP         eth0 (native), eth1 (none)\n"), "{text}");
    assert!(text.contains("\n              3 of them by XDP: tcpdump does"), "{text}");
    assert!(text.contains("\n  ALWAYS OPEN to 192.0.2.1, 192.0.2.2\n"), "{text}");
    assert!(text.contains("\n  degraded    no landlock\n"), "{text}");
    assert!(text.contains("\n  ahead       anna: its clock was ahead"), "{text}");
    assert!(text.contains("until 14:00:00;\n"), "{text}");
    assert!(text.contains("`toctocd client forgive anna`"), "{text}");
}

#[test]
fn who_has_what_open_and_who_knocked_last_is_said_in_words() {
    let knocked = |clients: u64| {
        let one = |number| ClientActivity {
            client: format!("c{number}"),
            answered: number,
            refused: 1,
            last: "granted".into(),
            from: "192.0.2.7".into(),
            at: "14:02:49".into(),
            seconds_ago: 2,
        };
        let open = vec![ServiceGrants { service: "ssh".into(), grants: 1, max_grants: 16 }];
        let knocked = (1..=clients).map(one).collect();
        status_text(&GatewayStatus { open, knocked, ..sound() })
    };
    assert!(knocked(0).contains("\n  open now    1 grant: ssh 1 of 16\n"), "{}", knocked(0));
    let text = knocked(11);
    let line = "c1: 1 answered, 1 refused; the last at 14:02:49 from 192.0.2.7: granted\n";
    assert!(text.contains(&format!("\n  knocks      {line}")), "{text}");
    assert!(text.contains("\n              c10: ") && !text.contains("c11: "), "{text}");
    assert!(text.contains("\n              and 1 more client\n"), "{text}");
}

#[test]
fn at_most_ten_clients_with_a_clock_ahead_are_named() {
    let ahead = |clients: usize| {
        let ahead = (0..clients).map(|n| (format!("c{n}"), "14:00:00".into())).collect();
        status_text(&GatewayStatus { ahead, ..sound() })
    };
    assert!(ahead(10).contains("c9: ") && !ahead(10).contains("more client"));
    assert!(!ahead(11).contains("c10: ") && ahead(11).contains("and 1 more client\n"));
    assert!(ahead(13).contains("and 3 more clients\n"));
}

#[test]
fn the_guard_is_up_or_off_or_changed_by_somebody_else() {
    let guard = |guard, guard_off| guard_text(&GatewayStatus { guard, guard_off, ..sound() });
    assert_eq!(guard(true, false), "up");
    assert!(guard(false, false).starts_with("NOT AS LOADED"));
    for up in [true, false] {
        assert!(guard(up, true).starts_with("OFF by command"));
        assert!(guard(up, true).contains("`toctocd guard on`"));
    }
}

#[test]
fn without_grants_nothing_is_open() {
    assert_eq!(grants_text(&page(Vec::new(), None)), "nothing is open\n");
}

#[test]
fn grants_are_shown_in_columns() {
    let mut long = grant_line();
    long.grant = "a-long-name/ssh@2001:db8::7".into();
    long.ports.clear();
    long.seconds_left = 86_400;
    let text = grants_text(&page(vec![grant_line(), long], None));
    let rows: Vec<&str> = text.lines().collect();
    assert_eq!(
        rows,
        [
            "2 grants: ssh 2 of 1024; rdp 0 of 16",
            "GRANT                        FORM  LEFT    UNTIL     PORTS",
            "anna/ssh@2001:db8::7         once    28 s  14:03:20  22/tcp",
            "a-long-name/ssh@2001:db8::7  once  86400 s  14:03:20  by commands",
        ]
    );
}

#[test]
fn status_and_grants_come_from_the_gateway_as_text_or_json() {
    let gateway = RunningGateway::ok(serde_json::to_value(sound()).unwrap());
    let output = status(&gateway.reach()).unwrap();
    assert_eq!(*output.out, status_text(&sound()));
    let value = output.value.unwrap();
    assert_eq!((&value["pid"], &value["packets"]["granted"]), (&json!(17), &json!(35)));
    assert_eq!(gateway.requests(), [ControlRequest::Status]);
    let one = page(vec![grant_line()], None);
    let gateway = RunningGateway::ok(serde_json::to_value(&one).unwrap());
    let output = grants(&gateway.reach(), true).unwrap();
    assert_eq!(*output.out, grants_text(&one));
    assert_eq!(output.value.unwrap()[0]["seconds_left"], 28);
    assert_eq!(gateway.requests(), [ControlRequest::Grants { after: None, most: None }]);
}

#[test]
fn only_the_first_page_is_fetched_unless_all_are_asked_for() {
    let first = page(vec![grant_line()], Some("end"));
    let last = page(vec![grant_line()], None);
    let pages = [first, last].map(|page| ControlResponse::Ok(serde_json::to_value(page).unwrap()));
    let gateway = RunningGateway::with(pages);
    let text = grants(&gateway.reach(), false).unwrap().out;
    assert!(text.starts_with("501 grants: ssh 501 of 1024;"), "{}", *text);
    assert!(text.ends_with("the first 1; all of them: toctocd grants --all\n"), "{}", *text);
    assert_eq!(gateway.requests(), [ControlRequest::Grants { after: None, most: None }]);
}

#[test]
fn an_answer_of_another_version_is_named_as_such() {
    let gateway = RunningGateway::ok(json!({ "version": "9" }));
    for outcome in [status(&gateway.reach()), grants(&gateway.reach(), false)] {
        let fault = outcome.err().unwrap();
        assert!(fault.what.contains("of another version"), "{fault}");
        assert!(fault.remedy.contains("restart it"), "{fault}");
    }
}

#[test]
fn a_command_prints_what_the_gateway_says() {
    let gateway = RunningGateway::ok(json!({ "said": "reloaded: 2 services" }));
    let output = command(&gateway.settings(), &ControlRequest::Reload).unwrap();
    assert_eq!((&**output.out, output.code), ("reloaded: 2 services\n", 0));
    let gateway = RunningGateway::ok(json!({}));
    let output = command(&gateway.settings(), &ControlRequest::Reinitialise).unwrap();
    assert_eq!(*output.out, "done\n");
    assert_eq!(gateway.requests(), [ControlRequest::Reinitialise]);
}

#[test]
fn a_refusal_keeps_its_reason_and_remedy() {
    let refusal = Fault::new("line 3", "fix it").into();
    let gateway = RunningGateway::answering(refusal);
    let fault = command(&gateway.settings(), &ControlRequest::Reload).err().unwrap();
    assert_eq!(fault, Fault::new("line 3", "fix it"));
    assert_eq!(reload_if_running(&gateway.settings()), Err(Fault::new("line 3", "fix it")));
}

#[test]
fn a_reload_after_a_change_is_asked_for_only_if_a_gateway_is_running() {
    let gateway = RunningGateway::ok(json!({}));
    assert_eq!(reload_if_running(&gateway.settings()), Ok(true));
    assert_eq!(gateway.requests(), [ControlRequest::Reload]);
    assert_eq!(reload_if_running(&stopped()), Ok(false));
    // Nor does the socket of one that was killed.
    let folder = tempfile::tempdir().unwrap();
    let mut killed = stopped();
    killed.gateway.control_socket = folder.path().join("control");
    drop(UnixListener::bind(&killed.gateway.control_socket).unwrap());
    assert_eq!(reload_if_running(&killed), Ok(false));
    let stopped = Reach { settings: stopped(), doubt: None, is_trusted: true };
    let fault = status(&stopped).err().unwrap();
    assert!(fault.what.contains("/nonexistent/control"), "{fault}");
}

#[test]
fn status_warns_of_a_printed_guard_that_is_out_of_date() {
    let gateway = RunningGateway::ok(serde_json::to_value(sound()).unwrap());
    let mut reach = gateway.reach();
    std::fs::write(&reach.settings.firewall.printed, "old rules\n").unwrap();
    let text = status(&reach).unwrap().out;
    assert!(text.contains("\n  warning     ") && text.contains("guard print"), "{}", *text);
    // The configuration that it would be compared with is not known.
    reach.doubt = Some(Fault::new("broken", ""));
    assert!(!status(&reach).unwrap().out.contains("warning"));
}
