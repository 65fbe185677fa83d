//! SIGHUP: the configuration is read anew; what it takes over and what it keeps is knockd's.
//! A configuration that is refused changes nothing here, where knockd ends.

use super::settings::{shipped, warn_of_shipped};
use super::{Knockd, capture, interface, read};
use crate::edge::classic_log::{ClassicLine, ClassicLog, Facility, Sinks};
use crate::edge::clock;
use crate::edge::gatekeeper_pipe::ToListener;

impl Knockd {
    /// Reads the configuration again and follows it. Interface and own addresses stay; so does
    /// every opening under way.
    pub(super) fn reload(&mut self) {
        let text = format!("re-reading config file: {}", self.options.config);
        self.line(ClassicLine::shown(&text).gap());
        let mut logged = Vec::new();
        let conf = read(&self.places, &self.options, true, &mut |text| logged.push(text));
        for text in logged {
            self.line(ClassicLine::quiet(&text).gap());
        }
        let conf = conf.and_then(|conf| {
            interface::filter(&self.options, &conf.doors, &self.link).map(|()| conf)
        });
        let conf = match conf {
            Ok(conf) => conf,
            Err(text) => {
                eprintln!("{text}");
                let text = format!("{text}; everything stays as it was");
                return self.line(ClassicLine::quiet(&text));
            }
        };
        // COMPAT: what the new file does not mention stays; syslog that comes late comes under
        // another facility.
        let sinks = Sinks {
            file: conf
                .log_file
                .as_ref()
                .map_or(self.sinks.file.clone(), |name| self.places.file(name)),
            syslog: self.sinks.syslog.or(conf.use_syslog.then_some(Facility::User)),
            verbose: self.sinks.verbose,
        };
        let warned = shipped(&self.conf);
        if let Some(name) = &conf.log_file {
            self.log_name.clone_from(name);
        }
        self.conf = conf;
        self.reopen_log(sinks);
        warn_of_shipped(&self.conf, &warned, &mut self.log);
        interface::trace_filter(&self.options, &self.conf.doors, &self.link, [false, true]);
        self.renew_listener();
    }

    /// COMPAT: the line that tells of the log file is written while it is closed, so only syslog
    /// has it.
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

    /// A new listener for the doors as they are now; the old one ends once the new one listens.
    /// Attempts are forgotten.
    pub(super) fn renew_listener(&mut self) {
        let started = capture(&self.conf, &self.interface, &self.link)
            .and_then(|sockets| self.listen(sockets).map_err(|fault| fault.what));
        match started {
            Ok(listener) => {
                if let Some(mut old) = self.listener.replace(listener) {
                    let _ = old.pipe.send(ToListener::Stop);
                }
                self.listen_again = None;
            }
            Err(why) => self.lose_listener(&why),
        }
    }
}
