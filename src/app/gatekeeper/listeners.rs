//! The listeners as the gatekeeper sees them: what they send, when they end, when an interface goes
//! and comes back. What a message leads to is left to `knocks` and `doors`, starting one to
//! `app::child`.

use super::Gatekeeper;
use super::knocks::HandedKnock;
use crate::app::interfaces;
use crate::app::listener_process::{ListenerProcess, MissingInterface};
use crate::config::DEFAULT_ROUTE;
use crate::core::types::{Boot, Counters, Now, Reject};
use crate::edge::capture::{self, ANY};
use crate::edge::clock;
use crate::edge::gatekeeper_pipe::{PipeError, ToGatekeeper};

/// Messages of the listener that are taken in one turn, so that signals and deadlines get theirs.
const TURN: usize = 256;
/// A listener that ended is started again after this many seconds, doubled each time up to
/// [`MAX_PAUSE`].
const PAUSE: u32 = 1;
/// The longest pause between two listeners, seconds.
const MAX_PAUSE: u32 = 60;

/// When a listener that ended is started again.
#[derive(Default)]
pub(super) struct Restart {
    pub(super) pause: u32,
    pub(super) at: Option<Boot>,
}

/// What the listeners have counted: those that are gone, and the one that runs.
#[derive(Default)]
pub(super) struct ListenerCounters {
    /// Packets that the kernel had no room for.
    pub(super) lost: u64,
    pub(super) past: (Counters, u64),
    pub(super) present: (Counters, u64),
}

impl Gatekeeper {
    /// Takes what the listeners have sent. Knocks are judged together, so that one sync serves them
    /// all.
    pub(super) fn hear(&mut self, now: Now) {
        if let Some((mut child, until)) = self.retiring.take() {
            // One that does not end by itself is ended: what it was told to forget must not be
            // asked of it for ever.
            if self.hear_one(now, &mut child, false).is_ok() && now.boot < until {
                self.retiring = Some((child, until));
            }
        }
        if let Some(mut child) = self.child.take() {
            match self.hear_one(now, &mut child, true) {
                Ok(()) => self.child = Some(child),
                Err(broken) => self.lose(now, &mut child, &broken),
            }
        }
    }

    /// From a listener that was replaced only knocks count: its successor watches the doors, and
    /// would open them again.
    fn hear_one(
        &mut self,
        now: Now,
        child: &mut ListenerProcess,
        doors_too: bool,
    ) -> Result<(), PipeError> {
        let mut knocks = Vec::new();
        let mut end = Ok(());
        for _ in 0..TURN {
            match child.pipe.receive() {
                Ok(Some(ToGatekeeper::Knock { ticket, row, h, body, source, source_port })) => {
                    knocks.push(HandedKnock { ticket, row, h, body, source, source_port });
                }
                Ok(Some(message)) if doors_too => self.hear_other(now, child, message),
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(broken) => {
                    end = Err(broken);
                    break;
                }
            }
        }
        self.judge(now, child, knocks);
        end.and_then(|()| child.pipe.flush())
    }

    fn hear_other(&mut self, now: Now, child: &mut ListenerProcess, message: ToGatekeeper) {
        match message {
            ToGatekeeper::Completed { door, source } => self.completed(now, child, door, source),
            ToGatekeeper::Stage { door, source, stage } => {
                self.door_line(child, door, |name| format!("{source}: {name}: Stage {stage}"));
            }
            ToGatekeeper::TimedOut { door, source, stage } => {
                self.door_line(child, door, |name| {
                    format!("{source}: {name}: sequence timeout (stage {stage})")
                });
            }
            ToGatekeeper::Alarm { row, first, again } => self.alarm(child, row, first, again),
            ToGatekeeper::Counters { counters, packets, lost } => {
                self.heard.present = (counters, packets);
                self.heard.lost = self.heard.lost.saturating_add(lost);
            }
            ToGatekeeper::Down { capture } => self.lost_interface(child, capture),
            _ => {}
        }
    }

    /// A listener is gone, or sends what none of ours would.
    fn lose(&mut self, now: Now, child: &mut ListenerProcess, broken: &PipeError) {
        let how = child.ended().unwrap_or_else(|| format!("{broken:?}"));
        if matches!(broken, PipeError::Nonsense(_)) {
            self.counters.count(Reject::Pipe);
        }
        self.heard.fold();
        self.restart.pause = (self.restart.pause * 2).clamp(PAUSE, MAX_PAUSE);
        self.restart.at = Some(now.boot.plus(self.restart.pause));
        self.say(&format!(
            "the listener ended ({how}); the next one starts in {} s",
            self.restart.pause
        ));
    }

    pub(super) fn start_listener_again(&mut self, now: Now) {
        self.restart.at = None;
        match ListenerProcess::start(&self.loaded, &self.own, MissingInterface::Skip) {
            Ok(child) => {
                self.child = Some(child);
                self.say("a new listener listens");
            }
            Err(fault) => {
                self.restart.pause = (self.restart.pause * 2).clamp(PAUSE, MAX_PAUSE);
                self.restart.at = Some(now.boot.plus(self.restart.pause));
                self.say(&format!("no listener: {fault}"));
            }
        }
    }

    /// A captured interface has gone: deaf there, until one of its name is back.
    fn lost_interface(&mut self, child: &mut ListenerProcess, capture: u8) {
        let Some(name) = child.interfaces.get(usize::from(capture)).cloned() else { return };
        if name != ANY && !child.missing.contains(&name) {
            child.missing.push(name.clone());
            self.say_at_most(
                "interface",
                1,
                &format!("interface {name} went down: no knock is heard there"),
            );
            self.next_look = self.next_look.min(clock::now().boot.plus(1));
        }
    }

    /// An interface that was missing is there, or the default route leads elsewhere: a listener
    /// that hears it takes over. Without any default route the old one stays: it loses nothing.
    pub(super) fn find_interfaces(&mut self) {
        let Some(child) = &self.child else { return };
        let meant = interfaces::resolved_interfaces(&self.loaded.settings);
        let moved = meant != child.meant && !meant.iter().any(|name| name == DEFAULT_ROUTE);
        let missing = child.missing.iter();
        let back: Vec<String> =
            missing.filter(|name| capture::interface(name).is_ok()).cloned().collect();
        if back.is_empty() && !moved {
            return;
        }
        match ListenerProcess::start(&self.loaded, &self.own, MissingInterface::Skip) {
            Ok(child) => {
                let heard = child.interfaces.join(", ");
                self.exchange(child);
                self.say(&match moved {
                    true => format!("the default route has changed: knocks are heard on {heard}"),
                    false => {
                        format!("interface {} is back: knocks are heard there", back.join(", "))
                    }
                });
            }
            Err(fault) => self.say_at_most("back", 10, &fault.to_string()),
        }
    }
}

impl ListenerCounters {
    /// The listener that counted is gone; what it counted stays.
    pub(super) fn fold(&mut self) {
        let (counters, packets) = std::mem::take(&mut self.present);
        for (sum, number) in self.past.0.0.iter_mut().zip(counters.0) {
            *sum = sum.saturating_add(number);
        }
        self.past.1 = self.past.1.saturating_add(packets);
    }
}
