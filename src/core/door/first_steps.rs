//! The first steps that the kernel's filter may hold during a flood of them.
//! See `sequence::first_steps` for what becomes of them.

use std::collections::{BTreeMap, BTreeSet};

use super::{Door, Step, TcpFlags};

/// The most first steps that are held, and the most steps before them: the filter compares a packet
/// with each.
pub const HELD: usize = 64;
/// The fewest steps of a door whose first step is held: a forger can make that step count for
/// everybody, and two that he cannot must be left.
pub const FEWEST: usize = 3;

/// A step with which doors begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FirstStep {
    pub step: Step,
    pub flags: TcpFlags,
    /// Which of [`HeldSteps::before`] stand before it: bit n for number n.
    pub after: u64,
}

/// What the filter holds, and from whom it does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeldSteps {
    /// At most [`HELD`].
    pub first: Vec<FirstStep>,
    /// The steps that stand before one of those in some sequence. From a source that made one last,
    /// the filter expects that first step, which is a later step for it, and lets it pass. At most
    /// [`HELD`].
    pub before: Vec<Step>,
    /// For so many seconds: no sequence takes longer.
    pub seconds: u32,
}

/// What the filter may hold for `doors`. The other first steps come to the listener at any time:
/// those
///
/// - of doors with fewer than [`FEWEST`] steps;
/// - of doors with one-time sequences, and all later steps of these: each use changes their order;
/// - that doors want with different flags;
/// - that follow themselves in a sequence;
/// - at the port of sealed knocks;
/// - that are too many, or have too many steps before them.
pub fn held_steps(doors: &[Door], knock_port: Option<u16>) -> HeldSteps {
    let mut first = BTreeMap::new();
    let mut before: BTreeMap<Step, BTreeSet<Step>> = BTreeMap::new();
    let mut never: BTreeSet<Step> = knock_port.map(Step::udp).into_iter().collect();
    for door in doors {
        let steps = door.sequence.as_slice();
        if door.one_time_sequences.is_some() {
            never.extend(steps.iter().chain(&door.later_steps));
            continue;
        }
        for pair in steps.windows(2) {
            before.entry(pair[1]).or_default().insert(pair[0]);
            if pair[0] == pair[1] {
                never.insert(pair[0]);
            }
        }
        let Some(step) = steps.first() else { continue };
        let other = first.insert(*step, door.flags);
        if steps.len() < FEWEST || other.is_some_and(|flags| flags != door.flags) {
            never.insert(*step);
        }
    }
    let mut held = HeldSteps::default();
    for (step, flags) in first {
        if !never.contains(&step) && held.first.len() < HELD {
            let before = before.remove(&step).unwrap_or_default();
            held.first.extend(first_step(step, flags, &before, &mut held.before));
        }
    }
    let longest = doors.iter().map(|door| door.seq_timeout).max().unwrap_or(0);
    held.seconds = u32::try_from(longest.max(0)).unwrap_or(u32::MAX).saturating_add(1);
    held
}

/// `None` if that makes too many steps before first ones.
fn first_step(
    step: Step, flags: TcpFlags, before: &BTreeSet<Step>, all: &mut Vec<Step>,
) -> Option<FirstStep> {
    let new = before.iter().filter(|one| !all.contains(one)).count();
    if all.len() + new > HELD {
        return None;
    }
    let mut after = 0;
    for one in before {
        let number = all.iter().position(|other| other == one).unwrap_or_else(|| {
            all.push(*one);
            all.len() - 1
        });
        after |= 1 << number;
    }
    Some(FirstStep { step, flags, after })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(ports: &[u16]) -> Door {
        let sequence = ports.iter().map(|number| Step::tcp(*number)).collect();
        Door { sequence, ..Door::default() }
    }

    /// The steps that are held, and those before them.
    fn held(doors: &[Door]) -> [Vec<Step>; 2] {
        let HeldSteps { first, before, .. } = held_steps(doors, Some(9));
        [first.into_iter().map(|first| first.step).collect(), before]
    }

    fn tcp(first: &[u16], before: &[u16]) -> [Vec<Step>; 2] {
        [first, before].map(|ports| ports.iter().copied().map(Step::tcp).collect())
    }

    #[test]
    fn first_steps_of_sequences_of_three_steps_and_more_are_held() {
        assert_eq!(held(&[door(&[1, 2, 3]), door(&[4, 3, 2, 5])]), tcp(&[1, 4], &[]));
        assert_eq!(held(&[door(&[1, 2, 3]), door(&[1, 3, 2])]), tcp(&[1], &[]));
        assert_eq!(held(&[door(&[1, 2]), door(&[3]), door(&[])]), tcp(&[], &[]));
        assert_eq!(held(&[door(&[1, 2, 3]), door(&[1, 2])]), tcp(&[], &[]), "one is too short");
        assert_eq!(held(&[door(&[1, 2]), door(&[1, 2, 3])]), tcp(&[], &[]), "one is too short");
    }

    #[test]
    fn a_first_step_that_is_a_later_one_too_has_steps_before_it() {
        assert_eq!(held(&[door(&[7, 8, 9]), door(&[9, 8, 7])]), tcp(&[7, 9], &[8]));
        assert_eq!(held(&[door(&[1, 2, 1])]), tcp(&[1], &[2]), "its own later step");
        assert_eq!(held(&[door(&[1, 2, 3]), door(&[2, 5, 6])]), tcp(&[1, 2], &[1]));
        assert_eq!(held(&[door(&[1, 2, 3]), door(&[4, 1])]), tcp(&[1], &[4]), "of a short door");
        assert_eq!(held(&[door(&[1, 2, 3]), door(&[4, 5, 1, 6, 1])]), tcp(&[1, 4], &[5, 6]));
        let doors = [door(&[1, 2, 3]), door(&[4, 5, 1, 6, 1]), door(&[7, 6, 4])];
        let HeldSteps { first, before, .. } = held_steps(&doors, None);
        let after = first.iter().map(|first| (first.step, first.after)).collect::<Vec<_>>();
        assert_eq!(before, [5, 6].map(Step::tcp));
        assert_eq!(after, [(1, 0b11), (4, 0b10), (7, 0)].map(|(n, after)| (Step::tcp(n), after)));
        assert_eq!(held(&[door(&[1, 1, 2])]), tcp(&[], &[]), "it follows itself");
        assert_eq!(held(&[door(&[1, 2, 3]), door(&[4, 1, 1])]), tcp(&[4], &[]));
    }

    #[test]
    fn steps_of_one_time_sequences_and_at_the_knock_port_are_not_held() {
        let one_time = Door {
            one_time_sequences: Some("/f".into()),
            later_steps: [7, 8].map(Step::tcp).into(),
            ..door(&[4, 5, 6])
        };
        assert_eq!(held(&[one_time.clone(), door(&[1, 2, 3])]), tcp(&[1], &[]));
        assert_eq!(held(&[one_time.clone(), door(&[5, 2, 3])]), tcp(&[], &[]));
        assert_eq!(held(&[door(&[8, 2, 3]), one_time]), tcp(&[], &[]), "of a later sequence");
        let knock = Door { sequence: [9, 2, 3].map(Step::udp).into(), ..Door::default() };
        assert_eq!(held(std::slice::from_ref(&knock)), tcp(&[], &[]));
        assert_eq!(held_steps(&[knock], None).first.len(), 1);
    }

    #[test]
    fn doors_with_one_first_step_must_want_the_same_flags() {
        let syn = Door { flags: TcpFlags { set: 2, unset: 16 }, ..door(&[1, 2, 3]) };
        let fin = Door { flags: TcpFlags { set: 1, unset: 0 }, ..door(&[1, 4, 5]) };
        assert_eq!(held(&[syn.clone(), fin]), tcp(&[], &[]));
        assert_eq!(
            held_steps(std::slice::from_ref(&syn), None).first,
            [FirstStep { step: Step::tcp(1), flags: syn.flags, after: 0 }]
        );
    }

    #[test]
    fn no_more_are_held_than_the_filter_compares() {
        let doors: Vec<Door> = (0..1000).map(|n| door(&[3 * n, 3 * n + 1, 3 * n + 2])).collect();
        assert_eq!(held(&doors)[0].len(), HELD);
        // The first step of the first door comes after one more step in each of the others.
        let before = |count: u16| {
            let others = (0..count).map(|n| door(&[2000, 1000 + n, 1]));
            [door(&[1, 2, 3])].into_iter().chain(others).collect::<Vec<_>>()
        };
        let [first, steps] = held(&before(64));
        assert_eq!((first, steps.len()), ([1, 2000].map(Step::tcp).to_vec(), HELD));
        assert_eq!(held(&before(65)), tcp(&[2000], &[]), "too many steps before it");
    }

    #[test]
    fn a_first_step_is_expected_as_long_as_the_slowest_sequence_takes() {
        let slow = |seq_timeout| Door { seq_timeout, ..door(&[1, 2, 3]) };
        let seconds = |doors: &[Door]| held_steps(doors, None).seconds;
        assert_eq!(seconds(&[slow(5), slow(9), slow(7)]), 10, "times are whole seconds");
        assert_eq!([seconds(&[slow(-3)]), seconds(&[slow(i64::MAX)])], [1, u32::MAX]);
    }
}
