//! A listener that was taken over: it opens nothing that no client signed, whatever it sends, and
//! is replaced with a limit.
//!
//! The test stops the listener and takes a copy of its end of the pipe out of it, as whoever owned
//! it would: so it speaks to the real gatekeeper in its stead, and nothing that ships has a door
//! for that.
#![allow(unsafe_code)]

use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{MsgFlags, send};
use toctoc::core::keyring::TagTable;
use toctoc::core::knock::{BODY, HandedKnock, Receipt, Status};
use toctoc::core::types::{ClientId, Counters, Reject, Source};
use toctoc::core::wire::identify;
use toctoc::edge::clock;
use toctoc::edge::gatekeeper_pipe::{ListenerEnd, Pipe, PipeError, ToGatekeeper, ToListener};
use toctoc::keys::gateway::{GatewayFile, TestKeys};

use crate::harness::gate::{Gate, Knocker, SSH, ok};
use crate::harness::{LONG, SHORT, eventually};

const DOOR: &str =
    "[door.side]\nsequence = [\"7321/tcp\", \"8432/udp\", \"9543/tcp\"]\nservice = \"ssh\"\n";

/// The listener stands still; its end of the pipe is ours.
fn capture(gate: &mut Gate) -> ListenerEnd {
    let pid = gate.daemon().listener();
    kill(pid, Signal::SIGSTOP).unwrap();
    let owned = |number: libc::c_long| {
        assert!(
            number >= 0,
            "pidfd: {}; needs Linux 5.6 and root",
            std::io::Error::last_os_error()
        );
        // SAFETY: the kernel has just opened it for us; nobody else knows its number.
        unsafe { OwnedFd::from_raw_fd(i32::try_from(number).unwrap()) }
    };
    // SAFETY: both calls take integers only.
    let process = owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) });
    // SAFETY: as above. Descriptor 0 of a listener is its pipe.
    Pipe::new(owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), 0, 0) }))
}

/// Sends; waits where there is no room.
fn tell(pipe: &mut ListenerEnd, message: ToGatekeeper) {
    while pipe.waiting() > 1000 {
        poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)], PollTimeout::from(1000u16))
            .unwrap();
        pipe.flush().unwrap();
    }
    pipe.send(message).unwrap();
}

/// The verdict on `wanted`, and whether a receipt came with it.
fn verdict(pipe: &mut ListenerEnd, wanted: u64) -> Option<Receipt> {
    let end = Instant::now() + LONG;
    while Instant::now() < end {
        pipe.flush().unwrap();
        match pipe.receive().unwrap() {
            Some(ToListener::Verdict { ticket, receipt, .. }) if ticket == wanted => {
                return receipt.map(|bytes| Receipt::decode(&bytes).unwrap());
            }
            Some(_) => {}
            None => {
                _ = poll(
                    &mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)],
                    PollTimeout::from(100u16),
                )
                .unwrap()
            }
        }
    }
    panic!("no verdict on {wanted}");
}

/// What the listener would hand up of a knock: it holds the keys to open it, and so does this test.
fn opened(gate: &Gate, client: &Knocker, service: &str, from: IpAddr) -> ([u8; 32], [u8; BODY]) {
    let text = std::fs::read_to_string(gate.path("etc/gateway.key")).unwrap();
    let file = GatewayFile::parse("gateway.key", &text, TestKeys::Refused).unwrap();
    let (keys, mine) = (file.for_listener(), file.master.client_keys(client.profile.client));
    let mut tags = TagTable::new(clock::now().wall.day());
    tags.insert(0, &mine.tag);
    let sealed = client.seal(&client.request(service, from));
    let known = identify(&keys, &tags, &sealed.bytes).ok().unwrap().check_mac(&mine).ok().unwrap();
    let (parts, _) =
        known.open(&keys, &mine, &client.profile.key.fingerprint()).ok().unwrap().split();
    (parts.h, parts.body)
}

fn row_of(gate: &Gate, client: ClientId) -> u32 {
    let text = std::fs::read_to_string(gate.path("etc/clients")).unwrap();
    let clients = toctoc::keys::authorized::parse("clients", &text, None).unwrap();
    u32::try_from(clients.iter().position(|one| one.id == client).unwrap()).unwrap()
}

#[test]
fn forged_requests_open_nothing_and_what_a_client_signed_opens_once() {
    let mut gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let (anna, bert) = (gate.enrol("anna", "ssh"), gate.enrol("bert", "ssh,rdp"));
    let (me, thief) = (gate.net.client.ips()[0], gate.net.host(7));
    let (h, body) = opened(&gate, &anna, "ssh", me);
    let (other_h, for_rdp) = opened(&gate, &anna, "rdp", me);
    let (row, berts) = (row_of(&gate, anna.profile.client), row_of(&gate, bert.profile.client));
    let mut pipe = capture(&mut gate);
    let mut ticket = 0;
    let mut claim = |row: u32, h: [u8; 32], body: [u8; BODY], source: IpAddr| {
        ticket += 1;
        let source = Source::new(source);
        tell(
            &mut pipe,
            ToGatekeeper::Knock(HandedKnock { ticket, row, h, body, source, source_port: 4711 }),
        );
        verdict(&mut pipe, ticket).map(|receipt| receipt.status)
    };
    for wrong in [berts, 2, 77, u32::MAX] {
        assert_eq!(claim(wrong, h, body, me), None, "row {wrong}");
    }
    assert_eq!(claim(row, other_h, body, me), None, "the hash of another knock");
    for place in (0..BODY).step_by(7) {
        let mut bent = body;
        bent[place] ^= 1 << (place % 8);
        assert_eq!(claim(row, h, bent, me), None, "byte {place}");
    }
    assert_eq!(
        claim(row, h, body, thief.ips()[0]),
        Some(Status::Address),
        "for an address that anna did not sign"
    );
    assert_eq!(
        claim(row, other_h, for_rdp, me),
        Some(Status::Denied),
        "a service that is not hers"
    );
    assert_eq!(ok(&gate.toctocd(&["grants"])), "nothing is open\n");
    assert!(!gate.net.client.tcp_reaches(SocketAddr::new(gate.net.gateway_ips()[0], SSH), SHORT));
    // That the same words with nothing forged are heard shows that the others were.
    assert_eq!(claim(row, h, body, me), Some(Status::Granted));
    assert_eq!(claim(row, h, body, me), None, "and only once");
    assert!(gate.net.client.tcp_reaches(SocketAddr::new(gate.net.gateway_ips()[0], SSH), LONG));
    let status = ok(&gate.toctocd(&["status"]));
    assert!(status.contains("signature") && status.contains("fingerprint"), "{status}");
}

#[test]
fn hostile_bytes_end_the_listener_and_the_next_ones_come_slower_and_slower() {
    let mut gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    let (me, to) = (gate.net.client.ips()[0], SocketAddr::new(gate.net.gateway_ips()[0], SSH));
    let (h, body) = opened(&gate, &anna, "ssh", me);
    let row = row_of(&gate, anna.profile.client);
    let mut whole = vec![3];
    for field in [
        &1u64.to_be_bytes()[..],
        &row.to_be_bytes(),
        &h,
        &body,
        &Source::new(me).to_bytes(),
        &4711u16.to_be_bytes(),
    ] {
        whole.extend_from_slice(field);
    }
    let (short, long) = (whole[..whole.len() - 1].to_vec(), [&whole[..], &[0]].concat());
    for (bytes, pause) in [(short, 1), (long, 2), (vec![0xff; 4096], 4)] {
        let pipe = capture(&mut gate);
        send(pipe.as_fd().as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL).unwrap();
        // What comes behind it is not heard any more.
        let _ = send(pipe.as_fd().as_raw_fd(), &whole, MsgFlags::MSG_NOSIGNAL);
        gate.daemon().wait_for(&format!("the next one starts in {pause} s"));
        gate.daemon().wait_for("a new listener listens");
        assert_eq!(ok(&gate.toctocd(&["grants"])), "nothing is open\n");
    }
    assert!(!gate.net.client.tcp_reaches(to, SHORT));
    assert!(ok(&gate.toctocd(&["status"])).contains("3 pipe"));
    assert_eq!(anna.open(&gate.net.client, "ssh", 0).map(|r| r.status), Some(Status::Granted));
}

#[test]
fn a_listener_that_is_killed_again_and_again_is_replaced_slower_and_slower() {
    let mut gate = Gate::running(|config| config);
    for pause in [1, 2, 4] {
        gate.daemon().kill_listener();
        gate.daemon().wait_for(&format!("the next one starts in {pause} s"));
        gate.daemon().wait_for("a new listener listens");
    }
}

#[test]
fn a_listener_that_was_replaced_may_hand_over_knocks_but_opens_no_door_and_is_ended() {
    let mut gate = Gate::running(|config| config + DOOR);
    let anna = gate.enrol("anna", "ssh");
    let me = gate.net.client.ips()[0];
    let (h, body) = opened(&gate, &anna, "ssh", me);
    let row = row_of(&gate, anna.profile.client);
    let old = gate.daemon().listener();
    let mut pipe = capture(&mut gate);
    ok(&gate.toctocd(&["reload"]));
    tell(&mut pipe, ToGatekeeper::Completed { door: 0, source: me });
    let mut knock = |ticket| {
        tell(
            &mut pipe,
            ToGatekeeper::Knock(HandedKnock {
                ticket,
                row,
                h,
                body,
                source: Source::new(me),
                source_port: 4711,
            }),
        );
        verdict(&mut pipe, ticket).map(|receipt| receipt.status)
    };
    // It was sent behind the other one, so that one was looked at.
    assert_eq!(knock(1), Some(Status::Granted));
    assert_eq!(knock(2), None, "heard once more, but used");
    assert!(!gate.daemon().said().contains("OPEN SESAME"), "its successor watches the doors");
    // It stands still, and so does not end by itself.
    assert!(eventually(LONG, || kill(old, None).is_err()), "it still runs");
}

#[test]
fn a_listener_that_reads_late_gets_all_verdicts_as_soon_as_it_reads() {
    let mut gate = Gate::running(|config| config);
    let source = Source::new(gate.net.client.ips()[0]);
    let mut pipe = capture(&mut gate);
    // Several times what the kernel keeps for a pipe: the gatekeeper keeps the rest, and waits
    // until there is room.
    for ticket in 0..2000 {
        let (row, h, body) = (u32::MAX, [0; 32], [0; BODY]);
        tell(
            &mut pipe,
            ToGatekeeper::Knock(HandedKnock { ticket, row, h, body, source, source_port: 1 }),
        );
    }
    assert!(eventually(LONG, || pipe.flush() == Ok(()) && pipe.waiting() == 0));
    assert_eq!(verdict(&mut pipe, 1999), None);
}

#[test]
fn what_a_listener_has_counted_is_told_and_counts_on_with_the_next_one() {
    let mut gate = Gate::running(|config| config);
    assert!(!gate.status()["degraded"].to_string().contains("lost"));
    let mut pipe = capture(&mut gate);
    let mut counters = Counters::default();
    (0..3).for_each(|_| counters.count(Reject::UnknownTag));
    tell(&mut pipe, ToGatekeeper::Counters { counters, packets: 7, lost: 2 });
    tell(&mut pipe, ToGatekeeper::Counters { counters, packets: 7, lost: 3 });
    let told = |gate: &Gate, packets: u64, rejected: u64| {
        let status = gate.status();
        let lost = status["degraded"].to_string().contains("5 packets were lost for want of room");
        let of = serde_json::json!([[Reject::UnknownTag.name(), rejected]]);
        lost && status["packets"] == packets && status["rejected"] == of
    };
    assert!(eventually(LONG, || told(&gate, 7, 3)), "{}", gate.status());
    ok(&gate.toctocd(&["reload"]));
    drop(pipe);
    let mut pipe = capture(&mut gate);
    tell(&mut pipe, ToGatekeeper::Counters { counters, packets: 4, lost: 0 });
    assert!(eventually(LONG, || told(&gate, 11, 6)), "{}", gate.status());
}

#[test]
fn a_flood_of_requests_opens_nothing_fills_nothing_and_keeps_no_admin_waiting() {
    let mut gate = Gate::running(|config| config + DOOR);
    let anna = gate.enrol("anna", "ssh");
    let me = gate.net.client.ips()[0];
    let (h, mut body) = opened(&gate, &anna, "ssh", me);
    body[40] ^= 1;
    let row = row_of(&gate, anna.profile.client);
    let daemon = gate.daemon().process.0.id();
    let memory = || {
        let status = std::fs::read_to_string(format!("/proc/{daemon}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap()
    };
    let (before, begun) = (memory(), Instant::now());
    let mut pipe = capture(&mut gate);
    let (source, elsewhere) = (Source::new(me), Source::new("192.0.2.9".parse().unwrap()));
    // Nothing is read of what comes back.
    for ticket in 0..6000 {
        tell(
            &mut pipe,
            ToGatekeeper::Knock(HandedKnock { ticket, row, h, body, source, source_port: 1 }),
        );
        tell(&mut pipe, ToGatekeeper::Alarm { row, first: source, again: elsewhere });
        tell(&mut pipe, ToGatekeeper::Stage { door: 7, source: me, stage: 1 });
        tell(&mut pipe, ToGatekeeper::Stage { door: 0, source: me, stage: 1 });
        tell(&mut pipe, ToGatekeeper::Completed { door: 0, source: "127.0.0.1".parse().unwrap() });
        if ticket == 3000 {
            let asked = Instant::now();
            ok(&gate.toctocd(&["status"]));
            assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
        }
    }
    assert!(eventually(LONG, || pipe.flush() == Ok(()) && pipe.waiting() == 0));
    assert_eq!(ok(&gate.toctocd(&["grants"])), "nothing is open\n");
    let (after, lines) = (memory(), gate.daemon().said().lines().count());
    assert!(after < before + 16 * 1024, "{before} kB became {after} kB");
    // Of a door that there is, people's knocks need some lines: 256 at once and 16 a second, of
    // each kind.
    let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap();
    assert!(lines < 200 + 3 * (256 + 16 * (seconds + 1)), "{lines} lines in {seconds} s");
}

#[test]
fn doors_that_do_not_exist_and_addresses_that_nobody_has_open_nothing() {
    let mut gate = Gate::running(|config| config + DOOR);
    let mut pipe = capture(&mut gate);
    let me = gate.net.client.ips()[0];
    for door in [1, 2, 255, 256, u16::MAX] {
        tell(&mut pipe, ToGatekeeper::Completed { door, source: me });
        tell(&mut pipe, ToGatekeeper::Stage { door, source: me, stage: 2 });
        tell(&mut pipe, ToGatekeeper::TimedOut { door, source: me, stage: 2 });
    }
    for nobody in [
        "0.0.0.0",
        "127.0.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "10.90.0.1",
        "::",
        "::1",
        "fe80::1",
        "ff02::1",
    ] {
        tell(&mut pipe, ToGatekeeper::Completed { door: 0, source: nobody.parse().unwrap() });
        gate.daemon().wait_for("side: not granted: this address can never be granted");
    }
    // Numbers of captures and clients that there are not.
    tell(&mut pipe, ToGatekeeper::Down { capture: 9 });
    // The one that there is stands for all interfaces, which cannot go.
    tell(&mut pipe, ToGatekeeper::Down { capture: 0 });
    tell(&mut pipe, ToGatekeeper::Alarm { row: 9, first: Source::new(me), again: Source::new(me) });
    assert_eq!(ok(&gate.toctocd(&["grants"])), "nothing is open\n");
    // Of a door that there is, its word is enough: SECURITY.md says so.
    tell(&mut pipe, ToGatekeeper::Completed { door: 0, source: me });
    gate.daemon().wait_for("side: ssh granted to 10.90.0.2");
    tell(&mut pipe, ToGatekeeper::TimedOut { door: 0, source: me, stage: 2 });
    gate.daemon().wait_for("10.90.0.2: side: sequence timeout (stage 2)");
    let said = gate.daemon().said();
    assert_eq!(said.matches("OPEN SESAME").count(), 10, "{said}");
    assert!(
        !said.contains("Stage") && !said.contains("ALARM") && !said.contains("went down"),
        "{said}"
    );
    assert_eq!(pipe.receive().err(), None::<PipeError>);
}
