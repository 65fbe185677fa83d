//! Ctrl-C: words that say where things stand, and exit code 130.

use std::sync::{Mutex, PoisonError};

/// The exit code of a program that Ctrl-C ended, as a shell reports it.
#[cfg(unix)]
const INTERRUPTED: i32 = 130;

static WORDS: Mutex<String> = Mutex::new(String::new());

/// Sets the words that follow `interrupted` from now on, for example `: nothing was sent`.
pub fn say(words: &str) {
    let mut held = WORDS.lock().unwrap_or_else(PoisonError::into_inner);
    words.clone_into(&mut held);
}

/// Waits for Ctrl-C in a thread, which then ends the program. Call it before any other thread
/// starts, once.
#[cfg(unix)]
pub fn watch() {
    use nix::sys::signal::{SigSet, Signal};
    let mut only = SigSet::empty();
    only.add(Signal::SIGINT);
    // Threads that start later inherit this: the signal is left to the one that waits for it.
    if only.thread_block().is_err() {
        return;
    }
    std::thread::spawn(move || {
        if only.wait().is_ok() {
            let words = WORDS.lock().unwrap_or_else(PoisonError::into_inner);
            eprintln!("\ntoctoc: interrupted{words}");
            std::process::exit(INTERRUPTED);
        }
    });
}

/// On Windows Ctrl-C ends the program by itself.
#[cfg(not(unix))]
pub fn watch() {}

/// Leaves Ctrl-C to the program that this thread starts or becomes.
#[cfg(unix)]
pub fn leave_to_child() {
    use nix::sys::signal::{SigSet, Signal};
    let mut only = SigSet::empty();
    only.add(Signal::SIGINT);
    // Without that the child could not be interrupted, but all else would work.
    let _ = only.thread_unblock();
}

#[cfg(not(unix))]
pub fn leave_to_child() {}
