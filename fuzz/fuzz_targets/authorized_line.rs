//! The clients file: a revocation removes that client and no other, an added client is read back,
//! and every other line stays.

#![no_main]

use libfuzzer_sys::fuzz_target;
use toctoc::core::service::Client;
use toctoc::core::types::Fault;
use toctoc::keys::authorized::limits::any_zone;
use toctoc::keys::authorized::{self, add, find, revoke};

fn parse(label: &str, text: &str) -> Result<Vec<Client>, Fault> {
    authorized::parse(label, text, &any_zone)
}

fuzz_target!(|input: &str| match parse("clients", input) {
    Ok(clients) => {
        for client in clients.iter().take(4) {
            let found = find("clients", input, &client.name).expect("it was read");
            assert_eq!(&found, client);
            let without = revoke("clients", input, &client.name)
                .expect("a client that was read can be revoked");
            let left = parse("clients", &without).expect("the file stays valid");
            assert!(
                left.iter().all(|other| other.id != client.id) && left.len() + 1 == clients.len()
            );
            let again =
                add("clients", &without, client).expect("a revoked client can be added again");
            assert!(again.starts_with(&without), "another line was changed");
            assert_eq!(
                parse("clients", &again).expect("the file stays valid").last(),
                Some(client)
            );
        }
    }
    Err(fault) => {
        assert!(fault.what.starts_with("clients:"), "{}", fault.what);
        assert!(!fault.remedy.is_empty(), "no remedy for: {}", fault.what);
        assert!(
            !fault.what.chars().any(char::is_control),
            "control characters in: {:?}",
            fault.what
        );
    }
});
