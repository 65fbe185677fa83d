//! The program `toctocd`: starts one of its commands or one of its two processes.

use std::ffi::{CString, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::ExitCode;

use nix::sys::prctl;

use super::args;
use super::args::toctocd::{ClientCommand, GuardCommand, Init, ToctocdArgs, ToctocdCommand};
use super::gatekeeper::{RunFault, StartOptions};
use super::load::Reach;
use super::metrics::MetricsForm;
use super::output::{CommandOutput, DONE, FAILED, WRONG, finish};
use super::waiting::Waiting;
use super::{
    admin, audit, check, close, compat, complete, event_log, explain, gatekeeper, guard, listener,
    load, metrics, provision, top,
};
use crate::core::types::Fault;
use crate::edge::background::{self, BackgroundStart};
use crate::edge::control::ControlRequest;
use crate::edge::{first_process, sys, terminal};

pub fn main() -> ExitCode {
    take_name();
    // The gatekeeper starts the listener as the same program with an argument that no help
    // mentions.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == listener::ARGUMENT) {
        return listener::main();
    }
    if let Err(error) = sys::close_inherited() {
        eprintln!("toctocd: inherited files stay open: {error}; is /proc mounted?");
    }
    if std::env::args_os().nth(1).is_some_and(|argument| argument == compat::runner::ROLE) {
        return compat::runner::main();
    }
    if compat::is_called(std::env::args_os().next().as_deref(), "knockd") {
        return compat::daemon::main();
    }
    let words: Vec<_> = std::env::args_os().collect();
    if complete::answer::<ToctocdArgs>(&words, &provision::completion::known_names) {
        return ExitCode::SUCCESS;
    }
    match args::parse() {
        Ok(args) => ExitCode::from(run(&args)),
        Err(code) => code,
    }
}

/// Gives this process the program's name: started by way of /proc/self/exe it would be called
/// `exe`, and neither pgrep, pidof nor killall would find it.
fn take_name() {
    let program = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&program).file_name().unwrap_or_default();
    if let Ok(name) = CString::new(name.as_bytes()) {
        // Nothing depends on it.
        let _ = prctl::set_name(&name);
    }
}

fn run(args: &ToctocdArgs) -> u8 {
    let config = &args.config;
    let as_json = args.json;
    // Most commands change nothing before they fail.
    let mut code = WRONG;
    let waiting = waits_for(&args.command).map(|words| Waiting::begin(words.to_owned()));
    let outcome = match &args.command {
        ToctocdCommand::Run { confirm, background: Some(log), .. } => {
            code = FAILED;
            run_in_background(config, *confirm, log)
        }
        ToctocdCommand::Run { confirm, listener_socket, .. } => match first_process::run_below() {
            Ok(Some(status)) => return status,
            Ok(None) => {
                let listener_socket = listener_socket.clone();
                match gatekeeper::run(config, &StartOptions { confirm: *confirm, listener_socket })
                {
                    Ok(()) => return DONE,
                    Err(RunFault::Start(fault)) => Err(fault),
                    Err(RunFault::Serve(fault)) => {
                        code = FAILED;
                        Err(fault)
                    }
                }
            }
            Err(error) => {
                let what = format!("toctocd cannot start itself as a child: {error}");
                Err(Fault::new(what, "mount /proc and /dev in this container"))
            }
        },
        ToctocdCommand::Init(init) if is_interview(init) && !args.json => {
            provision::init_at_terminal(config, init)
        }
        ToctocdCommand::Init(init) => provision::init(config, init),
        ToctocdCommand::Check { print } => check::check(config, *print),
        ToctocdCommand::Explain(args) => {
            code = FAILED;
            explain::run(config, args)
        }
        ToctocdCommand::Audit { html } => audit::run(config, html.as_deref()),
        ToctocdCommand::Convert(args) => provision::convert(config, args),
        ToctocdCommand::Export(args) => provision::export(config, args),
        ToctocdCommand::Invite(invite) => provision::invite(config, invite),
        ToctocdCommand::Client(ClientCommand::Approve(approve)) => {
            provision::approve(config, approve)
        }
        ToctocdCommand::Client(ClientCommand::Add(add)) => provision::add(config, add),
        ToctocdCommand::Client(ClientCommand::List) => provision::list(config),
        ToctocdCommand::Client(ClientCommand::Forgive { name, profile }) => {
            provision::forgive(config, name, profile)
        }
        ToctocdCommand::Client(ClientCommand::Show { name }) => provision::show(config, name),
        ToctocdCommand::Client(ClientCommand::Disable { name }) => provision::disable(config, name),
        ToctocdCommand::Client(ClientCommand::Enable { name }) => provision::enable(config, name),
        ToctocdCommand::Client(ClientCommand::Rotate { name, key, profile }) => {
            provision::rotate(config, name, key.as_deref(), profile)
        }
        ToctocdCommand::Client(ClientCommand::Revoke { name }) => provision::revoke(config, name),
        ToctocdCommand::Guard(command) => {
            code = FAILED;
            guard::run(config, command, args.json)
        }
        ToctocdCommand::Status => {
            code = FAILED;
            ask(config, admin::status)
        }
        ToctocdCommand::Top { once } => {
            code = FAILED;
            top::top(config, *once || args.json)
        }
        ToctocdCommand::Grants { all } => {
            code = FAILED;
            ask(config, |reach| admin::grants(reach, *all || args.json))
        }
        ToctocdCommand::Close(args) => {
            code = FAILED;
            ask(config, |reach| close::close(reach, args))
        }
        ToctocdCommand::Log(args) => {
            code = FAILED;
            ask(config, |reach| event_log::log(reach, args, as_json))
        }
        ToctocdCommand::Metrics { prometheus } => {
            code = FAILED;
            let form = match prometheus {
                true => MetricsForm::Prometheus,
                false => MetricsForm::OpenMetrics,
            };
            ask(config, |reach| metrics::metrics(reach, form))
        }
        ToctocdCommand::Reload => {
            code = FAILED;
            ask(config, |reach| admin::command(&reach.settings, &ControlRequest::Reload))
        }
        ToctocdCommand::Reinitialise => {
            code = FAILED;
            ask(config, |reach| admin::command(&reach.settings, &ControlRequest::Reinitialise))
        }
    };
    drop(waiting);
    finish(outcome, code, args.json)
}

/// True if somebody at a terminal can answer what the options leave open.
fn is_interview(init: &Init) -> bool {
    (init.addresses.is_empty() || init.services.is_empty()) && terminal::is_interactive()
}

/// `toctocd run --background`. A start that fails has its own exit code and reason.
fn run_in_background(
    config: &Path, confirm: Option<u32>, log: &Path,
) -> Result<CommandOutput, Fault> {
    let mut words = vec!["run".into(), "-c".into(), OsString::from(config)];
    if let Some(seconds) = confirm {
        words.extend(["--confirm".into(), seconds.to_string().into()]);
    }
    Ok(match background::start(&words, log)? {
        BackgroundStart::Serves { pid } => CommandOutput::out(format!(
            "toctocd runs in the background (pid {pid}); log: {}\n",
            log.display()
        )),
        BackgroundStart::Ended { code, said } => CommandOutput {
            err: said,
            code: code.and_then(|code| u8::try_from(code).ok()).unwrap_or(FAILED),
            ..CommandOutput::out(String::new())
        },
    })
}

/// Asks the running gateway, also if the configuration is broken.
fn ask(
    config: &Path, question: impl FnOnce(&Reach) -> Result<CommandOutput, Fault>,
) -> Result<CommandOutput, Fault> {
    let reach = load::reach(config);
    reach.note(question(&reach))
}

/// What a command waits for if it takes long; `None` if it says so itself, or serves.
fn waits_for(command: &ToctocdCommand) -> Option<&'static str> {
    match command {
        ToctocdCommand::Run { background: Some(_), .. } => Some("waiting for the gateway to start"),
        ToctocdCommand::Run { .. } | ToctocdCommand::Init(_) | ToctocdCommand::Log(_) => None,
        ToctocdCommand::Top { .. } => None,
        ToctocdCommand::Guard(GuardCommand::On { .. }) => None,
        ToctocdCommand::Audit { .. } => Some("measuring in a copy of this host's network"),
        ToctocdCommand::Check { .. } | ToctocdCommand::Convert(_) | ToctocdCommand::Export(_) => {
            Some("reading")
        }
        _ => Some("waiting for the gateway"),
    }
}
