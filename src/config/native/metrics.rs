//! Section `[metrics]`: who may read what the gateway counts.

use std::net::SocketAddr;
use std::path::Path;

use super::raw::RawMetrics;
use super::{absolute, number};
use crate::config::{MetricsPlace, MetricsSettings, defaults};
use crate::core::diagnostic::{SourceText, printable};
use crate::core::types::Fault;

pub(super) fn metrics(file: SourceText<'_>, raw: RawMetrics) -> Result<MetricsSettings, Fault> {
    let default = defaults::metrics();
    let listen = match raw.listen {
        None => default.listen,
        Some(path) if Path::new(path.get_ref()).has_root() => {
            Some(MetricsPlace::Socket(absolute(file, path, "listen")?))
        }
        Some(text) => match text.get_ref().parse::<SocketAddr>() {
            // Whatever counts knocks tells others how often somebody knocks.
            Ok(address) if address.ip().is_loopback() && address.port() != 0 => {
                Some(MetricsPlace::Tcp(address))
            }
            _ => {
                let what = format!(
                    "`{}` is no loopback address with a port, and no path",
                    printable(text.get_ref())
                );
                let remedy = "write \"127.0.0.1:9180\", or the path of a socket; for another \
                              machine put a proxy with a password in front";
                return Err(file.complain(text.span().start, what, remedy));
            }
        },
    };
    let textfile = match raw.textfile {
        Some(path) => Some(absolute(file, path, "textfile")?),
        None => default.textfile,
    };
    let seconds = number(file, raw.seconds, "seconds", 1..=3600, default.seconds)?;
    Ok(MetricsSettings { listen, textfile, seconds })
}

/// The value of `listen`.
pub fn place_word(place: &MetricsPlace) -> String {
    match place {
        MetricsPlace::Tcp(address) => address.to_string(),
        MetricsPlace::Socket(path) => path.to_string_lossy().into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    #[test]
    fn metrics_are_for_this_machine_only() {
        let listen = |place: &str| {
            parse("t.toml", &format!("[metrics]\nlisten = \"{place}\"\n")).map(|s| s.metrics.listen)
        };
        for place in ["127.0.0.1:9180", "[::1]:9180", "/run/toctoc/metrics"] {
            assert_eq!(place_word(&listen(place).unwrap().unwrap()), place);
        }
        for place in
            ["0.0.0.0:9180", "[::]:9180", "192.0.2.1:9180", "127.0.0.1", "127.0.0.1:0", "x", ""]
        {
            let fault = listen(place).unwrap_err();
            assert!(fault.what.starts_with("t.toml:2:10: `"), "{fault}");
        }
    }
}
