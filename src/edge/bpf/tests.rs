use std::io::Write;
use std::process::{Command, Stdio};

use super::machine::{Packet, run};
use super::*;

const UDP_LENGTH: u32 = UDP_HEADER + DATAGRAM as u32;

/// The program that `tcpdump` compiles from an expression for raw IP packets.
fn tcpdump(expression: &str) -> Vec<Instruction> {
    let mut capture =
        vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0];
    capture.extend(101u32.to_le_bytes());
    let mut child = Command::new("tcpdump")
        .args(["-r", "-", "-ddd", expression])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("tcpdump is needed by this test: apt-get install tcpdump");
    child.stdin.take().unwrap().write_all(&capture).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{expression}");
    String::from_utf8(output.stdout).unwrap().lines().skip(1).map(read_instruction).collect()
}

fn read_instruction(line: &str) -> Instruction {
    let numbers: Vec<u32> = line.split(' ').map(|n| n.parse().unwrap()).collect();
    Instruction {
        code: numbers[0] as u16,
        jump_true: numbers[1] as u8,
        jump_false: numbers[2] as u8,
        operand: numbers[3],
    }
}

/// A fixed random generator (xorshift), so that every run sees the same packets.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.roll(of.len() as u64) as usize]
    }
}

/// Packets, most of which nearly match the filters.
fn packets(ports: &[u16], count: usize) -> Vec<Packet> {
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    (0..count)
        .map(|_| {
            let protocol = dice.pick(&[17u8, 17, 6, 6, 1, 58, 132, 44]);
            let carried = dice.pick(&[0usize, 8, 56, 64, DATAGRAM, DATAGRAM, DATAGRAM + 1, 1200]);
            let near = [ports[dice.roll(ports.len() as u64) as usize], dice.roll(65536) as u16];
            let port = dice.pick(&near).wrapping_add(dice.pick(&[0, 0, 0, 1, 65535]));
            let mut transport = dice.pick(&[4000u16, port]).to_be_bytes().to_vec();
            transport.extend(port.to_be_bytes());
            if matches!(protocol, 1 | 58) {
                let kind = dice.pick(&[8u8, 0, 128, 129, 3]);
                transport[..2].copy_from_slice(&[kind, dice.pick(&[0, 0, 0, 1])]);
            }
            transport.extend(((carried + 8) as u16).to_be_bytes());
            transport.extend([0; 14]);
            transport[13] = dice.roll(256) as u8;
            transport.resize(carried + 8, 0);
            if protocol == 6 && carried == 0 && dice.roll(2) == 0 {
                transport.resize(20, 0);
            }
            Packet::to_us(ip(&mut dice, protocol, &transport))
        })
        .collect()
}

fn ip(dice: &mut Dice, protocol: u8, transport: &[u8]) -> Vec<u8> {
    if dice.roll(2) == 0 {
        let words = dice.pick(&[5u8, 5, 5, 6, 15]);
        let total = (usize::from(words) * 4 + transport.len()) as u16;
        let fragment = dice.pick(&[0u16, 0x4000, 0x4000, 0x2000, 0x0001, 0x20b9, 0x1000]);
        let mut header = vec![0x40 | words, 0];
        header.extend(total.to_be_bytes());
        header.extend([0, 0]);
        header.extend(fragment.to_be_bytes());
        header.extend([64, protocol, 0, 0, 198, 51, 100, 9, 192, 0, 2, 1]);
        header.resize(usize::from(words) * 4, 1);
        [header, transport.to_vec()].concat()
    } else {
        let mut header = vec![0x60, 0, 0, 0];
        header.extend((transport.len() as u16).to_be_bytes());
        header.extend([protocol, 64]);
        header.resize(40, 9);
        [header, transport.to_vec()].concat()
    }
}

const SYN: TcpFlags = TcpFlags { set: 2, unset: 16 };
const ANY: TcpFlags = TcpFlags { set: 0, unset: 0 };

fn agree(spec: &FilterSpec, expression: &str, ports: &[u16]) {
    let ours = program(spec);
    let theirs = tcpdump(expression);
    let mut count = 0;
    for packet in packets(ports, 40_000) {
        let accepted = run(&ours, &packet) > 0;
        assert_eq!(accepted, run(&theirs, &packet) > 0, "{expression}\n{:02x?}", packet.bytes);
        count += usize::from(accepted);
    }
    assert!(count > 100, "enough packets are accepted");
}

#[test]
fn sealed_knocks_are_accepted_as_by_libpcap() {
    let spec = FilterSpec { knock_port: Some(62201), ..FilterSpec::default() };
    let length = 8 + DATAGRAM;
    // libpcap follows IPv4 options for ports, and `udp[4:2]` means IPv4 only.
    let expression = format!(
        "udp dst port 62201 and ((ip and udp[4:2] = {length}) or (ip6 and ip6[44:2] = {length}))"
    );
    agree(&spec, &expression, &[62201]);
}

#[test]
fn packets_for_doors_are_accepted_as_by_knockd() {
    let steps = vec![
        (Step::tcp(7000), SYN),
        (Step::tcp(8000), SYN),
        (Step::udp(9000), SYN),
        (Step::tcp(7000), TcpFlags { set: 1, unset: 0 }),
        (Step::tcp(9100), ANY),
        (Step::udp(9101), ANY),
        (Step::udp(9102), ANY),
    ];
    let spec = FilterSpec { knock_port: None, steps, outgoing: false };
    let flags = "((ip and tcp[13] & 2 != 0 and tcp[13] & 16 == 0) or (ip6 and ip6[53] & 2 != 0 and ip6[53] & 16 == 0))";
    let fin = "((ip and tcp[13] & 1 != 0) or (ip6 and ip6[53] & 1 != 0))";
    let expression = format!(
        "((tcp dst port 7000 or tcp dst port 8000) and {flags}) or (tcp dst port 7000 and {fin}) \
         or udp dst port 9000 or tcp dst port 9100 or udp dst portrange 9101-9102"
    );
    agree(&spec, &expression, &[7000, 8000, 9000, 9100, 9101, 9102, 9103]);
}

#[test]
fn echo_requests_are_accepted_by_size() {
    let steps = vec![(Step::Echo { size: 64 }, ANY), (Step::Echo { size: 56 }, ANY)];
    let spec = FilterSpec { knock_port: None, steps, outgoing: false };
    let expression = "(ip proto 1 and ip[6:2] & 0x1fff = 0 and icmp[0:2] = 0x0800 \
         and (ip[2:2] - ((ip[0] & 15) << 2) = 72 or ip[2:2] - ((ip[0] & 15) << 2) = 64)) \
         or (ip6[6] = 58 and ip6[40:2] = 0x8000 and (ip6[4:2] = 72 or ip6[4:2] = 64))";
    agree(&spec, expression, &[1]);
}

#[test]
fn three_hundred_doors_are_still_filtered_exactly() {
    let ports: Vec<u16> = (0..900).map(|i| 1000 + i * 7).collect();
    let steps = ports.iter().map(|port| (Step::tcp(*port), SYN)).collect();
    let spec = FilterSpec { knock_port: Some(62201), steps, outgoing: false };
    let program = program(&spec);
    assert!(program.len() <= LONGEST, "{}", program.len());
    for port in 990..8000u16 {
        let packet = tcp_syn(port);
        assert_eq!(run(&program, &packet) > 0, ports.contains(&port), "{port}");
    }
}

#[test]
fn too_many_doors_make_a_coarser_program_that_still_accepts_every_door() {
    for flags in [SYN, ANY] {
        let ports: Vec<u16> = (0..20_000).map(|i| i * 3 + 1).collect();
        let steps = ports.iter().enumerate().map(|(i, port)| {
            let flags = if i % 5 == 0 { TcpFlags { set: 2, unset: 0 } } else { flags };
            (Step::tcp(*port), flags)
        });
        let spec = FilterSpec { knock_port: Some(62201), steps: steps.collect(), outgoing: false };
        let program = program(&spec);
        assert!(program.len() <= LONGEST, "{}", program.len());
        assert!(ports.iter().all(|port| run(&program, &tcp_syn(*port)) > 0));
    }
}

fn tcp_syn(port: u16) -> Packet {
    let mut bytes =
        vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 198, 51, 100, 9, 192, 0, 2, 1, 0x12, 0x34];
    bytes.extend(port.to_be_bytes());
    bytes.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0]);
    Packet::to_us(bytes)
}

fn knock() -> Packet {
    let mut bytes =
        vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 198, 51, 100, 9, 192, 0, 2, 1, 0x12, 0x34];
    bytes.extend(62201u16.to_be_bytes());
    bytes.extend((UDP_LENGTH as u16).to_be_bytes());
    bytes.resize(28 + DATAGRAM, 0);
    Packet::to_us(bytes)
}

fn knock_v6() -> Packet {
    let udp = &knock().bytes[20..];
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend((UDP_LENGTH as u16).to_be_bytes());
    bytes.extend([17, 64]);
    bytes.resize(40, 9);
    bytes.extend(udp);
    Packet::to_us(bytes)
}

#[test]
fn outgoing_packets_are_dropped_and_a_sealed_knock_must_be_addressed_to_this_host() {
    let program = program(&FilterSpec {
        knock_port: Some(62201),
        steps: vec![(Step::tcp(7000), ANY)],
        outgoing: false,
    });
    // Broadcast, multicast and other hosts count for a door, as with knockd.
    for (kind, sealed, door) in
        [(0, true, true), (1, false, true), (2, false, true), (3, false, true), (4, false, false)]
    {
        assert_eq!(run(&program, &Packet { kind, ..knock() }) > 0, sealed, "{kind}");
        assert_eq!(run(&program, &Packet { kind, ..tcp_syn(7000) }) > 0, door, "{kind}");
    }
}

#[test]
fn outgoing_packets_are_accepted_if_wanted_and_never_on_a_loopback_device() {
    let steps = vec![(Step::tcp(7000), ANY)];
    let program = program(&FilterSpec { knock_port: None, steps, outgoing: true });
    let seen = |kind, hardware| run(&program, &Packet { kind, hardware, ..tcp_syn(7000) }) > 0;
    assert!(seen(OUTGOING, 1) && seen(TO_THIS_HOST, 1) && seen(TO_THIS_HOST, LOOPBACK));
    assert!(!seen(OUTGOING, LOOPBACK), "it comes in as well");
}

#[test]
fn a_priority_tag_is_accepted_for_a_sealed_knock_and_a_vlan_never() {
    let program = program(&FilterSpec {
        knock_port: Some(62201),
        steps: vec![(Step::tcp(7000), ANY)],
        outgoing: false,
    });
    for (vlan, sealed, door) in
        [(None, true, true), (Some(0x6000), true, false), (Some(5), false, false)]
    {
        assert_eq!(run(&program, &Packet { vlan, ..knock() }) > 0, sealed, "{vlan:?}");
        assert_eq!(run(&program, &Packet { vlan, ..tcp_syn(7000) }) > 0, door, "{vlan:?}");
    }
}

#[test]
fn frames_that_are_not_ip_are_never_accepted() {
    let program = program(&FilterSpec { knock_port: Some(62201), ..FilterSpec::default() });
    assert_eq!((run(&program, &knock()), run(&program, &knock_v6())), (WHOLE, WHOLE));
    for protocol in [0x0806, 0x8864, 0x88cc, 0x0004] {
        for packet in [knock(), knock_v6()] {
            assert_eq!(run(&program, &Packet { protocol, ..packet }), 0);
        }
    }
}

#[test]
fn a_door_on_the_knock_port_accepts_every_other_length() {
    let steps = vec![(Step::udp(62201), ANY)];
    let program = program(&FilterSpec { knock_port: Some(62201), steps, outgoing: false });
    let mut short = knock();
    short.bytes.truncate(40);
    short.bytes[24..26].copy_from_slice(&20u16.to_be_bytes());
    assert_eq!((run(&program, &short), run(&program, &knock())), (HEADERS, WHOLE));
}

#[test]
fn knocks_that_were_merged_into_one_packet_are_accepted_and_other_lengths_are_not() {
    let program = program(&FilterSpec { knock_port: Some(62201), ..FilterSpec::default() });
    let of = |length: u32| {
        let mut packet = knock();
        packet.bytes[24..26].copy_from_slice(&u16::try_from(length).unwrap().to_be_bytes());
        run(&program, &packet)
    };
    let datagram = u32::try_from(DATAGRAM).unwrap();
    for count in 1..=MERGED {
        assert_eq!(of(UDP_HEADER + count * datagram), WHOLE, "{count}");
        for other in [1, 7, 8, datagram - 1] {
            assert_eq!(of(UDP_HEADER + count * datagram - other), 0, "{count} {other}");
        }
    }
    assert_eq!(of(UDP_HEADER + (MERGED + 1) * datagram), 0);
    assert_eq!((of(0), of(UDP_HEADER)), (0, 0));
    assert!(usize::try_from(WHOLE).unwrap() <= crate::edge::capture::LONGEST);
}

#[test]
fn an_empty_spec_accepts_nothing() {
    let program = program(&FilterSpec::default());
    assert!(packets(&[62201], 2000).iter().all(|packet| run(&program, packet) == 0));
}
