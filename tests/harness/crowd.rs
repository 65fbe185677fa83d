//! A gateway with a crowd of live grants.

use std::net::IpAddr;
use std::path::Path;

use toctoc::core::grants::{ActiveGrant, GrantKey, Holder};
use toctoc::core::prefix::Span;
use toctoc::core::record::Record;
use toctoc::core::service::{AddressProof, DisconnectPolicy, GrantKind, ServicePorts};
use toctoc::core::types::{ClientId, PortRange, ServiceName, Source};
use toctoc::edge::clock;
use toctoc::edge::state::State;

use super::gate::{Gate, Knocker, SSH, section};

/// Seconds that the grants of the crowd last.
const LASTING: u32 = 3000;

/// A running gateway whose journal held `number` live grants of the second client before its start.
pub fn crowded(number: u32) -> (Gate, Knocker, Knocker) {
    let mut gate = Gate::new(|config| {
        let config = section(&config, "service.ssh", "max_grants = 4096", "max_grants = 65535");
        section(&config, "service.ssh", "max_seconds = 3600", "max_seconds = 7200")
    });
    let [anna, many] = ["anna", "many"].map(|name| gate.enrol(name, "ssh"));
    // A first start, so that the state is not new.
    gate.start();
    gate.stop();
    seed(Path::new(&gate.path("etc/state")), many.profile.client, number);
    gate.start();
    (gate, anna, many)
}

fn seed(state: &Path, client: ClientId, number: u32) {
    let now = clock::now();
    let (mut state, _) = State::open(state, now.wall, true, true).unwrap();
    let port = PortRange::read(&format!("{SSH}/tcp")).unwrap();
    let grants: Vec<Record> = (0..number)
        .map(|n| GrantKey {
            holder: Holder::Client(client),
            service: ServiceName::new("ssh").unwrap(),
            source: Source::new(member(n)),
            source_port: 0,
            span: Span::HOST,
        })
        .map(|key| ActiveGrant {
            key,
            form: GrantKind::Time,
            ports: ServicePorts::Listed(vec![port]).digest(),
            opened: now,
            seconds: LASTING,
            cut: DisconnectPolicy::Never,
            proof: AddressProof::Both,
        })
        .map(Record::Granted)
        .collect();
    for part in grants.chunks(500) {
        state.commit(part).unwrap();
    }
}

/// Address number `n` of the crowd.
pub fn member(n: u32) -> IpAddr {
    IpAddr::V4((0xc612_0000 + n).into())
}
