//! The listener as a process: real packets in, messages out, receipts from the knock port, and the
//! privileges that it keeps. The other files test whole gateways.

use std::fs;
use std::net::{IpAddr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::gate::{WITHOUT_BPF, stderr};
use crate::harness::process::{cpu_time, signal};
use crate::harness::raw::{Forger, send_echo_request, stranger};
use crate::harness::{LONG, Net, Running, SHORT, until};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::UdpGsoSegment;
use nix::unistd::Uid;
use toctoc::core::door::first_steps::{FirstStep, HeldSteps};
use toctoc::core::door::{Step, TcpFlags};
use toctoc::core::engine::KnownClient;
use toctoc::core::keyring::{FilterDrops, Secret};
use toctoc::core::knock::{HandedKnock, Receipt, Status};
use toctoc::core::prefix::Span;
use toctoc::core::sequence::{DoorSpec, Target};
use toctoc::core::test_vectors;
use toctoc::core::types::{Reject, Source};
use toctoc::core::wire::{AwaitingReceipt, DATAGRAM};
use toctoc::edge::bpf::FilterSpec;
use toctoc::edge::capture::CaptureResult;
use toctoc::edge::confine::{Limitation, Limitations, inherited_filters, verify};
use toctoc::edge::gatekeeper_pipe::{
    GatekeeperEnd, OwnAddress, PipeError, Tally, ToGatekeeper, ToListener, pair,
};
use toctoc::edge::{bpf, capture, clock, entropy};

const PORT: u16 = 62201;
const NOBODY: (u32, u32) = (65534, 65534);

/// A listener on the gateway of a network, and the gatekeeper's end of its pipe.
pub(crate) struct Listening {
    pipe: GatekeeperEnd,
    pub(crate) process: Running,
    limitations: Limitations,
    inherited_filters: u64,
}

fn door() -> DoorSpec {
    DoorSpec {
        sequence: vec![Step::udp(7000), Step::tcp(8000), Step::Echo { size: 100 }],
        seq_timeout: 20,
        flags: TcpFlags { set: 2, unset: 16 },
        target: Target::Own,
        one_time: false,
        tolerate_duplicates: false,
        own: false,
        pause_after: 0,
    }
}

impl Listening {
    pub(crate) fn start(net: &Net, interface: &str) -> Self {
        Self::start_with(net, interface, &door())
    }

    fn start_with(net: &Net, interface: &str, door: &DoorSpec) -> Self {
        Self::start_under(&[], net, interface, door)
    }

    /// `prefix`: the start of its command line.
    fn start_under(prefix: &[&str], net: &Net, interface: &str, door: &DoorSpec) -> Self {
        let (mut pipe, listener_end) = pair().unwrap();
        let process = net.gateway.spawn(&mut command_under(prefix, listener_end));
        assert_eq!(message(&mut pipe, LONG), Ok(Some(ToGatekeeper::Hello)));
        let inherited_filters = inherited_filters(process.0.id()).unwrap();
        let mut send = |message| {
            pipe.send(message).unwrap();
            pipe.drain(LONG).unwrap();
        };
        let gateway = |current: &[u8; 32]| ToListener::Gateway {
            realm: test_vectors::realm().id(),
            gateway: test_vectors::gateway().gateway,
            mask: test_vectors::realm().mask().duplicate(),
            current: Secret::new(*current),
            other: None,
            port: PORT,
            burst: 64,
            per_second: 4,
            clients: 1,
        };
        send(gateway(test_vectors::gateway().current.expose()));
        let keys = test_vectors::wire_row(clock::now().wall);
        send(ToListener::Door { index: 0, spec: door.clone() });
        let own = |address| OwnAddress { address, knock: true, door: true };
        let part = net.gateway_ips().into_iter().map(own).collect();
        send(ToListener::Addresses { is_first: true, part });
        send(ToListener::AddressesDone);
        let steps = door.sequence.iter().map(|step| (*step, door.flags)).collect();
        send(ToListener::Filter(FilterSpec { knock_port: Some(PORT), steps, outgoing: false }));
        let first = FirstStep { step: door.sequence[0], flags: door.flags, after: 0 };
        send(ToListener::FirstSteps(HeldSteps { first: vec![first], ..HeldSteps::default() }));
        let interface = net.gateway.inside(|| capture::interface(interface).unwrap());
        send(ToListener::Capture { interface });
        send(ToListener::Clients(vec![KnownClient { client: test_vectors::CLIENT, keys }]));
        send(ToListener::Go { user: user() });
        let mut listening =
            Listening { pipe, process, limitations: Limitations::default(), inherited_filters };
        match listening.next() {
            ToGatekeeper::Ready { degraded } => {
                listening.limitations = Limitations::from_bits(degraded)
            }
            other => panic!("{other:?}"),
        }
        listening
    }

    fn next(&mut self) -> ToGatekeeper {
        self.within(LONG).expect("a message in time")
    }

    fn within(&mut self, timeout: Duration) -> Option<ToGatekeeper> {
        message(&mut self.pipe, timeout).expect("the listener lives")
    }

    /// True if the kernel's filter drops unknown tags: where the kernel allows that.
    fn knows_tags(&self) -> bool {
        !self.limitations.has(Limitation::TagsForbidden)
    }

    fn counters(&mut self) -> Tally {
        self.pipe.send(ToListener::AskCounters).unwrap();
        match self.next() {
            ToGatekeeper::Counters(tally) => tally,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn packets_that_this_machine_sends_are_copied_only_for_a_socket_that_wants_them() {
    const RETURN: u16 = 0x06;
    let all = [bpf::Instruction { code: RETURN, jump_true: 0, jump_false: 0, operand: 0xffff }];
    let net = Net::new();
    let (theirs, own) = (net.client.ips()[0], net.gateway_ips()[0]);
    for outgoing in [false, true] {
        let filters = capture::Filters { classic: &all, ebpf: None, outgoing };
        let opened = net.gateway.inside(|| capture::Capture::open(0, &filters));
        let Ok(mut capture) = opened else { panic!("no capture socket") };
        let here = net.gateway.inside(|| UdpSocket::bind((own, 9)).unwrap());
        let there = net.client.space.inside(|| UdpSocket::bind((theirs, 9)).unwrap());
        here.send_to(b"from here", (theirs, 9)).unwrap();
        there.send_to(b"from there", (own, 9)).unwrap();
        let mut buffer = Box::new([0; capture::LONGEST]);
        let mut seen = false;
        until("their packet is captured", || match capture.take(&mut buffer) {
            CaptureResult::Packet { bytes, .. } => {
                seen |= bytes.ends_with(b"from here");
                bytes.ends_with(b"from there")
            }
            _ => false,
        });
        assert_eq!(seen, outgoing);
    }
}

fn command(pipe: OwnedFd) -> Command {
    command_under(&[], pipe)
}

fn command_under(prefix: &[&str], pipe: OwnedFd) -> Command {
    let words =
        [prefix, &[env!("CARGO_BIN_EXE_toctocd"), toctoc::app::listener::ARGUMENT]].concat();
    let mut command = Command::new("env");
    command.arg("-i").args(words).stdin(Stdio::from(pipe));
    command
}

fn user() -> Option<(u32, u32)> {
    Uid::effective().is_root().then_some(NOBODY)
}

fn message(pipe: &mut GatekeeperEnd, timeout: Duration) -> Result<Option<ToGatekeeper>, PipeError> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(message) = pipe.receive()? {
            return Ok(Some(message));
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], left).unwrap();
    }
}

/// A valid knock with a timestamp of now.
fn knock() -> ([u8; DATAGRAM], AwaitingReceipt) {
    test_vectors::datagram(
        &test_vectors::request(clock::now().wall),
        *entropy::secret().unwrap().expose(),
    )
}

fn receipt(observed: Source) -> Receipt {
    Receipt {
        status: Status::Observed,
        once: false,
        seconds: 0,
        time: clock::now().wall,
        working_day: 20_513,
        observed,
        granted: None,
        span: Span::HOST,
        ports: [None; 4],
        challenge: None,
        next_key: None,
        welcome: None,
    }
}

fn receive(socket: &UdpSocket, timeout: Duration) -> Option<Vec<u8>> {
    let mut buffer = [0; 2048];
    socket.set_read_timeout(Some(timeout)).unwrap();
    socket.recv(&mut buffer).ok().map(|length| buffer[..length].to_vec())
}

#[test]
fn a_knock_of_either_family_is_passed_on_and_its_receipt_comes_from_the_knock_port() {
    let net = Net::new();
    for interface in ["gw0", "any"] {
        let mut it = Listening::start(&net, interface);
        for (to, from) in net.gateway_ips().into_iter().zip(net.client.ips()) {
            // A connected socket receives only packets from this address and port.
            let socket = net.client.space.udp(SocketAddr::new(to, PORT));
            let (datagram, awaiting) = knock();
            socket.send(&datagram).unwrap();
            let ToGatekeeper::Knock(knock) = it.next() else { panic!() };
            let HandedKnock { ticket, source, source_port, day, h, .. } = knock;
            assert_eq!((source.ip(), source_port), (from, socket.local_addr().unwrap().port()));
            assert!(test_vectors::verify(knock).is_ok());
            let told = receipt(source);
            let receipt = Some(test_vectors::receipt_body(&told, day, &h));
            it.pipe.send(ToListener::Verdict { ticket, spent: true, receipt }).unwrap();
            // The kernel's "port unreachable" may come first, because no socket is bound to the
            // port.
            let answer = (0..3).find_map(|_| receive(&socket, LONG)).expect("a receipt");
            assert_eq!(awaiting.open(&answer), Some(told), "{interface} {from}");
        }
    }
}

#[test]
fn knocks_that_the_sender_merges_into_one_packet_are_each_handed_over() {
    let net = Net::new();
    let mut it = Listening::start(&net, "gw0");
    for to in net.gateway_ips() {
        let socket = net.client.space.udp(SocketAddr::new(to, PORT));
        // One packet as long as three knocks, which a network card would cut up.
        setsockopt(&socket, UdpGsoSegment, &i32::try_from(DATAGRAM).unwrap()).unwrap();
        let merged = [knock().0, knock().0, knock().0].concat();
        socket.send(&merged).unwrap();
        for _ in 0..3 {
            assert!(matches!(it.next(), ToGatekeeper::Knock(_)), "{to}");
        }
    }
}

#[test]
fn a_replaced_listener_still_sends_the_receipt_of_a_knock_that_it_handed_over() {
    let net = Net::new();
    let mut it = Listening::start(&net, "gw0");
    let socket = net.client.space.udp(net.client.gateway(0, PORT));
    let (datagram, awaiting) = knock();
    socket.send(&datagram).unwrap();
    let ToGatekeeper::Knock(HandedKnock { ticket, source, day, h, .. }) = it.next() else {
        panic!()
    };
    it.pipe.send(ToListener::Stop).unwrap();
    let told = receipt(source);
    let receipt = Some(test_vectors::receipt_body(&told, day, &h));
    it.pipe.send(ToListener::Verdict { ticket, spent: true, receipt }).unwrap();
    // The kernel's "port unreachable" may come first, because no socket is bound to the port.
    let answer = (0..3).find_map(|_| receive(&socket, LONG)).expect("a receipt");
    assert_eq!(awaiting.open(&answer), Some(told));
    let end = it.process.wait(LONG).expect("the listener ends");
    assert!(end.success(), "{end}");
}

#[test]
fn a_replaced_listener_hands_over_what_came_before_it_was_told() {
    let net = Net::new();
    let mut it = Listening::start(&net, "gw0");
    signal(it.process.0.id(), Signal::SIGSTOP);
    let socket = net.client.space.udp(net.client.gateway(0, PORT));
    socket.send(&knock().0).unwrap();
    // The answer shows that what was sent before has been captured.
    let _echo = net.gateway.udp_echo(4999);
    assert!(net.client.udp_reaches(net.client.gateway(0, 4999), LONG));
    it.pipe.send(ToListener::Stop).unwrap();
    signal(it.process.0.id(), Signal::SIGCONT);
    let ToGatekeeper::Knock(HandedKnock { ticket, .. }) = it.next() else { panic!() };
    it.pipe.send(ToListener::Verdict { ticket, spent: true, receipt: None }).unwrap();
    let end = it.process.wait(LONG).expect("the listener ends");
    assert!(end.success(), "{end}");
}

#[test]
fn junk_is_counted_and_neither_answered_nor_passed_on() {
    let net = Net::new();
    let mut it = Listening::start(&net, "gw0");
    let socket = net.client.space.udp(net.client.gateway(0, PORT));
    for _ in 0..50 {
        let _ = socket.send(&[0x5a; DATAGRAM]);
        let _ = socket.send(&[0x5a; DATAGRAM - 1]);
    }
    let (datagram, _) = knock();
    let _ = socket.send(&datagram);
    assert!(matches!(it.next(), ToGatekeeper::Knock(_)));
    let tally = it.counters();
    let Tally { rejected, filtered, read, lost, doors, waiting, .. } = tally;
    let in_kernel = if it.knows_tags() { 50 } else { 0 };
    assert_eq!(filtered, FilterDrops { unknown_tag: in_kernel, ..<_>::default() });
    assert_eq!(
        (rejected.of(Reject::UnknownTag) + in_kernel, read + in_kernel),
        (50, 51),
        "the kernel's filter must drop other lengths"
    );
    assert_eq!(rejected.sum() + in_kernel, 50);
    assert_eq!((lost, doors, waiting), (0, 0, 0), "and one was handed over");
    assert!(it.within(SHORT).is_none(), "junk was passed on");
    // The first may be the kernel's "port unreachable".
    let answer = (0..2).find_map(|_| receive(&socket, SHORT));
    assert!(answer.is_none(), "junk was answered: {answer:?}");
}

#[test]
fn packets_that_were_read_and_those_that_were_lost_are_all_that_came() {
    let net = Net::new();
    let mut it = Listening::start_under(&WITHOUT_BPF, &net, "gw0", &door());
    let pid = it.process.0.id();
    let socket = net.client.space.inside(|| UdpSocket::bind((net.client.ips()[0], 0)).unwrap());
    let before = net.gateway.ip_counter("InReceives");
    signal(pid, Signal::SIGSTOP);
    // More than the kernel keeps for a listener that does not read.
    let mut damaged = knock().0;
    damaged[DATAGRAM - 1] ^= 1;
    for _ in 0..40_000 {
        socket.send_to(&damaged, net.client.gateway(0, PORT)).unwrap();
    }
    signal(pid, Signal::SIGCONT);
    until("all of them are accounted for", || {
        let Tally { read, lost, .. } = it.counters();
        // Some may still be on their way.
        lost > 0 && read + lost == net.gateway.ip_counter("InReceives") - before
    });
}

#[test]
fn junk_pushes_a_knock_out_of_the_queue_only_where_the_kernel_knows_no_tags() {
    const JUNK: u64 = 40_000;
    for prefix in [&[][..], &WITHOUT_BPF] {
        let net = Net::new();
        let mut it = Listening::start_under(prefix, &net, "gw0", &door());
        assert!(prefix.is_empty() || !it.knows_tags());
        let socket = net.client.space.inside(|| UdpSocket::bind((net.client.ips()[0], 0)).unwrap());
        let to = net.client.gateway(0, PORT);
        let pid = it.process.0.id();
        signal(pid, Signal::SIGSTOP);
        for n in 0..JUNK {
            let mut junk = [0x5a; DATAGRAM];
            junk[..8].copy_from_slice(&n.to_be_bytes());
            socket.send_to(&junk, to).unwrap();
        }
        socket.send_to(&knock().0, to).unwrap();
        signal(pid, Signal::SIGCONT);
        if it.knows_tags() {
            assert!(matches!(it.next(), ToGatekeeper::Knock(_)));
            let Tally { rejected, filtered, read, lost, .. } = it.counters();
            assert_eq!((filtered.unknown_tag, read, lost, rejected.sum()), (JUNK, 1, 0, 0));
        } else {
            until("all of them are accounted for", || {
                let Tally { rejected, read, lost, .. } = it.counters();
                lost > 0 && rejected.sum() == read && read + lost == JUNK + 1
            });
        }
    }
}

#[test]
fn first_steps_push_a_knock_out_of_the_queue_only_where_the_kernel_holds_none() {
    const FLOOD: u32 = 40_000;
    for prefix in [&[][..], &WITHOUT_BPF] {
        let net = Net::new();
        let mut it = Listening::start_under(prefix, &net, "gw0", &door());
        let forger = Forger::new(&net.client.space);
        let Some(IpAddr::V4(gateway)) = net.gateway_ips().into_iter().next() else { panic!() };
        let first_steps = |from: u32, count: u32| {
            for n in from..from + count {
                forger.datagram(stranger(n), SocketAddrV4::new(gateway, 7000), b"");
            }
        };
        let before = net.gateway.ip_counter("InReceives");
        let mut sent = 0;
        // It looks at its counters when it is asked.
        let counters = |it: &mut Listening| {
            it.pipe.send(ToListener::AskCounters).unwrap();
            loop {
                match it.next() {
                    ToGatekeeper::Counters(tally) => return tally,
                    ToGatekeeper::Stage { stage: 1, .. } | ToGatekeeper::Suppressed { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
        };
        if it.knows_tags() {
            until("first steps are held", || {
                first_steps(sent, 2000);
                sent += 2000;
                counters(&mut it).holds
            });
        }
        let pid = it.process.0.id();
        signal(pid, Signal::SIGSTOP);
        first_steps(sent, FLOOD);
        let all = net.gateway.ip_counter("InReceives") - before;
        let _ = net.client.space.udp(net.client.gateway(0, 7000)).send(b"");
        let _ = net.client.connect(net.client.gateway(0, 8000), SHORT);
        send_echo_request(&net.client.space, gateway.into(), &[0; 100]);
        signal(pid, Signal::SIGCONT);
        if it.knows_tags() {
            let source = net.client.ips()[0];
            loop {
                match it.next() {
                    ToGatekeeper::Completed { door: 0, source: who } if who == source => break,
                    ToGatekeeper::Stage { .. } | ToGatekeeper::Suppressed { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
            let Tally { filtered, lost, doors, .. } = counters(&mut it);
            assert_eq!((filtered.first_step + doors, lost), (all + 3, 0));
            assert!(filtered.first_step > u64::from(FLOOD));
        } else {
            until("all of them are accounted for", || {
                let Tally { filtered, lost, doors, .. } = counters(&mut it);
                lost > 3 && filtered.first_step == 0 && lost + doors == all + 3
            });
        }
    }
}

#[test]
fn knocks_with_a_wrong_bit_and_copies_end_in_the_kernel_which_knows_keys() {
    const FLOOD: u64 = 20_000;
    let net = Net::new();
    let mut it = Listening::start(&net, "gw0");
    if !it.knows_tags() {
        return;
    }
    let socket = net.client.space.inside(|| UdpSocket::bind((net.client.ips()[0], 0)).unwrap());
    let to = net.client.gateway(0, PORT);
    let genuine = knock().0;
    let mut damaged = genuine;
    damaged[DATAGRAM - 1] ^= 1;
    for _ in 0..FLOOD {
        socket.send_to(&damaged, to).unwrap();
    }
    let Tally { filtered, read, lost, .. } = it.counters();
    assert_eq!((filtered.client_mac, read, lost), (FLOOD, 0, 0));
    socket.send_to(&genuine, to).unwrap();
    let ToGatekeeper::Knock(HandedKnock { ticket, .. }) = it.next() else { panic!("a knock") };
    it.pipe.send(ToListener::Verdict { ticket, spent: true, receipt: None }).unwrap();
    // The listener notices the first ones.
    for _ in 0..8 {
        socket.send_to(&genuine, to).unwrap();
    }
    until("the first copies are counted", || it.counters().rejected.of(Reject::SeenBefore) == 8);
    for _ in 0..FLOOD {
        socket.send_to(&genuine, to).unwrap();
    }
    let Tally { filtered, read, lost, .. } = it.counters();
    assert_eq!((filtered.copies, read, lost), (FLOOD, 1 + 8, 0));
}

#[test]
fn a_door_of_udp_tcp_and_echo_opens_over_real_packets() {
    let net = Net::new();
    let mut it = Listening::start(&net, "gw0");
    for (to, from) in net.gateway_ips().into_iter().zip(net.client.ips()) {
        let _ = net.client.space.udp(SocketAddr::new(to, 7000)).send(b"");
        assert_eq!(it.next(), ToGatekeeper::Stage { door: 0, source: from, stage: 1 });
        let _ = net.client.connect(SocketAddr::new(to, 8000), SHORT);
        assert_eq!(it.next(), ToGatekeeper::Stage { door: 0, source: from, stage: 2 });
        send_echo_request(&net.client.space, to, &[0; 100]);
        assert_eq!(it.next(), ToGatekeeper::Stage { door: 0, source: from, stage: 3 });
        assert_eq!(it.next(), ToGatekeeper::Completed { door: 0, source: from });
    }
}

#[test]
fn the_listener_has_no_privileges_no_files_and_no_environment() {
    let net = Net::new();
    let it = Listening::start(&net, "gw0");
    let process = it.process.0.id();
    verify(process, it.limitations, user(), it.inherited_filters).unwrap();
    let mut open: Vec<_> =
        fs::read_dir(format!("/proc/{process}/fd")).unwrap().map(|e| e.unwrap().path()).collect();
    open.sort();
    let links: Vec<_> = open
        .iter()
        .map(|path| fs::read_link(path).unwrap().to_string_lossy().into_owned())
        .collect();
    let files: Vec<_> = links.iter().skip(3).filter(|link| !link.starts_with("socket:")).collect();
    assert!(files.is_empty(), "only sockets may be open besides stdin, stdout, stderr: {links:?}");
    let environment = fs::read(format!("/proc/{process}/environ")).unwrap();
    assert!(environment.is_empty());
    let limits = fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
    for name in ["Max core file size", "Max processes"] {
        let line = limits.lines().find_map(|line| line.strip_prefix(name)).expect(name);
        assert_eq!(line.split_whitespace().next(), Some("0"), "{name}: {limits}");
    }
}

#[test]
fn the_listener_ends_when_its_pipe_closes_and_when_told_to() {
    let net = Net::new();
    let Listening { pipe, mut process, .. } = Listening::start(&net, "gw0");
    drop(pipe);
    let end = process.wait(LONG).expect("the listener ends");
    assert!(end.success(), "{end}");
    let mut it = Listening::start(&net, "gw0");
    it.pipe.send(ToListener::Stop).unwrap();
    let end = it.process.wait(LONG).expect("the listener ends");
    assert!(end.success(), "{end}");
}

#[test]
fn knocks_are_received_again_on_an_interface_that_went_down_and_up() {
    let net = Net::new();
    let mut it = Listening::start(&net, "gw0");
    net.gateway.sh("ip link set gw0 down");
    assert_eq!(it.next(), ToGatekeeper::Down { capture: 0 });
    net.gateway.sh("ip link set gw0 up");
    let socket = net.client.space.udp(net.client.gateway(0, PORT));
    let deadline = Instant::now() + LONG;
    loop {
        let (datagram, _) = knock();
        let _ = socket.send(&datagram);
        match it.within(SHORT) {
            Some(ToGatekeeper::Knock(_)) => break,
            _ => assert!(Instant::now() < deadline, "no packet is received any more"),
        }
    }
    let before = cpu_time(it.process.0.id());
    assert!(it.within(SHORT).is_none());
    let used = cpu_time(it.process.0.id()) - before;
    assert!(used < SHORT / 2, "the idle listener used {used:?} of CPU time");
}

#[test]
fn a_set_up_out_of_order_is_refused_with_a_message() {
    let net = Net::new();
    for wrong in [
        ToListener::Forget { tag: [0; 16] },
        ToListener::Door { index: 1, spec: door() },
        ToListener::AskCounters,
    ] {
        let (mut pipe, listener_end) = pair().unwrap();
        let mut process = net.gateway.spawn(&mut command(listener_end));
        assert_eq!(message(&mut pipe, LONG), Ok(Some(ToGatekeeper::Hello)));
        pipe.send(wrong).unwrap();
        let Some(ToGatekeeper::Failed { step, errno }) = message(&mut pipe, LONG).unwrap() else {
            panic!()
        };
        let failure = toctoc::edge::confine::ConfineFailure::from_pipe(step, errno).unwrap();
        assert!(failure.fault().what.contains("set-up"));
        assert!(process.wait(LONG).is_some());
    }
}

#[test]
fn started_by_hand_the_listener_only_says_what_it_is() {
    for stdin in [Stdio::null(), Stdio::piped()] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_toctocd"));
        let output = command.arg(toctoc::app::listener::ARGUMENT).stdin(stdin).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains("the gateway starts this by itself"));
    }
}

#[test]
fn a_missing_or_disabled_interface_is_a_fault_with_a_remedy() {
    let net = Net::new();
    net.gateway.sh("ip link add idle0 type veth peer name idle1");
    let open = |name: &str| net.gateway.inside(|| capture::interface(name).unwrap_err());
    assert!(open("nope0").what.contains("no such interface"));
    let down = open("idle0");
    assert!(down.what.contains("it is down") && down.remedy.contains("ip link set idle0 up"));
}

#[test]
fn a_hit_counts_when_it_came_not_when_a_busy_listener_reads_it() {
    let net = Net::new();
    let sequence = vec![Step::udp(7000), Step::udp(7001)];
    let spec = DoorSpec { sequence, seq_timeout: 2, ..door() };
    let mut listening = Listening::start_with(&net, "gw0", &spec);
    // A new socket each time: one that was told that the port is closed sends nothing.
    let hit = |port| net.client.space.udp(net.client.gateway(0, port)).send(&[0]).unwrap();
    let three_seconds = || {
        let begun = Instant::now();
        until("three seconds are over", || begun.elapsed() > Duration::from_secs(3));
    };
    let pid = listening.process.0.id();
    let mut stages = |count: usize| {
        let told = (0..count).map(|_| match listening.next() {
            ToGatekeeper::Stage { stage, .. } => format!("stage {stage}"),
            ToGatekeeper::TimedOut { stage, .. } => format!("late after {stage}"),
            ToGatekeeper::Completed { .. } => "open".to_owned(),
            other => panic!("{other:?}"),
        });
        told.collect::<Vec<_>>()
    };
    hit(7000);
    assert_eq!(stages(1), ["stage 1"]);
    signal(pid, Signal::SIGSTOP);
    hit(7001);
    three_seconds();
    signal(pid, Signal::SIGCONT);
    assert_eq!(stages(2), ["stage 2", "open"], "it came in time");
    signal(pid, Signal::SIGSTOP);
    hit(7000);
    three_seconds();
    hit(7001);
    signal(pid, Signal::SIGCONT);
    assert_eq!(stages(2), ["stage 1", "late after 1"], "it was read together with the first one");
}
