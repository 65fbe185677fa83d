//! Asking a person on the terminal: for a passphrase, without echo; for a yes.
//! What the passphrase opens is left to `keys::identity`, what the yes allows to `app`.

use zeroize::Zeroizing;

use crate::core::types::Fault;

/// The longest passphrase, bytes.
#[cfg(unix)]
const LONGEST: usize = 1024;

/// Asks `question` on the controlling terminal, whatever standard input and output are.
///
/// # Errors
/// There is no terminal, or the person gave up (Ctrl-C, Ctrl-D).
#[cfg(unix)]
pub fn ask_secret(question: &str) -> Result<Zeroizing<String>, Fault> {
    use std::fs::OpenOptions;
    use std::io::{Read, Write};

    let no_terminal = |_| {
        Fault::new(
            format!("no terminal to ask on: {}", question.trim_end_matches(": ")),
            "run this in a terminal, or use a key without a passphrase for unattended use",
        )
    };
    let mut terminal =
        OpenOptions::new().read(true).write(true).open("/dev/tty").map_err(no_terminal)?;
    let broken = |e: std::io::Error| Fault::new(format!("the terminal: {e}"), "try another one");
    let _quiet =
        EchoOff::begin(terminal.try_clone().map_err(broken)?).map_err(|e| broken(e.into()))?;
    terminal.write_all(question.as_bytes()).map_err(broken)?;
    let mut typed = Zeroizing::new(Vec::with_capacity(LONGEST));
    let ended = loop {
        let mut byte = [0];
        if terminal.read(&mut byte).map_err(broken)? == 0 {
            break false;
        }
        match byte[0] {
            b'\r' | b'\n' => break true,
            // Ctrl-C, Ctrl-D.
            3 | 4 => break false,
            8 | 127 => drop_last_character(&mut typed),
            // Ctrl-U.
            21 => typed.clear(),
            other if typed.len() < LONGEST => typed.push(other),
            _ => {}
        }
    };
    terminal.write_all(b"\r\n").map_err(broken)?;
    if !ended {
        return Err(Fault::new("no passphrase was given", "run it again when you have it"));
    }
    String::from_utf8(std::mem::take(&mut *typed)).map(Zeroizing::new).map_err(|e| {
        drop(Zeroizing::new(e.into_bytes()));
        Fault::new("the passphrase is not UTF-8 text", "set the terminal to UTF-8")
    })
}

/// Nobody has asked for this on Windows yet: ssh-agent will come first.
///
/// # Errors
/// Always.
#[cfg(not(unix))]
pub fn ask_secret(question: &str) -> Result<Zeroizing<String>, Fault> {
    let what = format!("cannot ask here: {}", question.trim_end_matches(": "));
    Err(Fault::new(
        what,
        "use a key without a passphrase on this system, protected by your account",
    ))
}

/// Asks a person who sits at standard input and error; `y` or `yes` is yes. Anything else is no,
/// and so is that nobody sits there.
pub fn confirm(question: &str) -> bool {
    use std::io::{BufRead, IsTerminal, Read, Write, stderr, stdin};

    if !(stdin().is_terminal() && stderr().is_terminal()) {
        return false;
    }
    forget_what_was_typed();
    let asked = write!(stderr(), "{question} [y/N] ").and_then(|()| stderr().flush());
    let mut line = String::new();
    let heard = asked.and_then(|()| stdin().lock().take(64).read_line(&mut line));
    heard.is_ok() && ["y", "yes"].contains(&line.trim().to_ascii_lowercase().as_str())
}

/// What was typed before the question stood there is no answer to it.
#[cfg(unix)]
fn forget_what_was_typed() {
    use nix::sys::termios::{FlushArg, tcflush};
    // If the terminal cannot do that, it cannot: the answer is still a person's.
    let _ = tcflush(std::io::stdin(), FlushArg::TCIFLUSH);
}

#[cfg(not(unix))]
fn forget_what_was_typed() {}

#[cfg(unix)]
fn drop_last_character(typed: &mut Vec<u8>) {
    // UTF-8: bytes that continue a character begin with the bits 10.
    while typed.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
}

/// A terminal that shows nothing of what is typed and sends no signals, so that Ctrl-C cannot leave
/// it like that; as it was again when dropped.
#[cfg(unix)]
struct EchoOff {
    terminal: std::fs::File,
    before: nix::sys::termios::Termios,
}

#[cfg(unix)]
impl EchoOff {
    fn begin(terminal: std::fs::File) -> nix::Result<Self> {
        use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
        let before = tcgetattr(&terminal)?;
        let mut quiet = before.clone();
        quiet.local_flags &=
            !(LocalFlags::ECHO | LocalFlags::ECHONL | LocalFlags::ICANON | LocalFlags::ISIG);
        tcsetattr(&terminal, SetArg::TCSAFLUSH, &quiet)?;
        Ok(Self { terminal, before })
    }
}

#[cfg(unix)]
impl Drop for EchoOff {
    fn drop(&mut self) {
        use nix::sys::termios::{SetArg, tcsetattr};
        let _ = tcsetattr(&self.terminal, SetArg::TCSAFLUSH, &self.before);
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn backspace_takes_a_whole_character() {
        let mut typed = "aü€".as_bytes().to_vec();
        drop_last_character(&mut typed);
        assert_eq!(typed, "aü".as_bytes());
        drop_last_character(&mut typed);
        drop_last_character(&mut typed);
        drop_last_character(&mut typed);
        assert!(typed.is_empty());
    }
}
