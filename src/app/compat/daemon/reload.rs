//! SIGHUP: reads the configuration again. Which parts of it take effect is knockd's choice. A wrong
//! configuration changes nothing; knockd would exit.

use super::Knockd;
use super::interface;
use super::settings::{self, warn, warnings};
use crate::edge::classic_log::{ClassicLine, ClassicLog, Facility, Sinks};
use crate::edge::gatekeeper_pipe::ToListener;
use crate::edge::{clock, link};

impl Knockd {
    /// Reads the configuration again and applies it. The interface, its addresses at the start, and
    /// current openings stay.
    pub(super) fn reload(&mut self) {
        let text = format!("re-reading config file: {}", self.options.config);
        self.line(ClassicLine::shown(&text).gap());
        // Its name may be that of another device by now, which has other addresses.
        if let Ok(link) = link::inspect(&self.interface)
            && link.index != self.link.index
        {
            self.link = link;
        }
        let mut logged = Vec::new();
        let conf = settings::read(&self.paths, &self.options, true, &mut |text| logged.push(text));
        for text in logged {
            self.line(ClassicLine::quiet(&text).gap());
        }
        let checked = match conf {
            Ok(conf) => interface::filter(&self.options, &conf.doors, &self.link).map(|()| conf),
            Err(text) => Err(text),
        };
        let conf = match checked {
            Ok(conf) => conf,
            Err(text) => {
                eprintln!("{text}");
                let text = format!("{text}; everything stays as it was");
                return self.line(ClassicLine::quiet(&text));
            }
        };
        // COMPAT: what the new file does not mention stays, and syslog that is added later has
        // another facility.
        let mut sinks = self.sinks.clone();
        if let Some(name) = &conf.log_file {
            sinks.file = self.paths.file(name);
            self.log_name.clone_from(name);
        }
        if sinks.syslog.is_none() && conf.use_syslog {
            sinks.syslog = Some(Facility::User);
        }
        let warned = warnings(&self.options, &self.conf);
        self.conf = conf;
        self.reopen_log(sinks);
        warn(&self.options, &self.conf, &warned, &mut self.log);
        let doors = &self.conf.doors;
        let addresses = interface::addresses(&self.options, &self.link);
        interface::trace_filter(&self.options, doors, addresses);
        self.renew_listener();
    }

    /// COMPAT: the line about the log file is written while it is closed, so only syslog has it.
    fn reopen_log(&mut self, sinks: Sinks) {
        let name = self.log_name.clone();
        self.log.show(&format!("closing log file: {name}"));
        let (mut log, _) = ClassicLog::open(&Sinks { file: None, ..sinks.clone() });
        log.line(
            clock::now().wall,
            ClassicLine::shown(&format!("re-opening log file: {name}")).gap(),
        );
        let (log, failed) = ClassicLog::open(&sinks);
        match (failed, &sinks.file) {
            (Some(reason), _) => eprintln!("warning: cannot open logfile: {reason}"),
            (None, None) => eprintln!("warning: cannot open logfile: No such file or directory"),
            (None, Some(_)) => {}
        }
        self.log = log;
        self.commands.log_to(&sinks);
        self.sinks = sinks;
    }

    /// Starts a new listener for the current doors. The old one ends once the new one listens;
    /// attempts in progress are forgotten.
    pub(super) fn renew_listener(&mut self) {
        match self.listen() {
            Ok(listener) => {
                if let Some(mut old) = self.listener.replace(listener) {
                    let _ = old.pipe.send(ToListener::Stop);
                }
                self.listen_again = None;
            }
            Err(fault) => self.on_listener_lost(&fault.what),
        }
    }
}
