//! Who knocks, in words: addresses, with host names where they are asked for; and how many lines
//! and openings there may be. The look-up itself is left to `edge::names`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use crate::core::address::as_text;
use crate::core::types::{Boot, SECOND};
use crate::edge::names::reverse;

/// Names that are remembered at once.
const NAMES: usize = 1024;
/// Lines, or openings, that packets may cause at once.
const BURST: u64 = 500;
/// And per second after that.
const PER_SECOND: u64 = 100;

/// How long a line waits for a name.
const PATIENCE: Duration = Duration::from_millis(200);

/// Host names of knockers.
pub(super) struct Names {
    lookup: Option<Lookup>,
    known: BTreeMap<IpAddr, Option<String>>,
}

/// A thread that asks name servers, one question at a time.
struct Lookup {
    ask: Sender<IpAddr>,
    told: Receiver<(IpAddr, Option<String>)>,
    busy: bool,
}

impl Names {
    /// `lookup`: whether names are wanted at all.
    pub(super) fn new(lookup: bool) -> Self {
        Self { lookup: lookup.then(Lookup::start), known: BTreeMap::new() }
    }

    /// A first step was right: its name is looked up, for this line and the next ones. A name
    /// server that is slow keeps this line waiting, not the ones behind it: meanwhile they go
    /// without names. knockd waits for each, packets and all.
    pub(super) fn begin(&mut self, ip: IpAddr) {
        let Some(lookup) = &mut self.lookup else { return };
        if self.known.len() >= NAMES {
            self.known.clear();
        }
        self.known.remove(&ip);
        let late = lookup.told.try_iter().last();
        lookup.busy &= late.is_none();
        let asked = !lookup.busy && lookup.ask.send(ip).is_ok();
        lookup.busy |= asked;
        let told = if asked { lookup.told.recv_timeout(PATIENCE).ok() } else { None };
        lookup.busy &= told.is_none();
        self.known.extend(late.into_iter().chain(told));
    }

    /// `<ip>`, or `<ip> (<host name>)`.
    pub(super) fn shown(&self, ip: IpAddr) -> String {
        match self.known.get(&ip) {
            Some(Some(name)) => format!("{} ({name})", as_text(ip)),
            _ => as_text(ip),
        }
    }
}

impl Lookup {
    fn start() -> Self {
        let (ask, asked) = channel::<IpAddr>();
        let (tell, told) = channel();
        // It ends when nobody asks any more.
        thread::spawn(move || asked.into_iter().try_for_each(|ip| tell.send((ip, reverse(ip)))));
        Self { ask, told, busy: false }
    }
}

/// Forged packets must not fill the log, or the machine with commands: a bucket of lines, or of
/// openings.
#[derive(Default)]
pub(super) struct Throttle {
    /// Lines spent, in nanoseconds of refill.
    debt: u64,
    last: Boot,
    left_out: u64,
    /// When it was last said how many were left out.
    told: Boot,
}

impl Throttle {
    /// Whether there may be one more; how many were left out before it, once a second.
    pub(super) fn admit(&mut self, now: Boot) -> Option<u64> {
        let line = SECOND / PER_SECOND;
        self.debt = self.debt.saturating_sub(now.0.saturating_sub(self.last.0));
        self.last = now;
        if self.debt > line * (BURST - 1) {
            self.left_out = self.left_out.saturating_add(1);
            return None;
        }
        self.debt += line;
        // In a flood every line that is written has others before it that are not: the number with
        // each would double them.
        if self.left_out == 0 || now.0 < self.told.0.saturating_add(SECOND) {
            return Some(0);
        }
        self.told = now;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_leaves_a_burst_and_then_a_trickle_and_says_how_much_it_left_out() {
        let mut throttle = Throttle::default();
        let at = |seconds: u64| Boot(seconds * SECOND);
        let written = (0..100_000).filter(|_| throttle.admit(at(1)).is_some()).count();
        assert_eq!(written, 500);
        assert_eq!(throttle.admit(at(2)), Some(99_500));
        let written: Vec<_> = (0..100_000).filter_map(|_| throttle.admit(at(2))).collect();
        assert_eq!(written, [0; 99]);
        let later: Vec<_> =
            (0..10_000).filter_map(|n| throttle.admit(Boot(at(3).0 + n * SECOND / 1000))).collect();
        assert_eq!(
            (later.len(), later.iter().filter(|left_out| **left_out > 0).count()),
            (1099, 10)
        );
    }
}
