//! Openings of services: one for each address, shared by all who hold a grant of it, and shut when
//! the last of them has none. Who holds what is left to `grants`, what runs when to the file above.
//!
//! The start command must be over within [`START`] seconds, because somebody waits for its end. One
//! that fails or takes longer may have opened half of what it should, so the stop command follows
//! it all the same.

use super::{
    CommandEnd, CommandLine, NotOpened, Opening, OpeningAction, OpeningEntry, Openings, Phase,
    PreparedOpening,
};
use crate::core::service::ServiceCommands;
use crate::core::types::{Now, ServiceName, Source};

/// Seconds that a service's start command may take: less than a client waits for its receipt.
pub const START: u32 = 5;

/// What grants of one service for one address have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceAddress {
    /// Of which service.
    pub service: ServiceName,
    /// For which address.
    pub source: Source,
}

/// How an opening stands for those who wait for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpeningState {
    /// Its start command has not ended yet.
    Starting,
    /// Its start command has ended well.
    Open,
    /// There is none, or it has failed, or it ends.
    Gone,
}

impl Openings {
    /// What must be journalled and begun before a grant of this place is one; `None` if that was
    /// done for another grant of it. Changes nothing but the next id.
    pub fn acquire(
        &mut self,
        now: Now,
        place: ServiceAddress,
        commands: &ServiceCommands,
    ) -> Result<Option<PreparedOpening>, NotOpened> {
        if self.places.contains_key(&place) {
            return Ok(None);
        }
        let source = place.source.ip();
        let start = CommandLine::argv(&commands.start, source).ok_or(NotOpened::StartTooLong)?;
        let stop = CommandLine::argv(&commands.stop, source).ok_or(NotOpened::StopTooLong)?;
        let (id, door) = (self.next_id(now, true)?, place.service.to_string());
        let stop = Some(OpeningEntry {
            id,
            door: door.clone(),
            source,
            stop,
            opened: now.wall,
            timeout: 0,
        });
        Ok(Some(PreparedOpening { id, door, start, source, stop, place: Some(place) }))
    }

    /// How the opening of this place stands.
    pub fn state_of(&self, place: &ServiceAddress) -> OpeningState {
        let lease = self.places.get(place).and_then(|id| self.live.get(id));
        match lease.map(|lease| lease.phase) {
            Some(Phase::Held) => OpeningState::Open,
            Some(Phase::Queued | Phase::Behind | Phase::Starting) => OpeningState::Starting,
            _ => OpeningState::Gone,
        }
    }

    /// Whether there is any place to be asked about in [`Openings::release`].
    pub fn holds_any(&self) -> bool {
        !self.places.is_empty()
    }

    /// Ends the openings that nobody holds. What has not begun is forgotten: nothing of it ran.
    pub fn release(
        &mut self,
        is_held: impl Fn(&ServiceAddress) -> bool,
        work: &mut Vec<OpeningAction>,
    ) {
        let left: Vec<(ServiceAddress, u64)> = self
            .places
            .iter()
            .filter(|(place, _)| !is_held(place))
            .map(|(place, id)| (*place, *id))
            .collect();
        for (place, id) in left {
            self.places.remove(&place);
            let Some(lease) = self.live.get_mut(&id) else { continue };
            match lease.phase {
                Phase::Queued | Phase::Behind => {
                    self.live.remove(&id);
                    work.push(OpeningAction::Forget(id));
                }
                Phase::Starting => lease.phase = Phase::Leaving,
                Phase::Held => self.stop(id, work),
                Phase::Leaving | Phase::Waiting(_) | Phase::Stopping => {}
            }
        }
    }

    /// The phase in which the opening `id` of this place begins: behind an earlier one whose stop
    /// command has not ended, because that would end the new one too.
    pub(super) fn settle_in(&mut self, place: ServiceAddress, id: u64) -> Phase {
        let ends = self.of(place).next().is_some();
        self.places.insert(place, id);
        if ends { Phase::Behind } else { Phase::Queued }
    }

    /// The start command of this place's opening has ended.
    pub(super) fn started(
        &mut self,
        place: ServiceAddress,
        id: u64,
        how: CommandEnd,
        work: &mut Vec<OpeningAction>,
    ) {
        self.due.retain(|(_, other)| *other != id);
        let Some(lease) = self.live.get_mut(&id) else { return };
        if lease.phase == Phase::Starting && how == CommandEnd::Exited(0) {
            lease.phase = Phase::Held;
            return;
        }
        self.leave(place, id);
        self.stop(id, work);
    }

    /// The start command takes too long.
    pub(super) fn give_up(&mut self, id: u64, work: &mut Vec<OpeningAction>) {
        let Some(lease) = self.live.get_mut(&id) else { return };
        lease.phase = Phase::Leaving;
        work.push(OpeningAction::Kill(id));
        lease.place.into_iter().for_each(|place| self.leave(place, id));
    }

    /// The last stop command of this place may have ended: what waited for it may begin.
    pub(super) fn move_up(&mut self, place: ServiceAddress) {
        let Some(next) = self.places.get(&place).copied() else { return };
        if self.of(place).any(|(id, _)| id != next) {
            return;
        }
        if let Some(lease) = self.live.get_mut(&next).filter(|lease| lease.phase == Phase::Behind) {
            lease.phase = Phase::Queued;
            self.services.queue.push_back(next);
        }
    }

    /// No further grant shares this opening.
    fn leave(&mut self, place: ServiceAddress, id: u64) {
        if self.places.get(&place) == Some(&id) {
            self.places.remove(&place);
        }
    }

    fn of(&self, place: ServiceAddress) -> impl Iterator<Item = (u64, &Opening)> {
        self.live
            .iter()
            .filter(move |(_, lease)| lease.place == Some(place))
            .map(|(id, lease)| (*id, lease))
    }
}

#[cfg(test)]
mod tests;
