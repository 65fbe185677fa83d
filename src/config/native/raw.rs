//! The shapes of toctocd.toml, as serde reads them: optional values with their places in the text.
//! See the files beside this one for what each value may be.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use crate::config::duration::Seconds;

/// A value with its place.
pub(super) type At<T> = Option<Spanned<T>>;
pub(super) type List = Vec<Spanned<String>>;
/// Sections `[SORT.NAME]` of one file.
pub(super) type Named<T> = BTreeMap<Spanned<String>, T>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "sections")]
pub(super) struct RawSettings {
    pub(super) include: At<String>,
    #[serde(default)]
    pub(super) gateway: RawGateway,
    #[serde(default)]
    pub(super) knock: RawKnock,
    #[serde(default)]
    pub(super) firewall: RawFirewall,
    #[serde(default)]
    pub(super) log: RawLog,
    #[serde(default)]
    pub(super) metrics: RawMetrics,
    #[serde(default)]
    pub(super) hook: Named<RawHook>,
    #[serde(default)]
    pub(super) service: Named<RawService>,
    #[serde(default)]
    pub(super) door: Named<RawDoor>,
    #[serde(default)]
    pub(super) classic: RawClassic,
}

/// A file of the directory that `include` names.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "sections [service.NAME] and [door.NAME]")]
pub(super) struct RawPart {
    #[serde(default)]
    pub(super) service: Named<RawService>,
    #[serde(default)]
    pub(super) door: Named<RawDoor>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, expecting = "section [gateway]")]
pub(super) struct RawGateway {
    pub(super) key_file: At<String>,
    pub(super) clients_file: At<String>,
    pub(super) state_dir: At<String>,
    pub(super) state_on_tmpfs: Option<bool>,
    pub(super) control_socket: At<String>,
    pub(super) user: At<String>,
    pub(super) addresses: Option<List>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, expecting = "section [knock]")]
pub(super) struct RawKnock {
    pub(super) port: At<i64>,
    pub(super) interfaces: At<List>,
    pub(super) xdp: At<List>,
    pub(super) silent: Option<bool>,
    pub(super) max_age: At<Seconds>,
    pub(super) max_ahead: At<Seconds>,
    pub(super) burst: At<i64>,
    pub(super) per_second: At<i64>,
    pub(super) max_grants: At<i64>,
    pub(super) also_grant: Option<List>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, expecting = "section [firewall]")]
pub(super) struct RawFirewall {
    pub(super) table: At<String>,
    pub(super) nft: At<String>,
    pub(super) mode: At<String>,
    pub(super) mark: At<i64>,
    pub(super) pending_mark: At<i64>,
    pub(super) break_glass: Option<List>,
    pub(super) printed: At<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, expecting = "section [log]")]
pub(super) struct RawLog {
    pub(super) to: At<String>,
    pub(super) form: At<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, expecting = "section [metrics]")]
pub(super) struct RawMetrics {
    pub(super) listen: At<String>,
    pub(super) textfile: At<String>,
    pub(super) seconds: At<Seconds>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "section [hook.NAME]")]
pub(super) struct RawHook {
    pub(super) events: At<List>,
    pub(super) run: At<List>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "section [service.NAME]")]
pub(super) struct RawService {
    pub(super) ports: At<List>,
    pub(super) start: At<List>,
    pub(super) stop: At<List>,
    pub(super) mode: At<String>,
    pub(super) form: At<String>,
    pub(super) seconds: At<Seconds>,
    pub(super) max_seconds: At<Seconds>,
    pub(super) max_grants: At<i64>,
    pub(super) source: At<toml::Value>,
    pub(super) grant_prefix: At<toml::Value>,
    pub(super) challenge: Option<bool>,
    pub(super) cut: At<String>,
    pub(super) forward: At<toml::Value>,
    pub(super) masquerade: At<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "section [door.NAME]")]
pub(super) struct RawDoor {
    pub(super) sequence: At<List>,
    pub(super) one_time_sequences: At<String>,
    pub(super) seq_timeout: At<Seconds>,
    pub(super) tcpflags: Option<List>,
    pub(super) target: At<String>,
    pub(super) service: At<String>,
    pub(super) start_command: At<String>,
    pub(super) start_command_6: At<String>,
    pub(super) cmd_timeout: At<Seconds>,
    pub(super) stop_command: At<String>,
    pub(super) stop_command_6: At<String>,
    pub(super) tolerate_duplicates: Option<bool>,
    pub(super) pause_after: At<Seconds>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, expecting = "section [classic]")]
pub(super) struct RawClassic {
    pub(super) knockd_conf: At<String>,
}
