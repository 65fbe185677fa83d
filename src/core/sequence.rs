//! The state machine of classic knocks. See `packet` for headers and `edge::bpf` for the kernel's
//! filter.
//!
//! COMPAT: time is in whole seconds of the packets' clock from the first hit. The next packet that
//! some door listens for reports a timeout. Ports that no door lists are not seen.
//!
//! COMPAT: the doors of a knockd.conf behave as in knockd 0.8, without the attempts that it loses:
//! a wrong hit ends an attempt and begins none, and who is under way at one door begins at no
//! other.
//!
//! Our own doors (`own`) do not know of each other: a door does not see the ports that it does not
//! list. Each first step begins an attempt, also beside an older one, so a knock that broke off
//! never spoils the next one.
//!
//! During a flood of first steps the kernel's filter holds them. See `flood` for when, and
//! `held_steps` for what the machine does then.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::address::as_text;
use super::door::{Door, Step, TcpFlags};
use super::types::{SECOND, Wall};
use crate::core::bytes::saturated_i64;
use attempts::{Attempt, Attempts};
use flood::Flood;
use held_steps::HeldTimes;

mod attempts;
pub mod first_steps;
mod flood;
mod held_steps;
#[cfg(test)]
mod tests;

pub use attempts::ATTEMPTS;
pub use flood::FLOOD;

/// The most cooldowns at once. Only a source that completes a sequence adds one.
pub const COOLDOWNS: usize = 4096;

/// One packet, as a door sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnockPacket {
    /// The claimed source. Not canonical: hits over IPv4 and IPv6 never add up.
    pub source: IpAddr,
    pub destination: IpAddr,
    pub step: Step,
    /// The TCP flags, ignored for other steps. `None` fits only doors that ask for no flags.
    pub flags: Option<u8>,
}

/// The part of a door that the machine needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoorSpec {
    /// The steps; empty = shut until [`Machine::set_sequence`].
    pub sequence: Vec<Step>,
    pub seq_timeout: i64,
    pub flags: TcpFlags,
    pub target: Target,
    /// True if an opening uses its sequence up.
    pub one_time: bool,
    /// True if a step that was right may come again, however late, without a reset. Own doors only.
    pub tolerate_duplicates: bool,
    /// True for a door of toctocd.toml.
    pub own: bool,
    /// Seconds after an opening in which the same source cannot begin again.
    pub pause_after: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Own,
    Only(IpAddr),
    /// A text that is not an address in canonical form: it never matches.
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
            own: door.native,
            pause_after: door.pause_after,
        }
    }
}

impl From<Option<&str>> for Target {
    /// COMPAT: knockd compares addresses as text, so only the canonical spelling matches.
    fn from(text: Option<&str>) -> Self {
        let Some(text) = text else { return Target::Own };
        match text.parse::<IpAddr>() {
            Ok(ip) if as_text(ip) == text => Target::Only(ip),
            _ => Target::Never,
        }
    }
}

/// An effect of a packet, in knockd's order. `door` is an index into the doors of
/// [`Machine::new`], `source` the claimed source.
#[derive(Debug, PartialEq, Eq)]
pub enum SequenceEvent {
    /// Some door listens for this packet: its first event; for debugging.
    Seen,
    /// An attempt ran out of time after `stage` steps.
    TimedOut { door: u16, source: IpAddr, stage: u8 },
    /// An attempt that ended with an earlier packet is removed; for debugging.
    Removed { source: IpAddr, success: bool },
    /// A hit over IPv6 that does not count here. The packet's only event.
    Refused { source: IpAddr },
    /// This TCP flag does not fit a door; true if the door wants it set. For debugging.
    Ignored(&'static str, bool),
    /// Step number `stage`, counted from 1, was right.
    Stage { door: u16, source: IpAddr, stage: u8 },
    /// The whole sequence was right. A one-time sequence is shut until the next one is set.
    Completed(Completed),
}

/// Proof that one source hit every step of a door's sequence, in order and in time.
#[derive(Debug, PartialEq, Eq)]
pub struct Completed {
    door: u16,
    source: IpAddr,
}

impl Completed {
    pub fn door(&self) -> u16 {
        self.door
    }

    pub fn source(&self) -> IpAddr {
        self.source
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ipv6 {
    #[default]
    Counts,
    /// They do not count, but are reported: knockd supports IPv6 on Ethernet only.
    Refused,
    /// They are not seen (knockd's `-4`).
    Ignored,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MachineRules {
    pub own: Vec<IpAddr>,
    pub ipv6: Ipv6,
    /// Report every door whose flags a first hit does not fit, as `knockd -D` does. The time per
    /// packet then grows with the number of doors.
    pub debug: bool,
}

/// The machine. Its doors, [`ATTEMPTS`] and [`COOLDOWNS`] bound its memory.
pub struct Machine {
    doors: Vec<DoorSpec>,
    rules: MachineRules,
    /// The doors of each step that is in some sequence: what the filter lets through.
    doors_by_step: BTreeMap<Step, Vec<u16>>,
    attempts: Attempts,
    /// The removals of attempts that the last packet ended, by id: at most one per door. The next
    /// packet reports them.
    ended: Vec<(u64, SequenceEvent)>,
    /// The second in which a source may begin again at a door.
    cooldowns: BTreeMap<(u16, IpAddr), i64>,
    /// The second of the last packet that counts.
    second: i64,
    /// The first steps that the kernel holds, if its filter can.
    flood: Option<Flood>,
}

/// An attempt at the same own door that is further.
#[derive(Clone, Copy)]
struct Ahead {
    id: u64,
    stage: u8,
}

impl Machine {
    /// A machine before its first packet. Doors beyond index 65535 are ignored.
    pub fn new(doors: Vec<DoorSpec>, rules: MachineRules) -> Self {
        let mut machine = Self {
            doors,
            rules,
            doors_by_step: BTreeMap::new(),
            attempts: Attempts::new(ATTEMPTS),
            ended: Vec::new(),
            cooldowns: BTreeMap::new(),
            second: 0,
            flood: None,
        };
        machine.index_steps();
        machine
    }

    pub fn set_addresses(&mut self, own: Vec<IpAddr>) {
        self.rules.own = own;
    }

    /// Sets the sequence of `door`; an empty one shuts it. Attempts at the old one end.
    pub fn set_sequence(&mut self, door: u16, sequence: Vec<Step>) {
        if let Some(spec) = self.doors.get_mut(usize::from(door)) {
            spec.sequence = sequence;
            self.attempts.forget_door(door);
            self.index_steps();
        }
    }

    pub fn under_way(&self) -> usize {
        self.attempts.len()
    }

    pub fn packet(&mut self, at: Wall, hit: &KnockPacket, emit: &mut impl FnMut(SequenceEvent)) {
        if hit.source.is_ipv6() && self.rules.ipv6 != Ipv6::Counts {
            return self.refuse_ipv6(hit, emit);
        }
        if let Some(flood) = &mut self.flood {
            flood.count(hit.step);
        }
        let listening = self.listening(hit);
        if listening.is_empty() {
            return;
        }
        emit(SequenceEvent::Seen);
        self.second = saturated_i64(at.0 / SECOND);
        self.report_ended(emit);
        let held = self.take_held(at, hit, &listening);
        if listening.iter().any(|door| !self.is_own(*door)) {
            self.classic_hit(hit, &listening, &held, emit);
        }
        self.own_hit(hit, &listening, &held, emit);
    }

    fn classic_hit(
        &mut self, hit: &KnockPacket, listening: &[u16], held: &HeldTimes,
        emit: &mut impl FnMut(SequenceEvent),
    ) {
        let mut attempts = self.classic_attempts(hit);
        if attempts.is_empty() {
            for door in listening {
                if !self.is_own(*door) {
                    attempts.extend(self.begin_held(*door, hit, held, emit));
                }
            }
            // Also beside those: where a forger has made the first step of one door count for
            // everybody, nobody could begin at another door.
            self.begin(hit, emit);
        }
        for id in attempts {
            self.go_on(hit, id, emit);
        }
    }

    fn own_hit(
        &mut self, hit: &KnockPacket, listening: &[u16], held: &HeldTimes,
        emit: &mut impl FnMut(SequenceEvent),
    ) {
        let mut under_way: BTreeMap<u16, Vec<u64>> = BTreeMap::new();
        for id in self.attempts.of(hit.source, |door| self.is_own(door)) {
            if let Some(attempt) = self.attempts.get(hit.source, id) {
                under_way.entry(attempt.door).or_default().push(id);
            }
        }
        for door in listening {
            if self.is_own(*door) {
                let mut attempts = under_way.remove(door).unwrap_or_default();
                attempts.extend(self.begin_held(*door, hit, held, emit));
                self.own_door(hit.source, *door, hit.step, &attempts, emit);
            }
        }
    }

    /// The source's attempts at doors of a knockd.conf.
    fn classic_attempts(&self, hit: &KnockPacket) -> Vec<u64> {
        let accepts = |door| !self.is_own(door) && self.accepts(door, hit.destination);
        self.attempts.of(hit.source, accepts)
    }

    /// A hit at one of our own doors. `attempts` are the source's attempts there, the oldest first.
    ///
    /// INVARIANT: a source has at most one attempt at each stage of a door, and an older one is
    /// further. Where two meet, the younger one stays: it has more time left.
    fn own_door(
        &mut self, source: IpAddr, door: u16, step: Step, attempts: &[u64],
        emit: &mut impl FnMut(SequenceEvent),
    ) {
        let Some(spec) = self.doors.get(usize::from(door)) else { return };
        let spec = spec.clone();
        let mut ahead = None;
        for id in attempts.iter().copied() {
            let Some(attempt) = self.attempts.get(source, id) else { continue };
            let stage = usize::from(attempt.stage);
            if spec.sequence.get(stage) == Some(&step) {
                if self.step_on(source, id, ahead, emit) {
                    return;
                }
                ahead = Some(Ahead { id, stage: attempt.stage.saturating_add(1) });
            } else if spec.tolerate_duplicates
                && spec.sequence.iter().take(stage).any(|one| *one == step)
            {
                ahead = Some(Ahead { id, stage: attempt.stage });
            } else {
                self.attempts.remove(source, id);
            }
        }
        if spec.sequence.first() == Some(&step) && !self.in_cooldown(door, source, self.second) {
            let deadline = self.second.saturating_add(spec.seq_timeout);
            let id = self.attempts.begin(source, door, deadline);
            self.step_on(source, id, ahead, emit);
        }
    }

    /// Moves an attempt at an own door one step further; if the next one `ahead` waits there, it
    /// takes its place. True if the door opens: then all attempts of the source there have ended.
    fn step_on(
        &mut self, source: IpAddr, id: u64, ahead: Option<Ahead>,
        emit: &mut impl FnMut(SequenceEvent),
    ) -> bool {
        let Some(Attempt { door, stage, .. }) = self.attempts.advance(source, id) else {
            return false;
        };
        match ahead {
            Some(ahead) if ahead.stage == stage => drop(self.attempts.remove(source, ahead.id)),
            // The log has this stage already.
            Some(_) => {}
            None => emit(SequenceEvent::Stage { door, source, stage }),
        }
        if self
            .doors
            .get(usize::from(door))
            .is_none_or(|spec| usize::from(stage) < spec.sequence.len())
        {
            return false;
        }
        for id in self.attempts.of(source, |other| other == door) {
            self.attempts.remove(source, id);
        }
        self.complete(door, source, emit);
        true
    }

    fn is_own(&self, door: u16) -> bool {
        self.doors.get(usize::from(door)).is_some_and(|spec| spec.own)
    }

    /// The doors that listen for the packet, as in knockd's filter.
    fn listening(&self, hit: &KnockPacket) -> Vec<u16> {
        let mut listening = Vec::new();
        for door in self.doors_by_step.get(&hit.step).into_iter().flatten() {
            if self.accepts(*door, hit.destination) && self.misfit(*door, hit).is_none() {
                listening.push(*door);
            }
        }
        listening
    }

    /// True if a packet to `destination` can count for `door`.
    fn accepts(&self, door: u16, destination: IpAddr) -> bool {
        let Some(spec) = self.doors.get(usize::from(door)) else { return false };
        match spec.target {
            Target::Own => self.rules.own.contains(&destination),
            Target::Only(ip) => ip == destination,
            Target::Never => false,
        }
    }

    /// COMPAT: without an address of its own, knockd sets no filter and reports every packet over
    /// IPv6. We report those to steps that some door lists.
    fn refuse_ipv6(&self, hit: &KnockPacket, emit: &mut impl FnMut(SequenceEvent)) {
        let unfiltered = self.rules.own.is_empty() && self.doors_by_step.contains_key(&hit.step);
        if self.rules.ipv6 == Ipv6::Refused && (unfiltered || !self.listening(hit).is_empty()) {
            emit(SequenceEvent::Refused { source: hit.source });
        }
    }

    /// The first flag that keeps `hit` from counting for `door`.
    fn misfit(&self, door: u16, hit: &KnockPacket) -> Option<(&'static str, bool)> {
        let flags = self.doors.get(usize::from(door))?.flags;
        if hit.step.is_tcp() { flags.misfit(hit.flags) } else { None }
    }

    /// Reports attempts that ended or timed out before this packet, in order of creation.
    fn report_ended(&mut self, emit: &mut impl FnMut(SequenceEvent)) {
        let mut events = std::mem::take(&mut self.ended);
        while let Some((id, source, attempt)) = self.attempts.take_expired(self.second) {
            let Attempt { door, stage, .. } = attempt;
            events.push((id, SequenceEvent::TimedOut { door, source, stage }));
        }
        events.sort_by_key(|(id, _)| *id);
        for (_, event) in events {
            emit(event);
        }
    }

    /// Begins an attempt at each door whose first step this is. The source has none under way.
    fn begin(&mut self, hit: &KnockPacket, emit: &mut impl FnMut(SequenceEvent)) {
        let doors = if self.rules.debug {
            (0..=u16::MAX).take(self.doors.len()).collect()
        } else {
            self.doors_by_step.get(&hit.step).cloned().unwrap_or_default()
        };
        for door in doors {
            if let Some((name, wanted)) = self.misfit(door, hit) {
                emit(SequenceEvent::Ignored(name, wanted));
                continue;
            }
            let Some(spec) = self.doors.get(usize::from(door)) else { continue };
            if !spec.own
                && spec.sequence.first() == Some(&hit.step)
                && !self.in_cooldown(door, hit.source, self.second)
                && self.accepts(door, hit.destination)
            {
                let deadline = self.second.saturating_add(spec.seq_timeout);
                let id = self.attempts.begin(hit.source, door, deadline);
                self.advance(hit.source, id, emit);
            }
        }
    }

    fn go_on(&mut self, hit: &KnockPacket, id: u64, emit: &mut impl FnMut(SequenceEvent)) {
        // Gone if an earlier attempt of this packet used up the door's one-time sequence.
        let Some(attempt) = self.attempts.get(hit.source, id) else { return };
        if let Some((name, wanted)) = self.misfit(attempt.door, hit) {
            return emit(SequenceEvent::Ignored(name, wanted));
        }
        let Some(spec) = self.doors.get(usize::from(attempt.door)) else { return };
        let stage = usize::from(attempt.stage);
        if spec.sequence.get(stage) == Some(&hit.step) {
            self.advance(hit.source, id, emit);
        } else {
            self.end(hit.source, id, false);
        }
    }

    /// One step further; the last step completes the sequence.
    fn advance(&mut self, source: IpAddr, id: u64, emit: &mut impl FnMut(SequenceEvent)) {
        let Some(attempt) = self.attempts.advance(source, id) else { return };
        let Attempt { door, stage, .. } = attempt;
        emit(SequenceEvent::Stage { door, source, stage });
        let Some(spec) = self.doors.get(usize::from(door)) else { return };
        if usize::from(stage) < spec.sequence.len() {
            return;
        }
        self.end(source, id, true);
        self.complete(door, source, emit);
    }

    fn complete(&mut self, door: u16, source: IpAddr, emit: &mut impl FnMut(SequenceEvent)) {
        let Some(spec) = self.doors.get(usize::from(door)) else { return };
        let DoorSpec { one_time, pause_after, .. } = *spec;
        self.start_cooldown(door, source, pause_after);
        if one_time {
            self.set_sequence(door, Vec::new());
        }
        emit(SequenceEvent::Completed(Completed { door, source }));
    }

    fn end(&mut self, source: IpAddr, id: u64, success: bool) {
        if self.attempts.remove(source, id) {
            self.ended.push((id, SequenceEvent::Removed { source, success }));
        }
    }

    fn in_cooldown(&self, door: u16, source: IpAddr, second: i64) -> bool {
        let end = self.cooldowns.get(&(door, source));
        end.is_some_and(|end| second < *end)
    }

    /// With a full table there is no cooldown.
    fn start_cooldown(&mut self, door: u16, source: IpAddr, pause: u32) {
        if pause == 0 {
            return;
        }
        if self.cooldowns.len() >= COOLDOWNS {
            self.cooldowns.retain(|_, end| *end > self.second);
        }
        if self.cooldowns.len() < COOLDOWNS {
            let end = self.second.saturating_add(i64::from(pause));
            self.cooldowns.insert((door, source), end);
        }
    }

    fn index_steps(&mut self) {
        self.doors_by_step.clear();
        for (door, spec) in (0..=u16::MAX).zip(&self.doors) {
            for step in &spec.sequence {
                let doors = self.doors_by_step.entry(*step).or_default();
                if doors.last() != Some(&door) {
                    doors.push(door);
                }
            }
        }
    }
}
