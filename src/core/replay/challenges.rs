//! The challenges that are out: single use, short-lived, each for one client at one address.
//! Who must have one is left to `replay`; they live in memory only, so a restart voids them all.

use std::collections::VecDeque;

use crate::core::knock::Challenge;
use crate::core::types::{Boot, ClientId, Source};

/// Seconds that a challenge lives.
pub(super) const LIFETIME: u32 = 20;
/// How many one client may have out; one more voids its oldest. As many as it may knock at once, so
/// that senders in parallel heal in parallel.
pub(super) const PER_CLIENT: usize = 64;
/// How many may be out over all clients; one more voids the oldest.
pub(super) const ALL: usize = 4096;

/// Challenges in the order they were given out.
#[derive(Debug, Default)]
pub struct Challenges {
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
    /// Gives out `entropy` as a challenge. `None` if it cannot be one (all zero) or is out already:
    /// bad entropy.
    pub fn give(
        &mut self,
        now: Boot,
        client: ClientId,
        source: Source,
        entropy: [u8; 16],
    ) -> Option<Challenge> {
        self.out.retain(|out| out.until > now);
        if entropy == [0; 16] || self.out.iter().any(|out| out.challenge == entropy) {
            return None;
        }
        if self.out.iter().filter(|out| out.client == client).count() >= PER_CLIENT {
            self.void_oldest(|out| out.client == client);
        }
        if self.out.len() >= ALL {
            self.void_oldest(|_| true);
        }
        self.out.push_back(OutstandingChallenge {
            until: now.plus(LIFETIME),
            client,
            source,
            challenge: entropy,
        });
        Some(entropy)
    }

    /// Whether `challenge` was live for this client at this address. It is not any more. One that
    /// is somebody else's stays: whoever shows it from elsewhere first does not spend it.
    pub fn spend(
        &mut self,
        now: Boot,
        client: ClientId,
        source: Source,
        challenge: &Challenge,
    ) -> bool {
        self.out.retain(|out| out.until > now);
        let mine = |out: &OutstandingChallenge| {
            out.client == client && out.source == source && out.challenge == *challenge
        };
        self.out.iter().position(mine).and_then(|place| self.out.remove(place)).is_some()
    }

    pub(super) fn len(&self) -> usize {
        self.out.len()
    }

    fn void_oldest(&mut self, whose: impl Fn(&OutstandingChallenge) -> bool) {
        if let Some(place) = self.out.iter().position(whose) {
            self.out.remove(place);
        }
    }
}
