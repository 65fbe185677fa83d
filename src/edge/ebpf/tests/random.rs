//! Packets by chance, most of which nearly are knocks.

use super::*;

/// A fixed random generator (xorshift), so that every run sees the same packets.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % sides
    }

    pub(super) fn is_one_in(&mut self, sides: usize) -> bool {
        self.roll(sides) == 0
    }

    pub(super) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.roll(of.len())]
    }

    fn packet(&mut self, knocks: &[Vec<u8>]) -> Packet {
        let mut payload = Vec::new();
        for _ in 0..self.pick(&[1, 1, 1, 1, 2, 3, 7]) {
            let known = self.pick(&[true, false, false]);
            let mut datagram =
                if known { knocks[self.roll(knocks.len())].clone() } else { junk(0) };
            if !known || self.is_one_in(3) {
                for _ in 0..self.pick(&[1, 40]) {
                    let at = self.roll(DATAGRAM);
                    datagram[at] ^= 1 << self.roll(8);
                }
            }
            payload.extend(datagram);
        }
        if self.is_one_in(8) {
            payload.resize(self.pick(&[0, 9, 200, DATAGRAM - 1, DATAGRAM + 1]), 3);
        }
        let mut bytes = if self.is_one_in(2) { v6(&payload) } else { v4(&payload) };
        if self.is_one_in(3) {
            // In the headers.
            for _ in 0..self.pick(&[1, 1, 2]) {
                let at = self.roll(48.min(bytes.len()));
                bytes[at] = self.pick(&[0, 1, 6, 17, 0x40, 0x45, 0x46, 0x60, 0xf2, 0xf9, 0xff]);
            }
        }
        if self.is_one_in(10) {
            let length = self.roll(bytes.len()) + 1;
            bytes.truncate(length);
        }
        let mut packet = Packet::to_us(bytes);
        if self.is_one_in(10) {
            packet.protocol = self.pick(&[0x0800, 0x86dd, 0x0806]);
        }
        packet
    }
}

#[test]
fn filter_and_engine_agree_about_packets_by_chance() {
    let knocks: Vec<Vec<u8>> = (0..20).map(knock).collect();
    let mut dice = Dice(0x2545_f491_4f6c_dd1d);
    for steps in [&[][..], &[Step::tcp(7000), Step::udp(9)], &[Step::udp(PORT)]] {
        let mut oracle = Oracle::new(steps);
        let mut counts = [0; 2];
        for _ in 0..4000 {
            let mut packet = dice.packet(&knocks);
            packet.kind = dice.pick(&[0, 0, 0, 0, 1, 4]);
            packet.vlan = dice.pick(&[None, None, None, Some(0x2000), Some(7)]);
            counts[usize::from(oracle.check(&packet) > 0)] += 1;
        }
        assert!(counts.iter().all(|count| *count > 300), "{counts:?}");
    }
}

#[test]
fn the_kernel_does_the_same_with_packets_by_chance() {
    let knocks: Vec<Vec<u8>> = (0..20).map(knock).collect();
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    for steps in [&[][..], &[Step::udp(PORT), Step::tcp(0x4500)]] {
        let oracle = Oracle::new(steps);
        let Some(kernel) = in_kernel(&oracle) else { return };
        for _ in 0..2000 {
            let packet = dice.packet(&knocks);
            // It refuses to run on less than an IP header.
            if packet.bytes.len() < 40 {
                continue;
            }
            assert_eq!(kernel.run(&packet), oracle.tagged(&packet), "{:02x?}", packet.bytes);
        }
        assert_eq!(kernel.map.tags.dropped(), oracle.tags.dropped());
    }
}

#[test]
fn the_kernel_does_the_same_at_an_interface_with_packets_by_chance() {
    let knocks: Vec<Vec<u8>> = (0..20).map(knock).collect();
    let mut dice = Dice(0x6a09_e667_f3bc_c909);
    let oracle = Oracle::new(&[]);
    let Some((_tags, map, program)) = at_interface(&oracle) else { return };
    for _ in 0..4000 {
        let mut packet = dice.packet(&knocks);
        packet.kind = dice.pick(&[0, 0, 0, 1, 2]);
        packet.vlan = dice.pick(&[None, None, None, Some(0x2000), Some(7)]);
        let run = sys::run_program(program.as_fd(), &packet.frame()).unwrap();
        let expected = if oracle.is_dropped_early(&packet) { 1 } else { 2 };
        assert_eq!(run, expected, "{:02x?}", packet.frame());
    }
    let dropped = map.addresses.dropped();
    assert!(dropped == oracle.own.dropped() && dropped > 300, "{dropped}");
}
