//! Files and programs that replace this machine's firewall, and with it the guard or the rules that
//! the guard needs. See `scripts` for those that are no ruleset.

use std::path::Path;

use crate::app::finding::Finding;
use crate::config::{Mode, Settings};
use crate::edge::files;
use crate::edge::firewall::ruleset_snapshot::RulesetSnapshot;

/// The rulesets that nftables.service loads, on Debian and on Fedora.
const RULESETS: [&str; 2] = ["etc/nftables.conf", "etc/sysconfig/nftables.conf"];
/// Where nftables.service is if it is enabled.
const ENABLED: [&str; 4] = [
    "etc/systemd/system/sysinit.target.wants/nftables.service",
    "etc/systemd/system/multi-user.target.wants/nftables.service",
    "etc/systemd/system/network-pre.target.wants/nftables.service",
    "etc/runlevels/default/nftables",
];
/// Remarks about files below `root` that flush all tables, and do not load the guard again.
pub(super) fn remarks(settings: &Settings, root: &Path) -> Vec<Finding> {
    if settings.services.iter().all(|service| service.ports.is_empty()) {
        return Vec::new();
    }
    let mut all = Vec::new();
    let is_enabled = ENABLED.iter().any(|path| root.join(path).symlink_metadata().is_ok());
    for path in RULESETS {
        let path = root.join(path);
        let Some(line) = flush_without_guard(&path, settings) else { continue };
        let printed = settings.firewall.printed.display();
        let text = format!(
            "{}:{line}: `flush ruleset` takes the guard away, and what it guards is open until it is \
             back: run `toctocd guard print >{printed}`, and write `include \"{printed}\"` below that \
             line",
            path.display(),
        );
        all.push(match is_enabled {
            true => Finding::warning(text),
            false => Finding::note(format!("{text} (nftables.service is not enabled)")),
        });
    }
    all
}

/// The number of the line that flushes all tables, if the file does not load the printed guard
/// afterwards.
pub(super) fn flush_without_guard(path: &Path, settings: &Settings) -> Option<usize> {
    let text = files::read_untrusted(path).ok()?;
    let mut flushed = None;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split('#').next().unwrap_or_default().replace(['\'', '"'], " ");
        let words: Vec<&str> = line.split([' ', '\t', ';']).filter(|w| !w.is_empty()).collect();
        let flush = words.windows(2).position(|pair| pair == ["flush", "ruleset"]);
        if let Some(at) = flush
            && words.get(at + 2).is_none_or(|family| *family == "inet" || !is_family(family))
        {
            flushed = Some(number);
        }
        let include = words.iter().position(|word| *word == "include");
        if let Some(name) = include.and_then(|at| words.get(at + 1))
            && includes(name, &settings.firewall.printed)
            && settings.firewall.printed.exists()
        {
            flushed = None;
        }
    }
    flushed
}

fn is_family(word: &str) -> bool {
    ["ip", "ip6", "arp", "bridge", "netdev"].contains(&word)
}

/// True if an include of `name`, which may end with a pattern such as `*.nft`, loads this file.
fn includes(name: &str, file: &Path) -> bool {
    let file = file.display().to_string();
    match name.split_once('*') {
        None => name == file,
        Some((before, after)) => {
            let rest = file.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
            rest.is_some_and(|rest| !rest.contains('/'))
        }
    }
}

/// Remarks about firewalld: what its next reload changes, and what it does not.
pub(super) fn reloads(settings: &Settings, snapshot: &RulesetSnapshot) -> Vec<Finding> {
    if !snapshot.has_firewalld() {
        return Vec::new();
    }
    let mark = settings.firewall.mark;
    let needs_mark = settings.services.iter().any(|service| service.mode == Mode::Mark);
    if needs_mark && let Some(place) = snapshot.mark_rule_of_firewalld(mark) {
        return vec![Finding::warning(format!(
            "{place} lets marked packets in, but the next `firewall-cmd --reload` removes it, because \
             firewalld did not make it: set mode = \"guard\" for the services, and let their ports in \
             by `firewall-cmd --permanent --add-port`"
        ))];
    }
    vec![Finding::note(
        "firewalld is running: its reload, also by NetworkManager, replaces its own rules and leaves \
         the guard alone. What it lets in must be permanent: `firewall-cmd --permanent --add-port`",
    )]
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::config::native;

    struct Host {
        root: tempfile::TempDir,
        settings: Settings,
    }

    impl Host {
        fn new(ruleset: &str) -> Host {
            let root = tempfile::tempdir().unwrap();
            let mut settings = native::parse("t", "[service.ssh]\nports = [\"22/tcp\"]\n").unwrap();
            settings.firewall.printed = root.path().join("toctoc.nft");
            let host = Host { root, settings };
            host.write("etc/nftables.conf", ruleset);
            host.write(ENABLED[0], "");
            host
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn found(&self) -> Vec<Finding> {
            remarks(&self.settings, self.root.path())
        }
    }

    const FLUSH: &str = "#!/usr/sbin/nft -f\n# flush ruleset\n\nflush ruleset\ntable inet f {}\n";

    #[test]
    fn a_flush_without_our_include_is_found_with_file_and_line() {
        let host = Host::new(FLUSH);
        let [found] = host.found().try_into().unwrap();
        assert!(found.is_warning && found.text.contains("etc/nftables.conf:4: `flush"), "{found}");
        assert!(found.text.contains("guard print >"), "{found}");
        // Nothing loads it.
        fs::remove_file(host.root.path().join(ENABLED[0])).unwrap();
        assert!(!host.found()[0].is_warning);
        // In mode guard and mark alike; but without a port there is nothing to open.
        let text = "[service.vpn]\nstart = [\"/bin/true\"]\nstop = [\"/bin/true\"]\n";
        assert_eq!(remarks(&native::parse("t", text).unwrap(), host.root.path()), []);
    }

    #[test]
    fn a_flush_that_loads_the_guard_again_is_sound() {
        for how in ["include \"ROOT/toctoc.nft\"", "include \"ROOT/*.nft\"; # all"] {
            let host = Host::new(FLUSH);
            let root = host.root.path().display().to_string();
            let line = how.replace("ROOT", &root);
            host.write("etc/nftables.conf", &format!("{FLUSH}{line}\n"));
            assert_eq!(host.found().len(), 1, "the file does not exist");
            host.write("toctoc.nft", "");
            assert_eq!(host.found(), [], "{line}");
            host.write("etc/nftables.conf", &format!("{line}\n{FLUSH}"));
            assert_eq!(host.found().len(), 1, "before the flush");
        }
        assert_eq!(Host::new("flush ruleset ip\n").found(), [], "not our table");
    }
}
