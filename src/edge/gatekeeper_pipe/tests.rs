use std::net::IpAddr;
use std::os::fd::AsFd;

use nix::sys::socket::ControlMessage;
use proptest::prelude::*;

use super::*;
use crate::core::door::first_steps::{FirstStep, HELD, HeldSteps};
use crate::core::door::{STEPS, Step, TcpFlags};
use crate::core::engine::KnownClient;
use crate::core::keyring::{Day, FilterDrops, Secret, TAG, WireRow};
use crate::core::knock::{BODY, HandedKnock, RECEIPT_BODY};
use crate::core::sequence::{DoorSpec, Ipv6, Target};
use crate::core::types::{ClientId, Counters, GatewayId, RealmId, Reject, Source};
use crate::edge::bpf::FilterSpec;

fn secret(byte: u8) -> Secret<32> {
    Secret::new([byte; 32])
}

fn known(number: u32) -> KnownClient {
    let secrets = std::array::from_fn(|at| at as u8);
    // Each second one is an invitation.
    let day = number.is_multiple_of(2).then_some(20_513);
    KnownClient { client: numbered(number), keys: WireRow::new(day, &secrets) }
}

fn spec(steps: usize) -> DoorSpec {
    DoorSpec {
        sequence: (0..steps)
            .map(|i| if i % 3 == 2 { Step::Echo { size: 64 } } else { Step::tcp(7000) })
            .collect(),
        seq_timeout: -5,
        flags: TcpFlags { set: 2, unset: 16 },
        target: Target::Only("192.0.2.9".parse().unwrap()),
        one_time: true,
        tolerate_duplicates: false,
        own: false,
        pause_after: 77,
    }
}

fn gateway(other: Option<Secret<32>>) -> ToListener {
    ToListener::Gateway {
        realm: RealmId([1; 16]),
        gateway: GatewayId([2; 16]),
        mask: secret(3),
        current: secret(4),
        other,
        port: 62201,
        burst: 64,
        per_second: 4,
        clients: 100_000,
    }
}

fn filter(count: usize) -> FilterSpec {
    let flags = TcpFlags { set: 2, unset: 16 };
    let steps = spec(3).sequence.into_iter().cycle().take(count).map(|step| (step, flags));
    FilterSpec { knock_port: Some(62201), steps: steps.collect(), outgoing: true }
}

fn first_steps(first: usize, before: usize) -> HeldSteps {
    let FilterSpec { steps, .. } = filter(first.max(before));
    let mut held = HeldSteps { seconds: 4_000_000_000, ..HeldSteps::default() };
    for (step, flags) in steps.iter().take(first) {
        held.first.push(FirstStep { step: *step, flags: *flags, after: u64::MAX - 3 });
    }
    held.before.extend(steps.iter().take(before).map(|(step, _)| *step));
    held
}

/// Every message to the listener, each in its longest form.
fn to_listener() -> Vec<ToListener> {
    let own = OwnAddress { address: "2001:db8::1".parse().unwrap(), knock: true, door: false };
    vec![
        gateway(Some(secret(5))),
        gateway(None),
        ToListener::Clients((0..64).map(known).collect()),
        ToListener::Clients(Vec::new()),
        ToListener::Forget { tag: [7; TAG] },
        ToListener::Doors { ipv6: Ipv6::Counts, debug: true },
        ToListener::Doors { ipv6: Ipv6::Refused, debug: false },
        ToListener::Doors { ipv6: Ipv6::Ignored, debug: false },
        ToListener::Door { index: 300, spec: spec(STEPS) },
        ToListener::Door { index: 301, spec: DoorSpec { target: Target::Never, ..spec(1) } },
        ToListener::Door { index: 302, spec: DoorSpec { target: Target::Own, ..spec(0) } },
        ToListener::Sequence { door: 3, steps: spec(4).sequence },
        ToListener::Addresses { is_first: true, part: vec![own; ADDRESSES] },
        ToListener::Addresses { is_first: false, part: Vec::new() },
        ToListener::AddressesDone,
        ToListener::Capture { interface: 7 },
        ToListener::Filter(filter(FILTER_STEPS)),
        ToListener::Filter(FilterSpec::default()),
        ToListener::FirstSteps(first_steps(HELD, HELD)),
        ToListener::FirstSteps(first_steps(1, 2)),
        ToListener::FirstSteps(HeldSteps::default()),
        ToListener::Go { user: Some((65534, 65533)) },
        ToListener::Go { user: None },
        ToListener::Verdict { ticket: u64::MAX, spent: true, receipt: Some([6; RECEIPT_BODY]) },
        ToListener::Verdict { ticket: 1, spent: false, receipt: None },
        ToListener::AskCounters,
        ToListener::Stop,
        ToListener::Release { capture: 300 },
    ]
}

/// Every message to the gatekeeper.
fn to_gatekeeper() -> Vec<ToGatekeeper> {
    let ip: IpAddr = "192.0.2.7".parse().unwrap();
    let source = Source::new(ip);
    let mapped: IpAddr = "::ffff:192.0.2.7".parse().unwrap();
    vec![
        ToGatekeeper::Hello,
        ToGatekeeper::Ready { degraded: 5 },
        ToGatekeeper::Failed { step: 3, errno: -1 },
        ToGatekeeper::NoSocket { capture: 300, step: 2, errno: -1 },
        ToGatekeeper::Knock(HandedKnock {
            ticket: 9,
            client: ClientId([1; 16]),
            day: Day::Number(20_513),
            h: [7; 32],
            body: [8; BODY],
            source,
            source_port: 4000,
        }),
        ToGatekeeper::Knock(HandedKnock {
            ticket: 9,
            client: ClientId([1; 16]),
            day: Day::Unknown,
            h: [7; 32],
            body: [8; BODY],
            source,
            source_port: 4000,
        }),
        ToGatekeeper::Completed { door: 1, source: ip },
        ToGatekeeper::Stage { door: 1, source: mapped, stage: 3 },
        ToGatekeeper::TimedOut { door: 1, source: ip, stage: 2 },
        ToGatekeeper::Seen {
            source: ip,
            source_port: 1,
            destination: mapped,
            step: Step::Echo { size: 9 },
            length: 70,
        },
        ToGatekeeper::Removed { source: ip, success: true },
        ToGatekeeper::Ignored { flag: 1, wanted: true },
        ToGatekeeper::Alarm {
            client: ClientId([1; 16]),
            first: source,
            again: Source::new("2001:db8::9".parse().unwrap()),
        },
        ToGatekeeper::Counters(Tally {
            rejected: Counters([3; Reject::ALL.len()]),
            filtered: FilterDrops {
                unknown_tag: 8,
                length: 9,
                client_mac: 18,
                copies: 19,
                quota: 20,
                first_step: 10,
            },
            holds: true,
            xdp: 11,
            read: 4,
            lost: 5,
            doors: 6,
            waiting: 7,
        }),
        ToGatekeeper::Down { capture: 2 },
        ToGatekeeper::Suppressed { count: u64::MAX },
        ToGatekeeper::Refused { source: mapped },
    ]
}

/// The bytes of a message, and those of what it decodes to.
fn encode_twice(message: ToListener) -> Option<(Vec<u8>, Vec<u8>)> {
    let bytes = message.encode();
    let decoded = ToListener::decode(&bytes)?;
    Some((bytes.to_vec(), decoded.encode().to_vec()))
}

#[test]
fn every_message_comes_out_as_it_went_in() {
    for message in to_listener() {
        let (sent, received) = encode_twice(message).expect("a message of ours");
        assert_eq!(sent, received);
        assert!(sent.len() <= ToListener::LONGEST);
    }
    for (message, copy) in to_gatekeeper().into_iter().zip(to_gatekeeper()) {
        assert_eq!(ToGatekeeper::decode(&message.encode()), Some(copy));
    }
}

#[test]
fn one_byte_more_or_less_is_no_message() {
    for message in to_listener() {
        let mut bytes = message.encode();
        assert!(ToListener::decode(&bytes[..bytes.len() - 1]).is_none());
        bytes.push(0);
        assert!(ToListener::decode(&bytes).is_none());
    }
    for message in to_gatekeeper() {
        let mut bytes = message.encode();
        assert!(ToGatekeeper::decode(&bytes[..bytes.len() - 1]).is_none());
        bytes.push(0);
        assert!(ToGatekeeper::decode(&bytes).is_none());
    }
}

fn ends() -> (GatekeeperEnd, ListenerEnd) {
    let (gatekeeper, listener) = pair().unwrap();
    (gatekeeper, Pipe::new(listener))
}

#[test]
fn messages_travel_both_ways() {
    let (mut gatekeeper, mut listener) = ends();
    assert!(listener.receive().unwrap().is_none());
    gatekeeper.send(ToListener::Capture { interface: 7 }).unwrap();
    gatekeeper.send(ToListener::Stop).unwrap();
    assert!(matches!(listener.receive(), Ok(Some(ToListener::Capture { interface: 7 }))));
    assert!(matches!(listener.receive(), Ok(Some(ToListener::Stop))));
    for message in to_gatekeeper() {
        listener.send(message).unwrap();
    }
    for message in to_gatekeeper() {
        assert_eq!(gatekeeper.receive().unwrap(), Some(message));
    }
    assert!(gatekeeper.receive().unwrap().is_none());
    drop(listener);
    assert_eq!(gatekeeper.receive(), Err(PipeError::Closed));
}

#[test]
fn a_listener_that_does_not_read_never_blocks_the_gatekeeper() {
    let (mut gatekeeper, mut listener) = ends();
    let mut sent = 0;
    let full = loop {
        match gatekeeper.send(ToListener::Verdict { ticket: sent, spent: false, receipt: None }) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
        assert!(sent < 100_000, "the queue is bounded");
    };
    assert_eq!(full, PipeError::Full);
    assert_eq!(gatekeeper.waiting(), QUEUE);
    assert_eq!(gatekeeper.drain(Duration::ZERO), Err(PipeError::Full));
    let mut expected = 0;
    while expected < sent {
        gatekeeper.flush().unwrap();
        while let Some(message) = listener.receive().unwrap() {
            assert!(matches!(message, ToListener::Verdict { ticket, .. } if ticket == expected));
            expected += 1;
        }
    }
    assert_eq!(gatekeeper.waiting(), 0);
}

#[test]
fn the_kernel_says_who_sent_a_message_and_a_descriptor_beside_it_breaks_the_pipe() {
    let (mut gatekeeper, mut listener) = ends();
    assert!(gatekeeper.receive_from(false).unwrap().is_none());
    listener.send(ToGatekeeper::Hello).unwrap();
    let first = gatekeeper.receive_from(false).unwrap().unwrap();
    let FirstMessage { message, from: peer, beside } = first;
    assert!(beside.is_none());
    assert_eq!((message, peer.pid), (ToGatekeeper::Hello, std::process::id()));
    assert_eq!(peer.uid, nix::unistd::getuid().as_raw());
    let (reader, writer) = nix::unistd::pipe().unwrap();
    send_with(&listener, &ToGatekeeper::Hello.encode(), writer);
    assert!(gatekeeper.receive_from(false).is_err());
    // It was not opened.
    assert_eq!(nix::unistd::read(&reader, &mut [0; 1]), Ok(0));
    drop(listener);
    assert_eq!(gatekeeper.receive_from(false).unwrap_err(), PipeError::Closed);
}

#[test]
fn a_message_of_which_the_kernel_does_not_say_who_sent_it_breaks_the_pipe() {
    let made = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, FLAGS);
    let (ours, theirs) = made.unwrap();
    let (mut gatekeeper, mut listener) = (GatekeeperEnd::new(ours), ListenerEnd::new(theirs));
    listener.send(ToGatekeeper::Hello).unwrap();
    let error = gatekeeper.receive_from(false).unwrap_err();
    assert_eq!(error, PipeError::Nonsense(Reject::Pipe));
}

#[test]
fn a_program_comes_beside_its_message_where_it_is_waited_for() {
    let (mut gatekeeper, listener) = ends();
    let (reader, writer) = nix::unistd::pipe().unwrap();
    listener.send_with(ToGatekeeper::Xdp, writer.as_fd()).unwrap();
    drop(writer);
    let first = gatekeeper.receive_from(true).unwrap().unwrap();
    assert_eq!((first.message, first.from.pid), (ToGatekeeper::Xdp, std::process::id()));
    let beside = first.beside.expect("a descriptor");
    let flags = nix::fcntl::fcntl(&beside, nix::fcntl::FcntlArg::F_GETFD).unwrap();
    assert_eq!(flags, 1, "no command inherits it");
    nix::unistd::write(&beside, b"x").unwrap();
    assert_eq!(nix::unistd::read(&reader, &mut [0; 2]), Ok(1));
    // More than one: the others are closed.
    let (other, unwanted) = nix::unistd::pipe().unwrap();
    let bytes = ToGatekeeper::Xdp.encode();
    let (parts, raw) = ([IoSlice::new(&bytes)], [beside.as_raw_fd(), unwanted.as_raw_fd()]);
    let control = [ControlMessage::ScmRights(&raw)];
    let end = listener.as_fd().as_raw_fd();
    sendmsg::<()>(end, &parts, &control, MsgFlags::empty(), None).unwrap();
    drop(unwanted);
    let first = gatekeeper.receive_from(true).unwrap().unwrap();
    assert!(first.beside.is_some());
    assert_eq!(nix::unistd::read(&other, &mut [0; 1]), Ok(0));
}

#[test]
fn a_socket_whose_holder_does_not_answer_keeps_nobody_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("listener");
    let missing = connect(&path).err().unwrap();
    assert!(missing.remedy.contains("systemctl start toctoc-listener.socket"), "{missing}");
    let holder = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::empty(), None).unwrap();
    nix::sys::socket::bind(holder.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
    let room = nix::sys::socket::Backlog::new(1).unwrap();
    nix::sys::socket::listen(&holder, room).unwrap();
    let mut waiting = Vec::new();
    let full = loop {
        match connect(&path) {
            Ok(end) => waiting.push(end),
            Err(fault) => break fault,
        }
        assert!(waiting.len() < 5, "its queue is bounded");
    };
    assert!(full.remedy.contains("does not answer"), "{full}");
}

fn send_with(end: &ListenerEnd, bytes: &[u8], descriptor: OwnedFd) {
    let (parts, raw) = ([IoSlice::new(bytes)], [descriptor.as_raw_fd()]);
    let control = [ControlMessage::ScmRights(&raw)];
    sendmsg::<()>(end.as_fd().as_raw_fd(), &parts, &control, MsgFlags::empty(), None).unwrap();
}

#[test]
fn nonsense_breaks_the_pipe() {
    let send = |bytes: &[u8]| {
        let (mut gatekeeper, listener) = ends();
        nix::sys::socket::send(listener.as_fd().as_raw_fd(), bytes, MsgFlags::empty()).unwrap();
        gatekeeper.receive()
    };
    for bytes in [&[0, 0][..], &[200], &[1, 0, 0, 0], &[3; 257], &[0; SHORT + 1], &[1; 5000]] {
        assert_eq!(send(bytes), Err(PipeError::Nonsense(Reject::Pipe)), "{}", bytes.len());
    }
}

#[test]
fn only_the_listener_takes_messages_as_long_as_those_about_clients() {
    let longest = ToListener::Clients((0..64).map(known).collect()).encode();
    assert!(longest.len() > ToGatekeeper::LONGEST);
    let (gatekeeper, mut listener) = ends();
    let mut longer = longest.to_vec();
    longer.resize(ToListener::LONGEST + 1, 0);
    for bytes in [&*longest, &longer] {
        nix::sys::socket::send(gatekeeper.as_fd().as_raw_fd(), bytes, MsgFlags::empty()).unwrap();
    }
    assert!(matches!(
        listener.receive(),
        Ok(Some(ToListener::Clients(clients))) if clients.len() == CLIENTS
    ));
    assert!(listener.buffer.iter().all(|byte| *byte == 0), "it held keys");
    assert_eq!(listener.receive().err(), Some(PipeError::Nonsense(Reject::Pipe)));
}

#[test]
fn more_steps_of_a_filter_than_a_message_may_have_are_no_message() {
    let mut bytes = ToListener::Filter(filter(1)).encode().to_vec();
    let step = bytes.split_off(7);
    for count in [FILTER_STEPS, FILTER_STEPS + 1] {
        bytes.truncate(5);
        bytes.extend((count as u16).to_be_bytes());
        let message = [&bytes, &*step.repeat(count)].concat();
        assert_eq!(ToListener::decode(&message).is_some(), count == FILTER_STEPS);
    }
}

#[test]
fn more_first_steps_than_are_held_are_no_message() {
    let encode = |first, before| ToListener::FirstSteps(first_steps(first, before)).encode();
    let (one, most) = (encode(1, 1), encode(HELD, HELD));
    let (step, step_before) = (&one[6..19], &one[20..]);
    let with = |first: usize, before: usize| {
        let (count, count_before) = ([first as u8], [before as u8]);
        let [first, before] = [step.repeat(first), step_before.repeat(before)];
        [&one[..5], &count, &first, &count_before, &before].concat()
    };
    assert_eq!(with(HELD, HELD).len(), most.len());
    for (first, before) in [(HELD, HELD), (HELD + 1, HELD), (HELD, HELD + 1)] {
        let decoded = ToListener::decode(&with(first, before));
        assert_eq!(decoded.is_some(), (first, before) == (HELD, HELD));
    }
}

#[test]
fn more_clients_than_a_message_may_have_are_no_message() {
    let mut bytes = ToListener::Clients(vec![known(1)]).encode().to_vec();
    let row = bytes.split_off(2);
    for count in [64, 65] {
        let message = [&[2, count][..], &row.repeat(usize::from(count))].concat();
        assert_eq!(ToListener::decode(&message).is_some(), count == 64);
    }
}

#[test]
fn a_descriptor_sent_to_the_gatekeeper_is_not_opened_there() {
    let (mut gatekeeper, listener) = ends();
    let (reader, writer) = nix::unistd::pipe().unwrap();
    send_with(&listener, &ToGatekeeper::Ready { degraded: 0 }.encode(), writer);
    assert_eq!(gatekeeper.receive().unwrap(), Some(ToGatekeeper::Ready { degraded: 0 }));
    // If the gatekeeper had a copy of the writing end, this would not be the end of the file.
    assert_eq!(nix::unistd::read(&reader, &mut [0; 1]), Ok(0));
}

fn numbered(number: u32) -> ClientId {
    let mut id = [0; 16];
    id[..4].copy_from_slice(&number.to_be_bytes());
    ClientId(id)
}

#[test]
fn a_hundred_thousand_clients_pass_through_the_pipe() {
    const CROWD: u32 = 100_000;
    let (mut gatekeeper, mut listener) = ends();
    let reader = std::thread::spawn(move || {
        let mut came = 0;
        loop {
            match listener.receive().unwrap() {
                Some(ToListener::Clients(clients)) => {
                    for known in clients {
                        assert_eq!(known.client, numbered(came));
                        came += 1;
                    }
                }
                Some(_) => return came,
                None => drop(poll(
                    &mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)],
                    PollTimeout::NONE,
                )),
            }
        }
    });
    for first in (0..CROWD).step_by(CLIENTS) {
        let part = first..CROWD.min(first + CLIENTS as u32);
        gatekeeper.send(ToListener::Clients(part.map(known).collect())).unwrap();
        if gatekeeper.waiting() > 0 {
            gatekeeper.drain(Duration::from_secs(10)).unwrap();
        }
    }
    gatekeeper.send(ToListener::Stop).unwrap();
    gatekeeper.drain(Duration::from_secs(10)).unwrap();
    assert_eq!(reader.join().unwrap(), CROWD);
}

proptest! {
    #[test]
    fn any_bytes_are_a_message_or_none_and_a_message_has_one_form(
        kind in 0u8..20,
        mut bytes in proptest::collection::vec(prop_oneof![Just(0u8), Just(1), any::<u8>()], 0..SHORT),
    ) {
        bytes.insert(0, kind);
        if let Some(message) = ToListener::decode(&bytes) {
            prop_assert_eq!(&*message.encode(), &bytes);
        }
        if let Some(message) = ToGatekeeper::decode(&bytes) {
            prop_assert_eq!(&*message.encode(), &bytes);
        }
    }

    #[test]
    fn every_changed_message_is_another_message_or_none(index in 0usize..27, at in 0usize..SHORT, flip in 1u8..=255) {
        let mut bytes = to_listener().swap_remove(index).encode();
        let at = at % bytes.len();
        bytes[at] ^= flip;
        if let Some(message) = ToListener::decode(&bytes) {
            prop_assert_eq!(&*message.encode(), &*bytes);
        }
    }
}

#[test]
fn the_ipv6_setting_arrives_unchanged() {
    for ipv6 in [Ipv6::Counts, Ipv6::Refused, Ipv6::Ignored] {
        let sent = ToListener::Doors { ipv6, debug: false }.encode();
        let came = ToListener::decode(&sent);
        assert!(
            matches!(came, Some(ToListener::Doors { ipv6: same, debug: false }) if same == ipv6),
            "{ipv6:?}"
        );
    }
}
