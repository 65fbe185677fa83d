//! The last events, for admins who ask for them: also where the log goes nowhere.

use std::collections::VecDeque;

use super::Gatekeeper;
use crate::app::admin::{EventPage, LAST_EVENTS, NumberedEvent};
use crate::core::event::EventKind;
use crate::core::types::Wall;
use crate::edge::control::SessionId;
use crate::edge::log::LogEvent;

/// The most events that are kept.
pub(super) const KEPT: usize = 512;
/// The most events of an answer.
const PAGE: usize = 128;

#[derive(Default)]
pub(super) struct Ring {
    events: VecDeque<(Wall, LogEvent)>,
    /// The number of the first of them. The first event of a process has number 1.
    dropped: u64,
    /// The number of events of each kind, by its place in [`EventKind::ALL`].
    counts: [u64; EventKind::ALL.len()],
}

impl Ring {
    pub(super) fn push(&mut self, at: Wall, event: LogEvent) {
        if let Some(count) = self.counts.get_mut(event.kind as usize) {
            *count = count.saturating_add(1);
        }
        if self.events.len() == KEPT {
            self.events.pop_front();
            self.dropped += 1;
        }
        self.events.push_back((at, event));
    }

    /// The number of all events of each kind.
    pub(super) fn counts(&self) -> Vec<(String, u64)> {
        EventKind::ALL
            .iter()
            .zip(self.counts)
            .map(|(kind, n)| (kind.name().to_owned(), n))
            .collect()
    }

    /// The events after the one with this number, or from the first that is kept.
    fn page(&self, after: u64) -> EventPage {
        let events = self.after(after, PAGE);
        let last = events.last().map_or(after, |event| event.number);
        EventPage {
            pid: std::process::id(),
            counts: self.counts(),
            lost: self.dropped.saturating_sub(after),
            next: Some(last).filter(|number| *number < self.number()),
            events,
        }
    }

    /// The number of the last event.
    fn number(&self) -> u64 {
        self.dropped + self.events.len() as u64
    }

    /// At most so many events after the one with this number, or from the first that is kept.
    fn after(&self, after: u64, most: usize) -> Vec<NumberedEvent> {
        let skip = usize::try_from(after.saturating_sub(self.dropped)).unwrap_or(usize::MAX);
        let numbers = self.dropped.max(after).saturating_add(1)..;
        let mut events = Vec::new();
        for ((at, event), number) in self.events.iter().skip(skip).take(most).zip(numbers) {
            events.push(NumberedEvent { number, event: event.record(*at) });
        }
        events
    }

    /// The last events, the last one at the end.
    pub(super) fn last(&self) -> Vec<NumberedEvent> {
        self.after(self.number().saturating_sub(LAST_EVENTS as u64), LAST_EVENTS)
    }
}

impl Gatekeeper {
    pub(super) fn events_asked(&mut self, session: SessionId, after: u64) {
        let page = self.out.ring().page(after);
        self.reply_value(session, serde_json::to_value(page));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(events: u64) -> Ring {
        let mut ring = Ring::default();
        for n in 1..=events {
            ring.push(Wall(0), LogEvent::new(EventKind::Start, n.to_string()));
        }
        ring
    }

    fn all(ring: &Ring, mut after: u64) -> (Vec<u64>, u64) {
        let mut numbers = Vec::new();
        let lost = ring.page(after).lost;
        for _ in 0..=KEPT {
            let page = ring.page(after);
            assert!(page.events.len() <= PAGE);
            for one in &page.events {
                assert_eq!(one.number.to_string(), one.event.text);
                numbers.push(one.number);
            }
            match page.next {
                Some(next) => after = next,
                None => return (numbers, lost),
            }
        }
        panic!("there is always a next page");
    }

    #[test]
    fn pages_have_each_kept_event_once_in_order_and_say_what_is_lost() {
        assert_eq!(all(&filled(0), 0), (vec![], 0));
        assert_eq!(all(&filled(200), 0), ((1..=200).collect(), 0));
        assert_eq!(all(&filled(200), 199), (vec![200], 0));
        assert_eq!(all(&filled(200), 200), (vec![], 0));
        assert_eq!(all(&filled(200), 900), (vec![], 0));
        assert_eq!(all(&filled(200), u64::MAX), (vec![], 0), "only the counts are asked for");
        assert_eq!(all(&filled(1000), 0), ((489..=1000).collect(), 488));
        assert_eq!(all(&filled(1000), 600), ((601..=1000).collect(), 0));
    }

    #[test]
    fn the_last_events_end_with_the_last_one() {
        let last = |events| -> Vec<u64> {
            let last = filled(events).last();
            assert!(last.iter().all(|one| one.number.to_string() == one.event.text));
            last.iter().map(|one| one.number).collect()
        };
        assert_eq!(last(0), [0; 0]);
        assert_eq!(last(3), [1, 2, 3]);
        assert_eq!(last(1000), Vec::from_iter(989..=1000));
    }
}
