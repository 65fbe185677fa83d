//! Somebody joins on a walk, with real packets: whatever their clock shows, and whatever was lost
//! or killed before, two packets get them in, and no packet is answered twice.

use std::net::Ipv4Addr;

use super::super::joining::{invited, key, seed};
use super::super::simulator::{Seed, seeds};
use super::{ATTEMPTS, DAY, Kind, STRANGER, Trouble, WRONG, Walk, side};
use crate::core::attempt::{next_packet, retry};
use crate::core::authentic::sign;
use crate::core::engine::Action;
use crate::core::joining::{JoinRule, Standing};
use crate::core::keyring::{Day, Newcomer};
use crate::core::knock::{Enrolment, KnockKind, Receipt, Request, SIGNED, Status, timestamp};
use crate::core::test_vectors::{self, FIRST_PERIOD, INVITATION};
use crate::core::types::{SECOND, ServiceName, Source};
use crate::core::wire::{ClientSide, DATAGRAM, RECEIPT, seal};

/// The machine of somebody who has the line.
struct Machine {
    /// The keys of the invitation, and later those of the profile.
    side: ClientSide,
    key: u8,
    /// Seconds that its clock is ahead.
    clock: i64,
    address: Ipv4Addr,
    sent: Vec<[u8; DATAGRAM]>,
    packets: u32,
}

impl Machine {
    fn new(number: u8, clock: i64) -> Machine {
        Machine {
            side: side(test_vectors::secrets(INVITATION)),
            key: number,
            clock,
            address: Ipv4Addr::new(192, 0, 2, 20 + number),
            sent: Vec::new(),
            packets: 0,
        }
    }

    fn signed(&self, request: &Request) -> [u8; SIGNED] {
        match request.kind {
            KnockKind::Join => Enrolment::of(request, INVITATION, &key(self.key)).unwrap().encode(),
            _ => request.encode(),
        }
    }

    /// Takes the secrets out of the welcome, as `toctoc join` does.
    fn join(&mut self, receipt: &Receipt) {
        let welcome = receipt.welcome.expect("a welcome");
        let gateway = self.side.gateway;
        let to = Newcomer { gateway, client: welcome.client, key: key(self.key).ed25519 };
        let gate = self.side.secrets.gate(Day::Invited).unwrap();
        let root = gate.open_welcome(&to, &welcome.root).expect("it is for this key");
        self.side = side(root.secrets(FIRST_PERIOD));
    }
}

impl Walk {
    /// Knocks as `app::client` does, and once more with a challenge if it is asked to.
    fn ask(
        &mut self, machine: &mut Machine, request: &Request, trouble: Trouble,
    ) -> Option<Receipt> {
        machine.packets = 0;
        let first = self.ask_once(machine, request, None, trouble)?;
        match retry(request, &first) {
            None => Some(first),
            Some(again) => self.ask_once(machine, &again, Some(first.working_day), trouble),
        }
    }

    fn ask_once(
        &mut self, machine: &mut Machine, request: &Request, working_day: Option<u32>,
        trouble: Trouble,
    ) -> Option<Receipt> {
        let mut waiting = Vec::new();
        for attempt in 1..=ATTEMPTS {
            if trouble.kills_client == Some(machine.packets) {
                return None;
            }
            machine.packets += 1;
            self.world.set_clock(SECOND / 500);
            let ephemeral = self.random.secret();
            let entropy = u32::try_from(self.random.below(1 << 32)).unwrap();
            let clock = self.shown(machine.clock);
            let secrets = &machine.side.secrets;
            let (mut sent, day) = next_packet(secrets, clock, request, working_day, attempt);
            sent.timestamp = timestamp(clock, entropy);
            let own = seed(machine.key);
            let signed = machine.signed(&sent);
            let made = seal(&machine.side, &signed, day, ephemeral, |m| Ok(sign(&own, m)));
            let (datagram, awaiting) = made.expect("it has keys for that day");
            machine.sent.push(datagram);
            waiting.push((sent.kind, awaiting));
            if !self.is_lost(trouble) {
                let answer = self.deliver(&datagram, machine.address);
                let answer = answer.filter(|_| !self.is_lost(trouble));
                if trouble.kills_gateway && self.random.one_in(3) {
                    self.restart();
                }
                for (kind, awaiting) in &waiting {
                    if let Some(receipt) = answer.and_then(|bytes| awaiting.open(&bytes))
                        && receipt.may_answer(*kind)
                    {
                        return Some(receipt);
                    }
                }
            }
            self.world.advance(2 * SECOND);
        }
        None
    }

    /// A packet arrives, and all that follows from it happens. The receipt.
    fn deliver(&mut self, datagram: &[u8], from: Ipv4Addr) -> Option<[u8; RECEIPT]> {
        let (id, knock) = self.receive(datagram, from)?;
        self.world.hand_all(id, vec![knock]);
        self.world.settle();
        self.world.verdicts.clear();
        let actions = std::mem::take(&mut self.world.listeners.get_mut(&id)?.actions);
        actions.into_iter().find_map(|action| match action {
            Action::Receipt { bytes, .. } => Some(bytes),
            _ => None,
        })
    }

    /// Somebody on the path sends all packets of a machine again.
    fn send_all_again(&mut self, machine: &Machine) {
        for datagram in &machine.sent {
            let from = if self.random.one_in(2) { machine.address } else { STRANGER };
            self.deliver(datagram, from);
            let answer = self.deliver(datagram, from);
            assert_eq!(answer, None, "a packet was answered twice");
        }
    }
}

#[test]
fn whatever_clocks_do_and_whoever_is_killed_two_packets_join_and_nobody_joins_twice() {
    for number in seeds(40) {
        let _seed = Seed(number);
        let mut walk = Walk::with(number, Kind::Clocks, |files| {
            files.joined = vec![invited(INVITATION, "dora", JoinRule::Auto)];
        });
        // A gateway's clock that is ahead may end the invitation.
        let behind = walk.random.pick(&[0, 0, -3600, -3 * DAY]).unwrap();
        walk.set_gateway_clock(behind);
        let clock = walk.random.pick(&WRONG).unwrap();
        let mut dora = Machine::new(1, if walk.random.one_in(3) { 0 } else { clock });
        let join = Request { receipt_wanted: true, ..Request::bare(KnockKind::Join) };
        for _ in 0..walk.random.below(4) {
            let kills_client = Some(walk.random.below(3) as u32).filter(|_| walk.random.one_in(3));
            let kills_gateway = walk.random.one_in(2);
            let loses = walk.random.one_in(2);
            walk.ask(&mut dora, &join, Trouble { loses, kills_gateway, kills_client });
            if walk.random.one_in(2) {
                walk.send_all_again(&dora);
            }
        }
        walk.wake();
        let receipt = walk.ask(&mut dora, &join, Trouble::default()).expect("an answer");
        assert_eq!((receipt.status, dora.packets <= 2), (Status::Enrolled, true), "{receipt:?}");
        walk.send_all_again(&dora);
        dora.join(&receipt);
        let open = Request {
            receipt_wanted: true,
            address: Some(Source::new(dora.address.into())),
            service: ServiceName::new("ssh").unwrap(),
            ..Request::bare(KnockKind::Open)
        };
        let receipt = walk.ask(&mut dora, &open, Trouble::default()).expect("an answer");
        assert_eq!((receipt.status, dora.packets <= 3), (Status::Granted, true), "{receipt:?}");
        let mut mallory = Machine::new(2, 0);
        let receipt = walk.ask(&mut mallory, &join, Trouble::default()).expect("an answer");
        assert_eq!(receipt.status, Status::Taken);
        let rows = &walk.world.files.joined;
        let own = key(1);
        assert!(
            rows.len() == 1 && matches!(&rows[0].standing, Standing::Joined(_, key) if *key == own)
        );
    }
}
