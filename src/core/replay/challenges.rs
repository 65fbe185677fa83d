//! The challenges that are out: single use, short-lived, each for one client at one address. They
//! are kept only in memory, so a restart voids them all. See `replay` for who needs one.

use std::collections::VecDeque;

use crate::core::knock::Challenge;
use crate::core::types::{Boot, ClientId, Source};

/// Seconds that a challenge lives.
pub(super) const LIFETIME: u32 = 20;
/// The most that one client may have out; one more voids its oldest. As many as it may send in a
/// burst, so that each of several parallel knocks can be retried.
pub(super) const PER_CLIENT: usize = 64;
/// The most over all clients; one more voids the oldest.
pub(super) const ALL: usize = 4096;

/// Challenges in the order they were given out.
#[derive(Debug, Default)]
pub(super) struct Challenges {
    out: VecDeque<OutstandingChallenge>,
}

#[derive(Debug)]
struct OutstandingChallenge {
    until: Boot,
    client: ClientId,
    source: Source,
    challenge: Challenge,
}

impl Challenges {
    /// Gives out `entropy` as a challenge. `None` for bad entropy: all zero, or out already.
    pub(super) fn give(
        &mut self, now: Boot, client: ClientId, source: Source, entropy: [u8; 16],
    ) -> Option<Challenge> {
        self.out.retain(|out| out.until > now);
        if entropy == [0; 16] || self.out.iter().any(|out| out.challenge == entropy) {
            return None;
        }
        if self.out.iter().filter(|out| out.client == client).count() >= PER_CLIENT {
            self.remove_first(|out| out.client == client);
        }
        if self.out.len() >= ALL {
            self.out.pop_front();
        }
        let until = now.plus(LIFETIME);
        self.out.push_back(OutstandingChallenge { until, client, source, challenge: entropy });
        Some(entropy)
    }

    /// True if `challenge` was live for this client at this address; it no longer is. Another
    /// client's challenge stays: showing it from elsewhere first does not spend it.
    pub(super) fn spend(
        &mut self, now: Boot, client: ClientId, source: Source, challenge: &Challenge,
    ) -> bool {
        self.out.retain(|out| out.until > now);
        self.remove_first(|out| {
            out.client == client && out.source == source && out.challenge == *challenge
        })
    }

    pub(super) fn len(&self) -> usize {
        self.out.len()
    }

    /// False if none fits.
    fn remove_first(&mut self, fits: impl Fn(&OutstandingChallenge) -> bool) -> bool {
        match self.out.iter().position(fits) {
            Some(place) => self.out.remove(place).is_some(),
            None => false,
        }
    }
}
