//! Every default of a gateway's configuration; none is defined anywhere else.

use super::{
    DisconnectPolicy, FirewallSettings, GatewaySettings, GrantKind, KnockSettings, LogForm,
    LogSettings, LogTarget, MetricsSettings, Mode, Service, Settings, SourceRule,
};
use crate::core::prefix::Spans;
use crate::core::service::ServicePorts;
use crate::core::types::ServiceName;

/// The path of the configuration unless `-c` gives another.
pub const CONFIG: &str = "/etc/toctoc/toctocd.toml";
/// The log of a gateway in the background.
pub const LOG: &str = "/var/log/toctocd.log";
/// The service that `toctocd init` hides unless it is told which.
pub const HIDDEN: &str = "ssh=22/tcp";
/// Seconds that a service's grant lasts.
pub const SECONDS: u32 = 30;
pub const MAX_SECONDS: u32 = 3600;
/// Live grants that a service may have at once.
pub const SERVICE_MAX_GRANTS: u32 = 4096;

pub fn settings() -> Settings {
    Settings {
        gateway: gateway(),
        knock: knock(),
        firewall: firewall(),
        log: log(),
        metrics: metrics(),
        hooks: Vec::new(),
        include: None,
        services: Vec::new(),
        classic: None,
        doors: Vec::new(),
        unused_options: Vec::new(),
    }
}

pub fn gateway() -> GatewaySettings {
    GatewaySettings {
        key_file: "/etc/toctoc/gateway.key".into(),
        clients_file: "/etc/toctoc/clients".into(),
        state_dir: "/var/lib/toctoc".into(),
        state_on_tmpfs: false,
        control_socket: "/run/toctoc/control".into(),
        user: None,
        addresses: Vec::new(),
    }
}

pub fn knock() -> KnockSettings {
    KnockSettings {
        port: 62201,
        interfaces: vec!["any".to_owned()],
        xdp: Vec::new(),
        silent: true,
        max_age: 30,
        max_ahead: 10,
        burst: 64,
        per_second: 4,
        max_grants: 16,
        also_grant: Vec::new(),
    }
}

pub fn firewall() -> FirewallSettings {
    FirewallSettings {
        table: "toctoc".to_owned(),
        nft: "/usr/sbin/nft".into(),
        mode: Mode::Guard,
        mark: 0x1000_0000,
        pending_mark: 0x2000_0000,
        break_glass: Vec::new(),
        printed: "/etc/nftables.d/toctoc.nft".into(),
    }
}

pub fn log() -> LogSettings {
    LogSettings { to: LogTarget::Stderr, form: LogForm::Text }
}

pub fn metrics() -> MetricsSettings {
    MetricsSettings { listen: None, textfile: None, seconds: 15 }
}

/// Section `[service.NAME]` with nothing but its ports.
pub fn service(name: ServiceName, ports: ServicePorts) -> Service {
    Service {
        name,
        ports,
        commands: None,
        mode: Mode::Guard,
        form: GrantKind::Time,
        seconds: SECONDS,
        max_seconds: MAX_SECONDS,
        max_grants: SERVICE_MAX_GRANTS,
        source: SourceRule::Bound,
        spans: Spans::HOSTS,
        challenge: false,
        cut: DisconnectPolicy::Never,
        forward: None,
    }
}
