//! A test leaves no process behind, however it ends: not even a stopped process.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::harness::{LONG, Net};

#[test]
fn a_process_that_was_stopped_and_forgotten_ends_with_its_namespace() {
    let net = Net::new();
    let mut forgotten =
        std::mem::ManuallyDrop::new(net.client.space.spawn(Command::new("sleep").arg("1000")));
    let mut elsewhere = Net::new().gateway.spawn(Command::new("sleep").arg("1000"));
    assert!(elsewhere.wait(LONG).is_some(), "the process ends when its namespace is dropped");
    forgotten.signal(Signal::SIGSTOP);
    let failing = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _net = net;
        std::panic::resume_unwind(Box::new("a failing test"));
    }));
    assert!(failing.is_err());
    let status = forgotten.wait(LONG).expect("the stopped process ended with its namespace");
    assert_eq!(status.signal(), Some(Signal::SIGKILL as i32));
}
