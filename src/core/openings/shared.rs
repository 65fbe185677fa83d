//! Openings of services: one for each service address, shared by all who hold a grant of it, and
//! shut when nobody does any more. See `grants` for who holds what.
//!
//! The start command must end within [`START`] seconds, because a client waits for it. One that
//! fails or takes longer may have opened half of what it should, so the stop command follows it all
//! the same.

use super::{
    CommandEnd, CommandLine, NotOpened, Opening, OpeningAction, OpeningEntry, Openings, Phase,
    PreparedOpening,
};
use crate::core::service::ServiceCommands;
use crate::core::types::{Now, ServiceName, Source};

/// Seconds that a service's start command may take: less than a client waits for its receipt.
pub const START: u32 = 5;

/// A service and an address: all grants with the same share one opening.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceAddress {
    pub service: ServiceName,
    pub source: Source,
}

/// The state of an opening, for those who wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpeningState {
    Starting,
    Open,
    /// There is none, or it has failed, or it ends.
    Gone,
}

impl Openings {
    /// The opening that must be journalled and begun before a grant for `place` counts; `None` if
    /// another grant shares one already. Changes nothing but the next id.
    pub fn acquire(
        &mut self, now: Now, place: ServiceAddress, commands: &ServiceCommands,
    ) -> Result<Option<PreparedOpening>, NotOpened> {
        if self.places.contains_key(&place) {
            return Ok(None);
        }
        let source = place.source.ip();
        let start = CommandLine::argv(&commands.start, source).ok_or(NotOpened::StartTooLong)?;
        let stop = CommandLine::argv(&commands.stop, source).ok_or(NotOpened::StopTooLong)?;
        let door = place.service.to_string();
        let id = self.new_id(now, Some(place), &door)?;
        let opened = now.wall;
        let entry = OpeningEntry { id, door: door.clone(), source, stop, opened, timeout: 0 };
        let stop = Some(entry);
        let place = Some(place);
        let phase = Phase::Queued;
        Ok(Some(PreparedOpening(Opening { id, door, source, start, stop, place, phase })))
    }

    pub fn state_of(&self, place: &ServiceAddress) -> OpeningState {
        let Some(opening) = self.places.get(place).and_then(|id| self.live.get(id)) else {
            return OpeningState::Gone;
        };
        match opening.phase {
            Phase::Held => OpeningState::Open,
            Phase::Queued | Phase::Behind | Phase::Starting => OpeningState::Starting,
            Phase::Leaving | Phase::Waiting | Phase::Stopping => OpeningState::Gone,
        }
    }

    /// The service addresses whose opening has failed since the last call: grants must not go on
    /// without it.
    pub fn take_failed(&mut self) -> Vec<ServiceAddress> {
        std::mem::take(&mut self.failed)
    }

    /// Ends the opening of a service address that nobody holds. What has not begun is forgotten:
    /// nothing of it ran.
    pub fn release(&mut self, now: Now, place: &ServiceAddress, actions: &mut Vec<OpeningAction>) {
        let Some(id) = self.places.remove(place) else { return };
        let Some(opening) = self.live.get_mut(&id) else { return };
        match opening.phase {
            Phase::Queued | Phase::Behind => {
                self.remove(id);
                actions.push(OpeningAction::Forget(id));
            }
            Phase::Starting => opening.phase = Phase::Leaving,
            Phase::Held => self.stop(id),
            Phase::Leaving | Phase::Waiting | Phase::Stopping => {}
        }
        self.stop_next(now, actions);
    }

    /// Ends the openings of all service addresses.
    pub fn release_all(&mut self, now: Now, actions: &mut Vec<OpeningAction>) {
        while let Some((place, _)) = self.places.first_key_value() {
            let place = *place;
            self.release(now, &place, actions);
        }
    }

    /// The phase in which the opening `id` begins: behind an earlier one for the same service
    /// address whose stop command has not ended, because that would end the new one too.
    pub(super) fn first_phase(&mut self, place: ServiceAddress, id: u64) -> Phase {
        self.places.insert(place, id);
        match self.openings_of(place).next() {
            Some(_) => Phase::Behind,
            None => Phase::Queued,
        }
    }

    pub(super) fn started(&mut self, place: ServiceAddress, id: u64, how: CommandEnd) {
        self.due.retain(|(_, other)| *other != id);
        let Some(opening) = self.live.get_mut(&id) else { return };
        if opening.phase == Phase::Starting && how == CommandEnd::Exited(0) {
            opening.phase = Phase::Held;
            return;
        }
        self.unshare(place, id);
        self.stop(id);
    }

    pub(super) fn give_up(&mut self, id: u64, actions: &mut Vec<OpeningAction>) {
        let Some(opening) = self.live.get_mut(&id) else { return };
        opening.phase = Phase::Leaving;
        actions.push(OpeningAction::Kill(id));
        if let Some(place) = opening.place {
            self.unshare(place, id);
        }
    }

    /// The last stop command for this service address may have ended: the opening that waited for
    /// it may begin.
    pub(super) fn move_up(&mut self, place: ServiceAddress) {
        let Some(next) = self.places.get(&place).copied() else { return };
        if self.openings_of(place).any(|id| id != next) {
            return;
        }
        if let Some(opening) = self.live.get_mut(&next)
            && opening.phase == Phase::Behind
        {
            opening.phase = Phase::Queued;
            let queue = self.services.queues.entry(opening.door.clone());
            queue.or_default().push_back(next);
        }
    }

    /// No further grant shares this opening.
    fn unshare(&mut self, place: ServiceAddress, id: u64) {
        if self.places.get(&place) == Some(&id) {
            self.places.remove(&place);
            self.failed.push(place);
        }
    }

    fn openings_of(&self, place: ServiceAddress) -> impl Iterator<Item = u64> {
        let all = self.live.iter();
        all.filter(move |(_, opening)| opening.place == Some(place)).map(|(id, _)| *id)
    }
}

#[cfg(test)]
mod tests;
