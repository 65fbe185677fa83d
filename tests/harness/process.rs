//! What /proc says about other processes.

use std::fs;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The direct children of `pid`; none if it has ended.
pub fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// True if the command line of `pid` contains `text`. Its arguments are separated by NUL.
pub fn command_line_contains(pid: u32, text: &str) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.windows(text.len()).any(|window| window == text.as_bytes())
}

/// The name of `pid`, as killall compares it.
pub fn name(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).expect("the process runs");
    name.trim_end().to_owned()
}

/// The state letter of `pid`; none if it does not exist.
pub fn state(pid: u32) -> Option<char> {
    stat_fields(pid)?.chars().next()
}

/// The children of `pid` that have ended and for which it has not waited.
pub fn zombies(pid: u32) -> usize {
    children(pid).into_iter().filter(|child| state(*child) == Some('Z')).count()
}

/// True if `pid` has ended, whether or not its parent has waited for it.
pub fn has_ended(pid: u32) -> bool {
    matches!(state(pid), None | Some('Z'))
}

/// The fields of /proc/PID/stat that follow the name.
fn stat_fields(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    Some(fields.to_owned())
}

/// CPU time of `pid` and of its children that have ended, to 10 ms.
pub fn cpu_time(pid: u32) -> Duration {
    let fields = stat_fields(pid).unwrap_or_default();
    // utime, stime, cutime, cstime, in ticks of 10 ms.
    let ticks = fields.split(' ').skip(11).take(4).filter_map(|field| field.parse::<u64>().ok());
    Duration::from_millis(10 * ticks.sum::<u64>())
}

/// Time that `pid` was on a processor, to the nanosecond.
pub fn time_on_processor(pid: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).expect("the process runs");
    let nanos = text.split(' ').next().expect("a first field").parse().expect("a number");
    Duration::from_nanos(nanos)
}

/// One line of /proc/PID/status, without its name; none if `pid` does not exist.
pub fn status(pid: u32, name: &str) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

/// Resident KiB of `pid`; 0 if it does not exist.
pub fn resident_kib(pid: u32) -> u64 {
    let Some(line) = status(pid, "VmRSS") else { return 0 };
    line.trim_end_matches(" kB").parse().expect("a number of kB")
}

/// Sends a signal to `pid`, which must exist.
pub fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid"));
    kill(pid, signal).unwrap_or_else(|error| panic!("{signal} to {pid}: {error}"));
}
