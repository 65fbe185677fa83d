//! The guard as the kernel keeps it: real nftables, real packets, each test in namespaces of its own.
//! The daemon around it is left to the end-to-end tests.

mod harness;

use std::net::SocketAddr;

use harness::{LONG, Net, SHORT};

#[test]
fn without_a_guard_the_harness_reaches_every_server_on_both_families() {
    let net = Net::new();
    let _tcp = net.gateway.tcp_echo(22);
    let _udp = net.gateway.udp_echo(53);
    let stranger = net.host(1);
    for host in [&net.client, &stranger] {
        for ip in host.gateway_ips() {
            assert!(host.tcp_reaches(SocketAddr::new(ip, 22), LONG));
            assert!(host.udp_reaches(SocketAddr::new(ip, 53), LONG));
            assert!(!host.udp_reaches(SocketAddr::new(ip, 54), SHORT));
        }
    }
}
