//! What the machine does with first steps that the kernel's filter held: a later step takes the
//! first step of its source from the filter's memory, and the attempt begins as if that step had
//! arrived at its time. What a held first step does not do is end attempts as a wrong step.

use std::collections::BTreeMap;

use super::attempts::Attempt;
use super::first_steps::FirstSteps;
use super::flood::Flood;
use super::{KnockPacket, Machine, SequenceEvent};
use crate::core::bytes::saturated_i64;
use crate::core::door::Step;
use crate::core::door::first_steps::FEWEST;
use crate::core::types::{Boot, SECOND, Wall};

/// The times of the held first steps that count beside one packet, in seconds of the packets' clock.
pub(super) type HeldTimes = BTreeMap<Step, i64>;

impl Machine {
    /// Lets the kernel's filter hold first steps in this memory while a flood of them lasts.
    pub fn hold_in(&mut self, first_steps: FirstSteps) {
        self.flood = Some(Flood::new(first_steps));
    }

    /// Begins or ends holding. To be called at least once a second.
    pub fn tick(&mut self, now: Boot) {
        if let Some(flood) = &mut self.flood {
            flood.tick(now);
        }
    }

    /// The first steps that the kernel holds, if its filter can.
    pub fn first_steps(&self) -> Option<&FirstSteps> {
        self.flood.as_ref().map(Flood::first_steps)
    }

    /// Takes the first steps of the source that the kernel held, of doors at which this hit is a
    /// later step. They are gone then, as an attempt would end with a wrong step.
    pub(super) fn take_held(&self, at: Wall, hit: &KnockPacket, listening: &[u16]) -> HeldTimes {
        let mut held = HeldTimes::new();
        let Some(flood) = &self.flood else { return held };
        for door in listening {
            let spec = self.doors.get(usize::from(*door));
            if let Some(first) = spec.and_then(|spec| spec.sequence.first())
                && !held.contains_key(first)
                && flood.first_steps().includes(*first)
                && let Some(age) = flood.take(hit.source, hit.destination, *first)
            {
                held.insert(*first, saturated_i64(at.0.saturating_sub(age) / SECOND));
            }
        }
        held
    }

    /// Begins an attempt with a held first step, if this hit is the second step.
    pub(super) fn begin_held(
        &mut self, door: u16, hit: &KnockPacket, held: &HeldTimes,
        emit: &mut impl FnMut(SequenceEvent),
    ) -> Option<u64> {
        let spec = self.doors.get(usize::from(door))?;
        let [first, second, ..] = spec.sequence.as_slice() else { return None };
        let began = *held.get(first)?;
        let deadline = began.saturating_add(spec.seq_timeout);
        if *second != hit.step
            || spec.sequence.len() < FEWEST
            || spec.one_time
            || deadline <= self.second
            || self.in_cooldown(door, hit.source, began)
        {
            return None;
        }
        let id = self.attempts.begin(hit.source, door, deadline);
        let Attempt { stage, .. } = self.attempts.advance(hit.source, id)?;
        emit(SequenceEvent::Stage { door, source: hit.source, stage });
        Some(id)
    }
}
