//! Both clocks, read together. See `core::types::Now` for what each is for.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::core::bytes::saturated_u64;
use crate::core::types::{Boot, Now, Wall};

/// Now. A wall clock before 1970 reads as 1970; the gateway will say by how much it is wrong.
pub fn now() -> Now {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { wall: Wall(nanoseconds(wall)), boot: boot() }
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
}
