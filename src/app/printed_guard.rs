//! The printed guard: the file that nftables.conf includes after its flush.

use crate::config::Settings;
use crate::core::types::Fault;
use crate::edge::files::{self, FileCheck};
use crate::edge::firewall::{GuardRules, print_ruleset};

/// The text of `toctocd guard print`.
pub(super) fn text(settings: &Settings) -> Result<String, Fault> {
    Ok(format!(
        "# The guard of toctoc without its grants, by `toctocd guard print`. In nftables.conf, after `flush ruleset`:\n\
         #   include \"{}\"\n\
         # Print it again whenever a service, break_glass, knock.silent or [firewall] changes.\n{}",
        settings.firewall.printed.display(),
        print_ruleset(&GuardRules::of(settings))?
    ))
}

/// The problem with the printed guard, if the file exists: with other rules than today's, the next
/// `flush ruleset` would open a guarded port or close an unguarded one.
pub(super) fn problem(settings: &Settings) -> Option<String> {
    let path = &settings.firewall.printed;
    if !path.exists() {
        return None;
    }
    let printed = match files::read_own(path, FileCheck::Trusted) {
        Ok(printed) => printed,
        Err(Fault { what, remedy, .. }) => {
            return Some(format!("the printed guard cannot be trusted: {what}; {remedy}"));
        }
    };
    let expected = print_ruleset(&GuardRules::of(settings)).ok()?;
    if rules(&printed).eq(rules(&expected)) {
        return None;
    }
    let path = path.display();
    Some(format!("{path} is not the guard as configured now: run `toctocd guard print >{path}`"))
}

/// The lines without comments, which may be of another version or the admin's own.
fn rules(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::native;
    use crate::core::types::Port;

    fn settings(folder: &tempfile::TempDir) -> Settings {
        let mut settings = native::parse("t", "[service.ssh]\nports = [\"22/tcp\"]\n").unwrap();
        settings.firewall.printed = folder.path().join("guard.nft");
        settings
    }

    #[test]
    fn a_printed_guard_is_fine_until_the_services_change() {
        let folder = tempfile::tempdir().unwrap();
        let mut settings = settings(&folder);
        assert_eq!(problem(&settings), None, "nothing is printed yet");
        let text = text(&settings).unwrap();
        assert!(text.contains(&format!("include \"{}\"", settings.firewall.printed.display())));
        fs::write(&settings.firewall.printed, text.replace("# Print it again", "# mine")).unwrap();
        assert_eq!(problem(&settings), None, "comments do not matter");
        settings.services[0].ports = [Port::read("2222/tcp").unwrap()][..].into();
        let problem = problem(&settings).unwrap();
        assert!(problem.contains("is not the guard as configured now"), "{problem}");
        assert!(problem.contains("`toctocd guard print >"), "{problem}");
    }

    #[test]
    fn a_printed_guard_that_others_may_write_is_not_trusted() {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(&folder);
        let path = &settings.firewall.printed;
        fs::write(path, text(&settings).unwrap()).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o666)).unwrap();
        let problem = problem(&settings).unwrap();
        assert!(problem.starts_with("the printed guard cannot be trusted: "), "{problem}");
        assert!(problem.contains("chmod go-w"), "{problem}");
    }
}
