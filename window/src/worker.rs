//! The thread that knocks: the client's own code, away from the window, which never waits.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread;

use toctoc::app::client::{Answers, Joined, Listed, Session};
use toctoc::app::paths::UserPaths;
use toctoc::core::types::{Fault, ServiceName};
use toctoc::edge::terminal::{self, Note, Window};
use zeroize::Zeroizing;

/// What the window wants done.
pub enum Order {
    /// Read the profiles again.
    Refresh,
    Open(Target),
    Close(Target),
    /// Say if there is a key to join with.
    FindKey,
    /// Join by this line, with a new key if there is a passphrase for it (an empty one is none).
    Join {
        line: Zeroizing<String>,
        new_key: Option<Zeroizing<String>>,
    },
    /// Ask whether the key is approved that waits for this profile.
    AskAgain(String),
}

/// A service of a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub profile: String,
    pub service: ServiceName,
}

/// What the window gets to know.
pub enum News {
    Profiles {
        listed: Result<Vec<Listed>, Fault>,
        default: Option<String>,
    },
    Opened(Target, Result<Answers, Fault>),
    Closed(Target, Result<Answers, Fault>),
    /// True if there is a key to join with.
    Key(bool),
    Joined(Result<Joined, Fault>),
    /// The passphrase of the key at `place` is wanted; `is_again` after a wrong one.
    Question {
        place: String,
        is_again: bool,
    },
    /// The security key with this fingerprint waits for a touch.
    Touch(String),
    /// The ssh-agent takes its time.
    Agent,
}

/// The window's end of the thread.
pub struct Worker {
    orders: Sender<Order>,
    secrets: Sender<Option<Zeroizing<String>>>,
    pub news: Receiver<News>,
}

impl Worker {
    /// `wake` makes the window look at the news.
    pub fn start(paths: UserPaths, wake: impl Fn() + Clone + Send + Sync + 'static) -> Worker {
        let (orders, ordered) = channel();
        let (secrets, answers) = channel();
        let (sender, news) = channel();
        let stand_in =
            StandIn { news: sender.clone(), wake: wake.clone(), answers: Mutex::new(answers) };
        terminal::stand_in(Box::new(stand_in));
        let session = Session::new(paths);
        thread::spawn(move || {
            for order in ordered {
                // The window is closed if nobody wants the news.
                if sender.send(carry_out(&session, order)).is_err() {
                    return;
                }
                wake();
            }
        });
        Worker { orders, secrets, news }
    }

    /// Nobody is left to do it only if the thread has panicked, which ends the program.
    pub fn order(&self, order: Order) {
        let _ = self.orders.send(order);
    }

    /// The answer to [`News::Question`]; `None` if the person gives up.
    pub fn answer(&self, secret: Option<Zeroizing<String>>) {
        let _ = self.secrets.send(secret);
    }
}

fn carry_out(session: &Session, order: Order) -> News {
    match order {
        Order::Refresh => {
            News::Profiles { listed: session.profiles(), default: session.default_profile() }
        }
        Order::Open(target) => {
            let answers = session.open(&target.profile, target.service);
            News::Opened(target, answers)
        }
        Order::Close(target) => {
            let answers = session.close(&target.profile, target.service);
            News::Closed(target, answers)
        }
        // If it cannot be told, joining says why.
        Order::FindKey => News::Key(session.has_key().unwrap_or(true)),
        Order::Join { line, new_key } => News::Joined(join(session, &line, new_key.as_ref())),
        Order::AskAgain(name) => News::Joined(session.ask_again(&name)),
    }
}

fn join(
    session: &Session, line: &str, new_key: Option<&Zeroizing<String>>,
) -> Result<Joined, Fault> {
    if let Some(passphrase) = new_key
        && !session.has_key()?
    {
        session.make_key(passphrase)?;
    }
    session.join(line)
}

/// Asks in the window what the command line asks on the terminal.
struct StandIn<Wake> {
    news: Sender<News>,
    wake: Wake,
    answers: Mutex<Receiver<Option<Zeroizing<String>>>>,
}

impl<Wake: Fn() + Send + Sync> StandIn<Wake> {
    fn tell(&self, news: News) {
        let _ = self.news.send(news);
        (self.wake)();
    }
}

impl<Wake: Fn() + Send + Sync> Window for StandIn<Wake> {
    fn ask_passphrase(&self, place: &str, is_again: bool) -> Option<Zeroizing<String>> {
        let answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        self.tell(News::Question { place: place.to_owned(), is_again });
        // The window is closed if there is no answer.
        answers.recv().ok().flatten()
    }

    fn note(&self, note: &Note) {
        self.tell(match note {
            Note::Touch(key) => News::Touch(key.clone()),
            Note::Agent(_) => News::Agent,
        });
    }
}
