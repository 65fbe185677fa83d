//! A listener that an attacker took over: whatever it sends, it opens nothing that no client
//! signed, it sends nowhere else, and its restarts are limited. And one that goes deaf.
//!
//! The test stops the listener and copies its end of the pipe out of it, as an attacker could. So
//! it speaks to the real gatekeeper, and the shipped programs need no entrance for tests.
#![allow(unsafe_code)]

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{MsgFlags, send};
use nix::unistd::Pid;
use toctoc::core::keyring::{Day, TagTable};
use toctoc::core::knock::{BODY, HandedKnock, Receipt, Status};
use toctoc::core::noise::KeyPair;
use toctoc::core::types::{ClientId, Counters, Reject, Source};
use toctoc::core::wire::{DecryptedParts, GatewayKeys, identify};
use toctoc::edge::clock;
use toctoc::edge::gatekeeper_pipe::{
    ListenerEnd, Message, Pipe, PipeError, Tally, ToGatekeeper, ToListener,
};
use toctoc::keys::gateway::{GatewayFile, TestKeys};

use crate::harness::gate::{Gate, Knocker, SSH};
use crate::harness::process::{children, command_line_contains, resident_kib};
use crate::harness::{LONG, Net, SHORT, eventually, until};
use crate::listener::Listening;

const DOOR: &str =
    "[door.side]\nsequence = [\"7321/tcp\", \"8432/udp\", \"9543/tcp\"]\nservice = \"ssh\"\n";

/// Stops the listener and takes its end of the pipe. A thread sends signs of life in its place.
fn capture(gate: &mut Gate) -> ListenerEnd {
    let pid = gate.daemon().listener();
    kill(pid, Signal::SIGSTOP).unwrap();
    let owned = |number: libc::c_long| {
        assert!(
            number >= 0,
            "pidfd: {}; needs Linux 5.6 and root",
            std::io::Error::last_os_error()
        );
        // SAFETY: the kernel has just opened it for this process; nothing else knows its number.
        unsafe { OwnedFd::from_raw_fd(i32::try_from(number).unwrap()) }
    };
    // SAFETY: both calls take integers only.
    let process = owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) });
    // SAFETY: as above. Descriptor 0 of a listener is its pipe.
    let pipe = owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), 0, 0) });
    let alive = pipe.try_clone().unwrap();
    std::thread::spawn(move || {
        // A message that means nothing to a gateway.
        let nothing = ToGatekeeper::Removed { source: [0; 4].into(), success: false }.encode();
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        while !matches!(send(alive.as_raw_fd(), &nothing, flags), Err(Errno::EPIPE)) {
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    Pipe::new(pipe)
}

/// Sends a message; waits while there is no room.
fn send_message(pipe: &mut ListenerEnd, message: ToGatekeeper) {
    while pipe.waiting() > 1000 {
        poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLOUT)], PollTimeout::from(1000u16))
            .unwrap();
        pipe.flush().unwrap();
    }
    pipe.send(message).unwrap();
}

/// Waits for the verdict on ticket `wanted`, and returns its receipt if it has one.
fn verdict(pipe: &mut ListenerEnd, wanted: u64) -> Option<Receipt> {
    let end = Instant::now() + LONG;
    while Instant::now() < end {
        pipe.flush().unwrap();
        match pipe.receive().unwrap() {
            Some(ToListener::Verdict { ticket, receipt, .. }) if ticket == wanted => {
                return receipt.map(|bytes| Receipt::decode(bytes.first_chunk().unwrap()).unwrap());
            }
            Some(_) => {}
            None => {
                let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
                poll(&mut fds, PollTimeout::from(100u16)).unwrap();
            }
        }
    }
    panic!("no verdict on {wanted}");
}

/// What the listener would pass on for a knock. It has the keys to open it, and so does this test.
fn opened(gate: &Gate, client: &Knocker, service: &str, from: IpAddr) -> HandedKnock {
    let text = std::fs::read_to_string(gate.path("etc/gateway.key")).unwrap();
    let file = GatewayFile::parse("gateway.key", &text, TestKeys::Refused).unwrap();
    let keys = GatewayKeys {
        gateway: file.gateway,
        realm: file.realm,
        current: KeyPair::new(&file.secret),
        other: None,
    };
    let day = clock::now().wall.day();
    let wire = client.profile.side.secrets.wire(Day::Number(day)).unwrap();
    let mut tags = TagTable::default();
    tags.insert(0, &client.profile.side.secrets.wire_row(day).tags());
    let sealed = client.seal(&client.request(service, from));
    let tagged = identify(&keys, &tags, &sealed.bytes).ok().unwrap();
    let verified = tagged.check_mac(&wire).ok().unwrap();
    let (parts, _) = verified.open(&keys, &wire, Day::Number(day)).ok().unwrap().split();
    let DecryptedParts { day, h, body } = parts;
    let client = client.profile.client;
    HandedKnock { ticket: 0, client, day, h, body, source: Source::new(from), source_port: 4711 }
}

/// Reloads another configuration, which needs a new listener.
fn another_listener(gate: &Gate) {
    gate.edit_config(|config| config.replace("burst = 64", "burst = 65"));
    gate.reload();
}

#[test]
fn forged_requests_open_nothing_and_what_a_client_signed_opens_once() {
    let mut gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    let bert = gate.enrol("bert", "ssh,rdp");
    let (own, thief) = (gate.net.client.ips()[0], gate.net.host(7));
    let genuine = opened(&gate, &anna, "ssh", own);
    let for_rdp = opened(&gate, &anna, "rdp", own);
    let berts = bert.profile.client;
    let mut pipe = capture(&mut gate);
    let mut ticket = 0;
    let mut claim = |of: &HandedKnock, change: &dyn Fn(&mut HandedKnock)| {
        ticket += 1;
        let mut knock = HandedKnock { ticket, ..of.clone() };
        change(&mut knock);
        send_message(&mut pipe, ToGatekeeper::Knock(knock));
        verdict(&mut pipe, ticket).map(|receipt| receipt.status)
    };
    for wrong in [berts, ClientId([0; 16]), ClientId([77; 16])] {
        assert_eq!(claim(&genuine, &|knock| knock.client = wrong), None, "{wrong}");
    }
    let other_h = for_rdp.h;
    assert_eq!(claim(&genuine, &|knock| knock.h = other_h), None, "the hash of another knock");
    let Day::Number(today) = genuine.day else { panic!("it was sealed for a day") };
    for wrong in [today - 2, today - 1, today + 1, today + 2] {
        assert_eq!(claim(&genuine, &|knock| knock.day = Day::Number(wrong)), None, "{wrong}");
    }
    assert_eq!(claim(&genuine, &|knock| knock.day = Day::Unknown), None);
    for place in (0..BODY).step_by(7) {
        let bend = |knock: &mut HandedKnock| knock.body[place] ^= 1 << (place % 8);
        assert_eq!(claim(&genuine, &bend), None, "byte {place}");
    }
    let from_the_thief = |knock: &mut HandedKnock| knock.source = Source::new(thief.ips()[0]);
    assert_eq!(
        claim(&genuine, &from_the_thief),
        Some(Status::Address),
        "an address that anna did not sign"
    );
    assert_eq!(claim(&for_rdp, &|_| {}), Some(Status::Denied), "a service that anna may not open");
    assert!(gate.nothing_is_open());
    assert!(!gate.net.client.tcp_reaches(gate.port(0, SSH), SHORT));
    // The same knock without a forgery is granted, so the others were processed.
    assert_eq!(claim(&genuine, &|_| {}), Some(Status::Granted));
    assert_eq!(claim(&genuine, &|_| {}), None, "the same knock counts once");
    assert!(gate.net.client.tcp_reaches(gate.port(0, SSH), LONG));
    let status = gate.status();
    assert!(status.contains("gate"), "{status}");
    let log = gate.daemon().log();
    let alarm =
        "ALARM: somebody has the keys that the listener has of anna, but not anna's profile";
    assert_eq!(log.matches(alarm).count(), 1, "on the first try, and once a minute: {log}");
}

#[test]
fn hostile_bytes_end_the_listener_and_the_next_ones_start_after_short_pauses() {
    let mut gate = Gate::running(|config| config);
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    let anna = gate.enrol("anna", "ssh");
    let (own, to) = (gate.net.client.ips()[0], gate.port(0, SSH));
    let knock = HandedKnock { ticket: 1, ..opened(&gate, &anna, "ssh", own) };
    let whole = ToGatekeeper::Knock(knock).encode().to_vec();
    let (short, long) = (whole[..whole.len() - 1].to_vec(), [&whole[..], &[0]].concat());
    for (bytes, next) in [(short, "now"), (long, "in 1 s"), (vec![0xff; 4096], "in 2 s")] {
        let pipe = capture(&mut gate);
        send(pipe.as_fd().as_raw_fd(), &bytes, MsgFlags::MSG_NOSIGNAL).unwrap();
        // Bytes that follow are ignored.
        let _ = send(pipe.as_fd().as_raw_fd(), &whole, MsgFlags::MSG_NOSIGNAL);
        gate.daemon().wait_for(&format!("the next one starts {next}"));
        gate.daemon().wait_for("a new listener listens");
        assert!(gate.nothing_is_open());
    }
    assert!(!gate.net.client.tcp_reaches(to, SHORT));
    let status = gate.status();
    assert!(status.contains("the listener was lost 3 times"), "{status}");
    assert!(status.contains("it sent what no listener sends"), "{status}");
    anna.must_open(&gate.net.client, "ssh", 0);
}

#[test]
fn a_listener_that_keeps_being_killed_is_replaced_within_seconds_each_time() {
    let mut gate = Gate::running(|config| config);
    let anna = gate.enrol("anna", "ssh");
    for next in ["now", "in 1 s", "in 2 s", "in 2 s", "in 2 s"] {
        gate.daemon().kill_listener();
        gate.daemon().wait_for(&format!("the next one starts {next}"));
        gate.daemon().wait_for("a new listener listens");
    }
    anna.must_open(&gate.net.client, "ssh", 0);
    let degraded = gate.status_json()["degraded"].to_string();
    assert!(degraded.contains("the listener was lost 5 times, last at "), "{degraded}");
}

#[test]
fn a_listener_that_is_stopped_is_noticed_within_two_seconds_replaced_and_reported() {
    let mut gate = Gate::running(|config| config);
    let anna = gate.enrol("anna", "ssh");
    let deaf = gate.daemon().listener();
    let stopped = Instant::now();
    kill(deaf, Signal::SIGSTOP).unwrap();
    gate.daemon().wait_for("the listener was lost (it does not answer); the next one starts now");
    // Half a second more for a busy machine.
    assert!(stopped.elapsed() < Duration::from_millis(2500), "{:?}", stopped.elapsed());
    gate.daemon().wait_for("a new listener listens");
    anna.must_open(&gate.net.client, "ssh", 0);
    until("the deaf listener is killed", || kill(deaf, None).is_err());
    let status = gate.status();
    assert!(
        status.contains("lost 1 time, last at ") && status.contains("does not answer"),
        "{status}"
    );
}

#[test]
fn a_listener_that_is_stopped_while_it_starts_is_replaced_too() {
    let mut gate = Gate::running(|config| config);
    let anna = gate.enrol("anna", "ssh");
    for _ in 0..10 {
        stop_the_next_listener(&mut gate);
        let lost = gate.daemon().wait_for("it does not answer");
        gate.daemon().wait_for("a new listener listens");
        anna.must_open(&gate.net.client, "ssh", 0);
        if lost.contains("the listener did not start: it does not answer") {
            return;
        }
        // It was ready already. The next one may be slower.
    }
    panic!("each of ten listeners was ready before it could be stopped");
}

/// Kills the listener, and stops the next one as soon as it appears, a few milliseconds before it
/// is ready.
fn stop_the_next_listener(gate: &mut Gate) {
    let daemon = gate.daemon().process.0.id();
    let killed = gate.daemon().listener();
    kill(killed, Signal::SIGKILL).unwrap();
    let end = Instant::now() + LONG;
    while Instant::now() < end {
        for pid in children(daemon) {
            let next = Pid::from_raw(pid.cast_signed());
            if next != killed
                && command_line_contains(pid, "--listener")
                && kill(next, Signal::SIGSTOP).is_ok()
            {
                return;
            }
        }
    }
    panic!("no other listener appeared");
}

/// Makes a process do one system call, as code that took it over would, and returns the result, or
/// the signal that ended the process.
#[cfg(target_arch = "x86_64")]
fn inject(pid: libc::pid_t, call: libc::c_long, fd: i32) -> Result<i64, libc::c_int> {
    use std::ptr::null_mut;
    let mut status = 0;
    // SAFETY: each call takes integers and pointers to a structure of its own type that lives
    // through it. A `user_regs_struct` is integers only. Only the other process's memory is at
    // stake.
    unsafe {
        let mut registers: libc::user_regs_struct = std::mem::zeroed();
        until("it waits in a system call: the instruction before this place is `syscall`", || {
            assert_eq!(libc::ptrace(libc::PTRACE_ATTACH, pid, 0, 0), 0);
            assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
            libc::ptrace(libc::PTRACE_GETREGS, pid, 0, &raw mut registers);
            let before = libc::ptrace(libc::PTRACE_PEEKTEXT, pid, registers.rip - 2, 0);
            let is_waiting = before.to_le_bytes().starts_with(&[0x0f, 0x05]);
            if !is_waiting {
                libc::ptrace(libc::PTRACE_DETACH, pid, null_mut::<u8>(), null_mut::<u8>());
            }
            is_waiting
        });
        registers.rip -= 2;
        registers.rax = call.cast_unsigned();
        registers.orig_rax = u64::MAX;
        registers.rdi = u64::try_from(fd).unwrap();
        // No memory is at address 0: an allowed call fails with EFAULT and sends nothing.
        (registers.rsi, registers.rdx, registers.r10) = (0, 1, 0);
        (registers.r8, registers.r9) = (0, 0);
        libc::ptrace(libc::PTRACE_SETREGS, pid, 0, &raw mut registers);
        libc::ptrace(libc::PTRACE_SINGLESTEP, pid, 0, 0);
        assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
        if libc::WIFSIGNALED(status) {
            return Err(libc::WTERMSIG(status));
        }
        libc::ptrace(libc::PTRACE_GETREGS, pid, 0, &raw mut registers);
        libc::ptrace(libc::PTRACE_DETACH, pid, null_mut::<u8>(), null_mut::<u8>());
        Ok(registers.rax.cast_signed())
    }
}

/// The sockets in a file like /proc/net/packet, by inode, as the links in /proc/PID/fd name them.
#[cfg(target_arch = "x86_64")]
fn sockets(net: &Net, file: &str, column: usize) -> Vec<String> {
    let text = net.gateway.sh(&format!("cat /proc/net/{file}"));
    let inode = |line: &str| line.split_whitespace().nth(column).unwrap_or_default().to_owned();
    text.lines().skip(1).map(|line| format!("socket:[{}]", inode(line))).collect()
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_listener_sends_only_on_its_pipe_and_the_sockets_for_receipts_whatever_it_holds() {
    let net = Net::new();
    let descriptors = |it: &Listening| {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(format!("/proc/{}/fd", it.process.0.id())).unwrap() {
            let path = entry.unwrap().path();
            let number: i32 = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
            found.push((number, std::fs::read_link(path).unwrap().display().to_string()));
        }
        found.sort();
        found
    };
    let pid = |it: &Listening| libc::pid_t::try_from(it.process.0.id()).unwrap();
    let it = Listening::start(&net, "gw0");
    let all = descriptors(&it);
    let packet = sockets(&net, "packet", 8);
    let raw = [sockets(&net, "raw", 9), sockets(&net, "raw6", 9)].concat();
    let count = |kind: &[String]| all.iter().filter(|(_, link)| kind.contains(link)).count();
    assert_eq!((all.len(), count(&packet), count(&raw)), (6, 1, 2), "{all:?}");
    drop(it);
    for index in 0..all.len() {
        for call in [
            libc::SYS_sendmsg,
            libc::SYS_sendto,
            libc::SYS_sendmmsg,
            libc::SYS_write,
            libc::SYS_writev,
            libc::SYS_pwrite64,
            libc::SYS_sendfile,
            libc::SYS_splice,
            libc::SYS_dup,
            libc::SYS_setsockopt,
        ] {
            let it = Listening::start(&net, "gw0");
            let (number, link) = descriptors(&it)[index].clone();
            let may_send = number == 0
                || [sockets(&net, "raw", 9), sockets(&net, "raw6", 9)].concat().contains(&link);
            let result = inject(pid(&it), call, number);
            let expected = match may_send && call == libc::SYS_sendmsg {
                true => Ok(-i64::from(libc::EFAULT)),
                false => Err(libc::SIGSYS),
            };
            assert_eq!(result, expected, "system call {call} on descriptor {number}, {link}");
        }
    }
}

#[test]
fn a_listener_holds_no_descriptor_of_the_log() {
    let mut gate = Gate::running(|config| config);
    let pid = gate.daemon().listener();
    for number in [1, 2] {
        let link = std::fs::read_link(format!("/proc/{pid}/fd/{number}")).unwrap();
        assert_eq!(link.display().to_string(), "/dev/null");
    }
}

#[test]
fn a_replaced_listener_may_hand_over_knocks_but_opens_no_door_and_is_ended() {
    let mut gate = Gate::running(|config| config + DOOR);
    let anna = gate.enrol("anna", "ssh");
    let own = gate.net.client.ips()[0];
    let genuine = opened(&gate, &anna, "ssh", own);
    let old = gate.daemon().listener();
    let mut pipe = capture(&mut gate);
    another_listener(&gate);
    send_message(&mut pipe, ToGatekeeper::Completed { door: 0, source: own });
    let mut knock = |ticket| {
        send_message(&mut pipe, ToGatekeeper::Knock(HandedKnock { ticket, ..genuine.clone() }));
        verdict(&mut pipe, ticket).map(|receipt| receipt.status)
    };
    // It was sent after the other message, so that one was processed.
    assert_eq!(knock(1), Some(Status::Granted));
    assert_eq!(knock(2), None, "the knock was used before");
    assert!(!gate.daemon().log().contains("OPEN SESAME"), "only the new listener may open doors");
    // It is stopped, so it cannot end by itself.
    until("the replaced listener is killed", || kill(old, None).is_err());
}

#[test]
fn a_listener_that_reads_late_gets_all_verdicts_as_soon_as_it_reads() {
    let mut gate = Gate::running(|config| config);
    let source = Source::new(gate.net.client.ips()[0]);
    let mut pipe = capture(&mut gate);
    // Several times the kernel's buffer of a pipe: the gatekeeper keeps the rest until there is
    // room.
    for ticket in 0..2000 {
        let (client, h, body) = (ClientId([0; 16]), [0; 32], [0; BODY]);
        let (day, source_port) = (Day::Unknown, 1);
        let knock = HandedKnock { ticket, client, day, h, body, source, source_port };
        send_message(&mut pipe, ToGatekeeper::Knock(knock));
    }
    until("all messages are sent", || pipe.flush() == Ok(()) && pipe.waiting() == 0);
    assert_eq!(verdict(&mut pipe, 1999), None);
}

#[test]
fn the_counters_of_a_listener_are_reported_and_continue_with_the_next_one() {
    let mut gate = Gate::running(|config| config);
    assert!(!gate.status_json()["degraded"].to_string().contains("lost"));
    let mut pipe = capture(&mut gate);
    let mut counters = Counters::default();
    (0..3).for_each(|_| counters.count(Reject::UnknownTag));
    let tally = |read, lost| {
        let (rejected, doors) = (counters, read - counters.sum());
        ToGatekeeper::Counters(Tally { rejected, read, lost, doors, ..Tally::default() })
    };
    send_message(&mut pipe, tally(6, 2));
    send_message(&mut pipe, tally(7, 3));
    let reported = |gate: &Gate, received: u64, rejected: u64| {
        let status = gate.status_json();
        let lost = status["degraded"].to_string().contains("3 packets were lost for want of room");
        let of = serde_json::json!([[Reject::UnknownTag.name(), rejected]]);
        let packets = &status["packets"];
        lost && packets["received"] == received && packets["rejected"] == of
    };
    assert!(eventually(LONG, || reported(&gate, 10, 3)), "{}", gate.status_json());
    another_listener(&gate);
    drop(pipe);
    let mut pipe = capture(&mut gate);
    send_message(&mut pipe, tally(4, 0));
    assert!(eventually(LONG, || reported(&gate, 14, 6)), "{}", gate.status_json());
}

#[test]
fn a_flood_of_requests_opens_nothing_fills_nothing_and_keeps_no_admin_waiting() {
    let mut gate = Gate::running(|config| config + DOOR);
    let anna = gate.enrol("anna", "ssh");
    let own = gate.net.client.ips()[0];
    let mut forged = opened(&gate, &anna, "ssh", own);
    forged.body[40] ^= 1;
    let client = forged.client;
    let daemon = gate.daemon().process.0.id();
    let before = resident_kib(daemon);
    let begun = Instant::now();
    let mut pipe = capture(&mut gate);
    let source = Source::new(own);
    let elsewhere = Source::new("192.0.2.9".parse().unwrap());
    // The verdicts are never read.
    for ticket in 0..6000 {
        send_message(&mut pipe, ToGatekeeper::Knock(HandedKnock { ticket, ..forged.clone() }));
        send_message(&mut pipe, ToGatekeeper::Alarm { client, first: source, again: elsewhere });
        send_message(&mut pipe, ToGatekeeper::Stage { door: 7, source: own, stage: 1 });
        send_message(&mut pipe, ToGatekeeper::Stage { door: 0, source: own, stage: 1 });
        send_message(
            &mut pipe,
            ToGatekeeper::Completed { door: 0, source: "127.0.0.1".parse().unwrap() },
        );
        if ticket == 3000 {
            let asked = Instant::now();
            gate.status();
            assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
        }
    }
    until("all messages are sent", || pipe.flush() == Ok(()) && pipe.waiting() == 0);
    assert!(gate.nothing_is_open());
    let after = resident_kib(daemon);
    let lines = gate.daemon().log().lines().count();
    assert!(after < before + 16 * 1024, "{before} kB became {after} kB");
    // Messages about an existing door are allowed: 256 at once and 16 a second. So are two lines
    // for each opening: 1,024 of them at once and 64 a second.
    let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap() + 1;
    let allowed = 200 + 256 + 16 * seconds + 2 * (1024 + 64 * seconds);
    assert!(lines < allowed, "{lines} lines in {seconds} s");
}

#[test]
fn doors_that_do_not_exist_and_impossible_addresses_open_nothing() {
    let mut gate = Gate::running(|config| config + DOOR);
    let mut pipe = capture(&mut gate);
    let own = gate.net.client.ips()[0];
    for door in [1, 2, 255, 256, u16::MAX] {
        send_message(&mut pipe, ToGatekeeper::Completed { door, source: own });
        send_message(&mut pipe, ToGatekeeper::Stage { door, source: own, stage: 2 });
        send_message(&mut pipe, ToGatekeeper::TimedOut { door, source: own, stage: 2 });
    }
    for impossible in [
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
        send_message(
            &mut pipe,
            ToGatekeeper::Completed { door: 0, source: impossible.parse().unwrap() },
        );
        gate.daemon().wait_for("side: not granted: this is not the address of one other machine");
    }
    // Numbers of captures and clients that do not exist.
    send_message(&mut pipe, ToGatekeeper::Down { capture: 9 });
    // The only capture is of all interfaces, which cannot go down.
    send_message(&mut pipe, ToGatekeeper::Down { capture: 0 });
    send_message(
        &mut pipe,
        ToGatekeeper::Alarm {
            client: ClientId([9; 16]),
            first: Source::new(own),
            again: Source::new(own),
        },
    );
    assert!(gate.nothing_is_open());
    // For an existing door the word of the listener is enough: see SECURITY.md.
    send_message(&mut pipe, ToGatekeeper::Completed { door: 0, source: own });
    gate.daemon().wait_for("side: ssh granted to 10.90.0.2");
    send_message(&mut pipe, ToGatekeeper::TimedOut { door: 0, source: own, stage: 2 });
    gate.daemon().wait_for("10.90.0.2: side: sequence timeout (stage 2)");
    let output = gate.daemon().log();
    assert_eq!(output.matches("OPEN SESAME").count(), 10, "{output}");
    assert!(
        !output.contains("Stage") && !output.contains("ALARM") && !output.contains("went down"),
        "{output}"
    );
    assert_eq!(pipe.receive().err(), None::<PipeError>);
}
