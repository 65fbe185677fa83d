//! A profile that is printed reads back the same, and a refusal names the position and a remedy.

#![no_main]

use libfuzzer_sys::fuzz_target;
use toctoc::keys::profile::Profile;

fuzz_target!(|input: &str| match Profile::parse("profile", input) {
    Ok(profile) => {
        let text = profile.print();
        let again = Profile::parse("printed", &text).unwrap_or_else(|fault| panic!("{fault}"));
        assert!(again.print() == text, "the printed profile reads back differently");
    }
    Err(fault) => {
        assert!(fault.what.starts_with("profile:"), "{}", fault.what);
        assert!(!fault.remedy.is_empty(), "no remedy for: {}", fault.what);
        assert!(
            !fault.what.chars().any(char::is_control),
            "control characters in: {:?}",
            fault.what
        );
    }
});
