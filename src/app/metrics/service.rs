//! A thread beside the gatekeeper that writes node_exporter's textfile and answers scrapes. It asks
//! the gateway by the control socket, as an admin's command does: nothing in the loop waits for it.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use super::{Metrics, MetricsForm, ask, render};
use crate::config::{MetricsPlace, Settings};
use crate::core::event::EventKind;
use crate::core::types::Fault;
use crate::edge::files;
use crate::edge::log::LogEvent;
use crate::edge::scrapes::{ScrapeForm, Scrapes};
use crate::edge::worker;

/// Scrapes within this time get the same numbers: whoever asks often costs the gateway nothing.
const FRESH: Duration = Duration::from_secs(1);
/// The longest sleep.
const LOOK: Duration = Duration::from_secs(60);

/// A textfile is for everybody, as what can be scraped is.
const MODE: u32 = 0o644;

/// What the settings ask for, ready to run.
pub struct MetricsService {
    settings: Settings,
    scrapes: Option<Scrapes>,
    next_file: Option<Instant>,
    /// The last numbers, if there are any, and when they were asked for.
    last: Option<(Instant, Option<Metrics>)>,
    /// What was told last about the textfile.
    told: Option<String>,
}

impl MetricsService {
    /// `None` if the settings ask for nothing. An error: nothing can listen there.
    pub fn prepare(settings: &Settings) -> Result<Option<MetricsService>, Fault> {
        let metrics = &settings.metrics;
        let scrapes = match &metrics.listen {
            Some(MetricsPlace::Tcp(address)) => {
                let scrapes = TcpListener::bind(address).and_then(Scrapes::tcp);
                Some(scrapes.map_err(|error| {
                    let what = format!("{address}: nothing can listen there: {error}");
                    Fault::new(what, "give [metrics] listen a port that is free")
                })?)
            }
            Some(MetricsPlace::Socket(path)) => Some(Scrapes::socket(path)?),
            None => None,
        };
        let next_file = metrics.textfile.as_ref().map(|_| Instant::now());
        if scrapes.is_none() && next_file.is_none() {
            return Ok(None);
        }
        let settings = settings.clone();
        Ok(Some(MetricsService { settings, scrapes, next_file, last: None, told: None }))
    }

    /// Starts the thread. `tell` gets what it cannot do.
    pub fn start(mut self, tell: impl Fn(LogEvent) + Send + 'static) -> Result<(), Fault> {
        let started = worker::spawn("metrics", move || {
            loop {
                self.turn(&tell);
            }
        });
        match started {
            Ok(_) => Ok(()),
            Err(error) => {
                let what = format!("no thread for the metrics: {error}");
                Err(Fault::new(what, "raise the limit of processes"))
            }
        }
    }

    fn turn(&mut self, tell: &dyn Fn(LogEvent)) {
        let now = Instant::now();
        if self.next_file.is_some_and(|next| next <= now) {
            self.write_file(tell);
            self.next_file = Some(now + Duration::from_secs(self.settings.metrics.seconds.into()));
        }
        let patience = match self.next_file {
            Some(next) => next.saturating_duration_since(Instant::now()).min(LOOK),
            None => LOOK,
        };
        let MetricsService { settings, scrapes, last, .. } = self;
        match scrapes {
            Some(scrapes) => scrapes.turn(patience.min(FRESH), &mut |form| {
                let form = match form {
                    ScrapeForm::OpenMetrics => MetricsForm::OpenMetrics,
                    ScrapeForm::Prometheus => MetricsForm::Prometheus,
                };
                fresh(settings, last).as_ref().map(|metrics| render(metrics, form))
            }),
            None => std::thread::sleep(patience),
        }
    }

    /// Writes the file at once whole, or removes it: old numbers look like new ones.
    fn write_file(&mut self, tell: &dyn Fn(LogEvent)) {
        let Some(path) = self.settings.metrics.textfile.clone() else { return };
        let written = match fresh(&self.settings, &mut self.last) {
            Some(metrics) => {
                let page = render(metrics, MetricsForm::Prometheus);
                files::replace(&path, page.as_bytes(), MODE)
            }
            None => {
                let _ = std::fs::remove_file(&path);
                return;
            }
        };
        let told = written.err().map(|fault| fault.to_string());
        if let Some(why) = &told
            && self.told != told
        {
            let text = format!("[metrics] textfile: {why}");
            tell(LogEvent::new(EventKind::Warning, text).failed());
        }
        self.told = told;
    }
}

/// The numbers of this second.
fn fresh<'a>(
    settings: &Settings, last: &'a mut Option<(Instant, Option<Metrics>)>,
) -> &'a Option<Metrics> {
    let now = Instant::now();
    let is_old = last.as_ref().is_none_or(|(at, _)| now.duration_since(*at) >= FRESH);
    if is_old {
        *last = None;
    }
    &last.get_or_insert_with(|| (now, ask(settings).ok())).1
}
