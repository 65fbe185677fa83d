//! A device in front of the gateway that gives everybody's packets its own address. A grant for that
//! address would be for everybody, so the gateway refuses it.

use std::net::IpAddr;

use toctoc::core::knock::Status;

use crate::harness::gate::{Gate, Knocker, section};

/// The status of a knock by `knocker` from the first host that names that host's own address.
fn knock(gate: &Gate, knocker: &Knocker, family: usize) -> Option<Status> {
    let host = &gate.net.client;
    let request = knocker.request("ssh", host.ips()[family]);
    knocker.seal(&request).send_for_status(host, host.gateway_ips()[family])
}

#[test]
fn a_router_gets_no_grant_also_if_it_becomes_one_later_unless_the_admin_lists_it() {
    let mut gate = Gate::running(|config| config);
    let neighbour = gate.net.host(1);
    let anna = gate.enrol("anna", "ssh");
    gate.net.gateway.sh("ip route add default via 10.90.0.2 dev gw0
         ip -6 route add 2001:db8::/32 via fd90::2 dev gw0
         ip -6 route add default via fd90::2 dev gw0");
    for family in [0, 1] {
        assert_eq!(knock(&gate, &anna, family), Some(Status::Address));
        anna.must_open(&neighbour, "ssh", family);
    }
    let line = "refused from 10.90.0.2: this is not the address of one other machine";
    gate.daemon().wait_for(line);
    gate.edit_config(|config| {
        let listed = "also_grant = [\"10.90.0.2/32\"]";
        section(&config, "knock", "also_grant = []", listed)
    });
    gate.reload();
    assert_eq!(knock(&gate, &anna, 0), Some(Status::Granted));
    assert_eq!(knock(&gate, &anna, 1), Some(Status::Address));
    assert!(gate.check().contains("also_grant: 10.90.0.2/32 is granted even if"));
}

#[test]
fn a_gateway_with_public_addresses_only_grants_no_private_one() {
    let gate = Gate::running(|config| config);
    let anna = gate.enrol("anna", "ssh");
    assert_eq!(knock(&gate, &anna, 0), Some(Status::Granted));
    // A device in front that delivers by the link's own addresses.
    gate.net.gateway.sh("ip addr add 198.51.100.1/24 dev gw0
         ip addr del 10.90.0.1/24 dev gw0
         ip route add 10.90.0.0/24 dev gw0");
    gate.net.client.space.sh("ip route add 198.51.100.1 dev eth0");
    let to: IpAddr = [198, 51, 100, 1].into();
    let host = &gate.net.client;
    let request = || anna.request("ssh", host.ips()[0]);
    let status = anna.seal(&request()).send_for_status(host, to);
    assert_eq!(status, Some(Status::Address));
}
