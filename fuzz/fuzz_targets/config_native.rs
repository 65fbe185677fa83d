//! toctocd.toml: settings that are printed read back the same, and a refusal names the position and
//! a remedy.

#![no_main]

use libfuzzer_sys::fuzz_target;
use toctoc::config::{native, print};

fuzz_target!(|input: &str| match native::parse("f.toml", input) {
    Ok(settings) => {
        for text in [print::print(&settings), print::print_commented(&settings)] {
            assert_eq!(
                native::parse("printed", &text).expect("printed settings are valid"),
                settings
            );
        }
    }
    Err(fault) => {
        let mut place =
            fault.what.strip_prefix("f.toml:").expect("the file is named").splitn(3, ':');
        for _ in 0..2 {
            let number: usize =
                place.next().and_then(|n| n.parse().ok()).expect("line and column are named");
            assert!(number > 0);
        }
        assert!(!fault.remedy.is_empty(), "no remedy for: {}", fault.what);
        assert!(
            !fault.what.chars().any(char::is_control),
            "control characters in: {:?}",
            fault.what
        );
    }
});
