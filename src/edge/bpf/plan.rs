//! The ports, flags and sizes that a program accepts, exactly or coarsely.

use std::collections::BTreeMap;

use super::{Port, Proto, Step, TcpFlags};

/// Closed intervals, ascending, with gaps between them.
pub(super) type Intervals = Vec<(u32, u32)>;

/// Intervals that each part keeps if the program is too long: about three instructions each.
const COARSE: usize = 256;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FilterPlan {
    pub(super) udp: Intervals,
    pub(super) tcp: Vec<(TcpFlags, Intervals)>,
    /// Lengths of ICMP messages, including their header of eight bytes.
    pub(super) echo: Intervals,
}

impl FilterPlan {
    pub(super) fn exact(steps: &[(Step, TcpFlags)]) -> Self {
        let mut plan = Self::default();
        let mut tcp: BTreeMap<(u8, u8), Intervals> = BTreeMap::new();
        for (step, flags) in steps {
            let (part, value) = match step {
                Step::Port(Port { proto: Proto::Udp, number }) => (&mut plan.udp, (*number).into()),
                Step::Port(Port { proto: Proto::Tcp, number }) => {
                    (tcp.entry((flags.set, flags.unset)).or_default(), (*number).into())
                }
                Step::Echo { size } => (&mut plan.echo, u32::from(*size) + 8),
            };
            part.push((value, value));
        }
        for ((set, unset), ports) in tcp {
            plan.tcp.push((TcpFlags { set, unset }, ports));
        }
        for part in plan.parts() {
            join(part, 0);
        }
        plan
    }

    /// The same and more, in a program of bounded length: one group with the flags that all TCP
    /// doors have in common, and the narrowest gaps between ports closed.
    pub(super) fn coarsen(&mut self) {
        let mut common: Option<TcpFlags> = None;
        let mut ports = Intervals::new();
        for (TcpFlags { set, unset }, group) in self.tcp.drain(..) {
            common = Some(match common {
                Some(all) => TcpFlags { set: all.set & set, unset: all.unset & unset },
                None => TcpFlags { set, unset },
            });
            ports.extend(group);
        }
        join(&mut ports, 0);
        self.tcp.push((common.unwrap_or_default(), ports));
        for part in self.parts() {
            close_narrowest_gaps(part, COARSE);
        }
    }

    fn parts(&mut self) -> impl Iterator<Item = &mut Intervals> {
        let tcp = self.tcp.iter_mut().map(|(_, ports)| ports);
        [&mut self.udp, &mut self.echo].into_iter().chain(tcp)
    }
}

/// Sorts intervals, and joins those with at most `gap` numbers between them.
fn join(intervals: &mut Intervals, gap: u32) {
    intervals.sort_unstable();
    let mut joined = Intervals::new();
    for (low, high) in intervals.drain(..) {
        match joined.last_mut() {
            Some((_, last)) if low <= last.saturating_add(gap).saturating_add(1) => {
                *last = high.max(*last);
            }
            _ => joined.push((low, high)),
        }
    }
    *intervals = joined;
}

fn close_narrowest_gaps(intervals: &mut Intervals, most: usize) {
    if intervals.len() <= most {
        return;
    }
    let next = intervals.iter().skip(1);
    let mut gaps: Vec<u32> =
        intervals.iter().zip(next).map(|((_, end), (start, _))| start - end - 1).collect();
    gaps.sort_unstable();
    let widest_to_close = gaps[intervals.len() - most - 1];
    join(intervals, widest_to_close);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_become_sorted_intervals_that_do_not_touch() {
        let mut ports = [9, 7, 8, 3, 8, 1].map(|port| (port, port)).to_vec();
        join(&mut ports, 0);
        assert_eq!(ports, [(1, 1), (3, 3), (7, 9)]);
    }

    #[test]
    fn the_narrowest_gaps_are_closed_first_and_nothing_is_lost() {
        let mut some = vec![(1, 1), (3, 3), (100, 101), (104, 110), (500, 500)];
        close_narrowest_gaps(&mut some, 3);
        assert_eq!(some, [(1, 3), (100, 110), (500, 500)]);
    }

    #[test]
    fn a_coarse_plan_asks_only_for_what_all_doors_have_in_common() {
        let syn = TcpFlags { set: 2, unset: 16 };
        let fin = TcpFlags { set: 1, unset: 16 };
        let mut plan =
            FilterPlan::exact(&[(Step::tcp(5), syn), (Step::tcp(5), fin), (Step::tcp(9), fin)]);
        plan.coarsen();
        assert_eq!(plan.tcp, [(TcpFlags { set: 0, unset: 16 }, vec![(5, 5), (9, 9)])]);
    }
}
