//! Which ports, flags and sizes a program lets through, exactly or coarsely.
//! Turning that into instructions is left to `bpf`.

use std::collections::BTreeMap;

use super::{Port, Proto, Step, TcpFlags};

/// Closed intervals, ascending, none touching the next.
pub(super) type Intervals = Vec<(u32, u32)>;

/// How many intervals each part keeps when a program would be too long: about three instructions
/// each.
const COARSE: usize = 256;

/// What is let through besides sealed knocks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct FilterPlan {
    pub(super) udp: Intervals,
    pub(super) tcp: Vec<(TcpFlags, Intervals)>,
    /// Lengths of ICMP messages, their header of eight bytes included.
    pub(super) echo: Intervals,
}

impl FilterPlan {
    /// Just what the doors list.
    pub(super) fn exact(steps: &[(Step, TcpFlags)]) -> Self {
        let (mut udp, mut echo, mut tcp) = (Vec::new(), Vec::new(), BTreeMap::<_, Vec<_>>::new());
        for (step, flags) in steps {
            match step {
                Step::Port(Port { proto: Proto::Udp, number }) => udp.push(u32::from(*number)),
                Step::Port(Port { proto: Proto::Tcp, number }) => {
                    tcp.entry((flags.set, flags.unset)).or_default().push(u32::from(*number));
                }
                Step::Echo { size } => echo.push(u32::from(*size) + 8),
            }
        }
        let tcp = tcp
            .into_iter()
            .map(|((set, unset), ports)| (TcpFlags { set, unset }, intervals(ports)));
        Self { udp: intervals(udp), tcp: tcp.collect(), echo: intervals(echo) }
    }

    /// The same and more, in a program of bounded length: one group of flags that all TCP doors
    /// have in common, and the narrowest gaps between ports closed.
    pub(super) fn coarsen(&mut self) {
        let common =
            |a: TcpFlags, b: TcpFlags| TcpFlags { set: a.set & b.set, unset: a.unset & b.unset };
        let flags = self.tcp.iter().map(|(flags, _)| *flags).reduce(common).unwrap_or_default();
        let mut ports = self.tcp.drain(..).flat_map(|(_, ports)| ports).collect();
        join(&mut ports, 0);
        self.tcp.push((flags, ports));
        for part in [&mut self.udp, &mut self.echo]
            .into_iter()
            .chain(self.tcp.iter_mut().map(|(_, ports)| ports))
        {
            close_narrowest_gaps(part, COARSE);
        }
    }
}

fn intervals(values: Vec<u32>) -> Intervals {
    let mut single = values.into_iter().map(|value| (value, value)).collect();
    join(&mut single, 0);
    single
}

/// Sorts, and joins what lies no more than `gap` numbers apart.
fn join(intervals: &mut Intervals, gap: u32) {
    intervals.sort_unstable();
    let mut joined = Intervals::new();
    for (low, high) in intervals.drain(..) {
        match joined.last_mut() {
            Some((_, last)) if low <= last.saturating_add(gap).saturating_add(1) => {
                *last = high.max(*last)
            }
            _ => joined.push((low, high)),
        }
    }
    *intervals = joined;
}

fn close_narrowest_gaps(intervals: &mut Intervals, most: usize) {
    let Some(excess) = intervals.len().checked_sub(most).filter(|excess| *excess > 0) else {
        return;
    };
    let mut gaps: Vec<u32> = intervals
        .iter()
        .zip(intervals.iter().skip(1))
        .map(|((_, end), (start, _))| start.saturating_sub(*end).saturating_sub(1))
        .collect();
    gaps.sort_unstable();
    let widest_to_close = excess.checked_sub(1).and_then(|at| gaps.get(at)).copied().unwrap_or(0);
    join(intervals, widest_to_close);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_become_sorted_intervals_that_do_not_touch() {
        assert_eq!(intervals(vec![9, 7, 8, 3, 8, 1]), [(1, 1), (3, 3), (7, 9)]);
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
