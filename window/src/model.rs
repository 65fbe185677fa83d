//! The state of the window: what is chosen, what is under way, what came of it. Draws nothing,
//! waits for nothing: the time is passed in.

use std::time::{Duration, Instant};

use toctoc::app::client::{
    Answers, JoinRefusal, JoinSilence, Joined, Listed, ListedState, Outcome, Overall, Ready,
};
use toctoc::core::types::{Fault, ServiceName};
use zeroize::Zeroizing;

use crate::connect::{self, Kind, Place};
use crate::worker::{News, Order, Target};

/// Seconds before the end of an enrolment from which on the window mentions it.
const SOON: i64 = 14 * 86_400;

#[derive(Default)]
pub struct Model {
    profiles: Vec<Listed>,
    /// The place of the chosen one in `profiles`.
    chosen: usize,
    service: Option<ServiceName>,
    /// True once the profiles have been read.
    is_loaded: bool,
    pub busy: Option<Busy>,
    pub shown: Shown,
    /// The form for an invitation, if it is open.
    pub form: Option<Form>,
    pub question: Option<Question>,
    /// The person must touch a key or look at the agent.
    pub note: Option<Note>,
    /// What the worker is to do.
    orders: Vec<Order>,
}

/// What is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Busy {
    /// At this gateway.
    Knocking(String),
    Closing,
    Joining,
}

/// What came of the last order.
#[derive(Default)]
pub enum Shown {
    #[default]
    Nothing,
    Opened(Opened),
    Closed(Opened),
    /// The profile of this name is new.
    Joined(String),
    /// An admin types this to approve the key.
    Pending(String),
    JoinRefused(JoinRefusal, String),
    NoAnswerToJoin(JoinSilence, String),
    /// There is no profile, whatever the gateway did.
    JoinFault(Fault),
    /// Nothing was sent.
    Fault(Fault),
}

/// The answers to a knock.
pub struct Opened {
    pub target: Target,
    pub answers: Answers,
    /// The end of the grant that ends first; `None` if there is none.
    pub end: Option<Instant>,
    /// How long it lasts in all.
    pub total: Duration,
    /// Where to connect to, if that is known.
    pub place: Option<Place>,
}

/// How a result looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Good,
    Bad,
    Unknown,
    Neutral,
}

/// The form for an invitation.
#[derive(Default)]
pub struct Form {
    pub line: Zeroizing<String>,
    /// `None` until it is known.
    pub has_key: Option<bool>,
    pub passphrase: Zeroizing<String>,
    pub repeated: Zeroizing<String>,
}

/// The passphrase that is asked for.
pub struct Question {
    pub place: String,
    pub is_again: bool,
    pub typed: Zeroizing<String>,
}

pub enum Note {
    Touch(String),
    Agent,
}

impl Model {
    pub fn new() -> Model {
        Model { orders: vec![Order::Refresh], ..Model::default() }
    }

    /// Takes what the worker is to do.
    pub fn take_orders(&mut self) -> Vec<Order> {
        std::mem::take(&mut self.orders)
    }

    /// True if there is no profile at all.
    pub fn is_empty(&self) -> bool {
        self.is_loaded && self.profiles.is_empty()
    }

    pub fn profiles(&self) -> &[Listed] {
        &self.profiles
    }

    pub fn chosen(&self) -> Option<&Listed> {
        self.profiles.get(self.chosen)
    }

    pub fn ready(&self) -> Option<&Ready> {
        match &self.chosen()?.state {
            ListedState::Ready(ready) => Some(ready),
            ListedState::Pending | ListedState::Broken(_) => None,
        }
    }

    pub fn service(&self) -> Option<ServiceName> {
        self.service
    }

    /// Seconds until the enrolment ends, if that is soon.
    pub fn ends_soon(&self) -> Option<u64> {
        let left = self.ready()?.seconds_left?;
        if left <= SOON { u64::try_from(left).ok() } else { None }
    }

    pub fn choose(&mut self, index: usize) {
        if index != self.chosen {
            self.chosen = index;
            self.choose_usual_service();
            self.shown = Shown::Nothing;
        }
    }

    pub fn choose_service(&mut self, service: ServiceName) {
        if self.service != Some(service) {
            self.service = Some(service);
            self.shown = Shown::Nothing;
        }
    }

    fn choose_usual_service(&mut self) {
        let service = match self.ready() {
            Some(ready) => ready.usual_service.or(ready.services.first().copied()),
            None => None,
        };
        self.service = service;
    }

    fn target(&self) -> Option<Target> {
        let profile = self.chosen()?.name.clone();
        self.ready()?;
        Some(Target { profile, service: self.service? })
    }

    /// True if a knock can be sent now.
    pub fn can_knock(&self) -> bool {
        self.busy.is_none() && self.target().is_some()
    }

    pub fn knock(&mut self) {
        let Some(target) = self.target() else { return };
        if self.busy.is_none() {
            let gateway = self.ready().map(|ready| ready.addresses.join(", "));
            self.busy = Some(Busy::Knocking(gateway.unwrap_or_default()));
            self.shown = Shown::Nothing;
            self.orders.push(Order::Open(target));
        }
    }

    /// Ends the grant that is shown.
    pub fn close(&mut self) {
        if let (None, Shown::Opened(opened)) = (&self.busy, &self.shown) {
            let target = opened.target.clone();
            self.busy = Some(Busy::Closing);
            self.orders.push(Order::Close(target));
        }
    }

    pub fn open_form(&mut self) {
        self.form = Some(Form::default());
        self.shown = Shown::Nothing;
        self.orders.push(Order::FindKey);
    }

    pub fn join(&mut self) {
        let Some(form) = &self.form else { return };
        if self.busy.is_some() || !form.is_complete() {
            return;
        }
        let line = Zeroizing::new(form.line.trim().to_owned());
        let new_key = match form.has_key {
            Some(false) => Some(form.passphrase.clone()),
            _ => None,
        };
        self.busy = Some(Busy::Joining);
        self.shown = Shown::Nothing;
        self.orders.push(Order::Join { line, new_key });
    }

    /// Asks whether the key is approved that waits for the chosen profile.
    pub fn ask_again(&mut self) {
        if let (None, Some(Listed { name, state: ListedState::Pending })) =
            (&self.busy, self.chosen())
        {
            let order = Order::AskAgain(name.clone());
            self.busy = Some(Busy::Joining);
            self.orders.push(order);
        }
    }

    /// Takes what the worker says.
    pub fn take(&mut self, now: Instant, news: News) {
        match news {
            News::Question { place, is_again } => {
                self.question = Some(Question { place, is_again, typed: Zeroizing::default() });
                return;
            }
            News::Touch(key) => {
                self.note = Some(Note::Touch(key));
                return;
            }
            News::Agent => {
                self.note = Some(Note::Agent);
                return;
            }
            News::Key(has_key) => {
                if let Some(form) = &mut self.form {
                    form.has_key = Some(has_key);
                }
                return;
            }
            News::Profiles { listed: Ok(listed), default } => {
                self.take_profiles(listed, default);
                return;
            }
            News::Profiles { listed: Err(fault), .. } => {
                self.is_loaded = true;
                self.shown = Shown::Fault(fault);
                return;
            }
            News::Opened(target, Ok(answers)) => {
                self.shown = Shown::Opened(self.opened(now, target, answers));
            }
            News::Closed(target, Ok(answers)) => {
                self.shown = Shown::Closed(self.opened(now, target, answers));
            }
            News::Joined(Ok(joined)) => self.take_joined(joined),
            News::Opened(_, Err(fault)) | News::Closed(_, Err(fault)) => {
                self.shown = Shown::Fault(fault);
            }
            News::Joined(Err(fault)) => self.shown = Shown::JoinFault(fault),
        }
        self.busy = None;
        self.note = None;
        self.question = None;
    }

    fn take_profiles(&mut self, listed: Vec<Listed>, default: Option<String>) {
        let before = self.chosen().map(|listed| listed.name.clone());
        let new = match &self.shown {
            Shown::Joined(name) => Some(name.clone()),
            _ => None,
        };
        self.profiles = listed;
        let wanted = new.or(before.clone()).or(default);
        let index = self.profiles.iter().position(|listed| Some(&listed.name) == wanted.as_ref());
        self.chosen = index.unwrap_or(0);
        let is_same = before.is_some() && before == self.chosen().map(|listed| listed.name.clone());
        if !is_same || self.service.is_none() {
            self.choose_usual_service();
        }
        let is_first = !self.is_loaded;
        self.is_loaded = true;
        if is_first && self.is_empty() {
            self.open_form();
        }
    }

    fn take_joined(&mut self, joined: Joined) {
        self.shown = match joined {
            Joined::Profile(name) => Shown::Joined(name),
            Joined::Pending { approval, .. } => Shown::Pending(approval),
            Joined::Refused(refusal, text) => Shown::JoinRefused(refusal, text),
            Joined::NoAnswer(silence, text) => Shown::NoAnswerToJoin(silence, text),
        };
        if let Shown::Joined(_) | Shown::Pending(_) = self.shown {
            self.form = None;
        }
        self.orders.push(Order::Refresh);
    }

    fn opened(&self, now: Instant, target: Target, answers: Answers) -> Opened {
        let mut seconds = None;
        let mut place = None;
        let names = match self.profiles.iter().find(|listed| listed.name == target.profile) {
            Some(Listed { state: ListedState::Ready(ready), .. }) => &ready.addresses[..],
            _ => &[],
        };
        for answer in &answers.each {
            let Outcome::Granted(grant) = &answer.outcome else { continue };
            seconds = Some(seconds.map_or(grant.seconds, |least: u32| least.min(grant.seconds)));
            if let (None, Some(port)) = (&place, grant.tcp_port) {
                let ip = answer.gateway.ip().to_string();
                let alias = names.first().unwrap_or(&ip).clone();
                // The name may lead to any of its addresses, so each must be open.
                let host = match names {
                    [name] if all_granted(&answers) => name.clone(),
                    _ => ip,
                };
                place = Some(Place { host, alias, port, user: String::new() });
            }
        }
        let total = Duration::from_secs(seconds.unwrap_or_default().into());
        Opened { target, answers, end: seconds.map(|_| now + total), total, place }
    }
}

fn all_granted(answers: &Answers) -> bool {
    answers.each.iter().all(|answer| matches!(answer.outcome, Outcome::Granted(_)))
}

impl Form {
    /// True if the two passphrases are the same.
    pub fn is_same(&self) -> bool {
        *self.passphrase == *self.repeated
    }

    pub fn is_complete(&self) -> bool {
        !self.line.trim().is_empty() && self.has_key.is_some() && self.is_same()
    }
}

impl Opened {
    /// The time that is left of the grant; `None` if there was none, or it is over.
    pub fn left(&self, now: Instant) -> Option<Duration> {
        let left = self.end?.saturating_duration_since(now);
        if left.is_zero() { None } else { Some(left) }
    }

    /// The program for the service, and where it connects to.
    pub fn program(&self) -> Option<(Kind, &Place)> {
        let place = self.place.as_ref()?;
        Some((connect::kind(self.target.service.as_str(), place.port)?, place))
    }

    pub fn tone(&self, now: Instant) -> Tone {
        match self.answers.overall {
            Overall::Done | Overall::Partly if self.end.is_some() => match self.left(now) {
                Some(_) => Tone::Good,
                None => Tone::Neutral,
            },
            Overall::Done => Tone::Neutral,
            Overall::Partly | Overall::Refused | Overall::NotSent => Tone::Bad,
            Overall::NoAnswer => Tone::Unknown,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
