//! Interfaces of `xdp` where junk cannot be dropped early.

use crate::app::admin::{self, XdpStatus};
use crate::app::finding::Finding;
use crate::config::Settings;
use crate::edge::xdp;

/// A warning for each interface that the program could not be put at now. Where that of the running
/// gateway is there is nothing to warn of.
pub(super) fn remarks(settings: &Settings) -> Vec<Finding> {
    if settings.knock.xdp.is_empty() {
        return Vec::new();
    }
    let running = match admin::is_running(&settings.gateway.control_socket) {
        true => admin::ask_overview(settings).map(|overview| overview.status.xdp),
        false => Ok(Vec::new()),
    };
    let has_ours = |name: &String| {
        let is_ours = |one: &XdpStatus| one.interface == *name && one.why.is_none();
        running.as_ref().is_ok_and(|all| all.iter().any(is_ours))
    };
    let mut findings = Vec::new();
    for name in settings.knock.xdp.iter().filter(|name| !has_ours(name)) {
        if let Some(fault) = xdp::obstacle(name) {
            let text = format!("[knock] xdp: interface {name}: {}", fault.text());
            findings.push(Finding::warning(text));
        }
    }
    findings
}
