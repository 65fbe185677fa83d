//! The clients file: whoever is revoked is gone and nobody else; what is added is read; every other
//! line stays.

#![no_main]

use libfuzzer_sys::fuzz_target;
use toctoc::keys::authorized::{add, parse, revoke};

fuzz_target!(|input: &str| match parse("clients", input, None) {
    Ok(clients) => {
        for client in clients.iter().take(4) {
            let (without, revoked) = revoke("clients", input, &client.name).expect("who was read can be revoked");
            assert_eq!(&revoked, client);
            let left = parse("clients", &without, None).expect("a file stays one");
            assert!(left.iter().all(|other| other.id != client.id) && left.len() + 1 == clients.len());
            let again = add("clients", &without, client).expect("who was revoked can be added");
            assert!(again.starts_with(&without), "no other line is touched");
            assert_eq!(parse("clients", &again, None).expect("a file stays one").last(), Some(client));
        }
    }
    Err(fault) => {
        assert!(fault.what.starts_with("clients:"), "{}", fault.what);
        assert!(!fault.remedy.is_empty(), "no remedy for: {}", fault.what);
        assert!(!fault.what.chars().any(char::is_control), "control characters in: {:?}", fault.what);
    }
});
