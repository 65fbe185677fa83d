//! A gateway, three clients and somebody on the path who records every packet, in virtual time:
//! clocks jump, commits fail, the gateway restarts and reboots, state is lost. No packet may ever
//! be accepted twice, and an honest client gets in.

use std::collections::HashSet;

use super::*;
use crate::core::knock::SIGNED;

/// xorshift64*: the same numbers for the same seed, for ever.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// Mostly seconds, sometimes years, either way.
    fn jump(&mut self) -> i64 {
        let range = [5, 40, 4000, 100_000_000][usize::try_from(self.below(4)).unwrap()];
        i64::try_from(self.below(2 * range)).unwrap() - i64::try_from(range).unwrap()
    }
}

#[derive(Clone, Copy)]
struct Packet {
    client: ClientId,
    request: Request,
    source: Source,
}

struct World {
    random: Random,
    /// True if its state is lost now and then.
    losses: bool,
    /// True if commits fail now and then.
    faults: bool,
    /// Nanoseconds of true time since the world began, and what the boot clock showed then.
    elapsed: u64,
    boot: i64,
    /// The gateway's and each client's clock against the truth, seconds.
    gateway: i64,
    clients: [i64; 3],
    replay: Replay,
    journal: Vec<Record>,
    /// A copy of it that somebody keeps.
    backup: Vec<Record>,
    recorded: Vec<Packet>,
    /// Packets that are worth nothing any more: those that were accepted; where no mark is ever
    /// lost, also the answered ones.
    spent: HashSet<(ClientId, [u8; SIGNED])>,
    accepted: usize,
}

impl World {
    fn new(seed: u64, losses: bool, faults: bool) -> Self {
        Self {
            random: Random(seed),
            losses,
            faults,
            elapsed: 0,
            boot: 1000 * 1_000_000_000,
            gateway: 0,
            clients: [0; 3],
            replay: intact(),
            journal: Vec::new(),
            backup: Vec::new(),
            recorded: Vec::new(),
            spent: HashSet::new(),
            accepted: 0,
        }
    }

    fn truth(&self) -> Wall {
        Wall(NOON.0 + self.elapsed)
    }

    fn now(&self) -> Now {
        let boot = u64::try_from(i64::try_from(self.elapsed).unwrap() + self.boot).unwrap();
        Now { wall: shifted(self.truth(), self.gateway), boot: Boot(boot) }
    }

    fn packet(&mut self, client: usize, challenge: Option<Challenge>) -> Packet {
        let clock = shifted(self.truth(), self.clients[client]);
        let id = ClientId([u8::try_from(client).unwrap() + 1; 16]);
        // Of fifty in one millisecond two would be alike now and then: one in 400 bursts.
        let mut stamp = || Wall((clock.0 & !0xf_ffff) | self.random.below(1 << 20));
        let taken = |stamp| {
            self.recorded
                .iter()
                .rev()
                .take(200)
                .any(|p| p.client == id && p.request.timestamp == stamp)
        };
        let mut timestamp = stamp();
        while taken(timestamp) {
            timestamp = stamp();
        }
        let request = Request { challenge, ..test_vectors::request(timestamp) };
        let packet = Packet { client: id, request, source: home() };
        self.recorded.push(packet);
        packet
    }

    fn deliver(&mut self, packet: Packet) -> Seen {
        let authentic = Authentic::for_test(packet.client, packet.request, packet.source, 1);
        let now = self.now();
        let (seen, records) = seen(self.replay.check(now, authentic, false, entropy()));
        if records.is_empty() {
            return seen;
        }
        if self.faults && self.random.one_in(40) {
            // The disk fails: nothing is granted or told, and the gateway is started again.
            self.restart();
            return Seen::Silent(Reject::State, None);
        }
        self.journal.extend(records);
        self.spend(packet, seen);
        self.accepted += usize::from(seen == Seen::Fresh);
        seen
    }

    fn spend(&mut self, packet: Packet, seen: Seen) {
        let known = self.spent.contains(&(packet.client, packet.request.encode()));
        assert!(!known || seen != Seen::Fresh, "accepted after it was used: {:?}", packet.request);
        if seen == Seen::Fresh || (seen.status().is_some() && !self.losses) {
            self.spent.insert((packet.client, packet.request.encode()));
        }
    }

    /// Fifty at once: all knock, then all that were told so retry. How many got in.
    fn burst(&mut self, client: usize) -> usize {
        let knocks: Vec<Packet> = (0..50).map(|_| self.packet(client, None)).collect();
        let seen: Vec<Seen> = knocks.into_iter().map(|packet| self.deliver(packet)).collect();
        let told = seen.iter().filter(|seen| seen.status().is_some());
        let retries: Vec<Packet> =
            told.map(|seen| self.packet(client, Some(seen.challenge()))).collect();
        let retried: Vec<Seen> = retries.into_iter().map(|packet| self.deliver(packet)).collect();
        seen.iter().chain(&retried).filter(|seen| **seen == Seen::Fresh).count()
    }

    /// An honest client: one knock, one retry with the challenge.
    fn knock(&mut self, client: usize) -> bool {
        let packet = self.packet(client, None);
        match self.deliver(packet) {
            Seen::Fresh => true,
            Seen::Told(_, challenge) => {
                let retry = self.packet(client, Some(challenge));
                self.deliver(retry) == Seen::Fresh
            }
            Seen::Silent(..) => false,
        }
    }

    fn restart(&mut self) {
        // Compacted at every restart: what that makes of the records must mean the same.
        self.journal = Ledger::of(&self.journal).records();
        self.replay =
            Replay::restore(WINDOW, self.now(), &Ledger::of(&self.journal), StateOrigin::Found);
    }

    fn reboot(&mut self) {
        self.boot = -i64::try_from(self.elapsed).unwrap();
        if self.random.one_in(2) {
            self.step_clock();
        }
        self.restart();
    }

    /// All marks are gone. Until somebody accepts that, and after it, none of the old packets may
    /// count.
    fn lose_everything(&mut self) {
        self.journal = vec![Record::Lost { at: self.now().wall }];
        self.restart();
        for _ in 0..self.random.below(20) {
            self.replay_something();
            self.elapsed += self.random.below(3) * SECOND;
        }
        let records = self.replay.reinitialise(self.now());
        self.journal.extend(records);
    }

    /// An older journal, whole in itself, takes the place of the present one.
    fn restore_a_backup(&mut self) {
        for _ in 0..4 {
            // A clock as far ahead as one may be, in front of what is about to be forgotten.
            let ahead = i64::try_from(self.random.below(10)).unwrap();
            let before = std::mem::replace(&mut self.clients[2], self.gateway + ahead);
            self.knock(2);
            self.clients[2] = before;
        }
        self.journal.clone_from(&self.backup);
        self.restart();
        for _ in 0..30 {
            self.replay_something();
            self.elapsed += self.random.below(2) * SECOND;
        }
    }

    fn replay_something(&mut self) {
        if self.recorded.is_empty() {
            return;
        }
        // Rather the newest: those are in the window.
        let back = self.random.below(1 << self.random.0.trailing_zeros().clamp(4, 12));
        let place = self.recorded.len().saturating_sub(1 + usize::try_from(back).unwrap());
        let mut packet = self.recorded[place];
        if self.random.one_in(2) {
            packet.source = elsewhere();
        }
        let outcome = self.outcome_of(packet);
        self.spend(packet, outcome);
    }

    /// Delivers like `deliver`, but an answer to a packet whose mark has become a range is allowed:
    /// only acceptance is not.
    fn outcome_of(&mut self, packet: Packet) -> Seen {
        let authentic = Authentic::for_test(packet.client, packet.request, packet.source, 1);
        let now = self.now();
        let (seen, records) = seen(self.replay.check(now, authentic, false, entropy()));
        self.journal.extend(records);
        seen
    }

    /// Not in a world that loses its state: whoever takes the marks *and* sets the clock back has
    /// gone round both.
    fn step_clock(&mut self) {
        if !self.losses {
            self.gateway = self.random.jump();
        }
    }

    fn step(&mut self) {
        self.elapsed += self.random.below(2 * SECOND);
        match self.random.below(100) {
            0..=29 => {
                let client = usize::try_from(self.random.below(3)).unwrap();
                self.knock(client);
            }
            30..=34 => _ = self.burst(0),
            35..=39 => _ = self.packet(1, None),
            40..=89 => self.replay_something(),
            90..=91 => self.step_clock(),
            92 => self.gateway = 0,
            93..=94 => self.clients[2] = self.random.jump(),
            95 => self.clients[2] = 0,
            96 => self.elapsed += self.random.below(2000) * SECOND,
            97 => self.restart(),
            98 => self.reboot(),
            _ if !self.losses => {}
            _ => match self.random.below(3) {
                0 => self.lose_everything(),
                1 => self.backup.clone_from(&self.journal),
                _ => self.restore_a_backup(),
            },
        }
    }
}

#[test]
fn in_a_world_of_jumping_clocks_and_crashes_no_packet_is_accepted_twice() {
    let mut accepted = 0;
    for seed in 1..=24 {
        let mut world = World::new(seed * 0x9E37_79B9, false, true);
        (0..600).for_each(|_| world.step());
        accepted += world.accepted;
    }
    assert!(accepted > 8_000, "the world was alive: {accepted} knocks got in");
}

#[test]
fn in_a_world_that_also_loses_its_state_or_puts_an_older_one_back_no_packet_is_accepted_twice() {
    for seed in 1..=32 {
        let mut world = World::new(seed * 0x51_7CC1_B727, true, true);
        (0..400).for_each(|_| world.step());
    }
}

#[test]
fn whatever_clocks_do_an_honest_client_gets_in_with_one_retry() {
    let (mut tries, mut got_in) = (0, 0);
    for seed in 1..=12 {
        let mut world = World::new(seed * 0xD1B5_4A32, false, false);
        for _ in 0..300 {
            world.step();
            tries += 1;
            got_in += usize::from(world.knock(0));
        }
    }
    assert_eq!(got_in, tries);
}

#[test]
fn whatever_clocks_do_fifty_at_once_on_one_key_all_get_in() {
    for seed in 1..=8 {
        let mut world = World::new(seed * 0x2545_F491, false, false);
        for _ in 0..40 {
            (0..5).for_each(|_| world.step());
            assert_eq!(world.burst(0), 50, "seed {seed} at {:?}", world.now());
            // Each client's challenges live for 20 s.
            world.elapsed += 21 * SECOND;
        }
    }
}
