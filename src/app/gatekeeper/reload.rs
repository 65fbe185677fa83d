//! A reload: everything is read and validated, a new listener listens, and only then anything
//! changes. Reading is left to `app::load`; a bad file leaves everything as it was.

use std::collections::HashSet;

use super::{Gatekeeper, policy, watch, window};
use crate::app::listener_process::{ListenerProcess, MissingInterface};
use crate::app::load::{self, GatewayConfig};
use crate::app::output::count;
use crate::app::warnings::warnings_here;
use crate::core::service::Service;
use crate::core::types::{ClientId, Fault, Now, ServiceName};
use crate::edge::clock;
use crate::edge::files::{self, FileCheck};
use crate::edge::gatekeeper_pipe::ToListener;
use crate::keys::authorized;

/// Seconds that a listener which was replaced has for handing over what it still holds.
const RETIRING: u32 = 2;

impl Gatekeeper {
    /// Takes over what the files say now; answers what to tell the admin.
    pub(super) fn reload(&mut self, now: Now) -> Result<String, Fault> {
        self.revoke_first(now)?;
        let loaded = load::load_all(&self.config)?;
        self.can_follow(&loaded)?;
        let child = ListenerProcess::start(&loaded, &self.own, MissingInterface::Refuse)?;
        let addresses = watch(&loaded.settings)?;
        let settings = &loaded.settings;
        self.firewall.reload(&settings.firewall, &settings.services, &settings.knock)?;
        self.addresses = addresses;
        self.policy = policy(&loaded, &self.own);
        self.warn_of_new(&loaded);
        let moved = moved_inside(&self.loaded, &loaded);
        self.loaded = loaded;
        let clients = &self.loaded.clients;
        let enrolled: HashSet<ClientId> = clients.iter().map(|client| client.id).collect();
        self.replay.reload(window(&self.loaded), |id| enrolled.contains(&id));
        self.end_what_is_not_allowed(now);
        self.end_what_led_elsewhere(now, &moved);
        self.try_restore_firewall();
        self.exchange(child);
        Ok(format!(
            "reloaded: {}, {}, {}",
            count(self.loaded.settings.services.len(), "service"),
            count(self.loaded.clients.len(), "client"),
            count(self.loaded.settings.doors.len(), "door"),
        ))
    }

    /// Each enrolment is a reload: only what was not said before is news.
    fn warn_of_new(&mut self, loaded: &GatewayConfig) {
        let known = warnings_here(&self.loaded);
        for warning in warnings_here(loaded).iter().filter(|warning| !known.contains(warning)) {
            self.say(&format!("warning: {warning}"));
        }
    }

    /// Whoever has no line in the clients file any more is revoked at once, whatever else may be
    /// wrong with the new configuration: a door that cannot be read must not keep a thief's key
    /// alive.
    fn revoke_first(&mut self, now: Now) -> Result<(), Fault> {
        let path = &self.loaded.settings.gateway.clients_file;
        let text = files::read(path, FileCheck::Trusted)?;
        let clients = authorized::parse(&path.display().to_string(), &text, None)?;
        let enrolled: HashSet<ClientId> = clients.iter().map(|client| client.id).collect();
        self.policy.keep_clients(|id| enrolled.contains(&id));
        self.end_what_is_not_allowed(now);
        Ok(())
    }

    /// What is held open for as long as we run cannot be moved by a reload.
    fn can_follow(&self, loaded: &GatewayConfig) -> Result<(), Fault> {
        self.has_rights_for(loaded)?;
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

    /// From here on the new listener is the listener; the old one still hands over the knocks that
    /// it has, not for long.
    pub(super) fn exchange(&mut self, child: ListenerProcess) {
        self.heard.fold();
        let until = clock::now().boot.plus(RETIRING);
        self.retiring = self.child.replace(child).map(|mut old| {
            // A pipe that is of no use is noticed when it is read.
            let _ = old.pipe.send(ToListener::Stop);
            (old, until)
        });
        self.restart = super::Restart::default();
    }
}

/// Services that lead to another inner host than before, or to this machine instead of one, or that
/// are opened otherwise: what was granted was the old way.
fn moved_inside(old: &GatewayConfig, new: &GatewayConfig) -> Vec<ServiceName> {
    let before = |name| old.settings.services.iter().find(|service| service.name == name);
    let differs =
        |old: &Service, new: &Service| old.forward != new.forward || old.commands != new.commands;
    let moved = new
        .settings
        .services
        .iter()
        .filter(|new| before(new.name).is_some_and(|old| differs(old, new)));
    moved.map(|service| service.name).collect()
}
