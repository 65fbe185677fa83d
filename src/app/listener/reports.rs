//! What the listener tells the gatekeeper, and what it leaves out.

use crate::core::door::TcpFlags;
use crate::core::quota::{Bucket, Rate};
use crate::core::sequence::SequenceEvent;
use crate::core::types::Boot;
use crate::edge::gatekeeper_pipe::{ListenerEnd, PipeError, QUEUE, ToGatekeeper};

/// Steps at doors that are reported: as many as knockd's log gets, and more than ours gets. Forged
/// packets can cause any number, and each report is a message to be sent, read and thrown away.
const STEPS: Rate = Rate { burst: 500, per_second: 100 };

/// Limits the reports about steps at doors.
#[derive(Default)]
pub(super) struct StepReports {
    bucket: Bucket,
    suppressed: u64,
}

impl StepReports {
    /// Reports an event at a door. Steps are left out and counted if there are too many.
    pub(super) fn report(
        &mut self, now: Boot, event: SequenceEvent, pipe: &mut ListenerEnd,
    ) -> Result<(), PipeError> {
        let is_step = matches!(
            event,
            SequenceEvent::Stage { .. }
                | SequenceEvent::TimedOut { .. }
                | SequenceEvent::Refused { .. }
        );
        if is_step && !self.bucket.take(now, STEPS) {
            self.suppressed = self.suppressed.saturating_add(1);
            return Ok(());
        }
        door(pipe, event)
    }

    /// Reports how many were left out since the last time.
    pub(super) fn report_suppressed(&mut self, pipe: &mut ListenerEnd) -> Result<(), PipeError> {
        match std::mem::take(&mut self.suppressed) {
            0 => Ok(()),
            count => report(pipe, ToGatekeeper::Suppressed { count }),
        }
    }
}

fn door(pipe: &mut ListenerEnd, effect: SequenceEvent) -> Result<(), PipeError> {
    match effect {
        SequenceEvent::Seen => Ok(()),
        SequenceEvent::Completed(done) => {
            report(pipe, ToGatekeeper::Completed { door: done.door(), source: done.source() })
        }
        SequenceEvent::Stage { door, source, stage } => {
            report_for_log(pipe, ToGatekeeper::Stage { door, source, stage })
        }
        SequenceEvent::TimedOut { door, source, stage } => {
            report_for_log(pipe, ToGatekeeper::TimedOut { door, source, stage })
        }
        SequenceEvent::Refused { source } => report_for_log(pipe, ToGatekeeper::Refused { source }),
        SequenceEvent::Removed { source, success } => {
            report_for_log(pipe, ToGatekeeper::Removed { source, success })
        }
        SequenceEvent::Ignored(name, wanted) => {
            let flag = TcpFlags::NAMES.iter().position(|one| *one == name);
            let flag = flag.and_then(|index| u8::try_from(index).ok()).unwrap_or(u8::MAX);
            report_for_log(pipe, ToGatekeeper::Ignored { flag, wanted })
        }
    }
}

/// Sends an important message. A full queue means that the gatekeeper has stopped reading. The
/// message is lost then, which is the smaller problem.
pub(super) fn report(pipe: &mut ListenerEnd, message: ToGatekeeper) -> Result<(), PipeError> {
    match pipe.send(message) {
        Err(PipeError::Full) => Ok(()),
        other => other,
    }
}

/// Sends a message that only feeds the log. Forged packets can cause many of these, so they may use
/// only half of the queue.
pub(super) fn report_for_log(
    pipe: &mut ListenerEnd, message: ToGatekeeper,
) -> Result<(), PipeError> {
    if pipe.waiting() > QUEUE / 2 { Ok(()) } else { report(pipe, message) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::types::SECOND;
    use crate::edge::gatekeeper_pipe::{Pipe, pair};

    #[test]
    fn a_flood_of_steps_is_told_as_a_burst_a_rate_and_a_number_and_an_opening_always() {
        let (mut gatekeeper, theirs) = pair().unwrap();
        let mut pipe: ListenerEnd = Pipe::new(theirs);
        let mut steps = StepReports::default();
        let source = "192.0.2.7".parse().unwrap();
        let mut told = 0;
        for n in 0..2000u64 {
            let now = Boot(9 * SECOND + n * (SECOND / 1000));
            let stage = SequenceEvent::Stage { door: 0, source, stage: 1 };
            steps.report(now, stage, &mut pipe).unwrap();
            let removed = SequenceEvent::Removed { source, success: false };
            steps.report(now, removed, &mut pipe).unwrap();
            pipe.flush().unwrap();
            while let Some(message) = gatekeeper.receive().unwrap() {
                told += u64::from(matches!(message, ToGatekeeper::Stage { .. }));
            }
        }
        assert!((690..=710).contains(&told), "{told}: 500, and 100 a second for two seconds");
        for expected in [Some(ToGatekeeper::Suppressed { count: 2000 - told }), None] {
            steps.report_suppressed(&mut pipe).unwrap();
            assert_eq!(gatekeeper.receive().unwrap(), expected);
        }
    }
}
