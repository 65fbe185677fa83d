//! A reload: everything is read and validated, a new listener listens, and only then anything changes.
//! Reading is left to `app::load`; a bad file leaves everything as it was.

use super::{Gatekeeper, policy, window};
use crate::app::admin::count;
use crate::app::child::Child;
use crate::app::load::{self, Loaded};
use crate::core::types::{Fault, Now};
use crate::edge::gatekeeper_pipe::ToListener;

impl Gatekeeper {
    /// Takes over what the files say now; answers what to tell the admin.
    pub(super) fn reload(&mut self, now: Now) -> Result<String, Fault> {
        let loaded = load::everything(&self.config)?;
        self.can_follow(&loaded)?;
        let child = Child::start(&loaded, &self.own)?;
        let settings = &loaded.settings;
        self.firewall.reload(&settings.firewall, &settings.services, &settings.knock)?;
        self.policy = policy(&loaded, &self.own);
        self.loaded = loaded;
        let clients = &self.loaded.clients;
        let enrolled: std::collections::HashSet<_> = clients.iter().map(|client| client.id).collect();
        self.replay.reload(window(&self.loaded), |id| enrolled.contains(&id));
        self.end_what_is_not_allowed(now);
        self.try_restore_firewall(now);
        self.exchange(child);
        Ok(format!(
            "reloaded: {}, {}, {}",
            count(self.loaded.settings.services.len(), "service"),
            count(self.loaded.clients.len(), "client"),
            count(self.loaded.settings.doors.len(), "door"),
        ))
    }

    /// What is held open for as long as we run cannot be moved by a reload.
    fn can_follow(&self, loaded: &Loaded) -> Result<(), Fault> {
        let (old, new) = (&self.loaded.settings, &loaded.settings);
        let moved = [
            ("state_dir", old.gateway.state_dir != new.gateway.state_dir),
            ("control_socket", old.gateway.control_socket != new.gateway.control_socket),
            ("table", old.firewall.table != new.firewall.table),
        ];
        match moved.iter().find(|(_, moved)| *moved) {
            Some((key, _)) => Err(Fault::new(
                format!("{}: `{key}` cannot change while toctocd runs", self.config.display()),
                "restart toctocd, or put the old value back",
            )),
            None => Ok(()),
        }
    }

    /// From here on the new listener is the listener; the old one still hands over what it has.
    fn exchange(&mut self, child: Child) {
        self.heard.fold();
        self.retiring = self.child.replace(child);
        if let Some(old) = &mut self.retiring {
            // A pipe that is of no use is noticed when it is read.
            let _ = old.pipe.send(ToListener::Stop);
        }
        self.restart = super::Restart::default();
    }
}
