//! The file `joined` reads back as it was printed, no two of its clients have the same id, and a
//! refusal names the position and a remedy.

#![no_main]

use std::collections::BTreeSet;

use libfuzzer_sys::fuzz_target;
use toctoc::keys::authorized::joined::{parse, print};
use toctoc::keys::authorized::limits::any_zone;

fuzz_target!(|input: &str| match parse("joined", input, &any_zone) {
    Ok(rows) => {
        assert!(parse("printed", &print(&rows), &any_zone).as_ref() == Ok(&rows), "it reads back differently");
        let mut ids = BTreeSet::new();
        for client in rows.iter().flat_map(|row| row.clients()) {
            assert!(ids.insert(client.id), "two rows of the table of clients have one id");
        }
    }
    Err(fault) => {
        assert!(fault.what.starts_with("joined:"), "{}", fault.what);
        assert!(!fault.remedy.is_empty(), "no remedy for: {}", fault.what);
    }
});
