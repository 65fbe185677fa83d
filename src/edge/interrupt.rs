//! Ctrl-C: words that say where things stand, and exit code 130.

#[cfg(unix)]
use std::io::{Write, stderr};
use std::sync::{Mutex, PoisonError};

#[cfg(unix)]
use nix::sys::signal::{SigSet, Signal};

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
    watch_for("toctoc", &[Signal::SIGINT]);
}

/// The same for a command of toctocd, also for an order to end and for a terminal that is closed.
#[cfg(all(target_os = "linux", feature = "gateway"))]
pub fn watch_for_admin() {
    watch_for("toctocd", &[Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
}

#[cfg(unix)]
fn watch_for(program: &'static str, signals: &[Signal]) {
    let waited_for = SigSet::from_iter(signals.iter().copied());
    // Threads that start later inherit this: the signals are left to the one that waits for them.
    if waited_for.thread_block().is_err() {
        return;
    }
    std::thread::spawn(move || {
        if let Ok(signal) = waited_for.wait() {
            let words = WORDS.lock().unwrap_or_else(PoisonError::into_inner);
            // Nobody is left to tell if the terminal is gone.
            let _ = writeln!(stderr(), "\n{program}: interrupted{words}");
            // As a shell reports it.
            std::process::exit(128 + signal as i32);
        }
    });
}

/// On Windows Ctrl-C ends the program by itself.
#[cfg(not(unix))]
pub fn watch() {}

/// Leaves Ctrl-C to the program that this thread starts or becomes.
#[cfg(unix)]
pub fn leave_to_child() {
    // Without that the child could not be interrupted, but all else would work.
    let _ = SigSet::from_iter([Signal::SIGINT]).thread_unblock();
}

#[cfg(not(unix))]
pub fn leave_to_child() {}
