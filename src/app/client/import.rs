//! `toctoc import`: a profile that the gateway's admin made becomes one of the user's.

use std::io::Read;
use std::path::Path;

use super::keys::read_from;
use super::profiles;
use super::signer::{HeldProfile, has_key};
use crate::app::args::toctoc::Import;
use crate::app::output::{CommandOutput, service_list};
use crate::app::paths::{UserPaths, is_profile_name, profile_name_of};
use crate::core::diagnostic::printable;
use crate::core::types::Fault;
use crate::edge::files::{self, FileCheck};
use crate::keys::profile::Profile;
use crate::keys::public::show_fingerprint;

/// Error: nothing was changed: no profile, a name that is taken, a file that cannot be written.
pub(super) fn import(
    paths: &UserPaths, args: &Import, standard_input: &mut dyn Read,
) -> Result<CommandOutput, Fault> {
    let piped = args.file == Path::new("-");
    let (label, text) = match piped {
        true => ("standard input".to_owned(), read_from(standard_input, "the profile")?),
        false => (args.file.display().to_string(), files::read(&args.file, FileCheck::Trusted)?),
    };
    let profile = Profile::parse(&label, &text)?;
    let name = match (&args.name, profile.addresses.first()) {
        (Some(name), _) => name.clone(),
        (None, Some(host)) => profile_name_of(host),
        (None, None) => String::new(),
    };
    if !is_profile_name(&name) {
        return Err(Fault::new(
            format!("`{}` cannot be the name of a profile", printable(&name)),
            "choose one with --name, of letters, digits, and . _ - (not first)",
        ));
    }
    let directory = paths.profiles()?;
    files::make_directory(&directory, 0o700)?;
    let path = directory.join(format!("{name}.toml"));
    if args.replace {
        files::replace(&path, text.as_bytes(), 0o600)?;
    } else if let Err(fault) = files::create(&path, text.as_bytes(), 0o600) {
        let remedy = "choose another name with --name, or replace the old one with --replace";
        return Err(Fault::new(fault.what, remedy));
    }
    let services = service_list(&profile.services);
    let example = match profile.usual_service() {
        Some(service) => format!(" {service}"),
        None => String::new(),
    };
    let mut output = CommandOutput::out(format!(
        "imported as {name}: opens {services}\n  toctoc open {name}{example}\n  \
         toctoc ssh-config {name} --install   # then: ssh {name}\n"
    ));
    if !piped {
        let file = args.file.display();
        if let Some(mode) = files::readable_by_others(&args.file) {
            output.err += &format!(
                "{file}: others could read its secrets (mode {mode:04o}): chmod 600 {file}\n"
            );
        }
        output.err += &format!("{file} contains the same secrets: remove it\n");
    }
    let held = HeldProfile { name, profile, path };
    output.value = Some(profiles::json_of(paths, &held)?);
    if !has_key(paths, &held) {
        output.err += &format!(
            "its private key ({}) is neither in the ssh-agent nor in the usual files\n  `ssh-add` \
             it, use --identity, or write identity = \"...\" into {}\n",
            show_fingerprint(&held.profile.key.fingerprint()),
            held.path.display()
        );
    }
    Ok(output)
}
