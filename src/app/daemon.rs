//! The program `toctocd`: starts one of its commands or one of its two processes.

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use super::args::toctocd::{ClientCommand, ToctocdArgs, ToctocdCommand};
use super::gatekeeper::RunFault;
use super::output::{CommandOutput, DONE, FAILED, WRONG, finish};
use super::{admin, compat, gatekeeper, guard, listener, load, provision};
use crate::core::types::Fault;
use crate::edge::control::ControlRequest;
use crate::edge::{first_process, sys};

/// Runs the command line and returns the exit code.
pub fn main() -> ExitCode {
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
    ExitCode::from(run(&ToctocdArgs::parse()))
}

fn run(args: &ToctocdArgs) -> u8 {
    match &args.command {
        // An error before the gateway serves leaves everything unchanged.
        ToctocdCommand::Run => match first_process::run_below() {
            Ok(Some(status)) => status,
            Ok(None) => serve(&args.config),
            Err(error) => {
                let what = format!("toctocd cannot start itself as a child: {error}");
                finish(Err(Fault::new(what, "mount /proc in this container")), WRONG)
            }
        },
        ToctocdCommand::Init(init) => {
            finish(provision::init(&args.config, init).map(|output| output.print()), WRONG)
        }
        ToctocdCommand::Check { print } => {
            finish(provision::check(&args.config, *print).map(|output| output.print()), WRONG)
        }
        ToctocdCommand::Convert { file } => {
            finish(provision::convert(&args.config, file).map(|output| output.print()), WRONG)
        }
        ToctocdCommand::Client(ClientCommand::Add(add)) => {
            finish(provision::add(&args.config, add).map(|output| output.print()), WRONG)
        }
        ToctocdCommand::Client(ClientCommand::List { json }) => {
            finish(provision::list(&args.config, *json).map(|output| output.print()), WRONG)
        }
        ToctocdCommand::Client(ClientCommand::Forgive { name, profile }) => finish(
            provision::forgive(&args.config, name, profile).map(|output| output.print()),
            WRONG,
        ),
        ToctocdCommand::Client(ClientCommand::Revoke { name }) => {
            finish(provision::revoke(&args.config, name).map(|output| output.print()), WRONG)
        }
        ToctocdCommand::Guard(command) => guard::run(&args.config, command),
        ToctocdCommand::Status { json } => ask(args, |settings| admin::status(settings, *json)),
        ToctocdCommand::Grants { json } => ask(args, |settings| admin::grants(settings, *json)),
        ToctocdCommand::Reload => {
            ask(args, |settings| admin::command(settings, &ControlRequest::Reload))
        }
        ToctocdCommand::Reinitialise => {
            ask(args, |settings| admin::command(settings, &ControlRequest::Reinitialise))
        }
    }
}

fn serve(config: &Path) -> u8 {
    match gatekeeper::run(config) {
        Ok(()) => DONE,
        Err(RunFault::Start(fault)) => finish(Err(fault), WRONG),
        Err(RunFault::Serve(fault)) => finish(Err(fault), FAILED),
    }
}

fn ask(
    args: &ToctocdArgs,
    question: impl FnOnce(&crate::config::Settings) -> Result<CommandOutput, Fault>,
) -> u8 {
    match load::native(&args.config) {
        Ok(settings) => finish(question(&settings).map(|output| output.print()), FAILED),
        Err(fault) => finish(Err(fault), WRONG),
    }
}
