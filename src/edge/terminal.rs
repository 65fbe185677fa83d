//! Questions to a person on the terminal: for a passphrase, without echo; for a line; for a yes.

use std::io::{BufRead, IsTerminal, Read, Write, stderr, stdin};
use std::sync::OnceLock;

use zeroize::Zeroizing;

use crate::core::columns::fitted;
use crate::core::types::{Fault, FaultKind};

/// Bytes of the longest answer: an invitation with many addresses.
#[cfg(unix)]
const LONGEST: usize = 8192;

/// True if the user can be asked, whatever standard input and output are.
pub fn exists() -> bool {
    cfg!(unix) && std::fs::File::open("/dev/tty").is_ok()
}

/// Columns of a line that is written over again and again while something is waited for.
pub const COLUMNS: usize = 79;

/// Tells the user on standard error what to do now, or what is waited for.
pub fn note(note: &Note) {
    if let Some(window) = WINDOW.get() {
        return window.note(note);
    }
    let text = match note {
        Note::Touch(key) => format!("touch your security key ({key})"),
        Note::Agent(what) => format!("waiting for the ssh-agent {what}"),
    };
    // Such a line may stand there, without an end.
    let clear = if stderr().is_terminal() { format!("\r{:COLUMNS$}\r", "") } else { String::new() };
    eprintln!("{clear}toctoc: {text}");
}

/// A window that stands in for the terminal.
pub trait Window: Send + Sync {
    /// Asks for the passphrase of the key at `place`. `is_again`: an earlier one was wrong.
    /// `None` if the person gives up.
    fn ask_passphrase(&self, place: &str, is_again: bool) -> Option<Zeroizing<String>>;

    /// Shows what is waited for.
    fn note(&self, note: &Note);
}

/// What a person has to do now, or what is waited for.
pub enum Note {
    /// The security key with this fingerprint waits for a touch.
    Touch(String),
    /// The ssh-agent takes its time to do this.
    Agent(&'static str),
}

static WINDOW: OnceLock<Box<dyn Window>> = OnceLock::new();

/// From now on, this window asks and says what the terminal would. Only the first call counts.
pub fn stand_in(window: Box<dyn Window>) {
    let _ = WINDOW.set(window);
}

/// Asks for the passphrase of the key at `place`, of which so many tries are left after this one.
/// `is_again`: an earlier one was wrong.
pub fn ask_passphrase(
    place: &str, tries_left: usize, is_again: bool,
) -> Result<Zeroizing<String>, Fault> {
    if let Some(window) = WINDOW.get() {
        let typed = window.ask_passphrase(place, is_again);
        let none = "no passphrase was given; nothing was sent";
        return typed.ok_or_else(|| Fault::new(none, "").of(FaultKind::Passphrase));
    }
    ask_secret(&match (is_again, tries_left) {
        (false, _) => format!("Passphrase of {place}: "),
        (true, 1..) => format!("Wrong passphrase. Try again, passphrase of {place}: "),
        (true, 0) => format!("Wrong passphrase. Try once more, passphrase of {place}: "),
    })
}

/// Asks `question` on the controlling terminal, whatever standard input and output are. Fails
/// without a terminal, or if the person gives up (Ctrl-C, Ctrl-D).
#[cfg(unix)]
pub fn ask_secret(question: &str) -> Result<Zeroizing<String>, Fault> {
    use std::fs::OpenOptions;

    let Ok(mut terminal) = OpenOptions::new().read(true).write(true).open("/dev/tty") else {
        let what = format!("no terminal to ask on: {}", question.trim_end_matches(": "));
        let remedy = "run this in a terminal, or `ssh-add` the key to an ssh-agent first";
        return Err(Fault::new(what, remedy));
    };
    let typed = ask(&mut terminal, question)
        .map_err(|error| Fault::new(format!("the terminal: {error}"), "try another terminal"))?;
    let Some(mut typed) = typed else {
        return Err(Fault::new("no passphrase was given", "run it again when you have it"));
    };
    String::from_utf8(std::mem::take(&mut *typed)).map(Zeroizing::new).map_err(|error| {
        drop(Zeroizing::new(error.into_bytes()));
        Fault::new("the passphrase is not UTF-8 text", "set the terminal to UTF-8")
    })
}

/// The typed line; `None` if the person gave up.
#[cfg(unix)]
fn ask(
    terminal: &mut std::fs::File, question: &str,
) -> std::io::Result<Option<Zeroizing<Vec<u8>>>> {
    let _echo_off = EchoOff::begin(terminal.try_clone()?)?;
    terminal.write_all(question.as_bytes())?;
    let mut typed = Zeroizing::new(Vec::with_capacity(LONGEST));
    let complete = loop {
        let mut byte = [0];
        if terminal.read(&mut byte)? == 0 {
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
    terminal.write_all(b"\r\n")?;
    Ok(if complete { Some(typed) } else { None })
}

/// The same at the console.
#[cfg(windows)]
pub fn ask_secret(question: &str) -> Result<Zeroizing<String>, Fault> {
    match rpassword::prompt_password(question) {
        Ok(typed) => Ok(Zeroizing::new(typed)),
        Err(error) => {
            let what =
                format!("no console to ask on ({error}): {}", question.trim_end_matches(": "));
            let remedy = "run this in a console, or `ssh-add` the key to the ssh-agent first";
            Err(Fault::new(what, remedy))
        }
    }
}

/// True if a person can be asked at standard input and error.
pub fn is_interactive() -> bool {
    stdin().is_terminal() && stderr().is_terminal()
}

/// Asks for a line at standard input and error. An empty one is the `proposal`. Fails if the person
/// gives up (Ctrl-D).
pub fn ask_line(question: &str, proposal: &str) -> Result<String, Fault> {
    let mut line = String::new();
    let proposed = if proposal.is_empty() { String::new() } else { format!(" [{proposal}]") };
    let asked = write!(stderr(), "{question}{proposed}: ").and_then(|()| stderr().flush());
    match asked.and_then(|()| stdin().lock().take(1024).read_line(&mut line)) {
        Ok(1..) => {}
        _ => {
            return Err(Fault::new("no answer was given", "run it again, or give options instead"));
        }
    }
    let answer = line.trim();
    Ok(if answer.is_empty() { proposal.to_owned() } else { answer.to_owned() })
}

/// Asks at standard input and error, if both are terminals. `y` or `yes` is yes, all else no.
pub fn confirm(question: &str) -> bool {
    if !is_interactive() {
        return false;
    }
    discard_typed_ahead();
    let mut line = String::new();
    let question = fitted(&format!("{question} [y/N] "));
    let asked = write!(stderr(), "{question}").and_then(|()| stderr().flush());
    asked.is_ok()
        && stdin().lock().take(64).read_line(&mut line).is_ok()
        && ["y", "yes"].contains(&line.trim().to_ascii_lowercase().as_str())
}

/// Input from before the question was shown is no answer to it.
#[cfg(unix)]
fn discard_typed_ahead() {
    use nix::sys::termios::{FlushArg, tcflush};
    // If that fails, the answer is still a person's.
    let _ = tcflush(stdin(), FlushArg::TCIFLUSH);
}

#[cfg(windows)]
fn discard_typed_ahead() {}

#[cfg(unix)]
fn drop_last_character(typed: &mut Vec<u8>) {
    // UTF-8: continuation bytes begin with the bits 10.
    while typed.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
}

/// Turns off echo, and signals, so that Ctrl-C cannot leave it off. Restores both when dropped.
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
    fn backspace_removes_a_whole_character() {
        let mut typed = "aü€".as_bytes().to_vec();
        drop_last_character(&mut typed);
        assert_eq!(typed, "aü".as_bytes());
        drop_last_character(&mut typed);
        drop_last_character(&mut typed);
        drop_last_character(&mut typed);
        assert!(typed.is_empty());
    }
}
