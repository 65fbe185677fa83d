//! Whole programs and real packets: client, capture, proofs, state, nftables, and connections that
//! get through or do not. Each test has its own namespaces and, mostly, its own gateway.

mod bound;
mod captured;
mod check;
mod classic;
mod clients_of_others;
mod clocks;
mod commands;
mod confinement;
mod convert;
mod crowd;
mod cut;
mod every_day;
mod fallback;
mod faults;
mod firewall;
mod firewall_adopt;
mod firewall_kept;
mod firewall_mark;
mod firewall_services;
mod firewall_ways;
mod first_hour;
mod flood;
mod forward;
mod grants;
mod hands;
mod hanging;
#[path = "../harness/mod.rs"]
mod harness;
mod in_front;
mod interfaces;
mod kept;
mod knockd;
mod leftovers;
mod listener;
mod local_user;
mod provisioning;
mod python_client;
mod receipts;
mod replay;
mod sealed;
mod shared;
mod silence;
mod ssh_keys;
mod trouble;
mod units;
