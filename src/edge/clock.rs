//! Both clocks, read together. See `core::types::Now` for what each is for.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::tz::TimeZone;

use crate::core::bytes::saturated_u64;
#[cfg(target_os = "linux")]
use crate::core::types::SECOND;
use crate::core::types::{Boot, Now, Wall};

/// Now. A wall clock before 1970 reads as 1970; the gateway will say by how much it is wrong.
pub fn now() -> Now {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { wall: Wall(nanoseconds(wall)), boot: boot() }
}

/// The time zone of TZ, or of this machine, for a program that shows one time. One file says the
/// latter: `TimeZone::system` reads the names of all zones first, which takes longer than a knock.
pub fn zone() -> TimeZone {
    match std::env::var_os("TZ") {
        // Windows has no such file.
        None => zone_in("/etc/localtime").unwrap_or_else(TimeZone::system),
        Some(_) => TimeZone::system(),
    }
}

fn zone_in(file: &str) -> Option<TimeZone> {
    TimeZone::tzif("local", &std::fs::read(file).ok()?).ok()
}

/// The wall clock, in seconds, at the start of this machine, or of this container: of its first
/// process. It moves when the wall clock is set.
#[cfg(target_os = "linux")]
pub fn start_of_machine(now: Now) -> u64 {
    let stat = std::fs::read_to_string("/proc/1/stat").unwrap_or_default();
    let boot = now.wall.0.saturating_sub(now.boot.0) / SECOND;
    // Where /proc hides it: a machine's own first process starts with the machine.
    boot + start_of_process(&stat).unwrap_or(0)
}

/// The seconds from the boot to the start of a process, from its file `stat`.
#[cfg(target_os = "linux")]
fn start_of_process(stat: &str) -> Option<u64> {
    /// Ticks in a second, in all such files.
    const USER_HZ: u64 = 100;
    // Behind the name, which may hold anything.
    let (_, fields) = stat.rsplit_once(") ")?;
    let ticks: u64 = fields.split(' ').nth(19)?.parse().ok()?;
    Some(ticks / USER_HZ)
}

fn nanoseconds(time: Duration) -> u64 {
    saturated_u64(time.as_nanos())
}

/// CLOCK_BOOTTIME: runs through suspend and is never stepped.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn boot() -> Boot {
    use nix::time::{ClockId, clock_gettime};
    // It cannot fail on a kernel that we run on; a zero would only make every deadline seem far.
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
    Boot(nanoseconds(time))
}

/// Elsewhere only the client runs: any clock that is never stepped will do.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn boot() -> Boot {
    use std::sync::OnceLock;
    use std::time::Instant;
    static START: OnceLock<Instant> = OnceLock::new();
    Boot(nanoseconds(START.get_or_init(Instant::now).elapsed()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_clocks_run_and_the_wall_is_past_2024() {
        let first = now();
        let second = now();
        assert!(first.wall.0 > 1_704_067_200_000_000_000, "set the clock of this machine");
        assert!(second.boot >= first.boot && first.boot.0 > 0);
    }

    #[test]
    fn the_file_of_a_zone_says_its_offsets() {
        let Some(zone) = zone_in("/usr/share/zoneinfo/Europe/Berlin") else {
            eprintln!("skipped: no tzdata");
            return;
        };
        for (second, offset) in [(1_768_000_000, 3600), (1_784_000_000, 7200)] {
            let moment = jiff::Timestamp::from_second(second).unwrap();
            assert_eq!(zone.to_offset(moment).seconds(), offset);
        }
        assert!(zone_in("/nonexistent").is_none());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_start_of_a_process_is_read_behind_whatever_name_it_has() {
        let stat = "1 (a) S 9) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 361570 9 9 9\n";
        assert_eq!(start_of_process(stat), Some(3615));
        assert_eq!(start_of_process("1 (init"), None);
    }
}
