//! A thread beside the gatekeeper that writes node_exporter's textfile and answers scrapes. It asks
//! the gateway by the control socket, as an admin's command does: nothing in the loop waits for it.

use std::net::TcpListener;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::{Metrics, MetricsForm, ask, render};
use crate::config::{MetricsPlace, MetricsSettings, Settings};
use crate::core::event::EventKind;
use crate::core::types::Fault;
use crate::edge::files;
use crate::edge::log::LogEvent;
use crate::edge::scrapes::Scrapes;
use crate::edge::worker;

/// Scrapes within this time get the same numbers: whoever asks often costs the gateway nothing.
const FRESH: Duration = Duration::from_secs(1);

/// A textfile is for everybody, as what can be scraped is.
const MODE: u32 = 0o644;

/// The gatekeeper's hold on the thread.
pub struct MetricsService {
    sender: Sender<MetricsSettings>,
    wake: Arc<EventFd>,
}

/// What the thread does.
pub struct MetricsThread {
    /// Those in force, with the place in `listen` where `scrapes` listens.
    settings: Settings,
    scrapes: Scrapes,
    next_file: Option<Instant>,
    /// The last numbers, if there are any, and when they were asked for.
    last: Option<(Instant, Option<Metrics>)>,
    /// What was told last about the textfile.
    told: Option<String>,
}

impl MetricsService {
    /// Starts the thread. `tell` gets what it cannot do.
    pub fn start(
        mut thread: MetricsThread, tell: impl Fn(LogEvent) + Send + 'static,
    ) -> Result<MetricsService, Fault> {
        let fault = |error: std::io::Error| {
            let what = format!("no thread for the metrics: {error}");
            Fault::new(what, "raise the limits of processes and of open files")
        };
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake = Arc::new(EventFd::from_flags(flags).map_err(|error| fault(error.into()))?);
        let (sender, news) = channel();
        let woken = Arc::clone(&wake);
        let work = move || {
            loop {
                thread.turn(&woken, &news, &tell);
            }
        };
        worker::spawn("metrics", work).map_err(fault)?;
        Ok(MetricsService { sender, wake })
    }

    /// These settings count from now on. Never waits.
    pub fn set(&self, settings: MetricsSettings) {
        // The thread is there as long as the process.
        let _ = self.sender.send(settings);
        let _ = self.wake.write(1);
    }
}

impl MetricsThread {
    /// An error: nothing can listen there.
    pub fn prepare(settings: &Settings) -> Result<MetricsThread, Fault> {
        let scrapes = listen(&settings.metrics)?;
        let next_file = settings.metrics.textfile.as_ref().map(|_| Instant::now());
        let settings = settings.clone();
        Ok(MetricsThread { settings, scrapes, next_file, last: None, told: None })
    }

    fn turn(&mut self, wake: &EventFd, news: &Receiver<MetricsSettings>, tell: &dyn Fn(LogEvent)) {
        if let Some(next) = self.next_file
            && next <= Instant::now()
        {
            self.write_file(tell);
            let seconds = self.settings.metrics.seconds.into();
            self.next_file = Some(Instant::now() + Duration::from_secs(seconds));
        }
        self.scrapes.wait(wake.as_fd(), self.next_file);
        // Clear before looking: settings that arrive in between wake us again.
        let _ = wake.read();
        for settings in news.try_iter().collect::<Vec<_>>() {
            self.follow(settings, tell);
        }
        let MetricsThread { settings, scrapes, last, .. } = self;
        scrapes.serve(&mut || {
            let metrics = fresh(settings, last).as_ref()?;
            Some(render(metrics, MetricsForm::OpenMetrics))
        });
    }

    /// Listens and writes as the new settings say. Where that fails it goes on as before, and says
    /// so.
    fn follow(&mut self, new: MetricsSettings, tell: &dyn Fn(LogEvent)) {
        let old = std::mem::replace(&mut self.settings.metrics, new);
        let new = &mut self.settings.metrics;
        if old.textfile != new.textfile {
            remove(old.textfile.as_deref());
        }
        if (&old.textfile, old.seconds) != (&new.textfile, new.seconds) {
            self.next_file = new.textfile.as_ref().map(|_| Instant::now());
        }
        if old.listen == new.listen {
            return;
        }
        match listen(new) {
            Ok(scrapes) => {
                self.scrapes = scrapes;
                if let Some(MetricsPlace::Socket(path)) = &old.listen {
                    remove(Some(path));
                }
            }
            Err(fault) => {
                new.listen = old.listen;
                tell(LogEvent::new(EventKind::Warning, fault.to_string()).failed());
            }
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
            None => return remove(Some(&path)),
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

/// Listens at the place that the settings name, if they name one.
fn listen(settings: &MetricsSettings) -> Result<Scrapes, Fault> {
    match &settings.listen {
        Some(MetricsPlace::Tcp(address)) => {
            TcpListener::bind(address).and_then(Scrapes::tcp).map_err(|error| {
                let what = format!("{address}: nothing can listen there: {error}");
                Fault::new(what, "give [metrics] listen a port that is free")
            })
        }
        Some(MetricsPlace::Socket(path)) => Scrapes::socket(path),
        None => Ok(Scrapes::default()),
    }
}

/// Removes what nobody keeps up to date any more.
fn remove(path: Option<&Path>) {
    if let Some(path) = path {
        let _ = std::fs::remove_file(path);
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
