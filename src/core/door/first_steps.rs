//! The first steps that the kernel's filter may hold during a flood of them.
//! See `sequence::first_steps` for what becomes of them.

use std::collections::{BTreeMap, BTreeSet};

use super::{Door, Step, TcpFlags};

/// The most first steps that are held: the filter compares a packet with each.
pub const HELD: usize = 64;
/// The fewest steps of a door whose first step is held: a forger can make that step count for
/// everybody, and two that he cannot must be left.
pub const FEWEST: usize = 3;

/// A step with which doors begin, and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstStep {
    pub step: Step,
    pub flags: TcpFlags,
}

/// The first steps of `doors` that may be held, at most [`HELD`]. The others come to the listener
/// at any time: the first steps
///
/// - of doors with fewer than [`FEWEST`] steps;
/// - of doors with one-time sequences: each use changes which step is the first;
/// - that are a later step of some door, so that they could be either;
/// - that doors want with different flags;
/// - at the port of sealed knocks.
pub fn first_steps(doors: &[Door], knock_port: Option<u16>) -> Vec<FirstStep> {
    let mut first = BTreeMap::new();
    let mut never: BTreeSet<Step> = knock_port.map(Step::udp).into_iter().collect();
    for door in doors {
        match door.sequence.as_slice() {
            [step, later @ ..]
                if door.one_time_sequences.is_none() && door.sequence.len() >= FEWEST =>
            {
                never.extend(later);
                let other = first.insert(*step, door.flags);
                if other.is_some_and(|flags| flags != door.flags) {
                    never.insert(*step);
                }
            }
            steps => never.extend(steps.iter().chain(&door.later_steps)),
        }
    }
    let held = first.into_iter().filter(|(step, _)| !never.contains(step));
    held.map(|(step, flags)| FirstStep { step, flags }).take(HELD).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(ports: &[u16]) -> Door {
        let sequence = ports.iter().map(|number| Step::tcp(*number)).collect();
        Door { sequence, ..Door::default() }
    }

    fn held(doors: &[Door]) -> Vec<Step> {
        first_steps(doors, Some(9)).into_iter().map(|first| first.step).collect()
    }

    #[test]
    fn a_step_that_only_begins_sequences_of_three_steps_and_more_is_held() {
        assert_eq!(held(&[door(&[1, 2, 3]), door(&[4, 3, 2, 5])]), [1, 4].map(Step::tcp));
        assert_eq!(held(&[door(&[1, 2, 3]), door(&[1, 3, 2])]), [Step::tcp(1)]);
        assert_eq!(held(&[door(&[1, 2]), door(&[3]), door(&[])]), []);
        assert_eq!(held(&[door(&[1, 2, 3]), door(&[1, 2])]), [], "also of one that is too short");
        assert_eq!(held(&[door(&[1, 2, 3]), door(&[3, 2, 1])]), [], "also a later step");
        assert_eq!(held(&[door(&[1, 2, 1])]), [], "also its own later step");
    }

    #[test]
    fn steps_of_one_time_sequences_and_at_the_knock_port_are_not_held() {
        let one_time = Door {
            one_time_sequences: Some("/f".into()),
            later_steps: [7, 8].map(Step::tcp).into(),
            ..door(&[4, 5, 6])
        };
        assert_eq!(held(&[one_time.clone(), door(&[1, 2, 3])]), [Step::tcp(1)]);
        assert_eq!(held(&[one_time.clone(), door(&[5, 2, 3])]), []);
        assert_eq!(held(&[door(&[8, 2, 3]), one_time]), [], "of a later sequence");
        let knock = Door { sequence: [9, 2, 3].map(Step::udp).into(), ..Door::default() };
        assert_eq!(held(std::slice::from_ref(&knock)), []);
        assert_eq!(first_steps(&[knock], None).len(), 1);
    }

    #[test]
    fn doors_with_one_first_step_must_want_the_same_flags() {
        let syn = Door { flags: TcpFlags { set: 2, unset: 16 }, ..door(&[1, 2, 3]) };
        let fin = Door { flags: TcpFlags { set: 1, unset: 0 }, ..door(&[1, 4, 5]) };
        assert_eq!(held(&[syn.clone(), fin]), []);
        assert_eq!(
            first_steps(std::slice::from_ref(&syn), None),
            [FirstStep { step: Step::tcp(1), flags: syn.flags }]
        );
    }

    #[test]
    fn no_more_are_held_than_the_filter_compares() {
        let doors: Vec<Door> = (0..1000).map(|n| door(&[3 * n, 3 * n + 1, 3 * n + 2])).collect();
        assert_eq!(held(&doors).len(), HELD);
    }
}
