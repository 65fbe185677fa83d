//! An invitation that is printed reads back the same, from any bytes and from any line, and a
//! refusal has a remedy.

#![no_main]

use libfuzzer_sys::fuzz_target;
use toctoc::keys::invitation::{Invitation, armour, is_gateway_name};

fuzz_target!(|input: &[u8]| {
    // With a good check value: a mutation finds none.
    check(&armour(input));
    if let Ok(text) = str::from_utf8(input) {
        check(text);
    }
});

fn check(line: &str) {
    match Invitation::parse(line) {
        Ok(invitation) => {
            let packed: String = line.chars().filter(|c| !c.is_whitespace()).collect();
            let printed = invitation.print();
            assert!(printed.eq_ignore_ascii_case(&packed), "one invitation has two lines");
            assert!(is_gateway_name(&invitation.gateway_name));
        }
        Err(fault) => assert!(!fault.remedy.is_empty(), "no remedy for: {}", fault.what),
    }
}
