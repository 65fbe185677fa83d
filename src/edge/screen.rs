//! The whole terminal as a picture: its keys, and its state put back however the program ends.

use std::io::{self, IsTerminal, Stdout, stdin, stdout};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers, poll, read};
use ratatui::crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode, size,
};
use ratatui::crossterm::{cursor, execute};
use ratatui::layout::Rect;
use ratatui::{Frame, Terminal, TerminalOptions, Viewport};

/// Held while something is written, so that no half of a frame follows the end of the picture.
static WRITING: Mutex<()> = Mutex::new(());
/// True while the terminal is ours.
static IS_OPEN: AtomicBool = AtomicBool::new(false);

/// What a person at the terminal does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    Character(char),
    /// Escape, or any key without a meaning of its own.
    Other,
    /// Ctrl-C.
    Interrupt,
    /// The terminal has another size now.
    Resized,
}

/// The terminal while it shows pictures. Dropping it puts the terminal back.
pub struct Screen {
    terminal: Terminal<CrosstermBackend<Stdout>>,
}

/// True if somebody sits at a terminal that can show pictures.
pub fn exists() -> bool {
    stdin().is_terminal() && stdout().is_terminal()
}

impl Screen {
    /// Takes the terminal. Call it before other threads start: signals that end the program are
    /// taken by a thread from then on, which puts the terminal back first.
    pub fn open() -> io::Result<Screen> {
        let ends =
            SigSet::from_iter([Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT]);
        ends.thread_block()?;
        std::thread::spawn(move || {
            if let Ok(signal) = ends.wait() {
                let _ours = put_back();
                std::process::exit(128 + signal as i32);
            }
        });
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            // A panic while a frame is drawn must not wait for that frame.
            put_back_now();
            before(panic);
        }));
        enable_raw_mode()?;
        IS_OPEN.store(true, Ordering::SeqCst);
        let opened =
            execute!(stdout(), EnterAlternateScreen, cursor::Hide).and_then(|()| terminal());
        match opened {
            Ok(terminal) => Ok(Screen { terminal }),
            Err(error) => {
                put_back_now();
                Err(error)
            }
        }
    }

    pub fn draw(&mut self, picture: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        let _ours = writing();
        self.terminal.draw(picture).map(drop)
    }

    /// What the person does next, within this time.
    pub fn input(&self, patience: Duration) -> io::Result<Option<Input>> {
        if !poll(patience)? {
            return Ok(None);
        }
        Ok(match read()? {
            Event::Key(key) if key.kind != KeyEventKind::Release => Some(meaning(key)),
            Event::Resize(..) => Some(Input::Resized),
            _ => None,
        })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        drop(put_back());
    }
}

fn terminal() -> io::Result<Terminal<CrosstermBackend<Stdout>>> {
    let backend = CrosstermBackend::new(stdout());
    match size()? {
        // A serial line does not know how large its terminal is.
        (0, _) | (_, 0) => {
            let viewport = Viewport::Fixed(Rect::new(0, 0, 80, 24));
            Terminal::with_options(backend, TerminalOptions { viewport })
        }
        _ => Terminal::new(backend),
    }
}

fn meaning(key: KeyEvent) -> Input {
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Input::Interrupt,
        KeyCode::Char(character) if !key.modifiers.contains(KeyModifiers::CONTROL) => {
            Input::Character(character)
        }
        KeyCode::Up => Input::Up,
        KeyCode::Down => Input::Down,
        KeyCode::PageUp => Input::PageUp,
        KeyCode::PageDown => Input::PageDown,
        KeyCode::Home => Input::Home,
        _ => Input::Other,
    }
}

fn writing() -> MutexGuard<'static, ()> {
    WRITING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Puts the terminal back after the frame that is being written. Nothing more is written as long as
/// the guard is held.
fn put_back() -> MutexGuard<'static, ()> {
    let ours = writing();
    put_back_now();
    ours
}

fn put_back_now() {
    if IS_OPEN.swap(false, Ordering::SeqCst) {
        // The terminal may be gone; then nothing is left to put back.
        let _ = execute!(stdout(), LeaveAlternateScreen, cursor::Show);
        let _ = disable_raw_mode();
    }
}
