//! The guard taken away and put up by an admin's command, and the proof that somebody elsewhere can
//! still get in. What is done in the kernel is left to `edge::firewall`, the commands' words to
//! `app::guard`.

use super::Gatekeeper;
use crate::core::knock::Status;
use crate::core::reply::Reply;
use crate::core::types::{Fault, Source};

/// Grants to sealed knocks from other machines.
#[derive(Debug, Default)]
pub(super) struct RemoteGrants {
    /// How many since the start.
    pub(super) granted: u64,
    /// The last of them, for people.
    pub(super) last: String,
}

impl Gatekeeper {
    /// Puts the guard up if it is not, with all live grants.
    pub(super) fn guard_on(&mut self) -> Result<String, Fault> {
        let was_down = self.firewall.is_disabled();
        if was_down {
            self.firewall.enable()?;
        }
        self.restore_firewall()?;
        Ok(if was_down {
            "the guard is up".to_owned()
        } else {
            "the guard was up already".to_owned()
        })
    }

    /// Takes the guard away. Live grants are kept in mind: they come back with it, for the time
    /// that they have left.
    pub(super) fn guard_off(&mut self) -> Result<String, Fault> {
        self.firewall.disable()?;
        Ok("the guard is OFF until `toctocd guard on` or the next start".to_owned())
    }

    /// Somebody else has changed our table. If it was away by command, he has loaded it
    /// (nftables.conf includes it, say): then it must not stand there without us, for nobody could
    /// be granted anything.
    pub(super) fn guard_was_changed(&mut self) {
        if self.firewall.is_disabled() {
            match self.guard_on() {
                Ok(_) => self.say("that put the guard up again, so it is no longer off"),
                Err(fault) => self.say(&format!("THE GUARD MAY BE DOWN: {fault}")),
            }
        } else {
            self.try_restore_firewall();
        }
    }

    /// Keeps the last grant that somebody elsewhere got.
    pub(super) fn record_remote_grant(&mut self, answer: &Reply) {
        let Some(live) = answer.granted.filter(|_| answer.status == Status::Granted) else {
            return;
        };
        let source = live.key.source;
        let here = source.ip().is_loopback()
            || self.own.iter().any(|own| Source::new(own.address) == source);
        if !here {
            self.outside.granted = self.outside.granted.saturating_add(1);
            self.outside.last =
                format!("{}: {} for {source}", self.name(answer.client), answer.service);
        }
    }
}
