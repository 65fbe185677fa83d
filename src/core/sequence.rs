//! The classic state machine, doors times sources: knockd 0.8's behaviour without the attempts that
//! it loses. Headers are left to `packet`, the kernel's filter to `edge::bpf`, commands and grants
//! to the gatekeeper.
//!
//! COMPAT: time is counted in whole seconds of the packets' clock from the first hit; a timeout is
//! noticed by the next packet that some door listens for; a wrong hit ends an attempt and begins
//! none; ports that no door lists are not seen.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::address::as_text;
use super::door::{Door, Step, TcpFlags};
use super::types::{SECOND, Wall};
use attempts::Attempts;

mod attempts;
#[cfg(test)]
mod tests;

pub use attempts::ATTEMPTS;

/// How many sources may rest after a success at once; only who knows a sequence can add one.
pub const RESTING: usize = 4096;

/// One packet, as a door sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnockPacket {
    /// Where it claims to come from. Not canonicalised: hits over IPv4 and IPv6 never add up.
    pub source: IpAddr,
    /// Where it is addressed to.
    pub destination: IpAddr,
    /// What it hits.
    pub step: Step,
    /// The TCP flags; `None` where the packet ends before them, which fits only doors that do not
    /// ask. Ignored for other steps.
    pub flags: Option<u8>,
}

/// What of a door the machine needs: no name, no command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoorSpec {
    /// The steps; empty = shut until [`Machine::set_sequence`].
    pub sequence: Vec<Step>,
    /// Seconds from the first hit to the last.
    pub seq_timeout: i64,
    /// Which TCP flags a hit must and must not have.
    pub flags: TcpFlags,
    /// Which destination counts.
    pub target: Target,
    /// Whether its sequence is used up by an opening.
    pub one_time: bool,
    /// Whether the step that was just right may come again without a reset.
    pub tolerate_duplicates: bool,
    /// Seconds after an opening in which the same source cannot begin again.
    pub pause_after: u32,
}

/// Which destination counts for a door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Any of our own addresses.
    Own,
    /// This one, whoever's it is.
    Only(IpAddr),
    /// A text that is no address in canonical form: it never matches.
    Never,
}

impl From<&Door> for DoorSpec {
    fn from(door: &Door) -> Self {
        Self {
            sequence: door.sequence.clone(),
            seq_timeout: door.seq_timeout,
            flags: door.flags,
            target: Target::from(door.target.as_deref()),
            one_time: door.one_time_sequences.is_some(),
            tolerate_duplicates: door.tolerate_duplicates,
            pause_after: door.pause_after,
        }
    }
}

impl From<Option<&str>> for Target {
    /// COMPAT: knockd compares the text with the packet's address as text, so only the canonical
    /// spelling matches.
    fn from(text: Option<&str>) -> Self {
        let Some(text) = text else { return Target::Own };
        match text.parse::<IpAddr>() {
            Ok(ip) if as_text(ip) == text => Target::Only(ip),
            _ => Target::Never,
        }
    }
}

/// What a hit led to, in knockd's order. `door` is an index into the list that the machine was made
/// with.
#[derive(Debug, PartialEq, Eq)]
pub enum SequenceEvent {
    /// Some door listens for this packet. The first effect of all that counts; for debugging.
    Seen,
    /// An attempt ran out of time.
    TimedOut {
        /// The door.
        door: u16,
        /// Who had begun.
        source: IpAddr,
        /// How many steps were done.
        stage: u8,
    },
    /// An attempt that ended with an earlier packet is taken off the books; for debugging.
    Removed {
        /// Whose.
        source: IpAddr,
        /// Whether it had opened the door.
        success: bool,
    },
    /// A hit over IPv6 that counts for nothing here: nothing else comes of it.
    Refused {
        /// Where it claims to come from.
        source: IpAddr,
    },
    /// The packet's TCP flags keep it from counting for a door; for debugging. The flag's name, and
    /// whether it is wanted.
    Ignored(&'static str, bool),
    /// Step number `stage` was right.
    Stage {
        /// The door.
        door: u16,
        /// Who knocks.
        source: IpAddr,
        /// Counted from 1.
        stage: u8,
    },
    /// The whole sequence was right. A one-time sequence counts no more until the next one is set.
    Completed(Completed),
}

/// Proof that one source hit every step of a door's sequence, in order and in time.
#[derive(Debug, PartialEq, Eq)]
pub struct Completed {
    door: u16,
    source: IpAddr,
}

impl Completed {
    /// The door's index.
    pub fn door(&self) -> u16 {
        self.door
    }

    /// Who knocked.
    pub fn source(&self) -> IpAddr {
        self.source
    }
}

/// What becomes of a hit over IPv6.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ipv6 {
    /// It counts.
    #[default]
    Counts,
    /// It counts for nothing, and somebody is told: knockd knows IPv6 on Ethernet alone.
    Refused,
    /// It is not seen (knockd's `-4`).
    Ignored,
}

/// Who may knock at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineRules {
    /// Our own addresses.
    pub own: Vec<IpAddr>,
    /// What becomes of hits over IPv6.
    pub ipv6: Ipv6,
    /// Tell of every door whose flags a first hit does not fit, as `knockd -D` does: time per
    /// packet grows with the doors.
    pub debug: bool,
}

/// An attempt that is over and is taken off the books, and its debug line written, by the next
/// packet.
struct ExpiredAttempt {
    id: u64,
    source: IpAddr,
    success: bool,
}

/// The machine. Its memory is bounded by its doors and by [`ATTEMPTS`].
pub struct Machine {
    doors: Vec<DoorSpec>,
    rules: MachineRules,
    /// Doors by every step in their sequence: what the filter lets through.
    listed: BTreeMap<Step, Vec<u16>>,
    attempts: Attempts,
    /// At most as many as one source has doors: only one packet's worth.
    spent: Vec<ExpiredAttempt>,
    /// Second until which a source has to pause at a door; at most [`RESTING`].
    resting: BTreeMap<(u16, IpAddr), i64>,
}

impl Machine {
    /// A machine in which nobody has knocked yet. Of `doors`, only as many as fit an index count.
    pub fn new(doors: Vec<DoorSpec>, rules: MachineRules) -> Self {
        let mut machine = Self {
            doors,
            rules,
            listed: BTreeMap::new(),
            attempts: Attempts::new(ATTEMPTS),
            spent: Vec::new(),
            resting: BTreeMap::new(),
        };
        machine.index();
        machine
    }

    /// Our addresses have changed.
    pub fn set_addresses(&mut self, own: Vec<IpAddr>) {
        self.rules.own = own;
    }

    /// The sequence in force at `door` from now on; empty shuts it. Whoever was under way there
    /// begins anew: an attempt carried over would be in the middle of a sequence whose beginning it
    /// never knew.
    pub fn set_sequence(&mut self, door: u16, sequence: Vec<Step>) {
        if let Some(spec) = self.doors.get_mut(usize::from(door)) {
            spec.sequence = sequence;
            self.attempts.forget_door(door);
            self.index();
        }
    }

    /// How many attempts are under way.
    pub fn under_way(&self) -> usize {
        self.attempts.len()
    }

    /// Takes one packet, captured at `at`.
    pub fn hit(&mut self, at: Wall, hit: &KnockPacket, effect: &mut impl FnMut(SequenceEvent)) {
        if hit.source.is_ipv6() && self.rules.ipv6 != Ipv6::Counts {
            return self.refuse(hit, effect);
        }
        if !self.sees(hit) {
            return;
        }
        effect(SequenceEvent::Seen);
        let second = i64::try_from(at.0 / SECOND).unwrap_or(i64::MAX);
        self.sweep(second, effect);
        let candidates = self
            .attempts
            .of(hit.source, |door| accepts(&self.doors, &self.rules, door, hit.destination));
        if candidates.is_empty() {
            self.begin(second, hit, effect);
        }
        for id in candidates {
            self.carry_on(second, hit, id, effect);
        }
    }

    /// Whether the filter of knockd would let it through: some door accepts its destination, lists
    /// its step and likes its flags.
    fn sees(&self, hit: &KnockPacket) -> bool {
        self.listed.get(&hit.step).is_some_and(|doors| {
            doors.iter().any(|door| {
                accepts(&self.doors, &self.rules, *door, hit.destination)
                    && self.misfit(*door, hit).is_none()
            })
        })
    }

    /// COMPAT: where knockd has no address of its own it sets no filter, so there it tells of every
    /// packet over IPv6; we of those that some door lists.
    fn refuse(&self, hit: &KnockPacket, effect: &mut impl FnMut(SequenceEvent)) {
        let unfiltered = self.rules.own.is_empty() && self.listed.contains_key(&hit.step);
        if self.rules.ipv6 == Ipv6::Refused && (unfiltered || self.sees(hit)) {
            effect(SequenceEvent::Refused { source: hit.source });
        }
    }

    /// The first flag that keeps `hit` from counting for `door`.
    fn misfit(&self, door: u16, hit: &KnockPacket) -> Option<(&'static str, bool)> {
        let flags = self.doors.get(usize::from(door))?.flags;
        if hit.step.is_tcp() { flags.misfit(hit.flags) } else { None }
    }

    fn sweep(&mut self, second: i64, effect: &mut impl FnMut(SequenceEvent)) {
        let mut over: Vec<_> = self
            .spent
            .drain(..)
            .map(|spent| {
                (spent.id, SequenceEvent::Removed { source: spent.source, success: spent.success })
            })
            .collect();
        while let Some((id, source, attempt)) = self.attempts.take_expired(second) {
            over.push((
                id,
                SequenceEvent::TimedOut { door: attempt.door, source, stage: attempt.stage },
            ));
        }
        over.sort_by_key(|(id, _)| *id);
        over.into_iter().for_each(|(_, over)| effect(over));
    }

    /// Nobody from this source is under way: the hit may be the first of one or several doors.
    fn begin(&mut self, second: i64, hit: &KnockPacket, effect: &mut impl FnMut(SequenceEvent)) {
        let listed = || self.listed.get(&hit.step).cloned().unwrap_or_default();
        let doors = if self.rules.debug {
            (0..=u16::MAX).take(self.doors.len()).collect()
        } else {
            listed()
        };
        for door in doors {
            if let Some((name, wanted)) = self.misfit(door, hit) {
                effect(SequenceEvent::Ignored(name, wanted));
                continue;
            }
            let Some(spec) = self.doors.get(usize::from(door)) else { continue };
            if spec.sequence.first() != Some(&hit.step)
                || self.in_cooldown(door, hit.source, second)
            {
                continue;
            }
            if !accepts(&self.doors, &self.rules, door, hit.destination) {
                continue;
            }
            let deadline = second.saturating_add(spec.seq_timeout);
            let id = self.attempts.begin(hit.source, door, deadline);
            self.advance(second, hit.source, id, effect);
        }
    }

    fn carry_on(
        &mut self,
        second: i64,
        hit: &KnockPacket,
        id: u64,
        effect: &mut impl FnMut(SequenceEvent),
    ) {
        // A one-time sequence that an earlier attempt of the same packet used up has taken this
        // attempt with it.
        let Some(attempt) = self.attempts.get(hit.source, id) else { return };
        if let Some((name, wanted)) = self.misfit(attempt.door, hit) {
            return effect(SequenceEvent::Ignored(name, wanted));
        }
        let Some(spec) = self.doors.get(usize::from(attempt.door)) else { return };
        let stage = usize::from(attempt.stage);
        if spec.sequence.get(stage) == Some(&hit.step) {
            return self.advance(second, hit.source, id, effect);
        }
        let again =
            stage.checked_sub(1).and_then(|last| spec.sequence.get(last)) == Some(&hit.step);
        if !(again && spec.tolerate_duplicates) {
            self.end(hit.source, id, false);
        }
    }

    /// One step further; with the last one, through the door.
    fn advance(
        &mut self,
        second: i64,
        source: IpAddr,
        id: u64,
        effect: &mut impl FnMut(SequenceEvent),
    ) {
        let Some(attempt) = self.attempts.advance(source, id) else { return };
        let (door, stage) = (attempt.door, attempt.stage);
        effect(SequenceEvent::Stage { door, source, stage });
        let Some(spec) = self.doors.get(usize::from(door)) else { return };
        if usize::from(stage) < spec.sequence.len() {
            return;
        }
        let (one_time, pause) = (spec.one_time, spec.pause_after);
        self.end(source, id, true);
        self.rest(door, source, second, pause);
        if one_time {
            self.set_sequence(door, Vec::new());
        }
        effect(SequenceEvent::Completed(Completed { door, source }));
    }

    fn end(&mut self, source: IpAddr, id: u64, success: bool) {
        if self.attempts.remove(source, id) {
            self.spent.push(ExpiredAttempt { id, source, success });
        }
    }

    fn in_cooldown(&self, door: u16, source: IpAddr, second: i64) -> bool {
        self.resting.get(&(door, source)).is_some_and(|until| second < *until)
    }

    fn rest(&mut self, door: u16, source: IpAddr, second: i64, pause: u32) {
        if pause == 0 {
            return;
        }
        if self.resting.len() >= RESTING {
            self.resting.retain(|_, until| *until > second);
        }
        if self.resting.len() < RESTING {
            self.resting.insert((door, source), second.saturating_add(i64::from(pause)));
        }
    }

    fn index(&mut self) {
        self.listed.clear();
        for (door, spec) in (0..=u16::MAX).zip(&self.doors) {
            for step in &spec.sequence {
                let doors = self.listed.entry(*step).or_default();
                if doors.last() != Some(&door) {
                    doors.push(door);
                }
            }
        }
    }
}

/// Whether a packet to `destination` can count for `door`. Not a method: the table of attempts is
/// borrowed meanwhile.
fn accepts(doors: &[DoorSpec], rules: &MachineRules, door: u16, destination: IpAddr) -> bool {
    doors.get(usize::from(door)).is_some_and(|spec| match spec.target {
        Target::Own => rules.own.contains(&destination),
        Target::Only(ip) => ip == destination,
        Target::Never => false,
    })
}
