//! Weaknesses of classic doors: in themselves, and on this machine.
//! See `app::warnings` for the texts, `edge::proc_net` for the ports that programs listen on.

use std::collections::BTreeSet;

use super::{Door, Step};
use crate::core::service::Service;
use crate::core::types::{Port, Proto, ServiceName};

/// A weakness of a door, for `toctocd check` and the warning at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Weakness {
    /// It uses the sequence that knockd ships, or that reversed: every scanner knows it.
    Shipped,
    /// Each of its ports is a whole thousand, one digit repeated, or digits that count up: the
    /// sequences that tutorials show.
    Tutorial,
    Short(usize),
    /// Its steps are all of this protocol, and their numbers only rise, or only fall: a scan in
    /// that order opens it, since ports that no door lists do not count as wrong.
    InOrder(Proto),
    Twin(String),
    /// Its sequence begins with the whole sequence of this other door: whoever opens this one opens
    /// that one too.
    Contains(String),
    /// This step is a port of this service: who connects there begins or breaks an attempt.
    Guarded(Port, ServiceName),
    KnockPort(Port),
    Listening(Port),
    /// This step's echo request does not fit into one packet, and fragments do not count.
    Fragments(u16),
    /// It opens by a cleartext sequence what clients of this service open by a sealed knock.
    InTheClear(ServiceName),
    /// The time until its stop command is negative: knockd never runs that command, we run it at
    /// once.
    StopsAtOnce,
}

/// The sequence in knockd's shipped configuration; its close door has it reversed.
const SHIPPED: [u16; 3] = [7000, 8000, 9000];
/// Bytes that an echo request can carry in one packet of 1500 bytes, after 40 bytes of IPv6 and 8
/// of ICMPv6.
pub const WHOLE_ECHO: u16 = 1452;

/// The surroundings of doors on their machine.
pub struct DoorContext<'a> {
    pub services: &'a [Service],
    /// Those that some client may open by a sealed knock.
    pub sealed: &'a BTreeSet<ServiceName>,
    pub knock_port: u16,
    /// The ports that programs on this machine listen on.
    pub listening: &'a BTreeSet<Port>,
}

/// The weaknesses of `doors` in themselves, in their order. One-time sequences are not checked for
/// length and order.
pub fn weaknesses(doors: &[Door]) -> Vec<(&Door, Weakness)> {
    let mut found = Vec::new();
    for (index, door) in doors.iter().enumerate() {
        if is_shipped(&door.sequence) {
            found.push((door, Weakness::Shipped));
        } else if is_of_tutorials(&door.sequence) {
            found.push((door, Weakness::Tutorial));
        }
        if door.one_time_sequences.is_none() {
            if door.sequence.len() < 3 {
                found.push((door, Weakness::Short(door.sequence.len())));
            } else if let Some(proto) = scanned_in_order(&door.sequence) {
                found.push((door, Weakness::InOrder(proto)));
            }
        }
        if door.cmd_timeout < 0 && (door.stop_command.is_some() || door.stop_command_6.is_some()) {
            found.push((door, Weakness::StopsAtOnce));
        }
        for (other_index, other) in doors.iter().enumerate() {
            if other_index == index || other.sequence.is_empty() {
                continue;
            }
            if other.sequence == door.sequence {
                // Of two that are alike only the second one says so.
                if other_index < index {
                    found.push((door, Weakness::Twin(other.name.clone())));
                }
            } else if door.sequence.starts_with(&other.sequence) {
                found.push((door, Weakness::Contains(other.name.clone())));
            }
        }
    }
    found
}

/// The weaknesses of `doors` on this machine, in their order.
pub fn badly_placed<'d>(doors: &'d [Door], around: &DoorContext<'_>) -> Vec<(&'d Door, Weakness)> {
    let mut found = Vec::new();
    for door in doors {
        let steps: BTreeSet<&Step> = door.sequence.iter().chain(&door.later_steps).collect();
        for step in steps {
            found.extend(around.weakness_of(*step).map(|weakness| (door, weakness)));
        }
        if let Some(service) = door.service
            && around.sealed.contains(&service)
        {
            found.push((door, Weakness::InTheClear(service)));
        }
    }
    found
}

impl DoorContext<'_> {
    fn weakness_of(&self, step: Step) -> Option<Weakness> {
        let port = match step {
            Step::Port(port) => port,
            Step::Echo { size } => return (size > WHOLE_ECHO).then_some(Weakness::Fragments(size)),
        };
        if let Some(service) = self.services.iter().find(|one| one.ports.lists(port)) {
            return Some(Weakness::Guarded(port, service.name));
        }
        if port == (Port { proto: Proto::Udp, number: self.knock_port }) {
            return Some(Weakness::KnockPort(port));
        }
        if self.listening.contains(&port) { Some(Weakness::Listening(port)) } else { None }
    }
}

/// The one protocol of a sequence whose port numbers only rise or only fall.
fn scanned_in_order(sequence: &[Step]) -> Option<Proto> {
    let mut ports = Vec::new();
    for step in sequence {
        let Step::Port(port) = step else { return None };
        ports.push(port);
    }
    let proto = ports.first()?.proto;
    let same = ports.iter().all(|port| port.proto == proto);
    let rising = ports.is_sorted_by(|a, b| a.number < b.number);
    let falling = ports.is_sorted_by(|a, b| a.number > b.number);
    if same && (rising || falling) { Some(proto) } else { None }
}

/// True if it is the sequence that knockd ships, or that reversed, in whatever protocols.
pub fn is_shipped(sequence: &[Step]) -> bool {
    let [a, b, c] = SHIPPED;
    match sequence {
        [Step::Port(first), Step::Port(second), Step::Port(third)] => {
            let numbers = [first.number, second.number, third.number];
            numbers == [a, b, c] || numbers == [c, b, a]
        }
        _ => false,
    }
}

/// True if each step is a port that somebody writes for an example: 7000, 2222, 1234.
fn is_of_tutorials(sequence: &[Step]) -> bool {
    let is_example = |step: &Step| {
        let Step::Port(port) = step else { return false };
        let digits = port.number.to_string().into_bytes();
        let rises = |by: u8| digits.windows(2).all(|pair| pair[1] == pair[0] + by);
        port.number % 1000 == 0 || (digits.len() > 2 && (rises(0) || rises(1)))
    };
    !sequence.is_empty() && sequence.iter().all(is_example)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(name: &str, ports: &[u16]) -> Door {
        let sequence = ports.iter().map(|number| Step::tcp(*number)).collect();
        Door { name: name.into(), sequence, ..Door::default() }
    }

    fn all(doors: &[Door]) -> Vec<(&str, Weakness)> {
        weaknesses(doors).into_iter().map(|(door, weak)| (door.name.as_str(), weak)).collect()
    }

    #[test]
    fn the_shipped_sequence_is_known_in_both_directions_and_in_any_protocol() {
        let mut udp = door("u", &[9000, 8000, 7000]);
        udp.sequence[1] = Step::udp(8000);
        let doors = [door("a", &[7000, 8000, 9000]), udp, door("c", &[7000, 9000, 8000])];
        let shipped: Vec<_> =
            weaknesses(&doors).into_iter().filter(|(_, weak)| *weak == Weakness::Shipped).collect();
        let names: Vec<_> = shipped.iter().map(|(door, _)| door.name.as_str()).collect();
        assert_eq!(names, ["a", "u"]);
    }

    #[test]
    fn short_sequences_twins_and_prefixes_are_named_with_their_partner() {
        let doors = [door("long", &[1, 3, 2]), door("short", &[1, 3]), door("twin", &[1, 3, 2])];
        assert_eq!(
            all(&doors),
            [
                ("long", Weakness::Contains("short".into())),
                ("short", Weakness::Short(2)),
                ("twin", Weakness::Twin("long".into())),
                ("twin", Weakness::Contains("short".into())),
            ]
        );
    }

    #[test]
    fn a_door_whose_one_time_sequences_are_used_up_is_contained_in_no_other() {
        let used_up = |name| Door { one_time_sequences: Some("/f".into()), ..door(name, &[]) };
        assert_eq!(all(&[used_up("once"), door("long", &[1, 3, 2]), used_up("twice")]), []);
    }

    #[test]
    fn numbers_that_a_scan_tries_in_order_are_reported_and_mixed_ones_are_not() {
        let mut mixed = door("mixed", &[4, 5, 6]);
        mixed.sequence[1] = Step::udp(5);
        let mut echo = door("echo", &[4, 5, 6]);
        echo.sequence[1] = Step::Echo { size: 5 };
        let mut one_time = door("once", &[14, 15, 16]);
        one_time.one_time_sequences = Some("/f".into());
        let doors = [
            door("up", &[1, 2, 9]),
            door("down", &[9, 2, 1]),
            mixed,
            echo,
            one_time,
            door("same", &[3, 3, 3]),
        ];
        let weak = Weakness::InOrder(Proto::Tcp);
        assert_eq!(all(&doors), [("up", weak.clone()), ("down", weak)]);
    }

    #[test]
    fn a_step_is_weak_if_something_else_uses_its_port() {
        let ssh = Port { proto: Proto::Tcp, number: 22 };
        let service = Service::for_test("ssh", [ssh][..].into());
        let port = |number| Port { proto: Proto::Tcp, number };
        let knock = Port { proto: Proto::Udp, number: 62201 };
        let mut door = door("d", &[22, 80, 443]);
        door.later_steps =
            vec![Step::Port(knock), Step::Echo { size: 1452 }, Step::Echo { size: 1453 }];
        let sealed = BTreeSet::from([service.name]);
        let around = DoorContext {
            services: std::slice::from_ref(&service),
            sealed: &sealed,
            knock_port: 62201,
            listening: &BTreeSet::from([
                port(22),
                port(80),
                Port { proto: Proto::Udp, number: 443 },
            ]),
        };
        let doors = [
            door.clone(),
            Door { service: Some(service.name), sequence: vec![], later_steps: vec![], ..door },
        ];
        let found: Vec<_> =
            badly_placed(&doors, &around).into_iter().map(|(_, weak)| weak).collect();
        assert_eq!(
            found,
            [
                Weakness::Guarded(port(22), service.name),
                Weakness::Listening(port(80)),
                Weakness::KnockPort(knock),
                Weakness::Fragments(1453),
                Weakness::InTheClear(service.name),
            ]
        );
        let nobody = DoorContext { sealed: &BTreeSet::new(), ..around };
        assert_eq!(
            badly_placed(&doors[1..], &nobody),
            [],
            "without clients there is no sealed knock for it"
        );
    }
}
