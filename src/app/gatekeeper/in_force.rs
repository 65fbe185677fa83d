//! The configuration in force, the last known state of the machine's network, and display names of
//! clients and doors.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::events::Network;
use super::rights::Rights;
use crate::app::load::GatewayConfig;
use crate::app::prepare::Prepared;
use crate::config::{KnockSettings, Service, Settings};
use crate::core::clients::ClientTable;
use crate::core::door::Door;
use crate::core::grants::Holder;
use crate::core::keyring::ClientSecrets;
use crate::core::policy::Policy;
use crate::core::replay::Window;
use crate::core::types::{ClientId, Fault, GatewayId, Now, ServiceName, Source};
use crate::edge::control::FixedSettings;
use crate::edge::firewall::GuardRules;

/// The configuration in force, and facts about the process and the machine's network.
pub(super) struct InForce {
    path: PathBuf,
    prepared: Arc<Prepared>,
    /// They change without the rest.
    clients: ClientTable,
    network: Network,
    started: Now,
    /// True if the process kept all of its rights; see `rights`.
    rights: Rights,
}

impl InForce {
    pub(super) fn new(
        path: &Path, prepared: Arc<Prepared>, network: Network, started: Now, rights: Rights,
    ) -> InForce {
        let clients = prepared.config.clients.clone();
        InForce { path: path.to_owned(), prepared, clients, network, started, rights }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn prepared(&self) -> &Arc<Prepared> {
        &self.prepared
    }

    pub(super) fn config(&self) -> &GatewayConfig {
        &self.prepared.config
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.prepared.config.settings
    }

    pub(super) fn clients(&self) -> &ClientTable {
        &self.clients
    }

    pub(super) fn set_clients(&mut self, clients: ClientTable) {
        self.clients = clients;
    }

    pub(super) fn network(&self) -> &Network {
        &self.network
    }

    pub(super) fn started(&self) -> Now {
        self.started
    }

    pub(super) fn rights(&self) -> Rights {
        self.rights
    }

    /// Addresses that a device in front of this machine may give to everybody's packets: its
    /// routers, and its public addresses if that device has them.
    pub(super) fn shared(&self) -> BTreeSet<Source> {
        let public = self.settings().gateway.addresses.iter().filter_map(|text| text.parse().ok());
        self.network.routers.iter().copied().chain(public).map(Source::new).collect()
    }

    pub(super) fn set_network(&mut self, network: Network) {
        self.network = network;
    }

    /// Puts another configuration in force and returns the old one.
    pub(super) fn replace(&mut self, prepared: Arc<Prepared>) -> Arc<Prepared> {
        std::mem::replace(&mut self.prepared, prepared)
    }

    pub(super) fn gateway(&self) -> GatewayId {
        self.config().keys.gateway
    }

    /// The secrets that a client and this gateway share.
    pub(super) fn client_secrets(&self, client: ClientId) -> ClientSecrets {
        self.config().keys.client_secrets(client)
    }

    /// The first day that clients have keys for.
    pub(super) fn first_day(&self) -> u32 {
        self.config().keys.first_period.saturating_mul(32)
    }

    /// True if `source` is one of this machine's addresses.
    pub(super) fn is_own(&self, source: Source) -> bool {
        self.own().any(|own| own == source)
    }

    pub(super) fn own(&self) -> impl Iterator<Item = Source> {
        self.network.addresses.iter().map(|own| Source::new(own.address))
    }

    /// The addresses that no grant is ever for: this machine's, and those that mean all machines of
    /// one of its networks.
    pub(super) fn never_granted(&self) -> impl Iterator<Item = Source> {
        let of_all = self.network.addresses.iter().flat_map(|own| own.of_all.iter().copied());
        self.own().chain(of_all.map(Source::new))
    }

    /// The addresses that no grant is for, as far as `also_grant` does not list them.
    pub(super) fn refused(&self) -> BTreeSet<Source> {
        self.never_granted().chain(self.shared()).collect()
    }

    pub(super) fn guard_rules(&self) -> GuardRules {
        GuardRules::of(self.settings())
    }

    pub(super) fn window(&self) -> Window {
        window(self.settings())
    }

    pub(super) fn policy(&self) -> Policy {
        let settings = self.settings();
        let clients = self.clients.clone();
        let (services, most) = (settings.services.clone(), settings.knock.max_grants);
        let mut policy = Policy::new(services, clients, most, self.never_granted())
            .with_doors(&settings.doors)
            .with_also_granted(&settings.knock.also_grant);
        policy.set_shared(self.shared());
        policy.set_private(self.network.private.clone());
        policy
    }

    /// The client's name, or its id if it is unknown.
    pub(super) fn client_name(&self, id: ClientId) -> String {
        match self.clients.get(id) {
            Some(client) => client.name.to_string(),
            None => id.to_string(),
        }
    }

    pub(super) fn service(&self, name: ServiceName) -> Option<&Service> {
        self.settings().services.iter().find(|service| service.name == name)
    }

    /// The display name of a grant's holder.
    pub(super) fn holder(&self, holder: Holder) -> String {
        match (holder, self.door_of(holder)) {
            (Holder::Client(id), _) => self.client_name(id),
            (_, Some(door)) => format!("door {}", door.name),
            (_, None) => "a classic door".to_owned(),
        }
    }

    /// The word for a grant's holder in the grant's name.
    pub(super) fn holder_word(&self, holder: Holder) -> String {
        match holder {
            Holder::Client(id) => self.client_name(id),
            Holder::Door(_) => Holder::word(self.door_of(holder).map_or("", |door| &door.name)),
        }
    }

    fn door_of(&self, holder: Holder) -> Option<&Door> {
        self.settings().doors.iter().find(|door| Holder::door(&door.name) == holder)
    }

    /// True if `new` is the configuration in force. Clients and warnings do not count.
    pub(super) fn is_same(&self, new: &Prepared) -> bool {
        self.settings() == &new.config.settings && self.suits_listener(new)
    }

    /// True if a listener of the configuration in force can stay under `new`, as far as its doors
    /// and clients allow. The window and `max_grants` are the gatekeeper's.
    pub(super) fn suits_listener(&self, new: &Prepared) -> bool {
        let (old, settings) = (self.settings(), &new.config.settings);
        let of_listener = |knock: &KnockSettings| {
            let makes_xdp = !knock.xdp.is_empty();
            (knock.port, knock.burst, knock.per_second, knock.interfaces.clone(), makes_xdp)
        };
        of_listener(&old.knock) == of_listener(&settings.knock)
            && self.config().keys.is_same(&new.config.keys)
            && self.prepared.user == new.user
    }

    /// Checks that the process can switch to `new` without a restart: some keys cannot change while
    /// it runs, and commands need all of its rights.
    /// Error: the first obstacle, with its remedy.
    pub(super) fn check_can_follow(&self, new: &FixedSettings) -> Result<(), Fault> {
        let old = FixedSettings::of(self.settings());
        let shown = self.path.display();
        if self.rights == Rights::Few && new.has_commands {
            return Err(Fault::new(
                format!(
                    "{shown}: a door, a service or a hook has commands, and this toctocd has given up the rights for them"
                ),
                "restart toctocd: it keeps its rights if one has commands when it starts",
            ));
        }
        for (key, differs) in [
            ("state_dir", old.state_dir != new.state_dir),
            ("control_socket", old.control_socket != new.control_socket),
            ("table", old.table != new.table),
        ] {
            if differs {
                return Err(Fault::new(
                    format!("{shown}: `{key}` cannot change while toctocd runs"),
                    "restart toctocd, or put the old value back",
                ));
            }
        }
        Ok(())
    }
}

pub(super) fn window(settings: &Settings) -> Window {
    Window { max_age: settings.knock.max_age, max_ahead: settings.knock.max_ahead }
}
