//! The world hangs, and the gateway does not. See `app/gatekeeper/tests/hanging.rs` for each thing
//! that may hang.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::Signal;
use toctoc::core::knock::Status;

use crate::harness::LONG;
use crate::harness::gate::{Gate, SSH, ok};

#[test]
fn with_an_nft_that_never_ends_knocks_are_granted_admins_answered_and_the_end_is_obeyed() {
    let mut gate = Gate::new(|config| config);
    let (nft, hang) = (gate.path("nft"), gate.path("hang"));
    let script =
        format!("#!/bin/sh\n[ ! -e {hang} ] || exec sleep 1000\nexec /usr/sbin/nft \"$@\"\n");
    fs::write(&nft, script).unwrap();
    fs::set_permissions(&nft, fs::Permissions::from_mode(0o755)).unwrap();
    let config = fs::read_to_string(gate.config()).unwrap().replace("/usr/sbin/nft", &nft);
    fs::write(gate.config(), config).unwrap();
    let _ssh = gate.net.gateway.tcp_echo(SSH);
    gate.start();
    let anna = gate.enrol("anna", "ssh");
    fs::write(hang, "").unwrap();
    // Somebody changes our table, and the repair hangs.
    gate.net.gateway.sh("nft add set inet toctoc other '{ type ipv4_addr; }'");
    gate.daemon().wait_for("our firewall table was changed by nft");
    assert_eq!(anna.open(&gate.net.client, "ssh", 0).map(|r| r.status), Some(Status::Granted));
    let to = SocketAddr::new(gate.net.gateway_ips()[0], SSH);
    assert!(gate.net.client.tcp_reaches(to, LONG));
    assert!(ok(&gate.toctocd(&["grants"])).contains("anna"));
    assert!(ok(&gate.toctocd(&["status"])).contains("services"));
    gate.daemon().process.signal(Signal::SIGTERM);
    gate.daemon().wait_for("shutting down");
    assert!(gate.daemon().process.wait(LONG).expect("it ends").success());
}
